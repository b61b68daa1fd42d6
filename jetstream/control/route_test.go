package control_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirstream/weir/jetstream/control"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// TestForwarding asks workers until every verb has met one that does not own the job: the answer is the owner's either way.
func TestForwarding(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 3)
		for i := range 60 {
			r := into[processor.JobReport](t, w.ask("weir.v1.acme.revenue.status", ""))
			equal(t, "live elements", r.Elements, uint64(42))
			equal(t, "checkpoint", into[processor.CheckpointReport](t, w.ask("weir.v1.acme.revenue.checkpoint", "")).Checkpoint, uint64(7))
			equal(t, "savepoint", into[processor.SavepointReport](t, w.ask("weir.v1.acme.revenue.savepoint", fmt.Sprintf(`{"name":"s-%d"}`, i))).Name, fmt.Sprintf("s-%d", i))
			a := w.ask("weir.v1.acme.revenue.savepoint", fmt.Sprintf(`{"name":"s-%d","request":"other"}`, i))
			equal(t, "conflict", a.verdict(), "409 conflict")
			into[processor.StateReport](t, w.ask("weir.v1.acme.revenue.state", `{"operator":"o","state":"s","key":"k"}`))
		}
		// All three heard some, and only the owner was handed any.
		for p, s := range w.services {
			if s.Stats()["checkpoint"].Requests == 0 {
				t.Errorf("%s heard no request", p)
			}
		}
		if n := w.services["p1"].Stats()["checkpoint"].Requests; n != 60 {
			t.Errorf("the owner carried out %d of 60 requests", n)
		}
	})
}

// TestOwnerGone: nobody listens on the owner's subject.
func TestOwnerGone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		w.with("acme/revenue", func(j *fakeJob) { j.owner = "p9" })
		begun := time.Now()
		a := w.ask("weir.v1.acme.revenue.stop", "")
		equal(t, "answer", a.verdict(), "503 no-owner")
		if !strings.Contains(a.Message, "w-p9") || !strings.Contains(a.Message, begun.UTC().Format(time.RFC3339)) {
			t.Errorf("the sentence names neither owner nor time: %s", a.Message)
		}
		if d := time.Since(begun); d > time.Second {
			t.Errorf("that took %s", d)
		}
		// What the records say is told all the same.
		r := into[processor.JobReport](t, w.ask("weir.v1.acme.revenue.status", ""))
		equal(t, "owner", r.Worker, "w-p9")
		equal(t, "elements", r.Elements, uint64(0))
	})
}

// TestSlowOwner works for longer than an owner may be silent.
func TestSlowOwner(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		w.intercept(func(_, verb string, _ tenants.JobID) error {
			if verb == "stop" {
				time.Sleep(2 * time.Minute)
			}
			return nil
		}, nil)
		begun := time.Now()
		for range 4 { // whichever hears it
			w.with("acme/revenue", func(j *fakeJob) { j.running = true })
			equal(t, "published", into[processor.StopReport](t, w.ask("weir.v1.acme.revenue.stop", "")).Published, true)
		}
		if d := time.Since(begun); d < 8*time.Minute {
			t.Errorf("the stops took %s", d)
		}
	})
}

// TestSilentOwner: the owner's process hangs, before it begins or after.
func TestSilentOwner(t *testing.T) {
	for _, begins := range []bool{false, true} {
		t.Run(fmt.Sprint(begins), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, 1)
				w.with("acme/revenue", func(j *fakeJob) { j.owner = "p9" })
				_, err := w.nc.Subscribe("weir.worker.p9.*.*.*", func(m *nats.Msg) {
					if begins {
						_ = w.nc.PublishMsg(&nats.Msg{Subject: m.Reply, Header: nats.Header{"Weir-Working": {"1"}}})
					}
				})
				ok(t, err)
				begun := time.Now()
				a := w.ask("weir.v1.acme.revenue.stop", "")
				want := map[bool]string{false: "503 no-owner", true: "503 unavailable"}[begins]
				equal(t, "answer", a.verdict(), want)
				if d := time.Since(begun); d < 10*time.Second || d > 25*time.Second {
					t.Errorf("it was waited for %s", d)
				}
			})
		})
	}
}

// TestHandedOnce: a job that changes hands while a request is under way is not followed.
func TestHandedOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 3)
		calls := 0
		w.intercept(func(worker, verb string, id tenants.JobID) error {
			if verb != "stop" {
				return nil
			}
			calls++
			other := map[string]string{"p1": "p2", "p2": "p3", "p3": "p1"}[worker]
			return &processor.NotOwnerError{Job: id, Worker: "w-" + other, Process: "w-" + other + "." + other}
		}, nil)
		a := w.ask("weir.v1.acme.revenue.stop", "")
		equal(t, "answer", a.verdict(), "503 unavailable")
		equal(t, "calls", calls, 2)
	})
}

// TestInsideIsStrict: what comes on the workers' subjects is checked as well.
func TestInsideIsStrict(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 1)
		for subject, body := range map[string]string{
			"weir.worker.p1.acme.revenue.hold":   `{"id":"x","timeout":"2h"}`,
			"weir.worker.p1.acme.revenue.cut":    `{"name":"../x"}`,
			"weir.worker.p1.acme.revenue.resume": `{"nme":"x"}`,
			"weir.worker.p1.weir.revenue.stop":   ``,
		} {
			equal(t, subject, w.ask(subject, body).code, 400)
		}
		equal(t, "calls", len(w.called()), 0)
		// Internal verbs have no public subject.
		if _, err := request(w.nc, "weir.v1.acme.revenue.hold", `{"id":"x","timeout":"1s"}`); !errors.Is(err, nats.ErrNoResponders) {
			t.Errorf("hold was answered in public: %v", err)
		}
	})
}

// TestTooManyHanded bounds what other workers hand over.
func TestTooManyHanded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 2, func(c *control.Config) { c.Limits.Forwarded = 1 })
		first := make(chan error, 1)
		go func() {
			_, err := request(w.connect(), "weir.worker.p1.acme.revenue.savepoint", `{"name":"one"}`)
			first <- err
		}()
		time.Sleep(100 * time.Millisecond)
		equal(t, "the second", w.ask("weir.worker.p1.acme.revenue.checkpoint", "").code, 429)
		ok(t, <-first)
	})
}
