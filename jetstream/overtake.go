package jetstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/processor"
)

// Limits or a purge may remove input while a reader is behind. The consumer then goes on with the next message that exists, and its
// own sequence shows no gap. What gives the removal away, without asking the server anything:
//
//   - A session that gets all of a stream sees a jump of the stream's sequence.
//   - The pending count of a record is that of the record before, less one, plus what has come in since. When it is smaller,
//     matching messages were removed.
//   - A heartbeat of a consumer that has nothing to deliver, though messages were pending behind the last record.
//   - What came in hides what was removed from that count when the two records were sent long apart: when the server was held
//     back, because the job takes nothing. So while the session waits for room it asks now and then which message is the next one
//     for this consumer. That one must be delivered before any later one.
//
// Each is only a suspicion: messages also vanish one by one (a TTL, a rollup, an erasure), which is no fault. It is one when the
// stream begins behind the record after which something is missing, a, at a moment after the rest was sent: a first sequence up to
// a+1 proves that neither a limit nor a purge has reached the place. This is checked before the batch in question is handed over,
// so no checkpoint ever holds what lies behind a loss; a caught-up reader asks nothing.
//
// What stays unseen: a filtered reader that falls behind, loses input to a limit, and gets as many new matches, within pollEvery;
// and what a limit per subject (a compacted stream) removes, for which skipping is the purpose.

// pollEvery is how often a session that waits for room asks which message comes next.
const pollEvery = time.Second

// maxExpected bounds what a session expects of what the server has sent ahead.
const maxExpected = 64

// What a jump of the stream's sequence tells a session.
const (
	jumpsUnknown   int32 = iota // the stream was not looked at yet
	jumpsAreLosses              // every message of the stream is delivered
	jumpsAreOthers              // the filter leaves messages out
	jumpsAreMeant               // later messages remove the ones before them, unread ones too
)

func jumpsOf(info *js.StreamInfo, filter string, wide bool) int32 {
	cfg := &info.Config
	all := wide || filter == ">" ||
		cfg.Mirror == nil && len(cfg.Sources) == 0 && !slices.ContainsFunc(cfg.Subjects, func(s string) bool { return !covers(filter, s) })
	switch {
	case cfg.MaxMsgsPerSubject > 0:
		return jumpsAreMeant
	case all:
		return jumpsAreLosses
	}
	return jumpsAreOthers
}

// judge is called when the stream was validated, at a moment after the consumer was made.
func (s *session) judge(info *js.StreamInfo, filter string) {
	jumps := jumpsOf(info, filter, s.wide)
	s.jumps.Store(jumps)
	r := s.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sess == s && jumps != jumpsAreLosses {
		r.doubted = false
	}
}

// suspect returns behind which sequence something seems to be missing now that d has come; ok is false when all is well.
func (s *session) suspect(d delivery) (after uint64, ok bool) {
	switch {
	case s.seq == 1 && s.anywhere:
	case d.streamSeq != s.last+1 && s.jumps.Load() <= jumpsAreLosses:
		after, ok = s.last, true
	case s.seq > 1 && d.pending+1 < s.pending:
		after, ok = s.last, true
	case len(s.next) > 0 && d.streamSeq > s.next[0]:
		after, ok = s.next[0]-1, true
	}
	for len(s.next) > 0 && d.streamSeq >= s.next[0] {
		s.next = s.next[1:]
	}
	s.last, s.pending = d.streamSeq, d.pending
	return after, ok
}

// doubt notes that something may be missing behind a sequence. Call it with the reader's mu held.
func (r *reader) doubt(after uint64) {
	if !r.doubted && !r.spec.Compacted {
		r.doubted, r.doubtedAfter = true, after
	}
}

// expect asks which message the consumer delivers next, unless it has not come to the one that was expected last. The consumer is
// asked for its place first: what it sends in between is before that message, or is it.
func (s *session) expect() {
	n := len(s.next)
	if n == maxExpected || s.jumps.Load() != jumpsAreOthers {
		return
	}
	ctx, cancel := context.WithTimeout(s.r.b.ctx, s.r.b.cfg.Timeout)
	defer cancel()
	var info struct {
		Delivered struct {
			Stream uint64 `json:"stream_seq"`
		} `json:"delivered"`
	}
	stream := s.stream
	if err := s.r.b.api(ctx, "CONSUMER.INFO."+stream+"."+s.consumer, nil, &info); err != nil {
		return // it is asked again; a server that is away ends the session
	}
	if n > 0 && info.Delivered.Stream < s.next[n-1] {
		return
	}
	filter := string(s.r.filter)
	m, err := s.r.b.leaderGet(ctx, stream, getNext{info.Delivered.Stream + 1, filter})
	if err == nil && m != nil {
		s.next = append(s.next, m.Seq)
	}
}

type getNext struct {
	Seq  uint64 `json:"seq"`
	Next string `json:"next_by_subj"`
}

// await blocks the session until the job takes what there is, and returns false when the session has ended.
func (s *session) await() bool {
	for {
		if wait := time.Until(s.asked.Add(pollEvery)); wait > 0 {
			t := time.NewTimer(wait)
			select {
			case <-s.r.room:
				t.Stop()
				return true
			case <-s.stop:
				t.Stop()
				return false
			case <-t.C:
			}
		}
		s.asked = time.Now()
		s.expect()
	}
}

// confirm finds out whether input was removed before it was read: a *processor.StreamError, unless the user allowed it. It asks
// until the server answers.
func (r *reader) confirm(ctx context.Context, after uint64) error {
	for {
		info, err := r.b.streamInfo(ctx, r.spec.Stream)
		switch {
		case apiCode(err) == codeStreamNotFound:
			return nil // reopening says so
		case err == nil && info.State.FirstSeq <= after+1:
			return nil
		case err == nil:
			fault := &processor.StreamError{Job: r.spec.Job, Stream: r.spec.Stream, Source: r.spec.Source, Fault: processor.StreamTrimmed,
				Detail: fmt.Sprintf("its first sequence is %d now, and messages behind sequence %d were removed before they were read", info.State.FirstSeq, after),
				Advice: faultAdvice}
			if !r.spec.AllowDataLoss {
				return fault
			}
			r.b.log.Warn("input was removed before it was read, going on as the user allowed", "tenant", string(r.spec.Job.Tenant),
				"job", r.spec.Job.Name, "stream", r.spec.Stream, "seq", after, "err", fault)
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, ErrClosed), errors.Is(err, errInvalid):
			return err
		}
		t := time.NewTimer(retryAfter)
		select {
		case <-t.C:
		case <-ctx.Done():
		case <-r.closed:
			t.Stop()
			return ErrReaderClosed
		}
		t.Stop()
	}
}

// checked returns what of a batch may be handed over, and ends the session where that is not all of it.
func (r *reader) checked(ctx context.Context, batch processor.Batch, after uint64) processor.Batch {
	err := r.confirm(ctx, after)
	var fault *processor.StreamError
	switch {
	case err == nil:
		return batch
	case errors.As(err, &fault):
		return r.cut(batch, after, err)
	}
	return r.cut(batch, r.handed, err) // not known: what comes next is read again
}

// cut ends the session, and returns what of the batch lies before a sequence.
func (r *reader) cut(batch processor.Batch, after uint64, fault error) processor.Batch {
	r.drop()
	n := 0
	for n < len(batch.Records) && batch.Records[n].Seq <= after {
		n++
	}
	batch.Records = batch.Records[:n]
	batch.Position = max(r.handed, min(batch.Position, after))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.position = batch.Position
	if !errors.Is(r.broken, ErrReaderClosed) {
		r.broken = fault
	}
	return batch
}
