package jetstream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/weirstream/weir/processor"
)

// Headers of the server. Batches are ADR-50's.
const (
	hdrBatchID         = "Nats-Batch-Id"
	hdrBatchSeq        = "Nats-Batch-Sequence"
	hdrBatchCommit     = "Nats-Batch-Commit"
	hdrExpectedStream  = "Nats-Expected-Stream"
	hdrExpectedSubjSeq = "Nats-Expected-Last-Subject-Sequence"
	hdrTTL             = "Nats-TTL"
	hdrRollup          = "Nats-Rollup"
)

// batch is one atomic batch that is being sent. Its ID is new for every try, so an abandoned one is never committed.
type batch struct {
	c      *conn
	id     string
	seq    int
	opened time.Time
	msg    nats.Msg    // reused: nats.go has encoded a message when publishing it returns
	header nats.Header // reused where the message has no headers of its own
}

func newBatch(c *conn) *batch {
	id := nuid.Next()
	return &batch{c: c, id: id, opened: time.Now(), header: nats.Header{hdrBatchID: {id}, hdrBatchSeq: {""}}}
}

// add sends one message of the batch's body. Nobody answers it: what is wrong comes out at the commit.
func (b *batch) add(m *processor.Message) error {
	b.seq++
	b.msg = nats.Msg{Subject: m.Subject, Data: m.Data, Header: b.headers(m.Header)}
	if err := b.c.nc.PublishMsg(&b.msg); err != nil {
		return fmt.Errorf("publish on %s, message %d of a batch: %w", m.Subject, b.seq, err)
	}
	return nil
}

func (b *batch) headers(own map[string][]string) nats.Header {
	h := b.header
	if len(own) > 0 {
		h = make(nats.Header, len(own)+2)
		maps.Copy(h, own)
		h[hdrBatchID] = b.header[hdrBatchID]
		h[hdrBatchSeq] = []string{""}
	}
	h[hdrBatchSeq][0] = strconv.Itoa(b.seq)
	return h
}

// commit sends the last message and returns where its answer will be.
func (b *batch) commit(m *processor.Message) (*pendingAck, error) {
	acks, err := b.c.acks()
	if err != nil {
		return nil, err
	}
	p := &pendingAck{acks: acks, answer: make(chan *nats.Msg, 1)}
	id, reply := acks.expect(func(m *nats.Msg) { p.answer <- m })
	p.id = id
	b.seq++
	h := b.headers(m.Header)
	h[hdrBatchCommit] = []string{"1"}
	if err := b.c.nc.PublishMsg(&nats.Msg{Subject: m.Subject, Reply: reply, Data: m.Data, Header: h}); err != nil {
		acks.forget(id)
		return nil, fmt.Errorf("publish on %s, the commit of a batch: %w", m.Subject, err)
	}
	return p, nil
}

// abandon makes the server drop the batch now and not only when it times out: a gap in the sequence ends it.
func (b *batch) abandon(subject string) {
	h := nats.Header{hdrBatchID: {b.id}, hdrBatchSeq: {strconv.Itoa(b.seq + 2)}}
	_ = b.c.nc.PublishMsg(&nats.Msg{Subject: subject, Header: h}) // the timeout does it if this does not arrive
}

// pendingAck is an answer under way.
type pendingAck struct {
	acks   *acker
	id     uint64
	answer chan *nats.Msg
}

// wait returns the acknowledgement, or the context's error.
func (p *pendingAck) wait(ctx context.Context) (pubAck, error) {
	select {
	case m := <-p.answer:
		return ackOf(m)
	case <-ctx.Done():
		p.acks.forget(p.id)
		return pubAck{}, ctx.Err()
	}
}

// guarded is the marker with the header that makes it, and the batch it is in, conditional on the last marker's sequence.
func guarded(m processor.Message, stream string, expected uint64, allowTTL bool) processor.Message {
	h := make(nats.Header, len(m.Header)+3)
	maps.Copy(h, m.Header)
	h[hdrExpectedStream] = []string{stream}
	h[hdrExpectedSubjSeq] = []string{strconv.FormatUint(expected, 10)}
	if allowTTL {
		h[hdrTTL] = []string{"never"}
	}
	m.Header = h
	return m
}

// partSize is what a part counts against the bounds of a batch.
func partSize(p *processor.Part) (messages, bytes int) {
	bytes = messageSize(&p.Marker)
	for i := range p.Messages {
		bytes += messageSize(&p.Messages[i])
	}
	return len(p.Messages) + 1, bytes
}

func messageSize(m *processor.Message) int {
	n := len(m.Subject) + len(m.Data) + 100 // batch headers
	for k, v := range m.Header {
		n += len(k) + 4
		for _, s := range v {
			n += len(s)
		}
	}
	return n
}

// sameMessages reports whether two parts hold the very same messages: the same memory, not only equal bytes.
func sameMessages(a, b []processor.Message) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

func sameMarker(a, b *processor.Message) bool {
	return a.Subject == b.Subject && slices.Equal(a.Data, b.Data)
}

// serverMaxPart is how many messages a server takes in one batch when nobody raised its max_batch_size.
const serverMaxPart = 1000

// maxPart asks how large a batch the stream's server takes: a message far up in a batch that was never opened is refused with the
// limit in words, and leaves nothing behind.
func (b *Broker) maxPart(ctx context.Context, stream, marker string) (int, error) {
	_, err := b.publishOne(ctx, Control, &nats.Msg{Subject: marker, Header: nats.Header{
		hdrExpectedStream: {stream}, hdrBatchID: {nuid.Next()}, hdrBatchSeq: {strconv.Itoa(math.MaxInt32)}}})
	var api *js.APIError
	if !errors.As(err, &api) {
		return 0, fmt.Errorf("ask stream %s for its largest batch: %w", stream, err)
	}
	limit := serverMaxPart
	if api.ErrorCode == codeBatchTooLarge {
		if n, err := strconv.Atoi(api.Description[strings.LastIndexByte(api.Description, ' ')+1:]); err == nil && n > 1 {
			limit = n
		}
	}
	return min(limit, b.cfg.MaxPart), nil
}
