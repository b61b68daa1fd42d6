package processor

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/tenants"
)

// answer is what an attempt says to a request.
type answer[T any] struct {
	value T
	err   error
}

// request posts a request to the running attempt and waits for its answer. The answer is given once, from the control loop.
func request[T any](ctx context.Context, j *Job, make func(done func(T, error)) ctlEvent) (T, error) {
	var none T
	r, at := j.running()
	if r == nil {
		return none, refuse(ReasonNotRunning, "job %s does not run on this worker: it is %s", j.id, at)
	}
	got := newAnswer[T]()
	r.post(make(got.give))
	select {
	case a := <-got:
		return a.value, a.err
	case <-r.ended:
		select {
		case a := <-got: // the answer may have been the end
			return a.value, a.err
		default:
			return none, refuse(ReasonFailed, "job %s: the attempt ended before it could answer", j.id)
		}
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

type answers[T any] chan answer[T]

func newAnswer[T any]() answers[T] { return make(answers[T], 1) }

func (c answers[T]) give(v T, err error) {
	select {
	case c <- answer[T]{v, err}:
	default:
	}
}

// savepoint takes a savepoint of the running job. When ctx ends first the savepoint goes on; the same request finds it.
func (j *Job) savepoint(ctx context.Context, req SavepointRequest) (SavepointReport, error) {
	if req.Request == "" {
		req.Request = newNonce() // nobody can mean this one again: a name that exists is refused
	}
	if err := req.validate(); err != nil {
		return SavepointReport{}, refuse(ReasonBadRequest, "savepoint of job %s: %w", j.id, err)
	}
	switch m, err := barriers.ReadSavepoint(j.ask(ctx), string(j.id.Tenant), j.id.Name, req.Name); {
	case err == nil && m.Request == req.Request:
		if req.Hold != "" {
			err = j.resume(ctx, req.Hold)
		}
		return savepointReport(m), err
	case err == nil:
		return SavepointReport{}, refuse(ReasonConflict, "savepoint %s of job %s exists: choose another name or delete it", req.Name, j.id)
	case !errors.As(err, new(*barriers.NoSavepointError)):
		return SavepointReport{}, err
	}
	return request(ctx, j, func(done func(SavepointReport, error)) ctlEvent { return ctlSavepoint{req, done} })
}

func (req SavepointRequest) validate() error {
	if err := tenants.ValidateName("savepoint", req.Name); err != nil {
		return err
	}
	switch {
	case len(req.Request) > maxRequest:
		return fmt.Errorf("the request's ID has %d bytes, at most %d are allowed", len(req.Request), maxRequest)
	case req.Hold == "" && len(req.Cut) > 0:
		return errors.New("a cut needs the hold that it ends")
	}
	return nil
}

// stopRun ends the running attempt as req says. It returns when the head says stopped, or with Published false when ctx ends first:
// the stop then goes on. An error says that the job was not stopped: it runs on, or the attempt ended otherwise.
func (j *Job) stopRun(ctx context.Context, req StopRequest) (StopReport, error) {
	if err := req.validate(); err != nil {
		return StopReport{}, refuse(ReasonBadRequest, "stopping job %s: %w", j.id, err)
	}
	if req.Savepoint != "" {
		switch m, err := barriers.ReadSavepoint(j.ask(ctx), string(j.id.Tenant), j.id.Name, req.Savepoint); {
		case err == nil && (req.Request == "" || m.Request != req.Request):
			// The name alone does not make it this stop's: the job may have run on since.
			return StopReport{}, refuse(ReasonConflict, "savepoint %s of job %s exists: choose another name or delete it", req.Savepoint, j.id)
		case err == nil:
			// An earlier try of this request made it and did not get to its end. Nothing was read on since but what is read again.
		case !errors.As(err, new(*barriers.NoSavepointError)):
			return StopReport{}, err
		}
	}
	report, err := request(ctx, j, func(done func(StopReport, error)) ctlEvent { return ctlStop{req, done} })
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return StopReport{
			Checkpoint: j.progress.lastCheckpoint(),
			Detail:     "the last checkpoint or its output is not complete yet; the stop goes on",
		}, nil
	}
	return report, err
}

// hold stops the job's sources where they are and returns their positions. It ends with a savepoint that names it, with resume, or
// after timeout, at most a minute.
func (j *Job) hold(ctx context.Context, id string, timeout time.Duration) (map[string]Position, error) {
	if id == "" || len(id) > maxRequest {
		return nil, refuse(ReasonBadRequest, "holding job %s: the hold's ID must have 1 to %d bytes", j.id, maxRequest)
	}
	return request(ctx, j, func(done func(map[string]Position, error)) ctlEvent { return ctlHold{id, timeout, done} })
}

// resume ends a hold. One that has ended already is no error.
func (j *Job) resume(ctx context.Context, id string) error {
	_, err := request(ctx, j, func(done func(struct{}, error)) ctlEvent {
		return ctlResume{id, func(err error) { done(struct{}{}, err) }}
	})
	return err
}

// readLive reads one key's state in the running task, between two of its events.
func (j *Job) readLive(ctx context.Context, req StateRequest) (StateReport, error) {
	if req.Key == nil {
		return StateReport{}, refuse(ReasonBadRequest, "reading the live state of job %s: no key is named", j.id)
	}
	key := *req.Key
	return request(ctx, j, func(done func(StateReport, error)) ctlEvent {
		return ctlRead{operator: req.Operator, key: key, read: func(b *state.Backend, err error) {
			rep := StateReport{Operator: req.Operator, State: req.State, Key: key}
			if err == nil {
				rep.Value, rep.Found, err = readJSON(b, req.State, key)
			}
			var missing *state.NoSuchStateError
			if errors.As(err, &missing) {
				err = &ControlError{Reason: ReasonNotFound, Message: fmt.Sprintf("job %s: %v", j.id, err), Err: err}
			}
			done(rep, err)
		}}
	})
}

// readJSON reads with user code, the value's MarshalJSON: its panic is the reader's, not the job's.
func readJSON(b *state.Backend, name, key string) (value []byte, found bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic while writing state %q as JSON: %v\n%s", name, p, debug.Stack())
		}
	}()
	return b.JSON(name, key)
}

// onRead sends a read to the task that owns the key.
func (a *attempt) onRead(ev ctlRead) {
	if a.plan == nil {
		ev.read(nil, refuse(ReasonNotRunning, "job %s is starting: try again when it runs", a.job))
		return
	}
	groups := a.plan.cfg.KeyGroups
	group := state.KeyGroup(ev.key, groups)
	for i, t := range a.plan.tasks {
		for _, o := range t.stateful() {
			if o.operator == ev.operator && o.subtask == state.SubtaskOf(group, o.of, groups) {
				a.drv.tell(i, evRead{operator: ev.operator, read: ev.read})
				return
			}
		}
	}
	ev.read(nil, refuse(ReasonNotFound, "job %s has no operator %q with state", a.job, ev.operator))
}

// checkpoints returns the job's last checkpoints in this process, failed ones too, newest first.
func (j *Job) checkpoints() []CheckpointReport { return j.history.newestFirst() }

// sources returns where the running tasks' sources are, as of their last events; nothing between attempts.
func (j *Job) sources() map[string]SourceReport {
	r, _ := j.running()
	if r == nil {
		return nil
	}
	p := r.live.Load()
	if p == nil {
		return nil
	}
	out := map[string]SourceReport{}
	for _, t := range p.tasks {
		for _, in := range t.inputs {
			if s := in.source; s != nil {
				out[s.ref.name] = SourceReport{
					Stream: s.ref.stream, Filter: s.filterTo, Position: s.shown.position.Load(), Pending: s.shown.pending.Load(),
					Watermark: fromNanos(s.shown.watermark.Load()), Idle: s.shown.idle.Load(),
				}
			}
		}
	}
	return out
}
