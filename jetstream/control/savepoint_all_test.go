package control_test

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirstream/weir/jetstream/control"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

func TestTenantSavepoint(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		w.add("p2", "acme", "alerts", "orders@acme:140", "clicks@web:7")
		w.add("p1", "acme", "audit", "web@web:9", "own@other:3")
		w.add("p1", "acme", "old", "orders@acme:999")
		w.with("acme/old", func(j *fakeJob) { j.running = false }) // takes no part
		w.add("p1", "globex", "revenue", "orders@acme:500")
		got := into[control.TenantSavepoints](t, w.ask("weir.v1.acme._.savepoint", `{"name":"night"}`))
		equal(t, "cut", fmt.Sprint(got.Cut), "map[acme:140 other:3 web:9]")
		equal(t, "savepoints", len(got.Savepoints), 3)
		equal(t, "together", w.verdict("acme", "night"), "all 3")
		for _, job := range []string{"acme/old", "globex/revenue"} {
			w.with(job, func(j *fakeJob) { equal(t, "savepoints of "+job, len(j.savepoints), 0) })
		}

		a := w.ask("weir.v1.acme._.savepoint", `{"name":"night"}`)
		equal(t, "again", a.Reason, processor.ReasonConflict)
		if !strings.Contains(a.Message, "alerts, audit, revenue") {
			t.Errorf("the sentence does not name the jobs: %s", a.Message)
		}
		some := into[control.TenantSavepoints](t, w.ask("weir.v1.acme._.savepoint", `{"name":"some","jobs":["audit","revenue"]}`))
		equal(t, "some", len(some.Savepoints), 2)
		equal(t, "an unknown job", w.ask("weir.v1.acme._.savepoint", `{"name":"x","jobs":["audit","none"]}`).Reason, processor.ReasonUnknownJob)
		equal(t, "an unknown tenant", w.ask("weir.v1.hooli._.savepoint", `{"name":"x"}`).Reason, processor.ReasonUnknownTenant)
		equal(t, "a stopped job", w.ask("weir.v1.acme._.savepoint", `{"name":"x","jobs":["audit","old"]}`).Reason, processor.ReasonNotRunning)
		equal(t, "what that left", w.verdict("acme", "x"), "none")
	})
}

// verdict says what of a tenant-wide savepoint is there: "none", "all N" or what is wrong. No job may still be held.
func (w *world) verdict(tenant, name string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	with, without := 0, 0
	cut := map[string]uint64{}
	for id, j := range w.jobs {
		if id.Tenant != tenants.ID(tenant) || !j.running {
			continue
		}
		if j.hold != "" {
			return id.String() + " is held"
		}
		s, have := j.savepoints[name]
		if !have {
			without++
			continue
		}
		with++
		for source, p := range s.Positions {
			if at, known := cut[p.Stream]; known && at != p.Sequence {
				return fmt.Sprintf("%s's %s was cut at %d of %s, another at %d", id, source, p.Sequence, p.Stream, at)
			}
			cut[p.Stream] = p.Sequence
		}
	}
	switch {
	case with == 0:
		return "none"
	case without == 0:
		return "all " + strconv.Itoa(with)
	}
	return fmt.Sprintf("half: %d of %d", with, with+without)
}

// TestTenantSavepointFailures lets any call of a random fleet fail, hang or lose its answer: there are all savepoints, over one cut,
// exactly where the answer says so, and none where it does not, but for jobs that the answer names as unknown.
func TestTenantSavepointFailures(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	verdicts := map[string]int{}
	for round := range 60 {
		bubble(t, func(t *testing.T) {
			w := newWorld(t, 2, func(c *control.Config) { c.Limits.WorkTimeout = 3 * time.Minute })
			for i := range 1 + rng.IntN(5) {
				w.add(fmt.Sprint("p", 1+rng.IntN(2)), "acme", fmt.Sprint("job", i),
					fmt.Sprintf("a@acme:%d", rng.IntN(1000)), fmt.Sprintf("b@web%d:%d", rng.IntN(2), rng.IntN(1000)))
			}
			f := drawFault(rng)
			w.intercept(f.before, f.after)
			a := w.ask("weir.v1.acme._.savepoint", `{"name":"night"}`)
			w.intercept(nil, nil)
			time.Sleep(2 * time.Minute) // what hangs ends, and so do holds
			got := w.verdict("acme", "night")
			switch {
			case a.code == 0 && !strings.HasPrefix(got, "all"):
				t.Errorf("round %d, %s: answered as made, but %s", round, f, got)
			case a.code != 0 && got != "none" && !strings.Contains(a.Message, "unknown whether"):
				t.Errorf("round %d, %s: refused with %q, but %s", round, f, a.Message, got)
			}
			verdicts[strconv.Itoa(a.code)]++
		})
	}
	if verdicts["0"] == 0 || len(verdicts) < 2 {
		t.Errorf("the faults hit nothing: %v", verdicts)
	}
}

// fault is what goes wrong at the n-th call of a verb.
type fault struct {
	verb, kind string
	at         int

	mu sync.Mutex
	n  int // calls of the verb so far
}

func (f *fault) String() string { return fmt.Sprintf("%s at %s %d", f.kind, f.verb, f.at) }

func drawFault(rng *rand.Rand) *fault {
	verbs := []string{"hold", "savepoint", "saved", "savepoint-delete", "resume", "savepoints", "nothing"}
	kinds := []string{"refusal", "error", "panic", "hang"}
	return &fault{verb: verbs[rng.IntN(len(verbs))], kind: kinds[rng.IntN(len(kinds))], at: rng.IntN(3)}
}

func (f *fault) before(_, verb string, id tenants.JobID) error {
	if verb == f.verb && verb != "saved" && f.verb != "nothing" {
		return f.strike(id)
	}
	return nil
}

func (f *fault) after(_, verb string, id tenants.JobID) error {
	if verb == f.verb && verb == "saved" {
		return f.strike(id)
	}
	return nil
}

func (f *fault) strike(id tenants.JobID) error {
	f.mu.Lock()
	hit := f.n == f.at
	f.n++
	f.mu.Unlock()
	switch {
	case !hit:
		return nil
	case f.kind == "refusal":
		return refuse(processor.ReasonFailed, "job %s cannot", id)
	case f.kind == "error":
		return refuse(processor.ReasonUnavailable, "the broker does not answer for job %s", id)
	case f.kind == "panic":
		panic("struck")
	}
	time.Sleep(time.Minute)
	return nil
}
