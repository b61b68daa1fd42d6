package processor_test

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/processor/processortest"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

type simReading struct {
	Key string
	At  int64 // milliseconds after simEpoch
}

var simEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

var simFired = state.NewValue[int64]("fired")

// simTimeTopology sets an event timer for every reading, ten milliseconds later, and numbers what fires per key. The third source
// is idle whenever nothing comes for a moment.
func simTimeTopology() (*processor.Topology, error) {
	b := processor.NewBuilder("simtime")
	at := func(r simReading) time.Time { return simEpoch.Add(time.Duration(r.At) * time.Millisecond) }
	source := func(name string, opts ...processor.TimeOption) processor.Stream[simReading] {
		return processor.From(b, name, processor.SourceSpec[simReading]{
			Filters: []tenants.Filter{tenants.Filter(name)}, Codec: codec.JSON[simReading](), EventTime: processor.EventTime(at, opts...),
		})
	}
	all := processor.Union("all", source("left"), source("right", processor.BoundedOutOfOrderness(3*time.Millisecond)),
		source("quiet", processor.IdleAfter(30*time.Millisecond)))
	fired := processor.Process(processor.KeyBy(all, func(r simReading) string { return r.Key }), "timers", func(pc *processor.Context[string], r simReading) error {
		return pc.SetEventTimer(pc.Timestamp().Add(10 * time.Millisecond))
	}, processor.Uses(simFired), processor.OnEventTimer(func(pc *processor.Context[string], at time.Time) error {
		n, err := simFired.Get(pc)
		if err != nil {
			return err
		}
		pc.Emit(fmt.Sprintf("%s %d %d", pc.Key(), at.Sub(simEpoch).Milliseconds(), n+1))
		return simFired.Set(pc, n+1)
	}))
	processor.To(fired, "fired", processor.SinkSpec[string]{FixedSubject: "fired", Codec: codec.String()})
	return b.Build()
}

// simTimeVerdict runs one seed: every timer that is due at the end must have fired exactly once in what was published.
func simTimeVerdict(t *testing.T, seed uint64) (string, processor.SimulationResult) {
	t.Helper()
	topology, err := simTimeTopology()
	if err != nil {
		t.Fatal(err)
	}
	clock := processor.NewSimulationClock()
	broker := processortest.NewMemory(tenants.DefaultNamespace, clock.Now)
	broker.AddStream("acme", "acme.>")
	cfg := processor.SimulationConfig{
		Seed: seed, Broker: broker, Clock: clock, Topology: topology, Tenant: "acme", Faults: []int{12, 5, 30}[seed%3], Vary: seed%2 == 0,
		Job: processor.JobConfig{
			Parallelism: 1 + int(seed%3), KeyGroups: 8, MergeAfter: 2,
			Checkpoint: processor.CheckpointConfig{Interval: 15 * time.Millisecond, Timeout: 400 * time.Millisecond},
		},
	}
	want := map[string]int{}
	n := []int64{40, 120, 300}[seed/3%3]
	publish := func(source, key string, at int64) {
		cfg.Inputs = append(cfg.Inputs, func() error {
			_, err := broker.PublishTo("acme."+source, nil, []byte(fmt.Sprintf(`{"Key":%q,"At":%d}`, key, at)))
			return err
		})
	}
	for i := range n {
		key := fmt.Sprintf("k%d", i%5)
		publish([]string{"left", "right", "quiet"}[i%3], key, i)
		want[key]++
	}
	for _, source := range []string{"left", "right", "quiet"} {
		publish(source, "end", n+100) // its own timer is not due
	}
	result, err := processor.Simulate(cfg)
	if err != nil {
		return err.Error(), result
	}
	fired := map[string]bool{}
	got := map[string]int{}
	for _, m := range broker.Messages("acme", "acme.fired") {
		var key string
		var at int64
		var number int
		if _, err := fmt.Sscan(string(m.Data), &key, &at, &number); err != nil {
			t.Fatal(err)
		}
		id := key + " " + strconv.FormatInt(at, 10)
		got[key]++
		if fired[id] || number != got[key] {
			return fmt.Sprintf("%q is number %d of its key, fired before: %t", m.Data, got[key], fired[id]), result
		}
		fired[id] = true
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		return fmt.Sprintf("fired %v, want %v", got, want), result
	}
	return "", result
}

func TestSimulationOfEventTime(t *testing.T) {
	first, n := uint64(1), uint64(*simSeeds)
	if *simSeed != 0 {
		first, n = *simSeed, 1
	}
	t.Logf("seeds %d to %d", first, first+n-1)
	crashes := 0
	for seed := first; seed < first+n; seed++ {
		verdict, r := simTimeVerdict(t, seed)
		if verdict != "" {
			t.Fatalf("seed %d (replay: go test ./processor -run TestSimulationOfEventTime -sim.seed %d): %s\n%+v", seed, seed, verdict, r)
		}
		crashes += r.Crashes
	}
	if *simSeed == 0 && crashes == 0 {
		t.Error("nothing crashed")
	}
}

// With one source the watermark that each element meets is determined by the elements before it, whatever crashes in between: it
// and the operator's own are in the manifest. Out of order as they are, some elements are late, and stay so.
func simWatermarkVerdict(t *testing.T, seed uint64) string {
	t.Helper()
	b := processor.NewBuilder("simwatermark")
	readings := processor.From(b, "readings", processor.SourceSpec[simReading]{
		Filters: []tenants.Filter{"readings"}, Codec: codec.JSON[simReading](),
		EventTime: processor.EventTime(func(r simReading) time.Time { return simEpoch.Add(time.Duration(r.At) * time.Millisecond) },
			processor.BoundedOutOfOrderness(2*time.Millisecond)),
	})
	met := processor.Process(processor.KeyBy(readings, func(r simReading) string { return r.Key }), "meet", func(pc *processor.Context[string], r simReading) error {
		wm := "none"
		if w := pc.Watermark(); !w.IsZero() {
			wm = w.Sub(simEpoch).String()
		}
		pc.Emit(fmt.Sprintf("%s %d %s", r.Key, r.At, wm))
		return simFired.Set(pc, r.At)
	}, processor.Uses(simFired))
	processor.To(met, "met", processor.SinkSpec[string]{FixedSubject: "met", Codec: codec.String()})
	topology, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	clock := processor.NewSimulationClock()
	broker := processortest.NewMemory(tenants.DefaultNamespace, clock.Now)
	broker.AddStream("acme", "acme.>")
	cfg := processor.SimulationConfig{
		Seed: seed, Broker: broker, Clock: clock, Topology: topology, Tenant: "acme", Faults: 20, Vary: true,
		Job: processor.JobConfig{KeyGroups: 8, Checkpoint: processor.CheckpointConfig{Interval: 15 * time.Millisecond, Timeout: 400 * time.Millisecond}},
	}
	want, highest := map[string][]string{}, int64(-1)
	for i := range int64(100) {
		key, at := fmt.Sprintf("k%d", i%4), i+i*i%7-i%3*4
		cfg.Inputs = append(cfg.Inputs, func() error {
			_, err := broker.PublishTo("acme.readings", nil, []byte(fmt.Sprintf(`{"Key":%q,"At":%d}`, key, at)))
			return err
		})
		wm := "none"
		if i > 0 {
			wm = (time.Duration(highest-2)*time.Millisecond - 1).String()
		}
		want[key] = append(want[key], fmt.Sprintf("%s %d %s", key, at, wm))
		highest = max(highest, at)
	}
	if _, err := processor.Simulate(cfg); err != nil {
		return err.Error()
	}
	got := map[string][]string{}
	for _, m := range broker.Messages("acme", "acme.met") {
		key, _, _ := strings.Cut(string(m.Data), " ")
		got[key] = append(got[key], string(m.Data))
	}
	if !maps.EqualFunc(got, want, slices.Equal) {
		return fmt.Sprintf("\n got %q\nwant %q", got, want)
	}
	return ""
}

func TestSimulationOfWatermarks(t *testing.T) {
	first, n := uint64(1), uint64(*simSeeds)
	if *simSeed != 0 {
		first, n = *simSeed, 1
	}
	t.Logf("seeds %d to %d", first, first+n-1)
	for seed := first; seed < first+n; seed++ {
		if verdict := simWatermarkVerdict(t, seed); verdict != "" {
			t.Fatalf("seed %d (replay: go test ./processor -run TestSimulationOfWatermarks -sim.seed %d): %s", seed, seed, verdict)
		}
	}
}
