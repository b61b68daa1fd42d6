package processor

import (
	"slices"

	"github.com/weirstream/weir/state"
)

// IntervalJoin calls fn for every pair of a left and a right element of one key whose times are within the interval, once, when
// the later of them comes. What fn emits has the later one's time. Either side is kept, in keyed state, until the watermark says that
// nothing it could meet will come.
//
// An element at or behind the operator's watermark is late: it meets nothing, is counted (TaskMetrics.LateElements) and goes to LateLeft or LateRight;
// so does one that is too far ahead (MaxAhead). The watermark is the minimum of both sides', so what
// is late to a join of two streams depends on how they were read; with bounds that cover the disorder nothing is.
func IntervalJoin[L, R, Out any](left KeyedStream[L], right KeyedStream[R], name string, within Interval, fn func(pc *Context[Out], l L, r R) error, opts ...JoinOption) Stream[Out] {
	at := callerLine(2)
	return intervalJoin(left, right, at, name, within, fn == nil, func(pc *Context[Out], l L, r *R) error { return fn(pc, l, *r) }, false, opts)
}

// IntervalLeftJoin is IntervalJoin that also calls fn, with a nil right element, for every left element that met none: when the
// watermark has passed the end of its interval, which is then the time of what fn emits. fn must not keep the pointer.
func IntervalLeftJoin[L, R, Out any](left KeyedStream[L], right KeyedStream[R], name string, within Interval, fn func(pc *Context[Out], l L, r *R) error, opts ...JoinOption) Stream[Out] {
	at := callerLine(2)
	return intervalJoin(left, right, at, name, within, fn == nil, fn, true, opts)
}

func intervalJoin[L, R, Out any](left KeyedStream[L], right KeyedStream[R], at, name string, within Interval, missing bool,
	fn func(*Context[Out], L, *R) error, outer bool, opts []JoinOption) Stream[Out] {
	in := meet(left, right, at)
	d := joinOptions[L, R](opts)
	decl := &processDecl{uses: d.uses}
	n := in.b.add(&node{kind: KindJoin, name: name, at: at, inputs: []*node{in}, process: decl}, true)
	n.require(missing, "its function is nil")
	for _, err := range d.errs {
		n.b.fail(n.label(), at, err)
	}
	if err := within.validate(); err != nil {
		n.b.fail(n.label(), at, err)
	}
	leftCodec, rightCodec := codecsOf[L, R](d)
	lefts := state.NewPanes[[]waiting[L]]("left", "time", state.Codec[[]waiting[L]](&waitingCodec[L]{leftCodec}))
	rights := state.NewPanes[[]waiting[R]]("right", "time", state.Codec[[]waiting[R]](&waitingCodec[R]{rightCodec}))
	decl.uses = append(decl.uses, lefts, rights)
	decl.sort(n)
	n.collect = func(a *assembly, n *node) any {
		pc := &Context[Out]{out: fan[Out](a, n)}
		pc.bind(a, n)
		if pc.backend == nil {
			return func(string, either[L, R]) {} // the assembly has the error
		}
		j := &intervalOp[L, R, Out]{
			task: a.task, pc: pc, op: pc.op, fn: fn, outer: outer, before: int64(within.before), after: int64(within.after),
			lefts: joinTable[L]{panes: mustOpen(lefts.Table(pc)), keep: int64(within.after)}, rights: joinTable[R]{panes: mustOpen(rights.Table(pc)), keep: int64(within.before)},
			late: lateOf[L, R](d).emit(a, n),
		}
		j.line = a.timeline(n, j.closeDue)
		return j.element
	}
	return Stream[Out]{n}
}

// joinTable is one side of an interval join: per key and time the elements that came, in their order, until time+keep has passed.
type joinTable[T any] struct {
	panes *state.PaneTable[[]waiting[T]]
	due   schedule[[]waiting[T]]
	keep  int64
}

// add keeps an element.
func (j *joinTable[T]) add(key string, at int64, w waiting[T]) error {
	n := j.panes.Key(key)
	var list []waiting[T]
	if n != nil {
		if have := n.At(at); have != nil {
			list = *have
		}
	}
	// A frozen list keeps its length: appending behind it does not change it.
	n, err := j.panes.Put(n, key, at, append(list, w))
	if err == nil {
		j.plan(n)
	}
	return err
}

// plan schedules the key for the end of its first time.
func (j *joinTable[T]) plan(n *state.PaneKey[[]waiting[T]]) {
	for i, to := n.Bounds(); i < to; i++ {
		if at, list := n.Item(i); list != nil {
			j.due.add(n, min(satAdd(satAdd(at, j.keep), 1), finalWatermark-1)) // with that one at the latest
			return
		}
	}
}

func (j *joinTable[T]) load() { j.panes.Keys(j.plan) }

// intervalOp is an interval join in a task.
type intervalOp[L, R, Out any] struct {
	task          *task
	pc            *Context[Out]
	op            int32
	fn            func(*Context[Out], L, *R) error
	outer         bool
	before, after int64
	lefts         joinTable[L]
	rights        joinTable[R]
	late          func(either[L, R])
	line          *timeline
	loaded        bool
}

func (j *intervalOp[L, R, Out]) element(key string, e either[L, R]) {
	t := j.task
	prev, at := t.op, t.at
	t.op = j.op
	if !j.loaded {
		j.load()
	}
	switch {
	case t.origin.far || at <= j.line.watermark:
		t.counts.lateElements++
		j.late(e)
	case e.Right:
		j.right(key, at, e.R)
	default:
		j.left(key, at, e.L)
	}
	t.op, t.at = prev, at
}

func (j *intervalOp[L, R, Out]) load() {
	j.loaded = true
	j.lefts.load()
	j.rights.load()
}

// left joins an element with what the right side has of its interval.
func (j *intervalOp[L, R, Out]) left(key string, at int64, v L) {
	t, matched := j.task, false
	if n := j.rights.panes.Key(key); n != nil {
		i := n.Search(satSub(at, j.before))
		for _, to := n.Bounds(); i < to; i++ {
			r, list := n.Item(i)
			if r > satAdd(at, j.after) {
				break
			}
			if list == nil {
				continue
			}
			t.at = max(at, r)
			for k := range *list {
				matched = true
				right := (*list)[k].V
				if !j.call(key, v, &right) {
					return
				}
			}
		}
	}
	t.at = at
	switch {
	case satAdd(at, j.after) > j.line.watermark:
		j.check(j.lefts.add(key, at, waiting[L]{V: v, Matched: matched}))
	case j.outer && !matched: // what it could meet is behind the watermark already
		j.call(key, v, nil)
	}
}

// right joins an element with what the left side has that it is in the interval of.
func (j *intervalOp[L, R, Out]) right(key string, at int64, v R) {
	t := j.task
	if n := j.lefts.panes.Key(key); n != nil {
		i := n.Search(satSub(at, j.after))
		for _, to := n.Bounds(); i < to; i++ {
			l, list := n.Item(i)
			if l > satAdd(at, j.before) {
				break
			}
			if list == nil {
				continue
			}
			t.at = max(at, l)
			elements, met, more := *list, 0, true
			for ; more && met < len(elements); met++ {
				more = j.call(key, elements[met].V, &v)
			}
			// Those have met one, also if the function refused it.
			if j.outer && slices.ContainsFunc(elements[:met], func(w waiting[L]) bool { return !w.Matched }) {
				marked := slices.Clone(elements)
				for k := range met {
					marked[k].Matched = true
				}
				_, err := j.lefts.panes.Put(n, key, l, marked)
				j.check(err)
			}
			if !more {
				return
			}
		}
	}
	t.at = at
	if satAdd(at, j.before) > j.line.watermark {
		j.check(j.rights.add(key, at, waiting[R]{V: v}))
	}
}

// call runs the user's function, and reports whether the element may go on.
func (j *intervalOp[L, R, Out]) call(key string, l L, r *R) bool {
	j.pc.key = key
	j.pc.backend.SetKey(key)
	j.task.op = j.op
	if err := j.fn(j.pc, l, r); err != nil {
		j.task.userError(j.op, err)
		return false
	}
	return j.task.err == nil
}

// check handles an error of the state: a quota, as a rule.
func (j *intervalOp[L, R, Out]) check(err error) {
	if err != nil {
		j.task.userError(j.op, err)
	}
}

// closeDue lets go of what can meet nothing any more.
func (j *intervalOp[L, R, Out]) closeDue(wm int64, budget int) (fired int) {
	if !j.loaded {
		j.load()
	}
	j.task.op = j.op
	fired = j.lefts.due.closeDue(j.task, wm, budget, func(n *state.PaneKey[[]waiting[L]], _ int64) {
		j.closeLeft(n, wm)
		j.lefts.plan(n)
	})
	return fired + j.rights.due.closeDue(j.task, wm, budget-fired, func(n *state.PaneKey[[]waiting[R]], _ int64) {
		j.rights.drop(n, wm)
		j.rights.plan(n)
	})
}

// dropPerTurn bounds the times of a key that one turn lets go of: the budget counts turns, and a key may have any number.
const dropPerTurn = 64

// drop removes what is over for a key, or the first of it.
func (j *joinTable[T]) drop(n *state.PaneKey[[]waiting[T]], wm int64) {
	left := dropPerTurn
	for i, to := n.Bounds(); i < to && left > 0; i++ {
		at, list := n.Item(i)
		if list == nil {
			continue
		}
		if satAdd(at, j.keep) > wm {
			return
		}
		j.panes.Remove(n, at)
		left--
	}
}

// closeLeft lets go of the left elements of one time of a key, and hands on those that met nothing.
func (j *intervalOp[L, R, Out]) closeLeft(n *state.PaneKey[[]waiting[L]], wm int64) {
	if !j.outer {
		j.lefts.drop(n, wm)
		return
	}
	t := j.task
	for i, to := n.Bounds(); i < to; i++ {
		at, list := n.Item(i)
		if list == nil {
			continue
		}
		if satAdd(at, j.after) > wm {
			return
		}
		elements := *list
		j.lefts.panes.Remove(n, at)
		t.touch()
		t.at = satAdd(at, max(j.after, 0))
		t.origin = origin{time: t.at, number: t.origin.number + 1}
		for k := range elements {
			if !elements[k].Matched {
				j.call(n.Key(), elements[k].V, nil)
			}
		}
		return // one time a turn: the budget counts them
	}
}
