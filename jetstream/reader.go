package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

const (
	defaultBatchRecords = 1024
	defaultBatchBytes   = 1 << 20
	maxReopenWait       = 2 * time.Second
)

// ErrReaderClosed is returned by Next after Close.
var ErrReaderClosed = errors.New("reader is closed")

// reader reads one source through disposable consumers, one session after the other. The session's callback fills a buffer, Next
// takes it whole: under load batches grow by themselves, and when idle a record is handed over as it comes. When the buffer is
// full the callback waits; then the server's flow control, whose request lies behind what was not taken yet, holds the rest back.
type reader struct {
	b      *Broker
	filter tenants.Filter

	ready  chan struct{} // the buffer has something, or the session broke
	room   chan struct{} // the buffer was taken
	closed chan struct{}
	once   sync.Once

	mu   sync.Mutex
	sess *session
	buf  []processor.Record
	size int // bytes in buf
	// position is what the session has looked at, buf included; pending what lay behind the last record when it was sent.
	position uint64
	pending  uint64
	broken   error  // the session is of no use any more
	heard    uint64 // counts what came, to tell silence
	// Something may be missing behind doubtedAfter; buf holds what came then.
	doubted      bool
	doubtedAfter uint64

	// Next's own: one goroutine calls it.
	spec     processor.ReaderSpec // After and Tail move with what was handed over
	handed   uint64
	reset    bool               // the next batch is of another stream than what was handed over
	tail     []processor.Record // the last records handed over
	lastSize int
	timer    *time.Timer
}

// OpenReader implements processor.Transport.
func (b *Broker) OpenReader(ctx context.Context, spec processor.ReaderSpec) (processor.Reader, error) {
	set(&spec.BatchRecords, defaultBatchRecords)
	set(&spec.BatchBytes, defaultBatchBytes)
	if err := checkFilter(spec.Filter); err != nil {
		return nil, fmt.Errorf("open reader of job %s, source %s: %w", spec.Job, spec.Source, err)
	}
	r := &reader{b: b, spec: spec, filter: tenants.Filter(spec.Filter), handed: spec.After, lastSize: 64,
		ready: make(chan struct{}, 1), room: make(chan struct{}, 1), closed: make(chan struct{}), timer: time.NewTimer(time.Hour)}
	r.timer.Stop()
	if err := r.reopen(ctx); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func checkFilter(filter string) error {
	if err := tenants.Filter(filter).Validate(); err != nil {
		return fmt.Errorf("%w: %w", errInvalid, err)
	}
	return nil
}

// Next implements processor.Reader.
func (r *reader) Next(ctx context.Context) (processor.Batch, error) {
	if err := ctx.Err(); err != nil {
		return processor.Batch{}, err
	}
	for {
		batch, ok, broken := r.take(ctx)
		switch {
		case ok:
			return batch, nil
		case errors.Is(broken, ErrReaderClosed):
			return processor.Batch{}, broken
		case broken != nil:
			if err := r.recover(ctx, broken); err != nil {
				return processor.Batch{}, err
			}
		default:
			if err := r.wait(ctx); err != nil {
				return processor.Batch{}, err
			}
		}
	}
}

// take hands over what there is, before it reports that the session broke.
func (r *reader) take(ctx context.Context) (processor.Batch, bool, error) {
	r.mu.Lock()
	records := r.buf
	batch := processor.Batch{Records: records, Position: r.position, Pending: r.pending}
	broken, doubted, after := r.broken, r.doubted, r.doubtedAfter
	matching := uint64(0)
	if r.sess != nil {
		matching = r.sess.matching
	}
	r.doubted = false
	if len(records) > 0 {
		r.lastSize = len(records)
		r.buf, r.size = nil, 0
		signal(r.room)
	}
	r.mu.Unlock()
	if doubted && !errors.Is(broken, ErrReaderClosed) {
		batch = r.checked(ctx, batch, after)
		r.mu.Lock()
		records, broken = batch.Records, r.broken
		r.mu.Unlock()
	}
	if again := r.reset && r.spec.Compacted && broken == nil && len(records) == 0; again {
		batch.Pending = max(batch.Pending, matching) // an empty bucket says so
	} else if errors.Is(broken, ErrReaderClosed) || len(records) == 0 && batch.Position <= r.handed {
		return batch, false, broken
	}
	r.handed = batch.Position
	batch.Reset, r.reset = r.reset, false
	r.remember(records)
	return batch, true, nil
}

// remember keeps the last records for the comparison when the reader reopens. Weir's own are not among them: barriers vanish.
func (r *reader) remember(records []processor.Record) {
	keep := make([]processor.Record, 0, tailSize)
	for i := len(records) - 1; i >= 0 && len(keep) < tailSize; i-- {
		if !tenants.HasReserved(records[i].Subject) {
			keep = append(keep, records[i])
		}
	}
	if len(keep) == 0 {
		return
	}
	old := r.tail[max(0, len(r.tail)-(tailSize-len(keep))):]
	tail := append(make([]processor.Record, 0, tailSize), old...)
	for i := len(keep) - 1; i >= 0; i-- {
		tail = append(tail, keep[i])
	}
	r.tail = tail
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// wait returns when there may be something, or the session has been silent for too long.
func (r *reader) wait(ctx context.Context) error {
	r.mu.Lock()
	heard, sess := r.heard, r.sess
	r.mu.Unlock()
	r.timer.Reset(r.b.cfg.Heartbeat*2 + r.b.cfg.Heartbeat/2)
	defer r.timer.Stop()
	select {
	case <-r.ready:
	case <-ctx.Done():
		return ctx.Err()
	case <-r.closed:
		return ErrReaderClosed
	case <-r.timer.C:
		r.mu.Lock()
		silent := r.heard == heard && r.sess == sess
		r.mu.Unlock()
		if silent {
			r.fail(sess, errors.New("no heartbeat came"))
		}
	}
	return nil
}

// fail marks a session as of no use; what it has delivered in order stays.
func (r *reader) fail(s *session, err error) {
	r.mu.Lock()
	if r.sess == s && r.broken == nil {
		r.broken = err
	}
	r.mu.Unlock()
	signal(r.ready)
}

// recover replaces a broken session.
func (r *reader) recover(ctx context.Context, why error) error {
	var fault *processor.StreamError
	if errors.As(why, &fault) {
		return fault
	}
	level := slog.LevelInfo
	if errors.Is(why, errReconsider) {
		level = slog.LevelDebug
	}
	r.b.log.Log(ctx, level, "reader reopens", "tenant", string(r.spec.Job.Tenant), "job", r.spec.Job.Name, "stream", r.spec.Stream,
		"seq", r.handed, "err", why)
	r.drop()
	r.spec.Fresh = r.spec.Fresh && r.handed == r.spec.After
	r.spec.After = r.handed
	if len(r.tail) > 0 {
		tail := r.spec.Tail
		for i := range r.tail {
			m := &r.tail[i]
			tail = append(tail[:len(tail):len(tail)],
				barriers.Fingerprint{Seq: m.Seq, Time: m.Time, Hash: barriers.FingerprintHash(m.Subject, m.Data)})
		}
		r.spec.Tail = tail[max(0, len(tail)-tailSize):]
		r.tail = nil
	}
	return r.reopen(ctx)
}

// reopen makes sessions until one holds. It returns a *processor.StreamError or the context's error.
func (r *reader) reopen(ctx context.Context) error {
	wait, level := 20*time.Millisecond, slog.LevelWarn
	for {
		err := r.open(ctx)
		if err == nil {
			return nil
		}
		var fault *processor.StreamError
		if errors.As(err, &fault) && r.spec.AllowDataLoss {
			err = r.b.resume(ctx, &r.spec, fault)
			if err == nil {
				r.handed, r.tail, r.reset = r.spec.After, nil, true
				continue
			}
		}
		switch {
		case errors.As(err, &fault), errors.Is(err, errInvalid):
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, ErrClosed), errors.Is(err, ErrReaderClosed):
			return err
		}
		r.b.log.Log(ctx, level, "reader could not reopen, trying again", "tenant", string(r.spec.Job.Tenant), "job", r.spec.Job.Name,
			"stream", r.spec.Stream, "err", err)
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-r.closed:
			t.Stop()
			return ErrReaderClosed
		}
		wait, level = min(maxReopenWait, wait*2), slog.LevelDebug // a server that is away is every reader's
	}
}

// open makes one session, and a second one where that would read faster.
func (r *reader) open(ctx context.Context) error {
	s, info, err := r.session(ctx, false)
	if err == nil && s.widen(info, &r.spec) {
		r.drop()
		s, _, err = r.session(ctx, true)
	}
	if err != nil {
		r.drop()
		return err
	}
	switch {
	case s.wide:
	case s.matching < wideBacklog:
		s.reconsider.Store(reconsiderTail)
	default:
		s.reconsider.Store(reconsiderBacklog)
	}
	return nil
}

// session starts a session. The stream is validated after the consumer exists: whatever the consumer is on was then there.
func (r *reader) session(ctx context.Context, wide bool) (*session, *js.StreamInfo, error) {
	s := &session{r: r, stop: make(chan struct{}), wide: wide, stream: r.spec.Stream, last: r.spec.After,
		anywhere: r.spec.Fresh || r.spec.After == 0}
	r.mu.Lock()
	if errors.Is(r.broken, ErrReaderClosed) {
		r.mu.Unlock()
		return s, nil, ErrReaderClosed
	}
	r.sess, r.buf, r.size, r.position, r.broken, r.doubted = s, nil, 0, r.spec.After, nil, false
	r.mu.Unlock()
	started := s.start(ctx, r.b, &r.spec)
	info, err := r.b.validate(ctx, &r.spec)
	if err == nil {
		err = started
		s.judge(info, r.spec.Filter)
	}
	return s, info, err
}

// drop ends the session; nothing more comes from it.
func (r *reader) drop() {
	r.mu.Lock()
	s := r.sess
	r.sess, r.buf, r.size = nil, nil, 0
	r.mu.Unlock()
	if s != nil {
		s.end()
	}
}

// Close implements processor.Reader. It does not wait for the server.
func (r *reader) Close() {
	r.once.Do(func() {
		close(r.closed)
		r.mu.Lock()
		r.broken = ErrReaderClosed
		r.mu.Unlock()
		r.drop()
	})
}
