package processor

import (
	"fmt"
	"time"

	"github.com/weirstream/weir/state"
)

// assembly builds the functions of one task: every operator becomes a closure that calls the closures behind it, so that a
// record runs through a task as plain function calls.
type assembly struct {
	plan    *plan
	stage   *stage
	task    *task
	subtask int
	made    map[*node]any
	clocks  map[*node]*sourceClock
	lines   map[*node]*timeline // operators' own
	passed  map[*node]*timeline // whose watermark is that of a node's output, in this task
	sends   map[*node]marker    // the exchanges that KeyBys are here
	rules   map[*node]*rulesInput
	tables  map[*node]any // *ruleTable[R] of a Broadcast's input of rules
	err     error
}

// collector returns the function that takes n's input in this task.
func (a *assembly) collector(n *node) any {
	if c, ok := a.made[n]; ok {
		return c
	}
	c := n.collect(a, n)
	a.made[n] = c
	return c
}

// consumers returns the functions that take n's output in this task.
func (a *assembly) consumers(n *node) []any {
	var out []any
	for _, r := range a.plan.readers[n] {
		if r.kind != KindSideOutput {
			out = append(out, a.collector(r))
		}
	}
	return out
}

// sideOutputs returns the nodes that read tag of n.
func (a *assembly) sideOutputs(n *node, tag outputTag) []*node {
	var out []*node
	for _, r := range a.plan.readers[n] {
		if r.kind == KindSideOutput && r.tag == tag {
			out = append(out, r)
		}
	}
	return out
}

// cuts reports whether a KeyBy is an exchange between tasks.
func (a *assembly) cuts(*node) bool { return a.plan.cfg.Parallelism > 1 }

// operator numbers an operator's name within the task. A number, not a pointer, says who is running: it is set for every record.
func (a *assembly) operator(name string) int32 {
	for i, o := range a.task.operators {
		if o == name {
			return int32(i)
		}
	}
	a.task.operators = append(a.task.operators, name)
	return int32(len(a.task.operators) - 1)
}

// clock makes the event time of a source.
func (a *assembly) clock(n *node, o *timeOptions) *sourceClock {
	c := newSourceClock(a.task, a.operator(n.name), o)
	a.clocks[n] = c
	return c
}

// backend makes the keyed state of an operator's subtask.
func (a *assembly) backend(n *node) *state.Backend {
	cfg := a.plan.cfg
	b, err := state.NewBackend(state.BackendConfig{
		Tenant: string(cfg.Job.Tenant), Job: cfg.Job.Name, Operator: n.name,
		Subtask: a.subtask, Parallelism: a.stage.subtasks, KeyGroups: cfg.KeyGroups,
		MaxKeyBytes: cfg.MaxKeyBytes, MaxBytes: cfg.MaxStateBytes, AllowDropped: cfg.AllowDroppedState,
	}, n.process.states...)
	if err != nil {
		if a.err == nil {
			a.err = Terminal(fmt.Errorf("operator %s: making its state: %w", n.name, err))
		}
		return nil
	}
	if processing, event := b.Expires(); processing || event {
		a.stage.timed = a.stage.timed || event // memory is freed as watermarks come, not elements alone
		b.SetClock(&taskTime{task: a.task, line: a.timeline(n, nil)})
	}
	if n.process.stateful() {
		a.task.subtasks = append(a.task.subtasks, &operatorSubtask{operator: n.name, subtask: a.subtask, of: a.stage.subtasks, backend: b, time: a.timeline(n, nil)})
	}
	return b
}

// addTimers registers an operator's processing-time timers with the task.
func (a *assembly) addTimers(c *opContext, fire func(at time.Time) error) {
	a.task.timers = append(a.task.timers, &timerOperator{pc: c, fire: fire})
	a.stage.timed = true
}

// output makes the staging of an exactly-once sink's subtask. Subtasks are numbered in the order of the tasks: it is the order
// in which their output is released.
func (a *assembly) output(n *node, upsert bool) *sinkSubtask {
	s := newSinkSubtask(a.task, n.name, a.plan.sinkSubs[n.name], a.plan.sinks[n.name], upsert)
	a.plan.sinkSubs[n.name]++
	a.task.sinks = append(a.task.sinks, s)
	return s
}
