package processortest

import (
	"context"
	"sort"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// ReadIntent implements processor.Intents.
func (m *Memory) ReadIntent(ctx context.Context, job tenants.JobID) (*processor.Intent, uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	rec := m.intents[job]
	if rec.value == nil {
		return nil, rec.seq, nil
	}
	in, err := processor.DecodeIntent(job, rec.value)
	return in, rec.seq, err
}

// WriteIntent implements processor.Intents.
func (m *Memory) WriteIntent(ctx context.Context, in *processor.Intent, expected uint64) (uint64, error) {
	value, err := in.Encode()
	if err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if m.intents[in.ID()].seq != expected {
		return 0, processor.ErrIntentChanged
	}
	return m.putIntent(in.ID(), value), nil
}

// PutIntent writes bytes under a job's key in the bucket of intents, as somebody with nats kv put could; nil removes the key.
func (m *Memory) PutIntent(job tenants.JobID, value []byte) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.putIntent(job, value)
}

func (m *Memory) putIntent(job tenants.JobID, value []byte) uint64 {
	m.seq++
	m.intents[job] = memoryRecord{value: value, seq: m.seq}
	close(m.intended)
	m.intended = make(chan struct{})
	return m.seq
}

// WatchIntents implements processor.Intents.
func (m *Memory) WatchIntents(ctx context.Context, each func(processor.IntentRecord), ready func()) error {
	last := uint64(0)
	for first := true; ; first = false {
		m.mu.Lock()
		var news []processor.IntentRecord
		upTo := last
		for job, rec := range m.intents {
			if rec.seq <= last {
				continue
			}
			upTo = max(upTo, rec.seq)
			r := processor.IntentRecord{Job: job, Revision: rec.seq}
			if rec.value != nil {
				r.Intent, r.Err = processor.DecodeIntent(job, rec.value)
			}
			news = append(news, r)
		}
		last = upTo
		changed := m.intended
		m.mu.Unlock()
		sort.Slice(news, func(i, j int) bool { return news[i].Revision < news[j].Revision })
		for _, r := range news {
			each(r)
		}
		if first {
			ready()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
