package processor

import (
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/tenants"
)

// JobState is where a job is in its life, as this worker sees it.
type JobState string

const (
	JobStarting   JobState = "starting"
	JobRunning    JobState = "running"
	JobStandby    JobState = "standby"    // another worker owns it
	JobRestarting JobState = "restarting" // waiting to try again after a failure
	JobParked     JobState = "parked"     // too many failures in a row: waits for a person
	JobFailed     JobState = "failed"     // a failure that a restart cannot mend
	JobStopped    JobState = "stopped"
	JobDeleted    JobState = "deleted" // a tombstone is left
)

// JobEvent says that a job's state changed.
type JobEvent struct {
	Job   tenants.JobID
	State JobState
	Epoch uint64
	Err   error // why, for standby, restarting, parked and failed
	At    time.Time
	// Retry is when the next try is due, for restarting.
	Retry time.Time
}

// CheckpointEvent describes a checkpoint that is committed and whose output is released.
type CheckpointEvent struct {
	Job        tenants.JobID
	Checkpoint uint64
	Epoch      uint64
	At         time.Time
	// Duration is from trigger to the end of the release. Aligned, Frozen, Uploaded, Committed and Released are its parts; the
	// first two are the longest of any task, and Frozen is all a task stands still.
	Duration, Aligned, Frozen, Uploaded, Committed, Released time.Duration
	// Bytes and Objects were uploaded for it; Messages were published.
	Bytes    int64
	Objects  int
	Messages uint64
	// Positions are the sources' positions, by source name.
	Positions map[string]uint64
}

// CheckpointFailure describes a checkpoint that was aborted. The job goes on; what it would have held is in the next one.
type CheckpointFailure struct {
	Job        tenants.JobID
	Checkpoint uint64
	Err        error
	At         time.Time
}

// SavepointState says how far a savepoint is.
type SavepointState string

const (
	SavepointStarted SavepointState = "started"
	SavepointMoved   SavepointState = "moved" // some of it is stored
	SavepointMade    SavepointState = "made"
	SavepointFailed  SavepointState = "failed" // nothing of it is left
)

// SavepointEvent tells of a savepoint that is being made.
type SavepointEvent struct {
	Job        tenants.JobID
	Savepoint  string
	Request    string
	State      SavepointState
	Checkpoint uint64 // that it is cut with; 0: not yet
	Mark       *barriers.Mark
	// Bytes of Total are stored. Total is the size of what is copied; the copy may turn out smaller.
	Bytes, Total int64
	Err          error
	At           time.Time
}

// MarkState says what became of a mark.
type MarkState string

const (
	MarkMade    MarkState = "made"
	MarkFailed  MarkState = "failed"
	MarkIgnored MarkState = "ignored"
)

// MarkEvent tells what became of a mark in an input stream. Of a flood of ignored ones few are told; TaskMetrics counts them all.
type MarkEvent struct {
	Job       tenants.JobID
	Mark      barriers.Mark
	State     MarkState
	Savepoint string // made, or not
	Reason    string // why it is ignored: MarkNotAllowed, …
	Err       error
	At        time.Time
}

// Listener hears of what happens to jobs. nil functions are skipped. They are called from the job's goroutine, in order.
type Listener struct {
	Job              func(JobEvent)
	Checkpoint       func(CheckpointEvent)
	CheckpointFailed func(CheckpointFailure)
	Savepoint        func(SavepointEvent)
	Mark             func(MarkEvent)
}

// JoinListeners makes one listener of several: each hears everything, in the order given.
func JoinListeners(all ...Listener) Listener {
	return Listener{
		Job:              join(all, func(l Listener) func(JobEvent) { return l.Job }),
		Checkpoint:       join(all, func(l Listener) func(CheckpointEvent) { return l.Checkpoint }),
		CheckpointFailed: join(all, func(l Listener) func(CheckpointFailure) { return l.CheckpointFailed }),
		Savepoint:        join(all, func(l Listener) func(SavepointEvent) { return l.Savepoint }),
		Mark:             join(all, func(l Listener) func(MarkEvent) { return l.Mark }),
	}
}

func join[E any](all []Listener, of func(Listener) func(E)) func(E) {
	var fns []func(E)
	for _, l := range all {
		if fn := of(l); fn != nil {
			fns = append(fns, fn)
		}
	}
	if len(fns) == 0 {
		return nil
	}
	return func(ev E) {
		for _, fn := range fns {
			fn(ev)
		}
	}
}

// guarded keeps a panic of a listener from ending the process: it is told, and the job goes on.
func (l Listener) guarded(log *slog.Logger) Listener {
	return Listener{
		Job: guardedListener(l.Job, log), Checkpoint: guardedListener(l.Checkpoint, log),
		CheckpointFailed: guardedListener(l.CheckpointFailed, log),
		Savepoint:        guardedListener(l.Savepoint, log), Mark: guardedListener(l.Mark, log),
	}
}

func guardedListener[E any](fn func(E), log *slog.Logger) func(E) {
	if fn == nil {
		return nil
	}
	return func(ev E) {
		defer func() {
			if p := recover(); p != nil {
				log.Error("a listener panicked", "err", p, "stack", string(debug.Stack()))
			}
		}()
		fn(ev)
	}
}
