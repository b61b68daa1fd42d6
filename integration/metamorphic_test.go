package integration_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/processor"
)

var roundsFlag = flag.Int("rounds", 8, "TestMetamorphic: how many configurations the history runs under")

// TestMetamorphic runs one history under many configurations: parallelism, batch sizes, checkpoint interval, kind of barrier,
// merging, crashes, other tenants beside it. What is committed per key is the same every time, and what the other tenants get too.
func TestMetamorphic(t *testing.T) {
	seed := newSeed(t)
	w := newWorld(t)
	var first map[string][]tally
	for round := range *roundsFlag {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			r := newMetaRound(w, seed, round)
			r.run(t)
			if round == 0 {
				first = r.committed(t)
				return
			}
			sameTallies(t, first, r.committed(t))
		})
	}
}

// metaRound is one configuration.
type metaRound struct {
	world   *world
	rng     *rand.Rand // of the configuration; the history has its own
	main    *history
	all     []*history
	pending [][]input // by tenant
	desc    string
}

func newMetaRound(w *world, seed uint64, round int) *metaRound {
	r := &metaRound{world: w, rng: newRand(seed, 1, uint64(round))}
	neighbours := r.rng.IntN(4)
	for i := range neighbours + 1 {
		h := newHistory(fmt.Sprintf("meta-%d-%d-%d", seed, round, i))
		salt := uint64(2)
		if i > 0 {
			salt = r.rng.Uint64()
		}
		r.all = append(r.all, h)
		// The same keys for everybody: what leaks would look right but for its tenant.
		r.pending = append(r.pending, h.random(newRand(seed, salt), 600, 17))
	}
	r.main = r.all[0]
	return r
}

func (r *metaRound) names() []string {
	names := make([]string, len(r.all))
	for i, h := range r.all {
		names[i] = h.tenant
	}
	return names
}

// spec draws a configuration; every life of the job has another one.
func (r *metaRound) spec(t *testing.T, fault *failpoint) workerSpec {
	rng := r.rng
	job := smallJob()
	job.KeyGroups = 7 // fixed by the first life
	job.Parallelism = 1 + rng.IntN(4)
	job.MergeAfter = 1 + rng.IntN(6)
	job.Checkpoint.Interval = time.Duration(10+rng.IntN(150)) * time.Millisecond
	job.Checkpoint.Retained = 1 + rng.IntN(4)
	job.Checkpoint.Barriers = []processor.BarrierMode{processor.BarriersDefault, processor.BarriersInStream, processor.BarriersAtReader}[rng.IntN(3)]
	maxPart, chunk := 2+rng.IntN(40), 1024+rng.IntN(4096)
	takeover := time.Duration(100+rng.IntN(200)) * time.Millisecond
	r.desc += fmt.Sprintf("\nparallelism %d, interval %s, barriers %q, merge after %d, retained %d, parts of %d, chunks of %d, fault at %d",
		job.Parallelism, job.Checkpoint.Interval, job.Checkpoint.Barriers, job.MergeAfter, job.Checkpoint.Retained, maxPart, chunk, fault.at)
	return workerSpec{
		name: fmt.Sprintf("w%d", rng.IntN(2)), job: job, topo: tallyTopology(t),
		broker: func(cfg *jetstream.Config) {
			cfg.Intercept, cfg.MaxPart, cfg.ChunkBytes = fault.intercept, maxPart, chunk
		},
		runtime: func(cfg *processor.RuntimeConfig) { cfg.TakeoverAfter = takeover },
	}
}

func (r *metaRound) run(t *testing.T) {
	defer func() {
		if t.Failed() {
			t.Logf("the configurations were:%s", r.desc)
		}
	}()
	for _, h := range r.all {
		r.world.stream(t, ownStream(h.tenant, 1))
	}
	lives := r.rng.IntN(4)
	for life := range lives {
		r.live(t, float64(life+1)/float64(lives+1))
	}
	last := startWorker(t, r.world.srv, r.spec(t, newFailpoint(0, crashBefore)), r.names()...)
	r.feed(t, last.ctx, 1)
	ctx, cancel := context.WithTimeout(last.ctx, patience)
	defer cancel()
	for _, h := range r.all {
		if err := last.settled(ctx, r.world, h); err != nil {
			t.Fatalf("%v\n%s", err, last.log.tail())
		}
	}
	ok(t, last.drain())
	last.kill()
	for _, h := range r.all {
		r.world.exact(t, h)
	}
}

// live is the life of a worker that dies at some request, or else when share of the input is published and a checkpoint taken.
func (r *metaRound) live(t *testing.T, share float64) {
	fault := newFailpoint(1+r.rng.IntN(400), []faultKind{crashBefore, crashAfter}[r.rng.IntN(2)])
	spec := r.spec(t, fault)
	victim := newWorker(t, r.world.srv, spec)
	defer victim.kill()
	fault.attach(victim)
	if err := victim.start(spec, r.names()...); err != nil {
		if !fault.hasStruck() {
			t.Fatal(err)
		}
		return
	}
	r.feed(t, victim.ctx, share)
	job := victim.job(r.main.tenant)
	eventually(t, "the job runs or the worker is dead", func() bool {
		return job.Status().State == processor.JobRunning || victim.ctx.Err() != nil
	})
	ctx, cancel := context.WithTimeout(victim.ctx, patience)
	defer cancel()
	_, _ = job.Checkpoint(ctx) // or the worker dies on the way
}

// feed publishes a share of every tenant's input, in turns of random length, until the worker is dead.
func (r *metaRound) feed(t *testing.T, ctx context.Context, share float64) {
	most := 1 + r.rng.IntN(60)
	for ctx.Err() == nil {
		left := false
		for i, h := range r.all {
			due := int(share*float64(h.inputs)) - (h.inputs - len(r.pending[i]))
			n := min(max(due, 0), 1+r.rng.IntN(most))
			r.world.publish(t, h.tenant, r.pending[i][:n])
			r.pending[i] = r.pending[i][n:]
			left = left || n > 0
		}
		if !left {
			return
		}
	}
}

// committed is the main tenant's output per key, without its name, which is another in each round.
func (r *metaRound) committed(t *testing.T) map[string][]tally {
	out := map[string][]tally{}
	for _, c := range r.world.outcome(t, r.main).tallies {
		c.Tenant = ""
		out[c.Key] = append(out[c.Key], c)
	}
	return out
}

func sameTallies(t *testing.T, want, got map[string][]tally) {
	t.Helper()
	if len(want) != len(got) {
		t.Fatalf("%d keys, the first round had %d", len(got), len(want))
	}
	for key, list := range want {
		if fmt.Sprint(got[key]) != fmt.Sprint(list) {
			t.Fatalf("key %s: %v, in the first round %v", key, got[key], list)
		}
	}
}
