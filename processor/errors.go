package processor

import (
	"errors"
	"fmt"
	"strings"

	"github.com/weirstream/weir/tenants"
)

// Class says what the runtime must do about an error.
type Class uint8

const (
	// ClassRestart: restart the job from its last checkpoint. The class of an error that says nothing else.
	ClassRestart Class = iota
	// ClassPoison: dead-letter one record and go on.
	ClassPoison
	// ClassTerminal: the job fails with a reason and is not restarted by itself.
	ClassTerminal
	// ClassFenced: another worker owns the job. Stop, write nothing, stand by.
	ClassFenced
)

var (
	// ErrFenced says that a later attempt owns the job.
	ErrFenced = errors.New("fenced: another worker owns the job")
	// ErrUnavailable says that the broker does not answer for now. It is retried for as long as it takes.
	ErrUnavailable = errors.New("the broker is not available")
	// ErrObjectMissing says that a snapshot object is not in its bucket.
	ErrObjectMissing = errors.New("snapshot object is missing")
	// ErrFull says that a bucket, stream, account or server has no room. Nothing was stored; it may work later.
	ErrFull = errors.New("no room")
)

type classed struct {
	class Class
	err   error
}

func (e *classed) Error() string { return e.err.Error() }
func (e *classed) Unwrap() error { return e.err }

// Poison marks err as the fault of the record: it goes to the dead letters, exactly once, and the job goes on.
func Poison(err error) error { return &classed{ClassPoison, err} }

// Terminal marks err as one that a restart cannot mend.
func Terminal(err error) error { return &classed{ClassTerminal, err} }

// ClassOf returns the class of an error.
func ClassOf(err error) Class {
	var c *classed
	var s *StreamError
	var corrupt *CorruptError
	switch {
	case errors.Is(err, ErrFenced):
		return ClassFenced
	case errors.As(err, &c):
		return c.class
	case errors.As(err, &s), errors.As(err, &corrupt):
		return ClassTerminal
	}
	return ClassRestart
}

// StreamFault names what is wrong with a stream.
type StreamFault string

const (
	StreamMissing   StreamFault = "missing"
	StreamRecreated StreamFault = "recreated"   // another creation time
	StreamTailLost  StreamFault = "tail lost"   // last sequence below the position
	StreamTrimmed   StreamFault = "trimmed"     // first sequence above position + 1: input was removed unread
	StreamRewritten StreamFault = "rewritten"   // a record that was read is another one now: rolled back and refilled
	MarkerMissing   StreamFault = "marker lost" // the output stream was purged or rolled back
	MarkerOlder     StreamFault = "marker older than recorded"
	MarkerAhead     StreamFault = "marker ahead of the committed checkpoint"
	MarkerForeign   StreamFault = "marker of another job or sink, or not a marker"
)

// StreamError says that a stream is not what a checkpoint left behind. It stops one job for good: going on would lose or
// double records silently.
type StreamError struct {
	Job                  tenants.JobID
	Stream, Source, Sink string
	Table                string // the operator that looks up rows of the stream's bucket
	Fault                StreamFault
	Detail               string // the numbers
	Advice               string
}

func (e *StreamError) Error() string {
	var b strings.Builder
	if e.Job != (tenants.JobID{}) { // a copy that jobs share is nobody's
		fmt.Fprintf(&b, "job %s: ", e.Job)
	}
	fmt.Fprintf(&b, "stream %s", e.Stream)
	if e.Source != "" {
		fmt.Fprintf(&b, " (source %s)", e.Source)
	}
	if e.Sink != "" {
		fmt.Fprintf(&b, " (sink %s)", e.Sink)
	}
	if e.Table != "" {
		fmt.Fprintf(&b, " (table of %s) is not what the job started with: %s: %s", e.Table, e.Fault, e.Detail)
	} else {
		fmt.Fprintf(&b, " is not what the last checkpoint saw: %s: %s", e.Fault, e.Detail)
	}
	if e.Advice != "" {
		b.WriteString(". " + e.Advice)
	}
	return b.String()
}

// CorruptError says that a snapshot object's bytes are not what the manifest recorded.
type CorruptError struct {
	Job            tenants.JobID
	Bucket, Object string
	Detail         string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("job %s: snapshot object %s in bucket %s is corrupt: %s", e.Job, e.Object, e.Bucket, e.Detail)
}
