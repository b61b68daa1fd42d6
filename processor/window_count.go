package processor

import (
	"github.com/weirstream/weir/state"
)

// countWindows gather a number of elements. A key's elements are numbered; slices of the greatest common divisor of size and slide
// are kept by the number of their first.
type countWindows[T, Acc any] struct {
	*windowOp[T, Acc]
	panes              *state.PaneTable[Acc]
	count              *state.Value[uint64]
	size, slide, width int64
}

func collectCounts[T, Acc any](a *assembly, n *node, op *windowOp[T, Acc], s *windowStore[Acc]) any {
	d := op.decl
	w := &countWindows[T, Acc]{
		windowOp: op, panes: mustOpen(s.panes.Table(op.pc)), count: s.count, size: int64(d.assigner.n), slide: int64(d.assigner.step),
	}
	w.width = gcd(w.size, w.slide)
	op.line = a.timeline(n, nil)
	return w.element
}

func (w *countWindows[T, Acc]) element(key string, v T) {
	t := w.task
	prev := t.op
	t.op = w.op
	w.pc.backend.SetKey(key)
	if err := w.take(key, v); err != nil {
		w.fail(err)
	}
	t.op = prev
}

// take folds one element into its slice and emits a window that is full.
func (w *countWindows[T, Acc]) take(key string, v T) error {
	number, err := w.count.Get(w.pc)
	if err != nil {
		return err
	}
	slice := floorTo(int64(number), w.width, 0)
	n := w.panes.Key(key)
	var have *Acc
	if n != nil {
		have = n.At(slice)
	}
	var acc Acc
	if have != nil {
		acc = w.fold.add(*have, v)
	} else {
		acc = w.fold.first(v)
	}
	if n, err = w.panes.Put(n, key, slice, acc); err != nil {
		return err
	}
	number++
	if number%uint64(w.slide) != 0 {
		return w.count.Set(w.pc, number)
	}
	end := int64(number)
	for i, to := n.Bounds(); i < to; i++ {
		start, acc := n.Item(i)
		if acc != nil && start >= end-w.size {
			w.parts = append(w.parts, *acc)
		}
		if acc != nil && start < end+w.slide-w.size {
			w.panes.Remove(n, start)
		}
	}
	if n.Live() == 0 {
		err = w.count.Clear(w.pc) // numbers begin anew: the same windows, and nothing is kept
	} else {
		err = w.count.Set(w.pc, number)
	}
	if err != nil {
		return err
	}
	w.fireUnbounded(n.Key(), OnTime, 0, w.merged())
	return nil
}
