package processor_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/processor/processortest"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

var testFork = tenants.JobID{Tenant: "acme", Name: "counting-test"}

// everywhere counts words and writes the counts in every way there is. A worker runs whatever should run and has a topology it knows, so
// that a fork whose worker is to leave the original alone has one of another name.
func everywhere(t *testing.T, name string) *processor.Topology {
	t.Helper()
	b := processor.NewBuilder(name)
	words := processor.From(b, "words", processor.SourceSpec[string]{Filters: []tenants.Filter{"words"}, Codec: codec.String()})
	counts := processor.Process(processor.KeyBy(words, func(w string) string { return w }), "count", func(pc *processor.Context[counted], w string) error {
		if w == "bad" {
			return processor.Poison(errors.New("refused"))
		}
		n, err := wordTotal.Get(pc)
		if err != nil {
			return err
		}
		pc.Emit(counted{w, n + 1})
		return wordTotal.Set(pc, n+1)
	}, processor.Uses(wordTotal))
	text := codec.JSON[counted]()
	processor.To(counts, "counts", processor.SinkSpec[counted]{Subject: func(counted) string { return "counts" }, Codec: text})
	processor.To(counts, "marked", processor.SinkSpec[counted]{FixedSubject: "marked", Codec: text, MarkerSubject: "marked._weir.{job}"})
	processor.To(counts, "soon", processor.SinkSpec[counted]{FixedSubject: "soon", Codec: text, AtLeastOnce: true})
	processor.ToKV(counts, "current", processor.KVSpec[counted]{Bucket: "current", Key: func(c counted) string { return c.Word }, Codec: text})
	return built(t, b)
}

func fork(from processor.StartPoint) processor.JobConfig {
	return processor.JobConfig{Name: testFork.Name, Shadow: "shadow.test", Start: from}
}

// TestForkIsIndependent forks a job that runs on: the fork goes on from there under its shadow and nowhere else, and neither notices
// what becomes of the other.
func TestForkIsIndependent(t *testing.T) {
	for name, from := range map[string]processor.StartPoint{
		"savepoint":       {From: processor.FromSavepoint, Savepoint: "early", Job: "counting"},
		"last checkpoint": {From: processor.FromCheckpoint, Job: "counting"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemory("acme")
				topology, copied := everywhere(t, "counting"), everywhere(t, "copied")
				stint(t, m, topology, processor.JobConfig{}, "a", "a", "bad")
				savepoint(t, m, topology, "early")
				before := len(m.Messages("acme", "acme.>"))
				_, source := committed(t, m, countingJob)

				stint(t, m, copied, fork(from), "a", "bad")
				for _, r := range m.Messages("acme", "acme.>")[before:] {
					inside := strings.HasPrefix(r.Subject, "acme.shadow.test.") || strings.HasPrefix(r.Subject, "acme.words")
					if !inside {
						t.Errorf("the fork wrote on %s", r.Subject)
					}
				}
				for _, subject := range []string{"counts", "marked", "soon"} {
					if got := countsOn(t, m, "acme.shadow.test."+subject); got != "a3" {
						t.Errorf("the fork published on %s: %s", subject, got)
					}
				}
				if got := m.Messages("KV_current", "$KV.current.acme.shadow.test.*"); len(got) != 1 || got[0].Subject != "$KV.current.acme.shadow.test.a" {
					t.Errorf("the fork's keys: %v", got)
				}
				if n := len(m.Messages("WEIR_DLQ", "weir.dlq.acme.counting-test")); n != 1 {
					t.Errorf("%d dead letters of the fork", n)
				}

				// The original has lost nothing of its own by it, and goes on.
				stint(t, m, topology, processor.JobConfig{}, "a")
				if got := countsOn(t, m, "acme.counts"); got != "a1 a2 a3 a4" {
					t.Errorf("the original published %s", got)
				}
				// The fork keeps nothing of the original's: its checkpoints and savepoints may go.
				if err := barriers.DeleteSavepoint(memoryAsk(t, m, countingJob), "acme", "counting", "early"); err != nil {
					t.Fatal(err)
				}
				for range 4 {
					stint(t, m, topology, processor.JobConfig{Checkpoint: processor.CheckpointConfig{Retained: 1}}, "b")
				}
				for _, o := range source.Operators[0].Chain {
					if !strings.HasPrefix(o.Name, "counting/") {
						t.Errorf("the original's object %s", o.Name)
					}
				}
				_, mf := committed(t, m, testFork)
				for _, op := range mf.Operators {
					for _, o := range op.Chain {
						if !strings.HasPrefix(o.Name, "counting-test/") {
							t.Errorf("the fork refers to %s", o.Name)
						}
					}
				}
				stint(t, m, copied, fork(from), "c")
				if got := sortedCounts(countsOn(t, m, "acme.shadow.test.counts")); got != sortedCounts("a3 a4 b1 b2 b3 b4 c1") {
					t.Errorf("the fork published in the end: %s", got)
				}
				if starts := len(startManifests(t, m, testFork)); starts > 1 {
					t.Errorf("the fork was started %d times", starts)
				}
			})
		})
	}
}

func TestShadowIsChecked(t *testing.T) {
	m := newMemory("acme")
	reads := func(filter tenants.Filter) *processor.Topology {
		b := processor.NewBuilder("reads")
		all := processor.From(b, "all", processor.SourceSpec[string]{Filters: []tenants.Filter{"orders", filter}, Codec: codec.String()})
		processor.To(all, "out", processor.SinkSpec[string]{FixedSubject: "out", Codec: codec.String()})
		topology, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		return topology
	}
	for _, c := range []struct {
		filter tenants.Filter
		shadow string
		says   string
	}{
		{">", "shadow.test", "source all reads >"},
		{"*.test.out", "shadow.test", "source all reads *.test.out"},
		{"shadow.>", "shadow.test", "source all reads shadow.>"},
		{"words", "shadow.test", ""}, // the cover of orders and words is *, which does not count
		{"words", "shadow.*", "JobConfig.Shadow"},
		{"words", "_weir", "JobConfig.Shadow"},
		{"words", "a..b", "JobConfig.Shadow"},
		{"words", strings.Repeat("x", 200), "200 bytes"},
	} {
		errs := processor.CheckStart(t.Context(), m, reads(c.filter), tenants.JobID{Tenant: "acme", Name: "reads"}, processor.JobConfig{Shadow: c.shadow})
		if err := errors.Join(errs...); (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s under %s: %v", c.filter, c.shadow, err)
		}
	}
}

// TestForkOfWhatGoesAway: the source of a fork is removed while it is read.
func TestForkOfWhatGoesAway(t *testing.T) {
	setUp := func(t *testing.T) (*processortest.Memory, *processor.Topology, uint64) {
		m := newMemory("acme")
		topology := everywhere(t, "counting")
		stint(t, m, topology, processor.JobConfig{MergeAfter: 1, Checkpoint: processor.CheckpointConfig{Retained: 1}}, "a", "a")
		savepoint(t, m, topology, "early")
		rec, _ := committed(t, m, countingJob)
		return m, topology, rec.Head.Checkpoint
	}
	// The original takes checkpoints, in between, until nothing is left of the one that is read.
	moveOn := func(t *testing.T, m *processortest.Memory, topology *processor.Topology) func() {
		return func() {
			cfg := processor.JobConfig{MergeAfter: 1, Checkpoint: processor.CheckpointConfig{Interval: 100 * time.Millisecond, Retained: 1}}
			w := startWorker(t, m, "w2", processor.Listener{})
			w.deploy(t, topology, "acme", cfg)
			w.run()
			for range 8 {
				publishWords(t, m, "acme", "a")
				time.Sleep(300 * time.Millisecond)
			}
			w.drain(t)
		}
	}
	t.Run("last checkpoint", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m, topology, _ := setUp(t)
			b := &cleanedUp{Memory: m, prefix: "counting/", times: 1}
			b.remove = moveOn(t, m, topology)
			w := startWorker(t, b, "w1", processor.Listener{})
			j := w.deploy(t, everywhere(t, "copied"), "acme", fork(processor.StartPoint{From: processor.FromCheckpoint, Job: "counting"}))
			w.run()
			time.Sleep(5 * time.Second)
			publishWords(t, m, "acme", "a")
			time.Sleep(time.Second)
			if s := j.Status(); s.State != processor.JobRunning || b.times != 0 {
				t.Errorf("the fork is %s: %v", s.State, s.Err)
			}
			w.drain(t)
			if got := countsOn(t, m, "acme.shadow.test.counts"); got != "a11" {
				t.Errorf("the fork published %s", got)
			}
		})
	})
	for name, point := range map[string]func(uint64) processor.StartPoint{
		"that checkpoint": func(id uint64) processor.StartPoint {
			return processor.StartPoint{From: processor.FromCheckpoint, Checkpoint: id, Job: "counting"}
		},
		"savepoint": func(uint64) processor.StartPoint {
			return processor.StartPoint{From: processor.FromSavepoint, Savepoint: "early", Job: "counting"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, topology, last := setUp(t)
				b := &cleanedUp{Memory: m, prefix: "counting/", times: 1}
				b.remove = moveOn(t, m, topology)
				if name == "savepoint" {
					b.remove = func() {
						if err := barriers.DeleteSavepoint(memoryAsk(t, m, countingJob), "acme", "counting", "early"); err != nil {
							t.Error(err)
						}
					}
				}
				w := startWorker(t, b, "w1", processor.Listener{})
				j := w.deploy(t, everywhere(t, "copied"), "acme", fork(point(last)))
				w.run()
				time.Sleep(5 * time.Second)
				var gone *processor.StartGoneError
				if s := j.Status(); s.State != processor.JobFailed || !errors.As(s.Err, &gone) {
					t.Errorf("the fork is %s: %v", s.State, s.Err)
				}
				w.crash(t)
				if _, mf := committed(t, m, testFork); mf != nil {
					t.Errorf("the fork has committed %+v", mf)
				}
			})
		})
	}
}

// TestStartCrashPoints kills the worker at every request of a start from elsewhere, before the request and behind it. The next one
// applies the start exactly once in all, and nothing is left behind.
func TestStartCrashPoints(t *testing.T) {
	starts := map[string]func(first uint64) processor.JobConfig{
		"own checkpoint": func(first uint64) processor.JobConfig {
			return processor.JobConfig{Start: processor.StartPoint{From: processor.FromCheckpoint, Checkpoint: first}}
		},
		"own savepoint": func(uint64) processor.JobConfig {
			return processor.JobConfig{Start: processor.StartPoint{From: processor.FromSavepoint, Savepoint: "early"}}
		},
		"fresh": func(uint64) processor.JobConfig {
			return processor.JobConfig{Start: processor.StartPoint{From: processor.FromFresh}}
		},
		"fork": func(uint64) processor.JobConfig {
			return fork(processor.StartPoint{From: processor.FromSavepoint, Savepoint: "early", Job: "counting"})
		},
	}
	want := map[string]string{"own checkpoint": "a3 b1", "own savepoint": "a3 b1", "fresh": "a1 a2 a3 b1", "fork": "a3 b1"}
	for _, name := range []string{"own checkpoint", "own savepoint", "fresh", "fork"} {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, behind the request %t", name, after), func(t *testing.T) {
				for at := int64(1); ; at++ {
					over := false
					synctest.Test(t, func(t *testing.T) { over = startCrash(t, starts[name], want[name], at, after) })
					if t.Failed() {
						t.Fatalf("at request %d", at)
					}
					if over {
						if at < 10 {
							t.Errorf("a start makes only %d requests", at)
						}
						return
					}
				}
			})
		}
	}
}

// startCrash strikes at one request. It reports whether the start was over before.
func startCrash(t *testing.T, start func(uint64) processor.JobConfig, want string, at int64, after bool) bool {
	m := newMemory("acme")
	topology := everywhere(t, "counting")
	keep := processor.CheckpointConfig{Retained: 20, Timeout: 200 * time.Millisecond}
	stint(t, m, topology, processor.JobConfig{Checkpoint: keep}, "a", "a")
	rec, _ := committed(t, m, countingJob)
	savepoint(t, m, topology, "early")
	cfg := start(rec.Head.Checkpoint)
	cfg.Checkpoint = keep
	job, subject, starting := countingJob, "acme.counts", topology
	if cfg.Name != "" {
		job, subject, starting = testFork, "acme.shadow.test.counts", everywhere(t, "copied")
	}
	// The owner dies behind a commit: what it owes is released by the start, or by the one behind it.
	deaf := startWorker(t, &noOutput{Memory: m}, "w1", processor.Listener{})
	deaf.deploy(t, topology, "acme", processor.JobConfig{Checkpoint: keep})
	deaf.run()
	publishWords(t, m, "acme", "a", "b")
	time.Sleep(time.Second)
	deaf.crash(t)

	b := newCrashBroker(m, at, after)
	w := startWorker(t, b, "w1", processor.Listener{})
	j := w.deploy(t, starting, "acme", cfg)
	w.run()
	over := false
	select {
	case <-b.struck:
	case <-time.After(5 * time.Second):
		over = true
	}
	if !over {
		over = j.Status().State == processor.JobRunning // of what comes behind the start others test
	}
	w.crash(t)

	stint(t, m, starting, cfg)
	stint(t, m, starting, cfg)
	if job == countingJob {
		want = "a1 a2 a3 b1 " + want
	}
	if got := sortedCounts(countsOn(t, m, subject)); got != sortedCounts(want) {
		t.Errorf("%s: published %s, want %s", *cmpOr(b.what.Load()), got, want)
	}
	if n := len(startManifests(t, m, job)); n != 1 {
		t.Errorf("%s: the start was applied %d times", *cmpOr(b.what.Load()), n)
	}
	// Old enough to be orphans, what the crash has left goes with the next search.
	time.Sleep(time.Second)
	rec, _, err := barriers.Acquire(memoryAsk(t, m, job), barriers.AcquireSpec{Tenant: "acme", Job: job.Name, Worker: "w1", Owner: "cleaner"})
	if err != nil {
		t.Fatal(err)
	}
	if err := barriers.Cleanup(memoryAsk(t, m, job), barriers.CleanupSpec{Record: rec, Orphans: true, OrphanAge: 400 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	checkNothingLeft(t, m, job)
	return over
}

func cmpOr(s *string) *string {
	if s == nil {
		s = new(string)
	}
	return s
}

// TestStartFromATrimmedStream: the input that a savepoint needs was removed.
func TestStartFromATrimmedStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		topology := counting(t, nil)
		stint(t, m, topology, processor.JobConfig{}, "a", "a")
		savepoint(t, m, topology, "early")
		stint(t, m, topology, processor.JobConfig{}, "a", "b", "b")
		before, _ := committed(t, m, countingJob)
		words := m.Messages("acme", "acme.words")
		m.Trim("acme", words[len(words)-1].Seq)
		from := processor.StartPoint{From: processor.FromSavepoint, Savepoint: "early"}
		var fault *processor.StreamError
		if errs := processor.CheckStart(t.Context(), m, topology, countingJob, processor.JobConfig{Start: from}); len(errs) != 1 || !errors.As(errs[0], &fault) || fault.Fault != processor.StreamTrimmed {
			t.Fatalf("the check says %v", errs)
		}
		err := processor.RunOnce(t.Context(), m, topology, countingJob, processor.JobConfig{Start: from}, false)
		if !errors.As(err, &fault) || fault.Fault != processor.StreamTrimmed || processor.ClassOf(err) != processor.ClassTerminal {
			t.Fatalf("the attempt ended with %v", err)
		}
		if after, _ := committed(t, m, countingJob); after.Seq != before.Seq {
			t.Errorf("the head was changed: %+v", after.Head)
		}
		stint(t, m, topology, processor.JobConfig{Start: from, AllowDataLoss: true}, "a")
		var last counted
		got := m.Messages("acme", "acme.counts")
		if err := json.Unmarshal(got[len(got)-1].Data, &last); err != nil || last != (counted{"a", 3}) {
			t.Errorf("published last: %+v, %v", last, err)
		}
	})
}
