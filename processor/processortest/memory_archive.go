package processortest

import (
	"context"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

var _ processor.ArchiveBroker = (*Memory)(nil)

// StreamFacts implements processor.ArchiveBroker.
func (m *Memory) StreamFacts(_ context.Context, stream string) (processor.StreamFacts, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.streams[stream]
	if s == nil {
		return processor.StreamFacts{}, false, nil
	}
	return processor.StreamFacts{Created: s.created, First: s.first, Last: s.first + uint64(len(s.messages)) - 1}, true, nil
}

// StreamRecord implements processor.ArchiveBroker.
func (m *Memory) StreamRecord(_ context.Context, stream string, seq uint64) (processor.Record, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.streams[stream]
	if s == nil || seq < s.first || seq >= s.first+uint64(len(s.messages)) {
		return processor.Record{}, false, nil
	}
	return s.messages[seq-s.first], true, nil
}

// FindObject implements processor.ArchiveBroker.
func (m *Memory) FindObject(_ context.Context, tenant tenants.ID, name string) (barriers.Object, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.objects[string(tenant)+"/"+name]
	if !ok {
		return barriers.Object{}, false, nil
	}
	return barriers.Object{Bucket: "weir_" + string(tenant), Name: name, Bytes: int64(len(o.data)), Digest: barriers.Digest(o.data)}, true, nil
}
