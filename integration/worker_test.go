package integration_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// workerSpec says how a worker differs from the default.
type workerSpec struct {
	name    string
	job     processor.JobConfig
	broker  func(*jetstream.Config)
	runtime func(*processor.RuntimeConfig)
	topo    *processor.Topology
}

// worker is what a worker process is in production: a broker, a runtime, and jobs.
type worker struct {
	t      testing.TB
	broker *jetstream.Broker
	rt     *processor.Runtime
	ctx    context.Context
	cancel context.CancelFunc
	ended  chan struct{}
	once   sync.Once
	live   atomic.Bool // Run was called
	log    *logBook
}

// smallJob checkpoints as fast as is allowed.
func smallJob() processor.JobConfig {
	return processor.JobConfig{
		Checkpoint: processor.CheckpointConfig{Interval: 20 * time.Millisecond},
		Restart:    processor.RestartConfig{First: 5 * time.Millisecond, Max: 50 * time.Millisecond, Attempts: 1000},
		MergeAfter: 3,
	}
}

// newWorker makes the parts; nothing has touched the broker yet.
func newWorker(t testing.TB, p jetstream.Provider, spec workerSpec) *worker {
	t.Helper()
	w := &worker{t: t, ended: make(chan struct{}), log: &logBook{}}
	logger := slog.New(slog.NewTextHandler(w.log, nil))
	cfg := jetstream.Config{Provider: p, CreateStreams: true, Heartbeat: 200 * time.Millisecond, Logger: logger}
	if spec.broker != nil {
		spec.broker(&cfg)
	}
	var err error
	w.broker, err = jetstream.New(cfg)
	ok(t, err)
	rcfg := processor.RuntimeConfig{
		Broker: w.broker, Worker: spec.name, Logger: logger,
		HeartbeatInterval: 20 * time.Millisecond, TakeoverAfter: 100 * time.Millisecond, StandbyInterval: 10 * time.Millisecond,
	}
	if spec.runtime != nil {
		spec.runtime(&rcfg)
	}
	w.rt, err = processor.NewRuntime(rcfg)
	ok(t, err)
	w.ctx, w.cancel = context.WithCancel(context.Background())
	t.Cleanup(w.kill)
	return w
}

// start connects, deploys the topology for the tenants and runs it.
func (w *worker) start(spec workerSpec, names ...string) error {
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	if err := w.broker.Start(ctx); err != nil {
		return err
	}
	for _, name := range names {
		if _, err := w.rt.Deploy(ctx, spec.topo, tenants.ID(name), spec.job); err != nil {
			return err
		}
	}
	w.live.Store(true)
	go func() {
		defer close(w.ended)
		_ = w.rt.Run(w.ctx) // a cancelled context is how these workers die
	}()
	return nil
}

// startWorker is newWorker and start in one, for workers that must come up.
func startWorker(t testing.TB, p jetstream.Provider, spec workerSpec, names ...string) *worker {
	t.Helper()
	w := newWorker(t, p, spec)
	ok(t, w.start(spec, names...))
	return w
}

// kill ends the worker as a crash would: nothing is drained.
func (w *worker) kill() {
	w.once.Do(func() {
		w.cancel()
		if w.live.Load() {
			<-w.ended
		}
		w.broker.Close()
	})
}

func (w *worker) drain() error {
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	return w.rt.Drain(ctx)
}

func (w *worker) job(tenant string) *processor.Job {
	for _, j := range w.rt.Hosted() {
		if string(j.ID().Tenant) == tenant {
			return j
		}
	}
	return nil
}

// status is that of the worker's only job of the tenant.
func (w *worker) status(tenant string) processor.JobStatus {
	if j := w.job(tenant); j != nil {
		return j.Status()
	}
	return processor.JobStatus{}
}

// failure waits until the job has failed for good and returns why.
func (w *worker) failure(tenant string) error {
	w.t.Helper()
	var err error
	eventually(w.t, "job of "+tenant+" fails", func() bool {
		s := w.status(tenant)
		err = s.Err
		return s.State == processor.JobFailed || s.State == processor.JobParked
	})
	return err
}

// settled waits until the job has released everything that the history asks for.
func (w *worker) settled(ctx context.Context, world *world, h *history) error {
	return w.settledAt(ctx, world, h.home(), h)
}

// settledAt is settled for results in another place.
func (w *worker) settledAt(ctx context.Context, world *world, p place, h *history) error {
	for {
		n, err := released(ctx, world.js, p)
		if err == nil && n >= h.total+len(h.dead) {
			return nil
		}
		if s := w.status(h.tenant); s.State == processor.JobFailed || s.State == processor.JobParked {
			return fmt.Errorf("job of %s is %s: %w", h.tenant, s.State, s.Err)
		}
		if breathe(ctx); ctx.Err() != nil {
			return errors.Join(ctx.Err(), err, fmt.Errorf("%d of %d results are out, the job is %s: %v", n, h.total+len(h.dead), w.status(h.tenant).State, w.status(h.tenant).Err))
		}
	}
}

// breathe waits a moment before something is asked again.
func breathe(ctx context.Context) {
	t := time.NewTimer(5 * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// finish runs the worker until the history is complete, drains it and asks for the verdict.
func (w *worker) finish(world *world, h *history) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	if err := w.settled(ctx, world, h); err != nil {
		w.t.Fatalf("%v\n%s", err, w.log.tail())
	}
	if err := w.drain(); err != nil {
		w.t.Fatalf("%v\n%s", err, w.log.tail())
	}
	world.exact(w.t, h)
}

// logBook keeps what a worker logged.
type logBook struct {
	mu    sync.Mutex
	lines []string
}

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, strings.TrimRight(string(p), "\n"))
	if len(l.lines) > 4000 {
		l.lines = l.lines[2000:]
	}
	return len(p), nil
}

func (l *logBook) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines[max(0, len(l.lines)-40):], "\n")
}

func (l *logBook) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if strings.Contains(line, text) {
			return true
		}
	}
	return false
}
