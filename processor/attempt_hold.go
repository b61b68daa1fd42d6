package processor

import (
	"time"
)

// holding is an evLimit under way: the sources stand, or read up to where they are to stand.
type holding struct {
	id       string // of a request; empty: the attempt's own, for a stop
	token    uint64
	at       map[string]uint64 // where they are to stand; nil: where they are
	reached  map[string]uint64
	timeout  time.Duration
	deadline time.Time // zero: none
	done     func(map[string]Position, error)
	making   *making // to be cut when all stand
}

func (h *holding) complete(sources int) bool { return len(h.reached) == sources }

func (a *attempt) onHold(now time.Time, ev ctlHold) {
	h := a.holding
	switch {
	case a.coord == nil:
		ev.done(nil, refuse(ReasonNotRunning, "job %s is starting: try again when it runs", a.job))
	case a.stopping != nil || a.draining || a.leaving != nil:
		ev.done(nil, refuse(ReasonConflict, "job %s is being stopped", a.job))
	case h != nil && h.id == ev.id && h.making == nil && h.complete(len(a.bind.Sources)):
		ev.done(a.positions(h.reached), nil)
	case h != nil:
		ev.done(nil, refuse(ReasonConflict, "job %s is held already, by %s", a.job, h.id))
	default:
		h := a.hold(now, ev.id, nil)
		h.done, h.timeout = ev.done, ev.timeout
		if h.timeout <= 0 || h.timeout > maxHold {
			h.timeout = maxHold
		}
		h.deadline = now.Add(h.timeout)
	}
}

// hold limits every source, see evLimit.
func (a *attempt) hold(now time.Time, id string, at map[string]uint64) *holding {
	a.tokens++
	h := &holding{id: id, token: a.tokens, at: at, reached: map[string]uint64{}}
	if old := a.holding; old != nil {
		h.timeout = old.timeout
		h.deadline = now.Add(old.timeout)
	}
	a.holding = h
	a.tellSources(evLimit{token: h.token, at: at})
	a.hasten()
	return h
}

func (a *attempt) onHeld(now time.Time, ev ctlHeld) {
	h := a.holding
	if h == nil || h.token != ev.token {
		return
	}
	h.reached[ev.source] = ev.position
	if !h.complete(len(a.bind.Sources)) {
		return
	}
	if h.done != nil {
		h.done(a.positions(h.reached), nil)
		h.done = nil
	}
	if h.making != nil {
		h.making.ready = true
	}
	a.pursue(now)
}

func (a *attempt) positions(at map[string]uint64) map[string]Position {
	out := make(map[string]Position, len(at))
	for source, seq := range at {
		out[source] = Position{Stream: a.bind.source(source).Stream, Sequence: seq}
	}
	return out
}

// mayCut refuses a cut that the sources cannot make.
func (a *attempt) mayCut(req SavepointRequest) error {
	h := a.holding
	if h == nil || h.id != req.Hold || h.making != nil || !h.complete(len(a.bind.Sources)) {
		return refuse(ReasonConflict, "job %s is not held by %s any more: hold it again", a.job, req.Hold)
	}
	for _, source := range sortedKeys(req.Cut) {
		at, known := h.reached[source]
		switch {
		case !known:
			return refuse(ReasonBadRequest, "job %s has no source %q", a.job, source)
		case req.Cut[source] < at:
			return refuse(ReasonConflict, "source %s of job %s has read up to sequence %d and cannot be cut at %d", source, a.job, at, req.Cut[source])
		}
	}
	return nil
}

// cutAt has the sources, which are held, read on up to the cut and stand there for the savepoint.
func (a *attempt) cutAt(now time.Time, mk *making, cut map[string]uint64) {
	old := a.holding
	mk.cut = map[string]uint64{}
	for source, at := range old.reached {
		mk.cut[source] = max(at, cut[source])
	}
	h := a.hold(now, old.id, mk.cut)
	h.making = mk
	mk.deadline = h.deadline
}

func (a *attempt) onResume(now time.Time, ev ctlResume) {
	h := a.holding
	switch {
	case h == nil || h.id != ev.id:
	case h.making != nil:
		a.settleMaking(h.making, SavepointReport{}, refuse(ReasonConflict, "the hold %s of job %s was ended before its savepoint was cut", h.id, a.job))
	default:
		a.cancelHold(refuse(ReasonConflict, "the hold %s of job %s was ended", h.id, a.job))
	}
	ev.done(nil)
	a.pursue(now)
}

// cancelHold ends a hold for whoever still waits for its positions.
func (a *attempt) cancelHold(err error) {
	if h := a.holding; h != nil {
		if h.done != nil {
			h.done(nil, err)
		}
		a.endHold()
	}
}

// endHold lets the sources read on.
func (a *attempt) endHold() {
	if h := a.holding; h != nil {
		a.holding = nil
		a.tellSources(evUnlimit{token: h.token})
	}
	a.steer()
}

// expireHold ends a hold that nobody ended in time. One with a savepoint ends with that.
func (a *attempt) expireHold(now time.Time) {
	h := a.holding
	if h == nil || h.making != nil || h.deadline.IsZero() || now.Before(h.deadline) {
		return
	}
	a.log.Warn("a hold was not ended in time: the job goes on", "hold", h.id)
	a.cancelHold(refuse(ReasonFailed, "job %s: its sources did not stand in %s", a.job, h.timeout))
}
