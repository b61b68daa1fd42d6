package processor

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/weirstream/weir/state"
)

// sessionWindows are sessions, and global windows, which are one session without end. The sessions of a key do not touch each
// other; each knows its end, and whether it was fired and is only kept for late elements. A session grows with most of its
// elements, so its key is scheduled for an end it once had and is looked at again then.
type sessionWindows[T, Acc any] struct {
	*windowOp[T, Acc]
	panes  *state.PaneTable[state.Session[Acc]]
	due    schedule[state.Session[Acc]]
	loaded bool

	gap    int64
	gapOf  func(T) time.Duration // nil: gap
	global bool
	starts []int64
}

// globalEnd is when a global window ends: with the final watermark.
const globalEnd = math.MaxInt64 - 1

func collectSessions[T, Acc any](a *assembly, n *node, op *windowOp[T, Acc], s *windowStore[Acc]) any {
	as := &op.decl.assigner
	w := &sessionWindows[T, Acc]{
		windowOp: op, panes: mustOpen(s.sessions.Table(op.pc)), gap: int64(as.gap), global: as.kind == windowGlobal,
	}
	w.gapOf, _ = as.gapOf.(func(T) time.Duration)
	op.line = a.timeline(n, w.closeDue)
	if op.decl.interval > 0 {
		a.addTimers(op.pc, w.tick)
	}
	return w.element
}

var errGap = errors.New("use more than 0 and at most ten years")

// element folds an element into the session that it makes, extends, or makes of several.
func (w *sessionWindows[T, Acc]) element(key string, v T) {
	t := w.task
	prev := t.op
	t.op = w.op
	if !w.loaded {
		w.load()
	}
	if start, end, ok := w.window(v); ok {
		w.join(key, start, end, v)
	}
	t.op = prev
}

// window is what an element opens. An element that can be in none is refused.
func (w *sessionWindows[T, Acc]) window(v T) (start, end int64, ok bool) {
	if w.global {
		return 0, globalEnd, true
	}
	at, gap := w.task.at, w.gap
	if w.gapOf != nil {
		gap = int64(w.gapOf(v))
		if gap <= 0 || gap > int64(maxWindow) {
			w.fail(Poison(fmt.Errorf("the session gap is %v: %w", time.Duration(gap), errGap)))
			return 0, 0, false
		}
	}
	if w.task.origin.far || at > globalEnd-1-gap {
		w.refuse(v)
		return 0, 0, false
	}
	return at, at + gap, true
}

func (w *sessionWindows[T, Acc]) join(key string, start, end int64, v T) {
	done := w.done()
	n := w.panes.Key(key)
	from, to := 0, 0
	if n != nil {
		from, to = touching(n, start, end)
	}
	if from == to && w.over(end) <= done {
		w.refuse(v)
		return
	}
	s := state.Session[Acc]{End: end}
	if from == to {
		s.Acc = w.fold.first(v)
	} else {
		start, s = w.unite(n, from, to, start, end)
		s.Acc = w.fold.add(s.Acc, v)
	}
	late := s.End <= done
	s.Fired = late
	if !late && s.Since < maxCount {
		s.Since++
	}
	now := late || w.decl.every > 0 && int(s.Since) >= w.decl.every
	index := int(s.Emitted)
	if now {
		s.Emitted, s.Since = s.Emitted+1, 0
	}
	n, err := w.panes.Put(n, key, start, s)
	if err != nil {
		w.fail(err)
		return
	}
	w.due.add(n, w.dueAt(&s))
	if w.decl.interval > 0 && !late {
		n.Early = w.wake(n.Key(), n.Early)
	}
	if now {
		timing := Early
		if late {
			timing = Late
		}
		w.emitDuring(n.Key(), start, s.End, timing, index, s.Acc)
	}
}

// touching returns the range of the items that overlap or touch a window; it is empty if none is present in it.
func touching[Acc any](n *state.PaneKey[state.Session[Acc]], start, end int64) (from, to int) {
	lo, hi := n.Bounds()
	from, to = hi, hi
	for i := hi - 1; i >= lo; i-- {
		at, s := n.Item(i)
		if s == nil {
			continue
		}
		if s.End < start {
			break
		}
		if at > end {
			from, to = i, i
			continue
		}
		from = i
	}
	return from, to
}

// unite takes sessions out of the table and joins them and the window to one.
func (w *sessionWindows[T, Acc]) unite(n *state.PaneKey[state.Session[Acc]], from, to int,
	start, end int64) (int64, state.Session[Acc]) {
	if at, s := n.Item(from); to-from == 1 && at <= start { // an element that extends one session, as a rule
		u := *s
		u.End = max(u.End, end)
		return at, u
	}
	u := state.Session[Acc]{End: end}
	starts := w.starts[:0]
	for i := from; i < to; i++ {
		at, s := n.Item(i)
		if s == nil {
			continue
		}
		starts = append(starts, at)
		start, u.End = min(start, at), max(u.End, s.End)
		u.Emitted, u.Since = max(u.Emitted, s.Emitted), min(u.Since+s.Since, maxCount)
		w.parts = append(w.parts, s.Acc)
	}
	for _, at := range starts {
		if at != start { // the one that stays is written in place
			w.panes.Remove(n, at)
		}
	}
	w.starts = starts
	u.Acc = w.merged()
	return start, u
}

// emitDuring emits a result because of an element or a timer.
func (w *sessionWindows[T, Acc]) emitDuring(key string, start, end int64, timing Timing, index int, acc Acc) {
	if w.global {
		w.fireUnbounded(key, timing, index, acc)
		return
	}
	w.during(key, start, end, timing, index, acc)
}

// dueAt is when there is something to do for a session.
func (w *sessionWindows[T, Acc]) dueAt(s *state.Session[Acc]) int64 {
	if s.Fired {
		return w.over(s.End)
	}
	return s.End
}

// closeDue closes the sessions that the watermark has passed.
func (w *sessionWindows[T, Acc]) closeDue(wm int64, budget int) (fired int) {
	if !w.loaded {
		w.load()
	}
	w.task.op = w.op
	return w.due.closeDue(w.task, wm, budget, w.close)
}

// close does what is due for a key at a time, or finds that it is due later.
func (w *sessionWindows[T, Acc]) close(n *state.PaneKey[state.Session[Acc]], at int64) {
	for i, to := n.Bounds(); i < to && w.task.err == nil; i++ {
		start, s := n.Item(i)
		if s == nil || w.dueAt(s) > at {
			continue
		}
		v := *s
		if !v.Fired {
			w.result(n.Key(), start, &v)
			v.Fired, v.Since = true, 0
			v.Emitted++
		}
		if w.dueAt(&v) <= at {
			w.panes.Remove(n, start)
		} else if _, err := w.panes.Put(n, n.Key(), start, v); err != nil {
			w.fail(err)
		}
	}
	w.plan(n)
}

// result emits a session that has come to its end.
func (w *sessionWindows[T, Acc]) result(key string, start int64, s *state.Session[Acc]) {
	if !w.global {
		w.closed(key, start, s.End, int(s.Emitted), s.Acc)
		return
	}
	t := w.task
	t.touch()
	// A drain: the results have the first time that was still expected before it, so that they are not late below.
	t.at = 0
	if before := w.line.before; before != noWatermark {
		t.at = satAdd(before, 1)
	}
	t.origin = origin{time: t.at, number: t.origin.number + 1}
	w.fireUnbounded(key, OnTime, int(s.Emitted), s.Acc)
}

// plan schedules what is next for a key.
func (w *sessionWindows[T, Acc]) plan(n *state.PaneKey[state.Session[Acc]]) {
	next := int64(state.NoTime)
	for i, to := n.Bounds(); i < to; i++ {
		if _, s := n.Item(i); s != nil {
			next = min(next, w.dueAt(s))
		}
	}
	w.due.add(n, next)
}

// tick emits the open sessions of a key that have new elements.
func (w *sessionWindows[T, Acc]) tick(time.Time) error {
	n := w.panes.Key(w.pc.key)
	if n == nil {
		return nil
	}
	if !w.loaded {
		w.load()
	}
	for i, to := n.Bounds(); i < to && w.task.err == nil; i++ {
		start, s := n.Item(i)
		if s == nil || s.Since == 0 || s.Fired {
			continue
		}
		v := *s
		index := int(v.Emitted)
		v.Emitted, v.Since = v.Emitted+1, 0
		if _, err := w.panes.Put(n, n.Key(), start, v); err != nil {
			return err
		}
		w.emitDuring(n.Key(), start, v.End, Early, index, v.Acc)
	}
	return nil
}

func (w *sessionWindows[T, Acc]) load() {
	w.loaded = true
	w.panes.Keys(w.plan)
}
