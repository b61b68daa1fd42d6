package processor

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/tenants"
)

var _ Control = (*Runtime)(nil)

// unavailable says that the broker did not do what a request needs, or that the request's time is over.
func unavailable(err error) error {
	var known *ControlError
	var elsewhere *NotOwnerError
	switch {
	case err == nil, errors.As(err, &known), errors.As(err, &elsewhere):
		return err
	case errors.Is(err, ErrInvalidIntent):
		return &ControlError{ReasonIncompatible, err.Error() + ": remove or repair it with nats kv, or upgrade this worker", err}
	case isCanceled(err):
		return &ControlError{ReasonUnavailable, "the request's time was over before it was carried out; what was begun goes on: look at the job's status", err}
	}
	return &ControlError{ReasonUnavailable, err.Error(), err}
}

// subject is all that is known of a job that a request is about.
type subject struct {
	id       tenants.JobID
	job      *Job // nil: not hosted here
	intent   *Intent
	revision uint64
	broken   error                // why the intent cannot be read
	head     *barriers.HeadRecord // nil: it never ran
}

// look reads what the broker has of a job, as a request needs it that will change it.
func (r *Runtime) look(ctx context.Context, id tenants.JobID) (subject, error) {
	s, err := r.lookLoosely(ctx, id)
	if err == nil && s.broken != nil {
		err = unavailable(s.broken)
	}
	return s, err
}

// lookLoosely reads what the broker has of a job: it is current. An intent that cannot be read is no error.
func (r *Runtime) lookLoosely(ctx context.Context, id tenants.JobID) (subject, error) {
	s := subject{id: id}
	if err := id.Validate(); err != nil {
		return s, refuse(ReasonBadRequest, "%w", err)
	}
	_, s.job = r.known(id)
	var err error
	if s.intent, s.revision, err = r.cfg.Broker.ReadIntent(ctx, id); errors.Is(err, ErrInvalidIntent) {
		s.broken = err
	} else if err != nil {
		return s, unavailable(err)
	}
	if s.head, err = barriers.ReadHead(askOf(ctx, r.cfg.Broker, id), string(id.Tenant), id.Name); err != nil {
		return s, unavailable(err)
	}
	return s, nil
}

// lookKnown is look for a job that must exist.
func (r *Runtime) lookKnown(ctx context.Context, id tenants.JobID) (subject, error) {
	s, err := r.look(ctx, id)
	if err == nil && !s.exists() {
		err = r.unknown(id)
	}
	return s, err
}

func (s *subject) exists() bool {
	return s.intent != nil || s.broken != nil || s.head != nil || s.job != nil
}

func (r *Runtime) unknown(id tenants.JobID) error {
	for _, t := range r.tenantsKnown() {
		if t == id.Tenant {
			return refuse(ReasonUnknownJob, "tenant %s has no job %s: weir jobs %s lists those it has", id.Tenant, id.Name, id.Tenant)
		}
	}
	return refuse(ReasonUnknownTenant, "nothing is known of tenant %s: it has no jobs", id.Tenant)
}

// owned reports whether the head names an attempt that has the job: it runs, or ended without letting go.
func (s *subject) owned() bool {
	if s.head == nil {
		return false
	}
	st := s.head.Head.State
	return st == barriers.StateRunning || st == barriers.StateStopping
}

// elsewhere returns a *NotOwnerError if another process owns the job.
func (r *Runtime) elsewhere(s *subject) error {
	if !s.owned() || s.process() == r.process {
		return nil
	}
	return &NotOwnerError{Job: s.id, Worker: s.head.Head.Worker, Process: s.process()}
}

// process is the process whose attempt the head names.
func (s *subject) process() string {
	owner := s.head.Head.Owner
	return owner[:min(len(owner), processLen)]
}

// running returns a job that runs here, or why a request that needs a running job cannot be carried out.
func (r *Runtime) running(ctx context.Context, id tenants.JobID) (*Job, error) {
	if err := id.Validate(); err != nil {
		return nil, refuse(ReasonBadRequest, "%w", err)
	}
	if _, j := r.known(id); j != nil {
		if attempt, _ := j.running(); attempt != nil {
			return j, nil
		}
	}
	s, err := r.lookKnown(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := r.elsewhere(&s); err != nil {
		return nil, err
	}
	return nil, s.notRunning()
}

// notRunning says why a job does not run here, and what would help.
func (s *subject) notRunning() error {
	switch {
	case s.intent != nil && s.intent.Desired == DesiredDeleted:
		return refuse(ReasonNotRunning, "job %s was deleted: start it fresh or from a savepoint", s.id)
	case s.intent != nil && s.intent.Desired == DesiredStopped:
		return refuse(ReasonNotRunning, "job %s is stopped: start it first", s.id)
	}
	if s.job != nil {
		switch st := s.job.Status(); st.State {
		case JobParked, JobFailed:
			return refuse(ReasonNotRunning, "job %s is %s: %v. Mend the cause and start it", s.id, st.State, st.Err)
		case JobStarting, JobRestarting:
			return refuse(ReasonNotRunning, "job %s is %s: ask again in a moment", s.id, st.State)
		}
	}
	switch {
	case s.head == nil:
		return refuse(ReasonNoOwner, "job %s has never run: no worker that has topology %s has taken it yet", s.id, s.topology())
	case s.head.Head.State == barriers.StateReleased:
		return refuse(ReasonNoOwner, "job %s is between two workers: the last one let go of it. Ask again in a moment", s.id)
	}
	return refuse(ReasonNoOwner, "nobody runs job %s now: no live worker that has topology %s has taken it over yet", s.id, s.topology())
}

func (s *subject) topology() string {
	switch {
	case s.intent != nil:
		return s.intent.Topology
	case s.job != nil:
		t, _, _ := s.job.setup()
		return t.Name()
	}
	return "(unknown)"
}

// program returns the topology of a job and what it would run with under in, which may be new; for a job that is not hosted here, what
// hosting it would start from.
func (r *Runtime) program(s *subject, in *Intent) (*Topology, JobConfig, error) {
	if s.job != nil {
		if t, cfg := s.job.effective(in); in == nil || t.Name() == in.Topology {
			return t, cfg, nil
		}
		return nil, JobConfig{}, refuse(ReasonBadRequest, "job %s is deployed with another topology than %s: leave the topology out", s.id, in.Topology)
	}
	if in == nil {
		return nil, JobConfig{}, r.unknown(s.id)
	}
	r.mu.Lock()
	t := r.topologyOf(in)
	r.mu.Unlock()
	if t == nil {
		return nil, JobConfig{}, refuse(ReasonNotFound, "worker %s has no topology %q for job %s: it has %s", r.cfg.Worker, tenants.Printable(in.Topology), s.id, r.topologyNames())
	}
	return t, effectiveConfig(r.baseConfig(t, s.id), in), nil
}

func (r *Runtime) topologyNames() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.topologies) == 0 {
		return "none"
	}
	return strings.Join(sortedKeys(r.topologies), ", ")
}

// ended reports whether a job has come to its end on this worker.
func (j *Job) ended() bool {
	select {
	case <-j.done:
		return true
	default:
		return false
	}
}

// await waits until the job's status fulfils the condition, which may end the waiting with an error too.
func (j *Job) await(ctx context.Context, until func(JobStatus, IntentRecord, uint64) (bool, error)) error {
	for {
		moved, turned := j.moved.heard(), j.intents.heard()
		j.mu.Lock()
		st, rec, applied := j.status, j.intent, j.applied
		j.mu.Unlock()
		if ok, err := until(st, rec, applied); ok || err != nil {
			return err
		}
		if j.ended() {
			return refuse(ReasonUnavailable, "worker %s ends: ask again", j.rt.cfg.Worker)
		}
		select {
		case <-moved:
		case <-turned:
		case <-j.done:
		case <-ctx.Done():
			return unavailable(ctx.Err())
		}
	}
}

// turned says that a request is void because somebody changed the job behind it.
func turned(id tenants.JobID) error {
	return refuse(ReasonConflict, "job %s was changed by another request meanwhile: look at its status", id)
}

func failed(st JobStatus) error {
	return &ControlError{ReasonFailed, fmt.Sprintf("job %s is %s: %v", st.ID, st.State, st.Err), st.Err}
}
