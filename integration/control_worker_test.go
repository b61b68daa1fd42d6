package integration_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/jetstream/control"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// controlConfig is a worker with a control service, in this process or in one of its own.
type controlConfig struct {
	Name     string
	URL      string // of one in its own process
	Tenants  []string
	Interval time.Duration
	Retained int
	Timeout  time.Duration // of a checkpoint
	Takeover time.Duration
}

func (c controlConfig) job() processor.JobConfig {
	job := smallJob()
	job.KeyGroups = 8
	job.Checkpoint.Interval, job.Checkpoint.Retained, job.Checkpoint.Timeout = c.Interval, c.Retained, c.Timeout
	job.Marks = processor.MarkConfig{Allow: true, MinInterval: time.Nanosecond, Max: 1000}
	return job
}

// controlWorker is what a worker process is in production: a broker, a runtime, and the service that speaks for it.
type controlWorker struct {
	broker  *jetstream.Broker
	rt      *processor.Runtime
	service *control.Service
	events  *control.Events
	cancel  context.CancelFunc
	ctx     context.Context
	ended   chan struct{}
	once    sync.Once
	log     *logBook
	err     error // of the start
}

// startControl brings a worker up. What it returns must be killed, also with an error.
func startControl(cfg controlConfig, broker jetstream.Config, log *slog.Logger) *controlWorker {
	w := &controlWorker{ended: make(chan struct{})}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	broker.Heartbeat, broker.Logger = 500*time.Millisecond, log
	w.err = w.start(cfg, broker, log)
	return w
}

func (w *controlWorker) start(cfg controlConfig, bc jetstream.Config, log *slog.Logger) error {
	defer func() {
		if w.rt == nil || w.service == nil {
			close(w.ended)
		}
	}()
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	topo, err := buildTally()
	if err != nil {
		return err
	}
	if w.broker, err = jetstream.New(bc); err != nil {
		return err
	}
	if err := w.broker.Start(ctx); err != nil {
		return err
	}
	nc, err := w.broker.Conn(ctx, jetstream.Service)
	if err != nil {
		return err
	}
	w.events = control.NewEvents(nc, cfg.Name, log)
	rt, err := processor.NewRuntime(processor.RuntimeConfig{
		Broker: w.broker, Worker: cfg.Name, Logger: log, Listener: w.events.Listener(),
		HeartbeatInterval: 50 * time.Millisecond, TakeoverAfter: cfg.Takeover, StandbyInterval: 10 * time.Millisecond,
		Topologies: []*processor.Topology{topo}, JobConfig: func(*processor.Topology, tenants.JobID) processor.JobConfig { return cfg.job() },
	})
	if err != nil {
		return err
	}
	w.rt = rt
	for _, name := range cfg.Tenants {
		if _, err := rt.Deploy(ctx, topo, tenants.ID(name), cfg.job()); err != nil {
			return err
		}
	}
	service, err := control.New(control.Config{
		Conn: nc, Control: rt, Worker: rt.Worker(), Process: rt.Process(), Events: w.events, Logger: log,
		Limits: control.Limits{Rate: 1e6, Burst: 1e6, Silence: 3 * time.Second},
	})
	if err != nil {
		return err
	}
	if err := service.Start(ctx); err != nil {
		service.Close()
		return err
	}
	w.service = service
	go func() {
		defer close(w.ended)
		_ = rt.Run(w.ctx) // a cancelled context is how these workers die
	}()
	return nil
}

// kill ends the worker as a crash would: nothing is drained, and requests are not answered.
func (w *controlWorker) kill() {
	w.once.Do(func() {
		w.cancel()
		if w.service != nil {
			w.service.Close()
		}
		<-w.ended
		if w.events != nil {
			w.events.Close()
		}
		if w.broker != nil {
			w.broker.Close()
		}
	})
}

// controlWorker starts a worker in this process that must come up.
func (s *site) controlWorker(t testing.TB, cfg controlConfig, change ...func(*jetstream.Config)) *controlWorker {
	t.Helper()
	w := s.tryWorker(t, cfg, change...)
	if w.err != nil {
		t.Fatalf("%v\n%s", w.err, w.log.tail())
	}
	return w
}

func (s *site) tryWorker(t testing.TB, cfg controlConfig, change ...func(*jetstream.Config)) *controlWorker {
	t.Helper()
	book := &logBook{}
	bc := jetstream.Config{Provider: s}
	for _, f := range change {
		f(&bc)
	}
	w := startControl(cfg, bc, slog.New(slog.NewTextHandler(book, nil)))
	w.log = book
	t.Cleanup(w.kill)
	return w
}

// playControl is a controlWorker in a process of its own. It lives until it is killed.
func playControl() error {
	var cfg controlConfig
	if err := json.Unmarshal([]byte(os.Getenv(configEnv)), &cfg); err != nil {
		return err
	}
	w := startControl(cfg, jetstream.Config{URL: cfg.URL}, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if w.err != nil {
		return w.err
	}
	<-w.ended
	return errors.New("the worker has ended by itself")
}
