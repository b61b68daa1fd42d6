package barriers

import (
	"flag"
	"testing"
)

var (
	simSeeds = flag.Int("seeds", defaultSeeds, "number of seeds TestSimulation runs")
	simBase  = flag.Uint64("base", 1, "first seed TestSimulation runs")
	simSeed  = flag.Uint64("seed", 0, "run this seed alone, with a trace")
)

func quiet(string, ...any) {}

// TestSimulation runs the real protocols of several workers over a broker and a network that do their worst, and checks that the
// output is exact. One seed again, with a trace: go test ./barriers -run TestSimulation -seed N
func TestSimulation(t *testing.T) {
	if *simSeed != 0 {
		if v := runSim(*simSeed, mutant{}, t.Logf); v != "" {
			t.Fatalf("seed %d: %s", *simSeed, v)
		}
		return
	}
	t.Logf("base seed %d, %d seeds", *simBase, *simSeeds)
	failed := 0
	var stats simStats
	for seed := *simBase; seed < *simBase+uint64(*simSeeds); seed++ {
		if v := countSim(seed, mutant{}, quiet, &stats); v != "" {
			t.Errorf("seed %d: %s", seed, v)
			if failed++; failed == 10 {
				t.FailNow()
			}
		}
	}
	t.Logf("%+v", stats)
	rare := min(stats.acquires, stats.commits, stats.aborts, stats.starts, stats.late, stats.fenced, stats.deletions, stats.published, stats.named,
		stats.savepoints, stats.restored, stats.stops, stats.deletes)
	if rare < *simSeeds/20 {
		t.Errorf("something hardly ever happened: %+v", stats)
	}
}
