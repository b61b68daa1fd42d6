package integration_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/processor"
)

// TestControlOwner: requests reach the owner whichever of two workers hears them; when the owner is killed the other one takes over and
// answers, and no result is lost or doubled.
func TestControlOwner(t *testing.T) {
	rng := newRand(newSeed(t))
	s := oneSite(t)
	f := newFeed("owned")
	s.layout(t, f.tenant, true)
	cfg := controlConfig{Tenants: []string{f.tenant}, Interval: 30 * time.Millisecond, Retained: 3, Timeout: patience, Takeover: 300 * time.Millisecond}
	workers := map[string]*controlWorker{}
	for _, name := range []string{"one", "two"} {
		cfg.Name = name
		workers[name] = s.controlWorker(t, cfg)
	}
	publish := func() { ok(t, f.publish(context.Background(), s, f.hist.random(rng, 40, 9))) }
	publish()
	s.settle(t, f, tallyName)
	owner := done[processor.JobReport](t, s, f.tenant, tallyName, "status", nil).Worker
	for n := range 20 { // the queue group gives each worker some of them
		rep := done[processor.JobReport](t, s, f.tenant, tallyName, "status", nil)
		if rep.Worker != owner || rep.State != processor.JobRunning || rep.Sources == nil {
			t.Fatalf("the owner is %s, and what is live is in its answer only: %+v", owner, rep)
		}
		done[processor.SavepointReport](t, s, f.tenant, tallyName, "savepoint", body{"name": fmt.Sprintf("sp-%d", n)})
	}
	publish()
	workers[owner].kill()
	publish()
	s.settle(t, f, tallyName)
	rep := done[processor.JobReport](t, s, f.tenant, tallyName, "status", nil)
	if rep.Worker == owner || workers[rep.Worker] == nil || rep.Epoch < 2 {
		t.Fatalf("worker %s was killed, and the job says %+v", owner, rep)
	}
	s.exactSpans(t, f, tallyName, "", s.rec.spans(t, s, f.tenant, tallyName))
}

// TestControlForkWrites: a fork writes its results below its shadow prefix, and what is Weir's own under its own name, and nothing else.
func TestControlForkWrites(t *testing.T) {
	rng := newRand(newSeed(t))
	s := oneSite(t)
	var feeds []*feed
	cfg := controlConfig{Name: "w", Interval: time.Hour, Retained: 3, Timeout: patience, Takeover: time.Second}
	for _, name := range []string{"forked", "beside"} {
		f := newFeed(name)
		s.layout(t, name, false)
		cfg.Tenants, feeds = append(cfg.Tenants, name), append(feeds, f)
	}
	s.controlWorker(t, cfg)
	f := feeds[0]
	for _, f := range feeds {
		ok(t, f.publish(context.Background(), s, f.hist.random(rng, 60, 9)))
		s.settle(t, f, tallyName)
		done[processor.SavepointReport](t, s, f.tenant, tallyName, "savepoint", body{"name": "here"})
		ok(t, f.publish(context.Background(), s, f.hist.random(rng, 60, 9)))
		s.settle(t, f, tallyName)
		done[processor.StopReport](t, s, f.tenant, tallyName, "stop", nil) // from here on only the fork writes
	}
	before := s.everything(t)
	done[processor.JobReport](t, s, f.tenant, tallyName, "fork", body{"as": "copy", "savepoint": "here"})
	s.settle(t, f, "copy")
	done[processor.StopReport](t, s, f.tenant, "copy", "stop", nil)
	after := s.everything(t)
	spans := s.rec.spans(t, s, f.tenant, "copy")
	s.exactSpans(t, f, "copy", "shadow.copy", spans)
	allowed := []string{
		"forked.shadow.copy.", "$KV.tallies.forked.shadow.copy.", "$KV.tallies._weir.", "weir.dlq.forked.copy", "weir.dlq._weir.",
		"$KV.weir_checkpoints.forked.copy", "$KV.weir_jobs.forked.copy", "$KV.weir_workers.", "$O.weir_forked.",
	}
	for subject, m := range after {
		if before[subject] != m && !hasPrefixOf(subject, allowed) {
			t.Errorf("the fork has written on %s: %v before, %v after", subject, before[subject], m)
		}
	}
	for subject := range before {
		if _, there := after[subject]; !there && !hasPrefixOf(subject, allowed) {
			t.Errorf("the fork has removed %s", subject)
		}
	}
	for _, f := range feeds {
		s.exactSpans(t, f, tallyName, "", s.rec.spans(t, s, f.tenant, tallyName))
	}
}

func hasPrefixOf(s string, prefixes []string) bool {
	for _, p := range prefixes {
		if len(s) >= len(p) && s[:len(p)] == p {
			return true
		}
	}
	return false
}

// written is what lies on a subject: how many messages, and which is the last.
type written struct {
	count int
	last  uint64
}

// everything is what lies on every subject of every stream.
func (s *site) everything(t testing.TB) map[string]written {
	t.Helper()
	ctx := context.Background()
	all := map[string]written{}
	streams := s.js.ListStreams(ctx)
	var names []string
	for info := range streams.Info() {
		names = append(names, info.Config.Name)
	}
	ok(t, streams.Err())
	for _, name := range names {
		ok(t, readStream(ctx, s.js, name, ">", func(m js.Msg) error {
			meta, err := m.Metadata()
			if err == nil {
				all[m.Subject()] = written{all[m.Subject()].count + 1, meta.Sequence.Stream}
			}
			return err
		}))
	}
	return all
}
