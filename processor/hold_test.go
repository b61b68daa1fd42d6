package processor_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// All jobs of a tenant can be cut at the same place: held where they are, then cut at the highest position.
func TestHoldAndExactCut(t *testing.T) {
	eachParallelism(t, func(t *testing.T, parallelism int) {
		m := newMemory("acme")
		w := startWorker(t, m, "w1", processor.Listener{})
		topology := twoSources(t)
		j := w.deploy(t, topology, "acme", processor.JobConfig{Parallelism: parallelism})
		w.run()
		publish(t, m, "acme.left", "a", "b")
		publish(t, m, "acme.right.x", "a")
		time.Sleep(time.Second)
		at := must[map[string]processor.Position](t)(w.rt.Hold(t.Context(), twoJob, "h1", 30*time.Second))
		if len(at) != 2 || at["left"].Sequence < 2 || at["right"].Stream != "acme" {
			t.Fatalf("the positions are %v", at)
		}
		before := len(m.Messages("acme", "acme.counts"))
		publish(t, m, "acme.left", "a", "b")
		publish(t, m, "acme.right.y", "a")
		cut := must[uint64](t)(m.PublishTo("acme.elsewhere", nil, []byte("no source matches this")))
		publish(t, m, "acme.left", "late")
		publish(t, m, "acme.right.x", "late")
		time.Sleep(time.Second) // checkpoints go on
		if n := len(m.Messages("acme", "acme.counts")); n != before {
			t.Errorf("%d results were published while the job was held", n-before)
		}
		_, err := w.rt.Hold(t.Context(), twoJob, "h2", time.Second)
		wantReason(t, err, processor.ReasonConflict)
		_, err = w.rt.TakeSavepoint(t.Context(), twoJob, processor.SavepointRequest{Name: "wrong", Hold: "h2"})
		wantReason(t, err, processor.ReasonConflict)
		_, err = w.rt.TakeSavepoint(t.Context(), twoJob, processor.SavepointRequest{Name: "wrong", Hold: "h1", Cut: map[string]uint64{"left": 1}})
		wantReason(t, err, processor.ReasonConflict)
		_, err = w.rt.TakeSavepoint(t.Context(), twoJob, processor.SavepointRequest{Name: "wrong", Hold: "h1", Cut: map[string]uint64{"middle": 1}})
		wantReason(t, err, processor.ReasonBadRequest)
		rep := must[processor.SavepointReport](t)(w.rt.TakeSavepoint(t.Context(), twoJob, processor.SavepointRequest{
			Name: "exact", Hold: "h1", Cut: map[string]uint64{"left": cut, "right": cut},
		}))
		for source, p := range rep.Positions {
			if p.Sequence != cut {
				t.Errorf("source %s was cut at %d, want %d", source, p.Sequence, cut)
			}
		}
		if err := checkSavepoint(t.Context(), m, topology, twoJob, "exact"); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		checkCounts(t, m, "acme", map[string]int64{"a": 4, "b": 2, "late": 2})
		wantState(t, j, processor.JobRunning)
		w.crash(t)
	})
}

func TestAHoldThatNobodyEndsExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		w := startWorker(t, m, "w1", processor.Listener{})
		w.deploy(t, twoSources(t), "acme", processor.JobConfig{})
		w.run()
		time.Sleep(time.Second)
		must[map[string]processor.Position](t)(w.rt.Hold(t.Context(), twoJob, "h1", 5*time.Second))
		publish(t, m, "acme.left", "a")
		time.Sleep(4 * time.Second)
		if n := len(m.Messages("acme", "acme.counts")); n != 0 {
			t.Errorf("%d results while the job is held", n)
		}
		time.Sleep(2 * time.Second)
		checkCounts(t, m, "acme", map[string]int64{"a": 1})
		_, err := w.rt.TakeSavepoint(t.Context(), twoJob, processor.SavepointRequest{Name: "late", Hold: "h1"})
		wantReason(t, err, processor.ReasonConflict)
		if err := w.rt.Resume(t.Context(), twoJob, "h1"); err != nil {
			t.Errorf("resuming a hold that has expired: %v", err)
		}
		must[map[string]processor.Position](t)(w.rt.Hold(t.Context(), twoJob, "h2", 0))
		publish(t, m, "acme.left", "a")
		time.Sleep(time.Second)
		if err := w.rt.Resume(t.Context(), twoJob, "h2"); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		checkCounts(t, m, "acme", map[string]int64{"a": 2})
		w.crash(t)
	})
}

// A cut at a sequence that the stream does not reach in time fails, and the job goes on.
func TestACutThatIsNeverReachedFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		w := startWorker(t, m, "w1", processor.Listener{})
		w.deploy(t, twoSources(t), "acme", processor.JobConfig{})
		w.run()
		time.Sleep(time.Second)
		must[map[string]processor.Position](t)(w.rt.Hold(t.Context(), twoJob, "h1", 5*time.Second))
		_, err := w.rt.TakeSavepoint(t.Context(), twoJob, processor.SavepointRequest{
			Name: "far", Hold: "h1", Cut: map[string]uint64{"left": 1 << 40},
		})
		wantReason(t, err, processor.ReasonFailed)
		publish(t, m, "acme.left", "a")
		time.Sleep(time.Second)
		checkCounts(t, m, "acme", map[string]int64{"a": 1})
		w.crash(t)
	})
}

func TestStopModes(t *testing.T) {
	for _, req := range []processor.StopRequest{
		{}, {Mode: processor.StopNow}, {Mode: processor.StopSavepoint, Savepoint: "last"}, {Savepoint: "last"},
		{Mode: processor.StopDrain}, {Mode: processor.StopDrain, Savepoint: "last"},
	} {
		t.Run(string(req.Mode)+" "+req.Savepoint, func(t *testing.T) {
			eachParallelism(t, func(t *testing.T, parallelism int) {
				m := newMemory("acme")
				w := startWorker(t, m, "w1", processor.Listener{})
				topology := twoSources(t)
				j := w.deploy(t, topology, "acme", processor.JobConfig{Parallelism: parallelism, Checkpoint: processor.CheckpointConfig{Interval: time.Second}})
				w.run()
				publish(t, m, "acme.left", "a", "b")
				publish(t, m, "acme.right.x", "b")
				time.Sleep(10 * time.Second)
				publish(t, m, "acme.left", "c") // after the last checkpoint
				synctest.Wait()
				if req.Mode == processor.StopDrain {
					publish(t, m, "acme.right.x", "c", "c")
				}
				rep := must[processor.StopReport](t)(w.rt.Stop(t.Context(), twoJob, req))
				want := map[string]int64{"a": 1, "b": 2, "c": 1}
				switch req.Mode {
				case processor.StopNow:
					delete(want, "c")
				case processor.StopDrain:
					want["c"] = 3
				}
				checkCounts(t, m, "acme", want)
				if !rep.Published || rep.Checkpoint == 0 || (rep.Savepoint != nil) != (req.Savepoint != "") {
					t.Errorf("the report is %+v", rep)
				}
				publish(t, m, "acme.left", "d")
				time.Sleep(time.Minute)
				wantState(t, j, processor.JobStopped)
				checkCounts(t, m, "acme", want)
				if state := headOf(t, m, twoJob).Head.State; state != "stopped" {
					t.Errorf("the head says %s", state)
				}
				checkNothingLeft(t, m, twoJob)
				if req.Savepoint != "" {
					if err := checkSavepoint(t.Context(), m, topology, twoJob, "last"); err != nil {
						t.Error(err)
					}
				}
				must[processor.JobReport](t)(w.rt.Start(t.Context(), twoJob, processor.StartRequest{}))
				time.Sleep(10 * time.Second)
				checkCounts(t, m, "acme", map[string]int64{"a": 1, "b": 2, "d": 1})
				w.crash(t)
			})
		})
	}
}

// A stop whose savepoint cannot be made does not stop the job.
func TestAStopWhoseSavepointFailsLetsTheJobRun(t *testing.T) {
	for _, mode := range []processor.StopMode{processor.StopSavepoint, processor.StopDrain} {
		t.Run(string(mode), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newSlow(0)
				w := startWorker(t, b, "w1", processor.Listener{})
				j := w.deploy(t, counting(t, nil), "acme", processor.JobConfig{})
				w.run()
				publishWords(t, b.Memory, "acme", "a")
				time.Sleep(time.Second)
				_, err := w.rt.Stop(t.Context(), countingJob, processor.StopRequest{Mode: mode, Savepoint: "stuck"})
				wantReason(t, err, processor.ReasonFailed)
				publishWords(t, b.Memory, "acme", "a")
				time.Sleep(10 * time.Second)
				wantState(t, j, processor.JobRunning)
				checkCounts(t, b.Memory, "acme", map[string]int64{"a": 2})
				w.crash(t)
			})
		})
	}
}

// A stop that does not get its output published in time says so, and goes on.
func TestAStopSaysThatItHasNotPublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		b := &stuck{Memory: m}
		w := startWorker(t, b, "w1", processor.Listener{})
		j := w.deploy(t, counting(t, nil), "acme", processor.JobConfig{Checkpoint: processor.CheckpointConfig{Interval: time.Hour}})
		w.run()
		time.Sleep(10 * time.Second)
		b.full.Store(true)
		publishWords(t, m, "acme", "a")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		rep := must[processor.StopReport](t)(w.rt.Stop(ctx, countingJob, processor.StopRequest{}))
		if rep.Published || rep.Detail == "" {
			t.Errorf("the report is %+v", rep)
		}
		if state := headOf(t, m, countingJob).Head.State; state != "stopping" {
			t.Errorf("the head says %s while output is owed", state)
		}
		b.full.Store(false)
		time.Sleep(time.Minute)
		checkCounts(t, m, "acme", map[string]int64{"a": 1})
		wantState(t, j, processor.JobStopped)
		w.crash(t)
	})
}

// A checkpoint that was cut while the sources were still on their way to the cut does not serve, whenever its commit comes.
func TestACheckpointThatWasCutBeforeDoesNotServe(t *testing.T) {
	eachParallelism(t, func(t *testing.T, parallelism int) {
		b := newSlow(0)
		var hold atomic.Bool
		b.holds = func(string) bool { return hold.Load() }
		m := b.Memory
		w := startWorker(t, b, "w1", processor.Listener{})
		topology := twoSources(t)
		w.deploy(t, topology, "acme", processor.JobConfig{Parallelism: parallelism})
		w.run()
		publish(t, m, "acme.left", "a")
		time.Sleep(time.Second)
		at := must[map[string]processor.Position](t)(w.rt.Hold(t.Context(), twoJob, "h1", time.Minute))
		cut := at["left"].Sequence + 20 // not there yet
		got := make(chan error, 1)
		go func() {
			_, err := w.rt.TakeSavepoint(t.Context(), twoJob, processor.SavepointRequest{
				Name: "exact", Hold: "h1", Cut: map[string]uint64{"left": cut, "right": cut},
			})
			got <- err
		}()
		time.Sleep(time.Second)
		hold.Store(true)
		publish(t, m, "acme.left", "b") // a checkpoint is cut on the way
		time.Sleep(time.Second)
		for len(m.Messages("acme", ">")) < int(cut)+5 {
			publish(t, m, "acme.left", "c")
		}
		time.Sleep(time.Second)
		close(b.gate)
		if err := <-got; err != nil {
			t.Fatal(err)
		}
		sp := must[*processor.Savepoint](t)(processor.OpenSavepoint(t.Context(), m, topology, twoJob, "exact"))
		for source, p := range sp.Positions() {
			if p.Sequence != cut {
				t.Errorf("source %s was cut at %d, want %d", source, p.Sequence, cut)
			}
		}
		if err := checkSavepoint(t.Context(), m, topology, twoJob, "exact"); err != nil {
			t.Error(err)
		}
		w.crash(t)
	})
}

// alarmed publishes every word at once, and "late" once event time has passed it by an hour.
func alarmed(t *testing.T) *processor.Topology {
	t.Helper()
	b := processor.NewBuilder("two")
	left := processor.From(b, "left", processor.SourceSpec[string]{Filters: []tenants.Filter{"left"}, Codec: codec.String()})
	right := processor.From(b, "right", processor.SourceSpec[string]{Filters: []tenants.Filter{"right.>"}, Codec: codec.String()})
	words := processor.KeyBy(processor.Union("both", left, right), func(w string) string { return w })
	counts := processor.Process(words, "count", func(pc *processor.Context[counted], w string) error {
		pc.Emit(counted{w, 1})
		return pc.SetEventTimer(pc.Timestamp().Add(time.Hour))
	}, processor.OnEventTimer(func(pc *processor.Context[counted], _ time.Time) error {
		pc.Emit(counted{"late " + pc.Key(), 1})
		return nil
	}))
	publishCounts(counts)
	return built(t, b)
}

// A drain fires everything that event time could still make due, once; a job that is started again reads on where it was.
func TestADrainEndsEventTime(t *testing.T) {
	eachParallelism(t, func(t *testing.T, parallelism int) {
		m := newMemory("acme")
		w := startWorker(t, m, "w1", processor.Listener{})
		w.deploy(t, alarmed(t), "acme", processor.JobConfig{Parallelism: parallelism})
		w.run()
		time.Sleep(time.Second)
		publish(t, m, "acme.left", "a", "b")
		publish(t, m, "acme.right.x", "c")
		must[processor.StopReport](t)(w.rt.Stop(t.Context(), twoJob, processor.StopRequest{Mode: processor.StopDrain}))
		want := map[string]int64{"a": 1, "b": 1, "c": 1, "late a": 1, "late b": 1, "late c": 1}
		checkCounts(t, m, "acme", want)
		if n := len(m.Messages("acme", "acme.counts")); n != len(want) {
			t.Errorf("%d results, want %d", n, len(want))
		}
		must[processor.JobReport](t)(w.rt.Start(t.Context(), twoJob, processor.StartRequest{}))
		publish(t, m, "acme.left", "d")
		time.Sleep(time.Second)
		must[processor.StopReport](t)(w.rt.Stop(t.Context(), twoJob, processor.StopRequest{Mode: processor.StopDrain}))
		want["d"], want["late d"] = 1, 1
		checkCounts(t, m, "acme", want)
		if n := len(m.Messages("acme", "acme.counts")); n != len(want) {
			t.Errorf("%d results behind the second drain, want %d", n, len(want))
		}
		w.crash(t)
	})
}
