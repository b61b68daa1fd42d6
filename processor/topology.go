package processor

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/tenants"
)

// Kind says what an operator does.
type Kind string

const (
	KindSource     Kind = "source"
	KindMap        Kind = "map"
	KindFlatMap    Kind = "flatmap"
	KindFilter     Kind = "filter"
	KindKeyBy      Kind = "keyby"
	KindProcess    Kind = "process"
	KindWindow     Kind = "window"
	KindJoin       Kind = "join"
	KindJoinInput  Kind = "joininput" // one side of a join, before they meet
	KindLookup     Kind = "lookup"
	KindRules      Kind = "rules"
	KindRulesInput Kind = "rulesinput" // what brings rules to one Broadcast
	KindBroadcast  Kind = "broadcast"
	KindAsync      Kind = "async"
	KindUnion      Kind = "union"
	KindSideOutput Kind = "sideoutput"
	KindSink       Kind = "sink"
	KindKVSink     Kind = "kvsink"
)

// deadLetterSink is the implicit sink that dead letters go to.
const deadLetterSink = "_dlq"

// node is one operator of the graph.
type node struct {
	b      *Builder
	id     int
	kind   Kind
	name   string // empty for keyby and sideoutput
	at     string
	inputs []*node

	source  *sourceDecl
	process *processDecl
	sink    *sinkDecl
	table   *tableDecl
	tag     outputTag // sideoutput: which
	keyOf   any       // keyby: func(T) string
	joined  bool      // keyby: a join has taken its place
	flights int       // async: how many elements a subtask may have in flight

	// collect makes the operator's function in one task: func(In), or func(string, In) behind a KeyBy.
	collect func(a *assembly, n *node) any
	// receive makes what takes the frames of a KeyBy that is an exchange.
	receive func(a *assembly, n *node) receiver
}

// label names a node for people: its own name, or that of its input.
func (n *node) label() string {
	switch {
	case n.name != "":
		return n.name
	case n.kind == KindSideOutput:
		return n.inputs[0].label() + "/" + n.tag.tagName()
	case len(n.inputs) > 0:
		return string(n.kind) + " of " + n.inputs[0].label()
	}
	return string(n.kind)
}

// Topology is an immutable graph of operators, without tenant, broker or goroutine. It may be deployed many times at once.
type Topology struct {
	name        string
	nodes       []*node
	params      []param // by name
	fingerprint string
}

func newTopology(b *Builder) *Topology {
	t := &Topology{name: b.name, nodes: b.kept()}
	seen := make(map[string]bool)
	for _, n := range t.nodes {
		if n.process == nil {
			continue
		}
		for _, p := range n.process.params {
			if !seen[p.paramName()] {
				seen[p.paramName()] = true
				t.params = append(t.params, p)
			}
		}
	}
	slices.SortFunc(t.params, func(a, b param) int { return strings.Compare(a.paramName(), b.paramName()) })
	t.fingerprint = t.hash()
	return t
}

// Name returns the topology's name.
func (t *Topology) Name() string { return t.name }

// Fingerprint identifies the graph: operators, kinds, edges, filters and states. Functions are not part of it.
func (t *Topology) Fingerprint() string { return t.fingerprint }

func (t *Topology) hash() string {
	h := sha256.New()
	fmt.Fprintf(h, "weir topology 1\n%s\n", t.name)
	for _, n := range t.nodes {
		fmt.Fprintf(h, "%d %s %q", n.id, n.kind, n.label())
		for _, in := range n.inputs {
			fmt.Fprintf(h, " <%d", in.id)
		}
		if n.source != nil {
			fmt.Fprintf(h, " %q %q %q", n.source.stream, n.source.filters, n.source.codec)
			if n.source.bucket != "" {
				fmt.Fprintf(h, " %q %t", n.source.bucket, n.source.shared)
			}
		}
		if n.sink != nil {
			fmt.Fprintf(h, " %q %q %t", n.sink.stream, n.sink.bucket, n.sink.atLeastOnce)
		}
		if n.table != nil {
			fmt.Fprintf(h, " %q %q %t", n.table.bucket, n.table.codec, n.table.shared)
		}
		if n.process != nil {
			for _, d := range n.process.states {
				i := d.Info()
				fmt.Fprintf(h, " %s/%s/%s/%d", i.Name, i.Kind, i.Codec, i.Version)
			}
		}
		fmt.Fprintln(h)
	}
	return hex.EncodeToString(h.Sum(nil)[:12])
}

// OperatorInfo describes an operator of a topology.
type OperatorInfo struct {
	Name     string // the operator's, or "keyby of orders", "dedupe/refunds"
	Kind     Kind
	Inputs   []string
	Declared string // folder/file.go:line
	States   []state.StateInfo
	Params   []string
	Tags     []string
	Table    string // the KV bucket that a lookup reads
}

// Operators describes the operators in the order of their declaration.
func (t *Topology) Operators() []OperatorInfo {
	out := make([]OperatorInfo, 0, len(t.nodes))
	for _, n := range t.nodes {
		o := OperatorInfo{Name: n.label(), Kind: n.kind, Declared: n.at}
		for _, in := range n.inputs {
			o.Inputs = append(o.Inputs, in.label())
		}
		if n.table != nil {
			o.Table = n.table.bucket
		}
		if p := n.process; p != nil {
			for _, d := range p.states {
				o.States = append(o.States, d.Info())
			}
			for _, q := range p.params {
				o.Params = append(o.Params, q.paramName())
			}
			for _, g := range p.tags {
				o.Tags = append(o.Tags, g.tagName())
			}
		}
		out = append(out, o)
	}
	return out
}

// ParamInfo describes a parameter of a topology.
type ParamInfo struct {
	Name    string
	Type    string          // the Go type
	Default json.RawMessage // as JSON
}

// Params describes the parameters a tenant may set, by name.
func (t *Topology) Params() []ParamInfo {
	out := make([]ParamInfo, len(t.params))
	for i, p := range t.params {
		out[i] = p.info()
	}
	return out
}

// ValidateParams checks a tenant's parameters: each must be one of the topology's, decode into its type and pass its
// validators. All problems are reported at once.
func (t *Topology) ValidateParams(params map[string]json.RawMessage) error {
	_, err := t.resolveParams(params)
	return err
}

// resolveParams returns the value of every parameter of the topology.
func (t *Topology) resolveParams(set map[string]json.RawMessage) (map[param]any, error) {
	var errs []error
	values := make(map[param]any, len(t.params))
	known := make(map[string]bool, len(t.params))
	for _, p := range t.params {
		known[p.paramName()] = true
		v, err := p.resolve(set[p.paramName()])
		if err != nil {
			errs = append(errs, err)
			continue
		}
		values[p] = v
	}
	for _, name := range sortedKeys(set) {
		if !known[name] {
			errs = append(errs, fmt.Errorf("parameter %q: topology %s has none of this name; it has %s", name, t.name, t.paramNames()))
		}
	}
	return values, errors.Join(errs...)
}

func (t *Topology) paramNames() string {
	if len(t.params) == 0 {
		return "no parameters"
	}
	names := make([]string, len(t.params))
	for i, p := range t.params {
		names[i] = p.paramName()
	}
	return strings.Join(names, ", ")
}

// Needs returns what a job of this topology needs of the broker. The implicit dead-letter sink comes last.
func (t *Topology) Needs(job tenants.JobID, ns tenants.Namespace) Needs {
	needs := Needs{Job: job}
	for _, n := range t.nodes {
		switch {
		case n.kind == KindRules:
			needs.Sources = append(needs.Sources, n.source.rulesNeed(n.name))
		case n.source != nil:
			needs.Sources = append(needs.Sources, SourceNeed{
				Source: n.name, Stream: n.source.stream, Filter: n.source.cover, Filters: n.source.filters, InStream: n.source.barriers == BarriersInStream,
			})
		case n.sink != nil:
			needs.Sinks = append(needs.Sinks, n.sink.need(n.name, job, ns))
		case n.table != nil:
			needs.Tables = append(needs.Tables, TableNeed{Operator: n.name, Bucket: n.table.bucket, Shared: n.table.shared})
		}
	}
	needs.Sinks = append(needs.Sinks, SinkNeed{Sink: deadLetterSink, DeadLetters: true})
	return needs
}

// BarriersAtReader reports whether a source asks for barriers at the reader. The carrier is chosen for all sources of a job
// alike, so one such source decides for all.
func (t *Topology) BarriersAtReader() bool {
	for _, n := range t.nodes {
		if n.source != nil && n.source.barriers == BarriersAtReader {
			return true
		}
	}
	return false
}

// maxWidth bounds the objects that one checkpoint may add to a manifest, which must fit one message of 1 MiB.
const maxWidth = 2000

// width is the number of snapshot objects that a checkpoint has for each subtask at least: states, sinks, dead letters.
func (t *Topology) width() int {
	n := len(t.stateful()) + 1
	for _, o := range t.nodes {
		if o.sink != nil && !o.sink.atLeastOnce {
			n++
		}
	}
	return n
}

// stateful returns the operators with keyed state or timers, by name.
func (t *Topology) stateful() []*node {
	var out []*node
	for _, n := range t.nodes {
		if n.process != nil && n.process.stateful() {
			out = append(out, n)
		}
	}
	return out
}

// Descriptors returns the states of each stateful operator, by the operator's name.
func (t *Topology) Descriptors() map[string][]state.Descriptor {
	out := make(map[string][]state.Descriptor)
	for _, n := range t.stateful() {
		out[n.name] = slices.Clone(n.process.states)
	}
	return out
}
