package processortest

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// Memory is a broker in memory: streams with sequences and guarded atomic batches, records with compare-and-set, snapshot objects.
// It has the semantics that the protocols rely on and none of the limits of a real server. Its methods may be called from any
// goroutine.
type Memory struct {
	ns    tenants.Namespace
	clock func() time.Time

	mu      sync.Mutex
	changed chan struct{} // closed and replaced whenever a stream grows
	streams map[string]*memoryStream
	records map[string]memoryRecord
	seq     uint64 // of records
	objects map[string]memoryObject
	beats   map[string]uint64
	tables  map[memoryTableKey]*memoryTable

	intents  map[tenants.JobID]memoryRecord
	intended chan struct{} // closed and replaced whenever an intent changes
}

type memoryStream struct {
	name     string
	subjects []string
	created  int64
	first    uint64
	messages []processor.Record // first, first+1, …
	last     map[string]uint64  // last sequence by subject
}

type memoryRecord struct {
	value []byte // nil: deleted
	seq   uint64
}

type memoryObject struct {
	data     []byte
	modified int64
}

// NewMemory returns an empty broker. clock is used for timestamps; nil means time.Now.
func NewMemory(ns tenants.Namespace, clock func() time.Time) *Memory {
	if clock == nil {
		clock = time.Now
	}
	return &Memory{
		ns: ns, clock: clock, changed: make(chan struct{}), streams: map[string]*memoryStream{},
		records: map[string]memoryRecord{}, objects: map[string]memoryObject{}, beats: map[string]uint64{}, tables: map[memoryTableKey]*memoryTable{},
		intents: map[tenants.JobID]memoryRecord{}, intended: make(chan struct{}),
	}
}

// Namespace implements processor.Transport.
func (m *Memory) Namespace() tenants.Namespace { return m.ns }

// AddStream creates a stream that captures the subjects, which may have wildcards.
func (m *Memory) AddStream(name string, subjects ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.streams[name] = &memoryStream{
		name: name, subjects: subjects, created: m.clock().UnixNano(), first: 1, last: map[string]uint64{},
	}
}

// Publish appends a message as a publisher outside would and returns its sequence.
func (m *Memory) PublishTo(subject string, header map[string][]string, data []byte) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.find(subject)
	if s == nil {
		return 0, fmt.Errorf("publishing to %s: no stream captures it", subject)
	}
	return m.append(s, processor.Message{Subject: subject, Header: header, Data: data}), nil
}

// Messages returns a copy of what is in a stream under a filter, in order.
func (m *Memory) Messages(stream, filter string) []processor.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.streams[stream]
	if s == nil {
		return nil
	}
	var out []processor.Record
	for _, r := range s.messages {
		if tenants.Filter(filter).Matches(r.Subject) {
			out = append(out, r)
		}
	}
	return out
}

func (m *Memory) append(s *memoryStream, msg processor.Message) uint64 {
	seq := s.first + uint64(len(s.messages))
	s.messages = append(s.messages, processor.Record{
		Subject: msg.Subject, Data: slices.Clone(msg.Data), Header: msg.Header, Seq: seq, Time: m.clock().UnixNano(),
	})
	s.last[msg.Subject] = seq
	m.follow(s, s.messages[len(s.messages)-1])
	close(m.changed)
	m.changed = make(chan struct{})
	return seq
}

func (m *Memory) find(subject string) *memoryStream {
	for _, name := range m.names() {
		if captures(m.streams[name].subjects, subject) {
			return m.streams[name]
		}
	}
	return nil
}

func (m *Memory) names() []string {
	names := make([]string, 0, len(m.streams))
	for name := range m.streams {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

func captures(subjects []string, subject string) bool {
	return slices.ContainsFunc(subjects, func(f string) bool { return tenants.Filter(f).Matches(subject) })
}

// Check implements processor.Transport.
func (m *Memory) Check(_ context.Context, needs processor.Needs) ([]processor.Finding, error) {
	_, err := m.Bind(context.Background(), needs)
	return nil, err
}

// Bind implements processor.Transport. A subject that no stream captures gets a stream of the tenant's.
func (m *Memory) Bind(_ context.Context, needs processor.Needs) (processor.Bindings, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var b processor.Bindings
	tenant := needs.Job.Tenant
	for _, n := range needs.Sources {
		if n.Bucket != "" {
			rules, err := m.bindRules(needs.Job, n)
			if err != nil {
				return b, err
			}
			b.Sources = append(b.Sources, rules)
			continue
		}
		filter := m.ns.Absolute(tenant, string(n.Filter))
		s := m.resolve(n.Stream, m.ns.Prefix(tenant)+"probe", tenant)
		b.Sources = append(b.Sources, processor.SourceBinding{
			Source: n.Source, Stream: s.name, Created: s.created, Filter: filter, FirstSeq: s.first,
			LastSeq: s.first + uint64(len(s.messages)) - 1, Barrier: m.ns.Barrier(needs.Job, n.Source, n.Filter),
		})
	}
	for _, n := range needs.Sinks {
		b.Sinks = append(b.Sinks, m.bindSink(needs.Job, n))
	}
	for _, n := range needs.Tables {
		t, err := m.bindTable(needs.Job, n)
		if err != nil {
			return b, err
		}
		b.Tables = append(b.Tables, t)
	}
	return b, nil
}

func (m *Memory) bindSink(job tenants.JobID, n processor.SinkNeed) processor.SinkBinding {
	sb := processor.SinkBinding{Sink: n.Sink, Prefix: n.Prefix(job, m.ns), Marker: n.MarkerSubject(job, m.ns), MaxMsg: 1 << 20, MaxPart: 10}
	var s *memoryStream
	switch {
	case n.DeadLetters:
		s = m.ensure("WEIR_DLQ", "weir.dlq.>")
		sb.Prefix = "weir.dlq."
		sb.Marker = fmt.Sprintf("weir.dlq.%s.%s.%s", tenants.Reserved, job.Tenant, job.Name)
	case n.Bucket != "":
		s = m.ensure("KV_"+n.Bucket, "$KV."+n.Bucket+".>")
		sb.Prefix = "$KV." + n.Bucket + "." + n.BucketPrefix(job)
		sb.Marker = fmt.Sprintf("$KV.%s.%s.%s.%s.sink.%s", n.Bucket, tenants.Reserved, job.Tenant, job.Name, n.Sink)
	default:
		probe := n.Prefix(job, m.ns) + "probe"
		if len(n.Subjects) > 0 {
			probe = n.Prefix(job, m.ns) + strings.NewReplacer("*", "probe", ">", "probe").Replace(string(n.Subjects[0]))
		}
		s = m.resolve(n.Stream, probe, job.Tenant)
	}
	if n.AtLeastOnce {
		sb.Marker = ""
	}
	sb.Stream, sb.Created, sb.Captures = s.name, s.created, s.subjects
	return sb
}

func (m *Memory) resolve(stream, subject string, tenant tenants.ID) *memoryStream {
	if s := m.streams[stream]; s != nil {
		return s
	}
	if s := m.find(subject); s != nil {
		return s
	}
	return m.ensure(string(tenant), m.ns.Prefix(tenant)+">")
}

func (m *Memory) ensure(name string, subjects ...string) *memoryStream {
	s := m.streams[name]
	if s == nil {
		s = &memoryStream{name: name, subjects: subjects, created: m.clock().UnixNano(), first: 1, last: map[string]uint64{}}
		m.streams[name] = s
	}
	return s
}

// PublishBarrier implements processor.Transport.
func (m *Memory) PublishBarrier(_ context.Context, stream, subject string, payload []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.streams[stream]
	if s == nil || !captures(s.subjects, subject) {
		return fmt.Errorf("publishing a barrier on %s: stream %s does not capture it", subject, stream)
	}
	m.append(s, processor.Message{Subject: subject, Header: map[string][]string{barriers.HeaderBarrier: {"1"}}, Data: payload})
	return nil
}

// Publish implements processor.Transport.
func (m *Memory) Publish(_ context.Context, stream string, msg processor.Message, done func(error)) error {
	m.mu.Lock()
	s := m.streams[stream]
	if s == nil {
		m.mu.Unlock()
		done(fmt.Errorf("publishing to stream %s: it does not exist", stream))
		return nil
	}
	m.append(s, msg)
	m.mu.Unlock()
	done(nil)
	return nil
}

// PublishPart implements processor.Transport.
func (m *Memory) PublishPart(_ context.Context, p processor.Part) barriers.Reply {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.streams[p.Stream]
	if s == nil {
		return barriers.Reply{Status: barriers.Rejected, Err: fmt.Errorf("stream %s does not exist", p.Stream)}
	}
	if s.last[p.Marker.Subject] != p.Expected {
		return barriers.Reply{Status: barriers.Mismatch}
	}
	for _, msg := range p.Messages {
		m.append(s, msg)
	}
	return barriers.Reply{Status: barriers.OK, Seq: m.append(s, p.Marker)}
}

// Put implements processor.SnapshotStore.
func (m *Memory) Put(_ context.Context, tenant tenants.ID, name string, data []byte) (barriers.Object, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := string(tenant) + "/" + name
	if _, ok := m.objects[key]; ok {
		return barriers.Object{}, fmt.Errorf("object %s exists: objects are never overwritten", key)
	}
	m.objects[key] = memoryObject{data: data, modified: m.clock().UnixNano()}
	return barriers.Object{Bucket: "weir_" + string(tenant), Name: name, Bytes: int64(len(data)), Digest: barriers.Digest(data)}, nil
}

// Get implements processor.SnapshotStore.
func (m *Memory) Get(_ context.Context, tenant tenants.ID, ref barriers.Object) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.objects[string(tenant)+"/"+ref.Name]
	switch {
	case !ok:
		return nil, fmt.Errorf("object %s: %w", ref.Name, processor.ErrObjectMissing)
	case int64(len(o.data)) != ref.Bytes || barriers.Digest(o.data) != ref.Digest:
		return nil, &processor.CorruptError{Bucket: ref.Bucket, Object: ref.Name, Detail: "size or digest differ"}
	}
	return slices.Clone(o.data), nil
}

// Do implements processor.CommitLog.
func (m *Memory) Do(_ context.Context, job tenants.JobID, r barriers.Request) barriers.Reply {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch r.Op {
	case barriers.OpReadRecord:
		rec := m.records[r.Key]
		if rec.value == nil {
			return barriers.Reply{Status: barriers.NotFound, Seq: rec.seq}
		}
		return barriers.Reply{Status: barriers.OK, Value: rec.value, Seq: rec.seq}
	case barriers.OpWriteRecord, barriers.OpDeleteRecord:
		if m.records[r.Key].seq != r.Expected {
			return barriers.Reply{Status: barriers.Mismatch}
		}
		m.seq++
		rec := memoryRecord{seq: m.seq}
		if r.Op == barriers.OpWriteRecord {
			rec.value = slices.Clone(r.Value)
		}
		m.records[r.Key] = rec
		return barriers.Reply{Status: barriers.OK, Seq: m.seq}
	case barriers.OpReadMarker, barriers.OpWriteMarker:
		return m.marker(r)
	case barriers.OpListRecords:
		return barriers.Reply{Status: barriers.OK, Names: m.list(r.Key)}
	case barriers.OpListObjects:
		return m.listObjects(job)
	case barriers.OpDeleteObject:
		delete(m.objects, string(job.Tenant)+"/"+r.Key)
		return barriers.Reply{Status: barriers.OK}
	}
	return barriers.Reply{Status: barriers.Rejected, Err: fmt.Errorf("request %d is not for the commit log", r.Op)}
}

func (m *Memory) marker(r barriers.Request) barriers.Reply {
	s := m.streams[r.Stream]
	if s == nil {
		return barriers.Reply{Status: barriers.Rejected, Err: fmt.Errorf("stream %s does not exist", r.Stream)}
	}
	seq := s.last[r.Subject]
	if r.Op == barriers.OpWriteMarker {
		if seq != r.Expected {
			return barriers.Reply{Status: barriers.Mismatch}
		}
		return barriers.Reply{Status: barriers.OK, Seq: m.append(s, processor.Message{Subject: r.Subject, Data: r.Value})}
	}
	if seq == 0 {
		return barriers.Reply{Status: barriers.NotFound}
	}
	return barriers.Reply{Status: barriers.OK, Seq: seq, Value: s.messages[seq-s.first].Data}
}

func (m *Memory) list(prefix string) []string {
	var keys []string
	for key, rec := range m.records {
		if (prefix == "" || strings.HasPrefix(key, prefix+".")) && rec.value != nil {
			keys = append(keys, key)
		}
	}
	sort.Strings(keys)
	return keys
}

func (m *Memory) listObjects(job tenants.JobID) barriers.Reply {
	reply := barriers.Reply{Status: barriers.OK, ServerTime: m.clock().UnixNano()}
	prefix := string(job.Tenant) + "/"
	for key, o := range m.objects {
		if name, ok := strings.CutPrefix(key, prefix); ok && strings.HasPrefix(name, job.Name+"/") {
			reply.Objects = append(reply.Objects, barriers.ObjectInfo{Name: name, Bytes: int64(len(o.data)), Modified: o.modified})
		}
	}
	sort.Slice(reply.Objects, func(i, j int) bool { return reply.Objects[i].Name < reply.Objects[j].Name })
	return reply
}

// Heartbeat implements processor.CommitLog.
func (m *Memory) Heartbeat(_ context.Context, worker string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.beats[worker]++
	return nil
}

// LastHeartbeat implements processor.CommitLog.
func (m *Memory) LastHeartbeat(_ context.Context, worker string) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.beats[worker], nil
}
