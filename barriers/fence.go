package barriers

import (
	"fmt"
)

// SinkTarget says where a sink's marker lies.
type SinkTarget struct {
	Name    string
	Stream  string
	Created int64 // the stream's, unix nanoseconds; 0: not known
	Subject string
	// AllowMarkerLoss goes on where the marker is missing or older than recorded: the committed checkpoint's output is then published
	// once more, from the start or from where the marker stands.
	AllowMarkerLoss bool
}

// FencedMarker is a marker before and after it was fenced. The content is the same but for the epoch.
type FencedMarker struct {
	Found MarkerSeen // Seq 0: there was none
	Now   MarkerSeen
}

// Fence puts the attempt's epoch and nonce into every sink's marker and keeps what else it says: the attempts before can publish
// nothing from here on, because their guard is the sequence of a marker that is no longer the last. A sink without a marker gets
// one that says nothing was released. The result is by sink name.
//
// A marker that does not fit the committed manifest is left alone, for Verify to report: writing into a stream that was rolled back
// could give it the very sequence that an attempt still alive has for its guard.
func Fence(ask Ask, rec *HeadRecord, sinks []SinkTarget) (map[string]FencedMarker, error) {
	out := make(map[string]FencedMarker, len(sinks))
	for _, t := range sinks {
		fm, err := fence(ask, rec, t)
		if err != nil {
			return nil, fmt.Errorf("fence sink %s: %w", t.Name, err)
		}
		out[t.Name] = fm
	}
	return out, nil
}

func fence(ask Ask, rec *HeadRecord, t SinkTarget) (FencedMarker, error) {
	h := &rec.Head
	known := uint64(0)
	if s := manifestSink(rec.trash.manifest(h.Checkpoint), t.Name); s != nil {
		known = s.Seen.Seq
	}
	for range takeoverTries {
		r, err := readSince(ask, Request{Op: OpReadMarker, Stream: t.Stream, Subject: t.Subject}, known, readTries)
		if err != nil {
			return FencedMarker{}, err
		}
		m, found := &Marker{Tenant: h.Tenant, Job: h.Job, Sink: t.Name}, MarkerSeen{}
		if r.Status == OK {
			if m, err = readMarker(h, t, r.Value); err != nil {
				return FencedMarker{}, err
			}
			if m.Epoch > h.Epoch || m.Epoch == h.Epoch && m.Owner != h.Owner {
				return FencedMarker{}, fenced(ask, rec, t, m)
			}
			found = seenOf(m, r.Seq)
		}
		if verifyMarker(rec, rec.trash.manifest(h.Checkpoint), t, found) != nil && !hooks.anyMarker {
			return FencedMarker{Found: found, Now: found}, nil
		}
		if hooks.resetMarker {
			m.Checkpoint, m.Released, m.Total = 0, 0, 0
		}
		m.Epoch, m.Owner = h.Epoch, h.Owner
		value, err := m.Encode()
		if err != nil {
			return FencedMarker{}, err
		}
		seq, err := CompareAndSet(ask, Write{
			Stream: t.Stream, Subject: t.Subject, Value: value, Expected: r.Seq,
			Epoch: h.Epoch, Owner: h.Owner, Holder: markerHolder,
		})
		switch {
		case err == nil:
			return FencedMarker{Found: found, Now: seenOf(m, seq)}, nil
		case conflict(err) == nil:
			return FencedMarker{}, err
		}
		// A part of the attempt before landed in between.
	}
	return FencedMarker{}, &UnresolvedError{Record: "marker " + t.Subject, Tries: takeoverTries}
}

// readMarker decodes a marker and checks that it is this sink's.
func readMarker(h *Head, t SinkTarget, value []byte) (*Marker, error) {
	m, err := DecodeMarker(value)
	if err == nil && (m.Tenant != h.Tenant || m.Job != h.Job || m.Sink != t.Name) {
		err = fmt.Errorf("it belongs to sink %s of job %s/%s: give each its own marker subject", m.Sink, m.Tenant, m.Job)
	}
	if err != nil {
		return nil, &MarkerFault{Kind: MarkerForeign, Sink: t.Name, Stream: t.Stream, Subject: t.Subject, Detail: err.Error()}
	}
	return m, nil
}

// fenced says why a marker carries a later attempt's epoch: that attempt owns the job, or, if the head still names this one, the
// checkpoint bucket was rolled back and epochs were given out twice.
func fenced(ask Ask, rec *HeadRecord, t SinkTarget, m *Marker) error {
	if err := CheckOwner(ask, rec); err != nil {
		return fmt.Errorf("the marker is of epoch %d: %w", m.Epoch, err)
	}
	return &MarkerFault{
		Kind: MarkerAhead, Sink: t.Name, Stream: t.Stream, Subject: t.Subject,
		Detail: fmt.Sprintf("the marker is of epoch %d, owner %s; the head is of epoch %d, owner %s: the checkpoint bucket was rolled back",
			m.Epoch, m.Owner, rec.Head.Epoch, rec.Head.Owner),
	}
}

func seenOf(m *Marker, seq uint64) MarkerSeen {
	return MarkerSeen{Seq: seq, Epoch: m.Epoch, Checkpoint: m.Checkpoint, Released: m.Released, Total: m.Total}
}

// Verify checks every fenced marker against what the committed manifest (nil: none) recorded. The error is a *MarkerFault.
//
// A crash may lie between a fence and its verification, any number of times. A fence keeps the content and moves the sequence up, so
// what counts is the content, and that the sequence did not go back.
func Verify(rec *HeadRecord, m *Manifest, sinks []SinkTarget, markers map[string]FencedMarker) error {
	known := map[string]bool{}
	for _, t := range sinks {
		known[t.Name] = true
		fm, ok := markers[t.Name]
		if !ok {
			return fmt.Errorf("verify sink %s: it was not fenced", t.Name)
		}
		if err := verifyMarker(rec, m, t, fm.Found); err != nil {
			return err
		}
	}
	if m == nil {
		return nil
	}
	for i := range m.Sinks {
		if s := &m.Sinks[i]; s.Total > 0 && !known[s.Name] {
			return fmt.Errorf("verify sink %s: checkpoint %d owes it %d messages, but it was not fenced", s.Name, m.Checkpoint, s.Total)
		}
	}
	return nil
}

func verifyMarker(rec *HeadRecord, m *Manifest, t SinkTarget, found MarkerSeen) error {
	if s := manifestSink(m, t.Name); s != nil {
		return verifySink(m, s, t, found)
	}
	if found.Checkpoint <= rec.Head.Checkpoint {
		return nil
	}
	return &MarkerFault{
		Kind: MarkerAhead, Sink: t.Name, Stream: t.Stream, Subject: t.Subject,
		Detail: fmt.Sprintf("the marker is of checkpoint %d, the head of checkpoint %d: the checkpoint bucket was lost or rolled back", found.Checkpoint, rec.Head.Checkpoint),
	}
}

func manifestSink(m *Manifest, name string) *Sink {
	if m == nil {
		return nil
	}
	for i := range m.Sinks {
		if m.Sinks[i].Name == name {
			return &m.Sinks[i]
		}
	}
	return nil
}

func verifySink(m *Manifest, s *Sink, t SinkTarget, found MarkerSeen) error {
	fault := func(kind MarkerFaultKind, format string, args ...any) error {
		return &MarkerFault{Kind: kind, Sink: t.Name, Stream: t.Stream, Subject: t.Subject, Detail: fmt.Sprintf(format, args...)}
	}
	if s.Stream != t.Stream || s.Subject != t.Subject {
		return fault(MarkerStreamRecreated, "checkpoint %d has its marker on %s in stream %s: to send output elsewhere give the sink a new name", m.Checkpoint, s.Subject, s.Stream)
	}
	if s.Created != t.Created && s.Created != 0 && t.Created != 0 {
		return fault(MarkerStreamRecreated, "checkpoint %d recorded a stream created at %d, this one was created at %d", m.Checkpoint, s.Created, t.Created)
	}
	kind, detail := fits(m, s, found)
	if kind == "" || t.AllowMarkerLoss && (kind == MarkerMissing || kind == MarkerOlder) {
		return nil
	}
	return fault(kind, "%s", detail)
}

// fits compares a marker as found with what the manifest recorded when it was written. Right is: nothing of this checkpoint released
// yet and the marker says what it said then; or part or all of this checkpoint released since then.
func fits(m *Manifest, s *Sink, found MarkerSeen) (MarkerFaultKind, string) {
	was := s.Seen
	say := fmt.Sprintf("it says %d of %d messages of checkpoint %d at sequence %d; committed is checkpoint %d, which recorded %d of %d messages of checkpoint %d at sequence %d",
		found.Released, found.Total, found.Checkpoint, found.Seq, m.Checkpoint, was.Released, was.Total, was.Checkpoint, was.Seq)
	switch {
	case found.Seq == 0 && was.Seq == 0:
		return "", ""
	case found.Seq == 0:
		return MarkerMissing, fmt.Sprintf("checkpoint %d recorded it at sequence %d: the stream was purged or rolled back", m.Checkpoint, was.Seq)
	case found.Checkpoint > m.Checkpoint, found.Checkpoint == m.Checkpoint && found.Total != s.Total:
		return MarkerAhead, say
	case found.Seq < was.Seq, found.Checkpoint == m.Checkpoint && found.Seq == was.Seq:
		return MarkerOlder, say
	case found.Checkpoint == m.Checkpoint:
		return "", ""
	case found.Checkpoint < was.Checkpoint, found.Checkpoint == was.Checkpoint && found.Released < was.Released:
		return MarkerOlder, say
	case found.Checkpoint > was.Checkpoint, found.Released != was.Released, found.Total != was.Total:
		return MarkerAhead, say
	}
	return "", ""
}
