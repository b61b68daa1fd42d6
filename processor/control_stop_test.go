package processor_test

import (
	"context"
	"errors"
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

// owesStop leaves a job whose worker died after it wrote that the job is to stop in a way, and before it began to. There is a savepoint
// taken.
func owesStop(t *testing.T, req processor.StopRequest) *processortest.Memory {
	t.Helper()
	m := newMemory("acme")
	w, _ := startCounting(t, m, "a", "b")
	must[processor.SavepointReport](t)(w.rt.TakeSavepoint(t.Context(), countingJob, processor.SavepointRequest{Name: "taken"}))
	w.crash(t)
	publishWords(t, m, "acme", "a")
	in, rev := intentOf(t, m, countingJob)
	in.Desired, in.Stop = processor.DesiredStopped, &req
	must[uint64](t)(m.WriteIntent(t.Context(), in, rev))
	return m
}

// stoppedInBetween starts the next worker of such a job.
func stoppedInBetween(t *testing.T, req processor.StopRequest) *worker {
	t.Helper()
	w, _ := startCounting(t, owesStop(t, req))
	time.Sleep(30 * time.Second)
	return w
}

// Whoever takes the job makes the savepoint that its stop promised, and drains it as was asked.
func TestAPromisedStopIsKeptByTheNextWorker(t *testing.T) {
	for _, req := range []processor.StopRequest{
		{Mode: processor.StopSavepoint, Savepoint: "last"}, {Savepoint: "last", Request: "r"}, {Mode: processor.StopDrain, Savepoint: "last"},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := stoppedInBetween(t, req)
			wantState(t, w.job(t, countingJob), processor.JobStopped)
			rep := must[processor.StopReport](t)(w.rt.Stop(t.Context(), countingJob, req))
			if rep.Savepoint == nil || rep.Savepoint.Name != "last" || rep.Savepoint.Checkpoint != rep.Checkpoint {
				t.Errorf("%+v: asked again it says %+v", req, rep)
			}
			w.crash(t)
		})
	}
}

// What cannot be kept is not dropped in silence: the job runs on, as if who asked were still there.
func TestAPromisedStopThatCannotBeKeptIsTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := stoppedInBetween(t, processor.StopRequest{Mode: processor.StopSavepoint, Savepoint: "taken"})
		wantState(t, w.job(t, countingJob), processor.JobRunning)
		if at := must[processor.JobReport](t)(w.rt.Status(t.Context(), countingJob)); at.Desired != processor.DesiredRunning {
			t.Errorf("the intent says %s", at.Desired)
		}
		if n := countOf(t, w, countingJob, "a"); n != 2 {
			t.Errorf("a was counted %d times", n)
		}
		w.crash(t)
	})
}

// flaky is a broker of which single requests fail, or take long.
type flaky struct {
	*processortest.Memory
	bind, put func(name string) error
	wait      time.Duration // of every request to the log
}

func (f *flaky) Bind(ctx context.Context, n processor.Needs) (processor.Bindings, error) {
	if f.bind != nil {
		if err := f.bind(""); err != nil {
			return processor.Bindings{}, err
		}
	}
	return f.Memory.Bind(ctx, n)
}

func (f *flaky) Put(ctx context.Context, tenant tenants.ID, name string, data []byte) (barriers.Object, error) {
	if f.put != nil {
		if err := f.put(name); err != nil {
			return barriers.Object{}, err
		}
	}
	return f.Memory.Put(ctx, tenant, name, data)
}

func (f *flaky) Do(ctx context.Context, job tenants.JobID, r barriers.Request) barriers.Reply {
	time.Sleep(f.wait)
	return f.Memory.Do(ctx, job, r)
}

// A request that fails once does not keep a promised stop from being made.
func TestAPromisedStopIsTriedAgain(t *testing.T) {
	for _, mode := range []processor.StopMode{processor.StopDrain, processor.StopSavepoint} {
		synctest.Test(t, func(t *testing.T) {
			var running, failed atomic.Bool
			once := func(name string) error {
				if (mode == processor.StopDrain && running.Load() || strings.Contains(name, "savepoint-last")) && failed.CompareAndSwap(false, true) {
					return errors.New("timeout")
				}
				return nil
			}
			req := processor.StopRequest{Mode: mode}
			if mode == processor.StopSavepoint {
				req.Savepoint = "last"
			}
			f := &flaky{Memory: owesStop(t, req), bind: once, put: once}
			w := startWorker(t, f, "w2", processor.Listener{Job: func(ev processor.JobEvent) {
				running.Store(running.Load() || ev.State == processor.JobRunning)
			}})
			j := w.deploy(t, counting(t, nil), "acme", processor.JobConfig{})
			w.run()
			time.Sleep(10 * time.Minute)
			if !failed.Load() {
				t.Errorf("%s: no request failed", mode)
			}
			wantState(t, j, processor.JobStopped)
			w.crash(t)
		})
	}
}

// A worker that drains while it takes a job over leaves the promise to the next one.
func TestADrainLeavesAPromisedStop(t *testing.T) {
	var runs time.Duration // when the job runs for its stop
	for i := range 200 {
		synctest.Test(t, func(t *testing.T) {
			f := &flaky{Memory: owesStop(t, processor.StopRequest{Mode: processor.StopSavepoint, Savepoint: "last"}), wait: 10 * time.Millisecond}
			began := time.Now()
			w := startWorker(t, f, "w2", processor.Listener{Job: func(ev processor.JobEvent) {
				if i == 0 && ev.State == processor.JobRunning {
					runs = time.Since(began)
				}
			}})
			w.deploy(t, counting(t, nil), "acme", processor.JobConfig{})
			w.run()
			if i == 0 {
				time.Sleep(2 * time.Minute)
			} else {
				time.Sleep(runs + time.Duration(2*i-300)*time.Millisecond)
			}
			if err := w.rt.Drain(t.Context()); err != nil {
				t.Fatal(err)
			}
			<-w.done
			if in, _ := intentOf(t, f.Memory, countingJob); in.Desired != processor.DesiredStopped {
				t.Errorf("drained %d ms after it ran: the intent is %s, %+v", 2*i-300, in.Desired, in.Stop)
			}
		})
	}
}
