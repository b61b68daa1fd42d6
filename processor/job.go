package processor

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/tenants"
)

// Job is one topology deployed for one tenant on this worker: its attempts, restarts and standby. Its methods may be called from
// any goroutine.
type Job struct {
	id    tenants.JobID
	topo  *Topology
	cfg   JobConfig
	needs Needs
	rt    *Runtime
	log   *slog.Logger

	progress progress
	tried    bool   // run's own: this process has made an attempt
	heir     string // run's own: the attempt of this worker's predecessor, which the head named before the first one

	stop chan struct{} // closed by drain: no further attempt starts
	done chan struct{} // closed when everything of the job has ended

	mu     sync.Mutex
	status JobStatus
	runner *runner // of the running attempt; nil between attempts
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

// Checkpoint takes a checkpoint that holds everything read before the call, and returns when its output is released. The error
// says why there is none: the job does not run here, or its attempt ended.
func (j *Job) Checkpoint(ctx context.Context) (CheckpointEvent, error) {
	type answer struct {
		ev  CheckpointEvent
		err error
	}
	got := make(chan answer, 1)
	j.mu.Lock()
	r, state := j.runner, j.status.State
	j.mu.Unlock()
	if r == nil || state != JobRunning {
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

// run supervises the job until ctx ends or the job is drained. It returns when everything of the job has ended.
func (j *Job) run(ctx context.Context) {
	defer close(j.done)
	policy := newRestartPolicy(j.cfg.Restart, rand.Float64)
	for ctx.Err() == nil && !j.isStopped() {
		observed, err := j.standBy(ctx)
		if err != nil {
			break
		}
		if ctx.Err() != nil || j.isStopped() {
			break
		}
		before := j.progress.count()
		err = j.attempt(ctx, observed)
		if ctx.Err() != nil || errors.Is(err, errDrained) {
			break
		}
		if j.progress.count() > before {
			policy.reset()
		}
		if !j.afterFailure(ctx, policy, err) {
			return
		}
	}
	j.setState(JobStopped, nil)
}

// startPatience is how long a start may keep its place among those that RuntimeConfig.MaxStarting bounds.
const startPatience = 10 * time.Second

// attempt runs one attempt to its end.
func (j *Job) attempt(ctx context.Context, observed *barriers.HeadRecord) error {
	j.setState(JobStarting, nil)
	j.tried = true
	select {
	case j.rt.starting <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-j.stop:
		return errDrained
	}
	// A start that waits, for room in its output stream say, must not keep other tenants' jobs from theirs.
	leave := sync.OnceFunc(func() { <-j.rt.starting })
	patience := time.AfterFunc(startPatience, leave)
	defer patience.Stop()
	defer leave()
	j.progress.newAttempt()
	build := func(d driver) *attempt {
		return &attempt{
			job: j.id, topo: j.topo, cfg: j.cfg, needs: j.needs, worker: j.rt.cfg.Worker, nonce: j.rt.process + newNonce()[:processLen],
			drv: d, log: j.log, ctx: ctx, progress: &j.progress, observed: observed,
			listen: Listener{
				Job: func(ev JobEvent) {
					leave()
					j.onJobEvent(ev)
				},
				Checkpoint:       j.rt.cfg.Listener.Checkpoint,
				CheckpointFailed: j.rt.cfg.Listener.CheckpointFailed,
			},
		}
	}
	defer func() {
		j.mu.Lock()
		j.runner = nil
		j.mu.Unlock()
	}()
	return runAttempt(ctx, j.rt.cfg.Broker, build, func(a *attempt, r *runner) {
		a.ctx = r.ctx
		j.mu.Lock()
		j.runner = r
		draining := j.isStopped()
		j.mu.Unlock()
		if draining {
			r.post(ctlDrain{})
		}
	})
}

// afterFailure decides what follows an attempt that ended with err; false means that the job is at its end on this worker.
func (j *Job) afterFailure(ctx context.Context, policy *restartPolicy, err error) bool {
	switch ClassOf(err) {
	case ClassFenced:
		j.log.Warn("another worker took the job over", "err", err)
		j.setState(JobStandby, err)
		return true
	case ClassTerminal:
		j.log.Error("job failed: a restart cannot mend this", "err", err)
		j.setState(JobFailed, err)
		j.waitStop(ctx, 0)
		return false
	}
	var wait time.Duration
	if errors.Is(err, ErrUnavailable) {
		wait = policy.unavailable() // the broker is away: that is not the job's fault and never parks it
	} else {
		var again bool
		if wait, again = policy.next(); !again {
			err = fmt.Errorf("parked after %d restarts without a completed checkpoint between them: %w", j.cfg.Restart.Attempts, err)
			j.log.Error("job parked", "err", err)
			j.setState(JobParked, err)
			j.waitStop(ctx, 0)
			return false
		}
	}
	j.log.Warn("job restarts", "err", err, "wait", wait)
	j.setRetry(err, policy.count, time.Now().Add(wait))
	j.waitStop(ctx, wait)
	return true
}

// waitStop blocks until the job is to stop or, if wait is not 0, that long.
func (j *Job) waitStop(ctx context.Context, wait time.Duration) {
	var expired <-chan time.Time
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case <-expired:
	case <-ctx.Done():
	case <-j.stop:
	}
}

// standBy returns nil when this worker may try to take the job: nobody owns it, this worker did, its owner let go of it, or the
// owner's heartbeat has stood still for TakeoverAfter on this worker's own clock. Safety does not depend on it.
func (j *Job) standBy(ctx context.Context) (*barriers.HeadRecord, error) {
	var watch takeoverWatch
	for {
		free, rec, err := j.mayTake(ctx, &watch)
		if err != nil && !isCanceled(err) {
			j.log.Warn("looking at the job's owner", "err", err)
			j.setState(JobStandby, err)
		}
		if free {
			return rec, nil
		}
		j.waitStop(ctx, j.rt.cfg.StandbyInterval)
		if ctx.Err() != nil || j.isStopped() {
			return nil, errDrained
		}
	}
}

func (j *Job) mayTake(ctx context.Context, watch *takeoverWatch) (bool, *barriers.HeadRecord, error) {
	ask := func(r barriers.Request) barriers.Reply {
		if r.Op == barriers.OpWait {
			if err := (blocking{}).Sleep(ctx, backoff(r.Attempt)); err != nil {
				return barriers.Reply{Status: barriers.Canceled, Err: err}
			}
			return barriers.Reply{Status: barriers.OK}
		}
		return j.rt.cfg.Broker.Do(ctx, j.id, r)
	}
	rec, err := barriers.ReadHead(ask, string(j.id.Tenant), j.id.Name)
	if err != nil {
		return false, nil, err
	}
	if rec == nil {
		return true, &barriers.HeadRecord{}, nil // Acquire refuses when somebody else has started the job meanwhile
	}
	if rec.Head.State == barriers.StateReleased {
		return true, rec, nil
	}
	if rec.Head.Worker == j.rt.cfg.Worker {
		return j.mayTakeBack(rec, watch), rec, nil
	}
	if rec.Head.State == barriers.StateDeleted || rec.Head.State == barriers.StateStopped {
		return true, rec, nil
	}
	beat, err := j.rt.cfg.Broker.LastHeartbeat(ctx, heartbeatID(rec.Head.Worker, rec.Head.Owner))
	if err != nil {
		return false, nil, err
	}
	if watch.gone(rec.Head.Owner, beat, time.Now(), j.rt.cfg.TakeoverAfter) {
		j.log.Warn("the owner's heartbeat stands still: taking the job over", "owner", rec.Head.Worker)
		return true, rec, nil
	}
	j.standbyOf(rec.Head.Worker)
	return false, nil, nil
}

// mayTakeBack says whether to take a job whose owner has this worker's ID: an earlier attempt of this process, or a dead process
// before it. When it was taken from this very process, another one lives under the same ID, and the heartbeat that both write tells
// nothing: then the head must stand still for longer than a checkpoint may take, lest they take it from each other for ever.
func (j *Job) mayTakeBack(rec *barriers.HeadRecord, watch *takeoverWatch) bool {
	if !j.tried {
		j.heir = rec.Head.Owner // also when the first attempts end before they take the job
	}
	if rec.Head.Owner == j.heir || strings.HasPrefix(rec.Head.Owner, j.rt.process) {
		return true
	}
	after := max(j.rt.cfg.TakeoverAfter, 3*j.cfg.Checkpoint.Interval+j.cfg.Checkpoint.Timeout)
	if watch.gone(rec.Head.Owner, rec.Seq, time.Now(), after) {
		return true
	}
	j.log.Error("another process runs as this worker: give each its own RuntimeConfig.Worker", "owner", rec.Head.Worker)
	j.standbyOf(rec.Head.Worker)
	return false
}

// takeoverWatch measures how long an owner's heartbeat has stood still.
type takeoverWatch struct {
	owner string
	beat  uint64
	since time.Time
}

func (w *takeoverWatch) gone(owner string, beat uint64, now time.Time, after time.Duration) bool {
	if w.since.IsZero() || owner != w.owner || beat != w.beat {
		w.owner, w.beat, w.since = owner, beat, now
		return false
	}
	return now.Sub(w.since) >= after
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

func (j *Job) setState(s JobState, err error) {
	j.mu.Lock()
	j.status.State, j.status.Err, j.status.Retry, j.status.Owner = s, err, time.Time{}, ""
	epoch := j.status.Epoch
	j.mu.Unlock()
	if s != JobStarting && j.rt.cfg.Listener.Job != nil {
		j.rt.cfg.Listener.Job(JobEvent{Job: j.id, State: s, Epoch: epoch, Err: err, At: time.Now()})
	}
}

func (j *Job) standbyOf(worker string) {
	j.mu.Lock()
	changed := j.status.State != JobStandby || j.status.Owner != worker
	j.status.State, j.status.Owner = JobStandby, worker
	j.mu.Unlock()
	if changed && j.rt.cfg.Listener.Job != nil {
		err := fmt.Errorf("worker %s owns the job", worker)
		j.rt.cfg.Listener.Job(JobEvent{Job: j.id, State: JobStandby, Err: err, At: time.Now()})
	}
}

func (j *Job) setRetry(err error, restarts int, at time.Time) {
	j.mu.Lock()
	j.status.State, j.status.Err, j.status.Restarts, j.status.Retry = JobRestarting, err, restarts, at
	epoch := j.status.Epoch
	j.mu.Unlock()
	if j.rt.cfg.Listener.Job != nil {
		j.rt.cfg.Listener.Job(JobEvent{Job: j.id, State: JobRestarting, Epoch: epoch, Err: err, At: time.Now(), Retry: at})
	}
}

// onJobEvent hears from the attempt's control loop.
func (j *Job) onJobEvent(ev JobEvent) {
	j.mu.Lock()
	j.status.State, j.status.Epoch, j.status.Err, j.status.Parallelism = ev.State, ev.Epoch, ev.Err, j.cfg.Parallelism
	j.mu.Unlock()
	if j.rt.cfg.Listener.Job != nil {
		j.rt.cfg.Listener.Job(ev)
	}
}

// newNonce tells one attempt from every other, also of the same worker.
func newNonce() string { return strings.ToLower(crand.Text()) }
