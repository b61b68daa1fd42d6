package processor

import (
	"context"
	crand "crypto/rand"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/tenants"
)

// Job is one topology for one tenant on this worker: its attempts, restarts and standby. Its methods may be called from any
// goroutine.
type Job struct {
	id  tenants.JobID
	rt  *Runtime
	log *slog.Logger

	progress progress
	history  history
	tried    bool   // run's own: this process has made an attempt
	heir     string // run's own: the attempt of this worker's predecessor, which the head named before the first one

	stop chan struct{} // closed by drain: no further attempt starts
	done chan struct{} // closed when everything of the job has ended
	// op holds a token while somebody carries out what was asked of the job: a request, or an intent that came by itself. Who
	// holds it may change the intent back before anybody acts on it.
	op      chan struct{}
	intents bell // rung when the intent changes
	moved   bell // rung when the status changes

	mu      sync.Mutex
	topo    *Topology
	base    JobConfig // what the program deploys with, complete
	coded   bool      // the program deployed it: not known by its intent only
	edition int       // counts the program's deployments
	intent  IntentRecord
	known   bool      // the intent was heard of, or that there is none
	cfg     JobConfig // of the running or the next attempt: base with what the intent changes
	needs   Needs
	applied uint64 // revision of the intent that cfg was made of
	resting bool   // it was seen to be stopped, for the intent that it has
	status  JobStatus
	runner  *runner // of the running attempt; nil between attempts
}

// JobStatus is a snapshot of a job's state.
type JobStatus struct {
	ID          tenants.JobID
	State       JobState
	Epoch       uint64
	Checkpoint  uint64 // the last completed one
	Parallelism int
	Err         error     // why it is not running, or the last failure
	Restarts    int       // since the last completed checkpoint
	Retry       time.Time // when the next try is due
	Owner       string    // the worker that owns the job, when this one stands by
}

func newJob(r *Runtime, id tenants.JobID, t *Topology, cfg JobConfig) *Job {
	return &Job{
		id: id, rt: r, topo: t, base: cfg, cfg: cfg,
		log:    r.cfg.Logger.With("tenant", string(id.Tenant), "job", id.Name),
		stop:   make(chan struct{}),
		done:   make(chan struct{}),
		op:     make(chan struct{}, 1),
		status: JobStatus{ID: id, State: JobStarting, Parallelism: cfg.Parallelism},
	}
}

// ID returns the job's identity.
func (j *Job) ID() tenants.JobID { return j.id }

// Status returns the job's state as this worker sees it.
func (j *Job) Status() JobStatus {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := j.status
	s.Checkpoint = j.progress.lastCheckpoint()
	return s
}

// Config returns the configuration of the running or the next attempt: the program's, with what operators changed since.
func (j *Job) Config() JobConfig {
	_, cfg, _ := j.setup()
	return cfg
}

// setup returns what the running or the next attempt is made of.
func (j *Job) setup() (*Topology, JobConfig, Needs) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.topo, j.cfg, j.needs
}

// running returns the runner of an attempt that has started, or nil and the job's state.
func (j *Job) running() (*runner, JobState) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.runner == nil || j.status.State != JobRunning {
		return nil, j.status.State
	}
	return j.runner, JobRunning
}

// Checkpoint takes a checkpoint that holds everything read before the call, and returns when its output is released. The error
// says why there is none: the job does not run here, or its attempt ended.
func (j *Job) Checkpoint(ctx context.Context) (CheckpointEvent, error) {
	type answer struct {
		ev  CheckpointEvent
		err error
	}
	got := make(chan answer, 1)
	r, state := j.running()
	if r == nil {
		return CheckpointEvent{}, fmt.Errorf("job %s does not run on this worker: it is %s", j.id, state)
	}
	r.post(ctlRequest{done: func(ev CheckpointEvent, err error) { got <- answer{ev, err} }})
	select {
	case a := <-got:
		return a.ev, a.err
	case <-r.ended:
		return CheckpointEvent{}, fmt.Errorf("job %s: the attempt ended before the checkpoint was complete", j.id)
	case <-ctx.Done():
		return CheckpointEvent{}, ctx.Err()
	}
}

// ask carries out the requests of protocols that no attempt makes.
func (j *Job) ask(ctx context.Context) barriers.Ask { return askOf(ctx, j.rt.cfg.Broker, j.id) }

func askOf(ctx context.Context, broker Broker, id tenants.JobID) barriers.Ask {
	return func(r barriers.Request) barriers.Reply {
		if r.Op == barriers.OpWait {
			if err := (blocking{}).Sleep(ctx, backoff(r.Attempt)); err != nil {
				return barriers.Reply{Status: barriers.Canceled, Err: err}
			}
			return barriers.Reply{Status: barriers.OK}
		}
		return broker.Do(ctx, id, r)
	}
}

// drain asks the running attempt for a last checkpoint and to let go of the job; a job that does not run just ends.
func (j *Job) drain() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.isStopped() {
		close(j.stop)
	}
	if j.runner != nil {
		j.runner.post(ctlDrain{})
	}
}

func (j *Job) isStopped() bool {
	select {
	case <-j.stop:
		return true
	default:
		return false
	}
}

// update changes the status and tells who waits for it.
func (j *Job) update(change func(*JobStatus)) JobStatus {
	j.mu.Lock()
	change(&j.status)
	s := j.status
	j.mu.Unlock()
	j.moved.ring()
	return s
}

func (j *Job) tell(ev JobEvent) {
	if j.rt.cfg.Listener.Job != nil {
		ev.Job = j.id
		if ev.At.IsZero() {
			ev.At = time.Now()
		}
		j.rt.cfg.Listener.Job(ev)
	}
}

func (j *Job) setState(s JobState, err error) {
	now := j.update(func(st *JobStatus) { st.State, st.Err, st.Retry, st.Owner = s, err, time.Time{}, "" })
	if s != JobStarting {
		j.tell(JobEvent{State: s, Epoch: now.Epoch, Err: err})
	}
}

func (j *Job) standbyOf(worker string) {
	changed := false
	j.mu.Lock()
	if j.status.State != JobStandby || j.status.Owner != worker {
		changed = true
		j.status.State, j.status.Owner = JobStandby, worker
	}
	j.mu.Unlock()
	if changed {
		j.moved.ring()
		j.tell(JobEvent{State: JobStandby, Err: fmt.Errorf("worker %s owns the job", worker)})
	}
}

func (j *Job) setRetry(err error, restarts int, at time.Time) {
	now := j.update(func(s *JobStatus) { s.State, s.Err, s.Restarts, s.Retry = JobRestarting, err, restarts, at })
	j.tell(JobEvent{State: JobRestarting, Epoch: now.Epoch, Err: err, Retry: at})
}

// onJobEvent hears from the attempt's control loop.
func (j *Job) onJobEvent(ev JobEvent) {
	j.update(func(s *JobStatus) {
		s.State, s.Epoch, s.Err, s.Parallelism, s.Owner = ev.State, ev.Epoch, ev.Err, j.cfg.Parallelism, ""
	})
	j.tell(ev)
}

// newNonce tells one attempt from every other, also of the same worker.
func newNonce() string { return strings.ToLower(crand.Text()) }
