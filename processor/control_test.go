package processor_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

var countingJob = tenants.JobID{Tenant: "acme", Name: "counting"}

// fleetWorker is a worker that knows topologies and deploys nothing.
func fleetWorker(t *testing.T, m processor.Broker, id string, topologies ...*processor.Topology) *worker {
	t.Helper()
	rt, err := processor.NewRuntime(processor.RuntimeConfig{
		Broker: m, Worker: id, Topologies: topologies,
		JobConfig: func(*processor.Topology, tenants.JobID) processor.JobConfig {
			return processor.JobConfig{Checkpoint: processor.CheckpointConfig{Interval: 100 * time.Millisecond}}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return &worker{rt: rt, done: make(chan error, 1)}
}

// job returns a job that the worker hosts.
func (w *worker) job(t *testing.T, id tenants.JobID) *processor.Job {
	t.Helper()
	for _, j := range w.rt.Hosted() {
		if j.ID() == id {
			return j
		}
	}
	t.Fatalf("job %s is not hosted", id)
	return nil
}

func (w *worker) drain(t *testing.T) {
	t.Helper()
	if err := w.rt.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-w.done; err != nil {
		t.Fatal(err)
	}
}

func wantReason(t *testing.T, err error, want processor.Reason) {
	t.Helper()
	var c *processor.ControlError
	if !errors.As(err, &c) || c.Reason != want {
		t.Fatalf("the answer is %v, want reason %s", err, want)
	}
}

func wantState(t *testing.T, j *processor.Job, want processor.JobState) {
	t.Helper()
	if s := j.Status(); s.State != want {
		t.Fatalf("the job is %s (%v), want %s", s.State, s.Err, want)
	}
}

func intentOf(t *testing.T, m processor.Broker, id tenants.JobID) (*processor.Intent, uint64) {
	t.Helper()
	in, rev, err := m.ReadIntent(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return in, rev
}

func headOf(t *testing.T, m processor.Broker, id tenants.JobID) *barriers.HeadRecord {
	t.Helper()
	rec, err := barriers.ReadHead(func(r barriers.Request) barriers.Reply { return m.Do(t.Context(), id, r) }, string(id.Tenant), id.Name)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

func must[T any](t *testing.T) func(v T, err error) T {
	t.Helper()
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestAStoppedJobStaysStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		w, j := startCounting(t, m, "a", "b", "a")
		rep := must[processor.StopReport](t)(w.rt.Stop(t.Context(), countingJob, processor.StopRequest{}))
		if !rep.Published {
			t.Errorf("the stop says %+v", rep)
		}
		time.Sleep(time.Second)
		wantState(t, j, processor.JobStopped)
		publishWords(t, m, "acme", "a")
		again := must[processor.StopReport](t)(w.rt.Stop(t.Context(), countingJob, processor.StopRequest{}))
		if again.Checkpoint != rep.Checkpoint {
			t.Errorf("stopping twice: %+v, then %+v", rep, again)
		}
		_, err := w.rt.TakeCheckpoint(t.Context(), countingJob)
		wantReason(t, err, processor.ReasonNotRunning)
		w.crash(t)
		for round := range 3 {
			w, j = startCounting(t, m)
			time.Sleep(20 * time.Second)
			wantState(t, j, processor.JobStopped)
			if h := headOf(t, m, countingJob); h.Head.State != barriers.StateStopped || h.Head.Epoch != 1 {
				t.Fatalf("round %d: the head is %s in epoch %d", round, h.Head.State, h.Head.Epoch)
			}
			if round < 2 {
				w.crash(t)
			}
		}
		checkCounts(t, m, "acme", map[string]int64{"a": 2, "b": 1})
		up := must[processor.JobReport](t)(w.rt.Start(t.Context(), countingJob, processor.StartRequest{}))
		if up.State != processor.JobRunning || up.Desired != processor.DesiredRunning || up.Epoch != 2 {
			t.Errorf("after the start: %+v", up)
		}
		time.Sleep(time.Second)
		w.crash(t)
		checkCounts(t, m, "acme", map[string]int64{"a": 3, "b": 1})
	})
}

// A crash between the intent and the stop itself: whoever may take the job brings it to its end, with its output published.
func TestAStopThatCrashedIsFinished(t *testing.T) {
	for _, successor := range []string{"w1", "w2"} {
		t.Run(successor, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemory("acme")
				w, _ := startCounting(t, m, "a", "b")
				w.crash(t)
				publishWords(t, m, "acme", "a")
				in, rev := intentOf(t, m, countingJob)
				in.Desired = processor.DesiredStopped
				must[uint64](t)(m.WriteIntent(t.Context(), in, rev))
				w = fleetWorker(t, m, successor, counting(t, nil))
				w.run()
				time.Sleep(30 * time.Second)
				wantState(t, w.job(t, countingJob), processor.JobStopped)
				if h := headOf(t, m, countingJob); h.Head.State != barriers.StateStopped {
					t.Errorf("the head says %s", h.Head.State)
				}
				checkCounts(t, m, "acme", map[string]int64{"a": 1, "b": 1})
				must[processor.JobReport](t)(w.rt.Start(t.Context(), countingJob, processor.StartRequest{}))
				time.Sleep(time.Second)
				w.crash(t)
				checkCounts(t, m, "acme", map[string]int64{"a": 2, "b": 1})
			})
		})
	}
}

// What somebody writes into the bucket by hand is carried out as if it had been asked for.
func TestAnIntentThatWasWrittenByHandIsCarriedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		w, j := startCounting(t, m, "a")
		write := func(change func(*processor.Intent)) {
			in, rev := intentOf(t, m, countingJob)
			change(in)
			must[uint64](t)(m.WriteIntent(t.Context(), in, rev))
			time.Sleep(5 * time.Second)
		}
		write(func(in *processor.Intent) { in.Desired = processor.DesiredStopped })
		wantState(t, j, processor.JobStopped)
		write(func(in *processor.Intent) { in.Desired = processor.DesiredRunning })
		wantState(t, j, processor.JobRunning)
		three := 3
		write(func(in *processor.Intent) {
			in.Config = &processor.ConfigPatch{Parallelism: &three}
			in.Generation++
		})
		if s := j.Status(); s.State != processor.JobRunning || s.Parallelism != 3 {
			t.Errorf("the job is %s at parallelism %d", s.State, s.Parallelism)
		}
		write(func(in *processor.Intent) { in.Desired = processor.DesiredDeleted })
		wantState(t, j, processor.JobDeleted)
		w.crash(t)
		checkCounts(t, m, "acme", map[string]int64{"a": 1})
	})
}

func TestAChangedConfigurationSurvives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		want := map[string]int64{}
		w, _ := startCounting(t, m)
		feed := func() {
			for i := range 40 {
				word := fmt.Sprintf("w%d", i%7)
				want[word]++
				publishWords(t, m, "acme", word)
				time.Sleep(7 * time.Millisecond)
			}
		}
		feed()
		for _, n := range []int{3, 2, 4} {
			rep := must[processor.JobReport](t)(w.rt.Start(t.Context(), countingJob, processor.StartRequest{Config: &processor.ConfigPatch{Parallelism: &n}}))
			if rep.Parallelism != n || rep.State != processor.JobRunning {
				t.Fatalf("after rescaling to %d: %+v", n, rep)
			}
			feed()
			w.crash(t)
			w = startWorker(t, m, "w1", processor.Listener{})
			j := w.deploy(t, counting(t, nil), "acme", processor.JobConfig{Parallelism: 1})
			w.run()
			feed()
			if s := j.Status(); s.Parallelism != n || s.State != processor.JobRunning {
				t.Fatalf("after a crash the job is %s at parallelism %d, want %d", s.State, s.Parallelism, n)
			}
		}
		time.Sleep(time.Second)
		w.crash(t)
		checkCounts(t, m, "acme", want)
	})
}

func TestRequestsAtAStandbyNameTheOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		owner, standby := startWorker(t, m, "w1", processor.Listener{}), startWorker(t, m, "w2", processor.Listener{})
		owner.deploy(t, counting(t, nil), "acme", processor.JobConfig{})
		b := standby.deploy(t, counting(t, nil), "acme", processor.JobConfig{})
		owner.run()
		time.Sleep(time.Second)
		standby.run()
		publishWords(t, m, "acme", "a")
		time.Sleep(2 * time.Second)
		rt, ctx := standby.rt, t.Context()
		asked := map[string]func() error{
			"stop":       func() error { _, err := rt.Stop(ctx, countingJob, processor.StopRequest{}); return err },
			"start":      func() error { _, err := rt.Start(ctx, countingJob, processor.StartRequest{}); return err },
			"delete":     func() error { return rt.Delete(ctx, countingJob, processor.DeleteRequest{Confirm: "counting"}) },
			"checkpoint": func() error { _, err := rt.TakeCheckpoint(ctx, countingJob); return err },
			"savepoint": func() error {
				_, err := rt.TakeSavepoint(ctx, countingJob, processor.SavepointRequest{Name: "x"})
				return err
			},
			"hold": func() error { _, err := rt.Hold(ctx, countingJob, "x", time.Second); return err },
		}
		_, before := intentOf(t, m, countingJob)
		for what, ask := range asked {
			var elsewhere *processor.NotOwnerError
			if err := ask(); !errors.As(err, &elsewhere) || elsewhere.Worker != "w1" || elsewhere.Process != owner.rt.Process() {
				t.Errorf("%s at the standby: %v", what, err)
			}
		}
		if _, after := intentOf(t, m, countingJob); after != before {
			t.Error("a request that was refused changed the intent")
		}
		rep := must[processor.JobReport](t)(rt.Status(ctx, countingJob))
		if rep.State != processor.JobRunning || rep.Worker != "w1" || rep.Process != owner.rt.Process() || rep.Checkpoint == 0 {
			t.Errorf("the standby says %+v", rep)
		}
		// The owner stops it: the standby hears of it, and may start it.
		must[processor.StopReport](t)(owner.rt.Stop(ctx, countingJob, processor.StopRequest{}))
		time.Sleep(2 * time.Second)
		wantState(t, b, processor.JobStopped)
		owner.crash(t)
		up := must[processor.JobReport](t)(rt.Start(ctx, countingJob, processor.StartRequest{}))
		if up.State != processor.JobRunning || up.Worker != "w2" {
			t.Errorf("after the start: %+v", up)
		}
		standby.crash(t)
		checkCounts(t, m, "acme", map[string]int64{"a": 1})
	})
}

func TestAParkedJobIsStartedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		var sick atomic.Bool
		sick.Store(true)
		w := startWorker(t, m, "w1", processor.Listener{})
		j := w.deploy(t, counting(t, sick.Load), "acme", processor.JobConfig{Restart: processor.RestartConfig{Attempts: 3}})
		w.run()
		publishWords(t, m, "acme", "a", "panic", "b")
		time.Sleep(time.Minute)
		wantState(t, j, processor.JobParked)
		_, err := w.rt.TakeCheckpoint(t.Context(), countingJob)
		wantReason(t, err, processor.ReasonNotRunning)
		sick.Store(false)
		rep := must[processor.JobReport](t)(w.rt.Start(t.Context(), countingJob, processor.StartRequest{}))
		if rep.State != processor.JobRunning {
			t.Errorf("after the start: %+v", rep)
		}
		time.Sleep(time.Second)
		// A job that is parked can also be stopped.
		sick.Store(true)
		publishWords(t, m, "acme", "panic")
		time.Sleep(time.Minute)
		wantState(t, j, processor.JobParked)
		must[processor.StopReport](t)(w.rt.Stop(t.Context(), countingJob, processor.StopRequest{}))
		time.Sleep(time.Second)
		wantState(t, j, processor.JobStopped)
		if h := headOf(t, m, countingJob); h.Head.State != barriers.StateStopped {
			t.Errorf("the head says %s", h.Head.State)
		}
		w.crash(t)
		checkCounts(t, m, "acme", map[string]int64{"a": 1, "b": 1, "panic": 1})
	})
}

func TestARefusedStartLeavesTheJobAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		w, j := startCounting(t, m, "a")
		_, before := intentOf(t, m, countingJob)
		huge, odd := 100_000, "no.such.source"
		for what, c := range map[string]struct {
			req    processor.StartRequest
			reason processor.Reason
		}{
			"parallelism": {processor.StartRequest{Config: &processor.ConfigPatch{Parallelism: &huge}}, processor.ReasonBadRequest},
			"stream":      {processor.StartRequest{Config: &processor.ConfigPatch{Streams: map[string]string{odd: "x"}}}, processor.ReasonBadRequest},
			"savepoint":   {processor.StartRequest{StartPoint: processor.StartPoint{From: processor.FromSavepoint, Savepoint: "none"}}, processor.ReasonNotFound},
			"topology":    {processor.StartRequest{Topology: "other"}, processor.ReasonBadRequest},
		} {
			_, err := w.rt.Start(t.Context(), countingJob, c.req)
			var refused *processor.ControlError
			if what == "topology" && err == nil {
				continue // it runs, and nothing was to be done
			}
			if !errors.As(err, &refused) || refused.Reason != c.reason {
				t.Errorf("%s: %v", what, err)
			}
		}
		time.Sleep(time.Second)
		if _, after := intentOf(t, m, countingJob); after != before {
			t.Error("a refused start changed the intent")
		}
		if s := j.Status(); s.State != processor.JobRunning || s.Epoch != 1 {
			t.Errorf("the job is %s in epoch %d", s.State, s.Epoch)
		}
		for id, want := range map[tenants.JobID]processor.Reason{
			{Tenant: "acme", Name: "nosuch"}:   processor.ReasonUnknownJob,
			{Tenant: "nobody", Name: "nosuch"}: processor.ReasonUnknownTenant,
			{Tenant: "a.b", Name: "x"}:         processor.ReasonBadRequest,
		} {
			_, err := w.rt.Start(t.Context(), id, processor.StartRequest{})
			wantReason(t, err, want)
			_, err = w.rt.Status(t.Context(), id)
			wantReason(t, err, want)
		}
		w.crash(t)
	})
}
