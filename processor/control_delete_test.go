package processor_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/processor/processortest"
	"github.com/weirstream/weir/tenants"
)

// rest lists what is left of a job: records, without its head, and objects.
func rest(t *testing.T, m *processortest.Memory, id tenants.JobID) (records, objects []string) {
	t.Helper()
	reply := m.Do(t.Context(), id, barriers.Request{Op: barriers.OpListRecords, Key: barriers.HeadKey(string(id.Tenant), id.Name)})
	for _, o := range m.Do(t.Context(), id, barriers.Request{Op: barriers.OpListObjects}).Objects {
		objects = append(objects, o.Name)
	}
	return reply.Names, objects
}

func TestDeleteAndStartAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		w, j := startCounting(t, m, "a", "b")
		wantReason(t, w.rt.Delete(t.Context(), countingJob, processor.DeleteRequest{Confirm: "other"}), processor.ReasonBadRequest)
		epoch := headOf(t, m, countingJob).Head.Epoch
		last := headOf(t, m, countingJob).Head.Checkpoint
		if err := w.rt.Delete(t.Context(), countingJob, processor.DeleteRequest{Confirm: "counting"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		wantState(t, j, processor.JobDeleted)
		if records, objects := rest(t, m, countingJob); len(records)+len(objects) > 0 {
			t.Errorf("of the deleted job are left: %v %v", records, objects)
		}
		if h := headOf(t, m, countingJob).Head; h.State != barriers.StateDeleted || h.Epoch <= epoch || h.Checkpoint < last {
			t.Errorf("the tombstone is %+v", h)
		}
		if list := must[[]processor.JobReport](t)(w.rt.Jobs(t.Context(), "acme")); len(list) != 0 {
			t.Errorf("the deleted job is listed: %+v", list)
		}
		if err := w.rt.Delete(t.Context(), countingJob, processor.DeleteRequest{Confirm: "counting"}); err != nil {
			t.Errorf("deleting again: %v", err)
		}
		_, err := w.rt.Start(t.Context(), countingJob, processor.StartRequest{})
		wantReason(t, err, processor.ReasonBadRequest)
		w.crash(t)
		w, j = startCounting(t, m)
		time.Sleep(20 * time.Second)
		wantState(t, j, processor.JobDeleted)
		fresh := processor.StartRequest{StartPoint: processor.StartPoint{From: processor.FromFresh}}
		rep := must[processor.JobReport](t)(w.rt.Start(t.Context(), countingJob, fresh))
		if rep.State != processor.JobRunning || rep.Epoch <= epoch {
			t.Errorf("after the fresh start: %+v", rep)
		}
		time.Sleep(time.Second)
		if h := headOf(t, m, countingJob).Head; h.Checkpoint <= last {
			t.Errorf("checkpoint %d follows %d", h.Checkpoint, last)
		}
		w.crash(t)
		var got []string
		for _, r := range m.Messages("acme", "acme.counts") {
			got = append(got, string(r.Data))
		}
		once := `{"word":"a","count":1} {"word":"b","count":1}`
		if strings.Join(got, " ") != once+" "+once {
			t.Errorf("published was %v", got)
		}
	})
}

// crashing lets the n-th request of the commit log, and everything after it, fail, as a process that is killed there.
type crashing struct {
	*processortest.Memory
	left  atomic.Int64 // 0 and below: none crashes
	crash func()
}

func (c *crashing) step(ctx context.Context) error {
	if c.left.Load() > 0 && c.left.Add(-1) == 0 {
		c.crash()
	}
	return ctx.Err()
}

func (c *crashing) PublishPart(ctx context.Context, p processor.Part) barriers.Reply {
	if err := c.step(ctx); err != nil {
		return barriers.Reply{Status: barriers.Canceled, Err: err}
	}
	return c.Memory.PublishPart(ctx, p)
}

func (c *crashing) Do(ctx context.Context, job tenants.JobID, r barriers.Request) barriers.Reply {
	if err := c.step(ctx); err != nil {
		return barriers.Reply{Status: barriers.Canceled, Err: err}
	}
	return c.Memory.Do(ctx, job, r)
}

func (c *crashing) WriteIntent(ctx context.Context, in *processor.Intent, expected uint64) (uint64, error) {
	if err := c.step(ctx); err != nil {
		return 0, err
	}
	return c.Memory.WriteIntent(ctx, in, expected)
}

// A deletion that crashes at any of its requests is brought to its end by the next process.
func TestADeletionThatCrashesIsFinished(t *testing.T) {
	for n := 1; ; n++ {
		crashed := false
		synctest.Test(t, func(t *testing.T) {
			m := newMemory("acme")
			w, _ := startCounting(t, m, "a", "b")
			w.crash(t)
			in, rev := intentOf(t, m, countingJob)
			in.Desired = processor.DesiredDeleted
			must[uint64](t)(m.WriteIntent(t.Context(), in, rev))
			c := &crashing{Memory: m}
			c.left.Store(int64(n))
			w = fleetWorker(t, c, "w1", counting(t, nil))
			c.crash = func() { crashed = true; w.cancel() }
			w.run()
			time.Sleep(time.Minute)
			w.crash(t)
			w = fleetWorker(t, m, "w1", counting(t, nil))
			w.run()
			time.Sleep(time.Minute)
			w.crash(t)
			if in, _ := intentOf(t, m, countingJob); !in.Cleaned {
				t.Errorf("crash at request %d: the deletion was never completed: %+v", n, in)
			}
			if records, objects := rest(t, m, countingJob); len(records)+len(objects) > 0 {
				t.Errorf("crash at request %d: left are %v %v", n, records, objects)
			}
			if h := headOf(t, m, countingJob).Head; h.State != barriers.StateDeleted || h.ManifestSeq != 0 {
				t.Errorf("crash at request %d: the head is %+v", n, h)
			}
		})
		if !crashed {
			if n < 5 {
				t.Fatalf("a deletion takes %d requests only", n)
			}
			return
		}
	}
}

// The savepoints of a deleted job stay, and it can start from them, unless they are to go too.
func TestDeleteWithAndWithoutSavepoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		w, _ := startCounting(t, m, "a", "a")
		must[processor.SavepointReport](t)(w.rt.TakeSavepoint(t.Context(), countingJob, processor.SavepointRequest{Name: "two"}))
		confirm := processor.DeleteRequest{Confirm: "counting"}
		if err := w.rt.Delete(t.Context(), countingJob, confirm); err != nil {
			t.Fatal(err)
		}
		if list := must[[]processor.SavepointReport](t)(w.rt.Savepoints(t.Context(), countingJob)); len(list) != 1 {
			t.Fatalf("the savepoints are %+v", list)
		}
		must[processor.JobReport](t)(w.rt.Start(t.Context(), countingJob, processor.StartRequest{
			StartPoint: processor.StartPoint{From: processor.FromSavepoint, Savepoint: "two"},
		}))
		publishWords(t, m, "acme", "a")
		time.Sleep(time.Second)
		confirm.Savepoints = true
		if err := w.rt.Delete(t.Context(), countingJob, confirm); err != nil {
			t.Fatal(err)
		}
		if records, objects := rest(t, m, countingJob); len(records)+len(objects) > 0 {
			t.Errorf("left are %v %v", records, objects)
		}
		w.crash(t)
		checkCounts(t, m, "acme", map[string]int64{"a": 3})
	})
}

// Whichever request a stop or a start crashes at: afterwards the job is what its intent says, and no record is lost or counted twice.
func TestStopsAndStartsThatCrash(t *testing.T) {
	two := 2
	for what, ask := range map[string]func(rt *processor.Runtime, ctx context.Context) error{
		"stop": func(rt *processor.Runtime, ctx context.Context) error {
			_, err := rt.Stop(ctx, countingJob, processor.StopRequest{})
			return err
		},
		"stop now": func(rt *processor.Runtime, ctx context.Context) error {
			_, err := rt.Stop(ctx, countingJob, processor.StopRequest{Mode: processor.StopNow})
			return err
		},
		"drain": func(rt *processor.Runtime, ctx context.Context) error {
			_, err := rt.Stop(ctx, countingJob, processor.StopRequest{Mode: processor.StopDrain})
			return err
		},
		"savepoint": func(rt *processor.Runtime, ctx context.Context) error {
			_, err := rt.Stop(ctx, countingJob, processor.StopRequest{Savepoint: "last"})
			return err
		},
		"rescale": func(rt *processor.Runtime, ctx context.Context) error {
			_, err := rt.Start(ctx, countingJob, processor.StartRequest{Config: &processor.ConfigPatch{Parallelism: &two}})
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			for n, crashed := 1, true; crashed; n++ {
				synctest.Test(t, func(t *testing.T) { crashed = crashAt(t, n, ask) })
				if !crashed && n < 5 {
					t.Fatalf("it takes %d requests only", n)
				}
			}
		})
	}
}

// crashAt crashes the worker at the n-th request after ask, and reports whether it came that far.
func crashAt(t *testing.T, n int, ask func(*processor.Runtime, context.Context) error) bool {
	t.Helper()
	m := newMemory("acme")
	c := &crashing{Memory: m}
	w := startWorker(t, c, "w1", processor.Listener{})
	w.deploy(t, counting(t, nil), "acme", processor.JobConfig{Checkpoint: processor.CheckpointConfig{Interval: time.Hour}})
	var crashed atomic.Bool
	w.run()
	time.Sleep(time.Second)
	publishWords(t, m, "acme", "a", "b", "a")
	time.Sleep(time.Second)
	ctx, cancel := context.WithCancel(t.Context())
	c.crash = func() { crashed.Store(true); cancel(); w.cancel() }
	c.left.Store(int64(n))
	err := ask(w.rt, ctx)
	if !crashed.Load() && err != nil {
		t.Errorf("without a crash: %v", err)
	}
	cancel()
	c.left.Store(0)
	w.crash(t)
	w = startWorker(t, m, "w1", processor.Listener{})
	j := w.deploy(t, counting(t, nil), "acme", processor.JobConfig{})
	w.run()
	time.Sleep(30 * time.Second)
	in, _ := intentOf(t, m, countingJob)
	state := j.Status()
	switch head := headOf(t, m, countingJob).Head; {
	case in.Desired == processor.DesiredStopped && (state.State != processor.JobStopped || head.State != barriers.StateStopped):
		t.Errorf("crash at request %d: the job should be stopped and is %s (%v), its head says %s", n, state.State, state.Err, head.State)
	case in.Desired == processor.DesiredRunning && state.State != processor.JobRunning:
		t.Errorf("crash at request %d: the job should run and is %s: %v", n, state.State, state.Err)
	}
	if _, err := w.rt.Start(t.Context(), countingJob, processor.StartRequest{}); err != nil {
		t.Errorf("crash at request %d: starting it: %v", n, err)
	}
	publishWords(t, m, "acme", "b")
	time.Sleep(time.Second)
	w.crash(t)
	checkCounts(t, m, "acme", map[string]int64{"a": 2, "b": 2})
	return crashed.Load()
}
