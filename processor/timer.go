package processor

import (
	"time"

	"github.com/weirstream/weir/state"
)

// timerOperator is an operator that has timers.
type timerOperator struct {
	pc   *opContext
	fire func(at time.Time) error
}

// tick fires every timer that is due, operator by operator, each in the order of time.
func (t *task) tick(now time.Time) {
	t.clock = now
	t.wakeAt, t.timersMoved = time.Time{}, true
	for _, o := range t.timers {
		timers := o.pc.backend.Timers()
		// A timer function that sets timers for the past must not keep the task: those wait for the next tick.
		for n := timers.Len(state.ProcessingTime); n > 0 && t.err == nil; n-- {
			key, at, ok := timers.PopDue(state.ProcessingTime, now.UnixNano())
			if !ok {
				break
			}
			t.fire(o, key, at)
		}
	}
}

func (t *task) fire(o *timerOperator, key string, at int64) {
	t.touch()
	t.origin = origin{time: at, number: t.origin.number + 1}
	t.op = o.pc.op
	o.pc.key = key
	o.pc.backend.SetKey(key)
	if err := o.fire(time.Unix(0, at).UTC()); err != nil {
		t.userError(o.pc.op, err)
	}
}

// rearm asks the host to wake the task when its first timer is due.
func (t *task) rearm() {
	t.timersMoved = false
	first, any := int64(0), false
	for _, o := range t.timers {
		if at, ok := o.pc.backend.Timers().Next(state.ProcessingTime); ok && (!any || at < first) {
			first, any = at, true
		}
	}
	var at time.Time
	if any {
		at = time.Unix(0, first)
	}
	if !at.Equal(t.wakeAt) {
		t.wakeAt = at
		t.host.wake(time.Time{})
		if any {
			t.host.wake(at)
		}
	}
}
