package processor

import (
	"errors"
	"fmt"
	"time"

	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/tenants"
)

// Declared is what an operator can say it uses: a state descriptor (*state.Value and the like), an *OutputTag or a *Param.
type Declared interface{ Validate() error }

// ProcessOption is an option of Process: Uses, OnTimer or OnEventTimer.
type ProcessOption func(*processDecl)

// Uses declares the states, output tags and parameters that the operator's functions use, so that state, codecs and versions are
// known before anything runs. Access to anything else is an error that names both.
func Uses(declared ...Declared) ProcessOption {
	return func(p *processDecl) { p.uses = append(p.uses, declared...) }
}

// OnTimer sets the function that is called, with the timer's key, when a timer set with Context.SetTimer is due. at is the time
// it was set for. Out must be the operator's output type.
func OnTimer[Out any](fn func(pc *Context[Out], at time.Time) error) ProcessOption {
	return func(p *processDecl) {
		p.timers++
		if fn != nil {
			p.onTimer = fn
		}
	}
}

// OnEventTimer sets the function that is called, with the timer's key, when the watermark reaches a timer set with
// Context.SetEventTimer. at is the time it was set for, and the time of what the function emits. Out must be the operator's
// output type.
func OnEventTimer[Out any](fn func(pc *Context[Out], at time.Time) error) ProcessOption {
	return func(p *processDecl) {
		p.eventTimers++
		if fn != nil {
			p.onEventTimer = fn
		}
	}
}

// processDecl is what a keyed operator declares.
type processDecl struct {
	uses    []Declared
	states  []state.Descriptor
	tags    []outputTag
	params  []param
	timers  int // number of OnTimer options
	onTimer any // func(*Context[Out], time.Time) error

	eventTimers  int // number of OnEventTimer options
	onEventTimer any // func(*Context[Out], time.Time) error
}

func (p *processDecl) stateful() bool {
	return len(p.states) > 0 || p.onTimer != nil || p.onEventTimer != nil
}

func (p *processDecl) declares(tag outputTag) bool {
	for _, t := range p.tags {
		if t == tag {
			return true
		}
	}
	return false
}

// sort splits uses by kind and records mistakes.
func (p *processDecl) sort(n *node) {
	seen := make(map[Declared]bool)
	names := make(map[string]bool)
	for i, d := range p.uses {
		if d == nil {
			n.require(true, fmt.Sprintf("argument %d of Uses is nil", i+1))
			continue
		}
		if err := d.Validate(); err != nil {
			n.b.fail(n.label(), n.at, err)
			continue
		}
		if seen[d] {
			continue
		}
		seen[d] = true
		kind, name := "", ""
		switch d := d.(type) {
		case state.Descriptor:
			kind, name = "state", d.Info().Name
			p.states = append(p.states, d)
		case outputTag:
			kind, name = "output tag", d.tagName()
			p.tags = append(p.tags, d)
		case param:
			kind, name = "parameter", d.paramName()
			p.params = append(p.params, d)
			n.b.checkParam(n, d)
		default:
			n.require(true, fmt.Sprintf("argument %d of Uses is a %T: use state descriptors, output tags and parameters", i+1, d))
			continue
		}
		n.require(names[kind+name], fmt.Sprintf("it uses two different %ss named %q", kind, name))
		names[kind+name] = true
	}
}

// checkParam refuses two parameters of one name: a tenant could not tell them apart.
func (b *Builder) checkParam(n *node, d param) {
	for _, other := range b.nodes {
		if other == n || other.process == nil {
			continue
		}
		for _, q := range other.process.params {
			n.require(q != d && q.paramName() == d.paramName(), fmt.Sprintf("parameter %q is not the one that operator %s uses under this name: declare it once", d.paramName(), other.label()))
		}
	}
}

// Process applies fn to every element of a keyed stream. fn reaches state, timers, parameters and side outputs through its
// context, always those of the element's key. An error made with Poison sends the record to the dead letters; any other error
// restarts the job from its last checkpoint.
func Process[In, Out any](s KeyedStream[In], name string, fn func(pc *Context[Out], v In) error, opts ...ProcessOption) Stream[Out] {
	at := callerLine(2)
	in := s.node(at)
	decl := &processDecl{}
	for _, opt := range opts {
		opt(decl)
	}
	n := in.b.add(&node{kind: KindProcess, name: name, at: at, inputs: []*node{in}, process: decl}, true)
	n.require(fn == nil, "its function is nil")
	decl.check(n)
	checkTimerFunc[Out](n, "OnTimer", decl.onTimer)
	checkTimerFunc[Out](n, "OnEventTimer", decl.onEventTimer)
	n.collect = func(a *assembly, n *node) any { return collectProcess(a, n, fn) }
	return Stream[Out]{n}
}

// check sorts what the options declare and records mistakes.
func (p *processDecl) check(n *node) {
	p.sort(n)
	n.require(p.timers > 1, "it has more than one OnTimer")
	n.require(p.timers > 0 && p.onTimer == nil, "the function of OnTimer is nil")
	n.require(p.eventTimers > 1, "it has more than one OnEventTimer")
	n.require(p.eventTimers > 0 && p.onEventTimer == nil, "the function of OnEventTimer is nil")
}

// checkTimerFunc refuses a timer function for another output type.
func checkTimerFunc[Out any](n *node, option string, fn any) {
	if fn == nil {
		return
	}
	_, ok := fn.(func(*Context[Out], time.Time) error)
	n.require(!ok, fmt.Sprintf("%s has a %T: its context must be that of the operator, %T", option, fn, (*Context[Out])(nil)))
}

func collectProcess[In, Out any](a *assembly, n *node, fn func(*Context[Out], In) error) any {
	pc := &Context[Out]{out: fan[Out](a, n)}
	pc.bind(a, n)
	t, op, backend := a.task, pc.op, pc.backend
	if onTimer, ok := n.process.onTimer.(func(*Context[Out], time.Time) error); ok {
		a.addTimers(&pc.opContext, func(at time.Time) error { return onTimer(pc, at) })
	}
	if onTimer, ok := n.process.onEventTimer.(func(*Context[Out], time.Time) error); ok {
		a.addEventTimers(n, &pc.opContext, func(at time.Time) error { return onTimer(pc, at) })
	}
	if !n.process.stateful() {
		return func(key string, v In) {
			prev := t.op
			t.op = op
			pc.key = key
			if err := fn(pc, v); err != nil {
				t.userError(op, err)
			}
			t.op = prev
		}
	}
	return func(key string, v In) {
		prev := t.op
		t.op = op
		pc.key = key
		backend.SetKey(key)
		if err := fn(pc, v); err != nil {
			t.userError(op, err)
		}
		t.op = prev
	}
}

// UndeclaredError says that an operator used something that its Uses does not list.
type UndeclaredError struct {
	Operator string
	Kind     string // "parameter", "output tag", "timer", "event timer", "rules"
	Name     string
}

func (e *UndeclaredError) Error() string {
	switch e.Kind {
	case "timer":
		return fmt.Sprintf("operator %s sets a timer but has no OnTimer: add processor.OnTimer to its options", e.Operator)
	case "rules":
		return fmt.Sprintf("operator %s looks at the rules %q and is no Broadcast of them", e.Operator, e.Name)
	case "event timer":
		return fmt.Sprintf("operator %s sets an event timer but has no OnEventTimer: add processor.OnEventTimer to its options", e.Operator)
	}
	return fmt.Sprintf("operator %s uses the %s %q without declaring it: add it to processor.Uses", e.Operator, e.Kind, e.Name)
}

// CompositeKey makes one key of several parts. Different lists of parts have different keys, whatever bytes the parts hold:
// each is preceded by its length (a netstring list).
func CompositeKey(parts ...string) string {
	n := 0
	for _, p := range parts {
		n += len(p) + 4
	}
	b := make([]byte, 0, n)
	for _, p := range parts {
		b = appendLength(b, len(p))
		b = append(b, p...)
	}
	return string(b)
}

// SplitKey returns the parts of a key that CompositeKey made.
func SplitKey(key string) ([]string, error) {
	var parts []string
	for rest := key; rest != ""; {
		n, i := 0, 0
		for i < len(rest) && i < 9 && rest[i] >= '0' && rest[i] <= '9' {
			n = n*10 + int(rest[i]-'0')
			i++
		}
		if i == 0 || i == len(rest) || rest[i] != ':' || n > len(rest)-i-1 {
			return nil, fmt.Errorf("splitting key %q: %w", tenants.Printable(key), errNotComposite)
		}
		parts = append(parts, rest[i+1:i+1+n])
		rest = rest[i+1+n:]
	}
	return parts, nil
}

var errNotComposite = errors.New("it was not made by CompositeKey")

func appendLength(b []byte, n int) []byte { return append(fmt.Appendf(b, "%d", n), ':') }
