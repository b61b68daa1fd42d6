package processor

import (
	"fmt"

	"github.com/weirstream/weir/state/codec"
)

// ruleTable is the rules that a Broadcast sees in one task.
type ruleTable[R any] struct {
	task  *task
	op    int32
	from  *node // the rules
	codec codec.Codec[R]
	view  RuleView[R]
}

// ruleTableOf returns the table of a Broadcast's feed in a task.
func ruleTableOf[R any](a *assembly, feed *node, rules codec.Codec[R]) *ruleTable[R] {
	if t, ok := a.tables[feed].(*ruleTable[R]); ok {
		return t
	}
	from := feed.inputs[0]
	t := &ruleTable[R]{task: a.task, op: a.operator(from.name), from: from, codec: rules, view: RuleView[R]{rules: map[string]R{}}}
	a.tables[feed] = t
	a.task.loading++
	return t
}

func (r *ruleTable[R]) change(c ruleChange) {
	r.view.revision = max(r.view.revision, c.seq)
	if c.removed {
		r.view.remove(c.key)
		return
	}
	v, err := r.codec.Decode([]byte(c.rule))
	if err != nil {
		r.task.fail(Terminal(&OperatorError{r.task.where(r.op), fmt.Errorf("rule %q: decoding it as %s again: %w", c.key, r.codec.Name(), err)}))
		return
	}
	r.view.set(c.key, v)
}

func (r *ruleTable[R]) loaded(revision uint64) {
	r.view.revision = max(r.view.revision, revision)
	r.task.loaded()
}

// receive implements receiver.
func (r *ruleTable[R]) receive(_ *taskInput, f *frame) bool {
	rules := f.elements.(*ruleFrame)
	for i := range rules.changes {
		r.change(rules.changes[i])
	}
	if rules.complete {
		r.loaded(rules.revision)
	}
	return true
}

// ruleFrame is rules on their way to another task. All subtasks get the same one; nobody changes it.
type ruleFrame struct {
	changes  []ruleChange
	complete bool // these are the last of the first rules
	revision uint64
}

// ruleExchange is the sending side: every subtask gets every change.
type ruleExchange struct {
	task  *task
	to    []target
	open  *ruleFrame
	bytes int
}

func newRuleExchange(a *assembly, n *node) *ruleExchange {
	to := a.plan.stageOf(n)
	e := &ruleExchange{task: a.task, open: &ruleFrame{}}
	for sub := range to.subtasks {
		e.to = append(e.to, target{task: to.first + sub, input: to.input(n, a.stage, a.subtask)})
	}
	a.task.exchanges = append(a.task.exchanges, e)
	return e
}

func (e *ruleExchange) change(c ruleChange) {
	e.open.changes = append(e.open.changes, c)
	if e.bytes += len(c.key) + len(c.rule); len(e.open.changes) >= frameElements || e.bytes >= frameBytes {
		e.flush()
	}
}

func (e *ruleExchange) loaded(revision uint64) {
	e.open.complete, e.open.revision = true, revision
	e.flush()
}

// flush implements outgoing.
func (e *ruleExchange) flush() {
	if len(e.open.changes) == 0 && !e.open.complete {
		return
	}
	f := e.open
	bytes := e.bytes
	e.open, e.bytes = &ruleFrame{}, 0
	e.send(frame{elements: f, count: len(f.changes), bytes: bytes})
}

// barrier implements outgoing.
func (e *ruleExchange) barrier(checkpoint uint64) {
	e.flush()
	e.send(frame{barrier: checkpoint})
}

func (e *ruleExchange) send(f frame) {
	for _, to := range e.to {
		if e.task.err != nil {
			return
		}
		own := f
		if err := e.task.host.send(to.task, to.input, &own); err != nil {
			e.task.fail(err)
		}
	}
}
