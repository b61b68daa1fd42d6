package processor

import (
	"context"
	"fmt"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/state"
)

// maxPartBytes bounds one atomic batch in bytes, so that one job's part leaves room for others in a stream's batch.
const maxPartBytes = 4 << 20

// ask executes the protocols' requests: waits itself, everything else on the commit log. Publishing needs the messages and is
// added by releaseSink.
func (a *attempt) ask(ctx context.Context, io effects) barriers.Ask {
	return func(r barriers.Request) barriers.Reply {
		if r.Op == barriers.OpWait {
			if err := io.Sleep(ctx, backoff(r.Attempt)); err != nil {
				return barriers.Reply{Status: barriers.Canceled, Err: err}
			}
			return barriers.Reply{Status: barriers.OK}
		}
		reply := io.Do(ctx, a.job, r)
		if reply.Status == barriers.Full && r.Op == barriers.OpWriteRecord {
			// The bucket of all jobs' checkpoints: clean-up of what this one no longer needs makes room in it.
			a.onWait(fmt.Errorf("record %s: %w: %w", r.Key, ErrFull, reply.Err))
		}
		return reply
	}
}

// pendingSource is a sink's pending output in publishing order, from memory or from the store.
type pendingSource []*state.Output

// slice returns messages [from, to).
func (p pendingSource) slice(from, to uint64) ([]Message, error) {
	messages := make([]Message, 0, to-from)
	base := uint64(0)
	for _, o := range p {
		n := uint64(o.Len())
		if from < base+n && to > base {
			start := max(from, base) - base
			want := min(to, base+n) - base - start
			for m := range o.From(int(start)) {
				if want == 0 {
					break
				}
				want--
				messages = append(messages, Message{Subject: m.Subject, Header: m.Header, Data: m.Data})
			}
			if want > 0 {
				return nil, fmt.Errorf("the pending output ends %d messages early", want)
			}
		}
		base += n
	}
	if uint64(len(messages)) != to-from {
		return nil, fmt.Errorf("the pending output has %d messages of [%d, %d)", len(messages), from, to)
	}
	return messages, nil
}

// cut returns the end of the part that begins at from: as many messages as fit in count and bytes, at least one.
func (p pendingSource) cut(from, total uint64, maxMessages int) uint64 {
	to, size, base := from, 0, uint64(0)
	for _, o := range p {
		n := uint64(o.Len())
		if to < base+n {
			for m := range o.From(int(to - base)) {
				size += len(m.Subject) + len(m.Data) + 64
				if to > from && (size > maxPartBytes || to-from >= uint64(maxMessages)) {
					return to
				}
				to++
			}
		}
		base += n
	}
	return min(to, total)
}

// releaseSink publishes what a sink still owes of a committed checkpoint, part by part.
func (a *attempt) releaseSink(ctx context.Context, io effects, rec *barriers.HeadRecord, m *barriers.Manifest, sink barriers.Sink,
	seen barriers.MarkerSeen, maxPart int, src pendingSource) (barriers.MarkerSeen, error) {
	if maxPart < 2 {
		maxPart = defaultMaxPart
	}
	base := a.ask(ctx, io)
	ask := func(r barriers.Request) barriers.Reply {
		if r.Op != barriers.OpPublish {
			return base(r)
		}
		part, err := a.part(rec, m, sink, src, r, maxPart)
		if err != nil {
			return barriers.Reply{Status: barriers.Rejected, Err: err}
		}
		return io.PublishPart(ctx, part)
	}
	return barriers.Release(ask, barriers.ReleaseSpec{
		Record: rec, Manifest: m, Sink: sink.Name, Marker: seen,
		Cut: func(from uint64) uint64 { return src.cut(from, sink.Total, maxPart-1) },
	})
}

// defaultMaxPart is the server's limit of messages in an atomic batch, the marker included.
const defaultMaxPart = 1000

// part attaches the messages to a request, and a look at the part that follows.
func (a *attempt) part(rec *barriers.HeadRecord, m *barriers.Manifest, sink barriers.Sink, src pendingSource, r barriers.Request, maxPart int) (Part, error) {
	messages, err := src.slice(r.From, r.To)
	if err != nil {
		return Part{}, err
	}
	part := Part{
		Job: a.job, Sink: sink.Name, Stream: r.Stream, Messages: messages,
		Marker: Message{Subject: r.Subject, Data: r.Value}, Expected: r.Expected,
	}
	if r.To < sink.Total {
		to := src.cut(r.To, sink.Total, maxPart-1)
		next, err := src.slice(r.To, to)
		if err != nil {
			return Part{}, err
		}
		marker := barriers.ReleaseMarker(rec, m, sink.Name, to)
		part.Next = &Part{
			Job: a.job, Sink: sink.Name, Stream: r.Stream, Messages: next,
			Marker: Message{Subject: r.Subject, Data: marker},
		}
	}
	return part, nil
}

// fetchOutput loads a sink's pending output from the store, in the order that the manifest fixed.
func (a *attempt) fetchOutput(ctx context.Context, io effects, m *barriers.Manifest, sink barriers.Sink) ([]*state.Output, error) {
	objects, err := a.fetch(ctx, io, sink.Pending)
	if err != nil {
		return nil, err
	}
	outputs := make([]*state.Output, len(objects))
	total := uint64(0)
	for i, data := range objects {
		ref := sink.Pending[i]
		outputs[i], err = state.DecodeOutput(state.OutputMeta{
			Tenant: m.Tenant, Job: m.Job, Sink: sink.Name, Subtask: ref.Subtask, Checkpoint: m.Checkpoint,
		}, data)
		if err != nil {
			return nil, &CorruptError{Job: a.job, Bucket: ref.Bucket, Object: ref.Name, Detail: err.Error()}
		}
		total += uint64(outputs[i].Len())
	}
	if total != sink.Total {
		return nil, &CorruptError{Job: a.job, Detail: fmt.Sprintf("sink %s has %d pending messages, the manifest says %d", sink.Name, total, sink.Total)}
	}
	return outputs, nil
}
