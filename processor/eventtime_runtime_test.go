package processor_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/processor/processortest"
	"github.com/weirstream/weir/tenants"
)

// In the runtime, with goroutines: the quiet source becomes idle, thousands of timers come due at once, workers crash in between,
// and a drain fires the rest. Each fires once.
func TestRuntimeFiresEventTimersExactlyOnce(t *testing.T) {
	for _, parallelism := range []int{1, 3} {
		t.Run(fmt.Sprintf("parallelism %d", parallelism), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				topology, err := simTimeTopology()
				if err != nil {
					t.Fatal(err)
				}
				job := tenants.JobID{Tenant: "acme", Name: topology.Name()}
				m := newMemory("acme")
				published := int64(0)
				publish := func(source, key string, at int64) {
					t.Helper()
					if _, err := m.PublishTo("acme."+source, nil, fmt.Appendf(nil, `{"Key":%q,"At":%d}`, key, at)); err != nil {
						t.Fatal(err)
					}
				}
				publish("right", "ahead", 10_000) // only left holds time back, once quiet is idle
				for range 4 {
					w := startWorker(t, m, "w1", processor.Listener{})
					w.deploy(t, topology, "acme", processor.JobConfig{Parallelism: parallelism})
					w.run()
					for range 1000 {
						published++
						publish("left", fmt.Sprintf("k%d", published%7), published)
					}
					time.Sleep(3 * time.Second)
					if published == 3000 { // neither left nor right: what is due is what left has reached
						checkFired(t, m, published-11)
						rep, err := w.rt.Status(t.Context(), job)
						left, quiet := rep.Sources["left"], rep.Sources["quiet"]
						if err != nil || !quiet.Idle || !quiet.Watermark.IsZero() || left.Idle || !left.Watermark.Equal(simEpoch.Add(3*time.Second-1)) {
							t.Errorf("status: left %+v, quiet %+v, %v", left, quiet, err)
						}
					}
					w.crash(t)
				}
				w := startWorker(t, m, "w1", processor.Listener{})
				w.deploy(t, topology, "acme", processor.JobConfig{Parallelism: parallelism})
				w.run()
				time.Sleep(time.Second)
				rep, err := w.rt.Stop(t.Context(), job, processor.StopRequest{Mode: processor.StopDrain})
				if err != nil || !rep.Published {
					t.Fatalf("the drain ended with %+v, %v", rep, err)
				}
				checkFired(t, m, published+1) // and ahead's
				w.crash(t)
			})
		})
	}
}

// checkFired verifies that so many timers fired, none twice.
func checkFired(t *testing.T, m *processortest.Memory, want int64) {
	t.Helper()
	seen := map[string]bool{}
	for _, r := range m.Messages("acme", "acme.fired") {
		var key string
		var at int64
		if _, err := fmt.Sscan(string(r.Data), &key, &at); err != nil {
			t.Fatal(err)
		}
		id := fmt.Sprint(key, " ", at)
		if seen[id] {
			t.Fatalf("the timer of %s fired twice", id)
		}
		seen[id] = true
	}
	if int64(len(seen)) != want {
		t.Errorf("%d timers fired, want %d", len(seen), want)
	}
}
