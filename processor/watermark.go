package processor

import (
	"math"
	"slices"
	"time"
)

// Event time in a task.
//
// A watermark W says that no element with a time of W or before is expected any more. It is unix nanoseconds; noWatermark before
// the first. Watermarks run along the graph beside the elements: a source raises its own behind an element, each operator has
// the minimum over its inputs that are not idle, and it never goes back. An operator that has something due at its watermark
// fires that first; only then does the watermark pass on to the operators below it, which therefore never see what it emits as
// late.
//
// Firing is bounded: a step fires at most fireBudget things in all. With more due the task is unfinished: its host steps it again
// at once, its inputs wait, and only control events and a barrier that is next in line go in between. A snapshot made there is
// right, because state holds what is left to fire, the operator's own watermark says that it is due, and nothing below has been
// told of that watermark yet.

const (
	noWatermark    = math.MinInt64
	finalWatermark = math.MaxInt64
)

// fireBudget bounds the timers, panes and the like that one step of a task fires.
const fireBudget = 1024

// timeline is the event time of one operator in a task.
type timeline struct {
	task *task
	id   int // of the node; inputs' are negative: they come first
	name string

	watermark int64 // of the operator's input: what is due at it may fire
	out       int64 // what the operators below have been told
	idle      bool  // told as well: nothing is expected for now
	before    int64 // the watermark before the final one, for the snapshot

	from  []*timeline
	to    []*timeline
	sends []marker // exchanges below
	fire  func(wm int64, budget int) (fired int)
	gate  func(wm int64, idle bool) (int64, bool) // not nil: what of it the operators below may be told for now
	dirty bool
}

// marker is the sending side of an exchange, as far as watermarks go.
type marker interface{ mark(wm int64, idle bool) }

// timeline returns the operator's event time in this task. fire, if not nil, is called when the operator's watermark has moved,
// and again while it may have more: it fires what is due at wm, budget things at most, in the order of their time, and returns
// how many. Fewer than budget means that nothing due is left; only then does the watermark pass on. An element that is emitted
// has the time in task.at. fire must stop when task.err is set.
func (a *assembly) timeline(n *node, fire func(wm int64, budget int) (fired int)) *timeline {
	tl := a.lines[n]
	if tl == nil {
		tl = a.task.newTimeline(n.id, n.label())
		a.lines[n] = tl
	}
	if fire != nil {
		tl.fire = fire
		a.stage.timed = true
	}
	return tl
}

func (t *task) newTimeline(id int, name string) *timeline {
	return &timeline{task: t, id: id, name: name, watermark: noWatermark, out: noWatermark, before: noWatermark}
}

// due asks for a call of fire behind the current element: something was set for a time that the watermark has passed already.
func (tl *timeline) due() {
	tl.dirty = true
	tl.task.firing = true
}

// wireTime connects the timelines of a task's operators, once all its functions are made. An operator without one of its own
// shares its input's; only where inputs meet one is needed.
func (a *assembly) wireTime() {
	heads := make(map[*node][]*timeline)
	for i, in := range a.task.inputs {
		in.time = a.task.newTimeline(i-len(a.task.inputs), in.name)
		heads[in.head] = append(heads[in.head], in.time)
	}
	for _, n := range a.plan.topology.nodes { // in topological order
		if n.kind == KindRules || n.kind == KindRulesInput {
			continue // without time
		}
		from := heads[n]
		if from == nil {
			for _, in := range n.inputs {
				if l := a.passed[in]; l != nil && !slices.Contains(from, l) {
					from = append(from, l)
				}
			}
		}
		if len(from) == 0 {
			continue // not in this task
		}
		if e, ok := a.sends[n]; ok && heads[n] == nil {
			for _, l := range from {
				l.sends = append(l.sends, e)
			}
			continue
		}
		tl := a.lines[n]
		if tl == nil && len(from) == 1 {
			a.passed[n] = from[0]
			continue
		}
		if tl == nil {
			tl = a.timeline(n, nil)
		}
		tl.from = from
		for _, l := range from {
			l.to = append(l.to, tl)
		}
		a.task.timelines = append(a.task.timelines, tl)
		a.passed[n] = tl
	}
}

// combine is the minimum over the inputs that are not idle; with all of them idle, the maximum: none holds the others back. From where a
// drain has ended the first input until it has ended all, the watermark stands: behind an input that is idle there may be windows and
// timers that the drain still fires, and what a checkpoint records must not depend on which input ends first.
func (tl *timeline) combine() (wm int64, idle bool) {
	wm, idle = finalWatermark, true
	highest, ended := int64(noWatermark), 0
	for _, f := range tl.from {
		if f.out == finalWatermark {
			ended++
		}
		highest = max(highest, f.out)
		if !f.idle {
			wm, idle = min(wm, f.out), false
		}
	}
	if ended > 0 && ended < len(tl.from) {
		return tl.watermark, tl.idle
	}
	if idle {
		wm = highest
	}
	return max(wm, tl.watermark), idle
}

// pass fires what is due and then tells the operators below. It reports whether nothing is left to do.
func (tl *timeline) pass() bool {
	t, idle := tl.task, tl.idle
	if tl.from != nil {
		var wm int64
		wm, idle = tl.combine()
		tl.raise(wm)
	}
	if tl.fire != nil && tl.watermark != noWatermark {
		budget := t.budget
		if budget <= 0 {
			return false
		}
		fired := tl.fire(tl.watermark, budget)
		t.budget -= fired
		if fired >= budget || t.err != nil {
			return false
		}
	}
	tl.dirty = false
	wm := tl.watermark
	if tl.gate != nil {
		wm, idle = tl.gate(wm, idle)
	}
	tl.tell(wm, idle)
	return true
}

func (tl *timeline) raise(wm int64) {
	if wm == finalWatermark && tl.watermark != finalWatermark {
		tl.before = tl.watermark
	}
	tl.watermark = wm
}

// tell passes the watermark on.
func (tl *timeline) tell(wm int64, idle bool) {
	if wm == tl.out && idle == tl.idle {
		return
	}
	tl.out, tl.idle = wm, idle
	for _, d := range tl.to {
		d.due()
	}
	for _, e := range tl.sends {
		e.mark(wm, idle)
	}
}

// set moves an input: a source or a channel of an exchange. Watermarks never go back.
func (tl *timeline) set(wm int64, idle bool) {
	tl.raise(max(wm, tl.watermark))
	tl.tell(tl.watermark, idle)
}

// snapshot is the watermark that a checkpoint records. The final one of a drain is left out: the job may go on from there, and
// then its input does.
func (tl *timeline) snapshot() int64 {
	if tl.watermark == finalWatermark {
		return tl.before
	}
	return tl.watermark
}

// restore sets the operator's watermark before anything runs, so that what was late stays late. What is due at it fires first.
func (tl *timeline) restore(wm *int64) {
	if wm != nil {
		tl.watermark = max(*wm, tl.watermark)
	}
	tl.due()
}

// recordWatermark is a watermark as manifests have it.
func recordWatermark(wm int64) *int64 {
	if wm == noWatermark {
		return nil
	}
	return &wm
}

// fireDue fires what is due in the task, as far as the step's budget reaches. What a watermark makes due comes first: what a timer
// function emits is an element like any other, and comes when nothing is due at the watermark of the operators below.
func (t *task) fireDue() {
	if t.loading > 0 || !t.fireLines() || !t.ticking {
		return
	}
	if t.fireTimers() {
		t.fireLines()
	}
}

// fireLines fires what watermarks make due, in the order of the graph, but for what is above an Async that is full. It reports whether
// nothing else is left.
func (t *task) fireLines() bool {
	above := false
	for _, tl := range t.timelines {
		if tl.dirty && tl.id < t.full {
			above = true
			continue
		}
		if tl.dirty && !tl.pass() || t.err != nil {
			return false
		}
	}
	t.firing = above || t.full != 0
	return true
}

// busy reports whether something due is left to fire: then data waits.
func (t *task) busy() bool { return (t.firing || t.ticking) && t.loading == 0 }

// mayCut reports whether sources may cut for a checkpoint that was deferred.
func (t *task) mayCut() bool {
	return t.loading == 0 && (!t.finished || !t.busy() && t.calls() == 0)
}

// unfinished reports whether the host must step the task again at once, with evContinue if there is nothing else.
func (t *task) unfinished() bool {
	return t.err == nil && (!t.greeted || t.canGoOn() || t.deferred != nil && t.mayCut())
}

// finish ends event time: every source's watermark becomes the final one, which fires everything there is. Nothing is read after.
func (t *task) finish() {
	if !t.readsSources() || t.finished {
		return
	}
	t.finished = true
	for _, in := range t.inputs {
		in.time.set(finalWatermark, false)
	}
}

// toNanos converts a time, or reports that nanoseconds since 1970 cannot hold it in 64 bits: before the year 1678 or after 2262.
func toNanos(tm time.Time) (int64, bool) {
	const limit = math.MaxInt64/int64(time.Second) - 1
	if s := tm.Unix(); s < -limit || s > limit {
		return 0, false
	}
	return tm.UnixNano(), true
}

// fromNanos is the time of a watermark; zero if there is none.
func fromNanos(wm int64) time.Time {
	if wm == noWatermark {
		return time.Time{}
	}
	return time.Unix(0, wm).UTC()
}

// floorMilli rounds down to a whole millisecond, also before 1970.
func floorMilli(ns int64) int64 {
	const milli = int64(time.Millisecond)
	r := ns % milli
	if r < 0 {
		r += milli
	}
	return satSub(ns, r)
}

func satAdd(a, b int64) int64 {
	if s := a + b; (s > a) == (b > 0) {
		return s
	}
	if b > 0 {
		return math.MaxInt64
	}
	return math.MinInt64
}

func satSub(a, b int64) int64 {
	if d := a - b; (d < a) == (b > 0) {
		return d
	}
	if b > 0 {
		return math.MinInt64
	}
	return math.MaxInt64
}
