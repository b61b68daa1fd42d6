package processortest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// HarnessConfig configures a Harness. Every zero value has a meaning.
type HarnessConfig struct {
	Parallelism int            // subtasks of the keyed operators; zero: 1
	Params      map[string]any // the tenant's parameters; zero: the defaults
	Start       time.Time      // the processing time at the beginning; zero: 2000-01-01 UTC
	// Tables are the rows of KV buckets that operators look up, by bucket and key. PutRow and DeleteRow change them.
	Tables map[string]map[string]string
	// HoldCalls lets calls of processor.Async wait for Complete. Else they are made at once; a failed one is made again with Advance.
	HoldCalls bool
}

// Harness tests an operator, or a few, without codecs, broker or time: push elements, advance the processing time and the
// watermark, read what came out. The watermark moves only when it is told to. State, key groups, timers, exchanges and snapshots are
// those of production. Everything runs in the calling goroutine, and a call returns when nothing moves any more. It is not safe for
// concurrent use.
type Harness[In, Out any] struct {
	topology *processor.Topology
	cfg      HarnessConfig
	bed      *processor.Testbed
	in       map[uint64]In
	at       map[uint64]time.Time // their event times
	decoded  uint64
	next     uint64
	out      *Collected[Out]
	tables   *tables
}

const (
	harnessSource = "input"
	harnessSink   = "output"
)

// NewHarness builds the operators under test: build gets the stream of pushed elements and returns the one to read. Side
// outputs are read with Collect, called inside build.
func NewHarness[In, Out any](build func(in processor.Stream[In]) processor.Stream[Out], cfg HarnessConfig) (*Harness[In, Out], error) {
	h := &Harness[In, Out]{cfg: cfg, in: map[uint64]In{}, at: map[uint64]time.Time{}, tables: newTables(cfg.Tables)}
	b := processor.NewBuilder("harness")
	in := processor.From(b, harnessSource, processor.SourceSpec[In]{
		Filters: []tenants.Filter{harnessSource},
		Codec:   codec.New("harness", func(dst []byte, _ In) ([]byte, error) { return dst, nil }, h.decode),
		EventTime: processor.EventTime(func(In) time.Time { return h.at[h.decoded] }, processor.MaxAhead(math.MaxInt64),
			processor.WithWatermark(func(_ In, _, current time.Time) time.Time { return current })),
	})
	h.out = Collect(build(in), harnessSink)
	var err error
	if h.topology, err = b.Build(); err != nil {
		return nil, fmt.Errorf("building the operators under test: %w", err)
	}
	return h, h.begin(nil)
}

func (h *Harness[In, Out]) begin(from *processor.TestSnapshot) (err error) {
	h.tables.cover(h.topology)
	h.bed, err = processor.NewTestbed(h.topology, processor.TestbedConfig{
		Job: tenants.JobID{Tenant: "test", Name: "harness"}, Parallelism: h.cfg.Parallelism, Params: h.cfg.Params, Start: h.cfg.Start, From: from, HoldCalls: h.cfg.HoldCalls, Tables: h.tables.rows,
	})
	if err != nil {
		return fmt.Errorf("starting the operators under test: %w", err)
	}
	return nil
}

// decode stands in for a codec: what travels is the number of the element pushed.
func (h *Harness[In, Out]) decode(b []byte) (In, error) {
	var none In
	if len(b) != 8 {
		return none, errors.New("not an element of the harness")
	}
	h.decoded = binary.BigEndian.Uint64(b)
	return h.in[h.decoded], nil
}

// Push hands the operators elements, one after the other, with the processing time as their event time. The error is what would restart or fail the job: that of a function, or
// its panic; the harness is of no use after it, but for Restore.
func (h *Harness[In, Out]) Push(elements ...In) error { return h.PushAt(h.Now(), elements...) }

// PushAt is Push with an event time.
func (h *Harness[In, Out]) PushAt(at time.Time, elements ...In) error {
	for _, v := range elements {
		h.next++
		h.in[h.next], h.at[h.next] = v, at
		err := h.bed.Push(harnessSource, processor.Record{
			Subject: "test." + harnessSource, Data: binary.BigEndian.AppendUint64(nil, h.next),
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// AdvanceWatermark says that no element at a time or before is expected any more, and fires what waits for that. A watermark never
// goes back: an earlier time changes nothing.
func (h *Harness[In, Out]) AdvanceWatermark(to time.Time) error {
	return h.bed.AdvanceWatermark(harnessSource, to)
}

// Finish ends event time as a drain does: everything that waits for a watermark fires. Nothing more may be pushed, but Restore goes
// back to a snapshot.
func (h *Harness[In, Out]) Finish() error { return h.bed.Finish() }

// Advance moves the processing time on and fires the timers that are due by then, in order, each at its own time.
func (h *Harness[In, Out]) Advance(d time.Duration) error { return h.bed.Advance(d) }

// Now returns the processing time.
func (h *Harness[In, Out]) Now() time.Time { return h.bed.Now() }

// Take returns what the operators emitted since the last Take, in order.
func (h *Harness[In, Out]) Take() []Out { return h.out.Take() }

// DeadLetter is an element that was refused.
type DeadLetter[In any] struct {
	Element  In // zero if a timer function refused
	Operator string
	Error    string
}

// DeadLetters returns the elements refused since the last call.
func (h *Harness[In, Out]) DeadLetters() []DeadLetter[In] {
	var out []DeadLetter[In]
	for _, m := range h.bed.Output("_dlq") {
		d := DeadLetter[In]{Operator: m.Header[processor.HeaderOperator][0], Error: m.Header[processor.HeaderError][0]}
		if len(m.Data) == 8 {
			d.Element = h.in[binary.BigEndian.Uint64(m.Data)]
		}
		out = append(out, d)
	}
	return out
}

// Snapshot is the state of the operators under test at one moment.
type Snapshot struct{ s *processor.TestSnapshot }

// Snapshot takes a checkpoint: state and timers are written in the format of production. The operators go on.
func (h *Harness[In, Out]) Snapshot() (Snapshot, error) {
	s, err := h.bed.Snapshot()
	if err != nil {
		return Snapshot{}, fmt.Errorf("taking a snapshot: %w", err)
	}
	return Snapshot{s}, nil
}

// Restore throws the running operators away and starts them anew from a snapshot of this harness, at any parallelism. The
// processing time is that of the snapshot.
func (h *Harness[In, Out]) Restore(s Snapshot, parallelism int) error {
	if s.s == nil {
		return errors.New("restoring a zero Snapshot: use what Snapshot returned")
	}
	h.cfg.Parallelism = parallelism
	return h.begin(s.s)
}

// Collected is what has come out of a stream.
type Collected[T any] struct{ values []T }

// Collect gathers a stream's elements as they are, without encoding. name is the sink's name in the topology. The topology must
// then run in one place at a time, in a Harness or a Testbed.
func Collect[T any](s processor.Stream[T], name string) *Collected[T] {
	c := &Collected[T]{}
	processor.To(s, name, processor.SinkSpec[T]{
		FixedSubject: name,
		Codec: codec.New("collect", func(dst []byte, v T) ([]byte, error) {
			c.values = append(c.values, v)
			return dst, nil
		}, func([]byte) (v T, err error) { return v, errors.New("collected elements have no bytes") }),
	})
	return c
}

// Take returns the elements since the last Take, in order.
func (c *Collected[T]) Take() []T {
	out := c.values
	c.values = nil
	return out
}
