package barriers

import (
	"bytes"
	"fmt"
	"math"
)

// ReleaseSpec says what to publish.
type ReleaseSpec struct {
	Record   *HeadRecord // of the owner
	Manifest *Manifest   // the committed checkpoint
	Sink     string
	// Marker is where the sink's marker stands: Now of Fence, or the result of the Release before.
	Marker MarkerSeen
	// Cut returns the end of the part that begins with message from: bounded in count and bytes, above from, at most the total.
	// It may cut otherwise than the attempt before did.
	Cut func(from uint64) uint64
}

// ReleaseMarker returns the marker that ends a part: released messages of the sink's output in the checkpoint are published.
func ReleaseMarker(rec *HeadRecord, m *Manifest, sink string, released uint64) []byte {
	var total uint64
	if s := manifestSink(m, sink); s != nil {
		total = s.Total
	}
	mk := Marker{
		Tenant: rec.Head.Tenant, Job: rec.Head.Job, Sink: sink, Epoch: rec.Head.Epoch, Owner: rec.Head.Owner,
		Checkpoint: m.Checkpoint, Released: released, Total: total,
	}
	// It fails for names or counts only that Encode of the head or the manifest has refused already.
	data, _ := mk.Encode()
	return data
}

// Release publishes what a committed checkpoint owes a sink, in parts, each of which is there together with its marker or not at
// all. It returns the marker as it stands then. It may be called again after any error, by any owner: how far it has come is
// in the marker, as a count of messages.
//
// There is no way back from a commit, so Release goes on until it is done, fenced or canceled: it waits for room and for a broker that
// does not answer. A message that is refused for good is a *RejectedError with From the message and To = From+1, and
// everything before it is published. A marker that went back, or says what this checkpoint cannot have left behind, is a *MarkerFault.
func Release(ask Ask, spec ReleaseSpec) (MarkerSeen, error) {
	m, seen := spec.Manifest, spec.Marker
	s := manifestSink(m, spec.Sink)
	if s == nil {
		return seen, fmt.Errorf("release checkpoint %d: it has no sink %s", m.Checkpoint, spec.Sink)
	}
	r := releaser{ask: ask, spec: spec, sink: s, limit: math.MaxUint64, target: SinkTarget{Name: s.Name, Stream: s.Stream, Subject: s.Subject}}
	for s.Total > 0 {
		next := uint64(0)
		switch {
		case seen.Checkpoint == m.Checkpoint:
			next = seen.Released
		case seen.Checkpoint > m.Checkpoint:
			return seen, r.fault(MarkerAhead, "the marker is of checkpoint %d, to be released is %d", seen.Checkpoint, m.Checkpoint)
		}
		if next >= s.Total {
			break
		}
		to := min(spec.Cut(next), s.Total)
		if to-next > r.limit {
			to = next + r.limit
		}
		if to <= next {
			return seen, fmt.Errorf("release checkpoint %d to sink %s: the part at message %d is empty", m.Checkpoint, s.Name, next)
		}
		var err error
		if seen, err = r.part(next, to, seen); err != nil {
			return seen, fmt.Errorf("release checkpoint %d to sink %s: %w", m.Checkpoint, s.Name, err)
		}
	}
	return seen, nil
}

type releaser struct {
	ask    Ask
	spec   ReleaseSpec
	sink   *Sink
	target SinkTarget
	limit  uint64 // of messages in a part: halved to find the one that is refused
}

// part publishes messages [from, to) and returns the marker as it stands afterwards, which may be elsewhere than at to.
func (r *releaser) part(from, to uint64, seen MarkerSeen) (MarkerSeen, error) {
	m := r.spec.Manifest
	value := ReleaseMarker(r.spec.Record, m, r.sink.Name, to)
	if hooks.resumeByPart {
		from, to = partByIndex(from, r.sink.Total, r.spec.Cut)
		value = ReleaseMarker(r.spec.Record, m, r.sink.Name, to)
	}
	busy := 0
	for n := 1; ; n++ {
		reply := r.ask(Request{
			Op: OpPublish, Stream: r.sink.Stream, Subject: r.sink.Subject, Sink: r.sink.Name, Checkpoint: m.Checkpoint,
			From: from, To: to, Value: value, Expected: seen.Seq,
		})
		switch reply.Status {
		case OK:
			return MarkerSeen{Seq: reply.Seq, Epoch: r.spec.Record.Head.Epoch, Checkpoint: m.Checkpoint, Released: to, Total: r.sink.Total}, nil
		case Canceled:
			return seen, ErrCanceled
		}
		cur, err := readSince(r.ask, Request{Op: OpReadMarker, Stream: r.sink.Stream, Subject: r.sink.Subject}, seen.Seq, 0)
		if err != nil {
			return seen, fmt.Errorf("read the marker: %w", err)
		}
		if cur.Seq != seen.Seq || !r.same(cur, seen) {
			return r.moved(cur, value, seen)
		}
		switch reply.Status {
		case Rejected:
			// A try of unknown outcome may still be under way: if it takes place after all, the marker says so to whoever goes on.
			if to-from > 1 {
				r.limit = (to - from) / 2
				return seen, nil
			}
			return seen, &RejectedError{Record: "part", Sink: r.sink.Name, Checkpoint: m.Checkpoint, From: from, To: to, Err: reply.Err}
		case Busy:
			if busy++; busy > busyTries {
				return seen, &UnresolvedError{Record: "marker " + r.sink.Subject, Tries: n, Err: reply.Err}
			}
		}
		if err := wait(r.ask, n); err != nil {
			return seen, err
		}
	}
}

// same reports whether a marker at the known sequence is the known one: a stream that was rolled back gives sequences out again.
func (r *releaser) same(cur Reply, seen MarkerSeen) bool {
	if cur.Status == NotFound {
		return true // and there was none
	}
	mk, err := DecodeMarker(cur.Value)
	return err == nil && seenOf(mk, cur.Seq) == seen
}

// moved judges a marker that is not where this attempt knew it.
func (r *releaser) moved(cur Reply, value []byte, seen MarkerSeen) (MarkerSeen, error) {
	if cur.Status == NotFound {
		return seen, r.fault(MarkerMissing, "it was at sequence %d: the stream was purged or rolled back", seen.Seq)
	}
	h := &r.spec.Record.Head
	mk, err := readMarker(h, r.target, cur.Value)
	if err != nil {
		return seen, err
	}
	now := seenOf(mk, cur.Seq)
	if cur.Seq < seen.Seq && hooks.anyMarker {
		return now, nil
	}
	if cur.Seq < seen.Seq {
		return seen, r.fault(MarkerOlder, "it says %d of %d messages of checkpoint %d at sequence %d, but was at sequence %d: the stream was rolled back",
			now.Released, now.Total, now.Checkpoint, now.Seq, seen.Seq)
	}
	if bytes.Equal(cur.Value, value) {
		return now, nil
	}
	if mk.Epoch > h.Epoch || mk.Epoch == h.Epoch && mk.Owner != h.Owner {
		return seen, fenced(r.ask, r.spec.Record, r.target, mk)
	}
	// An earlier part of ours that was cut otherwise, or one of a lower epoch that landed before the fence: go on behind it, if
	// it is of this checkpoint and has not lost what was there.
	if kind, detail := fits(r.spec.Manifest, r.sink, now); kind != "" {
		return seen, r.fault(kind, "%s", detail)
	}
	if seen.Checkpoint == now.Checkpoint && now.Released < seen.Released || now.Checkpoint < seen.Checkpoint {
		return seen, r.fault(MarkerOlder, "it says %d messages of checkpoint %d, but %d of checkpoint %d were published: the stream was rolled back",
			now.Released, now.Checkpoint, seen.Released, seen.Checkpoint)
	}
	return now, nil
}

func (r *releaser) fault(kind MarkerFaultKind, format string, args ...any) error {
	return &MarkerFault{Kind: kind, Sink: r.target.Name, Stream: r.target.Stream, Subject: r.target.Subject, Detail: fmt.Sprintf(format, args...)}
}
