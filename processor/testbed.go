package processor

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/tenants"
)

// TestbedConfig configures a Testbed. Every zero value has a meaning.
type TestbedConfig struct {
	Job         tenants.JobID  // zero: test/{topology}
	Parallelism int            // zero: 1
	KeyGroups   int            // zero: 128
	Params      map[string]any // zero: the defaults
	Start       time.Time      // the processing time at the beginning; zero: 2000-01-01 UTC
	From        *TestSnapshot  // zero: empty state
	// Tables are what operators look up, by bucket: the tenant's rows, or those of all tenants. Zero: no rows.
	Tables map[string]*TableRows
	// HoldCalls lets the calls of Async wait for Complete. Else they are made at once, one after the other.
	HoldCalls bool

	bind func(*Bindings) // what a test changes of them; nil: nothing
}

// TestSnapshot is the state and the source positions of a Testbed at one moment.
type TestSnapshot struct {
	checkpoint uint64
	keyGroups  int
	now        time.Time
	chains     map[string][][]byte
	watermarks map[string]*int64
	positions  map[string]barriers.Source
}

// Testbed runs the tasks of one job in the calling goroutine, without broker, with the code and the snapshot format of
// production. It is what processortest's harness stands on. It is not safe for concurrent use.
type Testbed struct {
	cfg        TestbedConfig
	plan       *plan
	hosts      []*bedHost
	now        time.Time
	checkpoint uint64
	chains     map[string][][]byte
	watermarks map[string]*int64 // of operators, as snapshots have them
	positions  map[string]barriers.Source
	taken      map[string][]Message
	queue      []bedEvent
	calls      []bedCall
	snapshots  []*taskSnapshot
}

type bedEvent struct {
	task int
	ev   event
}

// NewTestbed lays the topology out and starts its tasks, from a snapshot if there is one.
func NewTestbed(t *Topology, cfg TestbedConfig) (*Testbed, error) {
	if cfg.Job == (tenants.JobID{}) {
		cfg.Job = tenants.JobID{Tenant: "test", Name: t.Name()}
	}
	setDefault(&cfg.Parallelism, 1)
	setDefault(&cfg.KeyGroups, 128)
	if cfg.Start.IsZero() {
		cfg.Start = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	b := &Testbed{cfg: cfg, now: cfg.Start, chains: map[string][][]byte{}, watermarks: map[string]*int64{}, positions: map[string]barriers.Source{}, taken: map[string][]Message{}}
	if s := cfg.From; s != nil {
		b.cfg.KeyGroups, b.checkpoint, b.now = s.keyGroups, s.checkpoint, s.now
		b.chains, b.watermarks, b.positions = maps.Clone(s.chains), maps.Clone(s.watermarks), maps.Clone(s.positions)
	}
	params, err := encodeParams(cfg.Params)
	if err != nil {
		return nil, err
	}
	needs := t.Needs(cfg.Job, tenants.DefaultNamespace)
	quota := tenants.Quota{}.WithDefaults()
	bindings := bedBindings(needs)
	if cfg.bind != nil {
		cfg.bind(&bindings)
	}
	b.plan, err = newPlan(t, planConfig{
		Job: cfg.Job, Prefix: tenants.DefaultNamespace.Prefix(cfg.Job.Tenant), Parallelism: cfg.Parallelism, KeyGroups: b.cfg.KeyGroups,
		Params: params, Bindings: bindings, Tables: bedTables(needs, cfg.Tables), Epoch: 1, Nonce: bedNonce,
		MaxKeyBytes: quota.KeyBytes, MaxStateBytes: quota.StateBytes, MaxPendingBytes: quota.PendingBytes,
	})
	if err != nil {
		return nil, err
	}
	return b, b.start()
}

const bedNonce = "testbed"

// bedBindings resolves every need against a stream of its own.
func bedBindings(needs Needs) Bindings {
	var out Bindings
	ns := tenants.DefaultNamespace
	for _, s := range needs.Sources {
		if s.Bucket != "" {
			keys := s.Keys(needs.Job.Tenant)
			out.Sources = append(out.Sources, SourceBinding{Source: s.Source, Stream: keys.Stream, Created: 1, Filter: keys.Filter(), Prefix: keys.Prefix})
			continue
		}
		out.Sources = append(out.Sources, SourceBinding{Source: s.Source, Stream: s.Source, Created: 1, Filter: ns.Absolute(needs.Job.Tenant, string(s.Filter))})
	}
	for _, s := range needs.Sinks {
		b := SinkBinding{Sink: s.Sink, Stream: s.Sink, Created: 1, Prefix: ns.Prefix(needs.Job.Tenant), MaxMsg: 1 << 20, MaxPart: 1000}
		if s.Bucket != "" {
			b.Prefix = "$KV." + s.Bucket + "." + string(needs.Job.Tenant) + "."
		}
		if !s.AtLeastOnce {
			b.Marker = ns.Marker(needs.Job, s.Sink)
		}
		out.Sinks = append(out.Sinks, b)
	}
	return out
}

// bedTables returns the rows that each operator looks up.
func bedTables(needs Needs, buckets map[string]*TableRows) map[string]*TableRows {
	out := make(map[string]*TableRows, len(needs.Tables))
	for _, n := range needs.Tables {
		out[n.Operator] = buckets[n.Bucket]
		if out[n.Operator] == nil {
			out[n.Operator] = &TableRows{}
		}
	}
	return out
}

func (b *Testbed) start() error {
	for i, t := range b.plan.tasks {
		for _, s := range t.stateful() {
			s.time.restore(b.watermarks[s.operator])
			if err := s.backend.Restore(b.chains[s.operator]); err != nil {
				return fmt.Errorf("restoring operator %s, subtask %d: %w", s.operator, s.subtask, err)
			}
		}
		h := &bedHost{bed: b, index: i}
		b.hosts = append(b.hosts, h)
		t.bind(h)
		t.start(b.positions)
	}
	return b.settle()
}

// Push hands a source one record and runs until nothing moves. A record without sequence gets the next one, one without time
// the processing time; its subject is absolute. The error, if any, is what would end the attempt.
func (b *Testbed) Push(source string, r Record) error {
	for i, t := range b.plan.tasks {
		for input, name := range t.sourceInputs() {
			if name != source {
				continue
			}
			s := t.inputs[input].source
			if r.Seq == 0 {
				r.Seq = s.position + 1
			}
			if r.Time == 0 {
				r.Time = b.now.UnixNano()
			}
			return b.run(i, evBatch{input: input, batch: Batch{Records: []Record{r}, Position: r.Seq}})
		}
	}
	return fmt.Errorf("topology %s has no source %q", b.plan.topology.name, source)
}

// run steps a task, then whatever that sent, until nothing moves.
func (b *Testbed) run(task int, ev event) error {
	b.queue = append(b.queue, bedEvent{task, ev})
	return b.settle()
}

// settle steps tasks until nothing moves.
func (b *Testbed) settle() error {
	for {
		for len(b.queue) > 0 {
			next := b.queue[0]
			b.queue = b.queue[1:]
			if err := b.plan.tasks[next.task].step(next.ev); err != nil {
				return err
			}
		}
		for i, t := range b.plan.tasks {
			if t.unfinished() {
				b.queue = append(b.queue, bedEvent{i, evContinue{}})
			}
		}
		if len(b.queue) == 0 && !b.answer() {
			break
		}
	}
	for _, t := range b.plan.tasks {
		for _, s := range t.sinks {
			b.take(s)
		}
	}
	return nil
}

// AdvanceWatermark moves a source's watermark to a time, beyond what its elements have done, and fires what that makes due. A
// watermark never goes back: an earlier time changes nothing.
func (b *Testbed) AdvanceWatermark(source string, to time.Time) error {
	wm, ok := toNanos(to)
	if !ok {
		return fmt.Errorf("advancing the watermark of source %s to the year %d: %w", source, to.Year(), errTimeRange)
	}
	for i, t := range b.plan.tasks {
		for _, in := range t.inputs {
			if in.source != nil && in.source.ref.name == source {
				in.source.clock.raise(wm)
				return b.run(i, evContinue{})
			}
		}
	}
	return fmt.Errorf("topology %s has no source %q", b.plan.topology.name, source)
}

// Finish ends event time as a drain does: everything that waits for a watermark fires. Nothing more may be pushed.
func (b *Testbed) Finish() error {
	for i, t := range b.plan.tasks {
		if t.readsSources() {
			if err := b.run(i, evFinish{}); err != nil {
				return err
			}
		}
	}
	return nil
}

// Watermark returns an operator's event time, the earliest of its subtasks; zero: none yet.
func (b *Testbed) Watermark(operator string) (time.Time, error) {
	wm, found := int64(finalWatermark), false
	for _, t := range b.plan.tasks {
		for _, tl := range t.timelines {
			if tl.name == operator {
				wm, found = min(wm, tl.watermark), true
			}
		}
	}
	if !found {
		return time.Time{}, fmt.Errorf("topology %s has no operator %q that keeps event time", b.plan.topology.name, operator)
	}
	return fromNanos(wm), nil
}

// take moves what a sink has staged to where Output finds it.
func (b *Testbed) take(s *sinkSubtask) {
	for m := range s.seal().From(0) {
		b.taken[s.name] = append(b.taken[s.name], Message{Subject: m.Subject, Header: m.Header, Data: slices.Clone(m.Data)})
	}
	s.committed()
}

// Advance moves the processing time and fires the timers that are due by then.
func (b *Testbed) Advance(d time.Duration) error {
	until := b.now.Add(d)
	for {
		first := -1
		for i, h := range b.hosts {
			if !h.wakeAt.IsZero() && !h.wakeAt.After(until) && (first < 0 || h.wakeAt.Before(b.hosts[first].wakeAt)) {
				first = i
			}
		}
		if first < 0 {
			b.now = until
			return nil
		}
		h := b.hosts[first]
		if h.wakeAt.After(b.now) {
			b.now = h.wakeAt
		} else {
			// A timer set for the past by a timer: time must move, or this would never end.
			b.now = b.now.Add(1)
		}
		h.wakeAt = time.Time{}
		if err := b.run(first, evTick{now: b.now}); err != nil {
			return err
		}
	}
}

// Now returns the processing time.
func (b *Testbed) Now() time.Time { return b.now }

// Output returns, and forgets, what a sink has published. "_dlq" is the sink of the dead letters.
func (b *Testbed) Output(sink string) []Message {
	out := b.taken[sink]
	delete(b.taken, sink)
	return out
}

// Snapshot takes a checkpoint: barriers at the reading positions of all sources, encoding, commit.
func (b *Testbed) Snapshot() (*TestSnapshot, error) {
	b.checkpoint++
	b.snapshots = nil
	for i, t := range b.plan.tasks {
		if t.readsSources() {
			if err := b.run(i, evTrigger{checkpoint: b.checkpoint, nonce: bedNonce, inject: true}); err != nil {
				return nil, err
			}
		}
	}
	if len(b.snapshots) != len(b.plan.tasks) {
		return nil, fmt.Errorf("taking a snapshot: %d of %d tasks have seen the barrier", len(b.snapshots), len(b.plan.tasks))
	}
	chains := maps.Clone(b.chains)
	cp := &pendingCheckpoint{}
	for _, s := range b.snapshots {
		cp.observe(s)
		for _, src := range s.sources {
			b.positions[src.Name] = src
		}
		for _, st := range s.states {
			b.watermarks[st.operator] = cp.watermark(st.operator)
			objects, err := st.frozen.Encode(1 << 20)
			if err != nil {
				return nil, fmt.Errorf("encoding the state of operator %s: %w", st.operator, err)
			}
			for _, o := range objects {
				chains[st.operator] = append(slices.Clip(chains[st.operator]), o.Data)
			}
		}
	}
	b.chains = chains
	for i := range b.plan.tasks {
		if err := b.run(i, evCommitted{b.checkpoint}); err != nil {
			return nil, err
		}
	}
	return &TestSnapshot{
		checkpoint: b.checkpoint, keyGroups: b.cfg.KeyGroups, now: b.now, chains: maps.Clone(b.chains),
		watermarks: maps.Clone(b.watermarks), positions: maps.Clone(b.positions),
	}, nil
}

// Metrics returns the sum of all tasks' counters.
func (b *Testbed) Metrics() TaskMetrics {
	sum := TaskMetrics{IgnoredBarriers: map[string]uint64{}}
	for _, t := range b.plan.tasks {
		sum.add(t.metrics())
	}
	return sum
}

// State returns the backends of an operator's subtasks, to be read with descriptors after SetKey.
func (b *Testbed) State(operator, key string) (*state.Backend, error) {
	group := state.KeyGroup(key, b.cfg.KeyGroups)
	for _, t := range b.plan.tasks {
		for _, s := range t.stateful() {
			if s.operator == operator && s.subtask == state.SubtaskOf(group, s.of, b.cfg.KeyGroups) {
				s.backend.SetKey(key)
				return s.backend, nil
			}
		}
	}
	return nil, fmt.Errorf("topology %s has no operator %q with state", b.plan.topology.name, operator)
}

// bedHost is the host of one task of a Testbed.
type bedHost struct {
	bed    *Testbed
	index  int
	wakeAt time.Time
}

func (h *bedHost) send(task, input int, f *frame) error {
	h.bed.queue = append(h.bed.queue, bedEvent{task, evFrame{input: input, frame: f}})
	return nil
}

func (h *bedHost) consumed(int)             {}
func (h *bedHost) snapshot(s *taskSnapshot) { h.bed.snapshots = append(h.bed.snapshots, s) }
func (h *bedHost) wake(t time.Time) {
	if t.IsZero() || h.wakeAt.IsZero() || t.Before(h.wakeAt) {
		h.wakeAt = t
	}
}

func (h *bedHost) publish(_ context.Context, stream string, m Message, done func(error)) error {
	h.bed.taken[stream] = append(h.bed.taken[stream], m) // a testbed's streams have their sinks' names
	done(nil)
	return nil
}

func (h *bedHost) dirty(int)       {}
func (h *bedHost) notify(ctlEvent) {}
func (h *bedHost) over() bool      { return false }
func (h *bedHost) now() time.Time  { return h.bed.now }
