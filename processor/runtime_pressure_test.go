package processor_test

import (
	"context"
	"errors"
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

// faulty is a broker whose uploads or releases fail or stand still on demand.
type faulty struct {
	*processortest.Memory
	put     atomic.Pointer[error]
	publish atomic.Pointer[chan struct{}] // publishing waits for it
	puts    atomic.Int64
}

func (f *faulty) Put(ctx context.Context, tenant tenants.ID, name string, data []byte) (barriers.Object, error) {
	f.puts.Add(1)
	if err := f.put.Load(); err != nil {
		return barriers.Object{}, *err
	}
	return f.Memory.Put(ctx, tenant, name, data)
}

func (f *faulty) PublishPart(ctx context.Context, p processor.Part) barriers.Reply {
	if gate := f.publish.Load(); gate != nil {
		select {
		case <-*gate:
		case <-ctx.Done():
			return barriers.Reply{Status: barriers.Canceled}
		}
	}
	return f.Memory.PublishPart(ctx, p)
}

func TestUploadsWaitForRoomAndForTheBroker(t *testing.T) {
	for _, cause := range []error{processor.ErrFull, processor.ErrUnavailable} {
		t.Run(cause.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &faulty{Memory: newMemory("acme")}
				err := fmt.Errorf("bucket weir_acme: %w", cause)
				f.put.Store(&err)
				w := startWorker(t, f, "w1", processor.Listener{})
				j := w.deploy(t, counting(t, nil), "acme", processor.JobConfig{
					Checkpoint: processor.CheckpointConfig{Interval: 100 * time.Millisecond, Timeout: time.Second, TolerableFailures: -1},
				})
				w.run()
				publishWords(t, f.Memory, "acme", "x", "x")
				time.Sleep(5 * time.Minute)
				if s := j.Status(); s.State != processor.JobRunning || s.Epoch != 1 || s.Checkpoint != 0 {
					t.Errorf("the job is %s in epoch %d with checkpoint %d: %v", s.State, s.Epoch, s.Checkpoint, s.Err)
				}
				if n := f.puts.Load(); n < 50 || n > 2000 {
					t.Errorf("it tried %d times in 5 minutes", n)
				}
				f.put.Store(nil)
				time.Sleep(5 * time.Second)
				w.crash(t)
				checkCounts(t, f.Memory, "acme", map[string]int64{"x": 2})
			})
		})
	}
}

func TestPendingOutputStopsReadingAtItsQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &faulty{Memory: newMemory("acme")}
		gate := make(chan struct{})
		f.publish.Store(&gate)
		w := startWorker(t, f, "w1", processor.Listener{})
		j := w.deploy(t, counting(t, nil), "acme", processor.JobConfig{Quota: tenants.Quota{PendingBytes: 1 << 20}})
		w.run()
		word := strings.Repeat("w", 900)
		const n = 20000
		for range n {
			publishWords(t, f.Memory, "acme", word)
		}
		time.Sleep(time.Minute)
		m := j.Metrics()
		if m.RecordsIn == 0 || m.RecordsIn == n || m.PendingBytes > 8<<20 {
			t.Errorf("while nothing could be released %d of %d records were read, %d bytes are pending", m.RecordsIn, n, m.PendingBytes)
		}
		f.publish.Store(nil)
		close(gate)
		time.Sleep(time.Minute)
		w.crash(t)
		checkCounts(t, f.Memory, "acme", map[string]int64{word: n})
	})
}

func TestCheckpointRequestEndsWithItsAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &faulty{Memory: newMemory("acme")}
		err := fmt.Errorf("no room: %w", processor.ErrFull)
		f.put.Store(&err)
		w := startWorker(t, f, "w1", processor.Listener{})
		j := w.deploy(t, counting(t, func() bool { return true }), "acme", processor.JobConfig{})
		w.run()
		publishWords(t, f.Memory, "acme", "x")
		time.Sleep(time.Second)
		got := make(chan error, 1)
		go func() {
			_, err := j.Checkpoint(context.Background())
			got <- err
		}()
		time.Sleep(time.Second)
		publishWords(t, f.Memory, "acme", "panic")
		if err := <-got; err == nil || !strings.Contains(err.Error(), "acme/counting") {
			t.Errorf("the request ended with %v", err)
		}
		w.crash(t)
	})
}

func TestDrainNamesTheJobsThatAreLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &faulty{Memory: newMemory("acme")}
		gate := make(chan struct{})
		f.publish.Store(&gate)
		w := startWorker(t, f, "w1", processor.Listener{})
		w.deploy(t, counting(t, nil), "acme", processor.JobConfig{})
		w.run()
		publishWords(t, f.Memory, "acme", "x")
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := w.rt.Drain(ctx); err == nil || !strings.Contains(err.Error(), "acme/counting") || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Drain returned %v", err)
		}
		w.crash(t)
	})
}

// An idle source whose stream moves on has its position committed, without a barrier that would make it move again.
func TestIdlePositionsAreCommitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		w, j := startCounting(t, m)
		for range 100 {
			if _, err := m.PublishTo("acme.other", nil, []byte("not for this job")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		n := j.Status().Checkpoint
		if n < 2 || n > 5 {
			t.Errorf("%d checkpoints in 100 s of nothing but positions", n)
		}
		time.Sleep(time.Hour)
		if got := j.Status().Checkpoint; got > n+1 {
			t.Errorf("%d checkpoints in an hour in which nothing moved", got-n)
		}
		if got := len(m.Messages("acme", "acme.words")); got != 0 {
			t.Errorf("%d barriers were published for an idle job", got)
		}
		w.crash(t)
	})
}

func TestDeployRefusesWithEveryProblem(t *testing.T) {
	m := newMemory("acme")
	w := startWorker(t, m, "w1", processor.Listener{})
	_, err := w.rt.Deploy(t.Context(), counting(t, nil), "ac.me", processor.JobConfig{
		Parallelism: 500, Checkpoint: processor.CheckpointConfig{Interval: time.Microsecond, Retained: -1},
	})
	for _, word := range []string{"tenant", "parallelism", "interval", "retained"} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s is not reported: %v", word, err)
		}
	}
	if _, err := w.rt.Deploy(t.Context(), counting(t, nil), "acme", processor.JobConfig{Streams: map[string]string{"nosuch": "s"}}); err == nil {
		t.Error("a stream for a source that does not exist is accepted")
	}
	if _, err := w.rt.Deploy(t.Context(), counting(t, nil), "acme", processor.JobConfig{}); err != nil {
		t.Error(err)
	}
	if _, err := w.rt.Deploy(t.Context(), counting(t, nil), "acme", processor.JobConfig{}); err == nil || !strings.Contains(err.Error(), "deployed already") {
		t.Errorf("the same job twice: %v", err)
	}
	if _, err := w.rt.Deploy(t.Context(), counting(t, nil), "acme", processor.JobConfig{Name: "wide", Parallelism: 1000, KeyGroups: 4096}); err == nil || !strings.Contains(err.Error(), "parallelism 666") {
		t.Errorf("a job too wide for a manifest: %v", err)
	}
	if _, err := w.rt.Deploy(t.Context(), nil, "acme", processor.JobConfig{}); err == nil {
		t.Error("a nil topology is accepted")
	}
}

// stuckBinds is a broker on which one tenant's streams never answer.
type stuckBinds struct {
	*processortest.Memory
	tenant tenants.ID
}

func (s *stuckBinds) Bind(ctx context.Context, n processor.Needs) (processor.Bindings, error) {
	if n.Job.Tenant == s.tenant {
		<-ctx.Done()
		return processor.Bindings{}, ctx.Err()
	}
	return s.Memory.Bind(ctx, n)
}

func TestAStuckStartDoesNotKeepOthersFromStarting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme", "globex", "initech")
		rt, err := processor.NewRuntime(processor.RuntimeConfig{Broker: &stuckBinds{m, "acme"}, Worker: "w1", MaxStarting: 1})
		if err != nil {
			t.Fatal(err)
		}
		w := &worker{rt: rt, done: make(chan error, 1)}
		var jobs []*processor.Job
		for _, tenant := range []string{"acme", "globex", "initech"} {
			jobs = append(jobs, w.deploy(t, counting(t, nil), tenant, processor.JobConfig{}))
		}
		w.run()
		time.Sleep(15 * time.Second)
		for i, want := range []processor.JobState{processor.JobStarting, processor.JobRunning, processor.JobRunning} {
			if s := jobs[i].Status(); s.State != want {
				t.Errorf("job %s is %s, want %s", s.ID, s.State, want)
			}
		}
		w.crash(t)
	})
}
