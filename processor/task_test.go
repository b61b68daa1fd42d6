package processor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// recorder is a host that writes down what one task asks for.
type recorder struct {
	consumedBy []int
	snapshots  []*taskSnapshot
	dirtied    int
	wakeAt     time.Time
	published  []Message
	acks       []func(error)
	refuse     error
	clock      time.Time
	told       []ctlEvent
}

func (h *recorder) send(int, int, *frame) error { panic("a single task sends nothing") }
func (h *recorder) over() bool                  { return false }
func (h *recorder) call(time.Duration, func() Where, func(context.Context) event) time.Time {
	panic("no task of these tests calls")
}
func (h *recorder) consumed(input int)       { h.consumedBy = append(h.consumedBy, input) }
func (h *recorder) snapshot(s *taskSnapshot) { h.snapshots = append(h.snapshots, s) }
func (h *recorder) wake(t time.Time)         { h.wakeAt = t }
func (h *recorder) dirty(int)                { h.dirtied++ }
func (h *recorder) notify(ev ctlEvent)       { h.told = append(h.told, ev) }
func (h *recorder) now() time.Time           { return h.clock }
func (h *recorder) publish(_ context.Context, _ string, m Message, done func(error)) error {
	if h.refuse != nil {
		return h.refuse
	}
	h.published, h.acks = append(h.published, m), append(h.acks, done)
	return nil
}

const testNonce = "mine"

func testBindings(needs Needs) Bindings {
	b := bedBindings(needs)
	for i := range b.Sinks {
		b.Sinks[i].MaxMsg = 4096
	}
	return b
}

func single(t testing.TB, b *Builder, change func(*planConfig)) (*task, *recorder) {
	t.Helper()
	topo := mustBuild(t, b)
	cfg := planConfig{
		Job: testJob, Prefix: "acme.", Parallelism: 1, KeyGroups: 16, Epoch: 7, Nonce: testNonce,
		Bindings: testBindings(topo.Needs(testJob, tenants.DefaultNamespace)), MaxKeyBytes: 64, MaxStateBytes: 1 << 20, MaxPendingBytes: 1 << 20,
	}
	if change != nil {
		change(&cfg)
	}
	p, err := newPlan(topo, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.tasks) != 1 {
		t.Fatalf("%d tasks at parallelism 1", len(p.tasks))
	}
	h := &recorder{clock: time.Unix(1000, 0)}
	p.tasks[0].bind(h)
	p.tasks[0].start(map[string]barriers.Source{})
	return p.tasks[0], h
}

func step(t testing.TB, task *task, events ...event) {
	t.Helper()
	for _, ev := range events {
		if err := task.step(ev); err != nil {
			t.Fatal(err)
		}
	}
}

// batchOf makes a batch of "subject payload" records from seq on; "barrier …" is a barrier of the source.
func batchOf(input int, seq uint64, records ...Record) evBatch {
	for i := range records {
		records[i].Seq = seq + uint64(i)
		records[i].Time = int64(records[i].Seq)
	}
	return evBatch{input: input, batch: Batch{Records: records, Position: seq + uint64(len(records)) - 1}}
}

func rec(source, payload string) Record {
	return Record{Subject: "acme." + source, Data: []byte(payload)}
}

func barrierRec(source string, change func(*barriers.Barrier)) Record {
	b := barriers.Barrier{Version: barriers.BarrierVersion, Tenant: "acme", Job: "job", Source: source, Epoch: 7, Checkpoint: 1, Nonce: testNonce}
	if change != nil {
		change(&b)
	}
	return Record{Subject: "acme." + source, Data: b.Encode(), Header: map[string][]string{barriers.HeaderBarrier: {"1"}}}
}

func two() *Builder {
	b := NewBuilder("two")
	to(Union("both", lines(b, "a"), lines(b, "b")), "out")
	return b
}

func staged(s *taskSnapshot, sink string) []string {
	var out []string
	for _, o := range s.outputs {
		if o.sink == sink {
			for m := range o.output.From(0) {
				out = append(out, string(m.Data))
			}
		}
	}
	return out
}

func TestInStreamBarrierCutsExactlyThere(t *testing.T) {
	task, h := single(t, two(), nil)
	step(t, task,
		evTrigger{checkpoint: 1, nonce: testNonce},
		batchOf(0, 10, rec("a", "a10"), barrierRec("a", nil), rec("a", "a12"), rec("a", "a13")),
		batchOf(0, 14, rec("a", "a14")),
		batchOf(1, 3, rec("b", "b3")))
	if len(h.snapshots) != 0 || !slices.Equal(h.consumedBy, []int{1}) {
		t.Fatalf("before the second barrier: %d snapshots, consumed %v", len(h.snapshots), h.consumedBy)
	}
	step(t, task, batchOf(1, 4, rec("b", "b4"), barrierRec("b", nil), rec("b", "b6")))
	if len(h.snapshots) != 1 {
		t.Fatalf("%d snapshots", len(h.snapshots))
	}
	s := h.snapshots[0]
	if got := staged(s, "out"); !slices.Equal(got, []string{"a10", "b3", "b4"}) {
		t.Errorf("in the checkpoint: %q", got)
	}
	if s.sources[0].Position != 11 || s.sources[1].Position != 5 {
		t.Errorf("positions %d and %d, want 11 and 5", s.sources[0].Position, s.sources[1].Position)
	}
	if got := s.sources[0].Tail; len(got) != 1 || got[0] != (barriers.Fingerprint{Seq: 10, Time: 10, Hash: barriers.FingerprintHash("acme.a", []byte("a10"))}) {
		t.Errorf("tail %+v: it must hold the records before the cut and no barriers", got)
	}
	if !slices.Equal(h.consumedBy, []int{1, 1, 0, 0}) {
		t.Errorf("consumed %v", h.consumedBy)
	}
	step(t, task, evCommitted{1}, evTrigger{checkpoint: 2, nonce: testNonce, inject: true})
	if got := staged(h.snapshots[1], "out"); !slices.Equal(got, []string{"b6", "a12", "a13", "a14"}) {
		t.Errorf("in the next checkpoint: %q", got)
	}
	if s := h.snapshots[1]; s.sources[0].Position != 14 || s.sources[1].Position != 6 {
		t.Errorf("positions %d and %d, want 14 and 6", s.sources[0].Position, s.sources[1].Position)
	}
}

func TestBarriersThatDoNotCount(t *testing.T) {
	for reason, change := range map[string]func(*barriers.Barrier){
		"foreign":     func(b *barriers.Barrier) { b.Job = "other" },
		"forged":      func(b *barriers.Barrier) { b.Nonce = "theirs" },
		"stale":       func(b *barriers.Barrier) { b.Epoch = 6 },
		"not pending": func(b *barriers.Barrier) { b.Checkpoint = 9 },
		"malformed":   nil,
	} {
		task, h := single(t, two(), nil)
		r := barrierRec("a", change)
		if change == nil {
			r.Data = []byte("garbage")
		}
		step(t, task, evTrigger{checkpoint: 1, nonce: testNonce}, batchOf(0, 1, rec("a", "x"), r, rec("a", "y")))
		if m := task.metrics(); len(m.IgnoredBarriers) != 1 || m.IgnoredBarriers[reason] != 1 || m.RecordsIn != 2 || m.DeadLetters != 0 {
			t.Errorf("a %s barrier: %+v", reason, m)
		}
		if len(h.snapshots) != 0 || task.inputs[0].blocked {
			t.Errorf("a %s barrier cut", reason)
		}
	}
}

// The barrier was injected because its echo was late; then the echo comes, twice.
func TestInjectedThenEchoed(t *testing.T) {
	task, h := single(t, two(), nil)
	step(t, task, evTrigger{checkpoint: 1, nonce: testNonce},
		batchOf(0, 1, rec("a", "x"), barrierRec("a", nil)),
		evTrigger{checkpoint: 1, nonce: testNonce, inject: true}, // b has not cut yet
		evTrigger{checkpoint: 1, nonce: testNonce, inject: true},
		batchOf(1, 1, barrierRec("b", nil), rec("b", "y"), barrierRec("b", nil)))
	if len(h.snapshots) != 1 || !slices.Equal(staged(h.snapshots[0], "out"), []string{"x"}) {
		t.Fatalf("snapshots: %d", len(h.snapshots))
	}
	if m := task.metrics(); m.IgnoredBarriers["duplicate"] != 2 {
		t.Errorf("metrics %+v", m)
	}
	step(t, task, evTrigger{checkpoint: 2, nonce: "theirs", inject: true})
	if len(h.snapshots) != 1 {
		t.Error("a trigger of another attempt cut")
	}
}

func TestAbortKeepsOrderAndLosesNothing(t *testing.T) {
	b := NewBuilder("abort")
	in := lines(b, "a")
	counted := Process(KeyBy(in, self), "count", func(pc *Context[string], s string) error {
		n, err := testCount.Get(pc)
		if err != nil {
			return err
		}
		pc.Emit(fmt.Sprintf("%s%d", s, n+1))
		return testCount.Set(pc, n+1)
	}, Uses(testCount))
	to(counted, "out")
	ToKV(counted, "kv", KVSpec[string]{Bucket: "counts", Key: func(s string) string { return s[:1] }, Codec: codec.String()})
	task, h := single(t, b, nil)
	step(t, task, batchOf(0, 1, rec("a", "x"), rec("a", "y")), evTrigger{checkpoint: 1, nonce: testNonce, inject: true})
	dirtied := h.dirtied
	step(t, task, batchOf(0, 3, rec("a", "x")), evAborted{1}, batchOf(0, 4, rec("a", "z")), evTrigger{checkpoint: 2, nonce: testNonce, inject: true})
	if h.dirtied <= dirtied {
		t.Error("nobody was told that an aborted checkpoint left something to commit")
	}
	s := h.snapshots[1]
	if got := staged(s, "out"); !slices.Equal(got, []string{"x1", "y1", "x2", "z1"}) {
		t.Errorf("output after an abort: %q", got)
	}
	if got := staged(s, "kv"); !slices.Equal(got, []string{"y1", "x2", "z1"}) {
		t.Errorf("KV output after an abort: %q", got)
	}
	step(t, task, evAborted{2}, evTrigger{checkpoint: 3, nonce: testNonce, inject: true}, evCommitted{3})
	objects, err := h.snapshots[2].states[0].frozen.Encode(1 << 20)
	if err == nil || !errors.Is(err, state.ErrRetired) {
		t.Errorf("encoding what is committed: %d objects, %v", len(objects), err)
	}
	step(t, task, evTrigger{checkpoint: 4, nonce: testNonce, inject: true})
	if s := h.snapshots[3]; !s.states[0].frozen.Empty() || len(staged(s, "out")) != 0 {
		t.Error("what was committed is in the next checkpoint again")
	}
}

func TestAbortEndsAlignment(t *testing.T) {
	task, h := single(t, two(), nil)
	step(t, task, evTrigger{checkpoint: 1, nonce: testNonce}, batchOf(0, 1, barrierRec("a", nil), rec("a", "x")), evAborted{1},
		batchOf(1, 1, barrierRec("b", nil), rec("b", "y")), // too late
		evTrigger{checkpoint: 2, nonce: testNonce, inject: true})
	if len(h.snapshots) != 1 || h.snapshots[0].checkpoint != 2 || !slices.Equal(staged(h.snapshots[0], "out"), []string{"x", "y"}) {
		t.Errorf("snapshots %+v", h.snapshots)
	}
	if m := task.metrics(); m.IgnoredBarriers["stale"] != 1 {
		t.Errorf("metrics %+v", m)
	}
}

func TestTriggerWhileOneIsInFlightIsABug(t *testing.T) {
	task, _ := single(t, two(), nil)
	step(t, task, evTrigger{checkpoint: 1, nonce: testNonce, inject: true})
	if err := task.step(evTrigger{checkpoint: 2, nonce: testNonce, inject: true}); err == nil || !strings.Contains(err.Error(), "bug") {
		t.Errorf("second trigger: %v", err)
	}
}

// An idle task asks for no checkpoints, not even because of the barriers of others.
func TestDirtyOnlyWhenSomethingHappened(t *testing.T) {
	task, h := single(t, two(), nil)
	step(t, task, evBatch{input: 0, batch: Batch{Position: 100}}, batchOf(1, 1, barrierRec("b", nil)))
	if h.dirtied != 0 {
		t.Errorf("dirty %d times without input", h.dirtied)
	}
	step(t, task, batchOf(1, 2, rec("b", "x"), rec("b", "y")), batchOf(1, 4, rec("b", "z")))
	if h.dirtied != 1 {
		t.Errorf("dirty %d times, want once", h.dirtied)
	}
	step(t, task, evTrigger{checkpoint: 1, nonce: testNonce, inject: true})
	if got := h.snapshots[0].sources[0].Position; got != 100 {
		t.Errorf("position %d, want 100: where the reader has looked", got)
	}
	step(t, task, batchOf(1, 5, rec("b", "x")))
	if h.dirtied != 2 {
		t.Errorf("dirty %d times, want again after the freeze", h.dirtied)
	}
}

func TestTailIsTheLastEight(t *testing.T) {
	task, h := single(t, two(), nil)
	seq := uint64(1)
	for _, n := range []int{1, 3, 0, 20, 2} {
		var records []Record
		for range n {
			records = append(records, rec("a", fmt.Sprint("r", seq+uint64(len(records)))))
		}
		step(t, task, batchOf(0, seq, records...))
		seq += uint64(n)
	}
	step(t, task, evTrigger{checkpoint: 1, nonce: testNonce, inject: true})
	got := h.snapshots[0].sources[0].Tail
	if len(got) != tailSize {
		t.Fatalf("%d fingerprints", len(got))
	}
	for i, f := range got {
		want := uint64(19 + i)
		if f.Seq != want || f.Hash != barriers.FingerprintHash("acme.a", fmt.Append(nil, "r", want)) {
			t.Errorf("fingerprint %d: %+v, want that of %d", i, f, want)
		}
	}
	// A restored source goes on with the restored ones.
	again, h := single(t, two(), nil)
	again.start(map[string]barriers.Source{"a": {Position: 26, Tail: got}})
	step(t, again, batchOf(0, 27, rec("a", "r27")), evTrigger{checkpoint: 1, nonce: testNonce, inject: true})
	tail := h.snapshots[0].sources[0].Tail
	if len(tail) != tailSize || tail[0] != got[1] || tail[7].Seq != 27 {
		t.Errorf("tail after a restore: %+v", tail)
	}
}

// A source that was to stand at a sequence of a stream that is another one now stands where that one begins: a stop must not wait for
// what never comes.
func TestALimitOutlivesItsStream(t *testing.T) {
	task, h := single(t, two(), nil)
	step(t, task, batchOf(0, 10, rec("a", "a10")), evLimit{token: 3, at: map[string]uint64{"a": 500, "b": 0}})
	again := batchOf(0, 1, rec("a", "other"))
	again.batch.Reset = true
	step(t, task, again)
	if want := []ctlEvent{ctlHeld{token: 3, source: "b"}, ctlHeld{token: 3, source: "a"}}; !slices.Equal(h.told, want) {
		t.Fatalf("the attempt was told %v", h.told)
	}
	step(t, task, evTrigger{checkpoint: 1, nonce: testNonce, inject: true})
	if got := staged(h.snapshots[0], "out"); !slices.Equal(got, []string{"a10"}) {
		t.Errorf("while it stands the checkpoint has %v", got)
	}
	step(t, task, evCommitted{1}, evUnlimit{token: 3}, evTrigger{checkpoint: 2, nonce: testNonce, inject: true})
	if got := staged(h.snapshots[1], "out"); !slices.Equal(got, []string{"other"}) {
		t.Errorf("behind the hold the checkpoint has %v", got)
	}
}
