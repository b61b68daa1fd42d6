package processor

import (
	"fmt"
	"time"
)

// handleRequest handles what savepoints, marks, holds and stops are made of.
func (a *attempt) handleRequest(now time.Time, ev ctlEvent) {
	switch ev := ev.(type) {
	case ctlSavepoint:
		a.onSavepoint(now, ev)
	case ctlSavepointMoved:
		a.onSavepointMoved(now, ev)
	case ctlSavepointMade:
		a.onSavepointMade(now, ev)
	case ctlMark:
		a.onMark(now, ev)
	case ctlMarkIgnored:
		a.onMarkIgnored(ev)
	case ctlMarkJudged:
		a.onMarkJudged(now, ev)
	case ctlHold:
		a.onHold(now, ev)
	case ctlHeld:
		a.onHeld(now, ev)
	case ctlResume:
		a.onResume(now, ev)
	case ctlStop:
		a.onStop(now, ev)
	case ctlTails:
		a.onTails(now, ev)
	case ctlStopping:
		a.onStopping(now, ev)
	case ctlRead:
		a.onRead(ev)
	}
}

// endRequests tells everybody who waits for something that the attempt has ended.
func (a *attempt) endRequests(err error) {
	cause := &ControlError{Reason: ReasonFailed, Message: fmt.Sprintf("job %s: the attempt ended: %v", a.job, err), Err: err}
	for _, mk := range a.makings {
		for _, done := range mk.done {
			done(SavepointReport{}, cause)
		}
		if mk.mark == nil { // one that a mark asked for goes on in the next attempt
			a.tellSavepoint(mk, SavepointFailed, cause)
		}
	}
	a.makings = nil
	if h := a.holding; h != nil && h.done != nil {
		h.done(nil, cause)
	}
	a.holding = nil
	if s := a.stopping; s != nil {
		for _, done := range s.done {
			done(StopReport{}, cause)
		}
		s.done = nil
	}
}

// deadline is when handle wants a ctlTick.
func (a *attempt) deadline() time.Time {
	if a.coord == nil {
		return time.Time{}
	}
	var first time.Time
	sooner := func(t time.Time) {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	if a.leaving == nil {
		sooner(a.coord.Deadline())
	}
	if a.aborting() {
		sooner(a.current.overdue)
	}
	if h := a.holding; h != nil && h.making == nil {
		sooner(h.deadline)
	}
	for _, mk := range a.makings {
		sooner(mk.deadline)
	}
	return first
}
