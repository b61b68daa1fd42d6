package processor

import (
	"strconv"
	"testing"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// timedTask is source → KeyBy → Process with event timers; with timers false the operator takes no interest in time. Event times
// move the watermark at every record. It returns the task that reads.
func timedTask(t testing.TB, parallelism int, timers bool) *task {
	c := codec.New("event8",
		func(dst []byte, e event8) ([]byte, error) { return append(dst, byte(e.key)), nil },
		func(b []byte) (event8, error) {
			return event8{key: (uint16(b[0]) | uint16(b[1])<<8) % uint16(len(hotKeys)), cents: int64(b[2])}, nil
		})
	b := NewBuilder("timed")
	var now int64
	in := From(b, "in", SourceSpec[event8]{Filters: []tenants.Filter{"in.>"}, Codec: c, EventTime: EventTime(func(event8) time.Time {
		now += int64(time.Millisecond)
		return time.Unix(0, now)
	}, BoundedOutOfOrderness(time.Second), MaxAhead(100*24*365*time.Hour))})
	opts := []ProcessOption{Uses(hotTotal)}
	if timers {
		opts = append(opts, OnEventTimer(func(*Context[event8], time.Time) error { return nil }))
	}
	Process(KeyBy(in, func(e event8) string { return hotKeys[e.key] }), "sum", func(pc *Context[event8], e event8) error {
		n, err := hotTotal.Get(pc)
		if err != nil {
			return err
		}
		pc.Emit(e)
		return hotTotal.Set(pc, n+e.cents)
	}, opts...)
	topo := mustBuild(t, b)
	p, err := newPlan(topo, planConfig{
		Job: testJob, Prefix: "acme.", Parallelism: parallelism, KeyGroups: 128, Epoch: 1, Nonce: testNonce,
		Bindings: bedBindings(topo.Needs(testJob, tenants.DefaultNamespace)),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range p.tasks {
		task.bind(&handOver{tasks: p.tasks})
		task.start(map[string]barriers.Source{})
	}
	return p.tasks[0]
}

// A watermark that moves at every record costs no allocation either, in a task or over an exchange.
func TestEventTimeAllocatesNothing(t *testing.T) {
	for parallelism, limit := range map[int]float64{1: 3, 2: hotBatch / 10} { // a garbage collection may empty the pool of frames
		task, records, seq := timedTask(t, parallelism, true), hotInput(), uint64(0)
		run := func() {
			if err := task.step(hotRecords(records, &seq)); err != nil {
				t.Fatal(err)
			}
		}
		for range 10 {
			run()
		}
		if allocs := testing.AllocsPerRun(100, run); allocs > limit {
			t.Errorf("parallelism %d: %v allocations per %d records", parallelism, allocs, hotBatch)
		}
		if task.inputs[0].time.watermark == noWatermark {
			t.Error("the watermark has not moved")
		}
	}
}

func BenchmarkEventTime(b *testing.B) {
	for _, c := range []struct {
		name        string
		parallelism int
		timers      bool
	}{{"task", 1, false}, {"task-and-timers", 1, true}, {"exchange", 2, false}, {"exchange-and-timers", 2, true}} {
		b.Run(c.name, func(b *testing.B) {
			task, records, seq := timedTask(b, c.parallelism, c.timers), hotInput(), uint64(0)
			b.ReportAllocs()
			for b.Loop() {
				if err := task.step(hotRecords(records, &seq)); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/hotBatch, "ns/record")
		})
	}
}

// BenchmarkEventTimers sets one timer for every record; it fires 1000 records later.
func BenchmarkEventTimers(b *testing.B) {
	topo := NewBuilder("timers")
	in := stampedSource(topo, "in", EventTime(stampedTime, MaxAhead(100*24*365*time.Hour)))
	Process(KeyBy(in, byStamped), "op", func(pc *Context[string], v stamped) error {
		return pc.SetEventTimer(v.At.Add(time.Second))
	}, OnEventTimer(func(*Context[string], time.Time) error { return nil }))
	task, _ := single(b, topo, roomy)
	records, now := make([]Record, hotBatch), int64(0)
	seq := uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		for i := range records {
			now += int64(time.Millisecond)
			records[i] = Record{Subject: "acme.in", Data: append(append(records[i].Data[:0], hotKeys[i]...), ' ')}
			records[i].Data = strconv.AppendInt(records[i].Data, now, 10)
		}
		if err := task.step(hotRecords(records, &seq)); err != nil {
			b.Fatal(err)
		}
		if seq%(100*hotBatch) == 0 {
			for _, ev := range []event{evTrigger{checkpoint: seq, nonce: testNonce, inject: true}, evCommitted{seq}} {
				if err := task.step(ev); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/hotBatch, "ns/record")
}
