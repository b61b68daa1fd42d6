package processor

import (
	"errors"
	"fmt"

	"github.com/weirstream/weir/tenants"
)

// maxRequest bounds the ID of a request, in bytes.
const maxRequest = 256

// String says where the job starts, for people and for the manifest.
func (p StartPoint) String() string {
	text := string(p.From)
	switch p.From {
	case FromLatest:
		return "latest"
	case FromCheckpoint:
		if text = fmt.Sprintf("checkpoint %d", p.Checkpoint); p.Checkpoint == 0 {
			text = "the last checkpoint"
		}
	case FromSavepoint:
		text = "savepoint " + p.Savepoint
	}
	if p.Job != "" {
		text += " of job " + p.Job
	}
	return text
}

// request identifies the start in the head: one that was applied is not applied again.
func (p StartPoint) request() string {
	switch {
	case p.From == FromLatest:
		return ""
	case p.Request != "":
		return p.Request
	}
	return p.String()
}

// foreign reports whether the state is another job's.
func (p StartPoint) foreign(job tenants.JobID) bool { return p.Job != "" && p.Job != job.Name }

// validate reports all problems at once. job is the name of the job that is to start.
func (p StartPoint) validate(job string) []error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("start from "+p.String()+": "+format, args...))
	}
	switch p.From {
	case FromLatest, FromFresh:
		if p.Checkpoint != 0 || p.Savepoint != "" || p.Job != "" {
			bad("no checkpoint, savepoint or job goes with it: set From to %q or %q to start from one", FromCheckpoint, FromSavepoint)
		}
	case FromCheckpoint:
		if p.Savepoint != "" {
			bad("a checkpoint and a savepoint are named: name one")
		}
		if p.Checkpoint == 0 && (p.Job == "" || p.Job == job) {
			bad("name one of the job's retained checkpoints, or leave From empty to go on where the job ended")
		}
	case FromSavepoint:
		if p.Checkpoint != 0 {
			bad("a checkpoint and a savepoint are named: name one")
		}
		if err := tenants.ValidateName("savepoint", p.Savepoint); err != nil {
			bad("%w", err)
		}
	default:
		return []error{fmt.Errorf("start: From is %q: use %q, %q, %q or leave it empty", tenants.Printable(string(p.From)), FromFresh, FromCheckpoint, FromSavepoint)}
	}
	if p.Job != "" {
		if err := tenants.ValidateName("job", p.Job); err != nil {
			bad("%w", err)
		}
	}
	if len(p.Request) > maxRequest {
		bad("the request's ID has %d bytes, at most %d are allowed", len(p.Request), maxRequest)
	}
	return errs
}

// ErrNoState says that a job cannot go on where it ended: it was deleted, or a start from elsewhere was begun and not completed.
var ErrNoState = errors.New("the job has no state to go on from")

// StartGoneError says that what a job is to start from is not there, or was removed while it was read. Nothing was changed.
type StartGoneError struct {
	Job   tenants.JobID // that is to start
	Start StartPoint
	Err   error
}

func (e *StartGoneError) Error() string {
	return fmt.Sprintf("job %s cannot start from %s: %v", e.Job, e.Start, e.Err)
}
func (e *StartGoneError) Unwrap() error { return e.Err }

// IncompatibleError lists every reason why a job cannot start from a state.
type IncompatibleError struct {
	Job      tenants.JobID
	Problems []error
}

func (e *IncompatibleError) Error() string {
	return fmt.Sprintf("the committed state does not fit the topology: %v", errors.Join(e.Problems...))
}
func (e *IncompatibleError) Unwrap() []error { return e.Problems }
