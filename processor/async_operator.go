package processor

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weirstream/weir/state"
)

// asyncFlight is an element whose result was not emitted yet. Each is in the state, under its key and sequence number.
type asyncFlight[In, Out any] struct {
	key     string
	seq     uint64 // numbers the elements of a key in their order
	value   In
	record  asyncRecord
	behind  int64 // the watermark that it counts as having come behind
	late    bool
	segment *asyncSegment[In, Out]
	of      *asyncKey[In, Out]
	next    *asyncFlight[In, Out] // of the key

	try      int
	calling  bool // the try is under way and not given up
	deadline time.Time
	again    time.Time // when the next try is due
	earlier  *asyncFlight[In, Out]
	later    *asyncFlight[In, Out]

	done bool
	out  Out
	err  error // the element is poison
}

// asyncKey is what a key has in flight, in order.
type asyncKey[In, Out any] struct {
	key         string
	first, last *asyncFlight[In, Out]
}

// asyncOp is an Async in a task.
//
// Invariant: an element is in the state from the step that takes it to the step that emits its result or dead letter, and a step is in a
// checkpoint as a whole or not at all. So every result is emitted by exactly one committed step, whatever calls were made.
type asyncOp[In, Out any] struct {
	task     *task
	pc       *opContext
	id       int
	elements *state.Map[uint64, In]
	records  *state.Map[uint64, asyncRecord]
	call     func(context.Context, In) (Out, error)
	out      func(Out)
	line     *timeline
	refs     map[string]*sourceRef

	ordered   bool
	limit     int
	timeout   time.Duration
	retry     Retry
	exhausted AsyncExhausted

	seq       uint64
	keys      map[string]*asyncKey[In, Out]
	inFlight  int
	running   int                         // calls that have not returned
	abandoned int                         // of these, those whose try is over
	waiting   fifo[*asyncFlight[In, Out]] // to be called
	trying    asyncTries[In, Out]         // under way, by deadline
	retries   asyncRetries[In, Out]       // failed, a heap by the time of the next try
	ready     fifo[*asyncFlight[In, Out]] // to be emitted
	segments  asyncSegments[In, Out]      //
	last      struct {                    // the record of the last element, which the next often shares
		number uint64
		at, wm int64
		record asyncRecord
	}
}

// element takes an element.
func (a *asyncOp[In, Out]) element(key string, v In) {
	t := a.task
	prev := t.op
	t.op = a.pc.op
	f := &asyncFlight[In, Out]{key: key, seq: a.seq, value: v, record: a.record(), behind: a.line.watermark}
	f.late = t.at <= f.behind
	a.pc.backend.SetKey(key)
	err := a.elements.Put(a.pc, f.seq, v)
	if err == nil {
		err = a.records.Put(a.pc, f.seq, f.record)
	}
	if err != nil {
		t.userError(a.pc.op, err)
	} else {
		a.seq++
		a.admit(f)
		a.launch()
	}
	t.op = prev
}

func (a *asyncOp[In, Out]) record() asyncRecord {
	t, l := a.task, &a.last
	if l.record == nil || l.number != t.origin.number || l.at != t.at || l.wm != a.line.watermark {
		l.record = t.recordOf(a.line.watermark)
		l.number, l.at, l.wm = t.origin.number, t.at, a.line.watermark
	}
	return l.record
}

// admit puts an element that is in the state in flight.
func (a *asyncOp[In, Out]) admit(f *asyncFlight[In, Out]) {
	if a.ordered {
		k := a.keys[f.key]
		if k == nil {
			k = &asyncKey[In, Out]{key: strings.Clone(f.key), first: f}
			a.keys[k.key] = k
		} else {
			k.last.next = f
		}
		k.last, f.of, f.key = f, k, k.key
	} else {
		f.key = strings.Clone(f.key)
	}
	a.segments.enter(f)
	a.inFlight++
	a.waiting.push(f)
	if a.full() {
		a.task.fill(a.id)
	}
}

// load puts the elements of the state in flight, all behind watermarks that do not go beyond the operator's own. Those of a key keep
// their order; elements of several subtasks were numbered by each.
func (a *asyncOp[In, Out]) load() {
	var all []*asyncFlight[In, Out]
	err := a.pc.backend.EachKey(a.elements.Info().Name, func(key string) error {
		from := len(all)
		err := a.elements.Each(a.pc, func(seq uint64, v In) error {
			r, ok, err := a.records.Get(a.pc, seq)
			if err == nil && !ok {
				err = fmt.Errorf("the element %d of key %q has no record", seq, key)
			}
			if err != nil {
				return err
			}
			o, err := r.decode()
			if err != nil {
				return err
			}
			all = append(all, &asyncFlight[In, Out]{key: key, seq: seq, value: v, record: r, behind: min(o.watermark, a.line.watermark)})
			return nil
		})
		of := all[from:]
		slices.SortFunc(of, func(x, y *asyncFlight[In, Out]) int { return cmp.Compare(x.seq, y.seq) })
		for i := len(of) - 2; i >= 0; i-- {
			of[i].behind = min(of[i].behind, of[i+1].behind)
		}
		return err
	})
	if err != nil {
		a.task.fail(Terminal(fmt.Errorf("restoring the elements in flight of operator %s: %w", a.pc.name, err)))
		return
	}
	slices.SortStableFunc(all, func(x, y *asyncFlight[In, Out]) int {
		return cmp.Or(cmp.Compare(x.behind, y.behind), cmp.Compare(x.seq, y.seq))
	})
	for i, f := range all {
		if i == 0 {
			a.segments.released, a.segments.seen = f.behind, f.behind
		} else {
			a.segments.close(f.behind)
		}
		o, _ := f.record.decode() // it was checked
		f.late = o.at <= f.behind
		a.seq = max(a.seq, f.seq+1)
		a.admit(f)
	}
	a.launch()
}

// finished takes the outcome of an element: it is emitted in its turn.
func (a *asyncOp[In, Out]) finished(f *asyncFlight[In, Out]) {
	f.done = true
	if !a.ordered || f.of.first == f {
		a.release(f)
	}
}

// release lets out an element that is done and whose turn it is.
func (a *asyncOp[In, Out]) release(f *asyncFlight[In, Out]) {
	if f.late && !a.segments.first(f) {
		f.segment.parked = append(f.segment.parked, f)
		return
	}
	a.ready.push(f)
}

// emit hands the next result on.
func (a *asyncOp[In, Out]) emit() {
	t, f := a.task, a.ready.pop()
	t.touch()
	a.pc.backend.SetKey(f.key)
	if err := a.elements.Remove(a.pc, f.seq); err != nil {
		t.userError(a.pc.op, err)
	}
	if err := a.records.Remove(a.pc, f.seq); err != nil {
		t.userError(a.pc.op, err)
	}
	a.land(f)
	a.become(f)
	if f.err != nil {
		t.poison(a.pc.op, f.err)
		return
	}
	a.out(f.out)
}

// land takes an element out of flight.
func (a *asyncOp[In, Out]) land(f *asyncFlight[In, Out]) {
	a.inFlight--
	if k := f.of; k != nil {
		if k.first = f.next; k.first == nil {
			delete(a.keys, k.key)
		} else if k.first.done {
			a.release(k.first)
		}
	}
	tell, freed := a.segments.leave(f)
	if tell {
		a.line.due()
	}
	for _, late := range freed {
		a.ready.push(late)
	}
	a.task.relieve()
}

// become makes an element the task's current one.
func (a *asyncOp[In, Out]) become(f *asyncFlight[In, Out]) {
	t := a.task
	o, err := f.record.decode()
	if err != nil {
		t.fail(fmt.Errorf("bug: %w", err))
	}
	t.op, t.at = a.pc.op, o.at
	t.origin = origin{seq: o.seq, time: o.time, subject: o.subj, data: o.data, far: o.far, number: t.origin.number + 1}
	if !o.record {
		return
	}
	ref := a.refs[o.source]
	if ref == nil || ref.stream != o.stream { // of a topology that read something else
		ref = &sourceRef{name: strings.Clone(o.source), stream: strings.Clone(o.stream)}
	}
	t.origin.source = ref
}

// What the task asks of it, see asyncOperator.

func (a *asyncOp[In, Out]) node() int      { return a.id }
func (a *asyncOp[In, Out]) flights() int   { return a.inFlight }
func (a *asyncOp[In, Out]) full() bool     { return a.inFlight >= a.limit }
func (a *asyncOp[In, Out]) hasReady() bool { return a.ready.len() > 0 }
func (a *asyncOp[In, Out]) lost() int      { return a.abandoned }
func (a *asyncOp[In, Out]) wakeAt() time.Time {
	var at time.Time
	if f := a.trying.first; f != nil {
		at = f.deadline
	}
	if len(a.retries) > 0 && (at.IsZero() || a.retries[0].again.Before(at)) {
		at = a.retries[0].again
	}
	return at
}

// tick gives up the tries whose time is over, and makes those that are due.
func (a *asyncOp[In, Out]) tick(now time.Time) {
	for f := a.trying.first; f != nil && !f.deadline.After(now); f = a.trying.first {
		a.giveUp(f)
	}
	for len(a.retries) > 0 && !a.retries[0].again.After(now) {
		a.waiting.push(heap.Pop(&a.retries).(*asyncFlight[In, Out]))
	}
	a.launch()
}

// fifo is a queue in a slice.
type fifo[T any] struct {
	items []T
	head  int
}

func (q *fifo[T]) len() int { return len(q.items) - q.head }

func (q *fifo[T]) push(v T) {
	if q.head > 64 && 2*q.head > len(q.items) {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, v)
}

func (q *fifo[T]) pop() T {
	var none T
	v := q.items[q.head]
	q.items[q.head] = none
	q.head++
	return v
}
