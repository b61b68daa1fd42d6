package processor_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/processor/processortest"
	"github.com/weirstream/weir/tenants"
)

// dying is the broker of a process that dies at one of its requests: right before it takes place, or right behind.
type dying struct {
	*processortest.Memory
	armed  atomic.Bool
	left   atomic.Int64 // requests until then
	behind bool
	kill   func()
}

// step reports whether the process is alive to see the answer.
func (b *dying) step(apply func()) bool {
	if !b.armed.Load() {
		apply()
		return true
	}
	n := b.left.Add(-1)
	if n > 0 || n == 0 && b.behind {
		apply()
	}
	if n == 0 {
		b.kill()
	}
	return n > 0
}

func (b *dying) Do(ctx context.Context, job tenants.JobID, r barriers.Request) (reply barriers.Reply) {
	if !b.step(func() { reply = b.Memory.Do(ctx, job, r) }) {
		return barriers.Reply{Status: barriers.Canceled}
	}
	return reply
}

func (b *dying) PublishPart(ctx context.Context, p processor.Part) (reply barriers.Reply) {
	if !b.step(func() { reply = b.Memory.PublishPart(ctx, p) }) {
		return barriers.Reply{Status: barriers.Canceled}
	}
	return reply
}

func (b *dying) Put(ctx context.Context, tenant tenants.ID, name string, data []byte) (o barriers.Object, err error) {
	if !b.step(func() { o, err = b.Memory.Put(ctx, tenant, name, data) }) {
		return barriers.Object{}, context.Canceled
	}
	return o, err
}

func (b *dying) Get(ctx context.Context, tenant tenants.ID, ref barriers.Object) (data []byte, err error) {
	if !b.step(func() { data, err = b.Memory.Get(ctx, tenant, ref) }) {
		return nil, context.Canceled
	}
	return data, err
}

func (b *dying) WriteIntent(ctx context.Context, in *processor.Intent, expected uint64) (rev uint64, err error) {
	if !b.step(func() { rev, err = b.Memory.WriteIntent(ctx, in, expected) }) {
		return 0, context.Canceled
	}
	return rev, err
}

// eachCrash runs a scenario again and again, with a process that dies at its first request, its second, and so on, until it has no
// more. do begins what is to be crashed; check looks at what the next process makes of it.
func eachCrash(t *testing.T, do func(t *testing.T, m *processortest.Memory, rt *processor.Runtime), check func(t *testing.T, m *processortest.Memory, rt *processor.Runtime)) {
	crashes := 0
	for at, more := int64(1), true; more && !t.Failed(); at++ {
		for _, behind := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				m := tickingMemory(t)
				b := &dying{Memory: m, behind: behind}
				b.left.Store(at)
				cfg := processor.JobConfig{Parallelism: 1 + int(at)%3, MergeAfter: 2, Marks: eager}
				first := startWorker(t, b, "w1", processor.Listener{})
				first.deploy(t, twoSources(t), "acme", cfg)
				first.run()
				b.kill = first.cancel
				for range 3 {
					publish(t, m, "acme.left", "a", "b")
					publish(t, m, "acme.right.x", "a")
					time.Sleep(150 * time.Millisecond)
				}
				b.armed.Store(true)
				do(t, m, first.rt)
				publish(t, m, "acme.left", "a")
				time.Sleep(2 * time.Second)
				if more = b.left.Load() <= 0; more {
					crashes++
				} else {
					first.cancel()
				}
				if err := <-first.done; !errors.Is(err, context.Canceled) {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Minute) // what was left behind is old
				second := startWorker(t, m, "w1", processor.Listener{})
				second.deploy(t, twoSources(t), "acme", cfg)
				second.run()
				time.Sleep(time.Second)
				publish(t, m, "acme.left", "b")
				time.Sleep(2 * time.Second)
				check(t, m, second.rt)
				must[processor.StopReport](t)(second.rt.Stop(t.Context(), twoJob, processor.StopRequest{}))
				second.crash(t)
				checkCounts(t, m, "acme", map[string]int64{"a": 7, "b": 4})
				checkNothingLeft(t, m, twoJob)
				if t.Failed() {
					t.Logf("the process died at request %d, behind it: %t", at, behind)
				}
			})
		}
	}
	t.Logf("%d crashes", crashes)
	if crashes < 8 {
		t.Errorf("%d crashes are too few to test anything", crashes)
	}
}

// Wherever its process dies, a savepoint is there as a whole or not at all; what is left behind is removed, and the request can be made
// again.
func TestSavepointSurvivesAnyCrash(t *testing.T) {
	req := processor.SavepointRequest{Name: "asked", Request: "r1"}
	eachCrash(t, func(t *testing.T, m *processortest.Memory, rt *processor.Runtime) {
		_, _ = rt.TakeSavepoint(t.Context(), twoJob, req) // the process may die on the way
	}, func(t *testing.T, m *processortest.Memory, rt *processor.Runtime) {
		must[processor.SavepointReport](t)(rt.TakeSavepoint(t.Context(), twoJob, req))
		if err := checkSavepoint(t.Context(), m, twoSources(t), twoJob, "asked"); err != nil {
			t.Error(err)
		}
	})
}

// A mark makes exactly one savepoint, exactly at its place, wherever the process dies.
func TestMarkSurvivesAnyCrash(t *testing.T) {
	var seq uint64
	eachCrash(t, func(t *testing.T, m *processortest.Memory, rt *processor.Runtime) {
		seq = publishMark(t, m, "acme.left", "two")
	}, func(t *testing.T, m *processortest.Memory, rt *processor.Runtime) {
		checkMark(t, m, twoSources(t), fmt.Sprintf("mark-left-%d", seq), "left", seq)
		if list := must[[]processor.SavepointReport](t)(rt.Savepoints(t.Context(), twoJob)); len(list) != 1 {
			t.Errorf("one mark made %d savepoints", len(list))
		}
	})
}

// Wherever its process dies, a stop ends in a job that runs on or is stopped with what was promised, and that loses and doubles nothing
// either way.
func TestStopSurvivesAnyCrash(t *testing.T) {
	for _, req := range []processor.StopRequest{
		{}, {Mode: processor.StopNow}, {Mode: processor.StopSavepoint, Savepoint: "last"}, {Mode: processor.StopDrain},
		{Mode: processor.StopDrain, Savepoint: "last", Request: "r1"},
	} {
		t.Run(string(req.Mode)+req.Request, func(t *testing.T) {
			eachCrash(t, func(t *testing.T, m *processortest.Memory, rt *processor.Runtime) {
				_, _ = rt.Stop(t.Context(), twoJob, req) // the process may die on the way
			}, func(t *testing.T, m *processortest.Memory, rt *processor.Runtime) {
				at := must[processor.JobReport](t)(rt.Status(t.Context(), twoJob))
				if at.Desired == processor.DesiredStopped {
					if at.State != processor.JobStopped {
						t.Errorf("a job that is to stop is %s (%s)", at.State, at.Reason)
					}
					if req.Savepoint != "" {
						// Who asks again gets the answer that he waited for.
						rep := must[processor.StopReport](t)(rt.Stop(t.Context(), twoJob, req))
						if rep.Savepoint == nil || rep.Savepoint.Checkpoint != at.Checkpoint {
							t.Errorf("the stop at checkpoint %d reports %+v", at.Checkpoint, rep.Savepoint)
						}
					}
					must[processor.JobReport](t)(rt.Start(t.Context(), twoJob, processor.StartRequest{}))
					time.Sleep(2 * time.Second)
				}
				for _, sp := range must[[]processor.SavepointReport](t)(rt.Savepoints(t.Context(), twoJob)) {
					if err := checkSavepoint(t.Context(), m, twoSources(t), twoJob, sp.Name); err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
}
