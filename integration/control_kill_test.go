package integration_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/processor"
)

// controlKills is how many requests of each verb TestControlKills strikes at without -all.
const controlKills = 4

// killPlan is a verb that a worker is killed in.
type killPlan struct {
	verb string
	body func(c *killCase) body
	// between looks at what the kill has left, when another worker has the job and nobody has asked again.
	between func(c *killCase)
	// after looks at what is there when the same was asked again.
	after func(c *killCase, a answer)
}

var killPlans = []killPlan{
	{"savepoint", func(*killCase) body { return body{"name": "asked", "request": "asked"} }, (*killCase).running, (*killCase).hasAsked},
	{"stop", func(*killCase) body { return body{"mode": "savepoint", "savepoint": "asked"} }, nil, (*killCase).wasStopped},
	{"start", func(*killCase) body { return body{"from": "savepoint", "savepoint": "before", "request": "once"} }, (*killCase).running, (*killCase).wasSent},
	{"fork", func(*killCase) body { return body{"as": "copy", "savepoint": "before", "request": "once"} }, (*killCase).running, (*killCase).wasForked},
	{"delete", func(*killCase) body { return body{"confirm": tallyName, "savepoints": true} }, nil, (*killCase).wasDeleted},
}

// TestControlKills kills the worker at the k-th request that it makes to the broker while it carries out a request for a savepoint, a
// stop, a start from a savepoint, a fork, a deletion. Another worker then finds the old state or the wished one; asking again brings
// the wished one, once; no result is lost or doubled; nothing is left behind.
func TestControlKills(t *testing.T) {
	seed := newSeed(t)
	for n, plan := range killPlans {
		t.Run(plan.verb, func(t *testing.T) {
			calm := &killCase{plan: plan, rng: newRand(seed, uint64(n)), tenant: plan.verb + "-calm", fault: newFailpoint(0, crashBefore)}
			calm.run(t)
			requests := len(calm.fault.requests())
			t.Logf("undisturbed it takes %d requests", requests)
			var points []point
			for at := 1; at <= requests; at++ {
				points = append(points, point{at, crashBefore}, point{at, crashAfter})
			}
			if !*allFlag {
				calm.rng.Shuffle(len(points), func(i, j int) { points[i], points[j] = points[j], points[i] })
				points = points[:min(controlKills, len(points))]
			}
			t.Run("at", func(t *testing.T) {
				for _, p := range points {
					t.Run(fmt.Sprintf("%d-%s", p.at, p.kind), func(t *testing.T) {
						t.Parallel()
						c := &killCase{plan: plan, rng: newRand(seed, uint64(n), uint64(p.at), uint64(p.kind)), fault: newFailpoint(p.at, p.kind)}
						c.tenant = fmt.Sprintf("%s-%d-%d", plan.verb, p.at, p.kind)
						c.run(t)
					})
				}
			})
		})
	}
}

// killCase is one request and one kill, on a server of its own: only the worker that is to die hears the request.
type killCase struct {
	t      *testing.T
	plan   killPlan
	site   *site
	rng    *rand.Rand
	tenant string
	fault  *failpoint
	feed   *feed
	before uint64 // the position of the savepoint that is there before
	jobs   []string
}

func (c *killCase) worker(name string, change ...func(*jetstream.Config)) *controlWorker {
	c.t.Helper()
	w := c.site.controlWorker(c.t, controlConfig{
		Name: c.tenant + name, Tenants: []string{c.tenant}, Interval: time.Hour, Retained: 2, Timeout: time.Second, Takeover: 200 * time.Millisecond,
	}, change...)
	c.t.Cleanup(func() {
		if c.t.Failed() {
			c.t.Logf("worker %s:\n%s", name, w.log.tail())
		}
	})
	return w
}

func (c *killCase) run(t *testing.T) {
	c.t, c.site, c.feed, c.jobs = t, oneSite(t), newFeed(c.tenant), []string{tallyName}
	c.site.layout(t, c.tenant, c.rng.IntN(2) == 0)
	var armed atomic.Bool
	w := c.worker("-a", func(cfg *jetstream.Config) {
		cfg.Intercept = func(op, subject string) jetstream.Fault {
			if !armed.Load() || c.fault.at == 0 && op == "heartbeat" {
				return jetstream.Pass
			}
			return c.fault.intercept(op, subject)
		}
	})
	c.fault.mu.Lock()
	c.fault.onKill = w.cancel
	c.fault.mu.Unlock()
	c.publish()
	c.before = done[processor.SavepointReport](t, c.site, c.tenant, tallyName, "savepoint", body{"name": "before"}).Positions["events"].Sequence
	c.publish()
	c.site.settle(t, c.feed, tallyName)
	c.publish()
	armed.Store(true)
	c.strike(w)
	armed.Store(false)
	c.worker("-b")
	if c.plan.between != nil && c.fault.at > 0 {
		c.plan.between(c)
	}
	a, err := c.site.persist(context.Background(), c.tenant, tallyName, c.plan.verb, c.plan.body(c))
	ok(t, err)
	if a.reason == processor.ReasonFailed && c.plan.verb == "stop" {
		// The worker died between the intent and the savepoint, and the next one has ended the job: it says so, and goes on.
		done[processor.JobReport](t, c.site, c.tenant, tallyName, "start", nil)
		a, err = c.site.persist(context.Background(), c.tenant, tallyName, "stop", c.plan.body(c))
		ok(t, err)
	}
	if a.reason != "" {
		t.Fatalf("asking again for %s: %s", c.plan.verb, a.Error())
	}
	c.plan.after(c, a)
	if len(c.jobs) == 0 {
		return
	}
	c.publish()
	for _, job := range c.jobs {
		c.site.settle(t, c.feed, job)
		shadow := ""
		if job != tallyName {
			shadow = "shadow." + job
		}
		c.site.exactSpans(t, c.feed, job, shadow, c.site.rec.spans(t, c.site, c.tenant, job))
	}
	// A new attempt looks for orphans at its first checkpoint.
	c.site.exactBuckets(t, c.tenant, func() {
		for _, job := range c.jobs {
			done[processor.StopReport](t, c.site, c.tenant, job, "stop", nil)
			done[processor.JobReport](t, c.site, c.tenant, job, "start", nil)
			done[processor.CheckpointReport](t, c.site, c.tenant, job, "checkpoint", nil)
		}
	})
}

func (c *killCase) publish() {
	c.t.Helper()
	ok(c.t, c.feed.publish(context.Background(), c.site, c.feed.hist.random(c.rng, 10+c.rng.IntN(20), 7)))
}

// strike asks, and waits until the worker is dead or has answered.
func (c *killCase) strike(w *controlWorker) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	answered := make(chan error, 1)
	go func() {
		a, err := c.site.ask(ctx, c.tenant, tallyName, c.plan.verb, c.plan.body(c))
		if err == nil && a.reason != "" {
			err = a
		}
		answered <- err
	}()
	select {
	case err := <-answered:
		if err != nil && !c.fault.hasStruck() {
			c.t.Fatalf("%s fails without a fault: %v", c.plan.verb, err)
		}
		w.kill()
	case <-c.fault.struck:
		w.kill()
		cancel()
		<-answered
	}
}

// running fails unless the job comes to run again.
func (c *killCase) running() {
	c.t.Helper()
	eventually(c.t, "the job runs", func() bool {
		rep := done[processor.JobReport](c.t, c.site, c.tenant, tallyName, "status", nil)
		if rep.State == processor.JobFailed || rep.State == processor.JobParked {
			c.t.Fatalf("the job is %s: %s", rep.State, rep.Reason)
		}
		return rep.State == processor.JobRunning
	})
}

func (c *killCase) savepoints(job string) map[string]processor.SavepointReport {
	c.t.Helper()
	page := done[struct {
		Savepoints []processor.SavepointReport
		Next       string
	}](c.t, c.site, c.tenant, job, "savepoints", nil)
	all := map[string]processor.SavepointReport{}
	for _, rep := range page.Savepoints {
		all[rep.Name] = rep
	}
	return all
}

func (c *killCase) hasAsked(a answer) {
	c.t.Helper()
	want := decoded[processor.SavepointReport](c.t, a)
	all := c.savepoints(tallyName)
	if got := all["asked"]; len(all) != 2 || got.Checkpoint != want.Checkpoint {
		c.t.Fatalf("the savepoint is %+v, the savepoints there are: %+v", want, all)
	}
}

// wasStopped also fails if the job is stopped without the savepoint that was asked for.
func (c *killCase) wasStopped(a answer) {
	c.t.Helper()
	rep := decoded[processor.StopReport](c.t, a)
	if all := c.savepoints(tallyName); len(all) != 2 || !rep.Published {
		c.t.Fatalf("the stop says %+v, the savepoints there are: %+v", rep, all)
	}
	done[processor.JobReport](c.t, c.site, c.tenant, tallyName, "start", nil)
}

func (c *killCase) wasSent(answer) {
	c.t.Helper()
	c.site.settle(c.t, c.feed, tallyName)
	spans := c.site.rec.spans(c.t, c.site, c.tenant, tallyName)
	if len(spans) != 2 || spans[1].from != c.before {
		c.t.Fatalf("the job was sent to %d once: its commits say %v", c.before, spans)
	}
}

func (c *killCase) wasForked(answer) {
	c.t.Helper()
	c.site.settle(c.t, c.feed, "copy")
	spans := c.site.rec.spans(c.t, c.site, c.tenant, "copy")
	if len(spans) != 1 || spans[0].from != c.before {
		c.t.Fatalf("the fork begins at %d: its commits say %v", c.before, spans)
	}
	c.jobs = append(c.jobs, "copy")
}

func (c *killCase) wasDeleted(answer) {
	c.t.Helper()
	c.jobs = nil
	h, err := c.site.look(context.Background(), c.tenant)
	ok(c.t, err)
	if len(h.objects)+len(h.chunks)+len(h.referenced) > 0 {
		c.t.Fatalf("the job is deleted, and there are %v objects, chunks %v, and references %v", h.objects, h.chunks, h.referenced)
	}
}
