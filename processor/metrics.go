package processor

import (
	"errors"
	"sync/atomic"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/state"
)

// lateMalformed counts barriers whose bytes are none; the other reasons are numbered by barriers.BarrierVerdict.
const (
	lateMalformed = 0
	lateReasons   = int(barriers.BarrierNotPending) + 1
)

// counts is what a task has done; it belongs to the task's goroutine.
type counts struct {
	in, out, dead uint64
	lateBy        [lateReasons]uint64
	marks         uint64 // ignored
	lateElements  uint64
	far           uint64 // elements too far ahead
	asyncRetries  uint64
	asyncTimeouts uint64
}

func (c *counts) late(reason int) { c.lateBy[reason]++ }

// metrics is a copy of counts that anybody may read, brought up to date once an event.
type metrics struct {
	in, out, dead  atomic.Uint64
	marks, far     atomic.Uint64
	lateElements   atomic.Uint64
	late           [lateReasons]atomic.Uint64
	pending, state atomic.Int64
	calls, lost    atomic.Int64
	retries        atomic.Uint64
	timeouts       atomic.Uint64
}

// sourceMetrics says how far a source is; anybody may read it.
type sourceMetrics struct {
	position, pending atomic.Uint64
	watermark         atomic.Int64
	idle              atomic.Bool
}

// TaskMetrics counts what a task has done since the attempt began.
type TaskMetrics struct {
	RecordsIn   uint64 // records that its sources passed on; none in a task behind an exchange
	RecordsOut  uint64 // messages staged or published
	DeadLetters uint64
	// IgnoredBarriers counts barriers that were read but did not count, by reason: foreign, forged, stale, duplicate, not pending,
	// malformed.
	IgnoredBarriers map[string]uint64
	IgnoredMarks    uint64 // marks that named the job and were ignored: not allowed, too soon, too many
	FarAhead        uint64 // elements whose event time was too far ahead of their record's (MaxAhead)
	LateElements    uint64 // elements that windows and joins refused: after the allowed lateness, or too far ahead
	Abandoned       int64  // goroutines of the job's ended attempts that user code still keeps; none in a task
	PendingBytes    int64  // output staged and not committed
	StateBytes      int64
	// TableRows and TableBytes are what the copies hold that the job's lookups read; others may share them. Zero in a task.
	TableRows  int
	TableBytes int64
	// Of Async: elements in flight, tries that were followed by another, tries without an answer in time, and calls that go on behind their
	// timeout.
	AsyncInFlight  int64
	AsyncRetries   uint64
	AsyncTimeouts  uint64
	AsyncAbandoned int64
}

func (m *TaskMetrics) add(o TaskMetrics) {
	m.RecordsIn += o.RecordsIn
	m.RecordsOut += o.RecordsOut
	m.DeadLetters += o.DeadLetters
	m.IgnoredMarks += o.IgnoredMarks
	m.LateElements += o.LateElements
	m.FarAhead += o.FarAhead
	m.PendingBytes += o.PendingBytes
	m.StateBytes += o.StateBytes
	m.AsyncInFlight += o.AsyncInFlight
	m.AsyncRetries += o.AsyncRetries
	m.AsyncTimeouts += o.AsyncTimeouts
	m.AsyncAbandoned += o.AsyncAbandoned
	for reason, n := range o.IgnoredBarriers {
		m.IgnoredBarriers[reason] += n
	}
}

// metrics returns the task's counters as of its last event. It may be called from any goroutine.
func (t *task) metrics() TaskMetrics {
	m := TaskMetrics{
		RecordsIn: t.shown.in.Load(), RecordsOut: t.shown.out.Load(), DeadLetters: t.shown.dead.Load(), IgnoredMarks: t.shown.marks.Load(),
		LateElements:    t.shown.lateElements.Load(),
		FarAhead:        t.shown.far.Load(),
		IgnoredBarriers: make(map[string]uint64), PendingBytes: t.shown.pending.Load(), StateBytes: t.shown.state.Load(),
		AsyncInFlight: t.shown.calls.Load(), AsyncRetries: t.shown.retries.Load(), AsyncTimeouts: t.shown.timeouts.Load(), AsyncAbandoned: t.shown.lost.Load(),
	}
	for i := range t.shown.late {
		if n := t.shown.late[i].Load(); n > 0 {
			name := "malformed"
			if i != lateMalformed {
				name = barriers.BarrierVerdict(i).String()
			}
			m.IgnoredBarriers[name] = n
		}
	}
	return m
}

// pendingBytes is the output staged and not committed, in bytes. It may be called from any goroutine.
func (t *task) pendingBytes() int64 { return t.shown.pending.Load() }

// show publishes the counters and reports output above the quota.
func (t *task) show() {
	m, c := &t.shown, &t.counts
	m.in.Store(c.in)
	m.out.Store(c.out)
	m.dead.Store(c.dead)
	m.marks.Store(c.marks)
	m.lateElements.Store(c.lateElements)
	m.far.Store(c.far)
	for _, in := range t.inputs {
		if s := in.source; s != nil {
			s.shown.position.Store(s.position)
			s.shown.pending.Store(s.pending)
			s.shown.watermark.Store(in.time.watermark)
			s.shown.idle.Store(in.time.idle)
		}
	}
	for i, n := range c.lateBy {
		if n > 0 {
			m.late[i].Store(n)
		}
	}
	if len(t.asyncs) > 0 {
		t.showCalls()
	}
	var pending, kept int64
	for _, s := range t.sinks {
		pending += s.current.Bytes()
		if s.frozen != nil {
			pending += s.frozen.Bytes()
		}
	}
	for _, o := range t.subtasks {
		kept += o.backend.Bytes()
	}
	m.pending.Store(pending)
	m.state.Store(kept)
	// Half of the quota asks for a checkpoint early, all of it to stop reading: the attempt decides.
	for t.maxPending > 0 && t.over < 2 && pending >= t.maxPending/2*int64(t.over+1) {
		t.over++
		t.host.dirty(t.index)
	}
}

// userError handles an error that an operator's function returned.
func (t *task) userError(op int32, err error) {
	var quota *state.QuotaError
	var undeclared *state.UndeclaredError
	switch {
	case errors.As(err, &quota) && quota.What == "key bytes":
		t.poison(op, err)
	case errors.As(err, &quota), errors.As(err, &undeclared):
		t.fail(Terminal(&OperatorError{t.where(op), err}))
	case ClassOf(err) == ClassPoison:
		t.poison(op, err)
	default:
		t.fail(&OperatorError{t.where(op), err})
	}
}
