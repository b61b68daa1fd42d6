package processor

import (
	"fmt"
	"iter"
	"testing"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

type sumEvents struct{}

func (sumEvents) Init() int64                   { return 0 }
func (sumEvents) Add(a int64, e event8) int64   { return a + e.cents }
func (sumEvents) Merge(a, b int64) int64        { return a + b }
func (sumEvents) Result(_ Pane, a int64) event8 { return event8{cents: a} }
func (sumEvents) key(e event8) string           { return hotKeys[e.key] }
func (sumEvents) more(e event8) event8          { e.cents++; return e }
func (sumEvents) decode(b []byte) (event8, error) {
	return event8{key: (uint16(b[0]) | uint16(b[1])<<8) % uint16(len(hotKeys)), cents: int64(b[2])}, nil
}

// windowTask is source → Map → what build adds, with event time.
func windowTask(t testing.TB, build func(s Stream[event8]) Stream[event8]) *task {
	c := codec.New("event8", func(dst []byte, e event8) ([]byte, error) {
		return append(dst, byte(e.key), byte(e.key>>8), byte(e.cents)), nil
	}, sumEvents{}.decode)
	b := NewBuilder("hot")
	in := From(b, "in", SourceSpec[event8]{Filters: []tenants.Filter{"in.>"}, Codec: c})
	To(build(Map(in, "more", sumEvents{}.more)), "out", SinkSpec[event8]{Codec: c, Subject: sumEvents{}.key})
	topo := mustBuild(t, b)
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

// timedRecords renumbers a batch and lets it take a millisecond of event time.
func timedRecords(records []Record, seq *uint64) evBatch {
	for i := range records {
		*seq++
		records[i].Seq, records[i].Time = *seq, int64(*seq)*int64(time.Microsecond)
	}
	return evBatch{batch: Batch{Records: records, Position: *seq}}
}

func stepAll(t testing.TB, task *task, ev event) {
	if err := task.step(ev); err != nil {
		t.Fatal(err)
	}
	for task.unfinished() {
		if err := task.step(evContinue{}); err != nil {
			t.Fatal(err)
		}
	}
}

// An element that goes into a pane that is there allocates nothing.
func TestWindowsAllocateNothingPerElement(t *testing.T) {
	for name, assigner := range map[string]Assigner{
		"tumbling": Tumbling(time.Hour), "sliding": Sliding(time.Hour, time.Minute), "session": Session(time.Hour), "count": CountTumbling(1 << 20),
	} {
		task := windowTask(t, func(s Stream[event8]) Stream[event8] {
			return Aggregate(Window(KeyBy(s, sumEvents{}.key), assigner), "sum", sumEvents{})
		})
		records, seq := hotInput(), uint64(0)
		run := func() { stepAll(t, task, timedRecords(records, &seq)) }
		run()
		if allocs := testing.AllocsPerRun(100, run); allocs > 3 {
			t.Errorf("%s: %v allocations per %d elements", name, allocs, hotBatch)
		}
	}
}

// What windows cost beside a plain Map, with 1000 keys, a checkpoint every 200,000 elements, and per key and slide as many
// elements as the name says.
func BenchmarkWindows(b *testing.B) {
	builds := map[string]func(s Stream[event8], slide time.Duration) Stream[event8]{
		"pass": func(s Stream[event8], _ time.Duration) Stream[event8] {
			return Filter(s, "none", func(event8) bool { return false })
		},
		"tumbling": func(s Stream[event8], slide time.Duration) Stream[event8] { return aggregated(s, Tumbling(60*slide)) },
		"sliding": func(s Stream[event8], slide time.Duration) Stream[event8] {
			return aggregated(s, Sliding(60*slide, slide))
		},
		// As many results as sliding.
		"tumbling-slide": func(s Stream[event8], slide time.Duration) Stream[event8] { return aggregated(s, Tumbling(slide)) },
		"session":        func(s Stream[event8], slide time.Duration) Stream[event8] { return aggregated(s, Session(slide)) },
		"late": func(s Stream[event8], slide time.Duration) Stream[event8] {
			return aggregated(s, Tumbling(60*slide), AllowedLateness(slide))
		},
		"elements": func(s Stream[event8], slide time.Duration) Stream[event8] { return gathered(s, Tumbling(60*slide)) },
	}
	for _, per := range []int{1, 10, 50} {
		for _, name := range []string{"pass", "tumbling", "sliding", "tumbling-slide", "session", "late", "elements"} {
			b.Run(fmt.Sprintf("%s-%d", name, per), func(b *testing.B) {
				task := windowTask(b, func(s Stream[event8]) Stream[event8] { return builds[name](s, time.Duration(per)*time.Millisecond) })
				records, seq, checkpoint := hotInput(), uint64(0), uint64(0)
				b.ReportAllocs()
				for b.Loop() {
					stepAll(b, task, timedRecords(records, &seq))
					if seq%(200*hotBatch) == 0 {
						checkpoint++
						stepAll(b, task, evTrigger{checkpoint: checkpoint, nonce: testNonce, inject: true})
						stepAll(b, task, evCommitted{checkpoint})
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/hotBatch, "ns/element")
			})
		}
	}
}

func aggregated(s Stream[event8], a Assigner, opts ...WindowOption) Stream[event8] {
	return Aggregate(Window(KeyBy(s, sumEvents{}.key), a, opts...), "sum", sumEvents{})
}

func gathered(s Stream[event8], a Assigner) Stream[event8] {
	return ProcessWindow(Window(KeyBy(s, sumEvents{}.key), a), "sum", sumElements)
}

func sumElements(pc *Context[event8], _ Pane, elements iter.Seq[event8]) error {
	var sum event8
	for e := range elements {
		sum.cents += e.cents
	}
	pc.Emit(sum)
	return nil
}
