package processor

import (
	"strings"
	"time"

	"github.com/weirstream/weir/state"
)

// OperatorContext is a *Context of any output type: what descriptors, parameters and output tags need of a running operator.
type OperatorContext interface {
	state.Context
	operator() *opContext
}

// Context is what a keyed operator's function may do besides reading its element. It is valid during the call only and belongs
// to the calling goroutine.
type Context[Out any] struct {
	opContext
	out func(Out)
}

// Emit sends v to the operators that follow. They have processed it when Emit returns, or will do so in this order.
func (c *Context[Out]) Emit(v Out) { c.out(v) }

// opContext is the part of a Context that does not depend on its output type. There is one for each operator in a task.
type opContext struct {
	task    *task
	name    string
	op      int32
	subtask int
	backend *state.Backend
	time    *timeline
	timers  bool
	event   *eventTimers // nil: it has no OnEventTimer
	key     string
	rules   any // *ruleTable[R], of a Broadcast
	params  []boundParam
	tags    []boundTag
}

type boundParam struct {
	param param
	value any // *T
}

type boundTag struct {
	tag  outputTag
	emit any // func(T)
}

func (c *opContext) bind(a *assembly, n *node) {
	c.task, c.name, c.op = a.task, n.name, a.operator(n.name)
	c.subtask, c.backend = a.subtask, a.backend(n)
	c.time, c.timers = a.timeline(n, nil), n.process.onTimer != nil
	if n.kind == KindBroadcast {
		c.rules = a.tables[n.inputs[1]]
	}
	for _, p := range n.process.params {
		c.params = append(c.params, boundParam{p, a.plan.params[p]})
	}
	for _, t := range n.process.tags {
		c.tags = append(c.tags, boundTag{t, t.sideFan(a, n)})
	}
}

func (c *opContext) operator() *opContext { return c }

// StateBackend gives descriptors access to the operator's state.
func (c *opContext) StateBackend() *state.Backend { return c.backend }

// Key returns the current element's or timer's key.
func (c *opContext) Key() string { return c.key }

// RecordMeta says which record an element was made of.
type RecordMeta struct {
	Source string // operator name
	Stream string
	Seq    uint64    // sequence in the stream; 0 in a timer
	Time   time.Time // when the server stored it
}

// Record returns the record that the current element was made of; zero in a timer.
func (c *opContext) Record() RecordMeta {
	o := &c.task.origin
	if o.source == nil {
		return RecordMeta{}
	}
	return RecordMeta{Source: o.source.name, Stream: o.source.stream, Seq: o.seq, Time: time.Unix(0, o.time).UTC()}
}

// Subject returns the current record's subject, relative to the tenant; empty in a timer. It allocates.
func (c *opContext) Subject() string {
	o := &c.task.origin
	if o.source == nil {
		return ""
	}
	return strings.Clone(strings.TrimPrefix(o.subject, o.source.prefix))
}

// Timestamp returns the event time of the current element: what the source's EventTime made of it, or the time at which the server
// stored its record where the source has none. In a timer it is the time the timer was set for. What is emitted has it too.
func (c *opContext) Timestamp() time.Time { return time.Unix(0, c.task.at).UTC() }

// Watermark returns the operator's event time: no element at it or before is expected any more, and every event timer up to it
// has fired or is about to. It is zero before the first, and the last time there is while a drain ends the job.
func (c *opContext) Watermark() time.Time { return fromNanos(c.time.watermark) }

// Now returns the processing time: the same during one batch of records, so that reading it is cheap.
func (c *opContext) Now() time.Time { return c.task.now() }
