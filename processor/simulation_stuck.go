package processor

import (
	"context"
	"time"
)

// User code cannot be held up in a simulation, which is one goroutine: a task that is stuck is one that is not stepped any more while
// its attempt lasts, and goes on at some moment behind it.

func (h *simHost) glance() glance {
	g := glance{steps: 2 * h.steps, op: h.task.op, number: h.task.origin.number}
	if h.stuck {
		g.steps++
	}
	return g
}

// stick makes the task stuck. Whatever user code is called for, the attempt has heard that there is something to checkpoint.
func (h *simHost) stick() {
	h.stuck = true
	h.dirty(h.index)
}

// stuck reports whether a task is.
func (s *simulation) stuck() bool {
	for _, w := range s.workers {
		for _, h := range w.hosts {
			if h.stuck && !w.frozen {
				return true
			}
		}
	}
	return false
}

func (h *simHost) over() bool { return false }

func (w *simWorker) glances() []glance {
	seen := make([]glance, len(w.hosts))
	for i, h := range w.hosts {
		seen[i] = h.glance()
	}
	return seen
}

func (w *simWorker) locate(int) string { return "" }

// outlive lets the stuck tasks of an attempt that ends go on some time.
func (w *simWorker) outlive() {
	for _, h := range w.hosts {
		if h.stuck {
			w.sim.late = append(w.sim.late, h.outlive)
		}
	}
}

// outlive processes what a task has left, as if its user code returned only now.
func (h *simHost) outlive() {
	h.task.bind(&deadHost{simHost: h, clock: h.now()})
	for _, ev := range append(h.control, h.data...) {
		if h.task.step(ev) != nil {
			return
		}
	}
}

// deadHost is the host of a task whose attempt has ended. Nothing leaves it.
type deadHost struct {
	*simHost
	clock time.Time
}

func (h *deadHost) send(int, int, *frame) error { return context.Canceled }
func (h *deadHost) publish(context.Context, string, Message, func(error)) error {
	return context.Canceled
}
func (h *deadHost) snapshot(*taskSnapshot) {}
func (h *deadHost) wake(time.Time)         {}
func (h *deadHost) dirty(int)              {}
func (h *deadHost) notify(ctlEvent)        {}
func (h *deadHost) now() time.Time         { return h.clock }
