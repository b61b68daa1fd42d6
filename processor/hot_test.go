package processor

import (
	"context"
	"testing"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// event8 is an element whose codec needs no memory.
type event8 struct {
	key   uint16
	cents int64
}

var hotKeys = func() (keys [1 << 10]string) {
	for i := range keys {
		keys[i] = "customer-" + string(rune('a'+i%26)) + string(rune('a'+i/26%26)) + string(rune('a'+i/676))
	}
	return keys
}()

var hotTotal = state.NewValue[int64]("total")

// hotTopology is source → Map → KeyBy → Process(Value) → sink.
func hotTopology(t testing.TB, sink bool) *Topology {
	c := codec.New("event8",
		func(dst []byte, e event8) ([]byte, error) {
			return append(dst, byte(e.key), byte(e.key>>8), byte(e.cents)), nil
		},
		func(b []byte) (event8, error) {
			return event8{key: (uint16(b[0]) | uint16(b[1])<<8) % uint16(len(hotKeys)), cents: int64(b[2])}, nil
		})
	b := NewBuilder("hot")
	in := From(b, "in", SourceSpec[event8]{Filters: []tenants.Filter{"in.>"}, Codec: c})
	more := Map(in, "more", func(e event8) event8 { e.cents++; return e })
	sums := Process(KeyBy(more, func(e event8) string { return hotKeys[e.key] }), "sum", func(pc *Context[event8], e event8) error {
		n, err := hotTotal.Get(pc)
		if err != nil {
			return err
		}
		pc.Emit(e)
		return hotTotal.Set(pc, n+e.cents)
	}, Uses(hotTotal))
	if sink {
		To(sums, "out", SinkSpec[event8]{Codec: c, Subject: func(e event8) string { return hotKeys[e.key] }})
	}
	topo, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return topo
}

type idleHost struct{}

func (idleHost) send(int, int, *frame) error { return nil }
func (idleHost) call(time.Duration, func() Where, func(context.Context) event) time.Time {
	return time.Time{}
}
func (idleHost) over() bool                                                  { return false }
func (idleHost) consumed(int)                                                {}
func (idleHost) snapshot(*taskSnapshot)                                      {}
func (idleHost) wake(time.Time)                                              {}
func (idleHost) dirty(int)                                                   {}
func (idleHost) notify(ctlEvent)                                             {}
func (idleHost) now() time.Time                                              { return time.Time{} }
func (idleHost) publish(context.Context, string, Message, func(error)) error { return nil }

func hotTask(t testing.TB, sink bool) *task {
	topo := hotTopology(t, sink)
	p, err := newPlan(topo, planConfig{
		Job: testJob, Prefix: "acme.", Parallelism: 1, KeyGroups: 128, Epoch: 1, Nonce: testNonce,
		Bindings: bedBindings(topo.Needs(testJob, tenants.DefaultNamespace)), MaxKeyBytes: 1024, MaxStateBytes: 1 << 30, MaxPendingBytes: 1 << 40,
	})
	if err != nil {
		t.Fatal(err)
	}
	p.tasks[0].bind(idleHost{})
	p.tasks[0].start(map[string]barriers.Source{})
	return p.tasks[0]
}

const hotBatch = 1000

// hotRecords renumbers a batch so that it can be handed in again.
func hotRecords(records []Record, seq *uint64) evBatch {
	for i := range records {
		*seq++
		records[i].Seq = *seq
	}
	return evBatch{batch: Batch{Records: records, Position: *seq}}
}

func hotInput() []Record {
	records := make([]Record, hotBatch)
	for i := range records {
		records[i] = Record{Subject: "acme.in." + hotKeys[i], Data: []byte{byte(i), byte(i >> 8), 1}}
	}
	return records
}

// The engine allocates nothing per record. What a batch of 1000 may allocate: its event, and chunks of staged output.
func TestHotPathAllocatesNothing(t *testing.T) {
	for _, sink := range []bool{false, true} {
		task, records, seq := hotTask(t, sink), hotInput(), uint64(0)
		run := func() {
			if err := task.step(hotRecords(records, &seq)); err != nil {
				t.Fatal(err)
			}
		}
		run()
		if allocs := testing.AllocsPerRun(100, run); allocs > 3 {
			t.Errorf("with sink %t: %v allocations per %d records", sink, allocs, hotBatch)
		}
		if got := task.metrics(); got.RecordsIn != 102*hotBatch || got.DeadLetters != 0 {
			t.Errorf("metrics %+v", got)
		}
	}
}

// handOver is a host that runs the receiving task at once.
type handOver struct {
	idleHost
	tasks []*task
}

func (h *handOver) send(to, input int, f *frame) error {
	return h.tasks[to].step(evFrame{input: input, frame: f})
}

// exchanged is the job of hotTopology on two keyed subtasks; it returns the task that reads.
func exchanged(t testing.TB) *task {
	topo := hotTopology(t, false)
	p, err := newPlan(topo, planConfig{
		Job: testJob, Prefix: "acme.", Parallelism: 2, KeyGroups: 128, Epoch: 1, Nonce: testNonce,
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

// Frames go back and forth between sender and receiver. A garbage collection may empty their pool, hence the slack.
func TestExchangeAllocatesNothingPerRecord(t *testing.T) {
	task, records, seq := exchanged(t), hotInput(), uint64(0)
	run := func() {
		if err := task.step(hotRecords(records, &seq)); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		run()
	}
	if allocs := testing.AllocsPerRun(100, run); allocs > hotBatch/10 {
		t.Errorf("%v allocations per %d records", allocs, hotBatch)
	}
}

func BenchmarkExchange(b *testing.B) {
	task, records, seq := exchanged(b), hotInput(), uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		if err := task.step(hotRecords(records, &seq)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/hotBatch, "ns/record")
}

func BenchmarkHotPath(b *testing.B) {
	for _, c := range []struct {
		name string
		sink bool
	}{{"state", false}, {"state-and-sink", true}} {
		b.Run(c.name, func(b *testing.B) {
			task, records, seq := hotTask(b, c.sink), hotInput(), uint64(0)
			checkpoint := uint64(0)
			b.ReportAllocs()
			for b.Loop() {
				if err := task.step(hotRecords(records, &seq)); err != nil {
					b.Fatal(err)
				}
				if seq%(1000*hotBatch) == 0 { // a checkpoint every million records
					checkpoint++
					for _, ev := range []event{evTrigger{checkpoint: checkpoint, nonce: testNonce, inject: true}, evCommitted{checkpoint}} {
						if err := task.step(ev); err != nil {
							b.Fatal(err)
						}
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/hotBatch, "ns/record")
		})
	}
}
