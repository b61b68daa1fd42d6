package processor

// Event time behind an Async.
//
// Invariant: the watermark that the operators below have been told is that of the last one that came in front of every element in
// flight. Elements between two watermarks are a segment; the watermark behind it is told when it and all before it are empty. An
// element that is not late may leave in any order: its time is behind every watermark that was told. One that was late when it came
// waits until its segment is the first, that is until the watermark that it came behind has been told: what is late stays late,
// however long calls take.

// asyncSegment are the elements that came between two watermarks.
type asyncSegment[In, Out any] struct {
	left      int // in flight
	closed    bool
	watermark int64 // that came behind it, once closed
	parked    []*asyncFlight[In, Out]
}

// asyncSegments are the segments that have something in flight, in the order of their watermarks.
type asyncSegments[In, Out any] struct {
	list     []*asyncSegment[In, Out]
	released int64 // the watermark that may be told
	seen     int64 // the last that came
	held     bool  // more was to be told
}

// enter puts an element into the open segment.
func (s *asyncSegments[In, Out]) enter(f *asyncFlight[In, Out]) {
	n := len(s.list)
	if n == 0 || s.list[n-1].closed {
		s.list = append(s.list, &asyncSegment[In, Out]{})
		n++
	}
	f.segment = s.list[n-1]
	f.segment.left++
}

// close puts a watermark behind what has come.
func (s *asyncSegments[In, Out]) close(wm int64) {
	if wm > s.seen {
		last := s.list[len(s.list)-1]
		last.closed, last.watermark = true, wm
		s.seen = wm
	}
}

// first reports whether the element's segment is the first.
func (s *asyncSegments[In, Out]) first(f *asyncFlight[In, Out]) bool { return s.list[0] == f.segment }

// leave takes an element out. It reports whether there is more to tell, and returns the late elements that waited for that.
func (s *asyncSegments[In, Out]) leave(f *asyncFlight[In, Out]) (tell bool, freed []*asyncFlight[In, Out]) {
	f.segment.left--
	popped := false
	for len(s.list) > 0 && s.list[0].left == 0 { // an open one is the last: nothing is in flight then
		if s.list[0].closed {
			s.released = s.list[0].watermark
		}
		s.list[0] = nil
		s.list = s.list[1:]
		popped = true
	}
	if popped && len(s.list) > 0 {
		freed, s.list[0].parked = s.list[0].parked, nil
	}
	return popped && s.held, freed
}

// gate says what the operators below may be told of a watermark that has come. While something is in flight the operator is not idle.
func (a *asyncOp[In, Out]) gate(wm int64, idle bool) (int64, bool) {
	s := &a.segments
	if a.inFlight == 0 {
		s.released, s.seen, s.held = wm, wm, false
		return wm, idle
	}
	s.close(wm)
	s.held = true
	return s.released, false
}
