package weircli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/jetstream/control"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// worker runs topologies for tenants in this process until it is told to finish.
type worker struct {
	broker     *jetstream.Broker
	rt         *processor.Runtime
	service    *control.Service
	events     *control.Events
	drainLimit time.Duration
	log        *slog.Logger
}

// startWorker connects and deploys every topology for every tenant. It reports all deployments that are refused, not only the
// first.
func startWorker(ctx context.Context, jc jetstream.Config, rc processor.RuntimeConfig, topologies []*processor.Topology, ids []tenants.ID, jobs *jobFlags) (*worker, error) {
	if err := jobs.checkParams(topologies); err != nil {
		return nil, err
	}
	broker, err := jetstream.New(jc)
	if err != nil {
		return nil, err
	}
	if err := broker.Start(ctx); err != nil {
		broker.Close()
		return nil, err
	}
	nc, err := broker.Conn(ctx, jetstream.Service)
	if err != nil {
		broker.Close()
		return nil, err
	}
	if rc.Worker == "" {
		rc.Worker = strings.ToLower(rand.Text())
	}
	w := &worker{broker: broker, events: control.NewEvents(nc, rc.Worker, rc.Logger), drainLimit: 10 * time.Second, log: rc.Logger}
	rc.Topologies = topologies // what the intents name runs here, too, without being named here
	rc.JobConfig = func(t *processor.Topology, job tenants.JobID) processor.JobConfig {
		cfg, _ := jobs.config(t, job.Tenant) // checkParams has read every parameter
		return cfg
	}
	rc.Broker, rc.Listener = broker, processor.JoinListeners(rc.Listener, w.events.Listener())
	if w.rt, err = processor.NewRuntime(rc); err != nil {
		w.close()
		return nil, err
	}
	var errs []error
	for _, id := range ids {
		for _, t := range topologies {
			cfg, err := jobs.config(t, id)
			if err == nil {
				_, err = w.rt.Deploy(ctx, t, id, cfg)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("deploying %s for %s: %w", t.Name(), id, err))
			}
		}
	}
	if len(errs) > 0 {
		w.close()
		return nil, errors.Join(errs...)
	}
	w.service, err = control.New(control.Config{
		Conn: nc, Control: w.rt, Worker: w.rt.Worker(), Process: w.rt.Process(), Events: w.events, Logger: rc.Logger,
	})
	if err == nil {
		err = w.service.Start(ctx)
	}
	if err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// close ends what run would have ended.
func (w *worker) close() {
	if w.service != nil {
		w.service.Close()
	}
	w.events.Close()
	w.broker.Close()
}

// run blocks until ctx ends, then takes a last checkpoint of every job and releases them. What could not be drained in time is
// finished by the next start, as after a crash.
func (w *worker) run(ctx context.Context, status io.Writer) error {
	defer w.close()
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- w.rt.Run(work) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	w.service.Close() // other workers take the requests
	fmt.Fprintln(status, "\nfinishing: a last checkpoint of every job (interrupt again to kill)")
	limited, done := context.WithTimeout(work, w.drainLimit)
	defer done()
	if err := w.rt.Drain(limited); err != nil {
		w.log.Warn("not everything was drained; the next start goes on from the last checkpoint", "err", err)
		cancel()
	}
	err := <-ended
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return err
}

// failures returns what stopped jobs for good.
func (w *worker) failures() error {
	var errs []error
	for _, j := range w.rt.Hosted() {
		if s := j.Status(); s.State == processor.JobFailed || s.State == processor.JobParked {
			errs = append(errs, fmt.Errorf("job %s is %s: %w", s.ID, s.State, s.Err))
		}
	}
	return errors.Join(errs...)
}
