package processor

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/tenants"
)

// planConfig is what one attempt adds to a topology.
type planConfig struct {
	Job         tenants.JobID
	Prefix      string // what the tenant's absolute subjects begin with, last dot included
	Parallelism int
	KeyGroups   int
	Params      map[string]json.RawMessage
	Bindings    Bindings
	Tables      map[string]*TableRows // by operator
	Epoch       uint64
	Nonce       string
	// MaxKeyBytes, MaxStateBytes and MaxPendingBytes are the job's quota.
	MaxKeyBytes       int
	MaxStateBytes     int64
	MaxPendingBytes   int64
	AllowDroppedState bool
	Marks             MarkConfig
}

// plan is a topology laid out in tasks for one attempt. Tasks are built, not started.
type plan struct {
	cfg      planConfig
	topology *Topology
	params   map[param]any // *T
	tasks    []*task
	stages   []*stage
	readers  map[*node][]*node // who reads a node's output
	sources  map[string]SourceBinding
	sinks    map[string]SinkBinding
	sinkSubs map[string]int // subtasks handed out so far, by sink
	pools    map[*node]*sync.Pool
}

// stage is a part of the graph without an exchange inside: all of it runs in each of its tasks.
type stage struct {
	heads    []*node // sources, or KeyBys: several where an operator has several keyed inputs
	subtasks int
	first    int    // index of its first task
	edges    []edge // of KeyBys: whose tasks send to it, in the order of its inputs
	timed    bool   // an operator in it or below waits for watermarks or has timers
}

// edge is a stage whose every task has an input of its own into a KeyBy.
type edge struct {
	head     *node
	upstream *stage
}

// input returns the number of the input into head that upstream's subtask feeds.
func (s *stage) input(head *node, upstream *stage, subtask int) int {
	n := 0
	for _, f := range s.edges {
		if f == (edge{head, upstream}) {
			break
		}
		n += f.upstream.subtasks
	}
	return n + subtask
}

// newPlan lays a topology out. With parallelism 1 the whole job is one task. Above, every source is a task, and every KeyBy an
// exchange that begins a stage of that many tasks; operators without a key run wherever their input is made.
func newPlan(t *Topology, cfg planConfig) (*plan, error) {
	p := &plan{
		cfg: cfg, topology: t, readers: map[*node][]*node{}, sinkSubs: map[string]int{},
		sources: map[string]SourceBinding{}, sinks: map[string]SinkBinding{}, pools: map[*node]*sync.Pool{},
	}
	if cfg.KeyGroups < 1 || cfg.Parallelism < 1 || cfg.Parallelism > cfg.KeyGroups {
		return nil, Terminal(fmt.Errorf("job %s: parallelism %d with %d key groups: use 1 to the number of key groups", cfg.Job, cfg.Parallelism, cfg.KeyGroups))
	}
	var err error
	if p.params, err = t.resolveParams(cfg.Params); err != nil {
		return nil, Terminal(fmt.Errorf("job %s: %w", cfg.Job, err))
	}
	if err := p.bind(); err != nil {
		return nil, fmt.Errorf("job %s: %w", cfg.Job, err)
	}
	for _, n := range t.nodes {
		for _, in := range n.inputs {
			p.readers[in] = append(p.readers[in], n)
		}
	}
	p.layOut()
	for _, s := range p.stages {
		for sub := range s.subtasks {
			task, err := newTask(p, s, sub)
			if err != nil {
				return nil, fmt.Errorf("job %s: %w", cfg.Job, err)
			}
			p.tasks = append(p.tasks, task)
		}
	}
	p.markTimed()
	return p, nil
}

// bind checks that the broker resolved everything the topology needs.
func (p *plan) bind() error {
	for _, b := range p.cfg.Bindings.Sources {
		p.sources[b.Source] = b
	}
	for _, b := range p.cfg.Bindings.Sinks {
		p.sinks[b.Sink] = b
	}
	var errs []error
	for _, n := range p.topology.nodes {
		if _, ok := p.sources[n.name]; n.source != nil && !ok {
			errs = append(errs, fmt.Errorf("source %s is not bound to a stream", n.name))
		}
		if _, ok := p.sinks[n.name]; n.sink != nil && !ok {
			errs = append(errs, fmt.Errorf("sink %s is not bound to a stream", n.name))
		}
	}
	if _, ok := p.sinks[deadLetterSink]; !ok {
		errs = append(errs, fmt.Errorf("sink %s is not bound to a stream", deadLetterSink))
	}
	return errors.Join(errs...)
}

func (p *plan) layOut() {
	var sources, keyed []*node
	for _, n := range p.topology.nodes {
		switch n.kind {
		case KindSource, KindRules:
			sources = append(sources, n)
		case KindKeyBy, KindRulesInput:
			keyed = append(keyed, n)
		}
	}
	if p.cfg.Parallelism == 1 {
		p.stages = []*stage{{heads: sources, subtasks: 1}}
		return
	}
	for _, n := range sources {
		p.stages = append(p.stages, &stage{heads: []*node{n}, subtasks: 1})
	}
	for _, heads := range p.together(keyed) {
		p.stages = append(p.stages, &stage{heads: heads, subtasks: p.cfg.Parallelism})
	}
	first := 0
	for _, s := range p.stages {
		s.first = first
		first += s.subtasks
	}
	for _, s := range p.stages {
		for _, k := range p.exchangesBelow(s) {
			to := p.stageOf(k)
			to.edges = append(to.edges, edge{k, s})
		}
	}
	for _, s := range p.stages { // a task's inputs are numbered head by head
		slices.SortStableFunc(s.edges, func(a, b edge) int { return a.head.id - b.head.id })
	}
}

// together groups exchanges: those that one operator reads must run in the same tasks, where it finds equal keys.
func (p *plan) together(keyed []*node) [][]*node {
	group := make(map[*node]int) // nodes are in topological order: inputs are declared before what reads them
	for i, k := range keyed {
		group[k] = i
	}
	for _, n := range p.topology.nodes {
		first := -1
		for _, in := range n.inputs {
			g, ok := group[in]
			switch {
			case !ok:
			case first < 0:
				first = g
			default:
				for k, of := range group {
					if of == g {
						group[k] = first
					}
				}
			}
		}
	}
	var order []int
	heads := make(map[int][]*node)
	for _, k := range keyed {
		g := group[k]
		if heads[g] == nil {
			order = append(order, g)
		}
		heads[g] = append(heads[g], k)
	}
	out := make([][]*node, len(order))
	for i, g := range order {
		out[i] = heads[g]
	}
	return out
}

// markTimed finds the stages to which watermarks must be sent even without elements.
func (p *plan) markTimed() {
	for again := p.cfg.Parallelism > 1; again; { // else there is one stage
		again = false
		for _, s := range p.stages {
			for _, k := range p.exchangesBelow(s) {
				if to := p.stageOf(k); to != nil && to.timed && !s.timed {
					s.timed, again = true, true
				}
			}
		}
	}
}

// exchangesBelow returns the KeyBys, and the inputs of rules, that s sends to.
func (p *plan) exchangesBelow(s *stage) []*node {
	var out []*node
	seen := make(map[*node]bool)
	var walk func(n *node)
	walk = func(n *node) {
		for _, r := range p.readers[n] {
			if seen[r] {
				continue
			}
			seen[r] = true
			if r.kind == KindKeyBy || r.kind == KindRulesInput {
				out = append(out, r)
				continue
			}
			walk(r)
		}
	}
	for _, h := range s.heads {
		walk(h)
	}
	return out
}

// stageOf returns the stage that an exchange begins.
func (p *plan) stageOf(keyBy *node) *stage {
	for _, s := range p.stages {
		if slices.Contains(s.heads, keyBy) {
			return s
		}
	}
	return nil
}

// pool keeps the frames of an exchange for reuse: the receivers give back what the senders take.
func (p *plan) pool(keyBy *node) *sync.Pool {
	if p.pools[keyBy] == nil {
		p.pools[keyBy] = &sync.Pool{}
	}
	return p.pools[keyBy]
}

func (p *plan) keyGroups() int { return p.cfg.KeyGroups }

// paramText returns the JSON text of every parameter, defaults included: what the manifest keeps.
func (p *plan) paramText() map[string]string {
	if len(p.topology.params) == 0 {
		return nil
	}
	out := make(map[string]string, len(p.params))
	for _, q := range p.topology.params {
		text, err := json.Marshal(p.params[q])
		if err != nil {
			// It was made of JSON, or of a default that Build has encoded.
			text = []byte("null")
		}
		out[q.paramName()] = string(text)
	}
	return out
}

// statefulOperator is what the manifest says of an operator's state.
type statefulOperator struct {
	name  string
	infos []barriers.StateInfo
}

// statefulOperators lists the operators that have state, in the order of the topology.
func (p *plan) statefulOperators() []statefulOperator {
	var out []statefulOperator
	for _, n := range p.topology.stateful() {
		op := statefulOperator{name: n.name}
		for _, i := range p.stateInfos(n) {
			op.infos = append(op.infos, barriers.StateInfo{Name: i.Name, Kind: i.Kind, Codec: i.Codec, Version: i.Version})
		}
		out = append(out, op)
	}
	return out
}

// stateInfos lists an operator's states as its backends have them, timers included.
func (p *plan) stateInfos(n *node) []state.StateInfo {
	for _, t := range p.tasks {
		for _, s := range t.subtasks {
			if s.operator == n.name {
				return s.backend.Infos()
			}
		}
	}
	return nil
}
