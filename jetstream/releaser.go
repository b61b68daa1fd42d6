package jetstream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/processor"
)

// maxPreparedAge is how long a prepared batch may lie open; the server drops one that is silent for 10 s.
const maxPreparedAge = 5 * time.Second

// releaser publishes the parts of all jobs of this process that go to one stream. While a batch is being committed (on one replica
// an fsync, about 4 ms whatever it holds) it gathers what comes in for the next one, and it sends the body of the part that a
// lone job's current one names as its Next: only that part's marker must wait for the sequence that guards it.
type releaser struct {
	b      *Broker
	stream string
	// maxPart is the most messages of a batch.
	maxPart atomic.Int64

	mu       sync.Mutex
	queue    []*waiting
	flights  int
	prepared *prepared
}

// waiting is a part whose caller waits.
type waiting struct {
	part  *processor.Part
	reply chan barriers.Reply // buffered
	msgs  int
	bytes int
}

// prepared is an open batch that holds a part's messages, but not its marker.
type prepared struct {
	part  *processor.Part
	batch *batch
}

func (p *prepared) holds(part *processor.Part) bool {
	return sameMessages(p.part.Messages, part.Messages) && sameMarker(&p.part.Marker, &part.Marker) &&
		time.Since(p.batch.opened) < maxPreparedAge && !p.batch.c.nc.IsClosed()
}

// PublishPart implements processor.Transport. Reply.Seq is the marker's sequence.
func (b *Broker) PublishPart(ctx context.Context, part processor.Part) barriers.Reply {
	facts, err := b.facts(ctx, part.Stream)
	if err != nil {
		return unsent(ctx, err)
	}
	msgs, bytes := partSize(&part)
	if msgs > facts.maxPart {
		return replyOf(ctx, 0, fmt.Errorf("%w: job %s: a part of sink %s has %d messages with its marker, stream %s takes %d in a batch",
			errInvalid, part.Job, part.Sink, msgs, part.Stream, facts.maxPart))
	}
	w := &waiting{part: &part, reply: make(chan barriers.Reply, 1), msgs: msgs, bytes: bytes}
	b.releaser(part.Stream, facts.maxPart).enqueue(w)
	select {
	case reply := <-w.reply:
		return reply
	case <-ctx.Done():
		return barriers.Reply{Status: barriers.Canceled, Err: ctx.Err()}
	case <-b.ctx.Done():
		return barriers.Reply{Status: barriers.Canceled, Err: ErrClosed}
	}
}

func (b *Broker) releaser(stream string, maxPart int) *releaser {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.releasers[stream]
	if r == nil {
		r = &releaser{b: b, stream: stream}
		b.releasers[stream] = r
	}
	r.maxPart.Store(int64(maxPart))
	return r
}

// unsent is the reply for an error that came before anything that could commit was sent.
func unsent(ctx context.Context, err error) barriers.Reply {
	reply := replyOf(ctx, 0, err)
	if reply.Status == barriers.Unknown {
		reply.Status = barriers.Busy
	}
	return reply
}

func (r *releaser) enqueue(w *waiting) {
	r.mu.Lock()
	r.queue = append(r.queue, w)
	r.mu.Unlock()
	r.pump()
}

// pump starts what may start.
func (r *releaser) pump() {
	for {
		r.mu.Lock()
		group, open := r.take()
		if group != nil {
			r.flights++
		}
		r.mu.Unlock()
		if group == nil {
			return
		}
		if !r.b.spawn(func() { r.fly(group, open) }) {
			return // closed: the callers see it
		}
	}
}

// take removes the next group from the queue: one part whose body is prepared, or as many as fit in a batch. A second batch is
// started beside one under way only when it is at least half full: else what comes in meanwhile shares its cost.
func (r *releaser) take() ([]*waiting, *batch) {
	if r.prepared != nil {
		for i, w := range r.queue {
			if r.prepared.holds(w.part) {
				open := r.prepared.batch
				r.prepared = nil
				r.queue = append(r.queue[:i], r.queue[i+1:]...)
				return []*waiting{w}, open
			}
			if w.part.Marker.Subject == r.prepared.part.Marker.Subject {
				r.giveUp() // the job went another way
				break
			}
		}
	}
	if len(r.queue) == 0 || r.flights >= 2 {
		return nil, nil
	}
	maxPart := int(r.maxPart.Load())
	n, msgs, bytes := 0, 0, 0
	subjects := map[string]bool{}
	for _, w := range r.queue {
		// The first always goes, even where the limit has shrunk since it was checked: the server refuses it.
		if n > 0 && (msgs+w.msgs > maxPart || bytes+w.bytes > r.b.cfg.MaxPartBytes) || subjects[w.part.Marker.Subject] {
			break
		}
		subjects[w.part.Marker.Subject] = true
		n, msgs, bytes = n+1, msgs+w.msgs, bytes+w.bytes
	}
	if r.flights > 0 && n == len(r.queue) && msgs < maxPart/2 && bytes < r.b.cfg.MaxPartBytes/2 {
		return nil, nil
	}
	group := append([]*waiting(nil), r.queue[:n]...)
	r.queue = append(r.queue[:0], r.queue[n:]...)
	return group, nil
}

// giveUp drops what was prepared. Call it with mu held.
func (r *releaser) giveUp() {
	r.prepared.batch.abandon(r.prepared.part.Marker.Subject)
	r.prepared = nil
}

// fly publishes a group and answers its callers.
func (r *releaser) fly(group []*waiting, open *batch) {
	defer func() {
		r.mu.Lock()
		r.flights--
		r.mu.Unlock()
		r.pump()
	}()
	replies := r.publish(group, open)
	if len(group) > 1 && (replies[0].Status == barriers.Mismatch || replies[0].Status == barriers.Rejected) {
		// One of them is stale or refused, and took the others with it: nothing was written, so each goes alone.
		for i := range group {
			replies[i] = r.publish(group[i:i+1], nil)[0]
		}
	}
	for i, w := range group {
		w.reply <- replies[i]
	}
}

// publish sends one batch and, while it is being committed, the body of what follows.
func (r *releaser) publish(group []*waiting, open *batch) []barriers.Reply {
	ctx, cancel := context.WithTimeout(r.b.ctx, r.b.cfg.Timeout)
	defer cancel()
	prepared := open != nil
	ack, seqs, err, sent := r.send(ctx, group, open)
	if prepared && apiCode(err) == codeIncompleteBatch {
		// The prepared body got lost on its way (a reconnect, a new leader): nothing was written.
		ack, seqs, err, sent = r.send(ctx, group, nil)
	}
	if err == nil && ack.Count != seqs[len(seqs)-1] {
		err = fmt.Errorf("publish a batch into stream %s: %d messages were sent, %d acknowledged", r.stream, seqs[len(seqs)-1], ack.Count)
	}
	replies := make([]barriers.Reply, len(group))
	for i := range replies {
		switch {
		case err == nil:
			replies[i] = barriers.Reply{Status: barriers.OK, Seq: ack.Seq - uint64(ack.Count-seqs[i])}
		case !sent:
			replies[i] = unsent(r.b.ctx, err)
		default:
			replies[i] = replyOf(r.b.ctx, 0, err)
		}
	}
	if apiCode(err) == codeTTLDisabled {
		r.b.forgetFacts(r.stream) // the stream was edited
		for i := range replies {
			replies[i].Status = barriers.Busy
		}
	}
	return replies
}

// send returns the acknowledgement, each part's marker as a message number of the batch, and whether the commit was sent.
func (r *releaser) send(ctx context.Context, group []*waiting, open *batch) (ack pubAck, seqs []int, err error, sent bool) {
	facts, err := r.b.facts(ctx, r.stream)
	if err != nil {
		return ack, nil, err, false
	}
	first := &group[0].part.Marker
	if open == nil {
		if open, err = r.open(ctx, first.Subject); err != nil {
			return ack, nil, err, false
		}
		if err = addAll(open, group[0].part.Messages); err != nil {
			open.abandon(first.Subject)
			return ack, nil, err, false
		}
	}
	for i, w := range group {
		if i > 0 {
			if err = addAll(open, w.part.Messages); err != nil {
				open.abandon(first.Subject)
				return ack, nil, err, false
			}
		}
		seqs = append(seqs, open.seq+1)
		marker := guarded(w.part.Marker, r.stream, w.part.Expected, facts.allowTTL)
		if i < len(group)-1 {
			if err = open.add(&marker); err != nil {
				open.abandon(first.Subject)
				return ack, nil, err, false
			}
			continue
		}
		fault := r.b.intercept("batch.commit", marker.Subject)
		if fault == Drop {
			return ack, nil, errInjected, true
		}
		pending, err := open.commit(&marker)
		if err != nil {
			return ack, nil, err, false
		}
		next := r.prepare(w.part.Next, len(group))
		ack, err = pending.wait(ctx)
		if fault == LoseReply {
			err = errInjected
		}
		r.keep(next, err)
		return ack, seqs, err, true
	}
	return ack, nil, errors.New("publish a batch without parts"), false
}

func (r *releaser) open(ctx context.Context, subject string) (*batch, error) {
	c, err := r.b.conn(ctx, Output)
	if err != nil {
		return nil, err
	}
	if r.b.intercept("batch.body", subject) == Drop {
		return nil, errInjected
	}
	return newBatch(c), nil
}

func addAll(b *batch, messages []processor.Message) error {
	for i := range messages {
		if err := b.add(&messages[i]); err != nil {
			return err
		}
	}
	return nil
}

// prepare sends the body of a part that will probably follow. Jobs that wait already go first.
func (r *releaser) prepare(part *processor.Part, group int) *prepared {
	if part == nil || group > 1 || len(part.Messages) == 0 || len(part.Messages)+1 > int(r.maxPart.Load()) {
		return nil
	}
	r.mu.Lock()
	if r.prepared != nil && time.Since(r.prepared.batch.opened) > maxPreparedAge {
		r.giveUp()
	}
	busy := len(r.queue) > 0 || r.prepared != nil
	r.mu.Unlock()
	if busy {
		return nil
	}
	open, err := r.open(r.b.ctx, part.Marker.Subject)
	if err != nil {
		return nil // it is only an advance: the part itself meets the error
	}
	if addAll(open, part.Messages) != nil {
		open.abandon(part.Marker.Subject)
		return nil
	}
	return &prepared{part: part, batch: open}
}

// keep offers what was prepared to the part itself, or gives it up when the part before it failed.
func (r *releaser) keep(next *prepared, err error) {
	if next == nil {
		return
	}
	r.mu.Lock()
	old := r.prepared
	if err == nil {
		r.prepared, next = next, old
	}
	r.mu.Unlock()
	if next != nil {
		next.batch.abandon(next.part.Marker.Subject)
	}
}
