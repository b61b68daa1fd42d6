package processor

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// bedCall is a call beside a task of a Testbed.
type bedCall struct {
	task     int
	deadline time.Time
	run      func(context.Context) event
}

func (h *bedHost) call(timeout time.Duration, _ func() Where, run func(context.Context) event) time.Time {
	ends := h.bed.now.Add(timeout)
	h.bed.calls = append(h.bed.calls, bedCall{h.index, ends, run})
	return ends
}

// answer makes the calls there are, unless they are held, and reports whether there were any.
func (b *Testbed) answer() bool {
	if b.cfg.HoldCalls || len(b.calls) == 0 {
		return false
	}
	for _, c := range b.calls {
		b.queue = append(b.queue, bedEvent{c.task, c.made(b.now)})
	}
	b.calls = b.calls[:0]
	return true
}

func (c *bedCall) made(now time.Time) event {
	ctx, cancel := callContext(now, c.deadline)
	defer cancel()
	return c.run(ctx)
}

// Calls returns how many calls of Async wait for Complete, with HoldCalls.
func (b *Testbed) Calls() int { return len(b.calls) }

// Complete makes one of the calls that wait, by its place in the order in which they began, and runs until nothing moves.
func (b *Testbed) Complete(call int) error {
	if call < 0 || call >= len(b.calls) {
		return fmt.Errorf("completing call %d: %d wait", call, len(b.calls))
	}
	c := b.calls[call]
	b.calls = slices.Delete(b.calls, call, call+1)
	return b.run(c.task, c.made(b.now))
}
