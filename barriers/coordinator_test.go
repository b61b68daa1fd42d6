package barriers

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// coordinatorModel follows the actions of a coordinator and knows nothing but the rules.
type coordinatorModel struct {
	t      *rapid.T
	cfg    CoordinatorConfig
	tasks  int
	now    time.Time
	id     uint64
	phase  string // idle, collecting, committing, releasing, ended
	acked  map[int]bool
	inject bool

	dirty, requested, risk bool
	serving                bool
	triggered, ended       time.Time // of the last checkpoint
	failures               int
	resolves               bool // the input that is being handled is CommitDone
}

func (m *coordinatorModel) follow(actions []Action) {
	for _, a := range actions {
		if m.phase == "ended" {
			m.t.Fatalf("%T after the end", a)
		}
		switch a := a.(type) {
		case Trigger:
			m.trigger(a)
		case Inject:
			m.must(m.phase == "collecting" && a.Checkpoint == m.id && !m.inject, "inject %d in %s", a.Checkpoint, m.phase)
			m.inject = true
		case StartCommit:
			m.must(m.phase == "collecting" && a.Checkpoint == m.id && len(m.acked) == m.tasks, "commit %d with %d acks in %s", a.Checkpoint, len(m.acked), m.phase)
			m.phase = "committing"
		case StartRelease:
			m.must(m.phase == "committing" && a.Checkpoint == m.id && m.resolves, "release %d in %s", a.Checkpoint, m.phase)
			m.phase = "releasing"
		case Complete:
			m.must(m.phase == "releasing" && a.Checkpoint == m.id, "complete %d in %s", a.Checkpoint, m.phase)
			m.must(a.Stats.Acked+a.Stats.Commit+a.Stats.Release == m.now.Sub(m.triggered), "the parts add up to %s of %s", a.Stats.Total(), m.now.Sub(m.triggered))
			m.phase, m.ended, m.failures, m.serving = "idle", m.now, 0, false
		case Abort:
			m.must(m.phase == "collecting" || m.phase == "committing" && m.resolves, "abort %d in %s", a.Checkpoint, m.phase)
			m.must(a.Checkpoint == m.id && a.Err != nil, "abort %d of %d", a.Checkpoint, m.id)
			m.phase, m.ended, m.dirty = "idle", m.now, true
			m.requested = m.requested || m.serving
			m.serving = false
			m.failures++
		case Fail:
			m.must(m.failures > m.cfg.TolerableFailures || m.resolves, "fail after %d failures", m.failures)
			m.phase = "ended"
		}
	}
	m.must(m.phase == "ended" || m.failures <= m.cfg.TolerableFailures, "%d failures and no end", m.failures)
}

func (m *coordinatorModel) trigger(a Trigger) {
	m.must(m.phase == "idle" && a.Checkpoint == m.id+1, "trigger %d after %d in %s", a.Checkpoint, m.id, m.phase)
	m.must(m.requested || m.dirty || m.risk, "trigger %d for no reason", a.Checkpoint)
	if m.requested {
		m.must(m.failures == 0 || m.now.Sub(m.ended) >= m.cfg.MinPause, "trigger %d too soon after a failure", a.Checkpoint)
	} else {
		m.must(m.now.Sub(m.triggered) >= m.cfg.Interval && m.now.Sub(m.ended) >= m.cfg.MinPause, "trigger %d too soon", a.Checkpoint)
	}
	m.id++
	m.phase, m.acked, m.inject, m.triggered = "collecting", map[int]bool{}, !a.InStream, m.now
	m.serving = m.requested
	m.dirty, m.requested, m.risk = false, false, false
}

func (m *coordinatorModel) must(ok bool, format string, args ...any) {
	if !ok {
		m.t.Fatalf(format, args...)
	}
}

// due says when a checkpoint that nothing holds up must have started.
func (m *coordinatorModel) due() (time.Time, bool) {
	switch {
	case m.phase != "idle":
	case m.requested && m.failures > 0:
		return m.ended.Add(m.cfg.MinPause), true
	case m.requested:
		return m.now, true
	case m.dirty || m.risk:
		return later(m.triggered.Add(m.cfg.Interval), m.ended.Add(m.cfg.MinPause)), true
	}
	return time.Time{}, false
}

func TestCoordinatorModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ms := func(name string, from, to int) time.Duration {
			return time.Duration(rapid.IntRange(from, to).Draw(t, name)) * time.Millisecond
		}
		cfg := CoordinatorConfig{
			Interval: ms("interval", 1, 50), Timeout: ms("timeout", 1, 100), MinPause: ms("pause", 0, 30),
			TolerableFailures: rapid.IntRange(0, 3).Draw(t, "tolerable"), InStream: rapid.Bool().Draw(t, "in stream"),
			Sources: rapid.IntRange(0, 2).Draw(t, "sources"), EchoTimeout: ms("echo", 1, 30), LagThreshold: 10,
		}
		m := &coordinatorModel{t: t, cfg: cfg, tasks: rapid.IntRange(0, 3).Draw(t, "tasks"), now: simStart, phase: "idle", triggered: simStart}
		m.id = uint64(rapid.IntRange(0, 5).Draw(t, "last"))
		c := NewCoordinator(cfg, m.tasks, m.id, m.now)
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			playCoordinator(t, c, m)
			if want := m.id; c.LastID() != want {
				t.Fatalf("last ID is %d, expected %d", c.LastID(), want)
			}
			if inFlight := m.phase != "idle" && m.phase != "ended"; (c.Checkpoint() != 0) != inFlight {
				t.Fatalf("in flight is %d in %s", c.Checkpoint(), m.phase)
			}
			at, ok := m.due()
			m.must(!ok || m.now.Before(at), "the checkpoint due at %s has not started", at)
			m.must(!ok || c.Deadline().Equal(at), "the deadline is %s, due is %s", c.Deadline(), at)
		}
	})
}

func playCoordinator(t *rapid.T, c *Coordinator, m *coordinatorModel) {
	m.resolves = false
	id := m.id
	if rapid.IntRange(0, 9).Draw(t, "other") == 0 {
		id = uint64(rapid.IntRange(0, 9).Draw(t, "id"))
	}
	task := rapid.IntRange(0, max(m.tasks-1, 0)).Draw(t, "task")
	verbs := []string{"tick", "tick", "deadline", "dirty", "request", "risk", "ack", "ack", "ack", "ack", "decline", "echo", "lag", "committed", "committed", "commit failed", "released", "released"}
	switch rapid.SampledFrom(verbs).Draw(t, "verb") {
	case "tick":
		deadline := c.Deadline()
		m.now = m.now.Add(time.Duration(rapid.IntRange(0, 40).Draw(t, "ms")) * time.Millisecond)
		actions := c.Tick(m.now)
		m.must(reached(m.now, deadline) == (len(actions) > 0), "%d actions at %s, the deadline was %s", len(actions), m.now, deadline)
		m.follow(actions)
	case "deadline":
		if d := c.Deadline(); !d.IsZero() {
			m.now = later(m.now, d)
			m.follow(c.Tick(m.now))
		}
	case "dirty":
		m.dirty = true
		m.follow(c.Dirty(m.now))
	case "risk":
		m.risk = true
		m.follow(c.RetentionRisk(m.now))
	case "request":
		m.requested = true
		m.follow(c.Request(m.now))
	case "ack":
		if m.phase == "collecting" && id == m.id && task < m.tasks {
			m.acked[task] = true
		}
		m.follow(c.Ack(m.now, id, task))
	case "decline":
		m.follow(c.Decline(m.now, id, task, errors.New("no")))
	case "echo":
		c.Echoed(m.now, rapid.SampledFrom([]string{"a", "b"}).Draw(t, "source"))
	case "lag":
		c.SetLag("a", uint64(rapid.IntRange(0, 20).Draw(t, "lag")))
	case "committed":
		m.resolves = id == m.id
		m.follow(c.CommitDone(m.now, id, nil))
	case "commit failed":
		m.resolves = id == m.id
		m.follow(c.CommitDone(m.now, id, rapid.SampledFrom([]error{errors.New("no"), ErrFenced, ErrCommitUnresolved}).Draw(t, "err")))
	case "released":
		m.follow(c.Released(m.now, id))
	}
}
