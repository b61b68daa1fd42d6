package processor_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/processor/processortest"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

var (
	simSeeds = flag.Int("sim.seeds", 100, "seeds of the simulation of whole topologies")
	simSeed  = flag.Uint64("sim.seed", 0, "run this seed of the simulation alone")
)

type simCount struct {
	Key   string
	Count int64
}

var simTotal = state.NewValue[int64]("total")

// simTopology counts per key with two sources, and refuses every record that is "bad".
func simTopology() (*processor.Topology, error) {
	b := processor.NewBuilder("sim")
	left := processor.From(b, "left", processor.SourceSpec[string]{Filters: []tenants.Filter{"left"}, Codec: codec.String()})
	right := processor.From(b, "right", processor.SourceSpec[string]{Filters: []tenants.Filter{"right.>"}, Codec: codec.String()})
	both := processor.Union("both", left, right)
	counts := processor.Process(processor.KeyBy(both, func(s string) string { return s }), "count", func(pc *processor.Context[simCount], s string) error {
		n, err := simTotal.Get(pc)
		if err != nil {
			return err
		}
		if s == "bad" {
			return processor.Poison(fmt.Errorf("refused"))
		}
		pc.Emit(simCount{s, n + 1})
		return simTotal.Set(pc, n+1)
	}, processor.Uses(simTotal))
	processor.To(counts, "counts", processor.SinkSpec[simCount]{Subject: func(simCount) string { return "counts" }, Codec: codec.JSON[simCount]()})
	processor.ToKV(counts, "current", processor.KVSpec[simCount]{Bucket: "current", Key: func(c simCount) string { return c.Key }, Codec: codec.JSON[simCount]()})
	return b.Build()
}

// simVerdict runs one seed and says what is wrong with the result, "" if nothing.
func simVerdict(t *testing.T, seed uint64, mutant string) (string, processor.SimulationResult) {
	t.Helper()
	topology, err := simTopology()
	if err != nil {
		t.Fatal(err)
	}
	clock := processor.NewSimulationClock()
	broker := processortest.NewMemory(tenants.DefaultNamespace, clock.Now)
	broker.AddStream("acme", "acme.>")
	parallelism := 1 + int(seed%3)
	cfg := processor.SimulationConfig{
		Seed: seed, Broker: broker, Clock: clock, Topology: topology, Tenant: "acme", Faults: []int{12, 5, 30}[seed%3], Vary: seed%2 == 0,
		Controls: []int{0, 4, 12}[seed/2%3],
		Job: processor.JobConfig{
			Parallelism: parallelism, KeyGroups: 8, MergeAfter: 2, Marks: processor.MarkConfig{Allow: true, MinInterval: 1, Max: 1000},
			Checkpoint: processor.CheckpointConfig{Interval: 15 * time.Millisecond, Timeout: 400 * time.Millisecond, Retained: 1 + int(seed%2)},
		},
	}
	want := map[string]int64{}
	for i := range []int{40, 120, 300}[seed/3%3] {
		key := fmt.Sprintf("k%d", i%5)
		if i%13 == 12 {
			key = "bad"
		}
		want[key]++
		subject := []string{"acme.left", "acme.right.x"}[i%2]
		cfg.Inputs = append(cfg.Inputs, func() error {
			_, err := broker.PublishTo(subject, nil, []byte(key))
			return err
		})
		if cfg.Controls > 0 && seed%4 < 2 && i%20 == 10 {
			cfg.Inputs = append(cfg.Inputs, func() error {
				_, err := broker.PublishTo(subject, map[string][]string{processor.HeaderMark: {"sim"}}, []byte("k0"))
				return err
			})
		}
	}
	result, err := processor.Simulate(cfg.WithMutant(mutant))
	if err != nil {
		return err.Error(), result
	}
	if verdict := simWrong(t, broker, want); verdict != "" {
		return verdict, result
	}
	return simSavepointsWrong(t, broker, topology), result
}

// simSavepointsWrong compares every savepoint with a naive count of the input up to its positions, and with its mark.
func simSavepointsWrong(t *testing.T, m *processortest.Memory, topology *processor.Topology) string {
	t.Helper()
	job := tenants.JobID{Tenant: "acme", Name: "sim"}
	list, err := barriers.ListSavepoints(func(r barriers.Request) barriers.Reply { return m.Do(t.Context(), job, r) }, "acme", "sim")
	if err != nil {
		return err.Error()
	}
	requests := map[string]bool{}
	for _, sp := range list {
		if requests[sp.Request] {
			return fmt.Sprintf("request %s made two savepoints", sp.Request)
		}
		requests[sp.Request] = true
		want := map[string]int64{}
		for _, s := range sp.Sources {
			if sp.Mark != nil && s.Name == sp.Mark.Source && s.Position != sp.Mark.Seq {
				return fmt.Sprintf("savepoint %s has source %s at %d, its mark is %d", sp.Savepoint, s.Name, s.Position, sp.Mark.Seq)
			}
			for _, r := range m.Messages("acme", s.Filter) {
				if r.Seq <= s.Position && r.Header == nil && string(r.Data) != "bad" {
					want[string(r.Data)]++
				}
			}
		}
		opened, err := processor.OpenSavepoint(t.Context(), m, topology, job, sp.Savepoint)
		if err != nil {
			return err.Error()
		}
		op, err := opened.Operator(t.Context(), "count")
		if err != nil {
			return fmt.Sprintf("savepoint %s: %v", sp.Savepoint, err)
		}
		for key, n := range want {
			if got, err := simTotal.Get(op.Key(key)); err != nil || got != n {
				return fmt.Sprintf("savepoint %s counts %s %d times (%v), the input up to there has %d", sp.Savepoint, key, got, err, n)
			}
		}
	}
	return ""
}

func TestSimulation(t *testing.T) {
	first, n := uint64(1), uint64(*simSeeds)
	if *simSeed != 0 {
		first, n = *simSeed, 1
	}
	t.Logf("seeds %d to %d", first, first+n-1)
	var sum processor.SimulationResult
	for seed := first; seed < first+n; seed++ {
		verdict, r := simVerdict(t, seed, "")
		if verdict != "" {
			t.Fatalf("seed %d (replay: go test ./processor -run TestSimulation -sim.seed %d): %s\n%+v", seed, seed, verdict, r)
		}
		sum.Steps += r.Steps
		sum.Crashes += r.Crashes
		sum.Attempts += r.Attempts
		sum.Fenced += r.Fenced
		sum.Checkpoints += r.Checkpoints
		sum.Aborted += r.Aborted
		sum.Restarts += r.Restarts
		sum.Faults += r.Faults
		sum.Savepoints += r.Savepoints
		sum.Marks += r.Marks
		sum.Holds += r.Holds
		sum.Stops += r.Stops
	}
	t.Logf("in all: %+v", sum)
	if *simSeed == 0 && (sum.Fenced == 0 || sum.Aborted == 0 || sum.Crashes == 0 || sum.Checkpoints == 0 ||
		sum.Savepoints == 0 || sum.Marks == 0 || sum.Holds == 0 || sum.Stops == 0) {
		t.Errorf("the simulation does not reach what it is for: %+v", sum)
	}
}

func TestSimulationCatchesMutants(t *testing.T) {
	for _, mt := range processor.Mutants {
		t.Run(mt, func(t *testing.T) {
			for seed := uint64(1); seed <= 1000; seed++ {
				if verdict, _ := simVerdict(t, seed, mt); verdict != "" {
					t.Logf("caught at seed %d: %s", seed, verdict)
					return
				}
			}
			t.Error("not caught in 1000 seeds")
		})
	}
}

func TestSimulationReplays(t *testing.T) {
	for seed := uint64(1); seed <= 5; seed++ {
		_, a := simVerdict(t, seed, "")
		_, b := simVerdict(t, seed, "")
		if a != b {
			t.Errorf("seed %d: %+v, then %+v", seed, a, b)
		}
	}
}

// simWrong compares what was published with what was published into the job.
func simWrong(t *testing.T, m *processortest.Memory, want map[string]int64) string {
	t.Helper()
	got := map[string]int64{}
	for _, r := range m.Messages("acme", "acme.counts") {
		var c simCount
		if err := json.Unmarshal(r.Data, &c); err != nil {
			t.Fatal(err)
		}
		if c.Count != got[c.Key]+1 {
			return fmt.Sprintf("%s: count %d follows %d", c.Key, c.Count, got[c.Key])
		}
		got[c.Key] = c.Count
	}
	got["bad"] = int64(len(m.Messages("WEIR_DLQ", "weir.dlq.acme.*")))
	current := map[string]int64{}
	for _, r := range m.Messages("KV_current", "$KV.current.acme.*") {
		var c simCount
		if err := json.Unmarshal(r.Data, &c); err != nil {
			t.Fatal(err)
		}
		if c.Count <= current[c.Key] {
			return fmt.Sprintf("KV %s: %d follows %d", c.Key, c.Count, current[c.Key])
		}
		current[c.Key] = c.Count
	}
	for key, n := range want {
		if got[key] != n {
			return fmt.Sprintf("%s was counted %d times, want %d", key, got[key], n)
		}
		if key != "bad" && current[key] != n {
			return fmt.Sprintf("KV %s is %d, want %d", key, current[key], n)
		}
	}
	return ""
}
