package processor_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/processor/processortest"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

type ruledElement struct {
	Key string
	N   int
}

// ruled is what an element, or its timer, saw.
type ruled struct {
	Key      string
	N        int
	Timer    bool
	Revision uint64
	Rules    map[string]string
}

func seeRules(pc *processor.Context[ruled], key string, n int, timer bool, view *processor.RuleView[string]) {
	pc.Emit(ruled{key, n, timer, view.Revision(), maps.Collect(view.All())})
}

// ruledTopology shows the rules to every element, behind a timer of an operator above, and again in a timer of its own. A second
// operator reads the same rules.
func ruledTopology() (*processor.Topology, error) {
	b := processor.NewBuilder("ruled")
	rules := processor.Rules(b, "rules", processor.RulesSpec[string]{Bucket: "rules", Codec: codec.String()})
	in := processor.From(b, "in", processor.SourceSpec[ruledElement]{Filters: []tenants.Filter{"in"}, Codec: codec.JSON[ruledElement]()})
	key := func(e ruledElement) string { return e.Key }
	late := processor.Process(processor.KeyBy(in, key), "late", func(pc *processor.Context[ruledElement], e ruledElement) error {
		if err := simFired.Set(pc, int64(e.N)); err != nil {
			return err
		}
		return pc.SetEventTimer(pc.Timestamp())
	}, processor.Uses(simFired), processor.OnEventTimer(func(pc *processor.Context[ruledElement], _ time.Time) error {
		n, err := simFired.Get(pc)
		pc.Emit(ruledElement{pc.Key(), int(n)})
		return err
	}))
	seen := processor.Broadcast(processor.KeyBy(late, key), rules, "seen", func(pc *processor.Context[ruled], e ruledElement, view *processor.RuleView[string]) error {
		seeRules(pc, e.Key, e.N, false, view)
		if err := simFired.Set(pc, int64(e.N)); err != nil {
			return err
		}
		return pc.SetTimer(pc.Now().Add(3 * time.Millisecond))
	}, processor.Uses(simFired), processor.OnTimer(func(pc *processor.Context[ruled], _ time.Time) error {
		n, err := simFired.Get(pc)
		if err != nil {
			return err
		}
		view, err := rules.View(pc)
		if err == nil {
			seeRules(pc, pc.Key(), int(n), true, view)
		}
		return err
	}))
	processor.To(seen, "out-seen", processor.SinkSpec[ruled]{FixedSubject: "seen", Codec: codec.JSON[ruled]()})
	direct := processor.Broadcast(processor.KeyBy(in, key), rules, "direct", func(pc *processor.Context[ruled], e ruledElement, view *processor.RuleView[string]) error {
		seeRules(pc, e.Key, e.N, false, view)
		return nil
	})
	processor.To(direct, "out-direct", processor.SinkSpec[ruled]{FixedSubject: "direct", Codec: codec.JSON[ruled]()})
	return b.Build()
}

// rulesAt is what a tenant's rules were at a revision.
func rulesAt(broker *processortest.Memory, tenant string, revision uint64) map[string]string {
	out := map[string]string{}
	prefix := "$KV.rules." + tenant + "."
	for _, m := range broker.Messages("KV_rules", prefix+"*") {
		key, _ := tenants.UnescapeToken(m.Subject[len(prefix):])
		switch {
		case m.Seq > revision:
			return out
		case processor.KVRemoved(m.Header):
			delete(out, key)
		default:
			out[key] = string(m.Data)
		}
	}
	return out
}

// ruledVerdict looks at everything that was published: every element once and in order, with the rules that the bucket had at one
// revision, which per key never goes back and is never before the first rules.
func ruledVerdict(broker *processortest.Memory, first uint64, want map[string]int) string {
	for _, sink := range []string{"seen", "direct"} {
		got, revision := map[string]int{}, map[string]uint64{}
		for _, m := range broker.Messages("acme", "acme."+sink) {
			var r ruled
			if err := json.Unmarshal(m.Data, &r); err != nil {
				return err.Error()
			}
			if !r.Timer {
				if sink == "direct" && r.N != got[r.Key]+1 {
					return fmt.Sprintf("%s: key %s has element %d behind %d", sink, r.Key, r.N, got[r.Key])
				}
				got[r.Key] = max(got[r.Key], r.N)
			}
			if r.Revision < max(first, revision[r.Key]) {
				return fmt.Sprintf("%s: element %d of key %s saw revision %d behind %d, the first rules are %d", sink, r.N, r.Key, r.Revision, revision[r.Key], first)
			}
			revision[r.Key] = r.Revision
			if is := rulesAt(broker, "acme", r.Revision); !maps.Equal(is, r.Rules) {
				return fmt.Sprintf("%s: element %d of key %s saw %v at revision %d, the bucket had %v", sink, r.N, r.Key, r.Rules, r.Revision, is)
			}
		}
		if sink == "direct" && !maps.Equal(got, want) {
			return fmt.Sprintf("%s: published %v, want %v", sink, got, want)
		}
	}
	return ""
}

// simulateRules runs a job whose rules change while it runs, and returns what is wrong with what it has published.
func simulateRules(t *testing.T, seed uint64) (string, processor.SimulationResult) {
	t.Helper()
	topology, err := ruledTopology()
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(seed, 7))
	clock := processor.NewSimulationClock()
	broker := processortest.NewMemory(tenants.DefaultNamespace, clock.Now)
	broker.AddStream("acme", "acme.>")
	broker.AddBucket("rules")
	change := func() error {
		key := fmt.Sprintf("%s.r%d", []string{"acme", "globex"}[rng.IntN(4)/3], rng.IntN(6))
		if rng.IntN(4) == 0 {
			_, err := broker.DeleteKey("rules", key)
			return err
		}
		_, err := broker.PutKey("rules", key, fmt.Appendf(nil, "v%d", rng.IntN(1000)))
		return err
	}
	for range rng.IntN(30) {
		if err := change(); err != nil {
			t.Fatal(err)
		}
	}
	first := uint64(0)
	for _, m := range broker.Messages("KV_rules", "$KV.rules.acme.*") {
		first = m.Seq
	}
	cfg := processor.SimulationConfig{
		Seed: seed, Broker: broker, Clock: clock, Topology: topology, Tenant: "acme", Faults: []int{12, 0, 30}[seed%3], Vary: seed%2 == 0,
		Controls: int(seed % 5),
		Job: processor.JobConfig{
			Parallelism: 1 + int(seed%4), KeyGroups: 8, MergeAfter: 2,
			Checkpoint: processor.CheckpointConfig{Interval: 15 * time.Millisecond, Timeout: 400 * time.Millisecond},
		},
	}
	want := map[string]int{}
	for i := range 120 {
		key := fmt.Sprintf("k%d", i%5)
		want[key]++
		e, err := json.Marshal(ruledElement{key, want[key]})
		if err != nil {
			t.Fatal(err)
		}
		cfg.Inputs = append(cfg.Inputs, func() error {
			_, err := broker.PublishTo("acme.in", nil, e)
			return err
		})
		if i%3 == 0 {
			cfg.Inputs = append(cfg.Inputs, change)
		}
	}
	result, err := processor.Simulate(cfg)
	if err != nil {
		return err.Error(), result
	}
	return ruledVerdict(broker, first, want), result
}

func TestSimulationOfRules(t *testing.T) {
	seed, n := uint64(1), uint64(*simSeeds)
	if *simSeed != 0 {
		seed, n = *simSeed, 1
	}
	t.Logf("seeds %d to %d", seed, seed+n-1)
	crashes := 0
	for end := seed + n; seed < end; seed++ {
		verdict, r := simulateRules(t, seed)
		if verdict != "" {
			t.Fatalf("seed %d (replay: go test ./processor -run TestSimulationOfRules -sim.seed %d): %s\n%+v", seed, seed, verdict, r)
		}
		crashes += r.Crashes
	}
	if *simSeed == 0 && crashes == 0 {
		t.Error("nothing crashed")
	}
}
