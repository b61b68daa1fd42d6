package processor

import (
	"fmt"
	"iter"
	"time"

	"github.com/weirstream/weir/state"
)

// Aggregate folds the elements of each window into an accumulator as they come and emits agg's Result for every pane.
func Aggregate[A Aggregator[In, Acc, Out], In, Acc, Out any](w WindowedStream[In], name string, agg A) Stream[Out] {
	at := callerLine(2)
	n := windowNode(w, at, name, any(agg) == nil, "the aggregator is nil", func(pc *Context[Out]) windowEmit[Acc] {
		return func(p *Pane, acc Acc) error {
			pc.out(agg.Result(*p, acc))
			return nil
		}
	}, func() folder[In, Acc] { return &aggregateFolder[In, Acc, Out]{agg} })
	return Stream[Out]{n}
}

// Reduce combines the elements of each window, as they come, into one of the same type, and emits it. fn changes neither of its
// arguments; the earlier element is the first.
func Reduce[T any](w WindowedStream[T], name string, fn func(a, b T) T) Stream[T] {
	at := callerLine(2)
	n := windowNode(w, at, name, fn == nil, "its function is nil", func(pc *Context[T]) windowEmit[T] {
		return func(_ *Pane, acc T) error {
			pc.out(acc)
			return nil
		}
	}, func() folder[T, T] { return &reduceFolder[T]{fn} })
	return Stream[T]{n}
}

// ProcessWindow keeps all elements of a window and calls fn for every pane with those it has so far, in the order in which they
// came (a sliding window: slice by slice). fn may use what Uses declares: state is that of the key, not of the window. Elements
// of a window are one entry of a snapshot; where a number or a sum is enough, Aggregate costs much less.
func ProcessWindow[In, Out any](w WindowedStream[In], name string,
	fn func(pc *Context[Out], pane Pane, elements iter.Seq[In]) error, opts ...ProcessOption) Stream[Out] {
	at := callerLine(2)
	n := windowNode(w, at, name, fn == nil, "its function is nil", func(pc *Context[Out]) windowEmit[[]In] {
		return func(p *Pane, acc []In) error {
			pc.key = p.Key
			pc.backend.SetKey(p.Key)
			return fn(pc, *p, func(yield func(In) bool) {
				for _, v := range acc {
					if !yield(v) {
						return
					}
				}
			})
		}
	}, func() folder[In, []In] { return listFolder[In]{} }, opts...)
	return Stream[Out]{n}
}

// windowEmit hands a pane to the user's function.
type windowEmit[Acc any] func(p *Pane, acc Acc) error

// windowNode declares a window operator.
func windowNode[T, Acc, Out any](w WindowedStream[T], at, name string, wrong bool, problem string,
	emit func(*Context[Out]) windowEmit[Acc], fold func() folder[T, Acc], opts ...ProcessOption) *node {
	if w.in == nil {
		panic(at + ": the input is a zero WindowedStream: use what processor.Window returned")
	}
	decl, d := &processDecl{}, w.decl
	for _, opt := range opts {
		opt(decl)
	}
	n := w.in.b.add(&node{kind: KindWindow, name: name, at: at, inputs: []*node{w.in}, process: decl}, true)
	n.require(wrong, problem)
	n.require(decl.timers > 0, "a window function has no OnTimer: its panes are its timers")
	var store windowStore[Acc]
	store.declare(d)
	decl.uses = append(decl.uses, store.declared...)
	if d.late != nil {
		decl.uses = append(decl.uses, d.late)
	}
	decl.sort(n)
	n.collect = func(a *assembly, n *node) any {
		pc := &Context[Out]{out: fan[Out](a, n)}
		pc.bind(a, n)
		op := &windowOp[T, Acc]{task: a.task, pc: &pc.opContext, op: pc.op, decl: d, fold: fold(), emit: emit(pc), lateness: int64(d.lateness)}
		if d.late != nil {
			op.late, _ = d.late.sideFan(a, n).(func(T))
		}
		if pc.backend == nil {
			return func(string, T) {} // the assembly has the error
		}
		return op.collect(a, n, &store)
	}
	return n
}

// windowStore declares the state of a window operator. What an option needs is declared without it too, so that options may
// change between two versions of a program.
type windowStore[Acc any] struct {
	panes    *state.Panes[Acc]
	sessions *state.Panes[state.Session[Acc]]
	fired    *state.Value[int64]       // aligned windows: all of the key's up to this end were fired
	emitted  *state.Map[int64, uint64] // aligned windows, by end: results in the low half, elements since the last one in the high
	count    *state.Value[uint64]      // count windows: the key's elements
	declared []Declared
}

func (s *windowStore[Acc]) declare(d *windowDecl) {
	switch d.assigner.kind {
	case windowAligned:
		s.panes = state.NewPanes[Acc]("panes", d.layout(), d.states...)
		s.fired, s.emitted = state.NewValue[int64]("fired"), state.NewMap[int64, uint64]("emitted")
		s.declared = []Declared{s.panes, s.fired, s.emitted}
	case windowSession, windowGlobal:
		s.sessions = state.NewSessions[Acc]("panes", d.layout(), d.states...)
		s.declared = []Declared{s.sessions}
	case windowCount:
		s.panes = state.NewPanes[Acc]("panes", d.layout(), d.states...)
		s.count = state.NewValue[uint64]("count")
		s.declared = []Declared{s.panes, s.count}
	}
}

// windowOp is what all kinds of window operators have in a task.
type windowOp[T, Acc any] struct {
	task     *task
	pc       *opContext
	op       int32
	decl     *windowDecl
	fold     folder[T, Acc]
	emit     windowEmit[Acc]
	late     func(T) // nil: counted only
	line     *timeline
	lateness int64
	pane     Pane
	parts    []Acc
}

// collect makes the operator's function: that of the assigner's kind.
func (w *windowOp[T, Acc]) collect(a *assembly, n *node, s *windowStore[Acc]) any {
	switch w.decl.assigner.kind {
	case windowAligned:
		return collectAligned(a, n, w, s)
	case windowSession, windowGlobal:
		return collectSessions(a, n, w, s)
	}
	return collectCounts(a, n, w, s)
}

// done is the time that the operator's watermark has completed: every window that ends there or before is closed.
func (w *windowOp[T, Acc]) done() int64 { return satAdd(w.line.watermark, 1) }

// over is when what ends at a time goes: when its lateness has passed, and with the final watermark at the latest.
func (w *windowOp[T, Acc]) over(end int64) int64 {
	return min(satAdd(end, w.lateness), finalWatermark-1)
}

// refuse is for an element that is in no open window.
func (w *windowOp[T, Acc]) refuse(v T) {
	w.task.counts.lateElements++
	if w.late != nil {
		w.late(v)
	}
}

// closed fires a pane because of the watermark: no element is current.
func (w *windowOp[T, Acc]) closed(key string, start, end int64, index int, acc Acc) {
	t := w.task
	t.touch()
	t.at = end - 1
	t.origin = origin{time: t.at, number: t.origin.number + 1}
	w.fire(key, start, end, OnTime, index, acc)
}

// during fires a pane because of the current element, or of a timer, to which time and record go back.
func (w *windowOp[T, Acc]) during(key string, start, end int64, timing Timing, index int, acc Acc) {
	t := w.task
	at := t.at
	t.at = end - 1
	w.fire(key, start, end, timing, index, acc)
	t.at = at
}

func (w *windowOp[T, Acc]) fire(key string, start, end int64, timing Timing, index int, acc Acc) {
	p := &w.pane
	p.Key, p.Timing, p.Index = key, timing, index
	p.Start, p.End = time.Unix(0, start).UTC(), time.Unix(0, end).UTC()
	w.hand(acc)
}

// fireUnbounded fires a pane of a window that has no bounds in time. It keeps the current element's time.
func (w *windowOp[T, Acc]) fireUnbounded(key string, timing Timing, index int, acc Acc) {
	w.pane = Pane{Key: key, Timing: timing, Index: index}
	w.hand(acc)
}

func (w *windowOp[T, Acc]) hand(acc Acc) {
	w.task.op = w.op
	if err := w.emit(&w.pane, acc); err != nil {
		w.task.userError(w.op, err)
	}
	w.task.op = w.op
}

// merged joins what was gathered in parts.
func (w *windowOp[T, Acc]) merged() Acc {
	acc := w.fold.mergeAll(w.parts)
	clear(w.parts)
	w.parts = w.parts[:0]
	return acc
}

// fail handles an error of the state: a quota, as a rule.
func (w *windowOp[T, Acc]) fail(err error) { w.task.userError(w.op, err) }

// wake asks for an early result of a key, unless that is done; it returns when it is due. Results come at multiples of the
// interval, so that a key has one timer at a time.
func (w *windowOp[T, Acc]) wake(key string, asked int64) int64 {
	interval := int64(w.decl.interval)
	at := floorTo(w.task.now().UnixNano(), interval, 0) + interval
	if at == asked {
		return at
	}
	w.task.timersMoved = true
	if err := w.pc.backend.Timers().Set(state.ProcessingTime, at, key); err != nil {
		w.fail(err)
	}
	return at
}

// mustOpen turns what cannot fail, since the operator declares its states, into a bug.
func mustOpen[V any](v V, err error) V {
	if err != nil {
		panic(fmt.Sprintf("bug: opening the state of a window: %v", err))
	}
	return v
}

// floorTo returns the last multiple of step, counted from offset, that is not after x.
func floorTo(x, step, offset int64) int64 {
	r := (x - offset) % step
	if r < 0 {
		r += step
	}
	return x - r
}
