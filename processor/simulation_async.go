package processor

import (
	"context"
	"slices"
	"time"
)

// simUserCall is a call beside a task. It is made when it is due, in the simulation's goroutine, and its result comes some time later. One of
// an attempt that has died may never be made, or be made although nobody hears of it.
type simUserCall struct {
	due, deadline time.Time
	run           func(context.Context) event
}

func (h *simHost) call(timeout time.Duration, _ func() Where, run func(context.Context) event) time.Time {
	s, now := h.w.sim, h.now()
	c := &simUserCall{due: now, deadline: now.Add(timeout), run: run}
	switch {
	case s.unlucky():
		c.due = c.deadline.Add(time.Duration(s.rng.Int64N(int64(timeout))))
	case s.rng.IntN(3) > 0:
		c.due = now.Add(time.Duration(s.rng.IntN(int(50 * time.Millisecond))))
	}
	h.calls = append(h.calls, c)
	return c.deadline
}

func (h *simHost) callChoices(out []func()) []func() {
	for _, c := range h.calls {
		if !c.due.After(h.now()) {
			out = append(out, func() {
				h.calls = slices.DeleteFunc(h.calls, func(o *simUserCall) bool { return o == c })
				h.control = append(h.control, c.made(h.now()))
			})
		}
	}
	return out
}

func (c *simUserCall) made(now time.Time) event {
	ctx, cancel := callContext(now, c.deadline)
	defer cancel()
	return c.run(ctx)
}

// callContext is a call's context in virtual time: it ends at once, or never.
func callContext(now, deadline time.Time) (context.Context, context.CancelFunc) {
	if now.Before(deadline) {
		return context.WithCancel(context.Background())
	}
	return context.WithDeadline(context.Background(), time.Unix(0, 0))
}

// hangUp ends the calls of an attempt that has died.
func (w *simWorker) hangUp() {
	for _, h := range w.hosts {
		for _, c := range h.calls {
			if w.sim.rng.IntN(3) == 0 {
				w.sim.late = append(w.sim.late, func() { c.made(w.now()) })
			}
		}
		h.calls = nil
	}
}

func (h *deadHost) call(time.Duration, func() Where, func(context.Context) event) time.Time {
	return h.clock
}
