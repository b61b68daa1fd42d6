package processortest

import (
	"context"
	"fmt"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// OpenReader implements processor.Transport, with the validation of a stream that a checkpoint was taken of.
func (m *Memory) OpenReader(_ context.Context, spec processor.ReaderSpec) (processor.Reader, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.validate(spec); err != nil {
		return nil, err
	}
	return &memoryReader{m: m, spec: spec, position: spec.After}, nil
}

func (m *Memory) validate(spec processor.ReaderSpec) error {
	fault := func(f processor.StreamFault, format string, args ...any) error {
		return &processor.StreamError{Job: spec.Job, Stream: spec.Stream, Source: spec.Source, Fault: f, Detail: fmt.Sprintf(format, args...)}
	}
	s := m.streams[spec.Stream]
	if s == nil {
		return fault(processor.StreamMissing, "it does not exist")
	}
	last := s.first + uint64(len(s.messages)) - 1
	switch {
	case spec.Created != 0 && s.created != spec.Created:
		return fault(processor.StreamRecreated, "created at %d, was %d", s.created, spec.Created)
	case last < spec.After:
		return fault(processor.StreamTailLost, "last sequence is %d, position is %d", last, spec.After)
	case s.first > spec.After+1 && !spec.Fresh && !spec.AllowDataLoss && !spec.Compacted:
		return fault(processor.StreamTrimmed, "first sequence is %d, position is %d", s.first, spec.After)
	}
	for i := len(spec.Tail) - 1; i >= 0; i-- {
		f := spec.Tail[i]
		if f.Seq < s.first || f.Seq > last {
			continue
		}
		r := s.messages[f.Seq-s.first]
		if r.Subject == "" {
			continue // purged
		}
		if r.Time != f.Time || barriers.FingerprintHash(r.Subject, r.Data) != f.Hash {
			return fault(processor.StreamRewritten, "record %d is another one", f.Seq)
		}
		break
	}
	return nil
}

// Rollback takes the last n messages away, as a stream restored from an old copy of its files would have lost them.
func (m *Memory) Rollback(stream string, n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.streams[stream]
	s.messages = s.messages[:max(0, len(s.messages)-n)]
	clear(s.last)
	for _, r := range s.messages {
		s.last[r.Subject] = r.Seq
	}
}

// Trim removes the messages up to a sequence, as retention does.
func (m *Memory) Trim(stream string, upTo uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.streams[stream]
	n := min(int(upTo-min(upTo, s.first-1)), len(s.messages))
	s.messages, s.first = s.messages[n:], s.first+uint64(n)
	for subject, seq := range s.last {
		if seq < s.first {
			delete(s.last, subject)
		}
	}
}

type memoryReader struct {
	m        *Memory
	spec     processor.ReaderSpec
	position uint64
}

// Next implements processor.Reader.
func (r *memoryReader) Next(ctx context.Context) (processor.Batch, error) {
	for {
		r.m.mu.Lock()
		batch, ok := r.m.read(r.spec, r.position, r.spec.BatchRecords)
		changed := r.m.changed
		r.m.mu.Unlock()
		if ok {
			r.position = batch.Position
			return batch, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return processor.Batch{}, ctx.Err()
		}
	}
}

// Close implements processor.Reader.
func (r *memoryReader) Close() {}

// read returns up to n records behind position, and the position behind them.
func (m *Memory) read(spec processor.ReaderSpec, position uint64, n int) (processor.Batch, bool) {
	s := m.streams[spec.Stream]
	if s == nil {
		return processor.Batch{}, false
	}
	b := processor.Batch{Position: position}
	for _, rec := range s.messages {
		if rec.Seq <= position {
			continue
		}
		matches := tenants.Filter(spec.Filter).Matches(rec.Subject)
		if matches && len(b.Records) == n {
			b.Pending++
			continue
		}
		if b.Pending > 0 {
			continue
		}
		b.Position = rec.Seq
		if matches {
			b.Records = append(b.Records, rec)
		}
	}
	return b, b.Position > position
}

// isOwn reports whether a message is Weir's own: a barrier or a marker.
func isOwn(r processor.Record) bool {
	return len(r.Header[barriers.HeaderBarrier]) > 0 || tenants.HasReserved(r.Subject)
}
