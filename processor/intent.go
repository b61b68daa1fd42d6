package processor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/weirstream/weir/tenants"
)

// IntentVersion is the version of the intent format this package writes.
const IntentVersion = 1

// MaxIntentBytes bounds an encoded intent.
const MaxIntentBytes = 256 << 10

// What a job is to do.
const (
	DesiredRunning = "running"
	DesiredStopped = "stopped"
	DesiredDeleted = "deleted"
)

// Intent says what should run: one record per job in the bucket weir_jobs, JSON. The head says what was applied. Whatever a worker
// does after a restart follows from it.
type Intent struct {
	Version  int          `json:"version"`
	Tenant   string       `json:"tenant"`
	Job      string       `json:"job"`
	Topology string       `json:"topology"` // its name: a worker whose binary lacks it leaves the job to others
	Desired  string       `json:"desired"`
	Start    *StartPoint  `json:"start,omitempty"`  // applied once, by its Request; hides the program's
	Stop     *StopRequest `json:"stop,omitempty"`   // how, while Desired is stopped and it has not stopped yet
	Config   *ConfigPatch `json:"config,omitempty"` // over what the program deploys with
	ForkOf   string       `json:"fork_of,omitempty"`
	Changed  time.Time    `json:"changed"`
	// Generation counts the changes that ask a running job to start again.
	Generation uint64 `json:"generation"`
	// DropSavepoints says that a deletion takes the savepoints along, Cleaned that it is complete: what is left is this tombstone.
	DropSavepoints bool `json:"drop_savepoints,omitempty"`
	Cleaned        bool `json:"cleaned,omitempty"`
}

// ErrIntentChanged says that somebody else changed the intent meanwhile: read it again.
var ErrIntentChanged = errors.New("the job's intent was changed meanwhile")

// ErrInvalidIntent is wrapped by every error about the bytes of an intent: foreign, or written by a newer version.
var ErrInvalidIntent = errors.New("invalid intent")

// IntentRecord is what the bucket has under a job's key.
type IntentRecord struct {
	Job      tenants.JobID
	Intent   *Intent // nil: there is none, or it cannot be read
	Revision uint64
	Err      error // why it cannot be read
}

// Intents keeps what should run.
type Intents interface {
	// ReadIntent returns nil without an error if there is none, and ErrInvalidIntent if it cannot be read. revision is what the next
	// write must expect, also then. The answer is current.
	ReadIntent(ctx context.Context, job tenants.JobID) (in *Intent, revision uint64, err error)
	// WriteIntent writes if the revision is still the expected one (0: there is none), else ErrIntentChanged. Revisions of a job
	// only grow.
	WriteIntent(ctx context.Context, in *Intent, expected uint64) (revision uint64, err error)
	// WatchIntents calls each for every intent there is, then ready once, then each for every change, in order, until ctx ends. It
	// may call each again for one that did not change: after a gap it begins again.
	WatchIntents(ctx context.Context, each func(IntentRecord), ready func()) error
}

// ID returns the job's identity.
func (in *Intent) ID() tenants.JobID {
	return tenants.JobID{Tenant: tenants.ID(in.Tenant), Name: in.Job}
}

// original is the job that this one is a fork of.
func (in *Intent) original() tenants.JobID {
	return tenants.JobID{Tenant: tenants.ID(in.Tenant), Name: in.ForkOf}
}

// Encode returns the intent's JSON. It sets Version.
func (in *Intent) Encode() ([]byte, error) {
	in.Version = IntentVersion
	if err := in.validate(); err != nil {
		return nil, fmt.Errorf("encoding the intent of job %s: %w: %w", in.ID(), ErrInvalidIntent, err)
	}
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(in); err != nil {
		return nil, fmt.Errorf("encoding the intent of job %s: %w", in.ID(), err)
	}
	data := bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
	if len(data) > MaxIntentBytes {
		return nil, fmt.Errorf("encoding the intent of job %s: %w: %d bytes, at most %d are allowed", in.ID(), ErrInvalidIntent, len(data), MaxIntentBytes)
	}
	return data, nil
}

// DecodeIntent reads the intent that lies under a job's key. It is strict: an unknown field would be dropped at the next write, so
// every new field that an older worker must not ignore is a new version.
func DecodeIntent(job tenants.JobID, data []byte) (*Intent, error) {
	fail := func(err error) (*Intent, error) {
		return nil, fmt.Errorf("reading the intent of job %s: %w: %w", job, ErrInvalidIntent, err)
	}
	if len(data) > MaxIntentBytes {
		return fail(fmt.Errorf("%d bytes, at most %d are allowed", len(data), MaxIntentBytes))
	}
	var v struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return fail(err)
	}
	if v.Version > IntentVersion {
		return fail(fmt.Errorf("version %d is newer than %d, which is the newest this worker reads: upgrade it", v.Version, IntentVersion))
	}
	if v.Version < 1 {
		return fail(fmt.Errorf("version %d does not exist", v.Version))
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	in := new(Intent)
	if err := d.Decode(in); err != nil {
		return fail(err)
	}
	if err := in.validate(); err != nil {
		return fail(err)
	}
	if in.ID() != job {
		return fail(fmt.Errorf("it is the intent of job %s", in.ID()))
	}
	return in, nil
}

func (in *Intent) validate() error {
	if err := in.ID().Validate(); err != nil {
		return err
	}
	if in.Topology == "" {
		return errors.New("topology is empty")
	}
	switch in.Desired {
	case DesiredRunning, DesiredStopped, DesiredDeleted:
	default:
		return fmt.Errorf("desired is %q: use %s, %s or %s", tenants.Printable(in.Desired), DesiredRunning, DesiredStopped, DesiredDeleted)
	}
	return nil
}
