package processor

import (
	"context"
	"sync/atomic"
	"time"
)

// inputCredits is how many batches or frames one input of a task may hold at once. With the bounds of a batch in records and
// bytes it bounds the memory of an exchange, and it is the back-pressure.
const inputCredits = 4

// host runs one task in a goroutine: the production taskHost. Everything but deliver and tell belongs to that goroutine.
type host struct {
	run     *runner
	task    *task
	index   int
	data    chan event
	credits []chan struct{} // per input
	control *queue[event]
	timer   *time.Timer
	wakeAt  time.Time
	clock   time.Time     // of the event being handled
	steps   atomic.Uint64 // begun and ended: odd inside a step
	blocked bool          // inside a call that waits for others: it is not the user's code that does not return
}

func newHost(r *runner, index int, t *task) *host {
	h := &host{run: r, task: t, index: index, control: newQueue[event](), timer: time.NewTimer(time.Hour)}
	h.timer.Stop()
	n := t.numInputs()
	h.data = make(chan event, n*inputCredits)
	h.credits = make([]chan struct{}, n)
	for i := range h.credits {
		h.credits[i] = make(chan struct{}, inputCredits)
	}
	return h
}

// deliver hands the task a batch or frame of one of its inputs and blocks while the input is full.
func (h *host) deliver(ctx context.Context, input int, ev event) error {
	select {
	case h.credits[input] <- struct{}{}:
		h.data <- ev // has room for every credit
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// tell hands the task a control event without blocking.
func (h *host) tell(ev event) { h.control.push(ev) }

// loop runs the task until the attempt ends or the task fails.
func (h *host) loop(ctx context.Context) error {
	defer h.timer.Stop()
	for {
		if ctx.Err() != nil {
			return ctx.Err() // next may find events still
		}
		ev, err := h.next(ctx)
		if err != nil {
			return err
		}
		// What was told before the data arrived comes first: a barrier must find its trigger.
		for _, c := range h.control.take() {
			if err := h.step(c); err != nil {
				return err
			}
		}
		if ev == nil {
			continue
		}
		if err := h.step(ev); err != nil {
			return err
		}
	}
}

// next waits for an event; nil stands for what was told. A task that is unfinished is not kept waiting.
func (h *host) next(ctx context.Context) (event, error) {
	var unfinished chan struct{} // never ready
	if h.task.unfinished() {
		unfinished = always
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-h.control.ready:
		return nil, nil
	case ev := <-h.data:
		return ev, nil
	case <-h.timer.C:
		h.wakeAt = time.Time{}
		return evTick{now: time.Now()}, nil
	case <-unfinished:
		return evContinue{}, nil
	}
}

// always is always ready.
var always = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

func (h *host) step(ev event) error {
	h.clock = time.Time{}
	h.steps.Add(1)
	err := h.task.step(ev)
	h.steps.Add(1)
	return err
}

func (h *host) send(task, input int, f *frame) error {
	h.blocked = true
	err := h.run.hosts[task].deliver(h.run.ctx, input, evFrame{input: input, frame: f})
	h.blocked = false
	return err
}

func (h *host) consumed(input int) { <-h.credits[input] }

// waiting reports whether the task has not consumed something of the input yet.
func (h *host) waiting(input int) bool { return len(h.credits[input]) > 0 }

func (h *host) snapshot(s *taskSnapshot) { h.run.post(ctlSnapshot{s}) }

func (h *host) wake(t time.Time) {
	switch {
	case t.IsZero():
		h.wakeAt = t
		h.timer.Stop()
	case h.wakeAt.IsZero() || t.Before(h.wakeAt):
		h.wakeAt = t
		h.timer.Reset(time.Until(t))
	}
}

func (h *host) publish(ctx context.Context, stream string, m Message, done func(error)) error {
	if err := h.run.ctx.Err(); err != nil {
		return err // user code has returned behind the end of its attempt
	}
	h.blocked = true
	err := h.run.broker.Publish(h.run.ctx, stream, m, done)
	h.blocked = false
	return err
}

func (h *host) dirty(task int) { h.run.post(ctlDirty{task}) }

func (h *host) notify(ev ctlEvent) { h.run.post(ev) }

func (h *host) call(timeout time.Duration, where func() Where, run func(context.Context) event) time.Time {
	ends := time.Now().Add(timeout) // of this call: the time of the event may be long past
	ctx, cancel := context.WithDeadline(h.run.ctx, ends)
	if !h.run.guard.Go(where, func() {
		defer cancel()
		h.tell(run(ctx))
	}) {
		cancel()
	}
	return ends
}

// over reports whether the attempt has ended.
func (h *host) over() bool { return h.run.ctx.Err() != nil }

// now reads the clock at most once per event: a batch's records share it.
func (h *host) now() time.Time {
	if h.clock.IsZero() {
		h.clock = time.Now()
	}
	return h.clock
}
