package barriers

import (
	"bytes"
	"errors"
	"fmt"
)

const (
	// casTries bounds the tries of a control write that may be given up.
	casTries = 10
	// readTries bounds the tries of a read.
	readTries = 20
	// staleTries bounds the tries of a read whose answer may be a deposed leader's or a lagging replica's: some seconds in all,
	// which is how long a named error then takes.
	staleTries = 10
	// busyTries bounds the waiting for "another write in flight", which the server can also answer for good (10164).
	busyTries = 60
)

// Write is a control record to be written if it still has the expected sequence.
type Write struct {
	Key             string // in the checkpoint bucket; or
	Stream, Subject string // a marker
	Value           []byte // holds the writer's nonce, so that it recognises its own bytes
	Expected        uint64
	Epoch           uint64 // of the writer
	Owner           string // its nonce
	// Holder tells epoch and nonce of a record of this kind.
	Holder func(value []byte) (epoch uint64, owner string, err error)
	// Final: never give up before the write is done or fenced. For what is a decision once it was sent.
	Final bool
}

func (w *Write) name() string {
	if w.Key != "" {
		return "record " + w.Key
	}
	return "marker " + w.Subject
}

func (w *Write) request() Request {
	if w.Key != "" {
		return Request{Op: OpWriteRecord, Key: w.Key, Value: w.Value, Expected: w.Expected}
	}
	return Request{Op: OpWriteMarker, Stream: w.Stream, Subject: w.Subject, Value: w.Value, Expected: w.Expected}
}

// CompareAndSet writes a control record and returns its sequence. Every control record is written by it:
//
//	the write answers        then
//	OK                       done
//	anything else            read back through the leader:
//	  my bytes               an earlier try of mine took place: done
//	  unchanged              try again. A try that is still under way has the same guard: one of them wins
//	  a higher epoch, or mine with another owner     ErrFenced
//	  an older sequence      *RolledBackError
//	  something else         *ConflictError: the caller reads it and decides
//
// Full is back-pressure and waited for without bound; Busy and Unknown are bounded unless the write is Final. Rejected is a
// *RejectedError, but only while no try of unknown outcome can still be under way. ErrCanceled leaves open what happened.
func CompareAndSet(ask Ask, w Write) (uint64, error) {
	open := false // a try of unknown outcome may still take place
	tries := 0    // Full does not count
	for n := 1; ; n++ {
		r := ask(w.request())
		switch r.Status {
		case OK:
			if r.Seq <= w.Expected {
				// Sequences were given out a second time: what the guard saw was another record.
				return 0, fmt.Errorf("write %s: %w", w.name(), &RolledBackError{Record: w.name(), Known: w.Expected, Seq: r.Seq})
			}
			return r.Seq, nil
		case Canceled:
			return 0, fmt.Errorf("write %s: %w", w.name(), ErrCanceled)
		case Unknown:
			open = true
		}
		if r.Status != Full {
			tries++
		}
		cur, err := readBack(ask, &w)
		switch {
		case err != nil:
			return 0, err
		case cur.Status == OK && cur.Seq > w.Expected && bytes.Equal(cur.Value, w.Value):
			return cur.Seq, nil
		case cur.Seq != w.Expected:
			return 0, judge(&w, cur)
		case r.Status == Rejected && !open:
			return 0, &RejectedError{Record: w.name(), Err: r.Err}
		case !w.Final && tries >= casTries:
			return 0, &UnresolvedError{Record: w.name(), Tries: tries, Err: r.Err}
		}
		if err := wait(ask, n); err != nil {
			return 0, fmt.Errorf("write %s: %w", w.name(), err)
		}
	}
}

// readBack reads the record that was to be written. A Final write reads until there is an answer. A leader that has just been
// deposed may still answer with what it had: something older than expected is read again before it is believed.
func readBack(ask Ask, w *Write) (Reply, error) {
	q := Request{Op: OpReadRecord, Key: w.Key}
	if w.Key == "" {
		q = Request{Op: OpReadMarker, Stream: w.Stream, Subject: w.Subject}
	}
	tries := readTries
	if w.Final {
		tries = 0
	}
	r, err := readSince(ask, q, w.Expected, tries)
	if err != nil {
		return r, fmt.Errorf("read %s back: %w", w.name(), err)
	}
	return r, nil
}

// readSince reads until the answer is at least as new as known, and takes an older one only when it stays.
func readSince(ask Ask, q Request, known uint64, tries int) (Reply, error) {
	for n := 1; ; n++ {
		r, err := read(ask, q, tries)
		if err != nil || r.Seq >= known || n == staleTries {
			return r, err
		}
		if err := wait(ask, n); err != nil {
			return r, err
		}
	}
}

// read asks until the answer is OK or NotFound, at most tries times (0: without bound).
func read(ask Ask, q Request, tries int) (Reply, error) {
	for n := 1; ; n++ {
		r := ask(q)
		switch r.Status {
		case OK, NotFound:
			return r, nil
		case Canceled:
			return r, ErrCanceled
		case Rejected:
			return r, &RejectedError{Record: q.Key + q.Subject, Err: r.Err}
		}
		if n == tries {
			return r, &UnresolvedError{Record: q.Key + q.Subject, Tries: n, Err: r.Err}
		}
		if err := wait(ask, n); err != nil {
			return r, err
		}
	}
}

// judge says what a record that is neither unchanged nor the writer's own means.
func judge(w *Write, cur Reply) error {
	if cur.Seq < w.Expected {
		return fmt.Errorf("write %s: %w", w.name(), &RolledBackError{Record: w.name(), Known: w.Expected, Seq: cur.Seq})
	}
	if cur.Status == OK {
		epoch, owner, err := w.Holder(cur.Value)
		if err != nil {
			return fmt.Errorf("write %s: %w", w.name(), &RecordError{Record: w.name(), Err: err})
		}
		if epoch > w.Epoch || epoch == w.Epoch && owner != w.Owner {
			return fmt.Errorf("write %s as epoch %d: %w: it is now of epoch %d", w.name(), w.Epoch, ErrFenced, epoch)
		}
	}
	return fmt.Errorf("write %s: %w", w.name(), &ConflictError{Record: w.name(), Expected: w.Expected, Seq: cur.Seq, Value: cur.Value})
}

func wait(ask Ask, attempt int) error {
	if r := ask(Request{Op: OpWait, Attempt: attempt}); r.Status == Canceled {
		return ErrCanceled
	}
	return nil
}

func headHolder(value []byte) (uint64, string, error) {
	h, err := DecodeHead(value)
	if err != nil {
		return 0, "", err
	}
	return h.Epoch, h.Owner, nil
}

func manifestHolder(value []byte) (uint64, string, error) {
	m, err := DecodeManifest(value)
	if err != nil {
		return 0, "", err
	}
	return m.Epoch, m.Owner, nil
}

func markerHolder(value []byte) (uint64, string, error) {
	m, err := DecodeMarker(value)
	if err != nil {
		return 0, "", err
	}
	return m.Epoch, m.Owner, nil
}

// conflict returns the ConflictError in err, if there is one.
func conflict(err error) *ConflictError {
	var c *ConflictError
	if errors.As(err, &c) {
		return c
	}
	return nil
}
