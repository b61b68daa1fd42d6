package processor

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/tenants"
)

// Control is what a person can ask of jobs. *Runtime carries it out; the control service speaks it over the broker. Every error
// that is the request's fault is a *ControlError.
//
// A request about a job that another worker owns is refused with a *NotOwnerError, which says who does.
type Control interface {
	// Status says how a job is, live where this worker runs it.
	Status(ctx context.Context, job tenants.JobID) (JobReport, error)
	// Jobs lists what should run and what does, of one tenant or, with an empty one, of all; ordered by tenant and name.
	Jobs(ctx context.Context, tenant tenants.ID) ([]JobReport, error)
	// TakeCheckpoint takes a checkpoint now and returns when its output is released.
	TakeCheckpoint(ctx context.Context, job tenants.JobID) (CheckpointReport, error)
	// Checkpoints lists the job's retained checkpoints and recent failures, newest first.
	Checkpoints(ctx context.Context, job tenants.JobID) ([]CheckpointReport, error)
	// TakeSavepoint takes a savepoint and returns when it is self-contained and its output is released. The same Request again
	// returns the same savepoint.
	TakeSavepoint(ctx context.Context, job tenants.JobID, req SavepointRequest) (SavepointReport, error)
	// Savepoints lists the job's savepoints, newest first.
	Savepoints(ctx context.Context, job tenants.JobID) ([]SavepointReport, error)
	// DeleteSavepoint removes a savepoint and its objects.
	DeleteSavepoint(ctx context.Context, job tenants.JobID, name string) error
	// Stop makes a job stop and stay stopped, also over restarts of every worker. It returns when its output is published.
	Stop(ctx context.Context, job tenants.JobID, req StopRequest) (StopReport, error)
	// Start makes a job run: one that is stopped, parked, failed or deleted, one that never ran, or a running one from another
	// point or with another configuration. It returns when the job runs.
	Start(ctx context.Context, job tenants.JobID, req StartRequest) (JobReport, error)
	// Fork starts a copy of a job under another name, from one of its checkpoints or savepoints, with its output under a shadow prefix.
	Fork(ctx context.Context, job tenants.JobID, req ForkRequest) (JobReport, error)
	// Delete stops a job for good and leaves a tombstone. Its savepoints stay unless the request says otherwise.
	Delete(ctx context.Context, job tenants.JobID, req DeleteRequest) error
	// ReadState reads one key, live or of a checkpoint or savepoint, or describes the states if no key is asked for.
	ReadState(ctx context.Context, job tenants.JobID, req StateRequest) (StateReport, error)
	// Hold stops a job's sources where they are and returns their positions, by source name. Cut or Resume ends it, or its timeout.
	Hold(ctx context.Context, job tenants.JobID, id string, timeout time.Duration) (map[string]Position, error)
	// Resume ends a hold without a cut.
	Resume(ctx context.Context, job tenants.JobID, id string) error
}

// Position is how far a source has read.
type Position struct {
	Stream   string `json:"stream"`
	Sequence uint64 `json:"sequence"`
}

// Reason is the stable code of a refused request.
type Reason string

const (
	ReasonBadRequest    Reason = "bad-request"    // the request itself is wrong
	ReasonUnknownTenant Reason = "unknown-tenant" // nothing is known of the tenant
	ReasonUnknownJob    Reason = "unknown-job"
	ReasonNotFound      Reason = "not-found"     // no such checkpoint, savepoint, operator, state
	ReasonNotRunning    Reason = "not-running"   // the job is stopped, parked, failed or starting
	ReasonConflict      Reason = "conflict"      // the name is taken, another such request is under way, the job changed meanwhile
	ReasonIncompatible  Reason = "incompatible"  // state and topology do not fit
	ReasonLimit         Reason = "limit"         // rate, size or number
	ReasonNoOwner       Reason = "no-owner"      // nobody runs it now
	ReasonUnavailable   Reason = "unavailable"   // the broker or the owner does not answer for now
	ReasonFailed        Reason = "failed"        // it was tried and did not work; nothing is left behind
	ReasonForbidden     Reason = "not-permitted" // the job's configuration does not allow it
)

// ControlError refuses a request with a stable reason and a sentence that helps.
type ControlError struct {
	Reason  Reason
	Message string
	Err     error // what is behind it, if anything
}

func (e *ControlError) Error() string { return e.Message }
func (e *ControlError) Unwrap() error { return e.Err }

// refuse makes a ControlError.
func refuse(r Reason, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &ControlError{Reason: r, Message: err.Error(), Err: err}
}

// NotOwnerError says which worker runs the job that was asked for.
type NotOwnerError struct {
	Job     tenants.JobID
	Worker  string // its ID
	Process string // names its heart, see heartbeatID: what follows the dot is that Runtime.Process
}

func (e *NotOwnerError) Error() string {
	return fmt.Sprintf("job %s runs on worker %s", e.Job, e.Worker)
}

// StartFrom says which state a job starts with.
type StartFrom string

const (
	FromLatest     StartFrom = ""           // go on where the job ended
	FromFresh      StartFrom = "fresh"      // empty, from the beginning of its streams
	FromCheckpoint StartFrom = "checkpoint" // a retained checkpoint
	FromSavepoint  StartFrom = "savepoint"
)

// StartPoint is where a job starts, once: a start request that was applied is not applied again.
type StartPoint struct {
	From       StartFrom `json:"from,omitempty"`
	Checkpoint uint64    `json:"checkpoint,omitempty"` // with FromCheckpoint
	Savepoint  string    `json:"savepoint,omitempty"`  // with FromSavepoint
	Job        string    `json:"job,omitempty"`        // whose checkpoint or savepoint, of the same tenant; empty: the job's own
	// Request identifies this start: it is recorded in the manifest it writes. Empty: made of the other fields, so that a program
	// that deploys with the same StartPoint at every start applies it once.
	Request string `json:"request,omitempty"`
}

// SavepointRequest asks for a savepoint.
type SavepointRequest struct {
	Name string `json:"name"` // a name as of a job; unique within the job
	// Request makes asking again harmless: the same one returns the same savepoint. Without it a name that exists is refused.
	Request string `json:"request,omitempty"`
	// Hold, if set, ends a hold: the savepoint is cut exactly at Cut, the positions by source name.
	Hold string            `json:"hold,omitempty"`
	Cut  map[string]uint64 `json:"cut,omitempty"`
}

// StopMode says how a job stops.
type StopMode string

const (
	// StopNow ends at the last committed checkpoint; what was read after it is read again when the job starts.
	StopNow StopMode = "now"
	// StopSavepoint takes a savepoint and ends exactly there.
	StopSavepoint StopMode = "savepoint"
	// StopDrain reads up to the tail that the streams have when the request comes, sends a final watermark, so that every window
	// closes, takes a last checkpoint (a savepoint, if one is named) and ends.
	StopDrain StopMode = "drain"
)

// StopRequest asks a job to stop.
type StopRequest struct {
	Mode      StopMode `json:"mode,omitempty"`      // empty: with a savepoint if one is named, else with a last checkpoint and nothing more to read again
	Savepoint string   `json:"savepoint,omitempty"` // its name
	Request   string   `json:"request,omitempty"`
}

// StartRequest asks a job to run.
type StartRequest struct {
	StartPoint
	Topology string       `json:"topology,omitempty"` // of a job that was never deployed; empty: the one it has
	Config   *ConfigPatch `json:"config,omitempty"`
}

// ConfigPatch changes a job's configuration for good; nil fields stay as they are.
type ConfigPatch struct {
	Parallelism        *int                       `json:"parallelism,omitempty"`
	Params             map[string]json.RawMessage `json:"params,omitempty"`
	CheckpointInterval *Duration                  `json:"checkpoint_interval,omitempty"`
	CheckpointTimeout  *Duration                  `json:"checkpoint_timeout,omitempty"`
	Retained           *int                       `json:"retained,omitempty"`
	Streams            map[string]string          `json:"streams,omitempty"`
	Shadow             *string                    `json:"shadow,omitempty"`
	AllowDataLoss      *bool                      `json:"allow_data_loss,omitempty"`
	AllowDroppedState  *bool                      `json:"allow_dropped_state,omitempty"`
	AllowMarks         *bool                      `json:"allow_marks,omitempty"`
}

// Duration is a time.Duration that is "5s" in JSON.
type Duration time.Duration

// MarshalText writes it as time.Duration does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads what time.ParseDuration reads.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// ForkRequest asks for a copy of a job.
type ForkRequest struct {
	As         string       `json:"as"`
	Checkpoint uint64       `json:"checkpoint,omitempty"` // one of Checkpoint and Savepoint; neither: the last checkpoint
	Savepoint  string       `json:"savepoint,omitempty"`
	Shadow     string       `json:"shadow,omitempty"` // relative subject prefix of its output; empty: shadow.{as}
	Config     *ConfigPatch `json:"config,omitempty"`
	Request    string       `json:"request,omitempty"`
}

// DeleteRequest asks to delete a job.
type DeleteRequest struct {
	Confirm    string `json:"confirm"` // the job's name again
	Savepoints bool   `json:"savepoints,omitempty"`
}

// StateRequest asks for state. At most one of Checkpoint and Savepoint; neither: the live state of a key, or the last checkpoint's
// description.
type StateRequest struct {
	Operator   string  `json:"operator,omitempty"`
	State      string  `json:"state,omitempty"`
	Key        *string `json:"key,omitempty"` // nil: describe
	Checkpoint uint64  `json:"checkpoint,omitempty"`
	Savepoint  string  `json:"savepoint,omitempty"`
}

// JobReport says how a job is.
type JobReport struct {
	Tenant      string    `json:"tenant"`
	Job         string    `json:"job"`
	Topology    string    `json:"topology"`
	Desired     string    `json:"desired"` // running, stopped, deleted
	State       JobState  `json:"state"`
	Reason      string    `json:"reason,omitempty"`  // why it is in this state
	Worker      string    `json:"worker,omitempty"`  // the owner
	Process     string    `json:"process,omitempty"` // which of its processes: the control service asks it for what is live
	Epoch       uint64    `json:"epoch"`
	Checkpoint  uint64    `json:"checkpoint"` // the last completed one
	CompletedAt time.Time `json:"completed_at,omitzero"`
	Parallelism int       `json:"parallelism,omitempty"`
	Restarts    int       `json:"restarts,omitempty"`
	Retry       time.Time `json:"retry,omitzero"`
	Shadow      string    `json:"shadow,omitempty"`
	// Sources and what follows are live: only where the job runs.
	Sources    map[string]SourceReport `json:"sources,omitempty"`
	Elements   uint64                  `json:"elements,omitempty"`
	StateBytes int64                   `json:"state_bytes,omitempty"`
	Config     json.RawMessage         `json:"config,omitempty"` // what it runs with, as JSON
}

// SourceReport is one source of a running job.
type SourceReport struct {
	Stream   string `json:"stream"`
	Filter   string `json:"filter"`
	Position uint64 `json:"position"`
	Pending  uint64 `json:"pending"`
	// Watermark is the source's event time; zero: none yet. Idle says that it does not hold others back.
	Watermark time.Time `json:"watermark,omitzero"`
	Idle      bool      `json:"idle,omitempty"`
}

// CheckpointReport describes a checkpoint, or one that failed.
type CheckpointReport struct {
	Checkpoint uint64            `json:"checkpoint"`
	Epoch      uint64            `json:"epoch,omitempty"`
	Kind       barriers.Kind     `json:"kind"`
	State      string            `json:"state"` // completed, failed
	Error      string            `json:"error,omitempty"`
	Started    time.Time         `json:"started"`
	Acks       string            `json:"acks,omitempty"` // "5/5"
	Duration   Duration          `json:"duration,omitempty"`
	Aligned    Duration          `json:"aligned,omitempty"`
	Frozen     Duration          `json:"frozen,omitempty"`
	Uploaded   Duration          `json:"uploaded,omitempty"`
	Committed  Duration          `json:"committed,omitempty"`
	Released   Duration          `json:"released,omitempty"`
	Bytes      int64             `json:"bytes"`       // all that it refers to
	DeltaBytes int64             `json:"delta_bytes"` // uploaded for it
	Objects    int               `json:"objects"`
	Messages   uint64            `json:"messages"`
	Positions  map[string]uint64 `json:"positions,omitempty"` // by stream
}

// SavepointReport describes a savepoint.
type SavepointReport struct {
	Name       string              `json:"name"`
	Tenant     string              `json:"tenant"`
	Job        string              `json:"job"`
	Checkpoint uint64              `json:"checkpoint"` // that it was cut with
	Epoch      uint64              `json:"epoch"`
	Created    time.Time           `json:"created"`
	Positions  map[string]Position `json:"positions"` // by source
	Bytes      int64               `json:"bytes"`
	Objects    int                 `json:"objects"`
	Origin     string              `json:"origin,omitempty"` // where it was imported from
	Mark       *barriers.Mark      `json:"mark,omitempty"`
	Topology   string              `json:"topology"`
	Weir       string              `json:"weir"`
}

// StopReport says how a job stopped.
type StopReport struct {
	Checkpoint uint64           `json:"checkpoint"` // the last committed one
	Savepoint  *SavepointReport `json:"savepoint,omitempty"`
	// Published says that all committed output is in its streams.
	Published bool   `json:"published"`
	Detail    string `json:"detail,omitempty"`
}

// StateReport is a key's value, or a description.
type StateReport struct {
	Checkpoint uint64          `json:"checkpoint,omitempty"` // 0: live
	Operators  []OperatorState `json:"operators,omitempty"`
	Operator   string          `json:"operator,omitempty"`
	State      string          `json:"state,omitempty"`
	Key        string          `json:"key,omitempty"`
	Found      bool            `json:"found"`
	Value      json.RawMessage `json:"value,omitempty"`
}

// OperatorState describes an operator's states.
type OperatorState struct {
	Operator string          `json:"operator"`
	Bytes    int64           `json:"bytes"` // of its objects
	States   []StateContents `json:"states"`
}

// StateContents describes one state.
type StateContents struct {
	Name    string `json:"name"`
	Kind    string `json:"kind"`
	Codec   string `json:"codec"`
	Version int    `json:"version"`
	Entries int    `json:"entries"`
	Bytes   int64  `json:"bytes"` // of keys and values, uncompressed
}
