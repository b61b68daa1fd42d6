package processor

import (
	"context"
	"errors"
	"fmt"

	"github.com/weirstream/weir/barriers"
)

// A stop that promises a savepoint or a drain outlives the worker that was asked. Its intent says what was promised; whoever takes the
// job to end it looks at what there is:
//
//	the head says stopping          the last checkpoint is committed, and a drain's final watermark is behind it: kept
//	the savepoint is complete       nothing was committed behind its checkpoint: kept
//	else                            the job runs on from its last checkpoint, and is stopped in the way that was asked for
//
// What was kept needs only the ordinary end. What cannot be kept puts the intent back, as for who asks himself: the job runs on.

// owedStop returns the stop that is still to be made of a job before it ends; nil: none.
func (j *Job) owedStop(ctx context.Context, observed *barriers.HeadRecord) (*StopRequest, error) {
	req := j.stopRequest()
	if !req.promises() || observed.Head.State == barriers.StateStopping {
		return nil, nil
	}
	if req.Savepoint == "" {
		return &req, nil
	}
	if req.Request == "" {
		req.Request = req.Savepoint // as its first try
	}
	m, err := barriers.ReadSavepoint(j.ask(ctx), string(j.id.Tenant), j.id.Name, req.Savepoint)
	switch {
	case errors.As(err, new(*barriers.NoSavepointError)):
		return &req, nil
	case err != nil:
		return nil, fmt.Errorf("looking for the savepoint of the stop of job %s: %w", j.id, classify(j.id, err))
	case m.Request != req.Request || m.Checkpoint != observed.Head.Checkpoint:
		return &req, nil // not this stop's: it will be told so
	}
	return nil, nil
}

// carryStop has a promised stop made by an attempt that runs for it, until the attempt ends. What is refused for good is given up: the job
// runs on.
func (j *Job) carryStop(ctx context.Context, b basis, r *runner, req StopRequest) {
	for n := 1; ; n++ {
		got := newAnswer[StopReport]()
		r.post(ctlStop{req, got.give})
		var err error
		select {
		case <-r.ended:
			return
		case <-ctx.Done():
			return
		case a := <-got:
			err = a.err
		}
		if err == nil {
			return
		}
		var refused *ControlError
		if errors.As(err, &refused) && refused.Reason != ReasonFailed && refused.Reason != ReasonUnavailable {
			j.log.Warn("the job cannot be stopped as was asked, and runs on", "err", err)
			if err := j.putBack(ctx, b); err != nil {
				j.log.Warn("recording that the job is to run on", "err", err)
			}
			return
		}
		// The attempt runs on, or it ends: then the next one is asked, here or on another worker.
		j.log.Warn("the job was not stopped as was promised: it is tried again", "err", err)
		if (blocking{}).Sleep(ctx, backoff(n)) != nil || j.basis() != b {
			return
		}
	}
}

// putBack makes the job's intent one to run, unless somebody has changed it.
func (j *Job) putBack(ctx context.Context, b basis) error {
	j.mu.Lock()
	rec, same := j.intent, j.basisLocked() == b
	j.mu.Unlock()
	if !same || rec.Intent == nil {
		return nil
	}
	in := *rec.Intent
	in.Desired, in.Stop = DesiredRunning, nil
	_, err := j.rt.changeIntent(ctx, &in, rec.Revision)
	return err
}
