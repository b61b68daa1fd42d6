package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// watch follows a KV bucket: one push consumer delivers the last message of each subject under a filter, in the order of their
// sequences, and then every later one. It ends when something is wrong with the consumer: then nothing is known of what follows, and the
// next watch begins anew.
type watch struct {
	b       *Broker
	purpose Purpose
	what    string // for errors: "intents"
	stream  string
	filter  string
	name    string // of the consumer, a nuid is appended
	about   string // the consumer's description

	// created is called when the consumer exists, with the number of messages that it will begin with.
	created func(ctx context.Context, pending uint64) error
	// message is called for each message.
	message func(m *nats.Msg, d delivery) error
	// idle is called when the server says that nothing up to a sequence is left to deliver. nil: not needed.
	idle func(scanned uint64) error

	nc     *nats.Conn
	parser ackParser
	seq    uint64
}

// watchPause is the wait before try n+1.
func watchPause(n int) time.Duration { return min(100*time.Millisecond<<min(n, 6), 5*time.Second) }

// run watches until something is wrong, ctx ends or the broker is closed.
func (w *watch) run(ctx context.Context) error {
	c, err := w.b.conn(ctx, w.purpose)
	if err != nil {
		return err
	}
	w.nc = c.nc
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer c.onReconnect(func() { cancel(errors.New("the connection was re-established")) })()
	// Close must not wait for a watch that nobody cancels.
	defer context.AfterFunc(w.b.ctx, func() { cancel(ErrClosed) })()
	inbox := c.nc.NewInbox()
	sub, err := c.nc.SubscribeSync(inbox)
	if err != nil {
		return fmt.Errorf("subscribing to %s: %w", w.what, err)
	}
	defer func() { _ = sub.Unsubscribe() }() // an error means that the connection is gone
	// What is under way is bounded by the server's flow control.
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return fmt.Errorf("subscribing to %s: %w", w.what, err)
	}
	name := w.name + "-" + nuid.Next()
	pending, err := w.create(ctx, name, inbox)
	if err != nil {
		return err
	}
	defer func() {
		_ = c.nc.PublishRequest(apiPrefix+"CONSUMER.DELETE."+w.stream+"."+name, c.nc.NewInbox(), nil)
	}()
	if err := w.created(ctx, pending); err != nil {
		return err
	}
	for {
		m, err := w.next(ctx, sub)
		if err != nil {
			return err
		}
		if err := w.take(m); err != nil {
			return err
		}
	}
}

func (w *watch) create(ctx context.Context, name, inbox string) (pending uint64, err error) {
	req := struct {
		Stream string            `json:"stream_name"`
		Config js.ConsumerConfig `json:"config"`
		Action string            `json:"action"`
	}{w.stream, js.ConsumerConfig{
		Name: name, Description: w.about, DeliverSubject: inbox, FilterSubject: w.filter,
		DeliverPolicy: js.DeliverLastPerSubjectPolicy, AckPolicy: js.AckNonePolicy, MaxDeliver: 1, ReplayPolicy: js.ReplayInstantPolicy,
		FlowControl: true, IdleHeartbeat: w.b.cfg.Heartbeat, MemoryStorage: true, Replicas: 1, InactiveThreshold: consumerIdle,
	}, "create"}
	var resp struct {
		Pending uint64 `json:"num_pending"`
	}
	if err := w.b.apiOn(ctx, w.purpose, "api", "CONSUMER.CREATE."+w.stream+"."+name+"."+w.filter, req, &resp); err != nil {
		return 0, fmt.Errorf("watching %s: %w", w.what, err)
	}
	return resp.Pending, nil
}

// missedBeats is how many heartbeats may fail to come.
const missedBeats = 3

func (w *watch) next(ctx context.Context, sub *nats.Subscription) (*nats.Msg, error) {
	limited, cancel := context.WithTimeout(ctx, missedBeats*w.b.cfg.Heartbeat)
	defer cancel()
	m, err := sub.NextMsgWithContext(limited)
	switch {
	case err == nil:
		return m, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, context.DeadlineExceeded):
		return nil, fmt.Errorf("watching %s: no heartbeat in %s", w.what, missedBeats*w.b.cfg.Heartbeat)
	}
	return nil, fmt.Errorf("watching %s: %w", w.what, err)
}

// take handles one message and checks that none is missing before it.
func (w *watch) take(m *nats.Msg) error {
	if !strings.HasPrefix(m.Reply, ackPrefix) {
		return w.control(m)
	}
	d, ok := w.parser.parse(m.Reply)
	if !ok || d.consumerSeq != w.seq+1 {
		return fmt.Errorf("watching %s: consumer sequence %d follows %d", w.what, d.consumerSeq, w.seq)
	}
	w.seq = d.consumerSeq
	return w.message(m, d)
}

// control handles heartbeats and flow control.
func (w *watch) control(m *nats.Msg) error {
	if m.Header.Get("Status") != "100" {
		return fmt.Errorf("watching %s: the consumer ended: %s %s", w.what, m.Header.Get("Status"), m.Header.Get("Description"))
	}
	reply := m.Reply
	if reply == "" {
		reply = m.Header.Get("Nats-Consumer-Stalled")
	}
	if strings.HasPrefix(reply, "$JS.FC.") {
		if err := w.nc.Publish(reply, nil); err != nil {
			return fmt.Errorf("watching %s: answering flow control: %w", w.what, err)
		}
	}
	last, err := strconv.ParseUint(m.Header.Get("Nats-Last-Consumer"), 10, 64)
	if err != nil {
		return nil // a flow control request
	}
	if last != w.seq {
		return fmt.Errorf("watching %s: the server sent consumer sequence %d, %d came", w.what, last, w.seq)
	}
	scanned, err := strconv.ParseUint(m.Header.Get("Nats-Last-Stream"), 10, 64)
	if err != nil || w.idle == nil {
		return nil
	}
	return w.idle(scanned)
}
