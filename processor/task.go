package processor

import (
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/tenants"
)

// task is a chain of operators that one goroutine runs by handing events to step. It is built by newPlan, then bound to a host,
// restored (its operators' backends by the attempt), started, and stepped until step returns an error.
type task struct {
	index     int
	subtask   int    // of its stage
	epoch     uint64 // of the attempt
	name      string // of its head and subtask, for errors
	job       tenants.JobID
	inputs    []*taskInput
	subtasks  []*operatorSubtask
	sinks     []*sinkSubtask // exactly-once, dead letters last
	direct    []*directSink  // at-least-once
	exchanges []outgoing
	timers    []*timerOperator
	timelines []*timeline     // of operators, in the order of the graph
	asyncs    []asyncOperator // the last in the order of the graph first
	dead      *deadLetters
	operators []string // names by number

	host    taskHost
	err     error
	started bool

	op     int32 // the operator that is running
	origin origin
	at     int64     // event time of the current element or timer, unix nanoseconds
	clock  time.Time // of this event, zero: not read yet

	slice    int        // how much a step may fire
	budget   int        // how much more this one may
	firing   bool       // a timeline has something to do, or an Async is full: data waits
	full     int        // not 0: the last Async, by its node, that takes nothing more; what is due above it waits
	ticking  bool       // processing-time timers are left that were due at tickAt
	tickAt   time.Time  //
	greeted  bool       // the tasks below know the watermarks that this one began with
	finished bool       // the final watermark was emitted: nothing is read any more
	deferred *evTrigger // comes when everything that the final watermark makes due has fired, and the first rules are there
	loading  int        // how many wait for their first rules: nothing but rules is taken, and nothing fires

	aligner  *barriers.Aligner
	aligning time.Time // when the first barrier of the current alignment came
	inFlight uint64    // frozen, and neither committed nor aborted yet

	dirty       bool // reported since the last freeze
	over        int  // halves of the quota that pending output has passed, reported
	maxPending  int64
	timersMoved bool
	wakeAt      time.Time

	counts counts
	shown  metrics
}

// taskInput is one input: a source's reader or an exchange.
type taskInput struct {
	name    string
	source  *sourceInput
	recv    receiver
	head    *node     // where its elements enter the task
	time    *timeline // the watermark that has come on it
	blocked bool      // aligning, or waiting for the checkpoint in flight to be resolved
	waits   bool      // for the first rules
	held    []event   // what came since, in order; not consumed yet
}

// operatorSubtask is one operator's keyed state in a task.
type operatorSubtask struct {
	operator string
	subtask  int
	of       int // how many the operator has: those of its stage
	backend  *state.Backend
	full     bool // the next snapshot holds everything; the backend remembers it until one is committed
	time     *timeline
}

// origin is the record that the current element was made of.
type origin struct {
	source  *sourceRef // nil: a timer
	seq     uint64
	time    int64 // unix nanoseconds
	subject string
	data    []byte
	number  uint64 // differs between any two records of a task
	far     bool   // its event time is too far ahead (MaxAhead): windows send it to their late output
}

// sourceRef names a source for its elements, in whichever task they are.
type sourceRef struct{ name, stream, prefix string }

func newTask(p *plan, s *stage, subtask int) (*task, error) {
	t := &task{index: s.first + subtask, subtask: subtask, epoch: p.cfg.Epoch, job: p.cfg.Job, maxPending: p.cfg.MaxPendingBytes, slice: fireBudget}
	t.name = fmt.Sprintf("%s-%d", s.heads[0].label(), subtask)
	a := &assembly{
		plan: p, stage: s, task: t, subtask: subtask, made: map[*node]any{}, clocks: map[*node]*sourceClock{},
		lines: map[*node]*timeline{}, passed: map[*node]*timeline{}, sends: map[*node]marker{},
		rules: map[*node]*rulesInput{}, tables: map[*node]any{},
	}
	t.dead = newDeadLetters(t, p)
	for _, h := range s.heads {
		if h.source != nil {
			t.inputs = append(t.inputs, &taskInput{name: h.name, source: newSourceInput(a, h), head: h})
			continue
		}
		recv := h.receive(a, h)
		for _, f := range s.edges {
			if f.head != h {
				continue
			}
			for sub := range f.upstream.subtasks {
				t.inputs = append(t.inputs, &taskInput{name: fmt.Sprintf("%s from %s-%d", h.label(), f.upstream.heads[0].label(), sub), recv: recv, head: h})
			}
		}
	}
	a.wireTime()
	t.awaitRules()
	t.sinks = append(t.sinks, t.dead.sink)
	t.aligner = barriers.NewAligner(len(t.inputs))
	return t, a.err
}

// bind connects the task to its host. It must come before start.
func (t *task) bind(h taskHost) { t.host = h }

// start sets the sources' positions and watermarks, by source name; a source without one begins at the stream's beginning. State
// and operators' watermarks must be restored before. Event timers that are due fire in the first steps, before any element;
// processing-time timers with the first tick.
func (t *task) start(positions map[string]barriers.Source) {
	for _, in := range t.inputs {
		if in.source != nil {
			in.source.start(positions[in.source.ref.name], in.time)
		}
	}
	t.started = true
	t.rearm()
	t.show()
}

func (t *task) numInputs() int { return len(t.inputs) }

// readsSources reports whether the task takes evTrigger.
func (t *task) readsSources() bool { return len(t.inputs) > 0 && t.inputs[0].source != nil }

// sourceInputs returns the sources that the task reads, by the number of their input.
func (t *task) sourceInputs() []string {
	var names []string
	for _, in := range t.inputs {
		if in.source != nil {
			names = append(names, in.source.ref.name)
		}
	}
	return names
}

// stateful returns the operators of the task that have state, for restore.
func (t *task) stateful() []*operatorSubtask { return t.subtasks }

// step handles one event. An error ends the task: every later step returns it. A panic in user code is an error of class restart
// that says where.
func (t *task) step(ev event) (err error) {
	if t.err != nil {
		return t.err
	}
	if !t.started {
		return errors.New("bug: task " + t.name + " is stepped before it was started")
	}
	defer t.recovered(&err)
	t.clock, t.budget = time.Time{}, t.slice
	if !t.greeted {
		t.loadCalls()
		t.beginRules()
	}
	switch ev := ev.(type) {
	case evBatch:
		t.arrive(ev.input, ev)
	case evFrame:
		t.arrive(ev.input, ev)
	case evTrigger:
		t.trigger(ev)
	case evCommitted:
		t.committed(ev.checkpoint)
	case evAborted:
		t.aborted(ev.checkpoint)
	case evTick:
		t.tick(ev.now)
	case evFinish:
		t.finish()
	case evLimit:
		t.limit(ev)
	case evUnlimit:
		t.unlimit(ev)
	case evPass:
		t.pass(ev)
	case evRead:
		t.readState(ev)
	case evCompleted:
		ev.result.settle()
	case evContinue:
	default:
		t.fail(fmt.Errorf("bug: unknown event %T", ev))
	}
	t.drain()
	if t.deferred != nil && t.mayCut() {
		ev := *t.deferred
		t.deferred = nil
		t.trigger(ev)
	}
	t.flush()
	if t.timersMoved {
		t.rearm()
	}
	t.greeted = true
	t.origin = origin{number: t.origin.number}
	t.show()
	return t.err
}

// recovered turns a panic into the task's error.
func (t *task) recovered(err *error) {
	p := recover()
	if p == nil {
		return
	}
	t.fail(&PanicError{Where: t.where(t.op), Value: p, Stack: debug.Stack()})
	*err = t.err
}

// fail ends the task with its first error.
func (t *task) fail(err error) {
	if t.err == nil {
		t.err = err
	}
}

// now is the processing time of the current event.
func (t *task) now() time.Time {
	if t.clock.IsZero() {
		t.clock = t.host.now()
	}
	return t.clock
}

// arrive takes an event of an input, or keeps it while the input is blocked.
func (t *task) arrive(input int, ev event) {
	if input < 0 || input >= len(t.inputs) {
		t.fail(fmt.Errorf("bug: task %s has no input %d", t.name, input))
		return
	}
	in := t.inputs[input]
	if in.stopped() || t.busy() || t.finished && in.source != nil || t.settling(in) {
		in.held = append(in.held, ev)
		return
	}
	t.process(input, ev)
}

func (t *task) process(input int, ev event) {
	in := t.inputs[input]
	switch ev := ev.(type) {
	case evBatch:
		if in.source == nil {
			t.fail(fmt.Errorf("bug: a batch came on input %d of task %s, which is an exchange", input, t.name))
			return
		}
		if r := in.source.rules; r != nil {
			r.batch(input, in, ev)
			return
		}
		t.batch(input, in, ev)
	case evFrame:
		if in.recv == nil {
			t.fail(fmt.Errorf("bug: a frame came on input %d of task %s, which is a source", input, t.name))
			return
		}
		t.frame(input, in, ev)
	}
}

// drain fires what is due and handles what was kept for inputs that are no longer blocked.
func (t *task) drain() {
	if t.busy() && t.err == nil {
		t.fireDue()
	}
	if len(t.asyncs) > 0 {
		t.results()
	}
	for again := true; again; {
		again = false
		for i, in := range t.inputs {
			for len(in.held) > 0 && t.ready(in) {
				ev := in.held[0]
				in.held[0] = nil
				in.held = in.held[1:]
				if len(in.held) == 0 {
					in.held = nil
				}
				t.process(i, ev)
				again = true
			}
		}
	}
}

// ready reports whether the first of what is held on an input may be handled now. While something due is left to fire that is a
// barrier alone, and not one behind the final watermark: everything that this one fires belongs to the checkpoint.
func (t *task) ready(in *taskInput) bool {
	if in.stopped() || t.err != nil || t.finished && in.source != nil || t.settling(in) {
		return false
	}
	if !t.busy() {
		return true
	}
	switch ev := in.held[0].(type) {
	case evFrame:
		return ev.frame.barrier != 0 && in.time.watermark != finalWatermark
	case evBatch:
		return len(ev.batch.Records) > 0 && isBarrier(&ev.batch.Records[0])
	}
	return false
}

// putBack keeps an event, or the rest of one, in front of what is held.
func (in *taskInput) putBack(ev event) { in.held = slices.Insert(in.held, 0, ev) }

// done tells the host that the task is done with one event of the input.
func (t *task) done(input int) {
	if t.err == nil {
		t.host.consumed(input)
	}
}

// touch reports, once between two freezes, that there is something to checkpoint.
func (t *task) touch() {
	if !t.dirty {
		t.dirty = true
		t.host.dirty(t.index)
	}
}

// flush sends what is open in the exchanges.
func (t *task) flush() {
	for _, e := range t.exchanges {
		if t.err != nil {
			return
		}
		e.flush()
	}
}
