package processor

import (
	"errors"
	"fmt"
	"path"
	"runtime"
	"slices"

	"github.com/weirstream/weir/tenants"
)

// BuildError is one mistake in a topology, with the line that made it.
type BuildError struct {
	Topology string
	Operator string // empty: the topology itself
	At       string // folder/file.go:line
	Err      error
}

func (e *BuildError) Error() string {
	if e.Operator == "" {
		return fmt.Sprintf("%s: topology %s: %v", e.At, e.Topology, e.Err)
	}
	return fmt.Sprintf("%s: topology %s: operator %s: %v", e.At, e.Topology, e.Operator, e.Err)
}

func (e *BuildError) Unwrap() error { return e.Err }

// Builder collects operators and the mistakes made in declaring them. It is for one goroutine.
type Builder struct {
	name  string
	nodes []*node
	names map[string]*node
	errs  []error
}

// NewBuilder begins a topology. The name is that of its jobs unless they choose another: [a-z0-9][a-z0-9_-]{0,47}.
func NewBuilder(name string) *Builder {
	b := &Builder{name: name, names: make(map[string]*node)}
	if err := tenants.ValidateName("topology", name); err != nil {
		b.fail("", callerLine(2), err)
	}
	return b
}

// Build returns the topology, or every mistake that was made, joined; each is a *BuildError.
func (b *Builder) Build() (*Topology, error) {
	at := callerLine(2)
	sources := 0
	for _, n := range b.nodes {
		if n.kind == KindSource {
			sources++
		}
	}
	if sources == 0 {
		b.fail("", at, errors.New("it has no source: begin with processor.From"))
	}
	b.checkUse()
	if len(b.errs) > 0 {
		return nil, errors.Join(b.errs...)
	}
	return newTopology(b), nil
}

// checkUse finds operators whose work goes nowhere: a keyed stream that nothing processes is surely a slip.
func (b *Builder) checkUse() {
	used := b.read()
	for _, n := range b.nodes {
		if !used[n] && !n.joined && (n.kind == KindKeyBy || n.kind == KindSource || n.kind == KindRules || n.kind == KindSideOutput) {
			b.fail(n.label(), n.at, fmt.Errorf("nothing reads this %s", n.kind))
		}
	}
}

// read returns the nodes that another one reads.
func (b *Builder) read() map[*node]bool {
	used := make(map[*node]bool)
	for _, n := range b.nodes {
		for _, in := range n.inputs {
			used[in] = true
		}
	}
	return used
}

// kept returns the nodes of the topology: all but the KeyBys that joins have taken the place of.
func (b *Builder) kept() []*node {
	used := b.read()
	return slices.DeleteFunc(slices.Clone(b.nodes), func(n *node) bool { return n.joined && !used[n] })
}

func (b *Builder) fail(operator, at string, err error) {
	b.errs = append(b.errs, &BuildError{Topology: b.name, Operator: operator, At: at, Err: err})
}

// add registers a node. named ones must have a valid name that is new in the topology.
func (b *Builder) add(n *node, named bool) *node {
	n.b, n.id = b, len(b.nodes)
	b.nodes = append(b.nodes, n)
	for _, in := range n.inputs {
		if in.b != b {
			b.fail(n.label(), n.at, fmt.Errorf("input %s belongs to another builder (topology %s)", in.label(), in.b.name))
		}
	}
	if !named {
		return n
	}
	if n.name == deadLetterSink {
		b.fail(n.name, n.at, fmt.Errorf("the name %s is Weir's own", deadLetterSink))
		return n
	}
	if err := tenants.ValidateName("operator", n.name); err != nil {
		b.fail(n.name, n.at, err)
		return n
	}
	if other, ok := b.names[n.name]; ok {
		b.fail(n.name, n.at, fmt.Errorf("the name is taken by the %s declared at %s: names are identities in snapshots and must be unique", other.kind, other.at))
		return n
	}
	b.names[n.name] = n
	return n
}

// callerLine names the user's line; the last folder is enough to find it and keeps the machine's paths out of errors.
func callerLine(skip int) string {
	_, file, line, ok := runtime.Caller(skip)
	if !ok {
		return "unknown line"
	}
	return fmt.Sprintf("%s/%s:%d", path.Base(path.Dir(file)), path.Base(file), line)
}
