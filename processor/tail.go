package processor

import "github.com/weirstream/weir/barriers"

// tailSize is how many of the last records a source remembers, to recognise a stream that was rolled back and refilled.
const tailSize = 8

// tail keeps copies of the last records a source has read, in a ring. Hashing waits for the barrier: at 8 copies a batch,
// remembering costs almost nothing.
type tail struct {
	ring  [tailSize]tailRecord
	next  int // where the next one goes
	count int
}

type tailRecord struct {
	seq     uint64
	time    int64
	subject string
	data    []byte
	hash    string // set once computed or restored
}

// note remembers the last of records. Messages of Weir itself are left out: barriers do not live long.
func (t *tail) note(s *sourceInput, records []Record) {
	var last [tailSize]*Record
	n := 0
	for i := len(records) - 1; i >= 0 && n < tailSize; i-- {
		r := &records[i]
		if r.Header != nil && len(r.Header[barriers.HeaderBarrier]) > 0 || !s.accepts(r.Subject) {
			continue
		}
		last[n] = r
		n++
	}
	for n--; n >= 0; n-- {
		t.add(last[n])
	}
}

func (t *tail) add(r *Record) {
	e := &t.ring[t.next]
	e.seq, e.time, e.subject, e.hash = r.Seq, r.Time, r.Subject, ""
	e.data = append(e.data[:0], r.Data...)
	t.next = (t.next + 1) % tailSize
	t.count = min(t.count+1, tailSize)
}

func (t *tail) restore(from []barriers.Fingerprint) {
	*t = tail{}
	for _, f := range from[max(0, len(from)-tailSize):] {
		t.ring[t.next] = tailRecord{seq: f.Seq, time: f.Time, hash: f.Hash}
		t.next = (t.next + 1) % tailSize
		t.count++
	}
}

// fingerprints returns what is remembered, oldest first.
func (t *tail) fingerprints() []barriers.Fingerprint {
	if t.count == 0 {
		return nil
	}
	out := make([]barriers.Fingerprint, 0, t.count)
	for i := range t.count {
		e := &t.ring[(t.next-t.count+i+tailSize)%tailSize]
		if e.hash == "" {
			e.hash = barriers.FingerprintHash(e.subject, e.data)
		}
		out = append(out, barriers.Fingerprint{Seq: e.seq, Time: e.time, Hash: e.hash})
	}
	return out
}
