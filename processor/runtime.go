package processor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weirstream/weir/tenants"
)

// Version is the library's version, as manifests record it.
const Version = "0.1.0"

// Runtime hosts jobs: any number of topologies for any number of tenants, each job with its own goroutines, checkpoints,
// restarts and failures. Its methods may be called from any goroutine.
type Runtime struct {
	cfg      RuntimeConfig
	process  string        // begins the nonces of this process's attempts
	starting chan struct{} // a place for every job that may start at the same time

	mu         sync.Mutex
	jobs       map[tenants.JobID]*Job
	topologies map[string]*Topology              // of the configuration, by name
	intents    map[tenants.JobID]IntentRecord    // as last heard
	waiting    map[tenants.JobID][]tenants.JobID // forks that need the topology of a job that is not hosted here
	listed     bool                              // every intent there was has been heard
	ctx        context.Context                   // of Run; nil before
	cancel     context.CancelCauseFunc
	wg         sync.WaitGroup
	closed     bool
}

// NewRuntime validates the configuration. It does no I/O and starts nothing.
func NewRuntime(cfg RuntimeConfig) (*Runtime, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	if cfg.Worker == "" {
		cfg.Worker = newNonce()
	}
	cfg.Listener = cfg.Listener.guarded(cfg.Logger)
	r := &Runtime{
		cfg: cfg, process: newNonce()[:processLen], starting: make(chan struct{}, cfg.MaxStarting), jobs: map[tenants.JobID]*Job{},
		topologies: map[string]*Topology{}, intents: map[tenants.JobID]IntentRecord{}, waiting: map[tenants.JobID][]tenants.JobID{},
	}
	for _, t := range cfg.Topologies {
		r.topologies[t.Name()] = t
	}
	return r, nil
}

// Worker returns this worker's ID.
func (r *Runtime) Worker() string { return r.cfg.Worker }

// Process names this process among all that ever ran under the worker's ID; it is a valid subject token.
func (r *Runtime) Process() string { return r.process }

// Deploy adds a job: the topology for one tenant. It checks names, configuration, parameters and, against the broker, every
// stream the job needs, and returns all problems at once; nothing is started then. The job runs when Run does. A broker that does
// not answer for now is no problem of the job: it is checked when it starts.
//
// The first deployment records that the job should run. From then on that record, the intent, says whether it does, and what operators
// changed of its configuration: a job that was stopped or deleted stays so over every deployment, until it is started. To take the call
// out of the program does not delete a job: Delete does. Until then it goes on running on every worker that deploys it, or has its
// topology among RuntimeConfig.Topologies.
func (r *Runtime) Deploy(ctx context.Context, t *Topology, tenant tenants.ID, cfg JobConfig) (*Job, error) {
	if t == nil {
		return nil, errors.New("deploying a nil topology: Build returned an error that was not handled")
	}
	cfg = cfg.withDefaults(t)
	id := tenants.JobID{Tenant: tenant, Name: cfg.Name}
	needs, err := prepareJob(t, id, cfg, r.cfg.Broker.Namespace())
	if err != nil {
		return nil, fmt.Errorf("deploying job %s: %w", id, err)
	}
	rec, err := r.intentBefore(ctx, id)
	if err != nil && !errors.Is(err, ErrUnavailable) {
		return nil, fmt.Errorf("deploying job %s: %w", id, err)
	}
	if in := rec.Intent; in != nil && in.Desired == DesiredRunning {
		if changed, err := prepareJob(t, id, effectiveConfig(cfg, in), r.cfg.Broker.Namespace()); err == nil {
			needs = changed
		}
	}
	if in := rec.Intent; in == nil || in.Desired == DesiredRunning {
		if _, err := r.cfg.Broker.Check(ctx, needs); errors.Is(err, ErrUnavailable) {
			r.cfg.Logger.Warn("deploying a job unchecked: the streams are looked at when it starts", "tenant", string(tenant), "job", id.Name, "err", err)
		} else if err != nil {
			return nil, fmt.Errorf("deploying job %s: %w", id, err)
		}
	}
	return r.add(id, t, cfg, rec)
}

// add takes on a job that the program deploys. One that this worker hosts by its intent becomes the program's.
func (r *Runtime) add(id tenants.JobID, t *Topology, cfg JobConfig, rec IntentRecord) (*Job, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	j := r.jobs[id]
	switch {
	case r.closed:
		return nil, fmt.Errorf("deploying job %s: the runtime has ended", id)
	case j != nil && !j.adopt(t, cfg):
		return nil, fmt.Errorf("deploying job %s: it is deployed already: give one of the two another JobConfig.Name", id)
	case j == nil && r.full():
		return nil, fmt.Errorf("deploying job %s: this worker has its %d jobs (RuntimeConfig.MaxJobs)", id, r.cfg.MaxJobs)
	}
	if j != nil {
		return j, nil
	}
	j = newJob(r, id, t, cfg)
	j.coded = true
	if now, ok := r.intents[id]; ok {
		rec = now
	}
	j.intent, j.known = rec, rec.Intent != nil || rec.Err != nil
	r.launch(j)
	return j, nil
}

// Hosted returns every job on this worker, running or not, ordered by tenant and name.
func (r *Runtime) Hosted() []*Job {
	r.mu.Lock()
	defer r.mu.Unlock()
	jobs := make([]*Job, 0, len(r.jobs))
	for _, j := range r.jobs {
		jobs = append(jobs, j)
	}
	slices.SortFunc(jobs, func(a, b *Job) int { return strings.Compare(a.id.String(), b.id.String()) })
	return jobs
}

// Run runs the jobs until ctx ends, which is as safe as a crash, or until Drain has ended them all, when it returns nil. It
// returns after every goroutine of every job has ended. It may be called once.
func (r *Runtime) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r.mu.Lock()
	if r.ctx != nil || r.closed {
		r.mu.Unlock()
		return errors.New("Runtime.Run was called before: make a new Runtime")
	}
	r.ctx, r.cancel = ctx, cancel
	for _, j := range r.jobs {
		r.wg.Go(func() { j.run(ctx) })
	}
	r.mu.Unlock()
	var beside sync.WaitGroup
	beside.Go(func() { r.heartbeats(ctx) })
	beside.Go(func() { r.watchIntents(ctx) })
	<-ctx.Done()
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	beside.Wait() // it may take on jobs until it has ended
	r.wg.Wait()
	if errors.Is(context.Cause(ctx), errDrained) {
		return nil
	}
	return ctx.Err()
}

// Drain takes a last checkpoint of every running job, releases its output, lets go of the jobs so that other workers may take
// them at once, and ends Run. When ctx ends first it returns an error that names the jobs that were not drained; they go on.
func (r *Runtime) Drain(ctx context.Context) error {
	jobs := r.Hosted()
	for _, j := range jobs {
		j.drain()
	}
	r.mu.Lock()
	running, cancel := r.ctx != nil, r.cancel
	r.closed = true
	r.mu.Unlock()
	if !running {
		return nil
	}
	var late []string
	for _, j := range jobs {
		select {
		case <-j.done:
		case <-ctx.Done():
			late = append(late, j.id.String())
		}
	}
	if len(late) > 0 {
		return fmt.Errorf("draining: %w before these jobs had taken their last checkpoint: %s; they are in the state of the one before and lose nothing",
			ctx.Err(), strings.Join(late, ", "))
	}
	cancel(errDrained)
	return nil
}

// heartbeatID names the heart of one process of a worker: a process that came back under its predecessor's ID does not keep alive what
// the dead one owned and it does not deploy. process is what the nonces of its attempts begin with.
func heartbeatID(worker, process string) string {
	return worker + "." + process[:min(len(process), processLen)]
}

// processLen is the length of what the nonces of one process's attempts begin with.
const processLen = 13

// heartbeats says that this worker lives, for standbys. A missed beat costs at most a needless takeover.
func (r *Runtime) heartbeats(ctx context.Context) {
	ticker := time.NewTicker(r.cfg.HeartbeatInterval)
	defer ticker.Stop()
	for {
		beat, cancel := context.WithTimeout(ctx, r.cfg.HeartbeatInterval)
		if err := r.cfg.Broker.Heartbeat(beat, heartbeatID(r.cfg.Worker, r.process)); err != nil && ctx.Err() == nil {
			r.cfg.Logger.Warn("writing the heartbeat", "err", err)
		}
		cancel()
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}
