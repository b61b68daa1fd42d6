package jetstream

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// tablePass is one watch of a table's bucket. It begins with the last revision of every key there is. The first pass fills the copy; a later
// one, after a reconnect or a gap, brings it up to date: it passes over what is older than the copy, which a server that lags may still have,
// and takes away what is there no more and left no marker, as after a purge of the stream. Where the leader itself has something older than the
// copy, the bucket was rolled back.
type tablePass struct {
	*table
	ctx    context.Context
	before uint64            // what the copy had reached when the pass began
	target uint64            // see look
	looked uint64            // by this pass
	listed bool              // what the pass began with has come
	fresh  bool              // the copy is up to date
	seen   map[string]uint64 // the last revision of every key that came, until fresh
	doubt  map[string]uint64 // subjects of rows that the copy does not have, of a revision before: removed, or never there
	maxAge time.Duration     // of the bucket
	ahead  time.Duration     // of this machine's clock is the server's
	next   int64             // when the first row expires, unix nanoseconds; 0: none does
	ready  func()
}

func newTablePass(t *table) *tablePass {
	p := &tablePass{table: t, seen: map[string]uint64{}, doubt: map[string]uint64{}}
	t.mu.Lock()
	p.before = t.reached
	t.mu.Unlock()
	t.rows.Each(func(_ string, r *processor.TableRow) { p.expires(r) })
	return p
}

// run watches until something is wrong. A bucket that is not the one that was opened is an error of class terminal.
func (p *tablePass) run(ctx context.Context, ready func()) error {
	p.ctx, p.ready = ctx, ready
	w := watch{
		b: p.b, purpose: Read, what: "the rows of bucket " + p.bind.Bucket, stream: p.bind.Stream, filter: p.bind.Filter(),
		name: "weir-rows", about: "Weir: a copy of rows, for lookups",
		created: p.created, message: p.message, idle: p.idle,
	}
	err := w.run(ctx)
	if apiCode(err) == codeStreamNotFound {
		return bucketMissing(p.bind)
	}
	return err
}

// created looks at the bucket after the consumer exists: whatever the consumer is on was then there.
func (p *tablePass) created(ctx context.Context, _ uint64) error {
	info, err := p.b.streamInfo(ctx, p.bind.Stream)
	if err != nil {
		return fmt.Errorf("looking at bucket %s: %w", p.bind.Bucket, err)
	}
	switch created := info.Created.UnixNano(); {
	case created != p.bind.Created:
		return p.fault(processor.StreamRecreated, "it was created at %d, the one that was opened at %d (unix ns)", created, p.bind.Created)
	case info.State.LastSeq < p.before:
		return p.fault(processor.StreamTailLost, "its last revision is %d, and rows up to %d were read", info.State.LastSeq, p.before)
	}
	p.maxAge = info.Config.MaxAge
	if !info.TimeStamp.IsZero() {
		p.ahead = time.Until(info.TimeStamp)
	}
	if p.target, err = p.b.lastRow(ctx, p.bind); err != nil {
		return err
	}
	return p.look(0)
}

// fault says that the bucket is not the one that the rows were read from.
func (p *tablePass) fault(f processor.StreamFault, format string, args ...any) error {
	return &processor.StreamError{
		Stream: p.bind.Stream, Table: p.bind.Operator, Fault: f, Detail: fmt.Sprintf(format, args...), Advice: "Start the job again: it then reads the rows that are there",
	}
}

func (p *tablePass) message(m *nats.Msg, d delivery) error {
	if key, ok := p.bind.Key(m.Subject); ok {
		if err := p.row(key, m, d); err != nil {
			return err
		}
	}
	if p.next > 0 && d.time >= p.next {
		p.sweep(d.time)
	}
	return p.look(d.streamSeq)
}

func (p *tablePass) row(key string, m *nats.Msg, d delivery) error {
	if p.seen != nil {
		p.seen[key] = d.streamSeq
		delete(p.doubt, m.Subject)
	}
	removed, old := processor.KVRemoved(m.Header), p.rows.Get(key)
	expires := expiry(m.Header.Get(nats.MsgTTLHdr), d.time, p.maxAge)
	switch {
	case old != nil && old.Revision == d.streamSeq:
		if removed || !bytes.Equal(old.Data, m.Data) {
			return p.fault(processor.StreamRewritten, "revision %d of row %q is another one", d.streamSeq, tenants.Printable(key))
		}
	case removed:
		p.rows.Delete(key, d.streamSeq)
	case old == nil && d.streamSeq <= p.before:
		// A server may be late to remove what has expired here.
		if expires == 0 || expires > p.now()+int64(lateExpiry) {
			p.doubt[m.Subject] = d.streamSeq
		}
	default:
		row := &processor.TableRow{Data: m.Data, Revision: d.streamSeq, Expires: expires}
		p.expires(row)
		p.rows.Put(key, row)
		if n, size := p.rows.Size(); size > p.b.cfg.MaxTableBytes {
			return processor.Terminal(fmt.Errorf("the rows %s of bucket %s take more than %d bytes, these are %d: raise jetstream.Config.MaxTableBytes, or look up less",
				p.bind.Filter(), p.bind.Bucket, p.b.cfg.MaxTableBytes, n))
		}
	}
	return nil
}

func (p *tablePass) idle(scanned uint64) error {
	if p.next > 0 && p.now() >= p.next {
		p.sweep(p.now())
	}
	return p.look(scanned)
}

// lateExpiry is how late a server may be to remove what has expired.
const lateExpiry = 10 * time.Second

// now is the server's time.
func (p *tablePass) now() int64 { return time.Now().Add(p.ahead).UnixNano() }

// look notes that the pass has come to a sequence. A key that changes while the pass still lists what there was may come with its new
// revision alone, behind everything listed: so the pass asks for the last row when it begins, and again when it has come there, and the copy
// is up to date behind the second.
func (p *tablePass) look(seq uint64) (err error) {
	p.looked = max(p.looked, seq)
	if !p.listed && p.looked >= p.target {
		p.listed = true
		if p.target, err = p.b.lastRow(p.ctx, p.bind); err != nil {
			return err
		}
	}
	if p.listed && !p.fresh && p.looked >= p.target {
		if err := p.compare(); err != nil {
			return err
		}
		p.fresh = true
		p.ready()
	}
	if p.fresh {
		p.advance(p.looked)
	}
	return nil
}

// compare takes away the rows that did not come again, and looks for rows that are older than they were.
func (p *tablePass) compare() error {
	var err error
	p.rows.Each(func(key string, r *processor.TableRow) {
		switch came, ok := p.seen[key]; {
		case !ok:
			p.rows.Delete(key, r.Revision)
		case came < r.Revision:
			err = p.fault(processor.StreamRewritten, "row %q had revision %d and has %d", tenants.Printable(key), r.Revision, came)
		}
	})
	if err != nil {
		return err
	}
	for subject, seq := range p.doubt {
		m, err := p.b.leaderGet(p.ctx, p.bind.Stream, getLast{subject})
		if err != nil {
			return err
		}
		if m != nil && m.Seq == seq && !isDeleteMarker(m.Header) {
			return p.fault(processor.StreamRewritten, "%s has revision %d, which was not there when rows up to %d were read", tenants.Printable(subject), seq, p.before)
		}
	}
	p.seen, p.doubt = nil, nil
	return nil
}

// expires notes when a row does.
func (p *tablePass) expires(r *processor.TableRow) {
	if r.Expires > 0 && (p.next == 0 || r.Expires < p.next) {
		p.next = r.Expires
	}
}

// sweep takes away what has expired. The server says so too where the bucket has markers, and nothing where it has none.
func (p *tablePass) sweep(now int64) {
	p.next = 0
	p.rows.Each(func(key string, r *processor.TableRow) {
		if r.Expires > 0 && r.Expires <= now {
			p.rows.Delete(key, r.Revision)
		} else {
			p.expires(r)
		}
	})
	if p.next > 0 {
		p.next = max(p.next, now+int64(expireEvery))
	}
}

// expireEvery is the least distance of two sweeps: each looks at every row.
const expireEvery = time.Second

// expiry is when the server removes a message: its own TTL counts, else the age limit of its stream. 0: never.
func expiry(ttl string, stored int64, maxAge time.Duration) int64 {
	switch seconds, err := strconv.ParseInt(ttl, 10, 32); {
	case ttl == "never":
		return 0
	case ttl != "" && err == nil && seconds > 0:
		return stored + seconds*int64(time.Second)
	case ttl != "":
		if d, err := time.ParseDuration(ttl); err == nil && d > 0 {
			return stored + int64(d)
		}
	}
	if maxAge > 0 {
		return stored + int64(maxAge)
	}
	return 0
}
