package processor

import (
	"errors"
	"math"

	"github.com/weirstream/weir/state"
)

// A source stops at a sequence in two ways: the attempt limits it (a hold, an exact cut, a drain), or it stops by itself at a mark
// until the attempt lets it pass. A source that stands is like an input that aligns: what comes is kept, unprocessed, and holds its
// reader back by its credits. Barriers still cut it, where it stands: injected ones, since those in the stream lie behind.
//
// Invariant: while a source stands at limit or mark S, every record up to S has been processed and none behind it; so a
// checkpoint whose position for the source is S holds exactly what the stream has up to S.

// noLimit is the limit of a source that reads on.
const noLimit = math.MaxUint64

// sourceHold is where a source stops.
type sourceHold struct {
	limit uint64 // nothing behind it is processed
	token uint64 // of the evLimit that set it
	told  bool   // the attempt knows that the limit is reached
	mark  uint64 // not 0: the source stands at this mark

	asked   int64 // server time of the last mark that the attempt was asked about, unix nanoseconds; 0: none
	ignored int64 // of the last mark whose being ignored was told
}

// evLimit lets every source read up to a sequence and no further: at is by source name; a source that it does not name, or that is
// beyond, stops where it is. Each source answers with ctlHeld once it has got there.
type evLimit struct {
	token uint64
	at    map[string]uint64
}

// evUnlimit ends an evLimit.
type evUnlimit struct{ token uint64 }

// evPass lets a source go on behind a mark.
type evPass struct {
	source  string
	seq     uint64
	ignored bool // it makes no savepoint
}

// evRead reads an operator's state between two events. It must not fail the task.
type evRead struct {
	operator string
	read     func(b *state.Backend, err error)
}

func (evLimit) isEvent()   {}
func (evUnlimit) isEvent() {}
func (evPass) isEvent()    {}
func (evRead) isEvent()    {}

// stands reports whether the source must not process anything now.
func (s *sourceInput) stands() bool { return s.hold.mark != 0 || s.position >= s.hold.limit }

// stopped reports whether what comes on the input is to be kept.
func (in *taskInput) stopped() bool {
	return in.blocked || in.waits || in.source != nil && in.source.stands()
}

func (t *task) limit(ev evLimit) {
	for _, in := range t.inputs {
		s := in.source
		if s == nil {
			continue
		}
		at, named := ev.at[s.ref.name]
		if !named || at < s.position {
			at = s.position
		}
		s.hold.limit, s.hold.token, s.hold.told = at, ev.token, false
		if r := s.rules; r != nil && r.loading {
			r.stand, r.standAt, s.hold.limit = true, at, noLimit
		}
		t.reached(s)
	}
}

// reached tells the attempt, once, that a source has got to its limit.
func (t *task) reached(s *sourceInput) {
	if s.hold.limit != noLimit && !s.hold.told && s.position >= s.hold.limit {
		s.hold.told = true
		t.host.notify(ctlHeld{token: s.hold.token, source: s.ref.name, position: s.position})
	}
}

func (t *task) unlimit(ev evUnlimit) {
	for _, in := range t.inputs {
		if in.source != nil && in.source.hold.token == ev.token {
			in.source.hold.limit = noLimit
			if in.source.rules != nil {
				in.source.rules.stand = false
			}
		}
	}
}

func (t *task) pass(ev evPass) {
	for _, in := range t.inputs {
		if in.source != nil && in.source.ref.name == ev.source && in.source.hold.mark == ev.seq {
			in.source.hold.mark = 0
			if ev.ignored {
				t.counts.marks++
			}
		}
	}
}

func (t *task) readState(ev evRead) {
	for _, o := range t.subtasks {
		if o.operator == ev.operator {
			ev.read(o.backend, nil)
			return
		}
	}
	ev.read(nil, errors.New("bug: the operator is not in the task that was asked"))
}
