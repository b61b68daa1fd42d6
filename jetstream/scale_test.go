package jetstream_test

import (
	"context"
	"fmt"
	"runtime"
	"runtime/metrics"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// requests counts what a broker asks, by operation and the verb of the subject.
type requests struct {
	mu    sync.Mutex
	total int
	by    map[string]int
}

func (q *requests) intercept(op, subject string) jetstream.Fault {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.total++
	if verb, isAPI := strings.CutPrefix(subject, "$JS.API."); isAPI {
		tokens := strings.Split(verb, ".")
		op += " " + strings.Join(tokens[:min(2, len(tokens))], ".")
	}
	if q.by == nil {
		q.by = map[string]int{}
	}
	q.by[op]++
	return jetstream.Pass
}

// take returns the counts since the last call.
func (q *requests) take() (int, map[string]int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, by := q.total, q.by
	q.total, q.by = 0, nil
	return n, by
}

// fleet deploys counting for n tenants, each with a stream of its own, and waits until all run.
func fleet(t testing.TB, b *jetstream.Broker, n int) (stop func()) {
	t.Helper()
	rt, err := processor.NewRuntime(processor.RuntimeConfig{Broker: b, Worker: "w1"})
	ok(t, err)
	topology := counting(t)
	var jobs []*processor.Job
	for i := range n {
		j, err := rt.Deploy(context.Background(), topology, tenants.ID(fmt.Sprintf("t%d", i)), processor.JobConfig{})
		ok(t, err)
		jobs = append(jobs, j)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan struct{})
	go func() {
		defer close(ran)
		_ = rt.Run(ctx)
	}()
	until(t, "all jobs run", func() bool {
		for _, j := range jobs {
			if j.Status().State != processor.JobRunning {
				return false
			}
		}
		return true
	})
	return func() {
		cancel()
		<-ran
	}
}

// TestRequestsOfAFleet bounds what jobs ask of the server: to start for the first time, to start again, and while nothing happens.
func TestRequestsOfAFleet(t *testing.T) {
	const n = 20
	bubble(t, func(t *testing.T) {
		var q requests
		w := newWorld(t, func(c *jetstream.Config) { c.Intercept = q.intercept })
		w.t = t
		q.take()
		bound := func(what string, most int) {
			t.Helper()
			total, by := q.take()
			t.Logf("%s: %.1f requests a job: %v", what, float64(total)/n, by)
			if total > most*n {
				t.Errorf("%s: %d requests for %d jobs, at most %d each are right: %v", what, total, n, most, by)
			}
		}
		stop := fleet(t, w.b, n)
		time.Sleep(time.Minute)
		bound("the first start and a minute", 35)
		time.Sleep(10 * time.Minute)
		// All of it is the process's heartbeat, every two seconds.
		bound("ten idle minutes", 16)
		for i := range n {
			w.publish(fmt.Sprintf("t%d.lines.a", i), 1)
		}
		time.Sleep(time.Minute)
		bound("one record", 21)
		stop()
		q.take()
		stop = fleet(t, w.b, n)
		time.Sleep(5 * time.Second)
		bound("another start", 30)
		stop()
	})
}

// BenchmarkFleet starts jobs of a thousand tenants and lets them idle.
func BenchmarkFleet(b *testing.B) {
	const n = 1000
	var asked atomic.Int64
	w := newWorld(b, func(c *jetstream.Config) {
		c.Intercept = func(string, string) jetstream.Fault {
			asked.Add(1)
			return jetstream.Pass
		}
	})
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		goroutines := runtime.NumGoroutine()
		begin := time.Now()
		stop := fleet(b, w.b, n)
		b.ReportMetric(time.Since(begin).Seconds(), "s/start")
		b.ReportMetric(float64(asked.Swap(0))/n, "requests/start")
		idle := time.NewTimer(20 * time.Second)
		cpu := cpuTime()
		<-idle.C
		b.ReportMetric((cpuTime()-cpu)/20*100, "idle-%cpu")
		b.ReportMetric(float64(asked.Swap(0))/20, "idle-requests/s")
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapInuse+after.StackInuse-before.HeapInuse-before.StackInuse)/n/1024, "KiB/job")
		b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/n, "goroutines/job")
		stop()
	}
}

// cpuTime is what the process has used, in seconds; the runtime brings it up to date at a garbage collection.
func cpuTime() float64 {
	runtime.GC()
	samples := []metrics.Sample{{Name: "/cpu/classes/total:cpu-seconds"}, {Name: "/cpu/classes/idle:cpu-seconds"}}
	metrics.Read(samples)
	return samples[0].Value.Float64() - samples[1].Value.Float64()
}
