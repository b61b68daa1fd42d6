package jetstream

import (
	"context"
	"errors"
	"fmt"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/processor"
)

const faultAdvice = "Restore the stream from a backup, start from an older checkpoint or savepoint, or allow data loss for this job"

// tailSize is how many of the last records read are remembered.
const tailSize = 8

// validate compares a source's stream with what the position was taken from: it is there, it is the same one, it still reaches the
// position, nothing behind it was removed, and the newest still existing of the last records read is what it was. A stream that was
// rolled back and refilled passes all but the last, and a consumer would then skip records silently.
func (b *Broker) validate(ctx context.Context, spec *processor.ReaderSpec) (*js.StreamInfo, error) {
	fault := func(f processor.StreamFault, advice, format string, args ...any) error {
		return &processor.StreamError{Job: spec.Job, Stream: spec.Stream, Source: spec.Source, Fault: f,
			Detail: fmt.Sprintf(format, args...), Advice: advice}
	}
	info, err := b.streamInfo(ctx, spec.Stream)
	if apiCode(err) == codeStreamNotFound {
		return nil, fault(processor.StreamMissing, "Restore the stream, or deploy the job on another one", "there is no such stream; the position is %d", spec.After)
	}
	if err != nil {
		return nil, fmt.Errorf("validate stream %s: %w", spec.Stream, err)
	}
	created, state := info.Created.UnixNano(), info.State
	switch {
	case spec.Created != 0 && created != spec.Created:
		return nil, fault(processor.StreamRecreated, faultAdvice, "it was created at %d, the checkpoint's at %d (unix ns)", created, spec.Created)
	case state.LastSeq < spec.After:
		return nil, fault(processor.StreamTailLost, faultAdvice, "its last sequence is %d, the position %d", state.LastSeq, spec.After)
	case spec.After > 0 && !spec.Fresh && !spec.Compacted && state.FirstSeq > spec.After+1:
		return nil, fault(processor.StreamTrimmed, faultAdvice, "its first sequence is %d, the next to read %d: %d messages were removed before they were read",
			state.FirstSeq, spec.After+1, state.FirstSeq-spec.After-1)
	}
	found, err := b.compareTail(ctx, spec)
	var other *rewrittenError
	if errors.As(err, &other) {
		return nil, fault(processor.StreamRewritten, faultAdvice, "%s", other)
	}
	if err != nil {
		return nil, fmt.Errorf("validate stream %s: %w", spec.Stream, err)
	}
	if found == 0 && len(spec.Tail) > 0 && !spec.Compacted {
		b.log.Warn("none of the last records read is still in the stream: it cannot be told whether it was rolled back and refilled",
			"tenant", string(spec.Job.Tenant), "job", spec.Job.Name, "stream", spec.Stream, "seq", spec.After)
	}
	return info, nil
}

// rewrittenError says that another record is where one was read.
type rewrittenError struct {
	was barriers.Fingerprint
	is  barriers.Fingerprint
}

func (e *rewrittenError) Error() string {
	return fmt.Sprintf("sequence %d held %s of time %d when it was read, now %s of time %d", e.was.Seq, e.was.Hash, e.was.Time, e.is.Hash, e.is.Time)
}

// compareTail looks at the newest record of the tail that still exists and returns its sequence, 0 if none does.
func (b *Broker) compareTail(ctx context.Context, spec *processor.ReaderSpec) (uint64, error) {
	for i := len(spec.Tail) - 1; i >= 0; i-- {
		was := spec.Tail[i]
		if was.Seq == 0 || was.Seq > spec.After {
			continue
		}
		m, err := b.leaderGet(ctx, spec.Stream, getBySeq{was.Seq})
		if err != nil {
			return 0, err
		}
		if m == nil {
			continue
		}
		is := barriers.Fingerprint{Seq: m.Seq, Time: m.Time.UnixNano(), Hash: barriers.FingerprintHash(m.Subject, m.Data)}
		if is != was {
			return 0, &rewrittenError{was, is}
		}
		return was.Seq, nil
	}
	return 0, nil
}

// resume moves the position of a stream that failed validation to the nearest existing record, for a job whose user chose that.
func (b *Broker) resume(ctx context.Context, spec *processor.ReaderSpec, fault *processor.StreamError) error {
	if fault.Fault == processor.StreamMissing {
		return fault
	}
	info, err := b.streamInfo(ctx, spec.Stream)
	if err != nil {
		return fmt.Errorf("resume stream %s: %w", spec.Stream, err)
	}
	first := info.State.FirstSeq
	before := max(first, 1) - 1
	from := spec.After
	switch fault.Fault {
	case processor.StreamRecreated:
		spec.After = before
	case processor.StreamTailLost:
		spec.After = info.State.LastSeq
	case processor.StreamTrimmed:
		spec.After = before
	case processor.StreamRewritten:
		if spec.After, err = b.lastSame(ctx, spec, before); err != nil {
			return err
		}
	default:
		return fault
	}
	if spec.Compacted {
		spec.After = before // what is read is a state, and not what led to it
	}
	spec.Created = info.Created.UnixNano()
	spec.Tail = nil
	b.log.Warn("the stream is not what the checkpoint saw, going on as the user allowed", "tenant", string(spec.Job.Tenant),
		"job", spec.Job.Name, "stream", spec.Stream, "fault", string(fault.Fault), "from", from, "seq", spec.After)
	return nil
}

// lastSame is the newest record of the tail that is still what it was.
func (b *Broker) lastSame(ctx context.Context, spec *processor.ReaderSpec, otherwise uint64) (uint64, error) {
	for n := len(spec.Tail); n > 0; n-- {
		older := *spec
		older.Tail = spec.Tail[:n]
		seq, err := b.compareTail(ctx, &older)
		var other *rewrittenError
		switch {
		case errors.As(err, &other):
		case err != nil:
			return 0, err
		case seq > 0:
			return seq, nil
		}
	}
	return otherwise, nil
}
