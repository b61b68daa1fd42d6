package processor_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstream/weir/processor"
)

// stoppedInBetween leaves a job whose worker died after it wrote that the job is to stop in a way, and before it began to.
func stoppedInBetween(t *testing.T, req processor.StopRequest) *worker {
	t.Helper()
	m := newMemory("acme")
	w, _ := startCounting(t, m, "a", "b")
	must[processor.SavepointReport](t)(w.rt.TakeSavepoint(t.Context(), countingJob, processor.SavepointRequest{Name: "taken"}))
	w.crash(t)
	publishWords(t, m, "acme", "a")
	in, rev := intentOf(t, m, countingJob)
	in.Desired, in.Stop = processor.DesiredStopped, &req
	must[uint64](t)(m.WriteIntent(t.Context(), in, rev))
	w, _ = startCounting(t, m)
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
