package weircli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// tail reads one subject of a stream from its beginning, in order, up to wherever it is asked to.
type tail struct {
	nc      *nats.Conn
	stream  string
	subject string
	first   uint64 // the stream's first sequence when the tail was opened
	read    uint64 // sequence of the last message read
	msgs    jetstream.MessagesContext
	each    func(jetstream.Msg) error
}

// quiet is how long a consumer may say nothing before the tail asks the leader whether there is more.
const quiet = 500 * time.Millisecond

// openTail finds the stream that captures the subject. each is called for every message but Weir's own.
func openTail(ctx context.Context, nc *nats.Conn, subject string, each func(jetstream.Msg) error) (*tail, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	name, err := js.StreamNameBySubject(ctx, subject)
	if err != nil {
		return nil, fmt.Errorf("finding the stream of %s: %w: is this the right server and tenant?", subject, err)
	}
	s, err := js.Stream(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("reading stream %s: %w", name, err)
	}
	c, err := js.OrderedConsumer(ctx, name, jetstream.OrderedConsumerConfig{FilterSubjects: []string{subject}})
	if err != nil {
		return nil, fmt.Errorf("reading %s from stream %s: %w", subject, name, err)
	}
	msgs, err := c.Messages(jetstream.PullMaxMessages(10000))
	if err != nil {
		return nil, fmt.Errorf("reading %s from stream %s: %w", subject, name, err)
	}
	return &tail{nc: nc, stream: name, subject: subject, first: s.CachedInfo().State.FirstSeq, msgs: msgs, each: each}, nil
}

func (t *tail) close() { t.msgs.Stop() }

// readAll reads everything that the stream's leader has under the subject.
func (t *tail) readAll(ctx context.Context) error {
	for {
		last, err := t.last(ctx)
		if err != nil {
			return err
		}
		if t.read >= last {
			return nil
		}
		if err := t.readTo(ctx, last); err != nil {
			return err
		}
	}
}

// readTo reads up to sequence seq, or until there is nothing more: the message may have expired meanwhile.
func (t *tail) readTo(ctx context.Context, seq uint64) error {
	for t.read < seq {
		wait, cancel := context.WithTimeout(ctx, quiet)
		m, err := t.msgs.Next(jetstream.NextContext(wait))
		cancel()
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			last, err := t.last(ctx)
			if err != nil {
				return err
			}
			if last <= t.read {
				return nil
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("reading %s from stream %s behind sequence %d: %w", t.subject, t.stream, t.read, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("reading %s from stream %s: %w", t.subject, t.stream, err)
		}
		t.read = meta.Sequence.Stream
		if m.Headers().Get(barrierHeader) != "" {
			continue
		}
		if err := t.each(m); err != nil {
			return fmt.Errorf("reading sequence %d of stream %s: %w", t.read, t.stream, err)
		}
	}
	return nil
}

const barrierHeader = "Weir-Barrier"

// last asks the stream's leader for the last sequence under the subject: a follower might not know it yet.
func (t *tail) last(ctx context.Context) (uint64, error) {
	req, err := json.Marshal(map[string]string{"last_by_subj": t.subject})
	if err != nil {
		return 0, err
	}
	for {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		m, err := t.nc.RequestWithContext(try, "$JS.API.STREAM.MSG.GET."+t.stream, req)
		cancel()
		if err != nil {
			if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
				continue // no leader for the moment
			}
			return 0, fmt.Errorf("asking stream %s for the last message under %s: %w", t.stream, t.subject, err)
		}
		var reply struct {
			Error   *jetstream.APIError `json:"error"`
			Message struct {
				Seq uint64 `json:"seq"`
			} `json:"message"`
		}
		if err := json.Unmarshal(m.Data, &reply); err != nil {
			return 0, fmt.Errorf("asking stream %s for the last message under %s: %w", t.stream, t.subject, err)
		}
		switch {
		case reply.Error == nil:
			return reply.Message.Seq, nil
		case reply.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
			return 0, nil
		}
		return 0, fmt.Errorf("asking stream %s for the last message under %s: %w", t.stream, t.subject, reply.Error)
	}
}
