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
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// stint runs a job, publishes words, and drains it.
func stint(t *testing.T, m *processortest.Memory, topology *processor.Topology, cfg processor.JobConfig, words ...string) {
	t.Helper()
	w := startWorker(t, m, "w1", processor.Listener{})
	j := w.deploy(t, topology, "acme", cfg)
	w.run()
	publishWords(t, m, "acme", words...)
	time.Sleep(time.Second)
	if s := j.Status(); s.State != processor.JobRunning {
		w.crash(t)
		t.Fatalf("job %s is %s: %v", s.ID, s.State, s.Err)
	}
	w.drain(t)
}

func memoryAsk(t *testing.T, m *processortest.Memory, job tenants.JobID) barriers.Ask {
	return func(r barriers.Request) barriers.Reply {
		if r.Op == barriers.OpWait {
			return barriers.Reply{Status: barriers.OK}
		}
		return m.Do(t.Context(), job, r)
	}
}

// committed returns a job's head and manifest.
func committed(t *testing.T, m *processortest.Memory, job tenants.JobID) (*barriers.HeadRecord, *barriers.Manifest) {
	t.Helper()
	rec, mf, err := barriers.Inspect(memoryAsk(t, m, job), string(job.Tenant), job.Name)
	if err != nil {
		t.Fatal(err)
	}
	return rec, mf
}

// countsOn returns the counts that were published, in order, as "a1 a2 b1".
func countsOn(t *testing.T, m *processortest.Memory, subject string) string {
	t.Helper()
	var out []string
	for _, r := range m.Messages("acme", subject) {
		var c counted
		if err := json.Unmarshal(r.Data, &c); err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%s%d", c.Word, c.Count))
	}
	return strings.Join(out, " ")
}

func savepoint(t *testing.T, m *processortest.Memory, topology *processor.Topology, name string) {
	t.Helper()
	w := startWorker(t, m, "w1", processor.Listener{})
	j := w.deploy(t, topology, "acme", processor.JobConfig{})
	w.run()
	time.Sleep(time.Second)
	if _, err := w.rt.TakeSavepoint(t.Context(), j.ID(), processor.SavepointRequest{Name: name}); err != nil {
		t.Fatal(err)
	}
	w.drain(t)
}

// TestStartFromElsewhere starts from everything a job can start from, once, and goes on from there afterwards.
func TestStartFromElsewhere(t *testing.T) {
	for _, c := range []struct {
		name  string
		start func(first uint64) processor.StartPoint
		again string // published after the start, before anything new came
	}{
		{"retained checkpoint", func(first uint64) processor.StartPoint {
			return processor.StartPoint{From: processor.FromCheckpoint, Checkpoint: first}
		}, " a3 b1"},
		{"savepoint", func(uint64) processor.StartPoint {
			return processor.StartPoint{From: processor.FromSavepoint, Savepoint: "early"}
		}, " a3 b1"},
		{"own checkpoint by the job's name", func(first uint64) processor.StartPoint {
			return processor.StartPoint{From: processor.FromCheckpoint, Checkpoint: first, Job: "counting"}
		}, " a3 b1"},
		{"fresh", func(uint64) processor.StartPoint { return processor.StartPoint{From: processor.FromFresh} }, " a1 a2 a3 b1"},
	} {
		for _, parallelism := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s, parallelism %d", c.name, parallelism), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := newMemory("acme")
					topology := counting(t, nil)
					keep := processor.CheckpointConfig{Retained: 50}
					stint(t, m, topology, processor.JobConfig{Checkpoint: keep}, "a", "a")
					rec, _ := committed(t, m, countingJob)
					first := rec.Head.Checkpoint
					savepoint(t, m, topology, "early")
					stint(t, m, topology, processor.JobConfig{Checkpoint: keep}, "a", "b")
					before, _ := committed(t, m, countingJob)
					if got := countsOn(t, m, "acme.counts"); got != "a1 a2 a3 b1" {
						t.Fatalf("published before: %s", got)
					}

					cfg := processor.JobConfig{Checkpoint: keep, Start: c.start(first), Parallelism: parallelism}
					stint(t, m, topology, cfg)
					if got := sortedCounts(countsOn(t, m, "acme.counts")); got != sortedCounts("a1 a2 a3 b1"+c.again) {
						t.Fatalf("published: %s", got)
					}
					starts := startManifests(t, m, countingJob)
					if len(starts) != 1 || starts[0].Checkpoint != before.Head.Checkpoint+1 || starts[0].RestoredFrom != cfg.Start.String() || len(starts[0].Config) == 0 {
						t.Fatalf("starts: %+v", starts)
					}
					// The same configuration again does not start it again.
					stint(t, m, topology, cfg, "a")
					if got := sortedCounts(countsOn(t, m, "acme.counts")); got != sortedCounts("a1 a2 a3 b1"+c.again+" a4") {
						t.Fatalf("published in the end: %s", got)
					}
					if starts := startManifests(t, m, countingJob); len(starts) != 1 {
						t.Fatalf("starts: %+v", starts)
					}
				})
			})
		}
	}
}

// startManifests returns the kept manifests of starts.
func startManifests(t *testing.T, m *processortest.Memory, job tenants.JobID) []*barriers.Manifest {
	t.Helper()
	var out []*barriers.Manifest
	rec, last := committed(t, m, job)
	for _, ref := range rec.Head.Retained {
		mf, err := barriers.ReadManifest(memoryAsk(t, m, job), string(job.Tenant), job.Name, ref)
		if err != nil {
			t.Fatal(err)
		}
		if mf.Kind == barriers.KindStart {
			out = append(out, mf)
		}
	}
	if last.Kind == barriers.KindStart {
		out = append(out, last)
	}
	return out
}

func TestStartPointsAreChecked(t *testing.T) {
	for _, c := range []struct {
		p    processor.StartPoint
		says string
	}{
		{processor.StartPoint{From: "yesterday"}, "yesterday"},
		{processor.StartPoint{From: processor.FromFresh, Savepoint: "x"}, "no checkpoint, savepoint or job"},
		{processor.StartPoint{Checkpoint: 4}, "no checkpoint, savepoint or job"},
		{processor.StartPoint{From: processor.FromCheckpoint}, "name one of the job's"},
		{processor.StartPoint{From: processor.FromCheckpoint, Checkpoint: 1, Savepoint: "x"}, "name one"},
		{processor.StartPoint{From: processor.FromSavepoint}, "savepoint"},
		{processor.StartPoint{From: processor.FromSavepoint, Savepoint: "Up/Down"}, "savepoint"},
		{processor.StartPoint{From: processor.FromSavepoint, Savepoint: "x", Job: "*"}, "job"},
		{processor.StartPoint{From: processor.FromFresh, Request: strings.Repeat("x", 300)}, "300 bytes"},
	} {
		errs := processor.CheckStart(t.Context(), newMemory("acme"), counting(t, nil), countingJob, processor.JobConfig{Start: c.p})
		if err := errors.Join(errs...); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v", c.p, err)
		}
	}
}

// TestStartFromNothing: what a job is to start from is not there, and nothing is changed.
func TestStartFromNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		topology := counting(t, nil)
		stint(t, m, topology, processor.JobConfig{}, "a")
		before, _ := committed(t, m, countingJob)
		for _, p := range []processor.StartPoint{
			{From: processor.FromCheckpoint, Checkpoint: 999},
			{From: processor.FromSavepoint, Savepoint: "none"},
			{From: processor.FromCheckpoint, Job: "nobody"},
			{From: processor.FromSavepoint, Savepoint: "none", Job: "nobody"},
		} {
			w := startWorker(t, m, "w1", processor.Listener{})
			j := w.deploy(t, topology, "acme", processor.JobConfig{Start: p})
			w.run()
			time.Sleep(time.Second)
			var gone *processor.StartGoneError
			if s := j.Status(); s.State != processor.JobFailed || !errors.As(s.Err, &gone) {
				t.Errorf("%s: the job is %s: %v", p, s.State, s.Err)
			}
			w.crash(t)
			if errs := processor.CheckStart(t.Context(), m, topology, countingJob, processor.JobConfig{Start: p}); !errors.As(errors.Join(errs...), &gone) {
				t.Errorf("%s: the check says %v", p, errs)
			}
		}
		if after, _ := committed(t, m, countingJob); after.Seq != before.Seq {
			t.Errorf("the head was changed: %+v", after.Head)
		}
	})
}

// TestStartBehindATombstone: a deleted job starts when it is told from where, above what it had, and not otherwise.
func TestStartBehindATombstone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		topology := counting(t, nil)
		stint(t, m, topology, processor.JobConfig{}, "a", "a")
		savepoint(t, m, topology, "kept")
		ask := memoryAsk(t, m, countingJob)
		rec, _, err := barriers.Acquire(ask, barriers.AcquireSpec{Tenant: "acme", Job: "counting", Worker: "w1", Owner: "deleter"})
		if err != nil {
			t.Fatal(err)
		}
		stone, err := barriers.Delete(ask, rec)
		if err != nil {
			t.Fatal(err)
		}
		if errs := processor.CheckStart(t.Context(), m, topology, countingJob, processor.JobConfig{}); len(errs) != 1 || !errors.Is(errs[0], processor.ErrNoState) {
			t.Errorf("the check says %v", errs)
		}
		if err := processor.RunOnce(t.Context(), m, topology, countingJob, processor.JobConfig{}, false); !errors.Is(err, processor.ErrNoState) || processor.ClassOf(err) != processor.ClassTerminal {
			t.Errorf("the attempt ended with %v", err)
		}
		if now, _ := committed(t, m, countingJob); now.Seq != stone.Seq {
			t.Errorf("the tombstone was changed: %+v", now.Head)
		}
		// An attempt that has taken the job and died before the start was committed leaves it as it was: without state.
		if _, _, err := barriers.Acquire(ask, barriers.AcquireSpec{Tenant: "acme", Job: "counting", Worker: "w1", Owner: "dies"}); err != nil {
			t.Fatal(err)
		}
		if err := processor.RunOnce(t.Context(), m, topology, countingJob, processor.JobConfig{}, false); !errors.Is(err, processor.ErrNoState) {
			t.Errorf("the attempt behind a start that was not completed ended with %v", err)
		}
		stint(t, m, topology, processor.JobConfig{Start: processor.StartPoint{From: processor.FromSavepoint, Savepoint: "kept"}}, "a")
		if got := countsOn(t, m, "acme.counts"); got != "a1 a2 a3" {
			t.Errorf("published: %s", got)
		}
		if now, _ := committed(t, m, countingJob); now.Head.Checkpoint <= stone.Head.Checkpoint || now.Head.Epoch <= stone.Head.Epoch {
			t.Errorf("the head is not above the tombstone: %+v", now.Head)
		}
	})
}

// TestFinishStop brings a job to its end whose owner died between a commit and its release.
func TestFinishStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		topology := counting(t, nil)
		if err := processor.RunOnce(t.Context(), m, topology, countingJob, processor.JobConfig{}, true); !processor.Stopped(err) {
			t.Fatalf("a job that never ran: %v", err)
		}
		stint(t, m, topology, processor.JobConfig{}, "a")
		deaf := &noOutput{Memory: m}
		w := startWorker(t, deaf, "w1", processor.Listener{})
		w.deploy(t, topology, "acme", processor.JobConfig{})
		w.run()
		publishWords(t, m, "acme", "a", "b")
		time.Sleep(time.Second)
		w.crash(t)
		if got := countsOn(t, m, "acme.counts"); got != "a1" {
			t.Fatalf("published before the crash: %s", got)
		}
		for range 2 {
			if err := processor.RunOnce(t.Context(), m, topology, countingJob, processor.JobConfig{}, true); !processor.Stopped(err) {
				t.Fatal(err)
			}
			rec, _ := committed(t, m, countingJob)
			if got := countsOn(t, m, "acme.counts"); got != "a1 a2 b1" || rec.Head.State != barriers.StateStopped {
				t.Fatalf("published %s, the head is %s", got, rec.Head.State)
			}
		}
	})
}

// sortedCounts orders counts by word, which is all that is promised over several subtasks.
func sortedCounts(s string) string {
	byWord := map[byte][]string{}
	for _, f := range strings.Fields(s) {
		byWord[f[0]] = append(byWord[f[0]], f)
	}
	return fmt.Sprint(byWord)
}

// TestRescaleKeepsEveryResult goes from 1 to 4 to 3 subtasks, by restart and by savepoint.
func TestRescaleKeepsEveryResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		topology := counting(t, nil)
		want := map[string]int64{}
		var words []string
		for i := range 40 {
			words = append(words, fmt.Sprintf("w%d", i%11))
		}
		for _, parallelism := range []int{1, 4, 3, 1} {
			for _, w := range words {
				want[w]++
			}
			stint(t, m, topology, processor.JobConfig{Parallelism: parallelism, KeyGroups: 16}, words...)
			checkCounts(t, m, "acme", want)
		}
		if errs := processor.CheckStart(t.Context(), m, topology, countingJob, processor.JobConfig{Parallelism: 17, KeyGroups: 17}); len(errs) != 1 || !strings.Contains(errs[0].Error(), "16 key groups") {
			t.Errorf("more subtasks than key groups: %v", errs)
		}
	})
}

type oldTotal struct{ N int64 }

var (
	totalV2 = state.NewValue[string]("total", state.Codec(codec.String()), state.SchemaVersion(2),
		state.Upcast(1, nil, func(n int64) (string, error) { return fmt.Sprint(n), nil }))
	lastSeen = state.NewValue[string]("last")
)

// countingV2 is the counting topology of a later version: the count is a string, there is another state and another operator.
func countingV2(t *testing.T) *processor.Topology {
	t.Helper()
	b := processor.NewBuilder("counting")
	words := processor.From(b, "words", processor.SourceSpec[string]{Filters: []tenants.Filter{"words"}, Codec: codec.String()})
	keyed := processor.KeyBy(words, func(w string) string { return w })
	counts := processor.Process(keyed, "count", func(pc *processor.Context[counted], w string) error {
		text, err := totalV2.Get(pc)
		if err != nil {
			return err
		}
		var n int64
		_, _ = fmt.Sscan(text, &n)
		pc.Emit(counted{w, n + 1})
		return errors.Join(lastSeen.Set(pc, w), totalV2.Set(pc, fmt.Sprint(n+1)))
	}, processor.Uses(totalV2, lastSeen))
	publishCounts(counts)
	again := processor.Process(processor.KeyBy(counts, func(c counted) string { return c.Word }), "again", func(pc *processor.Context[counted], c counted) error {
		n, err := wordTotal.Get(pc)
		if err != nil {
			return err
		}
		pc.Emit(counted{c.Word, n + 1})
		return wordTotal.Set(pc, n+1)
	}, processor.Uses(wordTotal))
	processor.To(again, "again-counts", processor.SinkSpec[counted]{Subject: func(counted) string { return "again" }, Codec: codec.JSON[counted]()})
	return built(t, b)
}

// TestChangedProgram restores into another version of the topology and back.
func TestChangedProgram(t *testing.T) {
	for _, parallelism := range []int{1, 3} {
		t.Run(fmt.Sprintf("parallelism %d", parallelism), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemory("acme")
				one := processor.JobConfig{Parallelism: parallelism}
				stint(t, m, counting(t, nil), one, "a", "a", "b", "c")
				_, old := committed(t, m, countingJob)

				// A checkpoint that is aborted does not count: the one behind it must be full all the same.
				full := &refuseUploads{Memory: m}
				w := startWorker(t, full, "w1", processor.Listener{})
				w.deploy(t, countingV2(t), "acme", one)
				w.run()
				full.left.Store(2)
				publishWords(t, m, "acme", "a")
				time.Sleep(2 * time.Second)
				w.drain(t)
				if full.left.Load() != 0 {
					t.Fatal("no upload was refused")
				}
				_, now := committed(t, m, countingJob)
				for _, op := range now.Operators {
					for _, o := range op.Chain {
						if op.Name == "count" && o.Checkpoint <= old.Checkpoint {
							t.Errorf("the chain still has %s", o.Name)
						}
					}
				}
				stint(t, m, countingV2(t), one, "a", "b", "c")
				if got := sortedCounts(countsOn(t, m, "acme.counts")); got != sortedCounts("a1 a2 b1 c1 a3 a4 b2 c2") {
					t.Errorf("published: %s", got)
				}
				if got := sortedCounts(countsOn(t, m, "acme.again")); got != sortedCounts("a1 a2 b1 c1") {
					t.Errorf("published by the new operator: %s", got)
				}

				// Back to the old version: everything that does not fit is named at once, before anything starts.
				errs := processor.CheckStart(t.Context(), m, counting(t, nil), countingJob, one)
				text := errors.Join(errs...).Error()
				for _, part := range []string{`operator count, state "total": version 2 is recorded, version 1 is declared`, `operator count, state "last"`, "operator again"} {
					if !strings.Contains(text, part) {
						t.Errorf("%q is not said: %s", part, text)
					}
				}
				// Without what it can drop, the rest is still refused.
				one.AllowDroppedState = true
				if errs := processor.CheckStart(t.Context(), m, counting(t, nil), countingJob, one); len(errs) != 1 {
					t.Errorf("with AllowDroppedState: %v", errs)
				}
			})
		})
	}
}

// TestDroppedStateLeavesTheChain drops an operator and a state: the next checkpoint starts new chains.
func TestDroppedStateLeavesTheChain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		extra := state.NewValue[oldTotal]("extra")
		build := func(uses ...processor.Declared) *processor.Topology {
			b := processor.NewBuilder("counting")
			words := processor.From(b, "words", processor.SourceSpec[string]{Filters: []tenants.Filter{"words"}, Codec: codec.String()})
			counts := processor.Process(processor.KeyBy(words, func(w string) string { return w }), "count", func(pc *processor.Context[counted], w string) error {
				n, err := wordTotal.Get(pc)
				if err != nil {
					return err
				}
				if len(uses) > 1 {
					err = extra.Set(pc, oldTotal{n})
				}
				pc.Emit(counted{w, n + 1})
				return errors.Join(err, wordTotal.Set(pc, n+1))
			}, processor.Uses(uses...))
			publishCounts(counts)
			topology, err := b.Build()
			if err != nil {
				t.Fatal(err)
			}
			return topology
		}
		stint(t, m, build(wordTotal, extra), processor.JobConfig{}, "a", "b")
		_, old := committed(t, m, countingJob)
		stint(t, m, build(wordTotal), processor.JobConfig{AllowDroppedState: true}, "a")
		_, now := committed(t, m, countingJob)
		for _, o := range now.Operators[0].Chain {
			if o.Checkpoint <= old.Checkpoint {
				t.Errorf("the chain still has %s", o.Name)
			}
		}
		if got := countsOn(t, m, "acme.counts"); got != "a1 b1 a2" {
			t.Errorf("published: %s", got)
		}
		// What was dropped is gone: the state begins anew where it is declared again.
		stint(t, m, build(wordTotal, extra), processor.JobConfig{}, "b")
		if got := countsOn(t, m, "acme.counts"); got != "a1 b1 a2 b2" {
			t.Errorf("published: %s", got)
		}
	})
}
