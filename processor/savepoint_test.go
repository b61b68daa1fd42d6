package processor_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/processor/processortest"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// heard collects what a listener hears.
type heard struct {
	mu         sync.Mutex
	savepoints []processor.SavepointEvent
	marks      []processor.MarkEvent
}

func (h *heard) listener() processor.Listener {
	return processor.Listener{
		Savepoint: func(ev processor.SavepointEvent) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.savepoints = append(h.savepoints, ev)
		},
		Mark: func(ev processor.MarkEvent) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.marks = append(h.marks, ev)
		},
	}
}

func (h *heard) all() ([]processor.SavepointEvent, []processor.MarkEvent) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.savepoints), slices.Clone(h.marks)
}

// markText describes the marks heard of, in order.
func (h *heard) markText() string {
	var out []string
	_, marks := h.all()
	for _, m := range marks {
		out = append(out, fmt.Sprintf("%s %d %s%s", m.Mark.Source, m.Mark.Seq, m.State, strings.TrimRight(" "+m.Reason, " ")))
	}
	return strings.Join(out, "; ")
}

// twoSources counts the words of two sources together, per word.
func twoSources(t *testing.T) *processor.Topology {
	t.Helper()
	b := processor.NewBuilder("two")
	left := processor.From(b, "left", processor.SourceSpec[string]{Filters: []tenants.Filter{"left"}, Codec: codec.String()})
	right := processor.From(b, "right", processor.SourceSpec[string]{Filters: []tenants.Filter{"right.>"}, Codec: codec.String()})
	both := processor.Union("both", left, right)
	counts := processor.Process(processor.KeyBy(both, func(w string) string { return w }), "count",
		countWord, processor.Uses(wordTotal))
	publishCounts(counts)
	return built(t, b)
}

var twoJob = tenants.JobID{Tenant: "acme", Name: "two"}

// sourceSubjects says under what a source of a job reads.
var sourceSubjects = map[string]string{"left": "acme.left", "right": "acme.right.>", "words": "acme.words"}

// modelOf counts the words that a savepoint must have counted: all elements of each source up to its position. What has a header is a
// barrier or a mark.
func modelOf(m *processortest.Memory, positions map[string]processor.Position) map[string]int64 {
	want := map[string]int64{}
	for source, at := range positions {
		for _, r := range m.Messages(at.Stream, sourceSubjects[source]) {
			if r.Seq <= at.Sequence && r.Header == nil {
				want[string(r.Data)]++
			}
		}
	}
	return want
}

// checkSavepoint compares a savepoint's state with a naive count up to its positions.
func checkSavepoint(ctx context.Context, m *processortest.Memory, topology *processor.Topology, job tenants.JobID, name string) error {
	sp, err := processor.OpenSavepoint(ctx, m, topology, job, name)
	if err != nil {
		return err
	}
	op, err := sp.Operator(ctx, "count")
	if err != nil {
		return err
	}
	want := modelOf(m, sp.Positions())
	got := map[string]int64{}
	keys, err := op.Keys(wordTotal)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if got[key], err = wordTotal.Get(op.Key(key)); err != nil {
			return err
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		return fmt.Errorf("savepoint %s at %v counts %v, the input up to there has %v", name, sp.Positions(), got, want)
	}
	return nil
}

// checkNothingLeft verifies that only what the head and the savepoints refer to is stored.
func checkNothingLeft(t *testing.T, m *processortest.Memory, job tenants.JobID) {
	t.Helper()
	ask := func(r barriers.Request) barriers.Reply { return m.Do(t.Context(), job, r) }
	used := map[string]bool{}
	use := func(mf *barriers.Manifest) {
		for _, op := range mf.Operators {
			for _, o := range op.Chain {
				used[o.Name] = true
			}
		}
		for _, k := range mf.Sinks {
			for _, o := range k.Pending {
				used[o.Name] = true
			}
		}
	}
	head := headOf(t, m, job).Head
	for _, ref := range append(slices.Clone(head.Retained), barriers.ManifestRef{Checkpoint: head.Checkpoint, Seq: head.ManifestSeq, Digest: head.Digest}) {
		use(must[*barriers.Manifest](t)(barriers.ReadManifest(ask, string(job.Tenant), job.Name, ref)))
	}
	list := must[[]*barriers.Manifest](t)(barriers.ListSavepoints(ask, string(job.Tenant), job.Name))
	for _, mf := range list {
		use(mf)
	}
	stored := map[string]bool{}
	for _, o := range m.Do(t.Context(), job, barriers.Request{Op: barriers.OpListObjects}).Objects {
		stored[o.Name] = true
		if !used[o.Name] {
			t.Errorf("object %s is left behind", o.Name)
		}
	}
	for name := range used {
		if !stored[name] {
			t.Errorf("object %s is missing", name)
		}
	}
	records := m.Do(t.Context(), job, barriers.Request{Op: barriers.OpListRecords, Key: barriers.HeadKey(string(job.Tenant), job.Name)}).Names
	savepoints := 0
	for _, key := range records {
		if strings.Contains(key, ".savepoint.") {
			savepoints++
		}
	}
	if savepoints != len(list) {
		t.Errorf("%d records of savepoints, %d savepoints", savepoints, len(list))
	}
}

func publish(t *testing.T, m *processortest.Memory, subject string, words ...string) {
	t.Helper()
	for _, w := range words {
		must[uint64](t)(m.PublishTo(subject, nil, []byte(w)))
	}
}

func publishMark(t *testing.T, m *processortest.Memory, subject string, values ...string) uint64 {
	t.Helper()
	return must[uint64](t)(m.PublishTo(subject, map[string][]string{processor.HeaderMark: values}, []byte("a mark")))
}

func eachParallelism(t *testing.T, test func(t *testing.T, parallelism int)) {
	for _, p := range []int{1, 4} {
		t.Run(fmt.Sprintf("parallelism %d", p), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, p) })
		})
	}
}

func TestSavepointOfARunningJob(t *testing.T) {
	eachParallelism(t, func(t *testing.T, parallelism int) {
		m := newMemory("acme")
		h := &heard{}
		w := startWorker(t, m, "w1", h.listener())
		topology := twoSources(t)
		w.deploy(t, topology, "acme", processor.JobConfig{Parallelism: parallelism, MergeAfter: 2})
		w.run()
		for n := range 5 {
			publish(t, m, "acme.left", "a", "b")
			publish(t, m, "acme.right.x", "b", fmt.Sprint("c", n))
			time.Sleep(200 * time.Millisecond)
		}
		rep := must[processor.SavepointReport](t)(w.rt.TakeSavepoint(t.Context(), twoJob, processor.SavepointRequest{Name: "first", Request: "r1"}))
		if rep.Name != "first" || rep.Bytes == 0 || rep.Objects == 0 || rep.Checkpoint == 0 || rep.Topology != "two" || len(rep.Positions) != 2 {
			t.Errorf("the report is %+v", rep)
		}
		again := must[processor.SavepointReport](t)(w.rt.TakeSavepoint(t.Context(), twoJob, processor.SavepointRequest{Name: "first", Request: "r1"}))
		if fmt.Sprint(again) != fmt.Sprint(rep) {
			t.Errorf("the same request says %+v, then %+v", rep, again)
		}
		for _, other := range []string{"another", ""} {
			_, err := w.rt.TakeSavepoint(t.Context(), twoJob, processor.SavepointRequest{Name: "first", Request: other})
			wantReason(t, err, processor.ReasonConflict)
		}
		_, err := w.rt.TakeSavepoint(t.Context(), twoJob, processor.SavepointRequest{Name: "No Name"})
		wantReason(t, err, processor.ReasonBadRequest)
		for n := range 20 { // what the savepoint was made of is dropped
			publish(t, m, "acme.left", fmt.Sprint("d", n))
			time.Sleep(150 * time.Millisecond)
		}
		if err := checkSavepoint(t.Context(), m, topology, twoJob, "first"); err != nil {
			t.Error(err)
		}
		events, _ := h.all()
		last := events[len(events)-1]
		if events[0].State != processor.SavepointStarted || last.State != processor.SavepointMade || last.Bytes != rep.Bytes {
			t.Errorf("the events are %+v", events)
		}
		must[processor.StopReport](t)(w.rt.Stop(t.Context(), twoJob, processor.StopRequest{}))
		w.crash(t)
		checkNothingLeft(t, m, twoJob)
		checkCounts(t, m, "acme", map[string]int64{"a": 5, "b": 10, "d19": 1})
	})
}

// slow holds the uploads that it is to hold back until it is let go, and once it is armed the first object that is read.
type slow struct {
	*processortest.Memory
	gate  chan struct{}
	holds func(name string) bool
	armed atomic.Bool
}

// newSlow returns a broker that holds back every upload of a savepoint but the first few.
func newSlow(first int64) *slow {
	return &slow{Memory: newMemory("acme"), gate: make(chan struct{}), holds: func(name string) bool {
		if strings.Contains(name, "/savepoint-") {
			first--
			return first < 0
		}
		return false
	}}
}

func (b *slow) wait(ctx context.Context) error {
	select {
	case <-b.gate:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (b *slow) Put(ctx context.Context, tenant tenants.ID, name string, data []byte) (barriers.Object, error) {
	if b.holds(name) {
		if err := b.wait(ctx); err != nil {
			return barriers.Object{}, err
		}
	}
	return b.Memory.Put(ctx, tenant, name, data)
}

func (b *slow) Get(ctx context.Context, tenant tenants.ID, ref barriers.Object) ([]byte, error) {
	if b.armed.CompareAndSwap(true, false) {
		if err := b.wait(ctx); err != nil {
			return nil, err
		}
	}
	return b.Memory.Get(ctx, tenant, ref)
}

// Checkpoints go on beside a savepoint, and what it is made of stays although it is no longer retained.
func TestCheckpointsGoOnBesideASavepoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newSlow(1 << 40)
		w := startWorker(t, b, "w1", processor.Listener{})
		topology := counting(t, nil)
		j := w.deploy(t, topology, "acme", processor.JobConfig{MergeAfter: 4, Checkpoint: processor.CheckpointConfig{
			Interval: 100 * time.Millisecond, Retained: 1,
		}})
		w.run()
		publishWords(t, b.Memory, "acme", "a", "b")
		time.Sleep(time.Second)
		type result struct {
			rep processor.SavepointReport
			err error
		}
		got := make(chan result, 2)
		take := func(name string) {
			rep, err := w.rt.TakeSavepoint(t.Context(), countingJob, processor.SavepointRequest{Name: name, Request: "r1"})
			got <- result{rep, err}
		}
		b.armed.Store(true)
		go take("slow")
		time.Sleep(time.Second)
		if b.armed.Load() {
			t.Fatal("the savepoint has read nothing")
		}
		go take("slow") // joins
		_, err := w.rt.TakeSavepoint(t.Context(), countingJob, processor.SavepointRequest{Name: "other"})
		wantReason(t, err, processor.ReasonConflict)
		before := j.Status().Checkpoint
		for range 20 { // the chain that the savepoint is made of is merged and dropped
			publishWords(t, b.Memory, "acme", "a", "b")
			time.Sleep(150 * time.Millisecond)
		}
		if now := j.Status().Checkpoint; now < before+15 {
			t.Errorf("checkpoint %d, then %d: the savepoint holds the job up", before, now)
		}
		close(b.gate)
		first, second := <-got, <-got
		if err := errors.Join(first.err, second.err); err != nil || fmt.Sprint(first.rep) != fmt.Sprint(second.rep) {
			t.Fatalf("the answers are %+v (%v) and %+v (%v)", first.rep, first.err, second.rep, second.err)
		}
		if err := checkSavepoint(t.Context(), b.Memory, topology, countingJob, "slow"); err != nil {
			t.Error(err)
		}
		publishWords(t, b.Memory, "acme", "a")
		time.Sleep(time.Second)
		must[processor.StopReport](t)(w.rt.Stop(t.Context(), countingJob, processor.StopRequest{}))
		w.crash(t)
		checkNothingLeft(t, b.Memory, countingJob)
	})
}

// countingTwice has two operators with state.
func countingTwice(t *testing.T) *processor.Topology {
	t.Helper()
	b := processor.NewBuilder("counting")
	words := processor.From(b, "words", processor.SourceSpec[string]{Filters: []tenants.Filter{"words"}, Codec: codec.String()})
	pass := processor.Process(processor.KeyBy(words, func(w string) string { return w }), "pass", func(pc *processor.Context[string], w string) error {
		pc.Emit(w)
		return wordTotal.Set(pc, 1)
	}, processor.Uses(wordTotal))
	counts := processor.Process(processor.KeyBy(pass, func(w string) string { return w }), "count", countWord, processor.Uses(wordTotal))
	publishCounts(counts)
	return built(t, b)
}

// A savepoint for which there is no room fails in time and leaves nothing; the job goes on.
func TestASavepointThatFailsLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newSlow(1)
		h := &heard{}
		w := startWorker(t, b, "w1", h.listener())
		w.deploy(t, countingTwice(t), "acme", processor.JobConfig{})
		w.run()
		publishWords(t, b.Memory, "acme", "a", "b")
		time.Sleep(time.Second)
		_, err := w.rt.TakeSavepoint(t.Context(), countingJob, processor.SavepointRequest{Name: "stuck"})
		wantReason(t, err, processor.ReasonFailed)
		events, _ := h.all()
		if last := events[len(events)-1]; last.State != processor.SavepointFailed {
			t.Errorf("the last event is %+v", last)
		}
		checkNothingLeft(t, b.Memory, countingJob)
		publishWords(t, b.Memory, "acme", "a")
		time.Sleep(time.Second)
		close(b.gate)
		must[processor.SavepointReport](t)(w.rt.TakeSavepoint(t.Context(), countingJob, processor.SavepointRequest{Name: "stuck"}))
		must[processor.StopReport](t)(w.rt.Stop(t.Context(), countingJob, processor.StopRequest{}))
		w.crash(t)
		checkNothingLeft(t, b.Memory, countingJob)
		checkCounts(t, b.Memory, "acme", map[string]int64{"a": 2, "b": 1})
	})
}

func TestLiveStateAndSources(t *testing.T) {
	eachParallelism(t, func(t *testing.T, parallelism int) {
		m := newMemory("acme")
		w := startWorker(t, m, "w1", processor.Listener{})
		w.deploy(t, twoSources(t), "acme", processor.JobConfig{Parallelism: parallelism, Checkpoint: processor.CheckpointConfig{Interval: time.Hour}})
		w.run()
		publish(t, m, "acme.left", "a", "b", "a")
		time.Sleep(time.Second)
		read := func(operator, state, key string) (processor.StateReport, error) {
			return w.rt.ReadState(t.Context(), twoJob, processor.StateRequest{Operator: operator, State: state, Key: &key})
		}
		rep := must[processor.StateReport](t)(read("count", "total", "a"))
		var n int64
		if err := json.Unmarshal(rep.Value, &n); err != nil || !rep.Found || n != 2 || rep.Checkpoint != 0 {
			t.Errorf("the state of a is %+v", rep)
		}
		if rep := must[processor.StateReport](t)(read("count", "total", "never")); rep.Found {
			t.Errorf("a key that never came has %+v", rep)
		}
		_, err := read("nobody", "x", "a")
		wantReason(t, err, processor.ReasonNotFound)
		_, err = read("count", "nothing", "a")
		wantReason(t, err, processor.ReasonNotFound)
		status := must[processor.JobReport](t)(w.rt.Status(t.Context(), twoJob))
		if s := status.Sources["left"]; s.Stream != "acme" || s.Position < 3 {
			t.Errorf("the sources are %+v", status.Sources)
		}
		w.crash(t)
	})
}
