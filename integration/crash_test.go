package integration_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/processor"
)

var allFlag = flag.Bool("all", false, "TestCrashPoints strikes at every request with every kind of fault, and TestRollback takes every case, not a sample")

// sampleSize is how many cases TestCrashPoints tries without -all beside one for each kind of request and fault.
const sampleSize = 60

// crashRounds is how many checkpoints with input a run has.
const crashRounds = 3

// TestCrashPoints strikes at the k-th request of a run that takes several checkpoints and drains: crash before the request; crash
// with the request applied and the reply lost; pause, takeover by another, resume; and, since that costs little, only the request
// or only the reply lost. Each time the job goes on to an exact end.
func TestCrashPoints(t *testing.T) {
	seed := newSeed(t)
	w := newWorld(t)
	calm := &crashCase{world: w, seed: seed, id: 0, fault: newFailpoint(0, crashBefore)}
	calm.run(t)
	ops := calm.fault.requests()
	t.Logf("the undisturbed run makes %d requests", len(ops))
	cases := everyCase(len(ops))
	if !*allFlag {
		cases = sampleCases(newRand(seed), ops, cases)
	}
	var struck atomic.Int64
	t.Run("cases", func(t *testing.T) {
		for i, c := range cases {
			t.Run(fmt.Sprintf("%d-%s", c.at, c.kind), func(t *testing.T) {
				t.Parallel()
				cc := &crashCase{world: w, seed: seed, id: i + 1, fault: newFailpoint(c.at, c.kind)}
				cc.run(t)
				if cc.fault.hasStruck() {
					struck.Add(1)
				}
			})
		}
	})
	t.Logf("%d cases, the fault struck in %d", len(cases), struck.Load())
	if struck.Load() < int64(len(cases))*3/4 {
		t.Fatalf("the fault struck in %d of %d cases only: the runs differ too much from the undisturbed one", struck.Load(), len(cases))
	}
}

type point struct {
	at   int
	kind faultKind
}

func everyCase(requests int) []point {
	var all []point
	for at := 1; at <= requests; at++ {
		for kind := range numFaults {
			all = append(all, point{at, kind})
		}
	}
	return all
}

// sampleCases takes each kind of fault at each kind of request, and a random sample of the rest.
func sampleCases(rng *rand.Rand, ops []string, all []point) []point {
	byOp := map[string][]int{}
	for i, op := range ops {
		byOp[op] = append(byOp[op], i+1)
	}
	chosen := map[point]bool{}
	for _, at := range byOp {
		for kind := range numFaults {
			chosen[point{at[rng.IntN(len(at))], kind}] = true
		}
	}
	for range sampleSize {
		chosen[all[rng.IntN(len(all))]] = true
	}
	var out []point
	for _, p := range all {
		if chosen[p] {
			out = append(out, p)
		}
	}
	return out
}

// crashCase is one run with one fault, for a tenant of its own.
type crashCase struct {
	world *world
	seed  uint64
	id    int
	fault *failpoint

	mu   sync.Mutex // input is modelled in the order in which it is published
	rng  *rand.Rand
	hist *history
	fed  int
}

// feed publishes one more batch of input. Whoever publishes is not the worker: what it began it finishes.
func (c *crashCase) feed() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fed++
	return publishAll(context.Background(), c.world.js, c.hist.tenant, c.hist.random(c.rng, 5+c.rng.IntN(20), 5))
}

func (c *crashCase) run(t *testing.T) {
	c.rng = newRand(c.seed, uint64(c.id))
	c.hist = newHistory(fmt.Sprintf("crash-%d-%d", c.seed, c.id))
	tenant := c.hist.tenant
	c.world.stream(t, ownStream(tenant, 1))
	defer func() { _ = c.world.js.DeleteStream(context.Background(), tenant) }()
	spec := workerSpec{
		name: tenant + "-a", job: smallJob(), topo: tallyTopology(t),
		broker:  func(cfg *jetstream.Config) { cfg.Intercept = c.fault.intercept },
		runtime: func(cfg *processor.RuntimeConfig) { cfg.TakeoverAfter = slowTakeover },
	}
	spec.job.Parallelism = 1 + c.id%3
	first := newWorker(t, c.world.srv, spec)
	c.fault.attach(first)
	c.fault.pausable(t)
	over := make(chan error, 1)
	go func() { over <- c.drive(first, spec) }()
	second := workerSpec{name: tenant + "-b", job: spec.job, topo: spec.topo}
	if c.fault.kind == pauseAt && c.waitStruck(over) {
		c.takeOver(t, first, second, over)
		return
	}
	err := <-over
	if err != nil && !c.fault.hasStruck() {
		t.Fatalf("the run failed without a fault: %v\n%s", err, first.log.tail())
	}
	if err != nil && (c.fault.kind == dropOne || c.fault.kind == loseOne) && !c.excused(first) {
		t.Fatalf("a lost message ended the worker: %v\n%s", err, first.log.tail())
	}
	first.kill()
	c.feedRest(t)
	startWorker(t, c.world.srv, second, tenant).finish(c.world, c.hist)
}

// excused reports whether a worker may give up: starting or deploying reports the fault to the caller, who tries again.
func (c *crashCase) excused(w *worker) bool { return !w.live.Load() }

// waitStruck waits until the fault strikes, or reports that the run came to its end without it.
func (c *crashCase) waitStruck(over chan error) bool {
	select {
	case <-c.fault.struck:
		return true
	case err := <-over:
		over <- err
		return false
	}
}

// drive is the life of the first worker: input, checkpoint, input, checkpoint, drain.
func (c *crashCase) drive(w *worker, spec workerSpec) error {
	if err := c.feed(); err != nil {
		return err
	}
	if err := w.start(spec, c.hist.tenant); err != nil {
		return err
	}
	for round := range crashRounds {
		if round > 0 {
			if err := c.feed(); err != nil {
				return err
			}
		}
		if err := c.checkpoint(w); err != nil {
			return err
		}
	}
	return w.drain()
}

// checkpoint takes one, through restarts of the job.
func (c *crashCase) checkpoint(w *worker) error {
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	job := w.job(c.hist.tenant)
	for {
		_, err := job.Checkpoint(ctx)
		if err == nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		if s := job.Status().State; s == processor.JobFailed || s == processor.JobParked || s == processor.JobStandby {
			return fmt.Errorf("the job is %s: %w", s, job.Status().Err)
		}
		breathe(ctx)
	}
}

// feedRest publishes what the first worker's life was too short for, and one batch more.
func (c *crashCase) feedRest(t *testing.T) {
	for c.fed <= crashRounds {
		ok(t, c.feed())
	}
}

// takeOver lets a second worker take the job while the first stands still, and then wakes the first: it must see that it is
// fenced, change nothing that counts, and stand by.
func (c *crashCase) takeOver(t *testing.T, first *worker, second workerSpec, over chan error) {
	tenant := c.hist.tenant
	b := startWorker(t, c.world.srv, second, tenant)
	eventually(t, "the second worker runs the job", func() bool { return b.status(tenant).State == processor.JobRunning })
	ok(t, c.feed())
	ok(t, c.checkpoint(b))
	before := headOf(t, c.world, tenant)
	c.fault.goOn()
	eventually(t, "the first worker stands by or has ended", func() bool {
		s := first.status(tenant).State
		return s == processor.JobStandby || s == processor.JobStopped || len(over) > 0
	})
	after := headOf(t, c.world, tenant)
	if after.Epoch != before.Epoch || after.Owner != before.Owner {
		t.Fatalf("the first worker took the job back: epoch %d of %s became epoch %d of %s\n%s", before.Epoch, before.Worker, after.Epoch, after.Worker, first.log.tail())
	}
	first.kill()
	<-over
	c.feedRest(t)
	b.finish(c.world, c.hist)
}

// headOf reads a job's head as the commit log has it.
func headOf(t testing.TB, w *world, tenant string) *barriers.Head {
	t.Helper()
	kv, err := w.js.KeyValue(context.Background(), jetstream.CheckpointBucket)
	ok(t, err)
	entry, err := kv.Get(context.Background(), barriers.HeadKey(tenant, tallyName))
	ok(t, err)
	head, err := barriers.DecodeHead(entry.Value())
	ok(t, err)
	return head
}
