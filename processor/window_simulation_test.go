package processor_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/processor/processortest"
	"github.com/weirstream/weir/tenants"
)

// Windows in the simulation of whole jobs: crashes, pauses, aborted checkpoints, takeovers and rescalings, and what is committed is
// what the model says, in the order of each key.
func TestSimulationOfWindows(t *testing.T) {
	first, n := uint64(1), uint64(*simSeeds)/3+1
	if *simSeed != 0 {
		first, n = *simSeed, 1
	}
	t.Logf("seeds %d to %d", first, first+n-1)
	var sum processor.SimulationResult
	rows, late := 0, 0
	for seed := first; seed < first+n; seed++ {
		h := processor.NewWindowHistory(t, seed, []int{30, 80, 200}[seed%3])
		clock := processor.NewSimulationClock()
		broker := processortest.NewMemory(tenants.DefaultNamespace, clock.Now)
		broker.AddStream("acme", "acme.>")
		cfg := processor.SimulationConfig{
			Seed: seed, Broker: broker, Clock: clock, Topology: h.Topology, Tenant: "acme", Faults: []int{12, 5, 30}[seed/3%3], Vary: seed%2 == 0,
			Job: processor.JobConfig{
				Parallelism: 1 + int(seed%3), KeyGroups: 8, MergeAfter: 2,
				Checkpoint: processor.CheckpointConfig{Interval: 15 * time.Millisecond, Timeout: 400 * time.Millisecond},
			},
		}
		for _, p := range h.Payloads {
			cfg.Inputs = append(cfg.Inputs, func() error {
				_, err := broker.PublishTo("acme.in", nil, p)
				return err
			})
		}
		r, err := processor.Simulate(cfg)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		got := map[string][]string{}
		for _, m := range broker.Messages("acme", "acme.out-rows") {
			key, _, _ := strings.Cut(string(m.Data), " ")
			got[key] = append(got[key], string(m.Data))
			rows++
		}
		for key, want := range h.Rows {
			if !slices.Equal(got[key], want) {
				t.Fatalf("seed %d (replay: -run TestSimulationOfWindows -sim.seed %d): key %s: committed\n%s\nthe model says\n%s",
					seed, seed, key, strings.Join(got[key], "\n"), strings.Join(want, "\n"))
			}
		}
		if len(got) != len(h.Rows) {
			t.Fatalf("seed %d: results of %d keys, the model has %d", seed, len(got), len(h.Rows))
		}
		if n := len(broker.Messages("acme", "acme.late")); n != h.Late {
			t.Fatalf("seed %d: %d late elements, the model says %d", seed, n, h.Late)
		}
		late += h.Late
		sum.Crashes += r.Crashes
		sum.Aborted += r.Aborted
		sum.Restarts += r.Restarts
	}
	t.Logf("%d rows, %d late elements; %+v", rows, late, sum)
	if *simSeed == 0 && (rows == 0 || late == 0 || sum.Crashes == 0 || sum.Aborted == 0) {
		t.Errorf("the simulation does not reach what it is for: %d rows, %d late, %+v", rows, late, sum)
	}
}
