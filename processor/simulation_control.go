package processor

import (
	"fmt"
	"time"
)

// control returns a request of a person to a running attempt, or nil when there is to be none now: a savepoint, a hold that is cut,
// resumed or forgotten, or a stop, after which the job is started again.
func (s *simulation) control() func() {
	if s.resting || s.controls == 0 || s.rng.IntN(20) != 0 {
		return nil
	}
	w := s.workers[s.rng.IntN(len(s.workers))]
	if w.att == nil || w.att.coord == nil {
		return nil
	}
	return func() {
		s.controls--
		switch s.rng.IntN(4) {
		case 0, 1:
			s.askSavepoint(w, SavepointRequest{Name: s.savepointName()})
		case 2:
			s.askHold(w)
		default:
			s.askStop(w)
		}
	}
}

// savepointName returns a new name, or now and then one that was used.
func (s *simulation) savepointName() string {
	if s.names == 0 || s.rng.IntN(4) > 0 {
		s.names++
	}
	return fmt.Sprintf("s%d", s.names)
}

func (s *simulation) askSavepoint(w *simWorker, req SavepointRequest) {
	req.Request = req.Name
	w.events = append(w.events, ctlSavepoint{req, func(_ SavepointReport, err error) {
		if err == nil {
			s.result.Savepoints++
		}
	}})
}

func (s *simulation) askHold(w *simWorker) {
	s.names++
	id := fmt.Sprintf("h%d", s.names)
	att := w.att
	w.events = append(w.events, ctlHold{id, time.Duration(1+s.rng.IntN(100)) * time.Millisecond, func(at map[string]Position, err error) {
		if err != nil || w.att != att {
			return
		}
		s.result.Holds++
		switch s.rng.IntN(3) {
		case 0: // forgotten
		case 1:
			w.events = append(w.events, ctlResume{id, func(error) {}})
		default:
			cut := map[string]uint64{}
			for _, source := range sortedKeys(at) {
				cut[source] = at[source].Sequence + uint64(s.rng.IntN(4))
			}
			s.askSavepoint(w, SavepointRequest{Name: s.savepointName(), Hold: id, Cut: cut})
		}
	}})
}

func (s *simulation) askStop(w *simWorker) {
	req := StopRequest{Mode: []StopMode{"", StopNow, StopSavepoint, StopDrain}[s.rng.IntN(4)]}
	if req.Mode == StopSavepoint || req.Mode == StopDrain && s.rng.IntN(2) == 0 {
		req.Savepoint = s.savepointName()
	}
	w.events = append(w.events, ctlStop{req, func(_ StopReport, err error) {
		if err == nil {
			s.result.Stops++
		}
	}})
}

// busy reports whether somebody waits for something of the attempt, or sources stand.
func (w *simWorker) busy() bool {
	if a := w.att; len(a.makings) > 0 || a.holding != nil || a.stopping != nil || a.leaving != nil {
		return true
	}
	for _, h := range w.hosts {
		for _, in := range h.task.inputs {
			if len(in.held) > 0 {
				return true
			}
		}
	}
	return false
}
