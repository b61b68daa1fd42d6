package control

import (
	"strings"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// Requests and answers are those of processor.Control as JSON; these add what only the service knows.

// Waiting is part of the requests whose work takes time.
type Waiting struct {
	// Wait is true by default: the answer comes when the work is done. false: it comes at once, and the outcome as an event.
	Wait *bool `json:"wait,omitempty"`
}

func (w Waiting) waits() bool { return w.Wait == nil || *w.Wait }

// Nothing is a request without fields.
type Nothing struct{}

// CheckpointRequest asks for a checkpoint.
type CheckpointRequest struct {
	Waiting
}

// SavepointRequest asks for a savepoint of a job or, where the subject names none, of all jobs of a tenant that should run, over one
// cut of the streams they share.
type SavepointRequest struct {
	Waiting
	Name string `json:"name"`
	// Request makes asking again harmless: the same one returns the same savepoint. Without it a name that exists is refused. Of a job
	// only.
	Request string `json:"request,omitempty"`
	// Jobs are the names of some jobs. Of a tenant only.
	Jobs []string `json:"jobs,omitempty"`
}

// SavepointDeleteRequest names a savepoint to delete.
type SavepointDeleteRequest struct {
	Name string `json:"name"`
}

// StopRequest asks a job to stop.
type StopRequest struct {
	Waiting
	processor.StopRequest
}

// StartRequest asks a job to run.
type StartRequest struct {
	Waiting
	processor.StartRequest
}

// RescaleRequest asks a job to go on at another parallelism.
type RescaleRequest struct {
	Waiting
	Parallelism int    `json:"parallelism"`
	Request     string `json:"request,omitempty"`
}

// ForkRequest asks for a copy of a job.
type ForkRequest struct {
	Waiting
	processor.ForkRequest
}

// DeleteRequest asks to delete a job.
type DeleteRequest struct {
	Waiting
	processor.DeleteRequest
}

// PageRequest asks for a part of a list.
type PageRequest struct {
	Limit int    `json:"limit,omitempty"` // 1 to 1000; 0: 100
	After string `json:"after,omitempty"` // "next" of the answer before
}

// Accepted answers a request that nobody waits for. The outcome is the event request with the same ID.
type Accepted struct {
	Accepted bool   `json:"accepted"`
	Request  string `json:"request"`
	Events   string `json:"events"` // the subject to listen to
}

// Done answers what has nothing to tell.
type Done struct {
	Done bool `json:"done"`
}

// JobPage is a part of the list of jobs.
type JobPage struct {
	Jobs []processor.JobReport `json:"jobs"`
	Next string                `json:"next,omitempty"`
}

// CheckpointPage is a part of the list of checkpoints.
type CheckpointPage struct {
	Checkpoints []processor.CheckpointReport `json:"checkpoints"`
	Next        string                       `json:"next,omitempty"`
}

// SavepointPage is a part of the list of savepoints.
type SavepointPage struct {
	Savepoints []processor.SavepointReport `json:"savepoints"`
	Next       string                      `json:"next,omitempty"`
}

// TenantPage is a part of the list of tenants.
type TenantPage struct {
	Tenants []TenantReport `json:"tenants"`
	Next    string         `json:"next,omitempty"`
}

// TenantReport counts a tenant's jobs.
type TenantReport struct {
	Tenant  string `json:"tenant"`
	Jobs    int    `json:"jobs"`
	Running int    `json:"running"`
}

// TenantSavepoints answers a tenant-wide savepoint.
type TenantSavepoints struct {
	Name string `json:"name"`
	// Cut is the position in each stream, the same for every job that reads it.
	Cut        map[string]uint64           `json:"cut"`
	Savepoints []processor.SavepointReport `json:"savepoints"`
}

// holdRequest, cutRequest and resumeRequest pass between workers only.
type holdRequest struct {
	ID      string             `json:"id"`
	Timeout processor.Duration `json:"timeout"`
}

type cutRequest struct {
	Name    string            `json:"name"`
	Request string            `json:"request"`
	Hold    string            `json:"hold"`
	Cut     map[string]uint64 `json:"cut"`
}

type resumeRequest struct {
	ID string `json:"id"`
}

type heldAnswer struct {
	Positions map[string]processor.Position `json:"positions"`
}

const (
	defaultPage = 100
	maxPage     = 1000
	maxIDLen    = 128
)

func (r *PageRequest) check() error {
	if r.Limit < 0 || r.Limit > maxPage {
		return refuse(processor.ReasonBadRequest, "limit is %d: use 1 to %d", r.Limit, maxPage)
	}
	set(&r.Limit, defaultPage)
	return nil
}

func (r *SavepointRequest) check() error {
	for _, j := range r.Jobs {
		if err := checkName("job", j); err != nil {
			return err
		}
	}
	return firstOf(checkName("savepoint", r.Name), checkID("request", r.Request))
}

func (r *SavepointDeleteRequest) check() error { return checkName("savepoint", r.Name) }

func (r *StopRequest) check() error {
	switch r.Mode {
	case "", processor.StopNow, processor.StopSavepoint, processor.StopDrain:
	default:
		return refuse(processor.ReasonBadRequest, "mode is %q: use %s, %s or %s, or leave it out for a last checkpoint",
			tenants.Printable(string(r.Mode)), processor.StopNow, processor.StopSavepoint, processor.StopDrain)
	}
	if r.Mode == processor.StopSavepoint && r.Savepoint == "" {
		return refuse(processor.ReasonBadRequest, `a stop with a savepoint needs its name: add "savepoint": "…"`)
	}
	return firstOf(optionalName("savepoint", r.Savepoint), checkID("request", r.Request))
}

func (r *StartRequest) check() error {
	p := &r.StartPoint
	switch {
	case p.From == processor.FromLatest, p.From == processor.FromFresh:
		if p.Checkpoint != 0 || p.Savepoint != "" || p.Job != "" {
			return refuse(processor.ReasonBadRequest, `checkpoint, savepoint and job say where from only with "from": "checkpoint" or "from": "savepoint"`)
		}
	case p.From == processor.FromCheckpoint && (p.Checkpoint == 0 || p.Savepoint != ""):
		return refuse(processor.ReasonBadRequest, `a start from a checkpoint needs its ID, and no savepoint: add "checkpoint": …`)
	case p.From == processor.FromSavepoint && (p.Savepoint == "" || p.Checkpoint != 0):
		return refuse(processor.ReasonBadRequest, `a start from a savepoint needs its name, and no checkpoint: add "savepoint": "…"`)
	case p.From != processor.FromCheckpoint && p.From != processor.FromSavepoint:
		return refuse(processor.ReasonBadRequest, "from is %q: use fresh, checkpoint or savepoint, or leave it out for the latest state", tenants.Printable(string(p.From)))
	}
	return firstOf(optionalName("savepoint", p.Savepoint), optionalName("job", p.Job), optionalName("topology", r.Topology), checkID("request", p.Request))
}

func (r *RescaleRequest) check() error {
	if r.Parallelism < 1 {
		return refuse(processor.ReasonBadRequest, `parallelism is %d: say how many subtasks, as in {"parallelism": 4}`, r.Parallelism)
	}
	return checkID("request", r.Request)
}

func (r *ForkRequest) check() error {
	if r.Checkpoint != 0 && r.Savepoint != "" {
		return refuse(processor.ReasonBadRequest, "checkpoint and savepoint are both given: a fork begins at one of them, or at the last checkpoint if there is none")
	}
	if r.Shadow != "" {
		if err := tenants.ValidateSubject(r.Shadow); err != nil {
			return refuse(processor.ReasonBadRequest, "shadow: %w", err)
		}
	}
	return firstOf(checkName("fork", r.As), optionalName("savepoint", r.Savepoint), checkID("request", r.Request))
}

func (r *StateRequest) check() error {
	if r.Checkpoint != 0 && r.Savepoint != "" {
		return refuse(processor.ReasonBadRequest, "checkpoint and savepoint are both given: choose one, or none for the live state")
	}
	if r.Key != nil && (r.Operator == "" || r.State == "") {
		return refuse(processor.ReasonBadRequest, "a key is looked up in an operator's state: say operator and state, too")
	}
	return firstOf(optionalName("operator", r.Operator), optionalName("state", r.State), optionalName("savepoint", r.Savepoint))
}

// StateRequest asks for state.
type StateRequest struct {
	processor.StateRequest
}

func (r *holdRequest) check() error {
	if d := time.Duration(r.Timeout); d <= 0 || d > time.Minute {
		return refuse(processor.ReasonBadRequest, "timeout is %s: a hold lasts up to 1m", d)
	}
	return checkID("id", r.ID)
}

func (r *cutRequest) check() error { return checkName("savepoint", r.Name) }

func checkName(kind, s string) error {
	if err := tenants.ValidateName(kind, s); err != nil {
		return refuse(processor.ReasonBadRequest, "%w", err)
	}
	return nil
}

func optionalName(kind, s string) error {
	if s == "" {
		return nil
	}
	return checkName(kind, s)
}

// checkID checks what identifies a request: it is written into records.
func checkID(field, s string) error {
	if len(s) > maxIDLen || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return refuse(processor.ReasonBadRequest, "%s is no usable ID: at most %d bytes without control characters", field, maxIDLen)
	}
	return nil
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
