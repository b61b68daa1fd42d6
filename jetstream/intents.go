package jetstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"

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

// watchIntents is one pass: everything there is, then every change until something is wrong with the consumer.
func (b *Broker) watchIntents(ctx context.Context, each func(processor.IntentRecord), ready func()) error {
	first := true
	w := watch{
		b: b, purpose: Control, what: "intents", stream: jobsStream, filter: jobsPrefix + ">",
		name: "weir-jobs", about: "Weir: a worker hears what should run",
	}
	tell := func(left uint64) {
		if first && left == 0 {
			first = false
			ready()
		}
	}
	w.created = func(_ context.Context, pending uint64) error {
		tell(pending)
		return nil
	}
	w.message = func(m *nats.Msg, d delivery) error {
		b.intentOf(m, d, each)
		tell(d.pending)
		return nil
	}
	return w.run(ctx)
}

// intentOf hands over one key of the bucket.
func (b *Broker) intentOf(m *nats.Msg, d delivery, each func(processor.IntentRecord)) {
	key := strings.TrimPrefix(m.Subject, jobsPrefix)
	tenant, name, _ := strings.Cut(key, ".")
	job := tenants.JobID{Tenant: tenants.ID(tenant), Name: name}
	if err := job.Validate(); err != nil {
		b.log.Warn("a key among the intents is no job's: it is left alone", "key", tenants.Printable(key), "err", err)
		return
	}
	rec := processor.IntentRecord{Job: job, Revision: d.streamSeq}
	if !processor.KVRemoved(m.Header) {
		rec.Intent, rec.Err = processor.DecodeIntent(job, m.Data)
	}
	each(rec)
}
