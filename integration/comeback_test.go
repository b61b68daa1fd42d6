package integration_test

import (
	"strings"
	"sync/atomic"
	"testing"

	"github.com/weirstream/weir/jetstream"
)

// TestComeback: a process that comes back under the ID of its dead predecessor takes its jobs at once, also when the broker does not
// answer its first requests: that is no second process under the same ID.
func TestComeback(t *testing.T) {
	w := newWorld(t)
	rng := newRand(newSeed(t))
	h := newHistory("acme")
	w.stream(t, ownStream("acme", 1))
	w.publish(t, "acme", h.random(rng, 50, 5))
	spec := workerSpec{name: "a", job: smallJob(), topo: tallyTopology(t)}
	first := startWorker(t, w.srv, spec, "acme")
	eventually(t, "the first process has a checkpoint", func() bool { return first.status("acme").Checkpoint > 0 })
	first.kill()
	w.publish(t, "acme", h.random(rng, 50, 5))
	var lost atomic.Int64
	spec.broker = func(cfg *jetstream.Config) {
		cfg.Intercept = func(_, subject string) jetstream.Fault {
			// Streams are looked at when an attempt begins, before it takes the job.
			if strings.HasPrefix(subject, "$JS.API.STREAM.NAMES") && lost.Add(1) <= 3 {
				return jetstream.Drop
			}
			return jetstream.Pass
		}
	}
	second := newWorker(t, w.srv, spec)
	ok(t, second.start(spec, "acme"))
	second.finish(w, h)
	if lost.Load() < 3 {
		t.Fatalf("%d requests were lost: the attempts look at streams in another way now", lost.Load())
	}
	if second.log.has("another process runs as this worker") {
		t.Fatal("the predecessor was taken for a living process")
	}
}
