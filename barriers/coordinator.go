package barriers

import (
	"errors"
	"fmt"
	"time"
)

// CoordinatorConfig says when a job checkpoints.
type CoordinatorConfig struct {
	// Interval is the least time between the starts of two checkpoints that nobody asked for. Zero: only on demand.
	Interval time.Duration
	// Timeout aborts a checkpoint that not every task has acknowledged in time. Zero: none.
	Timeout time.Duration
	// MinPause is the least time between the end of one checkpoint, or its failure, and the start of the next that nobody asked for.
	MinPause time.Duration
	// TolerableFailures is how many checkpoints in a row may fail before the attempt does.
	TolerableFailures int
	// InStream lets barriers travel in the input streams.
	InStream bool
	// Sources is the number of sources that echo an in-stream barrier by reading it. Zero: not known, the barrier is then injected
	// once more when EchoTimeout has passed, which sources that have emitted it ignore.
	Sources int
	// EchoTimeout is how long to wait for the echoes before the barrier is injected at the readers. Zero: 1 s.
	EchoTimeout time.Duration
	// LagThreshold is the number of unread messages above which a source lags: barriers are then injected, not published.
	LagThreshold uint64
}

// Action is one thing the caller of a Coordinator must do: Trigger, Inject, StartCommit, StartRelease, Complete, Abort or Fail.
// Actions are done in their order.
type Action interface{ isAction() }

type (
	// Trigger: tell every task that Checkpoint is pending, then publish its barrier into the input streams (InStream), or have the
	// sources inject it.
	Trigger struct {
		Checkpoint uint64
		InStream   bool
	}
	// Inject: have every source that has not emitted Checkpoint's barrier inject it. Sources keep to once per ID.
	Inject struct{ Checkpoint uint64 }
	// StartCommit: write the manifest and the head, then call CommitDone.
	StartCommit struct{ Checkpoint uint64 }
	// StartRelease: publish what the committed checkpoint owes, then call Released.
	StartRelease struct{ Checkpoint uint64 }
	// Complete: the checkpoint is committed and released.
	Complete struct {
		Checkpoint uint64
		Stats      CheckpointStats
	}
	// Abort: tell every task that Checkpoint will never be committed.
	Abort struct {
		Checkpoint uint64
		Err        error
	}
	// Fail: the attempt must end. No action ever follows it.
	Fail struct{ Err error }
)

func (Trigger) isAction()      {}
func (Inject) isAction()       {}
func (StartCommit) isAction()  {}
func (StartRelease) isAction() {}
func (Complete) isAction()     {}
func (Abort) isAction()        {}
func (Fail) isAction()         {}

// CheckpointStats says how long the parts of a checkpoint took.
type CheckpointStats struct {
	Started  time.Time
	Acked    time.Duration // from the trigger to the last task's ack
	Commit   time.Duration // from there to the head write
	Release  time.Duration // from there to the end of the release
	Injected bool          // the barrier did not travel in the stream
	Failures int           // failed checkpoints right before this one
}

// Total is the time from trigger to release.
func (s CheckpointStats) Total() time.Duration { return s.Acked + s.Commit + s.Release }

type phase uint8

const (
	phaseIdle phase = iota
	phaseCollecting
	phaseCommitting
	phaseReleasing
	phaseEnded
)

// Coordinator decides when a job's checkpoints start, are given up, commit, and release. One is in flight at a time: N starts when it
// is due and N-1 is released. A checkpoint ID is never used twice, an aborted one's neither: whatever arrives late for it
// falls away. Once StartCommit was given out only CommitDone ends the checkpoint: its head write may be on its way.
//
// A request waits for neither Interval nor MinPause, only for the checkpoint in flight; but behind a failure it waits for MinPause
// like everybody, lest it fail in a tight loop. It outlives aborted checkpoints: the next one serves it. A job with nothing to checkpoint has no deadline; when
// something happens and the interval has long passed, the checkpoint starts at once. It is not safe for concurrent use.
type Coordinator struct {
	cfg   CoordinatorConfig
	tasks int
	phase phase

	id       uint64 // last one given out
	acked    []bool
	missing  int
	echoed   map[string]bool
	lag      map[string]uint64
	inStream bool // the one in flight
	stats    CheckpointStats
	serving  bool // the one in flight was requested
	since    time.Time
	deadline time.Time // of the one in flight
	echoBy   time.Time

	resting   bool
	requested bool
	dirty     bool
	risk      bool
	due       time.Time // earliest start that nobody asked for
	retry     time.Time // earliest start of anything behind a failure
	failures  int
	actions   []Action
}

// NewCoordinator returns the coordinator of an attempt whose tasks, numbered 0 to tasks-1, must all acknowledge a checkpoint. lastID
// is the head's checkpoint: IDs go on from it.
func NewCoordinator(cfg CoordinatorConfig, tasks int, lastID uint64, now time.Time) *Coordinator {
	if cfg.EchoTimeout <= 0 {
		cfg.EchoTimeout = time.Second
	}
	return &Coordinator{
		cfg: cfg, tasks: tasks, id: lastID,
		acked:  make([]bool, tasks),
		echoed: map[string]bool{},
		lag:    map[string]uint64{},
		due:    now.Add(cfg.Interval),
	}
}

// Tick says that time has passed. The slice of actions that this and the other inputs return is valid until the next input.
func (c *Coordinator) Tick(now time.Time) []Action {
	c.actions = c.actions[:0]
	if c.phase == phaseCollecting {
		switch {
		case reached(now, c.deadline):
			c.abort(now, fmt.Errorf("checkpoint %d timed out after %s: %d of %d tasks acknowledged it", c.id, c.cfg.Timeout, c.tasks-c.missing, c.tasks))
		case reached(now, c.echoBy):
			c.inject()
		}
	}
	return c.start(now)
}

// Dirty says that there is something to checkpoint: input, a timer, a state change, pending output.
func (c *Coordinator) Dirty(now time.Time) []Action {
	c.actions = c.actions[:0]
	c.dirty = true
	return c.start(now)
}

// RetentionRisk says that an idle job's position may soon be overtaken by retention: it must be committed although nothing happened.
func (c *Coordinator) RetentionRisk(now time.Time) []Action {
	c.actions = c.actions[:0]
	c.risk = true
	return c.start(now)
}

// Request asks for a checkpoint that is cut after this call: one already in flight does not serve it.
func (c *Coordinator) Request(now time.Time) []Action {
	c.actions = c.actions[:0]
	c.requested = true
	return c.start(now)
}

// Extend restarts the timeout of the checkpoint in flight: it waits for room, which is back-pressure and not a failure.
func (c *Coordinator) Extend(now time.Time) {
	if c.phase == phaseCollecting && c.cfg.Timeout > 0 {
		c.deadline = now.Add(c.cfg.Timeout)
	}
}

// Ack says that a task's part of the checkpoint is durable.
func (c *Coordinator) Ack(now time.Time, checkpoint uint64, task int) []Action {
	c.actions = c.actions[:0]
	if c.phase != phaseCollecting || checkpoint != c.id || task < 0 || task >= c.tasks || c.acked[task] {
		return c.actions
	}
	c.acked[task] = true
	c.missing--
	c.collected(now)
	return c.actions
}

// Decline says that a task cannot take part in the checkpoint.
func (c *Coordinator) Decline(now time.Time, checkpoint uint64, task int, err error) []Action {
	c.actions = c.actions[:0]
	if c.phase == phaseCollecting && checkpoint == c.id {
		c.abort(now, fmt.Errorf("task %d declined checkpoint %d: %w", task, checkpoint, err))
	}
	return c.start(now)
}

// Echoed says that a source has cut the checkpoint in flight at its in-stream barrier.
func (c *Coordinator) Echoed(_ time.Time, source string) {
	if c.phase != phaseCollecting || c.cfg.Sources == 0 {
		return
	}
	c.echoed[source] = true
	if len(c.echoed) >= c.cfg.Sources {
		c.echoBy = time.Time{}
	}
}

// SetLag says how many messages a source has not read yet. A source of a checkpoint in flight that begins to lag has its barrier
// injected when the echo is late, not before: a burst is not a lag.
func (c *Coordinator) SetLag(source string, lag uint64) { c.lag[source] = lag }

// CommitDone says how the commit ended. An error means that the checkpoint was certainly not committed, unless it is ErrFenced,
// ErrCommitUnresolved or ErrCanceled, which end the attempt.
func (c *Coordinator) CommitDone(now time.Time, checkpoint uint64, err error) []Action {
	c.actions = c.actions[:0]
	if c.phase != phaseCommitting || checkpoint != c.id {
		return c.actions
	}
	if err != nil {
		if errors.Is(err, ErrFenced) || errors.Is(err, ErrCommitUnresolved) || errors.Is(err, ErrCanceled) {
			c.fail(fmt.Errorf("commit checkpoint %d: %w", checkpoint, err))
			return c.actions
		}
		c.abort(now, fmt.Errorf("commit checkpoint %d: %w", checkpoint, err))
		return c.start(now)
	}
	c.stats.Commit = now.Sub(c.since)
	c.since = now
	c.phase = phaseReleasing
	c.emit(StartRelease{c.id})
	return c.actions
}

// Released says that the committed checkpoint's output is published in full.
func (c *Coordinator) Released(now time.Time, checkpoint uint64) []Action {
	c.actions = c.actions[:0]
	if c.phase != phaseReleasing || checkpoint != c.id {
		return c.actions
	}
	c.stats.Release = now.Sub(c.since)
	c.stats.Failures = c.failures
	c.failures = 0
	c.retry = time.Time{}
	c.phase = phaseIdle
	c.serving = false
	c.emit(Complete{Checkpoint: c.id, Stats: c.stats})
	c.due = later(c.due, now.Add(c.cfg.MinPause))
	return c.start(now)
}

// Rest keeps further checkpoints from starting, for whatever reason, until it is taken back. What is asked for meanwhile is kept.
func (c *Coordinator) Rest(rest bool) { c.resting = rest }

// Checkpoint returns the ID of the checkpoint in flight, 0 if there is none.
func (c *Coordinator) Checkpoint() uint64 {
	if c.phase == phaseIdle || c.phase == phaseEnded {
		return 0
	}
	return c.id
}

// LastID returns the highest ID given out.
func (c *Coordinator) LastID() uint64 { return c.id }

// Deadline is when Tick matters next; zero: not before another input.
func (c *Coordinator) Deadline() time.Time {
	switch c.phase {
	case phaseCollecting:
		return earlier(c.deadline, c.echoBy)
	case phaseIdle:
		if at, ok := c.startAt(); ok {
			return at
		}
	}
	return time.Time{}
}

// startAt returns when the next checkpoint may start, and whether there is a reason for one at all.
func (c *Coordinator) startAt() (time.Time, bool) {
	switch {
	case c.resting:
	case c.requested:
		return c.retry, true
	case (c.dirty || c.risk) && c.cfg.Interval > 0:
		return later(c.due, c.retry), true
	}
	return time.Time{}, false
}

func (c *Coordinator) start(now time.Time) []Action {
	if c.phase != phaseIdle {
		return c.actions
	}
	if at, ok := c.startAt(); !ok || now.Before(at) {
		return c.actions
	}
	c.id++
	c.phase = phaseCollecting
	clear(c.acked)
	clear(c.echoed)
	c.missing = c.tasks
	c.serving, c.requested = c.requested, false
	c.dirty, c.risk = false, false
	c.due = now.Add(c.cfg.Interval)
	c.since = now
	c.inStream = c.cfg.InStream && !c.lagging()
	c.stats = CheckpointStats{Started: now, Injected: !c.inStream}
	c.deadline, c.echoBy = time.Time{}, time.Time{}
	if c.cfg.Timeout > 0 {
		c.deadline = now.Add(c.cfg.Timeout)
	}
	if c.inStream {
		c.echoBy = now.Add(c.cfg.EchoTimeout)
	}
	c.emit(Trigger{Checkpoint: c.id, InStream: c.inStream})
	c.collected(now)
	return c.actions
}

func (c *Coordinator) lagging() bool {
	for _, lag := range c.lag {
		if lag > c.cfg.LagThreshold {
			return true
		}
	}
	return false
}

// collected moves on to the commit when no ack is missing.
func (c *Coordinator) collected(now time.Time) {
	if c.missing > 0 {
		return
	}
	c.stats.Acked = now.Sub(c.since)
	c.since = now
	c.phase = phaseCommitting
	c.emit(StartCommit{c.id})
}

func (c *Coordinator) inject() {
	c.echoBy = time.Time{}
	c.stats.Injected = true
	c.emit(Inject{c.id})
}

// abort gives the checkpoint in flight up. What it had frozen is to be checkpointed again, and a request waits for the next.
func (c *Coordinator) abort(now time.Time, err error) {
	c.phase = phaseIdle
	c.dirty = true
	c.failures++
	c.retry = now.Add(c.cfg.MinPause)
	c.emit(Abort{c.id, err})
	c.requested = c.requested || c.serving
	c.serving = false
	if c.failures > c.cfg.TolerableFailures {
		c.fail(fmt.Errorf("%d checkpoints in a row failed, %d are tolerated: %w", c.failures, c.cfg.TolerableFailures, err))
	}
}

func (c *Coordinator) fail(err error) {
	c.phase = phaseEnded
	c.emit(Fail{err})
}

func (c *Coordinator) emit(a Action) { c.actions = append(c.actions, a) }

func reached(now, t time.Time) bool { return !t.IsZero() && !now.Before(t) }

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// earlier returns the earlier of two times of which either may be zero, that is, never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}
