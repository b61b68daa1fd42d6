package processor_test

import (
	"context"
	"fmt"
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

// A listener is the user's code: its panic must not take the other jobs of the process down.
func TestPanickingListenerHurtsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme", "globex")
		angry := func(id tenants.JobID) {
			if id.Tenant == "acme" {
				panic("the listener's fault")
			}
		}
		w := startWorker(t, m, "w1", processor.Listener{
			Job:              func(ev processor.JobEvent) { angry(ev.Job) },
			Checkpoint:       func(ev processor.CheckpointEvent) { angry(ev.Job) },
			CheckpointFailed: func(ev processor.CheckpointFailure) { angry(ev.Job) },
		})
		w.deploy(t, counting(t, nil), "acme", processor.JobConfig{})
		w.deploy(t, counting(t, nil), "globex", processor.JobConfig{})
		w.run()
		for range 10 {
			publishWords(t, m, "acme", "x")
			publishWords(t, m, "globex", "x")
			time.Sleep(200 * time.Millisecond)
		}
		w.crash(t)
		checkCounts(t, m, "acme", map[string]int64{"x": 10})
		checkCounts(t, m, "globex", map[string]int64{"x": 10})
	})
}

// roomy is a bucket with room for so many objects.
type roomy struct {
	*processortest.Memory
	room atomic.Int64
}

func (b *roomy) Put(ctx context.Context, tenant tenants.ID, name string, data []byte) (barriers.Object, error) {
	if b.room.Add(-1) < 0 {
		b.room.Add(1)
		return barriers.Object{}, processor.ErrFull
	}
	return b.Memory.Put(ctx, tenant, name, data)
}

func (b *roomy) Do(ctx context.Context, job tenants.JobID, r barriers.Request) barriers.Reply {
	reply := b.Memory.Do(ctx, job, r)
	if r.Op == barriers.OpDeleteObject {
		b.room.Add(1)
	}
	return reply
}

// A bucket that crashes have filled with objects nobody refers to must not stay full.
func TestOrphansAreRemovedWhenTheBucketIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &roomy{Memory: newMemory("acme")}
		m.room.Store(6)
		first := startWorker(t, m, "w1", processor.Listener{})
		first.deploy(t, counting(t, nil), "acme", processor.JobConfig{})
		first.run()
		publishWords(t, m.Memory, "acme", "x")
		time.Sleep(time.Second)
		first.crash(t)
		for n := 0; ; n++ { // what a crash in the middle of an upload leaves
			if _, err := m.Put(t.Context(), "acme", fmt.Sprintf("counting/1-99/count-0-dead%d", n), []byte("x")); err != nil {
				break
			}
		}
		time.Sleep(time.Hour)
		second := startWorker(t, m, "w1", processor.Listener{})
		second.deploy(t, counting(t, nil), "acme", processor.JobConfig{})
		second.run()
		publishWords(t, m.Memory, "acme", "x")
		time.Sleep(10 * time.Minute)
		second.crash(t)
		checkCounts(t, m.Memory, "acme", map[string]int64{"x": 2})
	})
}

// Two live processes must not run under one worker ID; if they do, they must not take the job from each other for ever.
func TestSameWorkerIDTwiceDoesNotPingPong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		first, second := startWorker(t, m, "w1", processor.Listener{}), startWorker(t, m, "w1", processor.Listener{})
		a := first.deploy(t, counting(t, nil), "acme", processor.JobConfig{})
		first.run()
		time.Sleep(time.Second)
		b := second.deploy(t, counting(t, nil), "acme", processor.JobConfig{})
		second.run()
		for range 60 {
			publishWords(t, m, "acme", "x")
			time.Sleep(time.Second)
		}
		t.Logf("a: %+v", a.Status())
		t.Logf("b: %+v", b.Status())
		if e := max(a.Status().Epoch, b.Status().Epoch); e > 5 {
			t.Errorf("after a minute the job is in epoch %d", e)
		}
		first.crash(t)
		second.crash(t)
		checkCounts(t, m, "acme", map[string]int64{"x": 60})
	})
}

// stuck is a broker on which one tenant's output has no room.
type stuck struct {
	*processortest.Memory
	full atomic.Bool
}

func (b *stuck) PublishPart(ctx context.Context, p processor.Part) barriers.Reply {
	if b.full.Load() && strings.HasPrefix(p.Marker.Subject, "acme.") {
		return barriers.Reply{Status: barriers.Full}
	}
	return b.Memory.PublishPart(ctx, p)
}

// A job that cannot release what it owes waits while it starts; that must not keep others from starting.
func TestStuckStartDoesNotKeepOthersFromStarting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &stuck{Memory: newMemory("acme", "globex")}
		m.full.Store(true)
		first := startWorker(t, m, "w1", processor.Listener{})
		first.deploy(t, counting(t, nil), "acme", processor.JobConfig{})
		first.run()
		publishWords(t, m.Memory, "acme", "x")
		time.Sleep(time.Second)
		first.crash(t)
		rt, err := processor.NewRuntime(processor.RuntimeConfig{Broker: m, Worker: "w1", MaxStarting: 1})
		if err != nil {
			t.Fatal(err)
		}
		second := &worker{rt: rt, done: make(chan error, 1)}
		second.deploy(t, counting(t, nil), "acme", processor.JobConfig{})
		second.run()
		time.Sleep(time.Second)
		j := second.deploy(t, counting(t, nil), "globex", processor.JobConfig{})
		publishWords(t, m.Memory, "globex", "x")
		time.Sleep(5 * time.Minute)
		if s := j.Status(); s.State != processor.JobRunning {
			t.Errorf("the neighbour is %s", s.State)
		}
		m.full.Store(false)
		time.Sleep(time.Minute)
		second.crash(t)
		checkCounts(t, m.Memory, "globex", map[string]int64{"x": 1})
		checkCounts(t, m.Memory, "acme", map[string]int64{"x": 1})
	})
}

// sleepy is a worker's broker that stands still before it reads a snapshot object, as a process under SIGSTOP would.
type sleepy struct {
	*processortest.Memory
	asleep chan struct{} // closed to go on
}

func (b *sleepy) Get(ctx context.Context, tenant tenants.ID, ref barriers.Object) ([]byte, error) {
	<-b.asleep
	return b.Memory.Get(ctx, tenant, ref)
}

// A worker that was overtaken while it loaded state finds objects that the new owner has cleaned up: it stands by, it has not failed.
func TestOvertakenWhileLoadingIsFencedNotFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		cfg := processor.JobConfig{MergeAfter: 2, Checkpoint: processor.CheckpointConfig{Interval: 100 * time.Millisecond, Retained: 1}}
		zero := startWorker(t, m, "w0", processor.Listener{})
		zero.deploy(t, counting(t, nil), "acme", cfg)
		zero.run()
		publishWords(t, m, "acme", "x")
		time.Sleep(time.Second)
		zero.crash(t)
		s := &sleepy{m, make(chan struct{})}
		first := startWorker(t, s, "w1", processor.Listener{})
		j := first.deploy(t, counting(t, nil), "acme", cfg)
		first.run()
		time.Sleep(20 * time.Second) // it owns the job and loads
		rt, err := processor.NewRuntime(processor.RuntimeConfig{Broker: m, Worker: "w1"})
		if err != nil {
			t.Fatal(err)
		}
		second := &worker{rt: rt, done: make(chan error, 1)} // the same ID: it takes the job at once
		second.deploy(t, counting(t, nil), "acme", cfg)
		second.run()
		for range 20 {
			publishWords(t, m, "acme", "x")
			time.Sleep(200 * time.Millisecond)
		}
		close(s.asleep)
		time.Sleep(5 * time.Second)
		if st := j.Status(); st.State != processor.JobStandby {
			t.Errorf("the overtaken worker is %s: %v", st.State, st.Err)
		}
		first.crash(t)
		second.crash(t)
		checkCounts(t, m, "acme", map[string]int64{"x": 21})
	})
}

// payload is a broker that takes records of up to 1 MiB, as servers do by default, and is slow to read.
type payload struct{ *processortest.Memory }

func (b *payload) Get(ctx context.Context, tenant tenants.ID, ref barriers.Object) ([]byte, error) {
	time.Sleep(10 * time.Millisecond)
	return b.Memory.Get(ctx, tenant, ref)
}

func (b *payload) Do(ctx context.Context, job tenants.JobID, r barriers.Request) barriers.Reply {
	if len(r.Value) > 1<<20 {
		return barriers.Reply{Status: barriers.Rejected, Err: fmt.Errorf("maximum payload exceeded: %d", len(r.Value))}
	}
	return b.Memory.Do(ctx, job, r)
}

// Chains that grow while merges lag behind must not make a manifest that no server takes.
func TestManifestOfAWideJobStaysSmall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &payload{newMemory("acme")}
		w := startWorker(t, m, "w1", processor.Listener{})
		const p = 400
		j := w.deploy(t, counting(t, nil), "acme", processor.JobConfig{Parallelism: p, KeyGroups: p})
		w.run()
		want := map[string]int64{}
		for range 40 {
			for i := range 3 * p {
				word := fmt.Sprintf("w%d", i)
				want[word]++
				publishWords(t, m.Memory, "acme", word)
			}
			time.Sleep(200 * time.Millisecond)
		}
		time.Sleep(20 * time.Second)
		if s := j.Status(); s.State != processor.JobRunning || s.Epoch != 1 {
			t.Errorf("the job is %s in epoch %d: %.300v", s.State, s.Epoch, s.Err)
		}
		w.crash(t)
		checkCounts(t, m.Memory, "acme", want)
	})
}
