package processor

import (
	"fmt"
	"strings"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/tenants"
)

// sourceInput is a source in a task: what it passes on, how far it has looked, and what it remembers of it.
type sourceInput struct {
	ref      *sourceRef
	op       int32
	nonce    string
	created  int64
	filterTo string // absolute, as bound
	filters  []tenants.Filter
	all      bool // the reader's filter is the only one: every subject it delivers is covered
	literal  bool // ... and has no wildcard: no reserved subject can come
	filter   *barriers.BarrierFilter
	collect  func(data []byte)
	clock    *sourceClock

	position uint64
	pending  uint64 // behind the last batch
	tail     tail
	hold     sourceHold
	marks    MarkConfig
	rules    *rulesInput // nil: it has elements
	shown    sourceMetrics

	// The last subject and what was decided about it: consecutive records often share theirs.
	lastSubject string
	lastAccept  bool
}

func newSourceInput(a *assembly, n *node) *sourceInput {
	cfg, bound := a.plan.cfg, a.plan.sources[n.name]
	s := &sourceInput{
		ref: &sourceRef{name: n.name, stream: bound.Stream, prefix: cfg.Prefix}, op: a.operator(n.name), nonce: cfg.Nonce,
		created: bound.Created, filterTo: bound.Filter, filters: n.source.filters,
		filter: barriers.NewBarrierFilter(barriers.Barrier{
			Version: barriers.BarrierVersion, Tenant: string(cfg.Job.Tenant), Job: cfg.Job.Name, Source: n.name,
			Epoch: cfg.Epoch, Nonce: cfg.Nonce,
		}),
		collect: a.collector(n).(func([]byte)), clock: a.clocks[n],
		hold: sourceHold{limit: noLimit}, marks: cfg.Marks,
	}
	s.all = len(s.filters) == 1 && bound.Filter == cfg.Prefix+string(s.filters[0])
	s.literal = s.all && !strings.ContainsAny(bound.Filter, "*>")
	if s.rules = a.rules[n]; s.rules != nil {
		s.rules.bind(s, bound)
	}
	return s
}

func (s *sourceInput) start(from barriers.Source, line *timeline) {
	s.position = from.Position
	s.tail.restore(from.Tail)
	if s.rules != nil {
		s.rules.restored = from.Stream != ""
	}
	s.clock.start(line, from.Watermark, from.Idle)
}

// accepts reports whether a record with this subject is passed on.
func (s *sourceInput) accepts(subject string) bool {
	if s.literal {
		return true
	}
	if subject == s.lastSubject {
		return s.lastAccept
	}
	s.lastSubject, s.lastAccept = subject, s.match(subject)
	return s.lastAccept
}

func (s *sourceInput) match(subject string) bool {
	relative, ok := strings.CutPrefix(subject, s.ref.prefix)
	if !ok || tenants.HasReserved(relative) {
		return false
	}
	if s.all {
		return true
	}
	for _, f := range s.filters {
		if f.Matches(relative) {
			return true
		}
	}
	return false
}

// snapshot is the source's part of a checkpoint: everything up to the position is in it.
func (s *sourceInput) snapshot() barriers.Source {
	return barriers.Source{
		Name: s.ref.name, Stream: s.ref.stream, Created: s.created, Filter: s.filterTo,
		Position: s.position, Tail: s.tail.fingerprints(),
		Watermark: recordWatermark(s.clock.line.snapshot()), Idle: s.clock.line.idle,
	}
}

func isBarrier(r *Record) bool { return r.Header != nil && len(r.Header[barriers.HeaderBarrier]) > 0 }

// batch runs the records of a batch through the operators. A barrier in it may block the input, and a record may make more due
// than fires at once: the rest is kept.
func (t *task) batch(input int, in *taskInput, ev evBatch) {
	s, records := in.source, ev.batch.Records
	if ev.batch.Reset {
		s.reset(ev.batch)
	}
	unnoted, passed := 0, uint64(0)
	defer func() { t.counts.in += passed }()
	for i := range records {
		if i%abandonEvery == abandonEvery-1 && t.abandon() {
			return
		}
		r := &records[i]
		if r.Seq > s.hold.limit {
			s.tail.note(s, records[unnoted:i])
			s.position = s.hold.limit
			in.keep(ev, i)
			t.reached(s)
			return
		}
		barrier := isBarrier(r)
		if t.busy() && !barrier {
			s.tail.note(s, records[unnoted:i])
			in.keep(ev, i)
			return
		}
		if r.Seq <= s.position {
			t.fail(fmt.Errorf("source %s: the reader of stream %s delivered sequence %d behind %d: reading again would count it twice", s.ref.name, s.ref.stream, r.Seq, s.position))
			return
		}
		s.position = r.Seq
		if barrier {
			checkpoint, ok := t.streamBarrier(s, r)
			if !ok {
				continue
			}
			s.tail.note(s, records[unnoted:i])
			unnoted = i + 1
			if t.cut(input, checkpoint) {
				in.keep(ev, i+1)
				return
			}
			if t.err != nil {
				return
			}
			continue
		}
		if !s.accepts(r.Subject) {
			continue
		}
		if r.Header != nil && len(r.Header[HeaderMark]) > 0 && t.mark(s, r) {
			if s.hold.mark == 0 {
				continue
			}
			s.tail.note(s, records[unnoted:i+1])
			in.keep(ev, i+1)
			t.reached(s)
			return
		}
		if !t.dirty {
			t.touch()
		}
		t.originOf(s.ref, r)
		t.op = s.op
		if s.clock.line.idle {
			s.clock.wake()
		}
		s.collect(r.Data)
		passed++
		if t.firing {
			t.fireDue()
		}
		if t.err != nil {
			return
		}
	}
	s.tail.note(s, records[unnoted:])
	if s.position = max(s.position, min(ev.batch.Position, s.hold.limit)); s.position < ev.batch.Position {
		in.keep(ev, len(records)) // the reader has looked beyond the limit
		t.reached(s)
		return
	}
	s.pending = ev.batch.Pending
	if s.rules != nil && s.pending == 0 {
		s.rules.read()
	}
	s.clock.delivered(ev.batch.Pending, passed > 0)
	t.done(input)
	t.reached(s)
}

// keep puts back a batch from its record number from on.
func (in *taskInput) keep(ev evBatch, from int) {
	ev.batch.Records, ev.batch.Reset = ev.batch.Records[from:], false
	in.putBack(ev)
}

// reset forgets what was read of a stream that is another one now.
func (s *sourceInput) reset(b Batch) {
	s.position, s.tail = b.Position, tail{}
	if len(b.Records) > 0 {
		s.position = b.Records[0].Seq - 1
	}
	limit, token := s.hold.limit, s.hold.token
	s.hold = sourceHold{limit: noLimit} // of the other stream's sequences
	if limit != noLimit {
		s.hold.limit, s.hold.token = s.position, token // what it was to read up to is gone: whoever waits for that gets it here
	}
	if s.rules != nil {
		s.rules.reset()
	}
}

// originOf says which record the elements that follow are made of.
func (t *task) originOf(ref *sourceRef, r *Record) {
	o := &t.origin
	o.source, o.seq, o.time, o.subject, o.data, o.far = ref, r.Seq, r.Time, r.Subject, r.Data, false
	o.number++
}
