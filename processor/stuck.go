package processor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// A record that takes the user's code for ever.
//
// Nothing is measured per record. When a checkpoint is triggered the attempt looks at every task from outside; when it is aborted and
// the timeout has passed, it looks again. A task that is inside the same step with the same record all that time, and does not wait
// for others in it, is stuck: it holds its barrier back longer than a checkpoint may take, and every later one would time out
// likewise. The attempt ends with a *StuckError, which names operator and record, and the restart policy decides. So a record is stuck
// when it takes longer than CheckpointConfig.Timeout, at the latest after twice that. A task whose records move is slow: the
// checkpoint's failure says so, and TolerableFailures decides.
//
// A state's codec runs beside the task, in an upload. An aborted checkpoint waits for its uploads, which end at once unless user code
// keeps them: if no entry was encoded in one more timeout, the attempt ends likewise.
//
// What is not found: a codec that runs in a restore. A start has no time limit; but the end of the attempt does not wait for it.

// StuckError says that user code has not returned for longer than a checkpoint may take. The job restarts from its last checkpoint and
// meets the record again; RestartConfig.Attempts bounds how often.
type StuckError struct {
	Where
	Subtask int           // of the task that it runs in
	Source  string        // of the record; empty in a timer or window
	Codec   bool          // in a state's codec, encoding a snapshot
	At      string        // where in the user's code: "main.parse (parse.go:42)"; empty: unknown
	For     time.Duration // at least
}

func (e *StuckError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "job %s: operator %s has been busy with ", e.Job, e.Operator)
	switch {
	case e.Codec:
		b.WriteString("the codec of its state, for a snapshot,")
	case e.Stream != "":
		fmt.Fprintf(&b, "sequence %d of stream %s (source %s)", e.Seq, e.Stream, e.Source)
	default:
		b.WriteString("a timer or a window")
	}
	fmt.Fprintf(&b, " for %s without returning", e.For)
	if e.At != "" {
		fmt.Fprintf(&b, ", in %s", e.At)
	}
	b.WriteString(": bound what its function waits for with a timeout of its own, and return processor.Poison where a record cannot be handled; ")
	b.WriteString("if it needs that long, raise the checkpoint timeout")
	return b.String()
}

// glance is a task as it is seen from outside while it runs.
type glance struct {
	steps   uint64 // begun and ended: odd inside one
	blocked bool   // in the step, it waits for another task or the broker: what keeps it is further down
	op      int32
	number  uint64 // of the record, see origin
	seq     uint64
	source  *sourceRef
}

// glance reads fields that belong to the task's goroutine. By the letter that is a race, for the sake of having no atomic operation per
// record. All of them are single words and for diagnosis alone; what two glances agree on is said of a goroutine that has written
// none of them for a whole timeout. A mixture that never was can only make a stuck task look busy, which the next checkpoint finds out.
//
//go:norace
func (h *host) glance() glance {
	t := h.task
	return glance{steps: h.steps.Load(), blocked: h.blocked, op: t.op, number: t.origin.number, seq: t.origin.seq, source: t.origin.source}
}

func (g glance) inStep() bool { return g.steps%2 == 1 }

func (t *task) seenAt(g glance) Where {
	w := Where{Job: t.job}
	if int(g.op) < len(t.operators) {
		w.Operator = t.operators[g.op]
	}
	if g.source != nil {
		w.Stream, w.Seq = g.source.stream, g.seq
	}
	return w
}

func (h *host) where() Where { return h.task.seenAt(h.glance()) }

func (r *runner) glances() []glance {
	if r.live.Load() == nil {
		return nil
	}
	seen := make([]glance, len(r.hosts))
	for i, h := range r.hosts {
		seen[i] = h.glance()
	}
	return seen
}

// diagnose says why a checkpoint was not complete in time, as far as user code is the cause: a *StuckError, or err with the operator that
// was slow. A failure that has nothing to do with time is returned as it is.
func (a *attempt) diagnose(now time.Time, cp *pendingCheckpoint, err error) error {
	took := now.Sub(cp.started)
	if a.leaving != nil || took < a.cfg.Checkpoint.Timeout {
		return err
	}
	seen := a.drv.glances()
	slow, records := -1, uint64(0)
	for i, g := range seen {
		if i >= len(cp.seen) || cp.cut[i] || !g.inStep() || g.blocked {
			continue
		}
		before := cp.seen[i]
		if g.steps == before.steps && g.number == before.number {
			return a.stuck(i, g, took)
		}
		if moved := g.number - before.number; slow < 0 || moved < records {
			slow, records = i, moved
		}
	}
	if slow < 0 || err == nil {
		return err
	}
	w := a.plan.tasks[slow].seenAt(seen[slow])
	return fmt.Errorf("%w; operator %s was busy, and its task had made %d records in that time", err, w.Operator, records)
}

func (a *attempt) stuck(task int, g glance, took time.Duration) *StuckError {
	t := a.plan.tasks[task]
	e := &StuckError{Where: t.seenAt(g), Subtask: t.subtask, At: a.drv.locate(task), For: took.Round(time.Millisecond)}
	if g.source != nil {
		e.Source = g.source.name
	}
	return e
}

// checkOverdue ends the attempt if user code keeps the uploads of an aborted checkpoint.
func (a *attempt) checkOverdue(now time.Time) {
	cp := a.current
	if !a.aborting() || now.Before(cp.overdue) {
		return
	}
	looked := cp.lookAtCodecs()
	for i, at := range looked {
		if e := at.encoding; e != nil && at == cp.looked[i] {
			a.end(&StuckError{Where: Where{Job: a.job, Operator: e.operator}, Subtask: e.subtask, Codec: true, For: now.Sub(e.since).Round(time.Millisecond)})
			return
		}
	}
	cp.overdue, cp.looked = now.Add(a.cfg.Checkpoint.Timeout), looked // a codec that only is slow returns for entry after entry
}

// encodingAt is how far the encoding of a snapshot is.
type encodingAt struct {
	encoding *encoding
	written  int64
}

func (cp *pendingCheckpoint) lookAtCodecs() []encodingAt {
	looked := make([]encodingAt, len(cp.encoding))
	for i := range cp.encoding {
		if e := cp.encoding[i].Load(); e != nil {
			looked[i] = encodingAt{e, e.frozen.Written()}
		}
	}
	return looked
}

// isStuck reports whether err is a diagnosis that ends the attempt.
func isStuck(err error) bool {
	var stuck *StuckError
	return errors.As(err, &stuck)
}

// abandonEvery is how many records a task processes before it looks whether its attempt has ended, between its looks behind each step.
const abandonEvery = 32

// abandon gives the step up if the attempt has ended: what follows would be processed twice, here for nobody.
func (t *task) abandon() bool {
	if t.host.over() {
		t.fail(context.Canceled)
	}
	return t.err != nil
}
