package processor_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/processor/processortest"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

type counted struct {
	Word  string `json:"word"`
	Count int64  `json:"count"`
}

var wordTotal = state.NewValue[int64]("total")

func built(t *testing.T, b *processor.Builder) *processor.Topology {
	t.Helper()
	topology, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return topology
}

func publishCounts(counts processor.Stream[counted]) {
	processor.To(counts, "counts", processor.SinkSpec[counted]{Subject: func(counted) string { return "counts" }, Codec: codec.JSON[counted]()})
}

func countWord(pc *processor.Context[counted], w string) error {
	n, err := wordTotal.Get(pc)
	if err != nil {
		return err
	}
	pc.Emit(counted{w, n + 1})
	return wordTotal.Set(pc, n+1)
}

// counting counts words; the word "panic" panics as long as angry says so.
func counting(t *testing.T, angry func() bool) *processor.Topology {
	t.Helper()
	b := processor.NewBuilder("counting")
	words := processor.From(b, "words", processor.SourceSpec[string]{Filters: []tenants.Filter{"words"}, Codec: codec.String()})
	counts := processor.Process(processor.KeyBy(words, func(w string) string { return w }), "count",
		func(pc *processor.Context[counted], w string) error {
			if w == "panic" && angry != nil && angry() {
				panic("the user's fault")
			}
			return countWord(pc, w)
		}, processor.Uses(wordTotal))
	publishCounts(counts)
	return built(t, b)
}

// checkCounts verifies that every word's counts read 1, 2, 3 … up to want.
func checkCounts(t *testing.T, m *processortest.Memory, tenant string, want map[string]int64) {
	t.Helper()
	checkCountsOn(t, m, tenant, "counts", want)
}

func checkCountsOn(t *testing.T, m *processortest.Memory, tenant, subject string, want map[string]int64) {
	t.Helper()
	got := map[string]int64{}
	for _, r := range m.Messages(tenant, tenant+"."+subject) {
		var c counted
		if err := json.Unmarshal(r.Data, &c); err != nil {
			t.Fatal(err)
		}
		if c.Count != got[c.Word]+1 {
			t.Fatalf("tenant %s: %s: count %d follows %d", tenant, c.Word, c.Count, got[c.Word])
		}
		got[c.Word] = c.Count
	}
	for w, n := range want {
		if got[w] != n {
			t.Errorf("tenant %s: %s was counted %d times, want %d", tenant, w, got[w], n)
		}
	}
}

type worker struct {
	rt     *processor.Runtime
	cancel context.CancelFunc
	done   chan error
}

func startWorker(t *testing.T, m processor.Broker, id string, listener processor.Listener) *worker {
	t.Helper()
	rt, err := processor.NewRuntime(processor.RuntimeConfig{Broker: m, Worker: id, Listener: listener})
	if err != nil {
		t.Fatal(err)
	}
	return &worker{rt: rt, done: make(chan error, 1)}
}

func (w *worker) deploy(t *testing.T, topology *processor.Topology, tenant string, cfg processor.JobConfig) *processor.Job {
	t.Helper()
	if cfg.Checkpoint.Interval == 0 {
		cfg.Checkpoint.Interval = 100 * time.Millisecond
	}
	j, err := w.rt.Deploy(t.Context(), topology, tenants.ID(tenant), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// startCounting runs the job counting of tenant acme on worker w1. With words it has counted them and committed that.
func startCounting(t *testing.T, m *processortest.Memory, words ...string) (*worker, *processor.Job) {
	t.Helper()
	w := startWorker(t, m, "w1", processor.Listener{})
	j := w.deploy(t, counting(t, nil), "acme", processor.JobConfig{})
	w.run()
	if len(words) > 0 {
		publishWords(t, m, "acme", words...)
		time.Sleep(time.Second)
	}
	return w, j
}

func (w *worker) run() {
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	go func() { w.done <- w.rt.Run(ctx) }()
}

func (w *worker) crash(t *testing.T) {
	t.Helper()
	w.cancel()
	if err := <-w.done; !errors.Is(err, context.Canceled) {
		t.Fatalf("Run returned %v", err)
	}
}

func publishWords(t *testing.T, m *processortest.Memory, tenant string, words ...string) {
	t.Helper()
	for _, w := range words {
		if _, err := m.PublishTo(tenant+".words", nil, []byte(w)); err != nil {
			t.Fatal(err)
		}
	}
}

func newMemory(streams ...string) *processortest.Memory {
	m := processortest.NewMemory(tenants.DefaultNamespace, nil)
	for _, s := range streams {
		m.AddStream(s, s+".>")
	}
	return m
}

func TestRuntimeCountsExactlyOnceOverCrashesAndDrains(t *testing.T) {
	for _, parallelism := range []int{1, 3} {
		t.Run(fmt.Sprintf("parallelism %d", parallelism), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemory("acme")
				want := map[string]int64{}
				for round := range 12 {
					// The worker keeps its ID, so it takes its own job over at once.
					w := startWorker(t, m, "w1", processor.Listener{})
					w.deploy(t, counting(t, nil), "acme", processor.JobConfig{Parallelism: parallelism, MergeAfter: 3})
					w.run()
					for i := range 50 {
						word := fmt.Sprintf("w%d", i%7)
						publishWords(t, m, "acme", word)
						want[word]++
						time.Sleep(7 * time.Millisecond)
					}
					if round%3 == 2 {
						if err := w.rt.Drain(t.Context()); err != nil {
							t.Fatal(err)
						}
						if err := <-w.done; err != nil {
							t.Fatal(err)
						}
					} else {
						w.crash(t)
					}
				}
				w := startWorker(t, m, "w1", processor.Listener{})
				w.deploy(t, counting(t, nil), "acme", processor.JobConfig{Parallelism: parallelism})
				w.run()
				time.Sleep(time.Second)
				w.crash(t)
				checkCounts(t, m, "acme", want)
			})
		})
	}
}

func TestPanicRestartsOneJobOnlyAndACrashLoopParksIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme", "globex")
		var mu sync.Mutex
		states := map[string][]processor.JobState{}
		w := startWorker(t, m, "w1", processor.Listener{Job: func(ev processor.JobEvent) {
			mu.Lock()
			defer mu.Unlock()
			states[string(ev.Job.Tenant)] = append(states[string(ev.Job.Tenant)], ev.State)
		}})
		angry := func() bool { return true }
		cfg := processor.JobConfig{Restart: processor.RestartConfig{Attempts: 3}}
		sick := w.deploy(t, counting(t, angry), "acme", cfg)
		well := w.deploy(t, counting(t, angry), "globex", cfg)
		w.run()
		publishWords(t, m, "acme", "a", "panic", "b")
		for range 50 {
			publishWords(t, m, "globex", "x")
			time.Sleep(100 * time.Millisecond)
		}
		if s := sick.Status(); s.State != processor.JobParked || s.Err == nil {
			t.Errorf("the panicking job is %s: %v", s.State, s.Err)
		}
		if s := well.Status(); s.State != processor.JobRunning || s.Epoch != 1 {
			t.Errorf("the neighbour is %s in epoch %d: %v", s.State, s.Epoch, s.Err)
		}
		w.crash(t)
		checkCounts(t, m, "globex", map[string]int64{"x": 50})
		mu.Lock()
		defer mu.Unlock()
		for _, s := range states["globex"] {
			if s == processor.JobRestarting {
				t.Error("the neighbour was restarted")
			}
		}
	})
}

func TestStandbyTakesOverWhenTheOwnerIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		first, second := startWorker(t, m, "w1", processor.Listener{}), startWorker(t, m, "w2", processor.Listener{})
		a := first.deploy(t, counting(t, nil), "acme", processor.JobConfig{})
		b := second.deploy(t, counting(t, nil), "acme", processor.JobConfig{})
		first.run()
		time.Sleep(time.Second)
		second.run()
		publishWords(t, m, "acme", "x", "y", "x")
		time.Sleep(time.Minute)
		if a.Status().State != processor.JobRunning || b.Status().State != processor.JobStandby || b.Status().Owner != "w1" {
			t.Fatalf("owner is %s, standby is %s of %s", a.Status().State, b.Status().State, b.Status().Owner)
		}
		first.crash(t)
		publishWords(t, m, "acme", "x")
		time.Sleep(30 * time.Second)
		if s := b.Status(); s.State != processor.JobRunning || s.Epoch != 2 {
			t.Fatalf("after the owner's death the standby is %s in epoch %d", s.State, s.Epoch)
		}
		second.crash(t)
		checkCounts(t, m, "acme", map[string]int64{"x": 3, "y": 1})
	})
}

func TestCheckpointOnDemandAndOpenState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		w := startWorker(t, m, "w1", processor.Listener{})
		j := w.deploy(t, counting(t, nil), "acme", processor.JobConfig{Checkpoint: processor.CheckpointConfig{Interval: time.Hour}})
		if _, err := j.Checkpoint(t.Context()); err == nil {
			t.Error("a job that does not run took a checkpoint")
		}
		w.run()
		time.Sleep(time.Second)
		publishWords(t, m, "acme", "x", "x")
		time.Sleep(time.Second)
		ev, err := j.Checkpoint(t.Context())
		if err != nil || ev.Messages != 2 || ev.Checkpoint != 1 {
			t.Fatalf("checkpoint: %+v, %v", ev, err)
		}
		snap, err := j.OpenState(t.Context(), ev.Checkpoint, "count")
		if err != nil {
			t.Fatal(err)
		}
		if n, err := wordTotal.Get(snap.Key("x")); n != 2 || err != nil {
			t.Errorf("the state says %d, %v", n, err)
		}
		if _, err := j.OpenState(t.Context(), 7, "count"); err == nil {
			t.Error("a checkpoint that does not exist was opened")
		}
		w.crash(t)
	})
}

// A worker that comes back under its ID without a job it owned must not keep others from it with its heartbeat.
func TestAJobThatItsWorkerNoLongerDeploysIsTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme", "globex")
		first := startWorker(t, m, "w1", processor.Listener{})
		first.deploy(t, counting(t, nil), "acme", processor.JobConfig{})
		first.run()
		time.Sleep(time.Second)
		first.crash(t)
		again, other := startWorker(t, m, "w1", processor.Listener{}), startWorker(t, m, "w2", processor.Listener{})
		again.deploy(t, counting(t, nil), "globex", processor.JobConfig{})
		j := other.deploy(t, counting(t, nil), "acme", processor.JobConfig{})
		again.run()
		other.run()
		time.Sleep(30 * time.Second)
		if s := j.Status(); s.State != processor.JobRunning {
			t.Errorf("the job is %s of %s", s.State, s.Owner)
		}
		again.crash(t)
		other.crash(t)
	})
}

// Workers that start at the same moment all see no head: one of them gets the job, the others stand by without taking it.
func TestWorkersThatStartTogetherDoNotTakeTheJobFromEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		var workers []*worker
		var jobs []*processor.Job
		for i := range 4 {
			w := startWorker(t, m, fmt.Sprintf("w%d", i), processor.Listener{})
			jobs = append(jobs, w.deploy(t, counting(t, nil), "acme", processor.JobConfig{}))
			workers = append(workers, w)
		}
		for _, w := range workers {
			w.run()
		}
		time.Sleep(time.Minute)
		running := 0
		for _, j := range jobs {
			if s := j.Status(); s.State == processor.JobRunning {
				running++
				if s.Epoch != 1 {
					t.Errorf("the job is in epoch %d", s.Epoch)
				}
			}
		}
		if running != 1 {
			t.Errorf("%d workers run the job", running)
		}
		for _, w := range workers {
			w.crash(t)
		}
	})
}
