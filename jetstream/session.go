package jetstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/weirstream/weir/processor"
)

// consumerIdle is how long the server keeps a consumer that nobody listens to.
const consumerIdle = 30 * time.Second

const (
	// Where a stream has this many subjects, the server's search for the next match of a wildcard filter becomes the bottleneck:
	// 32,000 messages a second at 10,000 subjects, where the whole stream comes at 740,000.
	wideSubjects = 64
	// A wide session delivers the whole stream. It pays while at least one message in wideShare is the source's, and a backlog
	// of wideBacklog waits; at the tail of the stream the filter is cheap again.
	wideShare   = 8
	wideBacklog = 10_000
	// After so many records a narrow session that has fallen behind is reconsidered: soon when it was opened at the tail, later
	// when it was opened with a backlog and found to be right.
	reconsiderTail    = 20_000
	reconsiderBacklog = 2_000_000
	// skipSignal is after how many dropped records a position alone is handed over.
	skipSignal = 4096
)

// errReconsider ends a session that is sound but not of the best kind.
var errReconsider = errors.New("another kind of consumer is faster now")

// session is one disposable push consumer: no acks, ephemeral, in memory, one filter or none. The callback runs on the
// subscription's goroutine, one message after the other.
type session struct {
	r    *reader
	stop chan struct{} // closed by end
	wide bool          // no filter: what does not match is dropped here

	stream   string
	anywhere bool // the first record may be any
	conn     *conn
	sub      *nats.Subscription
	consumer string
	unwatch  func()
	once     sync.Once

	// The callback's own.
	parser  ackParser
	seq     uint64   // of the consumer, last seen
	foreign uint64   // dropped by a wide session
	dead    bool     // a gap was seen: nothing after it is passed on
	last    uint64   // of the stream: the last message that came, or a heartbeat spoke of
	pending uint64   // behind it
	next    []uint64 // each must come before any later one
	asked   time.Time
	jumps   atomic.Int32

	matching   uint64        // when the consumer was made
	reconsider atomic.Uint64 // consumer sequence; 0: never. Set once the session was validated.
}

func (s *session) start(ctx context.Context, b *Broker, spec *processor.ReaderSpec) error {
	c, err := b.conn(ctx, Read)
	if err != nil {
		return err
	}
	s.conn = c
	// Before subscribing: a reconnect from now on ends the session.
	s.unwatch = c.onReconnect(func() { s.r.fail(s, errors.New("the connection was re-established")) })
	inbox := c.nc.NewInbox()
	s.consumer = "weir-" + nuid.Next()
	if s.sub, err = c.nc.Subscribe(inbox, s.receive); err != nil {
		return fmt.Errorf("subscribe for records: %w", err)
	}
	// What is under way is bounded by the server's flow control.
	if err = s.sub.SetPendingLimits(-1, -1); err != nil {
		return fmt.Errorf("set limits for records: %w", err)
	}
	filter, verb := spec.Filter, "CONSUMER.CREATE."+spec.Stream+"."+s.consumer
	if s.wide {
		filter = ""
	} else {
		verb += "." + filter
	}
	cfg := js.ConsumerConfig{
		Name: s.consumer, Description: "Weir: " + spec.Job.String() + ", source " + spec.Source,
		DeliverSubject: inbox, FilterSubject: filter,
		DeliverPolicy: js.DeliverByStartSequencePolicy, OptStartSeq: spec.After + 1,
		AckPolicy: js.AckNonePolicy, MaxDeliver: 1, ReplayPolicy: js.ReplayInstantPolicy,
		FlowControl: true, IdleHeartbeat: b.cfg.Heartbeat,
		MemoryStorage: true, Replicas: 1, InactiveThreshold: consumerIdle,
	}
	req := struct {
		Stream string            `json:"stream_name"`
		Config js.ConsumerConfig `json:"config"`
		Action string            `json:"action"`
	}{spec.Stream, cfg, "create"}
	var resp struct {
		Pending uint64 `json:"num_pending"`
	}
	if err := b.apiOn(ctx, Read, "consumer", verb, req, &resp); err != nil {
		return err
	}
	s.matching = resp.Pending
	return nil
}

// widen reports whether a session without a filter would be better than this one. Only where the filter has wildcards: a literal
// one is fast, and one that is all of the stream the server drops by itself.
func (s *session) widen(info *js.StreamInfo, spec *processor.ReaderSpec) bool {
	if s.wide || !strings.HasSuffix(spec.Filter, ">") && !strings.Contains(spec.Filter, "*") || slices.Equal(info.Config.Subjects, []string{spec.Filter}) {
		return false
	}
	behind := info.State.LastSeq - min(info.State.LastSeq, spec.After)
	return info.State.NumSubjects >= wideSubjects && s.matching >= wideBacklog && s.matching*wideShare >= behind
}

// end unsubscribes and asks the server to delete the consumer, without waiting for it.
func (s *session) end() {
	s.once.Do(func() {
		close(s.stop)
		if s.unwatch != nil {
			s.unwatch()
		}
		if s.sub == nil {
			return
		}
		// Errors mean that the connection is gone; then the server drops the consumer by itself.
		_ = s.sub.Unsubscribe()
		if s.consumer != "" && s.r.b.intercept("consumer", "delete") == Pass {
			_ = s.conn.nc.PublishRequest(apiPrefix+"CONSUMER.DELETE."+s.r.spec.Stream+"."+s.consumer, s.conn.nc.NewInbox(), nil)
		}
	})
}

// receive is the hot path.
func (s *session) receive(m *nats.Msg) {
	if s.dead {
		return
	}
	if !strings.HasPrefix(m.Reply, ackPrefix) {
		s.control(m)
		return
	}
	d, ok := s.parser.parse(m.Reply)
	if !ok || d.consumerSeq != s.seq+1 {
		s.lose(fmt.Errorf("gap: consumer sequence %d follows %d", d.consumerSeq, s.seq))
		return
	}
	s.seq = d.consumerSeq
	after, doubt := s.suspect(d)
	r := s.r
	if s.wide && !r.filter.Matches(m.Subject) {
		s.skip(d, after, doubt)
		return
	}
	if again := s.reconsider.Load(); again > 0 && s.seq > again && d.pending > 2*wideBacklog {
		s.lose(errReconsider)
		return
	}
	for {
		r.mu.Lock()
		if r.sess != s {
			r.mu.Unlock()
			return
		}
		if n := len(r.buf); n < r.spec.BatchRecords && (n == 0 || r.size+len(m.Data) <= r.spec.BatchBytes) {
			break
		}
		r.mu.Unlock()
		if !s.await() {
			return
		}
	}
	if doubt {
		r.doubt(after)
	}
	if r.buf == nil {
		r.buf = make([]processor.Record, 0, min(r.spec.BatchRecords, 2*r.lastSize+8))
	}
	r.buf = append(r.buf, processor.Record{Subject: m.Subject, Data: m.Data, Header: m.Header, Seq: d.streamSeq, Time: d.time})
	r.size += len(m.Data) + len(m.Subject)
	r.position, r.pending = d.streamSeq, d.pending
	r.heard++
	first := len(r.buf) == 1
	r.mu.Unlock()
	if first {
		signal(r.ready)
	}
}

// skip drops a record that is not the source's.
func (s *session) skip(d delivery, after uint64, doubt bool) {
	s.foreign++
	if d.pending == 0 && s.seq > wideBacklog && s.foreign > s.seq/4*3 {
		s.lose(errReconsider) // caught up, and most of it is for others
		return
	}
	r := s.r
	r.mu.Lock()
	if r.sess == s {
		r.position, r.pending = d.streamSeq, d.pending
		r.heard++
		if doubt {
			r.doubt(after)
		}
	}
	r.mu.Unlock()
	if d.pending == 0 || s.foreign%skipSignal == 0 {
		signal(r.ready)
	}
}

// control handles heartbeats and flow control. They come in order with the records, so answering a flow control request here says
// that all before it has a place in the buffer.
func (s *session) control(m *nats.Msg) {
	if m.Header.Get("Status") != "100" {
		s.lose(fmt.Errorf("the consumer ended: %s %s", m.Header.Get("Status"), m.Header.Get("Description")))
		return
	}
	reply := m.Reply
	if reply == "" {
		reply = m.Header.Get("Nats-Consumer-Stalled") // its flow control request, or our answer, got lost
	}
	if strings.HasPrefix(reply, "$JS.FC.") {
		if err := s.conn.nc.Publish(reply, nil); err != nil {
			s.lose(fmt.Errorf("answer flow control: %w", err))
			return
		}
	}
	last, lastErr := strconv.ParseUint(m.Header.Get("Nats-Last-Consumer"), 10, 64)
	scanned, scanErr := strconv.ParseUint(m.Header.Get("Nats-Last-Stream"), 10, 64)
	if lastErr != nil || scanErr != nil {
		s.alive(0) // a flow control request
		return
	}
	if last != s.seq {
		s.lose(fmt.Errorf("gap: the server sent consumer sequence %d, %d came", last, s.seq))
		return
	}
	s.alive(scanned)
}

// alive notes that the session was heard of, and that nothing up to scanned matches any more.
func (s *session) alive(scanned uint64) {
	r := s.r
	after := s.last
	doubt := scanned > after && (s.pending > 0 || s.jumps.Load() == jumpsAreLosses)
	if scanned > after {
		s.last, s.pending = scanned, 0
	}
	r.mu.Lock()
	moved := false
	if r.sess == s {
		r.heard++
		if doubt {
			r.doubt(after)
		}
		if moved = scanned > r.position; moved {
			r.position, r.pending = scanned, 0
		}
	}
	r.mu.Unlock()
	if moved {
		signal(r.ready)
	}
}

func (s *session) lose(err error) {
	s.dead = true
	s.r.fail(s, err)
}
