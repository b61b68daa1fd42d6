package jetstream

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/processor"
)

const (
	sweepEvery = 100 * time.Millisecond
	retryAfter = 200 * time.Millisecond
	maxRetry   = 5 * time.Second
)

// publisher sends at-least-once messages without waiting and sends again what was not acknowledged.
type publisher struct {
	b     *Broker
	slots chan struct{}

	mu       sync.Mutex
	pending  map[*outgoing]struct{}
	sweeping bool
	closed   bool
}

// outgoing is one message under way.
type outgoing struct {
	ctx  context.Context
	msg  *nats.Msg
	done func(error)

	// Under publisher.mu:
	acks  *acker
	id    uint64
	tries int
	due   time.Time // send again then
	err   error     // of the last try
}

// Publish implements processor.Transport. The message's header and data must not change until done was called.
func (b *Broker) Publish(ctx context.Context, stream string, m processor.Message, done func(error)) error {
	p, err := b.publisher()
	if err != nil {
		return err
	}
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-b.ctx.Done():
		return ErrClosed
	}
	h := make(nats.Header, len(m.Header)+1)
	maps.Copy(h, m.Header)
	h[hdrExpectedStream] = []string{stream}
	o := &outgoing{ctx: ctx, msg: &nats.Msg{Subject: m.Subject, Data: m.Data, Header: h}, done: done}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		<-p.slots
		return ErrClosed
	}
	p.pending[o] = struct{}{}
	start := !p.sweeping
	p.sweeping = true
	p.mu.Unlock()
	if start && !b.spawn(p.sweep) {
		p.finish(o, ErrClosed)
		return nil
	}
	p.send(o)
	return nil
}

func (b *Broker) publisher() (*publisher, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || !b.started {
		return nil, ErrClosed
	}
	if b.pub == nil {
		b.pub = &publisher{b: b, slots: make(chan struct{}, b.cfg.MaxPending), pending: map[*outgoing]struct{}{}}
	}
	return b.pub, nil
}

// send makes one try.
func (p *publisher) send(o *outgoing) {
	c, err := p.b.conn(o.ctx, Output)
	if err != nil {
		p.failed(o, err)
		return
	}
	acks, err := c.acks()
	if err != nil {
		p.failed(o, err)
		return
	}
	fault := p.b.intercept("publish", o.msg.Subject)
	id, reply := acks.expect(func(m *nats.Msg) {
		if fault == LoseReply {
			return
		}
		if _, err := ackOf(m); err != nil {
			p.failed(o, err)
			return
		}
		p.finish(o, nil)
	})
	p.mu.Lock()
	o.acks, o.id = acks, id
	o.tries++
	o.due = time.Now().Add(p.b.cfg.Timeout)
	msg := *o.msg // an answer to the try before may be on its way: the reply subject tells them apart
	p.mu.Unlock()
	msg.Reply = reply
	if fault == Drop {
		return
	}
	if err := c.nc.PublishMsg(&msg); err != nil {
		acks.forget(id)
		p.failed(o, err)
	}
}

// failed ends a message that was refused for good and schedules the others anew.
func (p *publisher) failed(o *outgoing, err error) {
	if statusOf(o.ctx, err) == barriers.Rejected {
		p.finish(o, fmt.Errorf("publish on %s: %w", o.msg.Subject, err))
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	o.err = err
	o.due = time.Now().Add(min(maxRetry, retryAfter<<min(o.tries, 8)))
}

// finish calls done, the first time it is called for a message.
func (p *publisher) finish(o *outgoing, err error) {
	p.mu.Lock()
	_, open := p.pending[o]
	delete(p.pending, o)
	p.mu.Unlock()
	if !open {
		return
	}
	<-p.slots
	o.done(err)
}

// sweep sends again what is due, until nothing is under way.
func (p *publisher) sweep() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-p.b.ctx.Done():
			return
		}
		now := time.Now()
		var again, over []*outgoing
		p.mu.Lock()
		if len(p.pending) == 0 {
			p.sweeping = false
			p.mu.Unlock()
			return
		}
		for o := range p.pending {
			switch {
			case o.ctx.Err() != nil:
				over = append(over, o)
			case !now.Before(o.due):
				again = append(again, o)
				if o.acks != nil {
					o.acks.forget(o.id)
				}
			}
		}
		p.mu.Unlock()
		for _, o := range over {
			p.finish(o, fmt.Errorf("publish on %s: %w", o.msg.Subject, o.ctx.Err()))
		}
		for _, o := range again {
			p.send(o)
		}
	}
}

func (p *publisher) close() {
	p.mu.Lock()
	p.closed = true
	pending := make([]*outgoing, 0, len(p.pending))
	for o := range p.pending {
		pending = append(pending, o)
	}
	p.mu.Unlock()
	for _, o := range pending {
		p.finish(o, ErrClosed)
	}
}
