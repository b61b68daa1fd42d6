package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/weirstream/weir/state/codec"
)

// maxPull is the setting with which nats.go's ordered consumer is fastest.
const maxPull = 50000

// consume is the loop one would write by hand: an ordered consumer, each message handled in its callback. It returns after n
// messages. Weir's own barriers in the stream are not events and are passed over.
func (e *env) consume(ctx context.Context, stream, subject string, n int, handle func(data []byte) error) error {
	c, err := e.js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{FilterSubjects: []string{subject}})
	if err != nil {
		return fmt.Errorf("consuming %s: %w", stream, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan struct{})
	var once sync.Once
	left := n
	cc, err := c.Consume(func(m jetstream.Msg) {
		if left == 0 || len(m.Headers()) > 0 && m.Headers().Get("Weir-Barrier") != "" {
			return
		}
		if err := handle(m.Data()); err != nil {
			left = 0
			cancel(err)
			return
		}
		if left--; left == 0 {
			once.Do(func() { close(done) })
		}
	}, jetstream.PullMaxMessages(maxPull), jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
		if !errors.Is(err, jetstream.ErrNoHeartbeat) {
			cancel(err)
		}
	}))
	if err != nil {
		return fmt.Errorf("consuming %s: %w", stream, err)
	}
	defer func() {
		cc.Stop()
		<-cc.Closed()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("consuming %s: %w", stream, context.Cause(ctx))
	}
}

// countByHand counts every event in a Go map and returns the counts.
func (e *env) countByHand(ctx context.Context, in codec.Codec[Event], n int) (map[string]uint64, error) {
	counts := make(map[string]uint64)
	err := e.consume(ctx, inStream, inSubject, n, func(data []byte) error {
		ev, err := in.Decode(data)
		if err != nil {
			return err
		}
		counts[ev.Key]++
		return nil
	})
	return counts, err
}

// pipeByHand counts every event and publishes each result with send.
func (e *env) pipeByHand(ctx context.Context, in codec.Codec[Event], n int, send func(data []byte) error) error {
	counts := make(map[string]uint64)
	out := codec.JSON[Counted]()
	return e.consume(ctx, inStream, inSubject, n, func(data []byte) error {
		ev, err := in.Decode(data)
		if err != nil {
			return err
		}
		counts[ev.Key]++
		b, err := out.Append(make([]byte, 0, 64), Counted{ev.ID, ev.Key, counts[ev.Key]})
		if err != nil {
			return err
		}
		return send(b)
	})
}

// asyncPipe publishes results with PublishAsync and waits for all acknowledgements. A crash loses and doubles results.
func (e *env) asyncPipe(ctx context.Context, in codec.Codec[Event], n int) error {
	js, err := jetstream.New(e.nc, jetstream.WithPublishAsyncMaxPending(16384))
	if err != nil {
		return err
	}
	var failed error
	err = e.pipeByHand(ctx, in, n, func(data []byte) error {
		_, err := js.PublishAsync(outSubject, data, jetstream.WithStallWait(time.Minute))
		return err
	})
	if err != nil {
		return err
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-ctx.Done():
		failed = ctx.Err()
	}
	return failed
}

// batchPipe publishes results in atomic batches of 1000 (ADR-50). A crash loses and doubles results, but not parts of a batch.
func (e *env) batchPipe(ctx context.Context, in codec.Codec[Event], n int) error {
	const size = 1000
	b := &handBatch{nc: e.nc}
	sent := 0
	return e.pipeByHand(ctx, in, n, func(data []byte) error {
		sent++
		return b.add(ctx, data, sent%size == 0 || sent == n)
	})
}

// handBatch writes atomic batches one after the other.
type handBatch struct {
	nc  *nats.Conn
	id  string
	seq int
}

func (b *handBatch) add(ctx context.Context, data []byte, commit bool) error {
	if b.seq == 0 {
		b.id = nuid.Next()
	}
	b.seq++
	m := &nats.Msg{Subject: outSubject, Data: data, Header: nats.Header{
		"Nats-Batch-Id": {b.id}, "Nats-Batch-Sequence": {strconv.Itoa(b.seq)},
	}}
	if !commit {
		return b.nc.PublishMsg(m)
	}
	b.seq = 0
	m.Header["Nats-Batch-Commit"] = []string{"1"}
	limited, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	reply, err := b.nc.RequestMsgWithContext(limited, m)
	if err != nil {
		return fmt.Errorf("committing a batch: %w", err)
	}
	return ackError(reply.Data)
}
