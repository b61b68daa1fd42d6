package control

import (
	"context"
	"reflect"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// scope says what a verb may be asked of.
type scope uint8

const (
	ofJob scope = 1 << iota
	ofTenant
	ofAll
)

// target is what a request is about: none where the subject has no job or tenant.
type target struct {
	tenant, job string
}

func (t target) id() tenants.JobID { return tenants.JobID{Tenant: tenants.ID(t.tenant), Name: t.job} }

func (t target) scope() scope {
	switch {
	case t.tenant == none && t.job == none:
		return ofAll
	case t.job == none:
		return ofTenant
	case t.tenant == none:
		return 0 // a job of no tenant
	}
	return ofJob
}

// verb is one thing that can be asked.
type verb struct {
	name        string
	description string
	scopes      scope
	work        bool // changes something: it has slots and a timeout of its own
	list        bool // a success proves nothing of the tenant
	internal    bool // between workers only
	in, out     *schema
	decode      func(data []byte) (any, error)
	run         func(s *Service, ctx context.Context, t target, in any) (any, error)
	stats       counters
}

type checker interface{ check() error }

// define makes a verb of typed requests and answers.
func define[In, Out any](name string, scopes scope, description string, run func(s *Service, ctx context.Context, t target, in *In) (Out, error)) *verb {
	v := &verb{name: name, scopes: scopes, description: description, in: schemaOf(reflect.TypeFor[In]()), out: schemaOf(reflect.TypeFor[Out]())}
	v.decode = func(data []byte) (any, error) {
		in := new(In)
		if err := decode(data, v.in, in); err != nil {
			return nil, err
		}
		if c, checks := any(in).(checker); checks {
			if err := c.check(); err != nil {
				return nil, err
			}
		}
		return in, nil
	}
	v.run = func(s *Service, ctx context.Context, t target, in any) (any, error) { return run(s, ctx, t, in.(*In)) }
	return v
}

func (v *verb) works() *verb  { v.work = true; return v }
func (v *verb) lists() *verb  { v.list = true; return v }
func (v *verb) inside() *verb { v.internal = true; return v }

// answers describes what a verb answers that has more than one form.
func (v *verb) answers(t reflect.Type) *verb { v.out = schemaOf(t); return v }

// verbs are all of them. Each service has its own, since they count.
func verbs() []*verb {
	return []*verb{
		define("status", ofJob, "How a job is: state, owner, last checkpoint, positions.", func(s *Service, ctx context.Context, t target, _ *Nothing) (processor.JobReport, error) {
			return s.cfg.Control.Status(ctx, t.id())
		}),
		define("jobs", ofTenant|ofAll, "The jobs of a tenant, or of all tenants.", (*Service).jobs).lists(),
		define("tenants", ofAll, "The tenants that have jobs.", (*Service).tenants).lists(),
		define("checkpoint", ofJob, "Take a checkpoint now; answers when its output is released.", func(s *Service, ctx context.Context, t target, _ *CheckpointRequest) (processor.CheckpointReport, error) {
			return s.cfg.Control.TakeCheckpoint(ctx, t.id())
		}).works(),
		define("checkpoints", ofJob, "The retained checkpoints and recent failures, newest first.", (*Service).checkpoints).lists(),
		define("savepoint", ofJob|ofTenant, "Take a savepoint of a job, or of all jobs of a tenant over one cut of their streams; answers when it is complete.", (*Service).savepoint).works().answers(reflect.TypeFor[processor.SavepointReport]()),
		define("savepoints", ofJob, "The savepoints of a job, newest first.", (*Service).savepoints).lists(),
		define("savepoint-delete", ofJob, "Delete a savepoint and its objects.", func(s *Service, ctx context.Context, t target, in *SavepointDeleteRequest) (Done, error) {
			err := s.cfg.Control.DeleteSavepoint(ctx, t.id(), in.Name)
			return Done{err == nil}, err
		}).works(),
		define("stop", ofJob, "Stop a job: mode now, savepoint or drain, or with a last checkpoint; answers when its output is published.", func(s *Service, ctx context.Context, t target, in *StopRequest) (processor.StopReport, error) {
			return s.cfg.Control.Stop(ctx, t.id(), in.StopRequest)
		}).works(),
		define("start", ofJob, "Run a job: from its latest state, fresh, or from a checkpoint or savepoint, with a changed configuration; answers when it runs.", func(s *Service, ctx context.Context, t target, in *StartRequest) (processor.JobReport, error) {
			return s.cfg.Control.Start(ctx, t.id(), in.StartRequest)
		}).works(),
		define("rescale", ofJob, "Go on at another parallelism; answers when the job runs again.", func(s *Service, ctx context.Context, t target, in *RescaleRequest) (processor.JobReport, error) {
			return s.cfg.Control.Start(ctx, t.id(), processor.StartRequest{
				StartPoint: processor.StartPoint{Request: in.Request}, Config: &processor.ConfigPatch{Parallelism: &in.Parallelism},
			})
		}).works(),
		define("fork", ofJob, "Run a copy of a job from one of its checkpoints or savepoints, writing under a shadow prefix.", func(s *Service, ctx context.Context, t target, in *ForkRequest) (processor.JobReport, error) {
			return s.cfg.Control.Fork(ctx, t.id(), in.ForkRequest)
		}).works(),
		define("delete", ofJob, "Delete a job for good; its savepoints stay unless told otherwise.", func(s *Service, ctx context.Context, t target, in *DeleteRequest) (Done, error) {
			if in.Confirm != t.job {
				return Done{}, refuse(processor.ReasonBadRequest, "deleting job %s needs its name again: add \"confirm\": %q", t.id(), t.job)
			}
			err := s.cfg.Control.Delete(ctx, t.id(), in.DeleteRequest)
			return Done{err == nil}, err
		}).works(),
		define("state", ofJob, "One key's state as JSON, live or at a checkpoint or savepoint; without a key, which states there are.", func(s *Service, ctx context.Context, t target, in *StateRequest) (processor.StateReport, error) {
			return s.cfg.Control.ReadState(ctx, t.id(), in.StateRequest)
		}),
		define("hold", ofJob, "", func(s *Service, ctx context.Context, t target, in *holdRequest) (heldAnswer, error) {
			positions, err := s.cfg.Control.Hold(ctx, t.id(), in.ID, time.Duration(in.Timeout))
			return heldAnswer{positions}, err
		}).inside(),
		define("cut", ofJob, "", func(s *Service, ctx context.Context, t target, in *cutRequest) (processor.SavepointReport, error) {
			return s.cfg.Control.TakeSavepoint(ctx, t.id(), processor.SavepointRequest{Name: in.Name, Request: in.Request, Hold: in.Hold, Cut: in.Cut})
		}).works().inside(),
		define("resume", ofJob, "", func(s *Service, ctx context.Context, t target, in *resumeRequest) (Done, error) {
			err := s.cfg.Control.Resume(ctx, t.id(), in.ID)
			return Done{err == nil}, err
		}).inside(),
	}
}

func (s *Service) savepoint(ctx context.Context, t target, in *SavepointRequest) (any, error) {
	if t.scope() == ofTenant {
		if in.Request != "" {
			return nil, refuse(processor.ReasonBadRequest, "request is of a job's savepoint only: a tenant-wide one is made once under its name, or not at all")
		}
		return s.savepointAll(ctx, tenants.ID(t.tenant), in)
	}
	if in.Jobs != nil {
		return nil, refuse(processor.ReasonBadRequest, "jobs is of a tenant-wide savepoint only: ask %s%s.%s.savepoint", prefix, t.tenant, none)
	}
	return s.cfg.Control.TakeSavepoint(ctx, t.id(), processor.SavepointRequest{Name: in.Name, Request: in.Request})
}
