package processor_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/processor/processortest"
	"github.com/weirstream/weir/tenants"
)

// countOf reads a word's live count through the control interface; 0 where there is none.
func countOf(t *testing.T, w *worker, id tenants.JobID, word string) int64 {
	t.Helper()
	rep := must[processor.StateReport](t)(w.rt.ReadState(t.Context(), id, processor.StateRequest{Operator: "count", State: "total", Key: &word}))
	if !rep.Found {
		return 0
	}
	var n int64
	if err := json.Unmarshal(rep.Value, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// A start from somewhere is applied once: neither a crash nor a deployment applies it again, and asking for it again by the same request
// does not either.
func TestAStartFromIsAppliedOnce(t *testing.T) {
	for _, running := range []bool{true, false} {
		t.Run(fmt.Sprintf("running %t", running), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemory("acme")
				w, _ := startCounting(t, m, "a", "a")
				sp := must[processor.SavepointReport](t)(w.rt.TakeSavepoint(t.Context(), countingJob, processor.SavepointRequest{Name: "two"}))
				publishWords(t, m, "acme", "a", "a", "a")
				time.Sleep(time.Second)
				if !running {
					must[processor.StopReport](t)(w.rt.Stop(t.Context(), countingJob, processor.StopRequest{}))
				}
				req := processor.StartRequest{StartPoint: processor.StartPoint{From: processor.FromSavepoint, Savepoint: "two", Request: "back"}}
				rep := must[processor.JobReport](t)(w.rt.Start(t.Context(), countingJob, req))
				if rep.State != processor.JobRunning || rep.Checkpoint <= sp.Checkpoint {
					t.Errorf("after the start: %+v", rep)
				}
				time.Sleep(time.Second)
				epoch := headOf(t, m, countingJob).Head.Epoch
				must[processor.JobReport](t)(w.rt.Start(t.Context(), countingJob, req))
				if e := headOf(t, m, countingJob).Head.Epoch; e != epoch {
					t.Errorf("the same request started the job again: epoch %d follows %d", e, epoch)
				}
				for range 2 {
					w.crash(t)
					w, _ = startCounting(t, m)
					publishWords(t, m, "acme", "a")
					time.Sleep(2 * time.Second)
				}
				// Two of the savepoint, three read again, two new ones.
				if n := countOf(t, w, countingJob, "a"); n != 7 {
					t.Errorf("a was counted %d times", n)
				}
				w.crash(t)
			})
		})
	}
}

// Where an operator started a job from wins over what the program deploys with, for good.
func TestTheProgramsStartPointIsHiddenByAnOperators(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		w, _ := startCounting(t, m, "a")
		must[processor.SavepointReport](t)(w.rt.TakeSavepoint(t.Context(), countingJob, processor.SavepointRequest{Name: "one"}))
		w.crash(t)
		start := processor.JobConfig{Start: processor.StartPoint{From: processor.FromSavepoint, Savepoint: "one"}}
		again := func() {
			w = startWorker(t, m, "w1", processor.Listener{})
			w.deploy(t, counting(t, nil), "acme", start)
			w.run()
			time.Sleep(time.Second)
		}
		again()
		applied := headOf(t, m, countingJob).Head.Request
		if applied == "" {
			t.Fatal("the program's start was not applied")
		}
		must[processor.JobReport](t)(w.rt.Start(t.Context(), countingJob, processor.StartRequest{StartPoint: processor.StartPoint{From: processor.FromFresh}}))
		publishWords(t, m, "acme", "b")
		time.Sleep(time.Second)
		two := 2
		must[processor.JobReport](t)(w.rt.Start(t.Context(), countingJob, processor.StartRequest{Config: &processor.ConfigPatch{Parallelism: &two}}))
		time.Sleep(time.Second)
		w.crash(t)
		again()
		if h := headOf(t, m, countingJob).Head; h.Request == applied {
			t.Error("the program's start was applied a second time")
		}
		if a, b := countOf(t, w, countingJob, "a"), countOf(t, w, countingJob, "b"); a != 1 || b != 1 {
			t.Errorf("a was counted %d times and b %d times", a, b)
		}
		w.crash(t)
	})
}

func TestStartFromACheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		w := startWorker(t, m, "w1", processor.Listener{})
		w.deploy(t, counting(t, nil), "acme", processor.JobConfig{Checkpoint: processor.CheckpointConfig{Interval: time.Hour, Retained: 5}})
		w.run()
		time.Sleep(time.Second)
		var ids []uint64
		for range 3 {
			publishWords(t, m, "acme", "a")
			time.Sleep(time.Second)
			ids = append(ids, must[processor.CheckpointReport](t)(w.rt.TakeCheckpoint(t.Context(), countingJob)).Checkpoint)
		}
		list := must[[]processor.CheckpointReport](t)(w.rt.Checkpoints(t.Context(), countingJob))
		if len(list) < 3 || list[0].Checkpoint != ids[2] || list[0].State != "completed" || list[0].Positions["acme"] == 0 || list[0].Bytes == 0 || list[0].Acks == "" {
			t.Errorf("the checkpoints are %+v", list)
		}
		must[processor.JobReport](t)(w.rt.Start(t.Context(), countingJob, processor.StartRequest{
			StartPoint: processor.StartPoint{From: processor.FromCheckpoint, Checkpoint: ids[0]},
		}))
		time.Sleep(time.Second)
		if n := countOf(t, w, countingJob, "a"); n != 3 {
			t.Errorf("a was counted %d times", n)
		}
		last := must[processor.CheckpointReport](t)(w.rt.TakeCheckpoint(t.Context(), countingJob))
		if last.Checkpoint <= ids[2] {
			t.Errorf("checkpoint %d follows %d", last.Checkpoint, ids[2])
		}
		_, err := w.rt.Start(t.Context(), countingJob, processor.StartRequest{StartPoint: processor.StartPoint{From: processor.FromCheckpoint, Checkpoint: 999}})
		wantReason(t, err, processor.ReasonNotFound)
		w.crash(t)
	})
}

// A stop that promises a savepoint and cannot keep it does not stop: the intent is put back.
func TestAStopWhoseSavepointIsRefusedDoesNotStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		w, j := startCounting(t, m, "a")
		must[processor.SavepointReport](t)(w.rt.TakeSavepoint(t.Context(), countingJob, processor.SavepointRequest{Name: "taken"}))
		for _, mode := range []processor.StopMode{processor.StopSavepoint, processor.StopDrain, ""} {
			_, err := w.rt.Stop(t.Context(), countingJob, processor.StopRequest{Mode: mode, Savepoint: "taken", Request: "another"})
			wantReason(t, err, processor.ReasonConflict)
			time.Sleep(time.Second)
			if s := j.Status(); s.State != processor.JobRunning || s.Epoch != 1 {
				t.Fatalf("the job is %s in epoch %d: %v", s.State, s.Epoch, s.Err)
			}
			if in, _ := intentOf(t, m, countingJob); in.Desired != processor.DesiredRunning || in.Stop != nil {
				t.Fatalf("the intent is %+v", in)
			}
		}
		rep := must[processor.StopReport](t)(w.rt.Stop(t.Context(), countingJob, processor.StopRequest{Mode: processor.StopSavepoint, Savepoint: "last"}))
		if rep.Savepoint == nil || rep.Savepoint.Name != "last" || !rep.Published {
			t.Errorf("the stop says %+v", rep)
		}
		wantState(t, j, processor.JobStopped)
		list := must[[]processor.SavepointReport](t)(w.rt.Savepoints(t.Context(), countingJob))
		if len(list) != 2 {
			t.Errorf("the savepoints are %+v", list)
		}
		if err := w.rt.DeleteSavepoint(t.Context(), countingJob, "taken"); err != nil {
			t.Error(err)
		}
		wantReason(t, w.rt.DeleteSavepoint(t.Context(), countingJob, "taken"), processor.ReasonNotFound)
		w.crash(t)
	})
}

// publishedOn counts the messages under a subject of acme.
func publishedOn(m *processortest.Memory, subject string) int {
	return len(m.Messages("acme", "acme."+subject))
}

// A fork runs from the original's state, publishes under its shadow prefix only, and outlives crashes; the original notices nothing.
func TestFork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		w := startWorker(t, m, "w1", processor.Listener{})
		original := w.deploy(t, counting(t, nil), "acme", processor.JobConfig{Parallelism: 2})
		w.run()
		publishWords(t, m, "acme", "a", "b", "a")
		time.Sleep(time.Second)
		copyID := tenants.JobID{Tenant: "acme", Name: "copy"}
		rep := must[processor.JobReport](t)(w.rt.Fork(t.Context(), countingJob, processor.ForkRequest{As: "copy", Request: "f1"}))
		if rep.State != processor.JobRunning || rep.Shadow != "shadow.copy" || rep.Parallelism != 2 || rep.Job != "copy" {
			t.Errorf("the fork is %+v", rep)
		}
		must[processor.JobReport](t)(w.rt.Fork(t.Context(), countingJob, processor.ForkRequest{As: "copy", Request: "f1"}))
		_, err := w.rt.Fork(t.Context(), countingJob, processor.ForkRequest{As: "copy"})
		wantReason(t, err, processor.ReasonConflict)
		_, err = w.rt.Fork(t.Context(), countingJob, processor.ForkRequest{As: "counting"})
		wantReason(t, err, processor.ReasonConflict)
		_, err = w.rt.Fork(t.Context(), countingJob, processor.ForkRequest{As: "other", Savepoint: "none"})
		wantReason(t, err, processor.ReasonNotFound)
		none := ""
		_, err = w.rt.Fork(t.Context(), countingJob, processor.ForkRequest{As: "other", Config: &processor.ConfigPatch{Shadow: &none}})
		wantReason(t, err, processor.ReasonBadRequest)
		_, err = w.rt.Fork(t.Context(), tenants.JobID{Tenant: "acme", Name: "nosuch"}, processor.ForkRequest{As: "other"})
		wantReason(t, err, processor.ReasonUnknownJob)
		publishWords(t, m, "acme", "a")
		time.Sleep(time.Second)
		if s := original.Status(); s.Epoch != 1 || s.State != processor.JobRunning {
			t.Errorf("the original is %s in epoch %d", s.State, s.Epoch)
		}
		w.crash(t)
		// The fork is known by its intent only; its topology is deployed here for the original.
		w = startWorker(t, m, "w1", processor.Listener{})
		w.deploy(t, counting(t, nil), "acme", processor.JobConfig{Parallelism: 2})
		w.run()
		publishWords(t, m, "acme", "a")
		time.Sleep(20 * time.Second)
		if n := countOf(t, w, copyID, "a"); n != 4 {
			t.Errorf("the fork counted a %d times", n)
		}
		if err := w.rt.Delete(t.Context(), copyID, processor.DeleteRequest{Confirm: "copy"}); err != nil {
			t.Fatal(err)
		}
		publishWords(t, m, "acme", "b")
		time.Sleep(time.Second)
		if n := len(w.rt.Hosted()); n != 1 {
			t.Errorf("%d jobs are hosted after the fork was deleted", n)
		}
		w.crash(t)
		checkCounts(t, m, "acme", map[string]int64{"a": 4, "b": 2})
		if n := publishedOn(m, "shadow.copy.counts"); n != 2 {
			t.Errorf("the fork published %d counts", n)
		}
	})
}

func TestReadState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		w := startWorker(t, m, "w1", processor.Listener{})
		w.deploy(t, counting(t, nil), "acme", processor.JobConfig{Checkpoint: processor.CheckpointConfig{Interval: time.Hour}})
		w.run()
		time.Sleep(time.Second)
		read := func(req processor.StateRequest) (processor.StateReport, error) {
			return w.rt.ReadState(t.Context(), countingJob, req)
		}
		_, err := read(processor.StateRequest{})
		wantReason(t, err, processor.ReasonNotFound) // nothing is committed
		publishWords(t, m, "acme", "a", "b", "a")
		time.Sleep(time.Second)
		must[processor.SavepointReport](t)(w.rt.TakeSavepoint(t.Context(), countingJob, processor.SavepointRequest{Name: "two"}))
		publishWords(t, m, "acme", "a")
		time.Sleep(time.Second)
		cp := must[processor.CheckpointReport](t)(w.rt.TakeCheckpoint(t.Context(), countingJob)).Checkpoint
		described := must[processor.StateReport](t)(read(processor.StateRequest{}))
		if len(described.Operators) != 1 || described.Operators[0].Operator != "count" || described.Operators[0].States[0].Entries != 2 || described.Checkpoint != cp {
			t.Errorf("described is %+v", described)
		}
		a, nobody := "a", "nobody"
		for what, c := range map[string]struct {
			req  processor.StateRequest
			want string
		}{
			"live":       {processor.StateRequest{Operator: "count", State: "total", Key: &a}, "3"},
			"checkpoint": {processor.StateRequest{Operator: "count", State: "total", Key: &a, Checkpoint: cp}, "3"},
			"savepoint":  {processor.StateRequest{Operator: "count", State: "total", Key: &a, Savepoint: "two"}, "2"},
			"no key":     {processor.StateRequest{Operator: "count", State: "total", Key: &nobody, Checkpoint: cp}, ""},
		} {
			rep := must[processor.StateReport](t)(read(c.req))
			if string(rep.Value) != c.want || rep.Found != (c.want != "") {
				t.Errorf("%s: %+v, want %s", what, rep, c.want)
			}
		}
		for what, c := range map[string]struct {
			req  processor.StateRequest
			want processor.Reason
		}{
			"both":         {processor.StateRequest{Checkpoint: 1, Savepoint: "two"}, processor.ReasonBadRequest},
			"key of what":  {processor.StateRequest{Key: &a}, processor.ReasonBadRequest},
			"no such op":   {processor.StateRequest{Operator: "x", Checkpoint: cp}, processor.ReasonNotFound},
			"no state":     {processor.StateRequest{Operator: "count", State: "x", Key: &a, Checkpoint: cp}, processor.ReasonNotFound},
			"no live":      {processor.StateRequest{Operator: "count", State: "x", Key: &a}, processor.ReasonNotFound},
			"no cp":        {processor.StateRequest{Checkpoint: 999}, processor.ReasonNotFound},
			"no savepoint": {processor.StateRequest{Savepoint: "none"}, processor.ReasonNotFound},
			"odd name":     {processor.StateRequest{Savepoint: "a.b"}, processor.ReasonBadRequest},
		} {
			_, err := read(c.req)
			var refused *processor.ControlError
			if !errors.As(err, &refused) || refused.Reason != c.want {
				t.Errorf("%s: %v, want %s", what, err, c.want)
			}
		}
		// Of a stopped job what is committed can still be read.
		must[processor.StopReport](t)(w.rt.Stop(t.Context(), countingJob, processor.StopRequest{}))
		rep := must[processor.StateReport](t)(read(processor.StateRequest{Operator: "count", State: "total", Key: &a, Savepoint: "two"}))
		if string(rep.Value) != "2" {
			t.Errorf("of the stopped job: %+v", rep)
		}
		_, err = read(processor.StateRequest{Operator: "count", State: "total", Key: &a})
		wantReason(t, err, processor.ReasonNotRunning)
		w.crash(t)
	})
}
