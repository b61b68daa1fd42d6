package processor_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// perLength counts words by their length, from the same input as counting and to another subject of the same stream.
func perLength(t *testing.T) *processor.Topology {
	t.Helper()
	b := processor.NewBuilder("lengths")
	words := processor.From(b, "words", processor.SourceSpec[string]{Filters: []tenants.Filter{"words"}, Codec: codec.String()})
	lengths := processor.Map(words, "length", func(w string) string { return fmt.Sprint(len(w)) })
	counts := processor.Process(processor.KeyBy(lengths, func(l string) string { return l }), "count",
		func(pc *processor.Context[counted], l string) error {
			n, err := wordTotal.Get(pc)
			if err != nil {
				return err
			}
			pc.Emit(counted{l, n + 1})
			return wordTotal.Set(pc, n+1)
		}, processor.Uses(wordTotal))
	processor.To(counts, "lengths", processor.SinkSpec[counted]{FixedSubject: "lengths", Codec: codec.JSON[counted]()})
	return built(t, b)
}

// One topology for several tenants and several topologies for one: every job counts by itself, over crashes, and hears only its own
// checkpoints.
func TestManyJobsInOneProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names := []string{"acme", "globex", "initech"}
		m := newMemory(names...)
		words, lengths := map[string]int64{}, map[string]int64{}
		for round := range 4 {
			seen := make(chan tenants.JobID, 10_000)
			w := startWorker(t, m, "w1", processor.Listener{Checkpoint: func(ev processor.CheckpointEvent) { seen <- ev.Job }})
			for _, tenant := range names {
				w.deploy(t, counting(t, nil), tenant, processor.JobConfig{Parallelism: 1 + round%2})
				w.deploy(t, perLength(t), tenant, processor.JobConfig{})
			}
			w.run()
			for i := range 60 {
				word := []string{"a", "bb", "cc", "ddd"}[i%4]
				words[word]++
				lengths[fmt.Sprint(len(word))]++
				for _, tenant := range names {
					publishWords(t, m, tenant, word)
				}
				time.Sleep(11 * time.Millisecond)
			}
			if round == 3 {
				time.Sleep(2 * time.Second)
			}
			w.crash(t)
			close(seen)
			heard := map[tenants.JobID]int{}
			for id := range seen {
				heard[id]++
			}
			if len(heard) != 6 {
				t.Errorf("round %d: the listener heard of %v, want all six jobs", round, heard)
			}
		}
		for _, tenant := range names {
			checkCounts(t, m, tenant, words)
			checkCountsOn(t, m, tenant, "lengths", lengths)
		}
	})
}
