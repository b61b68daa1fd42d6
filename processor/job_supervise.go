package processor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/weirstream/weir/barriers"
)

// run supervises the job until ctx ends or the job is drained: it makes true what the intent says, over and over. It returns when
// everything of the job has ended.
//
// What it keeps: an attempt runs only for an intent that asks for it, and is ended when the intent no longer does; a stopped job is
// brought to its end once, by whichever worker may take it; a deletion goes on until the intent says that it is complete. A crash at
// any place leaves head and intent such that the next worker goes on from there.
func (j *Job) run(ctx context.Context) {
	defer close(j.done)
	policy := newRestartPolicy(j.Config().Restart, rand.Float64)
	var last basis
	for ctx.Err() == nil && !j.isStopped() {
		b, err := j.awaitIntent(ctx)
		if err != nil {
			break
		}
		if b != last {
			// Somebody changed something: what failed before may work now.
			last, policy = b, newRestartPolicy(j.Config().Restart, rand.Float64)
		}
		switch b.desired {
		case DesiredRunning:
			err = j.runOnce(ctx, b, policy)
		case DesiredStopped:
			err = j.finishOnce(ctx, b, policy)
		case DesiredDeleted:
			err = j.deleteOnce(ctx, b, policy)
		}
		if errors.Is(err, errDrained) {
			break
		}
		if errors.Is(err, errRetired) {
			return
		}
	}
	j.setState(JobStopped, nil)
}

// runOnce makes one attempt of a job that should run, from standing by to what follows its end.
func (j *Job) runOnce(ctx context.Context, b basis, policy *restartPolicy) error {
	if err := j.configure(b); err != nil {
		return j.afterFailure(ctx, b, policy, err)
	}
	policy.cfg = j.Config().Restart
	observed, err := j.standBy(ctx, b)
	if err != nil {
		return err
	}
	before := j.progress.count()
	err = j.attempt(ctx, b, observed, nil, false)
	if ctx.Err() != nil || errors.Is(err, errDrained) {
		return errDrained
	}
	if j.progress.count() > before {
		policy.reset()
	}
	return j.afterFailure(ctx, b, policy, err)
}

// finishOnce brings a job that should be stopped to its end: everything committed is released, and the head says stopped. A savepoint
// or a drain that the stop promised, and its worker did not live to make, is made first: the job runs for that once more.
func (j *Job) finishOnce(ctx context.Context, b basis, policy *restartPolicy) error {
	// A request that does not get its stop puts the intent back before it lets go of the job.
	if err := j.occupy(ctx); err != nil {
		return err
	}
	j.vacate()
	j.begin()
	observed, err := j.standBy(ctx, b)
	if err != nil {
		return err
	}
	if observed.Seq == 0 || observed.Head.State == barriers.StateStopped || observed.Head.State == barriers.StateDeleted {
		j.progress.started(observed.Head)
		j.update(func(s *JobStatus) { s.Epoch = observed.Head.Epoch })
		j.setState(JobStopped, nil)
		j.update(func(*JobStatus) { j.resting = true })
		j.awaitTurn(ctx, b)
		return nil
	}
	if err := j.configure(b); err != nil {
		return j.afterFailure(ctx, b, policy, err)
	}
	owed, err := j.owedStop(ctx, observed)
	if err == nil {
		err = j.attempt(ctx, b, observed, owed, owed == nil)
	}
	if ctx.Err() != nil || errors.Is(err, errDrained) {
		return errDrained
	}
	return j.afterFailure(ctx, b, policy, err)
}

// startPatience is how long a start may keep its place among those that RuntimeConfig.MaxStarting bounds.
const startPatience = 10 * time.Second

// attempt runs one attempt to its end. finish: only to release what is owed and to stop. owed: a stop that is to be made of it; nil: none.
func (j *Job) attempt(ctx context.Context, b basis, observed *barriers.HeadRecord, owed *StopRequest, finish bool) error {
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
	t, cfg, needs := j.setup()
	listen := j.rt.cfg.Listener
	listen.Job = func(ev JobEvent) {
		leave()
		j.onJobEvent(ev)
	}
	build := func(d driver) *attempt {
		return &attempt{
			job: j.id, topo: t, cfg: cfg, needs: needs, worker: j.rt.cfg.Worker, nonce: j.rt.process + newNonce()[:processLen],
			drv: d, log: j.log, ctx: ctx, progress: &j.progress, history: &j.history, observed: observed, finish: finish, listen: listen,
		}
	}
	defer func() {
		j.mu.Lock()
		j.runner = nil
		j.mu.Unlock()
		j.moved.ring()
	}()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var minding sync.WaitGroup
	err := runAttempt(ctx, j.rt.cfg.Broker, build, func(a *attempt, r *runner) {
		a.ctx = r.ctx
		j.mu.Lock()
		j.runner = r
		draining := j.isStopped()
		j.mu.Unlock()
		if draining {
			r.post(ctlDrain{})
		}
		if owed != nil {
			minding.Go(func() { j.carryStop(ctx, b, r, *owed) })
		}
		minding.Go(func() { j.mind(ctx, cancel, b, r) })
	})
	cause := context.Cause(ctx)
	cancel(nil)
	minding.Wait()
	if errors.Is(cause, errRestarted) {
		return errRestarted
	}
	return err
}

// mind ends a running attempt when it is no longer what the job is to do. Whoever wrote the intent may be carrying it out: he goes first.
func (j *Job) mind(ctx context.Context, cancel context.CancelCauseFunc, b basis, r *runner) {
	for n := 1; ctx.Err() == nil; n++ {
		changed := j.intents.heard()
		if j.basis() == b {
			select {
			case <-changed:
			case <-r.ended:
				return
			case <-ctx.Done():
				return
			}
			n = 0
			continue
		}
		select {
		case j.op <- struct{}{}:
		case <-r.ended:
			return
		case <-ctx.Done():
			return
		}
		var err error
		if now := j.basis(); now != b {
			err = j.turn(ctx, cancel, now, r)
		}
		j.vacate()
		select {
		case <-r.ended:
			return
		default:
		}
		if err != nil {
			j.log.Warn("ending the attempt for what the job is to do now", "err", err)
			_ = (blocking{}).Sleep(ctx, backoff(n)) // the loop looks at ctx
		}
	}
}

// turn ends the attempt r in favour of what the job is to do now.
func (j *Job) turn(ctx context.Context, cancel context.CancelCauseFunc, now basis, r *runner) error {
	if _, state := j.running(); state != JobRunning {
		cancel(errRestarted) // nothing is processed yet
		<-r.ended
		return nil
	}
	_, cfg, _ := j.setup()
	limited, done := context.WithTimeout(ctx, 2*cfg.Checkpoint.Timeout)
	defer done()
	switch now.desired {
	case DesiredStopped:
		_, err := j.stopRun(limited, j.stopRequest())
		return err
	case DesiredDeleted:
		// Its committed output is published if that can be had; a job that is broken is deleted all the same.
		if _, err := j.stopRun(limited, StopRequest{Mode: StopNow}); err != nil && ctx.Err() == nil {
			j.log.Warn("stopping a job that is deleted", "err", err)
		}
	default:
		r.post(ctlDrain{keep: true, pin: j.startingCheckpoint()})
	}
	select {
	case <-r.ended:
	case <-limited.Done():
		// No last checkpoint could be had: ending without one is as safe as a crash.
		cancel(errRestarted)
		<-r.ended
	}
	return nil
}

// startingCheckpoint is the checkpoint of its own that the job is to start from, which the last one must not push out; 0: none.
func (j *Job) startingCheckpoint() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	if p := effectiveConfig(j.base, j.intent.Intent).Start; p.From == FromCheckpoint && !p.foreign(j.id) {
		return p.Checkpoint
	}
	return 0
}

func (j *Job) stopRequest() StopRequest {
	j.mu.Lock()
	defer j.mu.Unlock()
	if in := j.intent.Intent; in != nil && in.Stop != nil {
		return *in.Stop
	}
	return StopRequest{}
}

// afterFailure decides what follows an attempt that ended with err, and waits for it.
func (j *Job) afterFailure(ctx context.Context, b basis, policy *restartPolicy, err error) error {
	switch {
	case errors.Is(err, errStopped), errors.Is(err, errRestarted), errors.Is(err, errTurned):
		return nil
	case ClassOf(err) == ClassFenced:
		j.log.Warn("another worker took the job over", "err", err)
		j.setState(JobStandby, err)
		return nil
	case ClassOf(err) == ClassTerminal:
		j.log.Error("job failed: a restart cannot mend this", "err", err)
		j.setState(JobFailed, err)
		j.awaitTurn(ctx, b)
		return nil
	}
	var wait time.Duration
	if n := j.progress.lingering.Load(); n >= maxLingering {
		err = fmt.Errorf("parked since user code keeps goroutines of %d ended attempts, each with its state (at most %d): %w", n, maxLingering, err)
		j.park(ctx, b, err)
		return nil
	}
	if errors.Is(err, ErrUnavailable) {
		wait = policy.unavailable() // the broker is away: that is not the job's fault and never parks it
	} else {
		var again bool
		if wait, again = policy.next(); !again {
			err = fmt.Errorf("parked after %d restarts without a completed checkpoint between them: %w", policy.cfg.Attempts, err)
			j.park(ctx, b, err)
			return nil
		}
	}
	j.log.Warn("job restarts", "err", err, "wait", wait)
	j.setRetry(err, policy.count, time.Now().Add(wait))
	changed := j.intents.heard()
	if j.basis() == b {
		j.wait(ctx, wait, changed)
	}
	return nil
}

// park leaves the job alone until it is to do something else.
func (j *Job) park(ctx context.Context, b basis, err error) {
	j.log.Error("job parked", "err", err)
	j.setState(JobParked, err)
	j.awaitTurn(ctx, b)
}

// awaitTurn blocks until the job is to do something else than b, or to end.
func (j *Job) awaitTurn(ctx context.Context, b basis) {
	for ctx.Err() == nil && !j.isStopped() {
		changed := j.intents.heard()
		if j.basis() != b {
			return
		}
		j.wait(ctx, 0, changed)
	}
}

// occupy takes the job for carrying something out, vacate lets go of it.
func (j *Job) occupy(ctx context.Context) error {
	select {
	case j.op <- struct{}{}:
		return nil
	case <-j.stop:
		return errDrained
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (j *Job) vacate() { <-j.op }
