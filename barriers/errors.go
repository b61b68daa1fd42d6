package barriers

import (
	"errors"
	"fmt"
)

var (
	// ErrFenced says that a later attempt owns the job. Stop, write nothing.
	ErrFenced = errors.New("fenced: a later attempt owns the job")
	// ErrCanceled says that the job's context ended before the protocol did.
	ErrCanceled = errors.New("canceled")
	// ErrCommitUnresolved says that the head write was sent and the attempt ended before its outcome was known.
	ErrCommitUnresolved = errors.New("commit unresolved: the head write may have taken place")
	// ErrHeadChanged says that the head is not what the decision to take the job was based on.
	ErrHeadChanged = errors.New("the head has changed")
)

// ConflictError says that a record is not what a write expected and that no later attempt wrote it.
type ConflictError struct {
	Record   string // key or marker subject
	Expected uint64
	Seq      uint64
	Value    []byte // nil: there is none
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("%s has sequence %d, expected was %d", e.Record, e.Seq, e.Expected)
}

// RolledBackError says that a record is older than one that was acknowledged or read before: the stream was rolled back.
type RolledBackError struct {
	Record string
	Known  uint64
	Seq    uint64 // 0: there is none any more
}

func (e *RolledBackError) Error() string {
	return fmt.Sprintf("%s has sequence %d but had %d before: its stream was rolled back, restored from an old copy or purged", e.Record, e.Seq, e.Known)
}

// UnresolvedError says that a write could not be brought to an end within its tries; it may still take place.
type UnresolvedError struct {
	Record string
	Tries  int
	Err    error // of the last try; may be nil
}

func (e *UnresolvedError) Error() string {
	return fmt.Sprintf("writing %s: no definite answer in %d tries: %v", e.Record, e.Tries, e.Err)
}
func (e *UnresolvedError) Unwrap() error { return e.Err }

// RejectedError says that the broker refused something for good.
type RejectedError struct {
	Record     string
	Sink       string // of a part; empty for records
	Checkpoint uint64
	From, To   uint64 // the messages refused, numbered from 0 in the checkpoint's pending output
	Err        error
}

func (e *RejectedError) Error() string {
	if e.Sink == "" {
		return fmt.Sprintf("%s was refused: %v", e.Record, e.Err)
	}
	return fmt.Sprintf("sink %s: message %d of checkpoint %d's output was refused by the stream: %v", e.Sink, e.From, e.Checkpoint, e.Err)
}
func (e *RejectedError) Unwrap() error { return e.Err }

// RecordError says that a record is missing or its bytes are not what they must be.
type RecordError struct {
	Record string
	Err    error
}

func (e *RecordError) Error() string { return fmt.Sprintf("%s: %v", e.Record, e.Err) }
func (e *RecordError) Unwrap() error { return e.Err }

// NoCheckpointError says that a job does not keep a checkpoint, or no longer does.
type NoCheckpointError struct {
	Tenant, Job string
	Checkpoint  uint64        // 0: the last one was asked for
	Kept        []ManifestRef // oldest first; none: nothing is committed
}

func (e *NoCheckpointError) Error() string {
	if len(e.Kept) == 0 {
		return fmt.Sprintf("job %s/%s has no checkpoint: nothing is committed, or it was deleted", e.Tenant, e.Job)
	}
	return fmt.Sprintf("checkpoint %d of job %s/%s is not kept: the oldest kept is %d, the newest %d",
		e.Checkpoint, e.Tenant, e.Job, e.Kept[0].Checkpoint, e.Kept[len(e.Kept)-1].Checkpoint)
}

// MarkerFaultKind names what is wrong with a marker.
type MarkerFaultKind string

const (
	MarkerStreamRecreated MarkerFaultKind = "the stream was recreated"
	MarkerMissing         MarkerFaultKind = "marker missing"
	MarkerOlder           MarkerFaultKind = "marker older than recorded"
	MarkerAhead           MarkerFaultKind = "marker ahead of the committed checkpoint"
	MarkerForeign         MarkerFaultKind = "marker of another job or sink, or not a marker"
)

// MarkerFault says that a sink's marker does not fit the committed checkpoint: releasing would lose or double output silently.
type MarkerFault struct {
	Kind                  MarkerFaultKind
	Sink, Stream, Subject string
	Detail                string // the numbers
}

func (e *MarkerFault) Error() string {
	return fmt.Sprintf("sink %s, marker %s in stream %s: %s: %s", e.Sink, e.Subject, e.Stream, e.Kind, e.Detail)
}
