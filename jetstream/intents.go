package jetstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

const (
	// JobsBucket holds what should run: an intent per job.
	JobsBucket = "weir_jobs"

	jobsStream = "KV_" + JobsBucket
	jobsPrefix = "$KV." + JobsBucket + "."

	// intentTries bounds the tries of a write whose outcome is not known.
	intentTries = 5
)

// jobsBucket holds what must be read current: no direct gets, which a follower may answer.
func (b *Broker) jobsBucket() js.StreamConfig {
	return b.bucket(JobsBucket, "Weir: which jobs should run, and how")
}

func intentSubject(job tenants.JobID) string {
	return jobsPrefix + string(job.Tenant) + "." + job.Name
}

// ReadIntent implements processor.Intents.
func (b *Broker) ReadIntent(ctx context.Context, job tenants.JobID) (*processor.Intent, uint64, error) {
	data, seq, err := b.readIntent(ctx, job)
	if err != nil || data == nil {
		return nil, seq, err
	}
	in, err := processor.DecodeIntent(job, data)
	return in, seq, err
}

// readIntent reads through the leader; nil without an error: there is none.
func (b *Broker) readIntent(ctx context.Context, job tenants.JobID) ([]byte, uint64, error) {
	if err := job.Validate(); err != nil {
		return nil, 0, err
	}
	m, err := b.leaderGet(ctx, jobsStream, getLast{intentSubject(job)})
	switch {
	case err != nil:
		return nil, 0, asTransient(ctx, fmt.Errorf("reading the intent of job %s: %w", job, err))
	case m == nil:
		return nil, 0, nil
	case isDeleteMarker(m.Header):
		return nil, m.Seq, nil
	}
	return m.Data, m.Seq, nil
}

// WriteIntent implements processor.Intents. A write whose outcome is not known is looked up before it is sent again.
func (b *Broker) WriteIntent(ctx context.Context, in *processor.Intent, expected uint64) (uint64, error) {
	value, err := in.Encode()
	if err != nil {
		return 0, err
	}
	for n := 1; ; n++ {
		reply := b.writeGuarded(ctx, jobsStream, processor.Message{Subject: intentSubject(in.ID()), Data: value}, expected, false)
		switch reply.Status {
		case barriers.OK:
			return reply.Seq, nil
		case barriers.Rejected, barriers.Full, barriers.Canceled:
			return 0, asTransient(ctx, fmt.Errorf("writing the intent of job %s: %w", in.ID(), reply.Err))
		}
		now, seq, err := b.readIntent(ctx, in.ID())
		switch {
		case err == nil && seq > expected && bytes.Equal(now, value):
			return seq, nil // an earlier try took place
		case err == nil && seq != expected:
			return 0, fmt.Errorf("writing the intent of job %s: %w: its revision is %d, not %d", in.ID(), processor.ErrIntentChanged, seq, expected)
		case n == intentTries:
			return 0, asTransient(ctx, fmt.Errorf("writing the intent of job %s: %w", in.ID(), errors.Join(reply.Err, err)))
		}
		if err := sleep(ctx, watchPause(n)); err != nil {
			return 0, err
		}
	}
}

// WatchIntents implements processor.Intents: one consumer over the bucket. A gap, a missed heartbeat or a reconnect ends it, and the
// next one reads everything again.
func (b *Broker) WatchIntents(ctx context.Context, each func(processor.IntentRecord), ready func()) error {
	told := false
	for n := 1; ; n++ {
		err := b.watchIntents(ctx, each, func() {
			n = 0
			if !told {
				told = true
				ready()
			}
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, ErrClosed) {
			return err
		}
		b.log.Warn("watching what should run: reading it again", "err", err)
		if err := sleep(ctx, watchPause(n)); err != nil {
			return err
		}
	}
}

// watchPause is the wait before try n+1.
func watchPause(n int) time.Duration { return min(100*time.Millisecond<<min(n, 6), 5*time.Second) }

// watchIntents is one pass: everything there is, then every change until something is wrong with the consumer.
func (b *Broker) watchIntents(ctx context.Context, each func(processor.IntentRecord), ready func()) error {
	c, err := b.conn(ctx, Control)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer c.onReconnect(func() { cancel(errors.New("the connection was re-established")) })()
	// Close must not wait for a watch that nobody cancels.
	defer context.AfterFunc(b.ctx, func() { cancel(ErrClosed) })()
	inbox := c.nc.NewInbox()
	sub, err := c.nc.SubscribeSync(inbox)
	if err != nil {
		return fmt.Errorf("subscribing to intents: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }() // an error means that the connection is gone
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return fmt.Errorf("subscribing to intents: %w", err)
	}
	name := "weir-jobs-" + nuid.Next()
	pending, err := b.createWatch(ctx, name, inbox)
	if err != nil {
		return err
	}
	defer func() {
		_ = c.nc.PublishRequest(apiPrefix+"CONSUMER.DELETE."+jobsStream+"."+name, c.nc.NewInbox(), nil)
	}()
	if pending == 0 {
		ready()
	}
	w := intentWatch{b: b, nc: c.nc, each: each}
	for first := pending > 0; ; {
		m, err := w.next(ctx, sub)
		if err != nil {
			return err
		}
		left, err := w.take(m)
		if err != nil {
			return err
		}
		if first && left == 0 && w.seq > 0 {
			first = false
			ready()
		}
	}
}

func (b *Broker) createWatch(ctx context.Context, name, inbox string) (pending uint64, err error) {
	req := struct {
		Stream string            `json:"stream_name"`
		Config js.ConsumerConfig `json:"config"`
		Action string            `json:"action"`
	}{jobsStream, js.ConsumerConfig{
		Name: name, Description: "Weir: a worker hears what should run", DeliverSubject: inbox, FilterSubject: jobsPrefix + ">",
		DeliverPolicy: js.DeliverLastPerSubjectPolicy, AckPolicy: js.AckNonePolicy, MaxDeliver: 1, ReplayPolicy: js.ReplayInstantPolicy,
		FlowControl: true, IdleHeartbeat: b.cfg.Heartbeat, MemoryStorage: true, Replicas: 1, InactiveThreshold: consumerIdle,
	}, "create"}
	var resp struct {
		Pending uint64 `json:"num_pending"`
	}
	if err := b.api(ctx, "CONSUMER.CREATE."+jobsStream+"."+name+"."+jobsPrefix+">", req, &resp); err != nil {
		return 0, fmt.Errorf("watching intents: %w", err)
	}
	return resp.Pending, nil
}

// intentWatch checks that one consumer's messages come without a gap.
type intentWatch struct {
	b      *Broker
	nc     *nats.Conn
	each   func(processor.IntentRecord)
	parser ackParser
	seq    uint64
}

// missedBeats is how many heartbeats may fail to come.
const missedBeats = 3

func (w *intentWatch) next(ctx context.Context, sub *nats.Subscription) (*nats.Msg, error) {
	limited, cancel := context.WithTimeout(ctx, missedBeats*w.b.cfg.Heartbeat)
	defer cancel()
	m, err := sub.NextMsgWithContext(limited)
	switch {
	case err == nil:
		return m, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, context.DeadlineExceeded):
		return nil, fmt.Errorf("watching intents: no heartbeat in %s", missedBeats*w.b.cfg.Heartbeat)
	}
	return nil, fmt.Errorf("watching intents: %w", err)
}

// take handles one message and says how many are left behind it.
func (w *intentWatch) take(m *nats.Msg) (left uint64, err error) {
	if !strings.HasPrefix(m.Reply, ackPrefix) {
		return 1, w.control(m)
	}
	d, ok := w.parser.parse(m.Reply)
	if !ok || d.consumerSeq != w.seq+1 {
		return 0, fmt.Errorf("watching intents: consumer sequence %d follows %d", d.consumerSeq, w.seq)
	}
	w.seq = d.consumerSeq
	key := strings.TrimPrefix(m.Subject, jobsPrefix)
	tenant, name, _ := strings.Cut(key, ".")
	job := tenants.JobID{Tenant: tenants.ID(tenant), Name: name}
	if err := job.Validate(); err != nil {
		w.b.log.Warn("a key among the intents is no job's: it is left alone", "key", tenants.Printable(key), "err", err)
		return d.pending, nil
	}
	rec := processor.IntentRecord{Job: job, Revision: d.streamSeq}
	if m.Header.Get("KV-Operation") == "" && m.Header.Get("Nats-Marker-Reason") == "" {
		rec.Intent, rec.Err = processor.DecodeIntent(job, m.Data)
	}
	w.each(rec)
	return d.pending, nil
}

// control handles heartbeats and flow control.
func (w *intentWatch) control(m *nats.Msg) error {
	if m.Header.Get("Status") != "100" {
		return fmt.Errorf("watching intents: the consumer ended: %s %s", m.Header.Get("Status"), m.Header.Get("Description"))
	}
	reply := m.Reply
	if reply == "" {
		reply = m.Header.Get("Nats-Consumer-Stalled")
	}
	if strings.HasPrefix(reply, "$JS.FC.") {
		if err := w.nc.Publish(reply, nil); err != nil {
			return fmt.Errorf("watching intents: answering flow control: %w", err)
		}
	}
	if last, err := strconv.ParseUint(m.Header.Get("Nats-Last-Consumer"), 10, 64); err == nil && last != w.seq {
		return fmt.Errorf("watching intents: the server sent consumer sequence %d, %d came", last, w.seq)
	}
	return nil
}
