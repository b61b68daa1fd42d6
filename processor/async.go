package processor

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
)

// Limits and defaults of AsyncSpec.
const (
	DefaultAsyncConcurrency = 64
	DefaultAsyncTimeout     = 30 * time.Second
	DefaultAsyncAttempts    = 3
	DefaultAsyncBackoff     = 100 * time.Millisecond
	maxAsyncConcurrency     = 10_000
	maxAsyncAttempts        = 1000
	maxAsyncBackoff         = 30 * time.Second
)

// AsyncSpec says how Async calls. The zero value is ordered, with the defaults.
type AsyncSpec[In any] struct {
	// Codec is how elements in flight are kept in checkpoints; nil: codec.Default.
	Codec codec.Codec[In]
	// State are further options of the state that keeps them: state.SchemaVersion, state.Upcast.
	State []state.Option
	// Unordered lets results out as they come. The default is the order of the elements of each key; between keys there is none.
	Unordered bool
	// Concurrency is how many elements of a subtask may be in flight, so that many calls may be under way at once; while so many are,
	// its task reads nothing. 1 to 10,000; zero: DefaultAsyncConcurrency. A record that makes several elements may go beyond, and
	// those wait uncalled.
	Concurrency int
	// Timeout bounds one try; zero: DefaultAsyncTimeout. Make it shorter than the checkpoint timeout: a drain waits for calls within it.
	Timeout time.Duration
	// Retry says how often a call that failed is made again.
	Retry Retry
	// Exhausted says what becomes of an element whose last try has failed.
	Exhausted AsyncExhausted
}

// Retry says how often a call is tried.
type Retry struct {
	// Attempts is the number of tries in all; 1: never again; zero: DefaultAsyncAttempts. A restart begins to count anew.
	Attempts int
	// Backoff is the wait before the second try. It doubles with each further one, up to 30 s. Zero: DefaultAsyncBackoff.
	Backoff time.Duration
}

// AsyncExhausted says what becomes of an element whose last try has failed.
type AsyncExhausted uint8

const (
	// AsyncDeadLetter sends its record to the dead letters, with the number of tries and the last error. The default.
	AsyncDeadLetter AsyncExhausted = iota
	// AsyncRestart restarts the job from its last checkpoint: nothing is left out, and the job stands still while what is called does not
	// answer.
	AsyncRestart
)

// Async calls something outside of the job for every element of a keyed stream, without waiting for the answer: the task goes on, and
// the result is emitted when it is there, with the event time and the record of its element. call runs in goroutines of its own, many
// at a time, also for elements of one key. It must be safe for that, must not change v, and must return soon after its context ends.
//
// Results are exactly once, calls at least once: an element in flight is keyed state until its result is emitted, a checkpoint does
// not wait for it, and after a restart, a rescale or a start from a savepoint it is called again. So make calls that change
// something idempotent.
//
// In each key results keep the order of the elements, unless the spec is Unordered. In either case the watermark waits for the
// elements that came before it: a result is late further down only if its element was late here. A call that is slow holds up the
// watermark, and results of its own key if ordered, but no other key.
//
// An error made with Poison sends the record to the dead letters at once, one made with Terminal ends the job, a panic restarts it. Any
// other error, or no answer within Timeout, is a failed try, see Retry and Exhausted. A call that goes on behind its timeout is abandoned:
// its answer is ignored, and it keeps one of Concurrency calls until it returns; when all are kept like that, the job restarts.
func Async[In, Out any](s KeyedStream[In], name string, spec AsyncSpec[In], call func(ctx context.Context, v In) (Out, error)) Stream[Out] {
	at := callerLine(2)
	in := s.node(at)
	opts := spec.State
	if spec.Codec != nil {
		opts = append([]state.Option{state.Codec(spec.Codec)}, opts...)
	}
	elements := state.NewMap[uint64, In]("elements", opts...)
	records := state.NewMap[uint64, asyncRecord]("records", state.Codec[asyncRecord](asyncRecordCodec{}))
	decl := &processDecl{uses: []Declared{elements, records}}
	n := in.b.add(&node{kind: KindAsync, name: name, at: at, inputs: []*node{in}, process: decl}, true)
	n.require(call == nil, "its function is nil")
	spec.check(n)
	n.require(elements.Info().Expiry != state.NoExpiry, "AsyncSpec.State has a TTL: an element in flight must not expire")
	decl.sort(n)
	spec = spec.withDefaults()
	n.flights = spec.Concurrency
	n.collect = func(a *assembly, n *node) any {
		pc := &Context[Out]{out: fan[Out](a, n)}
		pc.bind(a, n)
		if pc.backend == nil {
			return func(string, In) {} // the assembly has the error
		}
		op := &asyncOp[In, Out]{
			task: a.task, pc: &pc.opContext, id: n.id, elements: elements, records: records, call: call, out: pc.out, line: pc.time,
			ordered: !spec.Unordered, limit: spec.Concurrency, timeout: spec.Timeout, retry: spec.Retry, exhausted: spec.Exhausted,
			keys: map[string]*asyncKey[In, Out]{}, refs: a.plan.sourceRefs(),
		}
		op.segments.released, op.segments.seen = noWatermark, noWatermark
		pc.time.gate = op.gate
		a.stage.timed = true // a drain waits for calls behind the final watermark
		a.task.addAsync(op)
		return op.element
	}
	return Stream[Out]{n}
}

// check records mistakes of the spec.
func (s *AsyncSpec[In]) check(n *node) {
	n.require(s.Concurrency < 0 || s.Concurrency > maxAsyncConcurrency, fmt.Sprintf("AsyncSpec.Concurrency is %d: use 1 to %d, or 0 for %d", s.Concurrency, maxAsyncConcurrency, DefaultAsyncConcurrency))
	n.require(s.Timeout < 0, fmt.Sprintf("AsyncSpec.Timeout is %v: use a positive duration, or 0 for %v", s.Timeout, DefaultAsyncTimeout))
	n.require(s.Retry.Attempts < 0 || s.Retry.Attempts > maxAsyncAttempts, fmt.Sprintf("AsyncSpec.Retry.Attempts is %d: use 1 to %d, or 0 for %d", s.Retry.Attempts, maxAsyncAttempts, DefaultAsyncAttempts))
	n.require(s.Retry.Backoff < 0, fmt.Sprintf("AsyncSpec.Retry.Backoff is %v: use a positive duration, or 0 for %v", s.Retry.Backoff, DefaultAsyncBackoff))
	n.require(s.Exhausted > AsyncRestart, fmt.Sprintf("AsyncSpec.Exhausted is %d: use AsyncDeadLetter or AsyncRestart", s.Exhausted))
}

func (s AsyncSpec[In]) withDefaults() AsyncSpec[In] {
	setDefault(&s.Concurrency, DefaultAsyncConcurrency)
	setDefault(&s.Timeout, DefaultAsyncTimeout)
	setDefault(&s.Retry.Attempts, DefaultAsyncAttempts)
	setDefault(&s.Retry.Backoff, DefaultAsyncBackoff)
	return s
}

// sourceRefs returns the topology's sources by name, for elements that come from the state.
func (p *plan) sourceRefs() map[string]*sourceRef {
	refs := make(map[string]*sourceRef, len(p.sources))
	for name, b := range p.sources {
		refs[name] = &sourceRef{name: name, stream: b.Stream, prefix: p.cfg.Prefix}
	}
	return refs
}

// frameLimit bounds the elements of a frame to a stage. A barrier waits behind what was sent before it, and all inputs for the last of their
// barriers: so what is on its way to a full Async, on all of its inputs, must not take much longer than what it has in flight.
func (p *plan) frameLimit(s *stage) int {
	inputs := 0
	for _, e := range s.edges {
		inputs += e.upstream.subtasks
	}
	return min(frameElements, p.flightsBelow(s)/(inputCredits*max(1, inputs))+1)
}

// flightsBelow returns the least that an Async of the stage, or of one below, may have in flight.
func (p *plan) flightsBelow(s *stage) int {
	most := math.MaxInt32
	seen := make(map[*node]bool)
	var walk func(n *node)
	walk = func(n *node) {
		for _, r := range p.readers[n] {
			if seen[r] {
				continue
			}
			seen[r] = true
			if r.kind == KindAsync {
				most = min(most, r.flights)
			}
			walk(r)
		}
	}
	for _, h := range s.heads {
		walk(h)
	}
	return most
}

// batchLimit bounds the records of a source's batch. A task that sends to a full Async is not done with its batch before that has taken all of
// it, and hears of no checkpoint until then.
func (p *plan) batchLimit(t *task) int {
	for _, s := range p.stages {
		if len(t.exchanges) > 0 && t.index >= s.first && t.index < s.first+s.subtasks {
			return min(maxBatchRecords, p.flightsBelow(s)/inputCredits+1)
		}
	}
	return maxBatchRecords
}
