package processor

import (
	"sync"
	"unsafe"

	"github.com/weirstream/weir/state"
)

// frameElements and frameBytes bound one frame, so that an exchange's credits bound its memory.
const (
	frameElements = 512
	frameBytes    = 256 << 10
)

// frame is a batch of elements, or a barrier, on its way from one task to another.
type frame struct {
	barrier  uint64 // not 0: a barrier, no elements
	elements any    // *elements[T]
	count    int
	bytes    int
}

// elements is what a frame carries: elements with their times and keys, and the records they were made of, so that a record that
// turns out to be poison behind the exchange can still be dead-lettered. Records are copied once each into one buffer: the
// reader wants its own back. Between the elements stand the watermarks, so that each element meets the one that was in force
// when it was sent, whatever the frames are.
type elements[T any] struct {
	values  []T
	keys    []string
	times   []int64
	origins []int32 // of each element: index into records
	records []carried
	marks   []mark
	buf     []byte
	last    uint64 // number of the last record carried

	// How far the receiver is: it may have to stop in between.
	next, marked int
}

// mark is a watermark in front of the element with an index.
type mark struct {
	index     int
	watermark int64
	idle      bool
}

type carried struct {
	source            *sourceRef
	seq               uint64
	time              int64
	far               bool
	from, split, upTo int // buf[from:split] is the subject, buf[split:upTo] the data
}

// outgoing is the sending side of an exchange of any type.
type outgoing interface {
	flush()
	barrier(checkpoint uint64)
}

// receiver is the receiving side of an exchange of any type. receive reports whether it is done with the frame; if not it is to be
// handed in again, when what is due has fired.
type receiver interface {
	receive(in *taskInput, f *frame) bool
}

type exchange[T any] struct {
	task        *task
	op          int32
	key         func(T) string
	groups      int
	parallelism int
	to          []target
	open        []*frame // per target; nil: nothing to send
	pool        *sync.Pool
	size        int // of a T
	most        int // elements of a frame

	// The watermark in force, and which version of it each target has been told.
	watermark int64
	idle      bool
	version   uint64
	told      []uint64
	timed     *bool // somebody below waits for watermarks, not only for elements
}

type target struct{ task, input int }

func newExchange[T any](a *assembly, n *node, key func(T) string) *exchange[T] {
	to := a.plan.stageOf(n)
	e := &exchange[T]{
		task: a.task, op: a.operator(n.label()), key: key, groups: a.plan.cfg.KeyGroups, parallelism: a.plan.cfg.Parallelism,
		open: make([]*frame, to.subtasks), pool: a.plan.pool(n), size: int(unsafe.Sizeof(*new(T))),
		told: make([]uint64, to.subtasks), timed: &to.timed, most: a.plan.frameLimit(to),
	}
	a.sends[n] = e
	for sub := range to.subtasks {
		e.to = append(e.to, target{task: to.first + sub, input: to.input(n, a.stage, a.subtask)})
	}
	a.task.exchanges = append(a.task.exchanges, e)
	return e
}

// push puts an element into the frame for the subtask that owns its key.
func (e *exchange[T]) push(v T) {
	t := e.task
	prev := t.op
	t.op = e.op
	key := e.key(v)
	sub := state.SubtaskOf(state.KeyGroup(key, e.groups), e.parallelism, e.groups)
	f := e.open[sub]
	if f == nil {
		f = e.newFrame()
		e.open[sub] = f
	}
	el := f.elements.(*elements[T])
	if e.told[sub] != e.version {
		e.tell(sub, el)
	}
	if len(el.records) == 0 || el.last != t.origin.number {
		f.bytes += el.carry(&t.origin)
	}
	el.values = append(el.values, v)
	el.keys = append(el.keys, key)
	el.times = append(el.times, t.at)
	el.origins = append(el.origins, int32(len(el.records)-1))
	f.count++
	f.bytes += e.size + len(key)
	if f.count >= e.most || f.bytes >= frameBytes {
		e.send(sub)
	}
	t.op = prev
}

// mark sets the watermark behind what was pushed before. It goes out with the next element or at the end of the step.
func (e *exchange[T]) mark(wm int64, idle bool) {
	e.watermark, e.idle = wm, idle
	e.version++
}

func (e *exchange[T]) tell(sub int, el *elements[T]) {
	el.marks = append(el.marks, mark{len(el.values), e.watermark, e.idle})
	e.told[sub] = e.version
}

// carry copies the record an element was made of, and returns its bytes.
func (el *elements[T]) carry(o *origin) int {
	c := carried{source: o.source, seq: o.seq, time: o.time, far: o.far, from: len(el.buf)}
	el.buf = append(el.buf, o.subject...)
	c.split = len(el.buf)
	el.buf = append(el.buf, o.data...)
	c.upTo = len(el.buf)
	el.records = append(el.records, c)
	el.last = o.number
	return c.upTo - c.from
}

func (e *exchange[T]) newFrame() *frame {
	if f, ok := e.pool.Get().(*frame); ok {
		return f
	}
	return &frame{elements: &elements[T]{}}
}

func (e *exchange[T]) send(sub int) {
	f := e.open[sub]
	e.open[sub] = nil
	if e.task.err != nil {
		return
	}
	if err := e.task.host.send(e.to[sub].task, e.to[sub].input, f); err != nil {
		e.task.fail(err)
	}
}

func (e *exchange[T]) flush() {
	for sub, f := range e.open {
		if *e.timed && e.told[sub] != e.version {
			if f == nil {
				f = e.newFrame()
				e.open[sub] = f
			}
			e.tell(sub, f.elements.(*elements[T]))
		}
		if f != nil {
			e.send(sub)
		}
	}
}

// barrier sends a barrier behind everything pushed before it.
func (e *exchange[T]) barrier(checkpoint uint64) {
	e.flush()
	for _, to := range e.to {
		if e.task.err != nil {
			return
		}
		if err := e.task.host.send(to.task, to.input, &frame{barrier: checkpoint}); err != nil {
			e.task.fail(err)
		}
	}
}

type incoming[T any] struct {
	task *task
	out  func(string, T)
	pool *sync.Pool
}

func newReceiver[T any](a *assembly, n *node, out func(string, T)) receiver {
	return &incoming[T]{task: a.task, out: out, pool: a.plan.pool(n)}
}

// receive runs a frame's elements through the operators and gives the frame back for reuse.
func (r *incoming[T]) receive(in *taskInput, f *frame) bool {
	t, el := r.task, f.elements.(*elements[T])
	current, marked := int32(-1), el.nextMark()
	for i := el.next; ; i++ {
		if i%abandonEvery == abandonEvery-1 && t.abandon() {
			return true
		}
		if i == marked {
			m := &el.marks[el.marked]
			el.marked++
			in.time.set(m.watermark, m.idle)
			marked = el.nextMark()
		}
		if t.firing {
			t.fireDue()
			current = -1 // what fired has its own origin
			if t.busy() && t.err == nil && i < len(el.values) {
				el.next = i // behind the last element the frame is done: a barrier may be next in line
				return false
			}
		}
		if i == len(el.values) || t.err != nil {
			break
		}
		if n := el.origins[i]; n != current {
			current = n
			t.carriedOrigin(&el.records[n], el.buf)
		}
		t.at = el.times[i]
		r.out(el.keys[i], el.values[i])
	}
	if t.err != nil {
		return true // the task has ended
	}
	el.reset()
	f.count, f.bytes = 0, 0
	if cap(el.buf) <= 2*frameBytes { // one huge record must not stay in memory
		r.pool.Put(f)
	}
	return true
}

// nextMark is the index of the element that the next watermark stands in front of. Two never stand at the same place.
func (el *elements[T]) nextMark() int {
	if el.marked < len(el.marks) {
		return el.marks[el.marked].index
	}
	return -1
}

func (el *elements[T]) reset() {
	clear(el.values)
	clear(el.keys)
	clear(el.records)
	el.values, el.keys, el.times, el.origins = el.values[:0], el.keys[:0], el.times[:0], el.origins[:0]
	el.records, el.marks, el.buf = el.records[:0], el.marks[:0], el.buf[:0]
	el.next, el.marked = 0, 0
}

func (t *task) carriedOrigin(c *carried, buf []byte) {
	o := &t.origin
	o.source, o.seq, o.time, o.far = c.source, c.seq, c.time, c.far
	// A copy would be needed only by dead letters, which make their own.
	o.subject, o.data = viewString(buf[c.from:c.split]), buf[c.split:c.upTo]
	o.number++
}

// viewString is a string over bytes that do not change while it is used.
func viewString(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
