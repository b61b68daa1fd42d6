package processor

import (
	"errors"
	"fmt"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/tenants"
)

// classify gives an error of a protocol the class that the runtime acts on. What says that a stream is not what it was comes first:
// such an error may be wrapped in one that says that the outcome of a write is open.
func classify(job tenants.JobID, err error) error {
	var marker *barriers.MarkerFault
	var rejected *barriers.RejectedError
	var record *barriers.RecordError
	var rolledBack *barriers.RolledBackError
	var unresolved *barriers.UnresolvedError
	switch {
	case errors.As(err, &marker):
		return markerError(job, marker)
	case errors.As(err, &rejected), errors.As(err, &record), errors.As(err, &rolledBack):
		return Terminal(fmt.Errorf("job %s: %w", job, err))
	case errors.Is(err, barriers.ErrFenced), errors.Is(err, barriers.ErrHeadChanged):
		return fmt.Errorf("job %s: %w (%w)", job, ErrFenced, err)
	case errors.As(err, &unresolved):
		return fmt.Errorf("job %s: %w: %w", job, ErrUnavailable, err)
	}
	return fmt.Errorf("job %s: %w", job, err)
}

func markerError(job tenants.JobID, mf *barriers.MarkerFault) error {
	fault := map[barriers.MarkerFaultKind]StreamFault{
		barriers.MarkerMissing: MarkerMissing, barriers.MarkerOlder: MarkerOlder, barriers.MarkerAhead: MarkerAhead,
		barriers.MarkerStreamRecreated: StreamRecreated, barriers.MarkerForeign: MarkerForeign,
	}[mf.Kind]
	return &StreamError{
		Job: job, Stream: mf.Stream, Sink: mf.Sink, Fault: fault, Detail: mf.Detail,
		Advice: "Results that were published are gone or would be published twice. Restore the stream, or start the job under a new name",
	}
}
