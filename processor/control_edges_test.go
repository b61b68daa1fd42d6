package processor_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// A job ends exactly at the savepoint that it stops with: a checkpoint that is asked for while that is made does not follow.
func TestNothingFollowsTheLastCheckpointOfAStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newSlow(0)
		w := startWorker(t, b, "w1", processor.Listener{})
		j := w.deploy(t, counting(t, nil), "acme", processor.JobConfig{})
		w.run()
		publishWords(t, b.Memory, "acme", "a")
		time.Sleep(time.Second)
		stopped := make(chan processor.StopReport, 1)
		go func() {
			stopped <- must[processor.StopReport](t)(w.rt.Stop(t.Context(), countingJob, processor.StopRequest{Savepoint: "last"}))
		}()
		time.Sleep(time.Second)
		last := headOf(t, b, countingJob).Head.Checkpoint
		go func() { _, _ = w.rt.TakeCheckpoint(t.Context(), countingJob) }() // it is refused when the job has stopped
		time.Sleep(time.Second)
		if now := headOf(t, b, countingJob).Head.Checkpoint; now != last {
			t.Errorf("checkpoint %d follows the last one, %d", now, last)
		}
		close(b.gate)
		if rep := <-stopped; rep.Savepoint == nil || rep.Checkpoint != rep.Savepoint.Checkpoint || rep.Checkpoint != last {
			t.Errorf("the stop says %+v, the last checkpoint was %d", rep, last)
		}
		synctest.Wait()
		wantState(t, j, processor.JobStopped)
		w.crash(t)
	})
}

// A stop with a savepoint does not take an old one of that name for its own.
func TestAStopDoesNotAnswerWithAnOlderSavepoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		w, j := startCounting(t, m, "a")
		must[processor.SavepointReport](t)(w.rt.TakeSavepoint(t.Context(), countingJob, processor.SavepointRequest{Name: "old"}))
		publishWords(t, m, "acme", "b")
		_, err := w.rt.Stop(t.Context(), countingJob, processor.StopRequest{Savepoint: "old"})
		wantReason(t, err, processor.ReasonConflict)
		time.Sleep(time.Second)
		wantState(t, j, processor.JobRunning)
		w.crash(t)
	})
}

// The last checkpoint before a start does not push out the one that the job is to start from.
func TestStartFromTheOldestRetainedCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		w := startWorker(t, m, "w1", processor.Listener{})
		j := w.deploy(t, counting(t, nil), "acme", processor.JobConfig{Checkpoint: processor.CheckpointConfig{Interval: time.Hour, Retained: 2}})
		w.run()
		time.Sleep(time.Second)
		var ids []uint64
		for range 2 {
			publishWords(t, m, "acme", "a")
			time.Sleep(time.Second)
			ids = append(ids, must[processor.CheckpointReport](t)(w.rt.TakeCheckpoint(t.Context(), countingJob)).Checkpoint)
		}
		must[processor.JobReport](t)(w.rt.Start(t.Context(), countingJob, processor.StartRequest{
			StartPoint: processor.StartPoint{From: processor.FromCheckpoint, Checkpoint: ids[0]},
		}))
		time.Sleep(time.Second)
		wantState(t, j, processor.JobRunning)
		if n := countOf(t, w, countingJob, "a"); n != 2 {
			t.Errorf("a was counted %d times", n)
		}
		w.crash(t)
	})
}

// A fork keeps its shadow, and one that was started fresh is still found by the next process.
func TestAForkStaysAFork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		w, _ := startCounting(t, m, "a")
		fork, none := tenants.JobID{Tenant: "acme", Name: "copy"}, ""
		must[processor.JobReport](t)(w.rt.Fork(t.Context(), countingJob, processor.ForkRequest{As: "copy"}))
		for _, from := range []processor.StartFrom{processor.FromLatest, processor.FromFresh} {
			_, err := w.rt.Start(t.Context(), fork, processor.StartRequest{
				StartPoint: processor.StartPoint{From: from}, Config: &processor.ConfigPatch{Shadow: &none},
			})
			wantReason(t, err, processor.ReasonBadRequest)
		}
		must[processor.JobReport](t)(w.rt.Start(t.Context(), fork, processor.StartRequest{StartPoint: processor.StartPoint{From: processor.FromFresh}}))
		w.crash(t)
		w, _ = startCounting(t, m)
		time.Sleep(20 * time.Second)
		wantState(t, w.job(t, fork), processor.JobRunning)
		w.crash(t)
		checkCounts(t, m, "acme", map[string]int64{"a": 1})
	})
}

// A deletion that takes the savepoints along takes all: also one that cannot be read, and one that is being made elsewhere.
func TestDeleteTakesEverySavepoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		w, _ := startCounting(t, m, "a")
		ask := func(r barriers.Request) barriers.Reply { return m.Do(t.Context(), countingJob, r) }
		r := barriers.Request{Op: barriers.OpWriteRecord, Key: barriers.SavepointKey("acme", "counting", "broken"), Value: []byte("{")}
		if reply := ask(r); reply.Status != barriers.OK {
			t.Fatal(reply.Err)
		}
		must[*barriers.Manifest](t)(barriers.ReserveSavepoint(ask, barriers.Reservation{Tenant: "acme", Job: "counting", Savepoint: "import", Owner: "o", Request: "r"}))
		if err := w.rt.Delete(t.Context(), countingJob, processor.DeleteRequest{Confirm: "counting", Savepoints: true}); err != nil {
			t.Fatal(err)
		}
		if records, objects := rest(t, m, countingJob); len(records)+len(objects) > 0 {
			t.Errorf("left are %v %v", records, objects)
		}
		w.crash(t)
	})
}

// A job whose end waits for room in its output stream can be deleted.
func TestDeleteAJobThatCannotFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &stuck{Memory: newMemory("acme")}
		w := startWorker(t, b, "w1", processor.Listener{})
		w.deploy(t, counting(t, nil), "acme", processor.JobConfig{Checkpoint: processor.CheckpointConfig{Interval: time.Hour}})
		w.run()
		time.Sleep(10 * time.Second)
		b.full.Store(true)
		publishWords(t, b.Memory, "acme", "a")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if rep := must[processor.StopReport](t)(w.rt.Stop(ctx, countingJob, processor.StopRequest{})); rep.Published {
			t.Fatalf("the report is %+v", rep)
		}
		w.crash(t)
		w = startWorker(t, b, "w1", processor.Listener{})
		j := w.deploy(t, counting(t, nil), "acme", processor.JobConfig{})
		w.run()
		time.Sleep(time.Minute) // the stop is being finished
		ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := w.rt.Delete(ctx, countingJob, processor.DeleteRequest{Confirm: "counting"}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		wantState(t, j, processor.JobDeleted)
		w.crash(t)
	})
}

// A job that found no place gets the one of a job that is deleted.
func TestAFreePlaceIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		for _, name := range []string{"job0", "job1"} {
			in := &processor.Intent{Tenant: "acme", Job: name, Topology: "counting", Desired: processor.DesiredRunning}
			must[uint64](t)(m.WriteIntent(t.Context(), in, 0))
		}
		rt, err := processor.NewRuntime(processor.RuntimeConfig{Broker: m, Worker: "w1", MaxJobs: 1, Topologies: []*processor.Topology{counting(t, nil)}})
		if err != nil {
			t.Fatal(err)
		}
		w := &worker{rt: rt, done: make(chan error, 1)}
		w.run()
		time.Sleep(time.Second)
		first := rt.Hosted()[0].ID()
		if err := rt.Delete(t.Context(), first, processor.DeleteRequest{Confirm: first.Name}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if hosted := rt.Hosted(); len(hosted) != 1 || hosted[0].ID() == first {
			t.Errorf("hosted are %d jobs beside the deleted %s", len(hosted), first)
		}
		w.crash(t)
	})
}
