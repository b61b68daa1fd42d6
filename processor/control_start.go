package processor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/tenants"
)

// Start implements Control.
//
// Everything that can be known is checked before the intent is written: a start that cannot work leaves a running job and its intent
// as they are. Once the intent is written the job's supervisor ends the attempt that runs with a last checkpoint and starts the next
// one, here or on whichever worker may take the job.
func (r *Runtime) Start(ctx context.Context, id tenants.JobID, req StartRequest) (JobReport, error) {
	s, err := r.look(ctx, id)
	if err != nil {
		return JobReport{}, err
	}
	if !s.exists() && req.Topology == "" {
		return JobReport{}, r.unknown(id)
	}
	if err := r.elsewhere(&s); err != nil {
		return JobReport{}, err
	}
	if s.intent != nil && s.intent.Desired == DesiredRunning && req.Request != "" && s.intent.Start != nil && s.intent.Start.Request == req.Request {
		return r.awaitRunning(ctx, &s, s.revision) // asked for before
	}
	if s.runs() && req.From == FromLatest && req.Config == nil {
		return r.Status(ctx, id)
	}
	in, err := s.started(req)
	if err != nil {
		return JobReport{}, err
	}
	t, cfg, err := r.program(&s, in)
	if err != nil {
		return JobReport{}, err
	}
	if err := r.checkStart(ctx, t, id, cfg); err != nil {
		return JobReport{}, err
	}
	rev, err := r.writeStart(ctx, &s, in)
	if err != nil {
		return JobReport{}, err
	}
	rep, err := r.awaitRunning(ctx, &s, rev)
	if before := s.intended(); errors.As(err, new(*StartGoneError)) && before.Desired == DesiredRunning {
		// It was removed since it was checked, and nothing was changed: the job goes on as it did.
		back := *before
		back.Start, back.Generation = &StartPoint{Request: newNonce()}, in.Generation+1
		if _, werr := r.changeIntent(ctx, &back, rev); werr != nil {
			err = errors.Join(err, werr)
		}
	}
	return rep, err
}

// runs reports whether the job runs here as it should, so that nothing is to be done to start it.
func (s *subject) runs() bool {
	if s.job == nil || s.intent == nil || s.intent.Desired != DesiredRunning {
		return false
	}
	attempt, _ := s.job.running()
	return attempt != nil
}

// started returns the intent that a start request makes of the job's.
func (s *subject) started(req StartRequest) (*Intent, error) {
	in := *s.intended()
	if s.intent == nil && s.job == nil && s.head == nil {
		in.Topology = req.Topology
	}
	if req.Topology != "" && req.Topology != in.Topology {
		if s.job != nil || s.intent == nil || s.owned() {
			return nil, refuse(ReasonBadRequest, "job %s has topology %s: delete it, or stop it where no program deploys it, before it gets topology %q", s.id, in.Topology, tenants.Printable(req.Topology))
		}
		in.Topology = req.Topology
	}
	if in.Desired == DesiredDeleted || s.head != nil && s.head.Head.State == barriers.StateDeleted {
		switch {
		case s.intent != nil && in.Desired == DesiredDeleted && !in.Cleaned:
			return nil, refuse(ReasonConflict, "job %s is being deleted: start it when that is complete", s.id)
		case req.From == FromLatest || req.From == FromCheckpoint && (req.Job == "" || req.Job == s.id.Name):
			return nil, refuse(ReasonBadRequest, `job %s was deleted, and its checkpoints with it: start it with from "fresh" or "savepoint"`, s.id)
		}
	}
	switch p := req.StartPoint; {
	case p.From != FromLatest:
		if p.Request == "" {
			p.Request = newNonce() // asked for again it is another request
		}
		in.Start = &p
	case req.Config == nil || s.stuck():
		// Where the job ended, whatever the program or a start before that could not be applied says.
		in.Start = &StartPoint{Request: newNonce()}
	}
	in.Desired, in.Stop, in.Cleaned, in.DropSavepoints = DesiredRunning, nil, false, false
	in.Config = in.Config.merge(req.Config)
	if in.ForkOf != "" && (in.Config == nil || in.Config.Shadow == nil || *in.Config.Shadow == "") {
		return nil, refuse(ReasonBadRequest, "job %s is a fork of %s: without its shadow prefix it would publish where that one does", s.id, in.ForkOf)
	}
	in.Generation++
	return &in, nil
}

// stuck reports whether the job's last start failed here.
func (s *subject) stuck() bool {
	if s.job == nil {
		return false
	}
	st := s.job.Status().State
	return st == JobFailed || st == JobParked
}

// checkStart finds every reason why a start could not work, before anything is changed.
func (r *Runtime) checkStart(ctx context.Context, t *Topology, id tenants.JobID, cfg JobConfig) error {
	if _, err := prepareJob(t, id, cfg, r.cfg.Broker.Namespace()); err != nil {
		return refuse(ReasonBadRequest, "starting job %s: %w", id, err)
	}
	err := errors.Join(CheckStart(ctx, r.cfg.Broker, t, id, cfg)...)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrUnavailable), isCanceled(err):
		return unavailable(err)
	case errors.As(err, new(*StartGoneError)):
		return refuse(ReasonNotFound, "starting job %s: %w", id, err)
	}
	return refuse(ReasonIncompatible, "starting job %s: %w", id, err)
}

// writeStart writes the intent of a start. The job's supervisor carries it out.
func (r *Runtime) writeStart(ctx context.Context, s *subject, in *Intent) (uint64, error) {
	if s.job != nil {
		if err := s.job.occupy(ctx); err != nil {
			return 0, unavailable(err)
		}
		defer s.job.vacate()
	}
	return r.changeIntent(ctx, in, s.revision)
}

// awaitRunning waits until the job runs, here or elsewhere, with the intent of the given revision.
func (r *Runtime) awaitRunning(ctx context.Context, s *subject, rev uint64) (JobReport, error) {
	_, j := r.known(s.id)
	if j == nil {
		return JobReport{}, refuse(ReasonNoOwner, "job %s should run now, but not on worker %s, which has no place or no topology for it: any other worker that has may take it", s.id, r.cfg.Worker)
	}
	err := j.await(ctx, func(st JobStatus, rec IntentRecord, applied uint64) (bool, error) {
		switch {
		case rec.Revision > rev && rec.Intent != nil && rec.Intent.Desired != DesiredRunning:
			return false, turned(s.id)
		case applied < rev:
			return false, nil
		case st.State == JobRunning, st.State == JobStandby && st.Owner != "":
			return true, nil
		case st.State == JobFailed, st.State == JobParked:
			return false, failed(st)
		}
		return false, nil
	})
	if err != nil {
		return JobReport{}, err
	}
	rep, err := r.Status(ctx, s.id)
	if errors.As(err, new(*NotOwnerError)) {
		err = nil // another worker was faster: the report says which
	}
	return rep, err
}

// Fork implements Control. The original is only read.
func (r *Runtime) Fork(ctx context.Context, id tenants.JobID, req ForkRequest) (JobReport, error) {
	as := tenants.JobID{Tenant: id.Tenant, Name: req.As}
	if err := as.Validate(); err != nil {
		return JobReport{}, refuse(ReasonBadRequest, "forking job %s: %w", id, err)
	}
	if req.Checkpoint != 0 && req.Savepoint != "" {
		return JobReport{}, refuse(ReasonBadRequest, "forking job %s: name a checkpoint or a savepoint, not both", id)
	}
	from, err := r.lookKnown(ctx, id)
	if err != nil {
		return JobReport{}, err
	}
	s, err := r.look(ctx, as)
	if err != nil {
		return JobReport{}, err
	}
	if s.exists() {
		in := s.intent
		switch {
		case in != nil && in.Desired == DesiredRunning && in.ForkOf == id.Name && req.Request != "" && in.Start != nil && in.Start.Request == req.Request:
			return r.awaitRunning(ctx, &s, s.revision) // asked for before
		case in == nil || in.Desired != DesiredDeleted || !in.Cleaned || s.job != nil:
			return JobReport{}, refuse(ReasonConflict, "forking job %s: job %s exists: choose another name or delete it", id, as)
		}
	}
	in, err := r.forked(ctx, &from, &s, req)
	if err != nil {
		return JobReport{}, err
	}
	t, cfg, err := r.program(&s, in)
	if err != nil {
		return JobReport{}, err
	}
	if err := r.checkStart(ctx, t, as, cfg); err != nil {
		return JobReport{}, err
	}
	rev, err := r.writeStart(ctx, &s, in)
	if err != nil {
		return JobReport{}, err
	}
	rep, err := r.awaitRunning(ctx, &s, rev)
	if errors.As(err, new(*StartGoneError)) {
		// It was removed since it was checked: nothing of the fork is left behind.
		gone := *in
		gone.Desired, gone.Start = DesiredDeleted, nil
		if _, werr := r.changeIntent(ctx, &gone, rev); werr != nil {
			err = errors.Join(err, werr)
		}
	}
	return rep, err
}

// forked returns the intent of a fork: what the original runs with, from one of its checkpoints or savepoints, under a shadow prefix.
func (r *Runtime) forked(ctx context.Context, from, to *subject, req ForkRequest) (*Intent, error) {
	start := StartPoint{From: FromCheckpoint, Checkpoint: req.Checkpoint, Job: from.id.Name, Request: req.Request}
	if req.Savepoint != "" {
		start.From, start.Savepoint = FromSavepoint, req.Savepoint
	}
	if start.Request == "" {
		start.Request = newNonce()
	}
	config, err := r.configOf(ctx, from)
	if err != nil {
		return nil, err
	}
	shadow := req.Shadow
	if shadow == "" {
		shadow = "shadow." + req.As
	}
	config = config.merge(&ConfigPatch{Shadow: &shadow}).merge(req.Config)
	if config.Shadow == nil || *config.Shadow == "" {
		return nil, refuse(ReasonBadRequest, "forking job %s: a fork needs a shadow prefix, or it would publish where its original does", from.id)
	}
	in := &Intent{
		Tenant: string(to.id.Tenant), Job: to.id.Name, Topology: from.topology(), Desired: DesiredRunning,
		Start: &start, Config: config, ForkOf: from.id.Name, Generation: 1,
	}
	if to.intent != nil {
		in.Generation = to.intent.Generation + 1
	}
	return in, nil
}

// configOf returns what a job runs with, as a patch: from the program where it is deployed here, else from its last checkpoint and its
// intent.
func (r *Runtime) configOf(ctx context.Context, s *subject) (*ConfigPatch, error) {
	if s.job != nil {
		_, cfg := s.job.effective(s.intent)
		p, err := patchOf(cfg)
		if err != nil {
			return nil, fmt.Errorf("reading the configuration of job %s: %w", s.id, err)
		}
		return p, nil
	}
	patch := &ConfigPatch{}
	_, m, err := barriers.Inspect(askOf(ctx, r.cfg.Broker, s.id), string(s.id.Tenant), s.id.Name)
	if err != nil {
		return nil, unavailable(err)
	}
	if m != nil {
		patch.Parallelism, patch.Params = &m.Parallelism, rawParams(m.Params)
	}
	if s.intent != nil {
		patch = patch.merge(s.intent.Config)
	}
	return patch, nil
}

func rawParams(params map[string]string) map[string]json.RawMessage {
	out := make(map[string]json.RawMessage, len(params))
	for name, text := range params {
		out[name] = json.RawMessage(text)
	}
	return out
}
