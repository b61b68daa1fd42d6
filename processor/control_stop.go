package processor

import (
	"context"
	"errors"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/tenants"
)

// Stop implements Control.
//
// The intent is written first: a crash from then on leaves a job that the next worker brings to its end, in the way that was asked for
// (job_stop.go). A stop that promised more than an end, a savepoint or a drain, and could not keep it, puts the intent back, and the job
// runs on.
func (r *Runtime) Stop(ctx context.Context, id tenants.JobID, req StopRequest) (StopReport, error) {
	if err := req.validate(); err != nil {
		return StopReport{}, refuse(ReasonBadRequest, "stopping job %s: %w", id, err)
	}
	s, err := r.lookKnown(ctx, id)
	if err != nil {
		return StopReport{}, err
	}
	if err := r.elsewhere(&s); err != nil {
		return StopReport{}, err
	}
	switch {
	case s.intent != nil && s.intent.Desired == DesiredDeleted:
		return StopReport{}, refuse(ReasonNotRunning, "job %s was deleted", id)
	case s.intent != nil && s.intent.Desired == DesiredStopped && !s.owned():
		rep, err := r.stoppedBefore(ctx, &s, req)
		if err == nil && req.Savepoint != "" {
			rep.Savepoint, err = r.savedAtStop(ctx, &s, req.Savepoint, rep.Checkpoint)
		}
		return rep, err
	case s.job == nil:
		return StopReport{}, s.notRunning()
	}
	j := s.job
	attempt, _ := j.running()
	if attempt == nil && req.promises() {
		return StopReport{}, s.notRunning()
	}
	if err := j.occupy(ctx); err != nil {
		return StopReport{}, unavailable(err)
	}
	rep, rev, err := r.stopNow(ctx, &s, req)
	j.vacate()
	if err != nil {
		return StopReport{}, err
	}
	ended, err := j.awaitStopped(ctx, rev)
	if rep != nil {
		return *rep, nil // it is stopped, also if this worker has not noted it yet
	}
	return ended, err
}

func (req StopRequest) validate() error {
	switch req.Mode {
	case "", StopNow, StopSavepoint, StopDrain:
	default:
		return errors.New(`mode is none of "now", "savepoint" and "drain": leave it empty for a last checkpoint`)
	}
	if req.Mode == StopNow && req.Savepoint != "" {
		return errors.New(`mode "now" takes no savepoint: use "savepoint"`)
	}
	if req.Mode == StopSavepoint && req.Savepoint == "" {
		return errors.New("the savepoint has no name")
	}
	if req.Savepoint != "" {
		return tenants.ValidateName("savepoint", req.Savepoint)
	}
	return nil
}

// promises reports whether the stop is to do more than to end the job.
func (req StopRequest) promises() bool {
	return req.Savepoint != "" || req.Mode == StopSavepoint || req.Mode == StopDrain
}

// stopNow writes the intent and ends the attempt that runs. Without a report and an error the supervisor does what is left.
func (r *Runtime) stopNow(ctx context.Context, s *subject, req StopRequest) (*StopReport, uint64, error) {
	before := s.intended()
	in := *before
	in.Desired, in.Stop = DesiredStopped, &req
	rev, err := r.changeIntent(ctx, &in, s.revision)
	if err != nil {
		return nil, 0, err
	}
	if attempt, _ := s.job.running(); attempt == nil {
		if !req.promises() {
			return nil, rev, nil
		}
		err = s.notRunning()
	} else {
		var rep StopReport
		if rep, err = s.job.stopRun(ctx, req); err == nil {
			return &rep, rev, nil
		}
		if ctx.Err() != nil {
			return nil, 0, unavailable(ctx.Err()) // it goes on
		}
		if !req.promises() {
			s.job.log.Warn("stopping", "err", err)
			return nil, rev, nil
		}
	}
	back := *before
	if _, werr := r.changeIntent(ctx, &back, rev); werr != nil {
		err = errors.Join(err, werr)
	}
	var known *ControlError
	if !errors.As(err, &known) {
		err = &ControlError{ReasonFailed, "job " + s.id.String() + " was not stopped and runs on: " + err.Error(), err}
	}
	return nil, 0, err
}

// intended returns the job's intent, or the one that a job without has.
func (s *subject) intended() *Intent {
	if s.intent != nil {
		return s.intent
	}
	return &Intent{Tenant: string(s.id.Tenant), Job: s.id.Name, Topology: s.topology(), Desired: DesiredRunning}
}

// awaitStopped waits until the supervisor has brought the job to its end.
func (j *Job) awaitStopped(ctx context.Context, rev uint64) (StopReport, error) {
	err := j.await(ctx, func(st JobStatus, rec IntentRecord, applied uint64) (bool, error) {
		switch {
		case rec.Revision > rev && (rec.Intent == nil || rec.Intent.Desired != DesiredStopped):
			return false, turned(j.id)
		case rec.Revision >= rev && j.atRest():
			return true, nil
		case (st.State == JobFailed || st.State == JobParked) && applied >= rev:
			return false, failed(st)
		}
		return false, nil
	})
	if err != nil {
		return StopReport{}, err
	}
	return StopReport{Checkpoint: j.Status().Checkpoint, Published: true}, nil
}

// atRest reports whether the job was seen to be stopped, as its intent asks.
func (j *Job) atRest() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.resting && j.basisLocked().desired == DesiredStopped
}

// stoppedBefore answers for a job that is stopped already, or is being brought to its end. Who asks for less than was promised gets it.
func (r *Runtime) stoppedBefore(ctx context.Context, s *subject, req StopRequest) (StopReport, error) {
	if s.head == nil || s.head.Head.State == barriers.StateStopped {
		rep := StopReport{Published: true, Detail: "it was stopped already"}
		if s.head != nil {
			rep.Checkpoint = s.head.Head.Checkpoint
		}
		return rep, nil
	}
	if s.job == nil {
		return StopReport{}, s.notRunning()
	}
	rev := s.revision
	if stop := s.intent.Stop; stop != nil && stop.promises() && !req.promises() {
		in := *s.intent
		in.Stop = &req
		in.Generation++
		var err error
		if rev, err = r.changeIntent(ctx, &in, rev); err != nil {
			return StopReport{}, err
		}
	}
	return s.job.awaitStopped(ctx, rev)
}

// savedAtStop returns the savepoint that a job which is stopped already was stopped with.
func (r *Runtime) savedAtStop(ctx context.Context, s *subject, name string, checkpoint uint64) (*SavepointReport, error) {
	m, err := barriers.ReadSavepoint(askOf(ctx, r.cfg.Broker, s.id), string(s.id.Tenant), s.id.Name, name)
	switch {
	case errors.As(err, new(*barriers.NoSavepointError)):
		return nil, refuse(ReasonFailed, "job %s is stopped, without savepoint %s: start it, and stop it again", s.id, name)
	case err != nil:
		return nil, unavailable(err)
	case m.Checkpoint != checkpoint:
		return nil, refuse(ReasonConflict, "job %s is stopped at checkpoint %d, and savepoint %s is of checkpoint %d: choose another name", s.id, checkpoint, name, m.Checkpoint)
	}
	rep := savepointReport(m)
	return &rep, nil
}

// Delete implements Control.
func (r *Runtime) Delete(ctx context.Context, id tenants.JobID, req DeleteRequest) error {
	if req.Confirm != id.Name {
		return refuse(ReasonBadRequest, "deleting job %s: confirm is %q: repeat the job's name, %q", id, tenants.Printable(req.Confirm), id.Name)
	}
	s, err := r.lookKnown(ctx, id)
	if err != nil {
		return err
	}
	if err := r.elsewhere(&s); err != nil {
		return err
	}
	rev := s.revision
	if before := s.intended(); before.Desired != DesiredDeleted || req.Savepoints && !before.DropSavepoints {
		in := *before
		in.Desired, in.Stop, in.Start, in.Cleaned, in.DropSavepoints = DesiredDeleted, nil, nil, false, req.Savepoints
		if s.job == nil {
			if _, _, err := r.program(&s, &in); err != nil {
				return err
			}
		}
		if rev, err = r.changeIntent(ctx, &in, s.revision); err != nil {
			return err
		}
	} else if before.Cleaned {
		return nil
	}
	_, j := r.known(id)
	if j == nil {
		return refuse(ReasonUnavailable, "job %s will be deleted by a worker that has its topology", id)
	}
	return j.awaitDeleted(ctx, rev)
}

func (j *Job) awaitDeleted(ctx context.Context, rev uint64) error {
	return j.await(ctx, func(st JobStatus, rec IntentRecord, applied uint64) (bool, error) {
		switch in := rec.Intent; {
		case in != nil && in.Desired == DesiredDeleted && in.Cleaned:
			return true, nil
		case rec.Revision > rev && (in == nil || in.Desired != DesiredDeleted):
			return false, turned(j.id)
		case (st.State == JobParked || st.State == JobFailed) && applied >= rev:
			return false, failed(st)
		}
		return false, nil
	})
}
