package processor

import (
	"math"
	"reflect"
	"slices"
	"time"

	"github.com/weirstream/weir/state"
)

// alignedWindows are tumbling and sliding windows. Time is cut into slices of the greatest common divisor of size and slide; an
// element is folded into one slice of its key, and a window's result is merged of its slices when it is asked for.
//
// What must survive: the slices; for each key up to which end its windows have been fired (a key whose windows are tumbling and
// have no lateness does without: what was fired is gone); and for each key and window that may be emitted more than once, how
// often that was. What is due when follows from these: see plan. Elements come only when nothing is due at the watermark, so all
// windows up to it are fired then.
type alignedWindows[T, Acc any] struct {
	*windowOp[T, Acc]
	backend *state.Backend
	panes   *state.PaneTable[Acc]
	store   *windowStore[Acc]
	due     schedule[Acc]
	loaded  bool // the schedule was made of what was restored

	size, slide, width, offset int64
	keepFired                  bool               // windowStore.fired is needed
	storesFired                bool               // ... or may have something
	counted                    bool               // windows may be emitted more than once
	merge                      func(a, b Acc) Acc // of running sums; nil: there are none

	// The slice of the last element: consecutive elements often share theirs.
	lo, hi      int64 // of the slice
	first, last int64 // ends of its windows
	expiry      int64 // when it goes
}

func collectAligned[T, Acc any](a *assembly, n *node, op *windowOp[T, Acc], s *windowStore[Acc]) any {
	d := op.decl
	w := &alignedWindows[T, Acc]{
		windowOp: op, backend: op.pc.backend, panes: mustOpen(s.panes.Table(op.pc)), store: s,
		size: int64(d.assigner.size), slide: int64(d.assigner.slide), offset: int64(d.offset),
	}
	w.width = gcd(w.size, w.slide)
	w.counted = d.early() || d.lateness > 0
	w.keepFired = w.slide != w.size || d.lateness > 0
	w.storesFired = w.keepFired
	if w.slide != w.size && flat(reflect.TypeFor[Acc]()) {
		w.merge = op.fold.merge
	}
	op.line = a.timeline(n, w.closeDue)
	if d.interval > 0 {
		a.addTimers(op.pc, w.tick)
	}
	return w.element
}

// element folds an element into the slice of its time.
func (w *alignedWindows[T, Acc]) element(key string, v T) {
	t := w.task
	prev := t.op
	t.op = w.op
	if !w.loaded {
		w.load()
	}
	at := t.at
	done := w.done()
	if (at < w.lo || at >= w.hi) && !w.locate(at) || t.origin.far || w.expiry <= done {
		w.refuse(v)
		t.op = prev
		return
	}
	n := w.panes.Key(key)
	var have *Acc
	if n != nil {
		have = n.At(w.lo)
	}
	var acc Acc
	if have != nil {
		acc = w.fold.add(*have, v)
	} else {
		acc = w.fold.first(v)
	}
	n, err := w.panes.Put(n, key, w.lo, acc)
	switch {
	case err != nil:
		w.fail(err)
	case have == nil || w.counted:
		w.joined(n, have == nil, done)
	}
	if w.merge != nil && w.lo < done {
		w.unsum(n)
	}
	t.op = prev
}

// locate finds the slice of a time, its windows and its end. It refuses what nanoseconds in 64 bits cannot hold.
func (w *alignedWindows[T, Acc]) locate(at int64) bool {
	if room := 3 * w.size; at < math.MinInt64+room || at > math.MaxInt64-room {
		return false
	}
	w.lo = floorTo(at, w.width, w.offset)
	w.hi = w.lo + w.width
	w.first, w.last = w.ends(w.lo)
	w.expiry = w.over(w.last)
	return true
}

// ends returns the ends of the first and of the last window that a slice is in.
func (w *alignedWindows[T, Acc]) ends(slice int64) (first, last int64) {
	if w.slide == w.size {
		return slice + w.size, slice + w.size
	}
	return floorTo(slice+w.width-w.size+w.slide-1, w.slide, w.offset) + w.size, floorTo(slice, w.slide, w.offset) + w.size
}

// endAfter returns the first end of a window after x. A window's end is a start and the size.
func (w *alignedWindows[T, Acc]) endAfter(x int64) int64 {
	if x < math.MinInt64+3*w.size { // no watermark yet
		return math.MinInt64
	}
	return floorTo(satSub(x, w.size), w.slide, w.offset) + w.size + w.slide
}

// joined goes on behind an element in the slice lo.
func (w *alignedWindows[T, Acc]) joined(n *state.PaneKey[Acc], fresh bool, done int64) {
	passed := w.first <= done // some of its windows are closed
	if fresh {
		if passed {
			w.setFired(n, w.endAfter(done)-w.slide)
		}
		next := w.first
		if passed {
			next = w.endAfter(done)
		}
		if next > w.last {
			next = w.expiry
		}
		w.due.add(n, next)
	}
	if !w.counted {
		return
	}
	if passed {
		for end := w.first; end <= min(w.last, done); end += w.slide {
			if w.over(end) > done && w.task.err == nil {
				w.again(n, end, Late)
			}
		}
	}
	if w.decl.early() {
		w.early(n, done)
	}
}

// setFired notes that all windows of the key up to an end were fired, or need not be.
func (w *alignedWindows[T, Acc]) setFired(n *state.PaneKey[Acc], end int64) {
	if end <= n.Fired {
		return
	}
	n.Fired = end
	if !w.keepFired {
		return
	}
	w.backend.SetKey(n.Key())
	if err := w.store.fired.Set(w.pc, end); err != nil {
		w.fail(err)
	}
}

// Numbers of a window in windowStore.emitted.
const sinceUnit = 1 << 32

// again emits a window once more.
func (w *alignedWindows[T, Acc]) again(n *state.PaneKey[Acc], end int64, timing Timing) {
	if !w.gather(n, end) {
		return
	}
	index := w.emission(n, end)
	w.during(n.Key(), end-w.size, end, timing, index, w.merged())
}

// emission counts a result of a window, and returns its index.
func (w *alignedWindows[T, Acc]) emission(n *state.PaneKey[Acc], end int64) int {
	if !w.counted {
		return 0
	}
	w.backend.SetKey(n.Key())
	count, _, err := w.store.emitted.Get(w.pc, end)
	if err == nil {
		count %= sinceUnit
		err = w.store.emitted.Put(w.pc, end, count+1)
	}
	if err != nil {
		w.fail(err)
	}
	return int(count)
}

// early counts the element in its open windows, and emits those that are full.
func (w *alignedWindows[T, Acc]) early(n *state.PaneKey[Acc], done int64) {
	for end := w.first; end <= w.last && w.task.err == nil; end += w.slide {
		if end <= done {
			continue
		}
		w.backend.SetKey(n.Key())
		count, _, err := w.store.emitted.Get(w.pc, end)
		if err == nil {
			count += sinceUnit
			err = w.store.emitted.Put(w.pc, end, count)
		}
		if err != nil {
			w.fail(err)
			return
		}
		if w.decl.every > 0 && count/sinceUnit >= uint64(w.decl.every) {
			w.again(n, end, Early)
		}
	}
	if w.decl.interval > 0 {
		n.Early = w.wake(n.Key(), n.Early)
	}
}

// tick emits the open windows of a key that have new elements.
func (w *alignedWindows[T, Acc]) tick(time.Time) error {
	n := w.panes.Key(w.pc.key)
	if n == nil {
		return nil
	}
	if !w.loaded {
		w.load()
	}
	var ends []int64
	done := w.done()
	w.backend.SetKey(n.Key())
	err := w.store.emitted.Each(w.pc, func(end int64, count uint64) error {
		if count >= sinceUnit && end > done {
			ends = append(ends, end)
		}
		return nil
	})
	slices.Sort(ends)
	for _, end := range ends {
		if w.task.err == nil {
			w.again(n, end, Early)
		}
	}
	return err
}

// gather collects the slices of a window that the key has.
func (w *alignedWindows[T, Acc]) gather(n *state.PaneKey[Acc], end int64) bool {
	_, to := n.Bounds()
	for i := n.Search(end - w.size); i < to; i++ {
		start, acc := n.Item(i)
		if start >= end {
			break
		}
		if acc != nil {
			w.parts = append(w.parts, *acc)
		}
	}
	return len(w.parts) > 0
}

// result is what a key has of a window that closes.
func (w *alignedWindows[T, Acc]) result(n *state.PaneKey[Acc], end int64) (acc Acc, ok bool) {
	if w.slide == w.size {
		if v := n.At(end - w.size); v != nil {
			return *v, true
		}
		return acc, false
	}
	if w.merge == nil {
		if !w.gather(n, end) {
			return acc, false
		}
		return w.merged(), true
	}
	r, ok := n.Memo.(*running[Acc])
	if !ok {
		r = &running[Acc]{upTo: math.MinInt64}
		n.Memo = r
	}
	return r.window(n, end-w.size, end, w.merge)
}

// unsum notes that a slice has changed that may be in the key's sums.
func (w *alignedWindows[T, Acc]) unsum(n *state.PaneKey[Acc]) {
	if n == nil {
		return // it was refused
	}
	if r, ok := n.Memo.(*running[Acc]); ok && w.lo < r.upTo {
		r.stale()
	}
}

// closeDue closes the windows that the watermark has passed.
func (w *alignedWindows[T, Acc]) closeDue(wm int64, budget int) (fired int) {
	if !w.loaded {
		w.load()
	}
	w.task.op = w.op
	return w.due.closeDue(w.task, wm, budget, w.close)
}

// close does what is due for a key at a time: the end of a window, or the expiry of a slice.
func (w *alignedWindows[T, Acc]) close(n *state.PaneKey[Acc], at int64) {
	if at > n.Fired && floorTo(at-w.size, w.slide, w.offset) == at-w.size {
		if acc, ok := w.result(n, at); ok {
			w.closed(n.Key(), at-w.size, at, w.emission(n, at), acc)
			w.setFired(n, at)
		}
	}
	for i, to := n.Bounds(); i < to; i++ {
		start, acc := n.Item(i)
		if acc == nil {
			continue
		}
		if _, last := w.ends(start); w.over(last) > at {
			break
		}
		w.panes.Remove(n, start)
	}
	if n.Live() == 0 {
		w.forget(n)
		return
	}
	if w.counted {
		w.forgetCounts(n, satSub(at, w.lateness))
	}
	w.plan(n)
}

// plan schedules what is next for a key: the first end after Fired of a window that has a slice, or the expiry of its first slice.
func (w *alignedWindows[T, Acc]) plan(n *state.PaneKey[Acc]) {
	next, after := int64(state.NoTime), int64(math.MinInt64)
	if n.Fired != math.MinInt64 {
		after = w.endAfter(n.Fired)
	}
	for i, to := n.Bounds(); i < to; i++ {
		start, acc := n.Item(i)
		if acc == nil {
			continue
		}
		from, last := w.ends(start)
		next = min(next, w.over(last))
		if end := max(from, after); end <= last {
			next = min(next, end)
			break // the windows of later slices end later
		}
	}
	w.due.add(n, next)
}

// forget lets go of what is known of a key that has no slices.
func (w *alignedWindows[T, Acc]) forget(n *state.PaneKey[Acc]) {
	if w.storesFired || w.counted {
		w.backend.SetKey(n.Key())
	}
	if w.storesFired && n.Fired != math.MinInt64 {
		if err := w.store.fired.Clear(w.pc); err != nil {
			w.fail(err)
		}
	}
	n.Fired, n.Memo = math.MinInt64, nil
	if w.counted {
		if err := w.store.emitted.Clear(w.pc); err != nil {
			w.fail(err)
		}
	}
}

// forgetCounts removes the numbers of windows that end at or before an end: no element can be in them any more.
func (w *alignedWindows[T, Acc]) forgetCounts(n *state.PaneKey[Acc], upTo int64) {
	w.backend.SetKey(n.Key())
	err := w.store.emitted.Each(w.pc, func(end int64, _ uint64) error {
		if end <= upTo {
			return w.store.emitted.Remove(w.pc, end)
		}
		return nil
	})
	if err != nil {
		w.fail(err)
	}
}

// load makes the schedule of what was restored.
func (w *alignedWindows[T, Acc]) load() {
	w.loaded = true
	w.panes.Keys(func(n *state.PaneKey[Acc]) {
		w.backend.SetKey(n.Key())
		fired, ok, err := w.store.fired.Lookup(w.pc)
		switch {
		case err != nil:
			w.fail(err)
		case ok: // without keepFired: of an older version of the program
			n.Fired, w.storesFired = fired, true
		}
		if !w.counted { // nor would forget clear them
			if err := w.store.emitted.Clear(w.pc); err != nil {
				w.fail(err)
			}
		}
		w.plan(n)
	})
}
