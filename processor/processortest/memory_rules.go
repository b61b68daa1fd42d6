package processortest

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// Subjects implements processor.Transport.
func (m *Memory) Subjects(_ context.Context, stream, filter string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.streams[stream]
	if s == nil {
		return nil, fmt.Errorf("listing subjects %s: stream %s does not exist", filter, stream)
	}
	return slices.DeleteFunc(slices.Sorted(maps.Keys(s.last)), func(subject string) bool { return !tenants.Filter(filter).Matches(subject) }), nil
}

// bindRules resolves a source of rules. The bucket must exist: AddBucket makes one.
func (m *Memory) bindRules(job tenants.JobID, n processor.SourceNeed) (processor.SourceBinding, error) {
	keys := n.Keys(job.Tenant)
	s := m.streams[keys.Stream]
	if s == nil {
		return processor.SourceBinding{}, processor.Terminal(fmt.Errorf("rules %s: there is no bucket %s", n.Source, n.Bucket))
	}
	b := processor.SourceBinding{Source: n.Source, Stream: s.name, Created: s.created, Filter: keys.Filter(), Prefix: keys.Prefix, FirstSeq: s.first}
	for subject, seq := range s.last {
		if tenants.Filter(b.Filter).Matches(subject) {
			b.LastSeq = max(b.LastSeq, seq)
		}
	}
	return b, nil
}

// Purge removes all messages of a subject without leaving a mark. Their sequences stay taken.
func (m *Memory) Purge(stream, subject string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.streams[stream]
	delete(s.last, subject)
	for i := range s.messages {
		if s.messages[i].Subject == subject {
			s.messages[i] = processor.Record{Seq: s.messages[i].Seq}
		}
	}
}
