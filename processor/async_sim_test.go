package processor_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/processor/processortest"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

type simCounts struct{}

func (simCounts) Init() int64                     { return 0 }
func (simCounts) Add(n int64, _ simReading) int64 { return n + 1 }
func (simCounts) Merge(a, b int64) int64          { return a + b }
func (simCounts) Result(p processor.Pane, n int64) string {
	return fmt.Sprintf("%s %d %d", p.Key, p.Start.Sub(simEpoch).Milliseconds(), n)
}

// simAsyncTopology answers every reading, and counts the answers of each key in tumbling windows. Every fifth call fails the first
// time that it is made, and those of the key "bad" always.
func simAsyncTopology(spec processor.AsyncSpec[simReading], calls *int) (*processor.Topology, error) {
	b := processor.NewBuilder("simasync")
	at := func(r simReading) time.Time { return simEpoch.Add(time.Duration(r.At) * time.Millisecond) }
	source := func(name string) processor.Stream[simReading] {
		return processor.From(b, name, processor.SourceSpec[simReading]{
			Filters: []tenants.Filter{tenants.Filter(name)}, Codec: codec.JSON[simReading](),
			EventTime: processor.EventTime(at, processor.BoundedOutOfOrderness(3*time.Millisecond)),
		})
	}
	key := func(r simReading) string { return r.Key }
	failed := map[int64]bool{}
	answers := processor.Async(processor.KeyBy(processor.Union("both", source("left"), source("right")), key), "ask", spec,
		func(_ context.Context, r simReading) (simReading, error) {
			*calls++
			if r.Key == "bad" {
				return r, processor.Poison(errors.New("bad"))
			}
			if r.At%5 == 0 && !failed[r.At] {
				failed[r.At] = true
				return r, errors.New("try again")
			}
			return r, nil
		})
	processor.To(answers, "out-answers", processor.SinkSpec[simReading]{FixedSubject: "answers", Codec: codec.JSON[simReading]()})
	counts := processor.Aggregate(processor.Window(processor.KeyBy(answers, key), processor.Tumbling(20*time.Millisecond)), "counts", simCounts{})
	processor.To(counts, "out-counts", processor.SinkSpec[string]{FixedSubject: "counts", Codec: codec.String()})
	return b.Build()
}

// simAsyncVerdict runs one seed, with crashes, rescaling, stops and savepoints, and calls that take their time, are made twice, or not
// heard of again: every reading is answered exactly once, in the order of its key and source, and counted in its window.
func simAsyncVerdict(t *testing.T, seed uint64) (string, processor.SimulationResult, int) {
	t.Helper()
	spec := processor.AsyncSpec[simReading]{
		Unordered: seed%3 == 0, Concurrency: []int{2, 8, 64}[seed/2%3], Timeout: 80 * time.Millisecond,
		Retry: processor.Retry{Attempts: 1000, Backoff: 10 * time.Millisecond},
	}
	calls := 0
	topology, err := simAsyncTopology(spec, &calls)
	if err != nil {
		t.Fatal(err)
	}
	clock := processor.NewSimulationClock()
	broker := processortest.NewMemory(tenants.DefaultNamespace, clock.Now)
	broker.AddStream("acme", "acme.>")
	cfg := processor.SimulationConfig{
		Seed: seed, Broker: broker, Clock: clock, Topology: topology, Tenant: "acme", Faults: []int{12, 5, 30}[seed%3], Vary: seed%2 == 0, Controls: int(seed % 5),
		Job: processor.JobConfig{
			Parallelism: 1 + int(seed%4), KeyGroups: 8, MergeAfter: 2,
			Checkpoint: processor.CheckpointConfig{Interval: 15 * time.Millisecond, Timeout: 2 * time.Second},
		},
	}
	n := []int64{20, 60, 150}[seed/3%3]
	want, counts, bad := map[string][]int64{}, map[string]int{}, 0
	for i := range n {
		key, source := fmt.Sprintf("k%d", i%5), []string{"left", "right"}[i%2]
		if i%17 == 3 {
			key, bad = "bad", bad+1
		} else {
			want[key+source] = append(want[key+source], i)
			counts[fmt.Sprintf("%s %d", key, i/20*20)]++
		}
		cfg.Inputs = append(cfg.Inputs, func() error {
			_, err := broker.PublishTo("acme."+source, nil, fmt.Appendf(nil, `{"Key":%q,"At":%d}`, key, i))
			return err
		})
	}
	for _, source := range []string{"left", "right"} { // their own windows are not closed
		cfg.Inputs = append(cfg.Inputs, func() error {
			_, err := broker.PublishTo("acme."+source, nil, fmt.Appendf(nil, `{"Key":"end %s","At":1000}`, source))
			return err
		})
		want["end "+source+"left"] = []int64{1000}
	}
	result, err := processor.Simulate(cfg)
	if err != nil {
		return err.Error(), result, calls
	}
	got := map[string][]int64{}
	for _, m := range broker.Messages("acme", "acme.answers") {
		r, err := codec.JSON[simReading]().Decode(m.Data)
		if err != nil {
			t.Fatal(err)
		}
		id := r.Key + []string{"left", "right"}[r.At%2]
		got[id] = append(got[id], r.At)
	}
	if spec.Unordered {
		for _, answers := range got {
			slices.Sort(answers)
		}
	}
	if !maps.EqualFunc(got, want, slices.Equal) {
		return fmt.Sprintf("answers\n%v, want\n%v", got, want), result, calls
	}
	if n := len(broker.Messages("WEIR_DLQ", "weir.dlq.acme.simasync")); n != bad {
		return fmt.Sprintf("%d dead letters, want %d", n, bad), result, calls
	}
	if cfg.Controls > 0 {
		return "", result, calls // a drain closes windows early
	}
	counted := map[string]int{}
	for _, m := range broker.Messages("acme", "acme.counts") {
		at := strings.LastIndexByte(string(m.Data), ' ')
		var count int
		if _, err := fmt.Sscan(string(m.Data[at:]), &count); err != nil || counted[string(m.Data[:at])] > 0 {
			return fmt.Sprintf("the window %q came twice (%v)", m.Data, err), result, calls
		}
		counted[string(m.Data[:at])] = count
	}
	if !maps.Equal(counted, counts) {
		return fmt.Sprintf("windows\n%v, want\n%v", counted, counts), result, calls
	}
	return "", result, calls
}

func TestSimulationOfAsync(t *testing.T) {
	first, n := uint64(1), uint64(*simSeeds)
	if *simSeed != 0 {
		first, n = *simSeed, 1
	}
	t.Logf("seeds %d to %d", first, first+n-1)
	crashes, calls := 0, 0
	for seed := first; seed < first+n; seed++ {
		verdict, r, c := simAsyncVerdict(t, seed)
		if verdict != "" {
			t.Fatalf("seed %d (replay: go test ./processor -run TestSimulationOfAsync -sim.seed %d): %s\n%+v", seed, seed, verdict, r)
		}
		crashes, calls = crashes+r.Crashes, calls+c
	}
	t.Logf("%d crashes, %d calls", crashes, calls)
	if *simSeed == 0 && crashes == 0 {
		t.Error("nothing crashed")
	}
}
