package processor

import (
	"fmt"
	"strings"
	"time"

	"github.com/weirstream/weir/state"
)

// timerOperator is an operator that has processing-time timers.
type timerOperator struct {
	pc   *opContext
	fire func(at time.Time) error
	left int // how many the current tick may still fire
}

// ended reports whether a drain has ended the operator's time: what its timers emitted would be late below. They stay for the time
// after the drain.
func (o *timerOperator) ended() bool { return o.pc.time.watermark == finalWatermark }

// tick hears the processing time: sources may be idle, and timers are due. They fire operator by operator, each in the order of
// time.
func (t *task) tick(now time.Time) {
	t.clock = now
	t.wakeAt, t.timersMoved = time.Time{}, true
	for i, in := range t.inputs {
		if in.source != nil {
			in.source.clock.tick(now, t.waiting(i))
		}
	}
	for _, a := range t.asyncs {
		a.tick(now)
	}
	t.tickAt, t.ticking = now, len(t.timers) > 0
	for _, o := range t.timers {
		// A timer function that sets timers for the past must not keep the task: those wait for the next tick.
		o.left = o.pc.backend.Timers().Len(state.ProcessingTime)
	}
}

// waiting reports whether something of an input waits to be processed.
func (t *task) waiting(input int) bool {
	in := t.inputs[input]
	if in.stopped() || len(in.held) > 0 {
		return true
	}
	h, ok := t.host.(interface{ waiting(input int) bool })
	return ok && h.waiting(input)
}

// fireTimers fires what the last tick made due, as far as the step's budget reaches, but for what is above an Async that is full. It
// reports whether nothing else is left.
func (t *task) fireTimers() bool {
	above := false
	for _, o := range t.timers {
		if o.ended() {
			o.left = 0
		}
		if o.left > 0 && o.pc.time.id < t.full {
			above = true
			continue
		}
		timers := o.pc.backend.Timers()
		for o.left > 0 {
			if t.budget <= 0 || t.err != nil {
				return false
			}
			key, at, ok := timers.PopDue(state.ProcessingTime, t.tickAt.UnixNano())
			if !ok {
				o.left = 0
				break
			}
			o.left--
			t.budget--
			t.fire(o.pc, o.fire, key, at)
		}
	}
	t.ticking = above
	return true
}

// fire calls a timer function. Its time is that of what it emits.
func (t *task) fire(pc *opContext, fn func(at time.Time) error, key string, at int64) {
	t.touch()
	t.origin = origin{time: at, number: t.origin.number + 1}
	t.op, t.at = pc.op, at
	pc.key = key
	pc.backend.SetKey(key)
	if err := fn(time.Unix(0, at).UTC()); err != nil {
		t.userError(pc.op, err)
	}
}

// rearm asks the host to wake the task when its first timer is due, or a source may be idle.
func (t *task) rearm() {
	if t.ticking && len(t.asyncs) == 0 {
		return // when the tick is over
	}
	t.timersMoved = t.ticking
	var at time.Time
	earlier := func(x time.Time) {
		if at.IsZero() || x.Before(at) {
			at = x
		}
	}
	for _, a := range t.asyncs {
		if x := a.wakeAt(); !x.IsZero() {
			earlier(x)
		}
	}
	for _, o := range t.timers {
		if t.ticking {
			break // when the tick is over
		}
		if first, ok := o.pc.backend.Timers().Next(state.ProcessingTime); ok && !o.ended() {
			earlier(time.Unix(0, first))
		}
	}
	for _, in := range t.inputs {
		if in.source == nil || t.ticking {
			continue
		}
		if x := in.source.clock.idleAt(); !x.IsZero() {
			earlier(x)
		}
	}
	if !at.Equal(t.wakeAt) {
		t.wakeAt = at
		t.host.wake(time.Time{})
		if !at.IsZero() {
			t.host.wake(at)
		}
	}
}

// eventTimers are an operator's event-time timers in one task.
type eventTimers struct {
	pc *opContext
	fn func(at time.Time) error
	// The final watermark of a drain fires every timer that there is, once. What their functions set is for the time after the
	// drain, if there is one: fired too, a timer that sets the next would never let the drain end. It is kept out of the state
	// until nothing of what there was is left.
	after map[eventTimer]struct{}
	ended bool
}

type eventTimer struct {
	key string
	at  int64
}

// addEventTimers lets an operator fire event-time timers.
func (a *assembly) addEventTimers(n *node, c *opContext, fn func(at time.Time) error) {
	c.event = &eventTimers{pc: c, fn: fn}
	a.timeline(n, c.event.fire)
}

func (e *eventTimers) fire(wm int64, budget int) (fired int) {
	if e.ended {
		return 0
	}
	t, timers := e.pc.task, e.pc.backend.Timers()
	for fired < budget && t.err == nil {
		key, at, ok := timers.PopDue(state.EventTime, wm)
		if !ok {
			if wm == finalWatermark {
				e.end()
			}
			break
		}
		t.fire(e.pc, e.fn, key, at)
		fired++
	}
	return fired
}

func (e *eventTimers) end() {
	e.ended = true
	for x := range e.after {
		e.pc.key = x.key
		e.pc.backend.SetKey(x.key)
		if err := e.pc.backend.Timers().Set(state.EventTime, x.at, x.key); err != nil {
			e.pc.task.userError(e.pc.op, err)
			return
		}
	}
}

// SetTimer asks for a call of the operator's OnTimer function with the current key at t or soon after, by processing time. A
// key has at most one timer for a given t. Timers are state: they survive restarts, and fire late rather than never. Behind the final
// watermark of a drain none fires: those that are left stay for the time after. A t before the year 1678 or after 2262 is a poison
// error.
func (c *opContext) SetTimer(t time.Time) error {
	at, err := c.processingTime(t)
	if err != nil {
		return err
	}
	c.task.timersMoved = true
	return c.backend.Timers().Set(state.ProcessingTime, at, c.key)
}

// DeleteTimer withdraws the current key's timer for t, if there is one.
func (c *opContext) DeleteTimer(t time.Time) error {
	at, err := c.processingTime(t)
	if err != nil {
		return err
	}
	c.task.timersMoved = true
	c.backend.Timers().Delete(state.ProcessingTime, at, c.key)
	return nil
}

func (c *opContext) processingTime(t time.Time) (int64, error) {
	if !c.timers {
		return 0, Terminal(&UndeclaredError{Operator: c.name, Kind: "timer"})
	}
	at, ok := toNanos(t)
	if !ok {
		return 0, Poison(fmt.Errorf("a timer in the year %d: %w", t.UTC().Year(), errTimeRange))
	}
	return at, nil
}

// SetEventTimer asks for a call of the operator's OnEventTimer function with the current key when the watermark reaches t: once no
// element at t or before is expected any more. If it has reached t already, that is behind the current element. A key has at most
// one event timer for a given t; timers of an operator's subtask fire in the order of their time. They are state, as those of
// SetTimer. A drain fires all of them, whatever their time; one that is set by then stays for the time after. A t before the year
// 1678 or after 2262 is a poison error. A function that sets ever more timers for the past keeps its task from reading on, though
// not from taking part in checkpoints.
func (c *opContext) SetEventTimer(t time.Time) error {
	at, err := c.eventTime(t)
	if err != nil {
		return err
	}
	if c.time.watermark == finalWatermark {
		if c.event.after == nil {
			c.event.after = make(map[eventTimer]struct{})
		}
		c.event.after[eventTimer{strings.Clone(c.key), at}] = struct{}{}
		return nil
	}
	if at <= c.time.watermark {
		c.time.due()
	}
	return c.backend.Timers().Set(state.EventTime, at, c.key)
}

// DeleteEventTimer withdraws the current key's event timer for t, if there is one.
func (c *opContext) DeleteEventTimer(t time.Time) error {
	at, err := c.eventTime(t)
	if err != nil {
		return err
	}
	delete(c.event.after, eventTimer{c.key, at})
	c.backend.Timers().Delete(state.EventTime, at, c.key)
	return nil
}

func (c *opContext) eventTime(t time.Time) (int64, error) {
	if c.event == nil {
		return 0, Terminal(&UndeclaredError{Operator: c.name, Kind: "event timer"})
	}
	at, ok := toNanos(t)
	if !ok {
		return 0, Poison(fmt.Errorf("an event timer in the year %d: %w", t.UTC().Year(), errTimeRange))
	}
	return at, nil
}
