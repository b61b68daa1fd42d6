package processor

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/tenants"
)

// interleaving runs a job's tasks with every queue between them visible, and moves one event of a random queue at a time: data
// and control events overtake each other as goroutines would let them.
type interleaving struct {
	t       *testing.T
	rnd     *rand.Rand
	commits int
	between int // barriers that an operator behind an exchange took between two slices of what it fires
	topo    *Topology
	sources []string
	verify  func() // judges what is committed
	settled func() // hears that nothing moves any more: the next checkpoint has everything that was written; nil: nobody
	drain   bool   // finish ends event time
	slice   int    // what a step may fire; 0: as in production
	plan    *plan
	data    [][][]event // by task and input
	control [][]event   // by task
	epoch   uint64

	streams map[string][]Record // whole input
	read    map[string]int      // records handed to the reader

	next      uint64 // checkpoint ID
	pending   uint64
	snapshots map[int]*taskSnapshot
	committed *ledger
}

// ledger is what is committed: what a crash leaves.
type ledger struct {
	checkpoint uint64
	positions  map[string]barriers.Source
	chains     map[string][][]byte
	watermarks map[string]*int64
	output     map[string][]string
}

type interleavingHost struct {
	run  *interleaving
	task int
}

func (h interleavingHost) send(task, input int, f *frame) error {
	h.run.data[task][input] = append(h.run.data[task][input], evFrame{input: input, frame: f})
	return nil
}
func (h interleavingHost) consumed(int) {}
func (h interleavingHost) over() bool   { return false }
func (h interleavingHost) call(_ time.Duration, _ func() Where, run func(context.Context) event) time.Time {
	h.run.control[h.task] = append(h.run.control[h.task], run(context.Background()))
	return h.now()
}
func (h interleavingHost) snapshot(s *taskSnapshot) {
	if t := h.run.plan.tasks[h.task]; t.busy() && !t.readsSources() {
		h.run.between++
	}
	if s.checkpoint == h.run.pending { // else it was aborted, and the task has not heard of it yet
		h.run.snapshots[s.task] = s
	}
}
func (h interleavingHost) wake(time.Time)  {}
func (h interleavingHost) dirty(int)       {}
func (h interleavingHost) notify(ctlEvent) {}
func (h interleavingHost) now() time.Time  { return time.Unix(0, 0) }
func (h interleavingHost) publish(context.Context, string, Message, func(error)) error {
	return nil
}

var (
	firstCount  = state.NewValue[int64]("first")
	secondCount = state.NewValue[int64]("second")
)

func counting(desc *state.Value[int64]) func(*Context[string], string) error {
	return func(pc *Context[string], s string) error {
		n, err := desc.Get(pc)
		if err != nil {
			return err
		}
		pc.Emit(fmt.Sprintf("%s %d", pc.Key(), n+1))
		return desc.Set(pc, n+1)
	}
}

func interleavedTopology(t *testing.T) *Topology {
	b := NewBuilder("interleaved")
	both := Union("both", lines(b, "a"), lines(b, "b"))
	first := Process(KeyBy(both, self), "first", counting(firstCount), Uses(firstCount))
	to(first, "words")
	letters := Union("letters", Map(first, "letter", func(s string) string { return s[:1] }), Map(lines(b, "c"), "letter-c", func(s string) string { return s[:1] }))
	to(Process(KeyBy(letters, self), "second", counting(secondCount), Uses(secondCount)), "initials")
	topo, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return topo
}

func newInterleaving(t *testing.T, seed uint64, topo *Topology, sources ...string) *interleaving {
	return &interleaving{
		t: t, rnd: rand.New(rand.NewPCG(seed, 0)), topo: topo, sources: sources, streams: map[string][]Record{}, read: map[string]int{},
		committed: &ledger{positions: map[string]barriers.Source{}, chains: map[string][][]byte{}, watermarks: map[string]*int64{}, output: map[string][]string{}},
	}
}

// begin lays the job out and restores what is committed.
func (r *interleaving) begin() {
	r.epoch++
	r.pending, r.snapshots = 0, map[int]*taskSnapshot{}
	needs := r.topo.Needs(testJob, tenants.DefaultNamespace)
	p, err := newPlan(r.topo, planConfig{
		Job: testJob, Prefix: "acme.", Parallelism: 1 + r.rnd.IntN(4), KeyGroups: 8, Epoch: r.epoch, Nonce: fmt.Sprint("n", r.epoch),
		Bindings: bedBindings(needs),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.plan, r.data, r.control = p, make([][][]event, len(p.tasks)), make([][]event, len(p.tasks))
	for i, task := range p.tasks {
		r.data[i] = make([][]event, task.numInputs())
		task.bind(interleavingHost{r, i})
		if r.slice > 0 {
			task.slice = r.slice
		}
		for _, s := range task.stateful() {
			s.time.restore(r.committed.watermarks[s.operator])
			if err := s.backend.Restore(r.committed.chains[s.operator]); err != nil {
				r.t.Fatal(err)
			}
		}
		task.start(r.committed.positions)
	}
	for name, src := range r.streams {
		r.read[name] = 0
		for _, rec := range src {
			if rec.Seq <= r.committed.positions[name].Position {
				r.read[name]++
			}
		}
	}
}

func (r *interleaving) input(source string) (task, input int) {
	for i, t := range r.plan.tasks {
		if in := slices.Index(t.sourceInputs(), source); in >= 0 {
			return i, in
		}
	}
	r.t.Fatalf("no source %s", source)
	return 0, 0
}

func (r *interleaving) write(source string, rec Record) {
	rec.Seq = uint64(len(r.streams[source]) + 1)
	r.streams[source] = append(r.streams[source], rec)
}

// deliver moves some records from a stream into the reader's queue.
func (r *interleaving) deliver(source string, n int) {
	from := r.read[source]
	to := min(from+n, len(r.streams[source]))
	if from == to {
		return
	}
	r.read[source] = to
	task, input := r.input(source)
	records := slices.Clone(r.streams[source][from:to])
	for i := range records {
		records[i].Data = slices.Clone(records[i].Data)
	}
	r.data[task][input] = append(r.data[task][input], evBatch{input: input, batch: Batch{Records: records, Position: uint64(to)}})
}

func (r *interleaving) trigger(inject bool) {
	if r.pending == 0 {
		r.next++
		r.pending = r.next
		if !inject {
			for _, s := range r.sources {
				rec := barrierRec(s, func(b *barriers.Barrier) {
					b.Epoch, b.Checkpoint, b.Nonce = r.epoch, r.pending, fmt.Sprint("n", r.epoch)
				})
				r.write(s, rec)
			}
		}
	}
	for i, t := range r.plan.tasks {
		if t.readsSources() {
			r.control[i] = append(r.control[i], evTrigger{checkpoint: r.pending, nonce: fmt.Sprint("n", r.epoch), inject: inject})
		}
	}
}

func (r *interleaving) tellAll(ev event) {
	for i := range r.control {
		r.control[i] = append(r.control[i], ev)
	}
	r.pending, r.snapshots = 0, map[int]*taskSnapshot{}
}

func (r *interleaving) commit() {
	if r.pending == 0 || len(r.snapshots) != len(r.plan.tasks) {
		return
	}
	l := r.committed
	l.checkpoint = r.pending
	cp := &pendingCheckpoint{}
	for _, s := range r.snapshots {
		cp.observe(s)
	}
	for i := range r.plan.tasks {
		s := r.snapshots[i]
		for _, src := range s.sources {
			l.positions[src.Name] = src
		}
		for _, st := range s.states {
			l.watermarks[st.operator] = cp.watermark(st.operator)
			objects, err := st.frozen.Encode(1 << 20)
			if err != nil {
				r.t.Fatal(err)
			}
			for _, o := range objects {
				l.chains[st.operator] = append(l.chains[st.operator], o.Data)
			}
		}
		for _, o := range s.outputs {
			for m := range o.output.From(0) {
				l.output[o.sink] = append(l.output[o.sink], string(m.Data))
			}
		}
	}
	r.commits++
	r.tellAll(evCommitted{l.checkpoint})
	r.verify()
}

// check compares what is committed with a naive count over the committed part of the input.
func (r *interleaving) check() {
	words, letters := map[string]int{}, map[string]int{}
	for _, source := range []string{"a", "b", "c"} {
		for _, rec := range r.streams[source] {
			if rec.Header != nil || rec.Seq > r.committed.positions[source].Position {
				continue
			}
			if source != "c" {
				words[string(rec.Data)]++
			}
			letters[string(rec.Data[:1])]++
		}
	}
	for sink, want := range map[string]map[string]int{"words": words, "initials": letters} {
		got := map[string]int{}
		for _, line := range r.committed.output[sink] {
			key, n, _ := strings.Cut(line, " ")
			got[key]++
			if n != fmt.Sprint(got[key]) {
				r.t.Fatalf("checkpoint %d: sink %s has %q as number %d of its key: %q", r.committed.checkpoint, sink, line, got[key], r.committed.output[sink])
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			r.t.Fatalf("checkpoint %d: sink %s counts %v, the input up to there has %v", r.committed.checkpoint, sink, got, want)
		}
	}
	if dead := r.committed.output[deadLetterSink]; len(dead) > 0 {
		r.t.Fatalf("dead letters: %q", dead)
	}
}

// move steps a task with the event at the head of one queue.
func (r *interleaving) move() {
	type place struct{ task, input int } // input -1: control, -2: it goes on by itself
	var places []place
	for task := range r.plan.tasks {
		if len(r.control[task]) > 0 {
			places = append(places, place{task, -1})
		}
		if r.plan.tasks[task].unfinished() {
			places = append(places, place{task, -2})
		}
		for input, q := range r.data[task] {
			if len(q) > 0 {
				places = append(places, place{task, input})
			}
		}
	}
	if len(places) == 0 {
		return
	}
	p := places[r.rnd.IntN(len(places))]
	var ev event = evContinue{}
	if p.input > -2 {
		q := &r.control[p.task]
		if p.input >= 0 {
			q = &r.data[p.task][p.input]
		}
		ev = (*q)[0]
		*q = (*q)[1:]
	}
	if err := r.plan.tasks[p.task].step(ev); err != nil {
		r.t.Fatal(err)
	}
}

func (r *interleaving) queued() int {
	n := 0
	for task := range r.plan.tasks {
		n += len(r.control[task])
		if r.plan.tasks[task].unfinished() {
			n++
		}
		for _, q := range r.data[task] {
			n += len(q)
		}
	}
	return n
}

// finish reads and commits everything, whatever was under way.
func (r *interleaving) finish() {
	if r.pending != 0 {
		r.tellAll(evAborted{r.pending})
	}
	for _, s := range r.sources {
		r.deliver(s, 1<<20)
	}
	for r.queued() > 0 {
		r.move()
	}
	if r.drain {
		for i, t := range r.plan.tasks {
			if t.readsSources() {
				r.control[i] = append(r.control[i], evFinish{})
			}
		}
	}
	if r.settled != nil {
		r.settled()
	}
	r.trigger(true)
	for r.queued() > 0 {
		r.move()
	}
	last := r.pending
	r.commit()
	if r.committed.checkpoint != last || last == 0 {
		r.t.Fatalf("the last checkpoint %d did not complete", last)
	}
}

// Whatever overtakes what, aborts and crashes included, what is committed is a naive count of the committed input. A failure
// prints its seed; -interleaving-seed replays it.
func TestInterleavings(t *testing.T) {
	first, last := uint64(1), uint64(500)
	if *interleavingSeed != 0 {
		first, last = *interleavingSeed, *interleavingSeed
	}
	commits := 0
	for seed := first; seed <= last && !t.Failed(); seed++ {
		commits += interleave(t, seed)
	}
	if commits < 2*int(last-first+1) {
		t.Errorf("%d commits in %d runs: the runs test too little", commits, last-first+1)
	}
}

var interleavingSeed = flag.Uint64("interleaving-seed", 0, "run this seed of TestInterleavings only")

func interleave(t *testing.T, seed uint64) int {
	defer func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	}()
	r := newInterleaving(t, seed, interleavedTopology(t), "a", "b", "c")
	r.verify = r.check
	words := []string{"ape", "ant", "bee", "bat", "cat", "cow", "dog"}
	r.run(func(source string) Record { return rec(source, words[r.rnd.IntN(len(words))]) })
	return r.commits
}

// run lets everything happen at random, input included, and then reads and commits the rest, twice.
func (r *interleaving) run(next func(source string) Record) {
	r.begin()
	for range 50 + r.rnd.IntN(400) {
		source := r.sources[r.rnd.IntN(len(r.sources))]
		switch k := r.rnd.IntN(64); {
		case k < 16:
			r.write(source, next(source))
		case k < 24:
			r.deliver(source, 1+r.rnd.IntN(4))
		case k < 27:
			r.trigger(r.rnd.IntN(2) == 0)
		case k < 31:
			r.commit()
		case k < 32:
			if r.pending != 0 {
				r.tellAll(evAborted{r.pending})
			}
		case k < 33:
			if r.rnd.IntN(4) == 0 {
				r.begin() // a crash
			}
		default:
			r.move()
		}
	}
	r.finish()
	r.begin() // is everything in the snapshots that was in memory?
	for range 20 {
		r.write(r.sources[0], next(r.sources[0]))
	}
	r.finish()
}
