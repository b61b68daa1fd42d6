package processor

import (
	"cmp"
	"slices"
	"time"
)

// Calls beside a task.
//
// A result comes as evCompleted and is emitted between two events of the inputs: when nothing that was told a watermark is left to
// fire at or below its operator, as any other element would come. An operator with as many elements in flight as it may have is full: data
// waits, and so does what timers and watermarks make due above it, which would only add to it. Its results, what is below it, control
// events and barriers next in line go on. So the last one that is full always gets rid of what it has, then the one above it: no two wait
// for each other. While nothing can go on before a call returns the host need not step the task.

// evCompleted says that a call has returned.
type evCompleted struct{ result asyncCompletion }

func (evCompleted) isEvent() {}

type asyncCompletion interface{ settle() }

// asyncOperator is an Async of any types.
type asyncOperator interface {
	node() int
	// load puts the restored elements in flight, and calls.
	load()
	// flights counts the elements in flight.
	flights() int
	full() bool
	hasReady() bool
	// emit hands one result on.
	emit()
	// tick hears the time, which wakeAt asks for; zero: it does not.
	tick(now time.Time)
	wakeAt() time.Time
	// lost counts the calls that go on behind their timeout.
	lost() int
}

func (t *task) addAsync(a asyncOperator) {
	t.asyncs = append(t.asyncs, a)
	slices.SortFunc(t.asyncs, func(x, y asyncOperator) int { return cmp.Compare(y.node(), x.node()) })
}

// loadCalls begins with what was restored. It comes before anything else happens.
func (t *task) loadCalls() {
	for _, a := range t.asyncs {
		if t.err == nil {
			a.load()
		}
	}
}

// calls counts the elements that are in flight in the task.
func (t *task) calls() int {
	n := 0
	for _, a := range t.asyncs {
		n += a.flights()
	}
	return n
}

// fill makes data wait, and what is due above the operator.
func (t *task) fill(node int) {
	t.full = max(t.full, node)
	t.firing = true
}

// relieve finds out which operator is the last that is full.
func (t *task) relieve() {
	if t.full == 0 {
		return
	}
	t.full = 0
	for _, a := range t.asyncs { // the last comes first
		if a.full() {
			t.full = a.node()
			return
		}
	}
}

// results emits what is ready, as far as the step's budget reaches.
func (t *task) results() {
	if t.loading > 0 {
		return
	}
	for _, a := range t.asyncs {
		for a.hasReady() && a.node() >= t.full && t.err == nil {
			if t.firing {
				t.fireDue()
			}
			if t.budget <= 0 || t.err != nil {
				return // with budget left nothing is due at the operator or below
			}
			t.budget--
			a.emit()
		}
	}
	if t.firing && t.err == nil {
		t.fireDue()
	}
}

// dirtyFrom reports whether something is left to fire at an operator or below.
func (t *task) dirtyFrom(node int) bool {
	if !t.firing {
		return false
	}
	for _, tl := range t.timelines {
		if tl.dirty && tl.id >= node {
			return true
		}
	}
	return false
}

// canGoOn reports whether there is something to do before anything comes.
func (t *task) canGoOn() bool {
	if t.loading > 0 {
		return false
	}
	if t.full == 0 && t.busy() || t.dirtyFrom(t.full) {
		return true
	}
	for _, a := range t.asyncs {
		if a.hasReady() && a.node() >= t.full {
			return true
		}
	}
	if !t.ticking {
		return false
	}
	above := false
	for _, o := range t.timers {
		switch {
		case o.left == 0:
		case o.pc.time.id < t.full:
			above = true
		default:
			return true
		}
	}
	return !above
}

// settling reports whether what comes on an input waits for calls: it came behind the final watermark, so that everything that they and
// what they make due give belongs in front of it.
func (t *task) settling(in *taskInput) bool {
	return len(t.asyncs) > 0 && in.time.watermark == finalWatermark && t.calls() > 0
}

// wakeBy asks for a tick at a time or before.
func (t *task) wakeBy(at time.Time) {
	if t.wakeAt.IsZero() || at.Before(t.wakeAt) {
		t.timersMoved = true
	}
}

// showCalls publishes what is counted of calls.
func (t *task) showCalls() {
	lost := 0
	for _, a := range t.asyncs {
		lost += a.lost()
	}
	t.shown.calls.Store(int64(t.calls()))
	t.shown.lost.Store(int64(lost))
	t.shown.retries.Store(t.counts.asyncRetries)
	t.shown.timeouts.Store(t.counts.asyncTimeouts)
}
