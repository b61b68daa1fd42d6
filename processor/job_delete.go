package processor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weirstream/weir/barriers"
)

// errRetired says that nothing is left to do for a job on this worker.
var errRetired = errors.New("the job is deleted")

// deleteOnce brings a deletion to its end: tombstone, manifests and objects, savepoints if asked, and last the intent's Cleaned. A
// crash in between is finished by the next worker that may take the job: each step is done again.
func (j *Job) deleteOnce(ctx context.Context, b basis, policy *restartPolicy) error {
	if b.cleaned {
		j.setState(JobDeleted, nil)
		if j.rt.retire(j, b) {
			return errRetired
		}
		j.awaitTurn(ctx, b)
		return nil
	}
	if err := j.occupy(ctx); err != nil {
		return err
	}
	j.vacate()
	j.begin()
	observed, err := j.standBy(ctx, b)
	if err != nil {
		return err
	}
	j.mu.Lock()
	rec := j.intent
	j.mu.Unlock()
	if rec.Intent == nil || rec.Intent.Desired != DesiredDeleted {
		return nil
	}
	if err := j.erase(ctx, observed, rec.Intent.DropSavepoints); err != nil {
		if ctx.Err() != nil {
			return errDrained
		}
		return j.afterFailure(ctx, b, policy, classify(j.id, fmt.Errorf("deleting: %w", err)))
	}
	done := *rec.Intent
	done.Cleaned, done.Changed = true, time.Now().UTC()
	return j.record(ctx, b, policy, &done, rec.Revision)
}

// record writes an intent that says how far this worker has come with it.
func (j *Job) record(ctx context.Context, b basis, policy *restartPolicy, in *Intent, revision uint64) error {
	rev, err := j.rt.cfg.Broker.WriteIntent(ctx, in, revision)
	switch {
	case errors.Is(err, ErrIntentChanged):
		in, rev, err = j.rt.cfg.Broker.ReadIntent(ctx, j.id)
	case err != nil:
		in = nil
	}
	if err != nil {
		return j.afterFailure(ctx, b, policy, err)
	}
	j.rt.heard(IntentRecord{Job: j.id, Intent: in, Revision: rev})
	return nil
}

// erase takes the job and leaves nothing of it but a tombstone, and its savepoints unless they go too.
func (j *Job) erase(ctx context.Context, observed *barriers.HeadRecord, savepoints bool) error {
	if observed.Seq != 0 { // else it never ran
		if err := j.bury(ctx, observed); err != nil {
			return err
		}
	}
	if !savepoints {
		return nil
	}
	// Last, when no attempt can complete another one.
	return barriers.DeleteSavepoints(j.ask(ctx), string(j.id.Tenant), j.id.Name)
}

// bury takes the job and leaves a tombstone, and its savepoints.
func (j *Job) bury(ctx context.Context, observed *barriers.HeadRecord) error {
	ask := j.ask(ctx)
	// As deleted from the first write on, which also lets a manifest be that cannot be read: it goes anyway.
	rec, _, err := barriers.Acquire(ask, barriers.AcquireSpec{
		Tenant: string(j.id.Tenant), Job: j.id.Name, Worker: j.rt.cfg.Worker, Owner: j.rt.process + newNonce()[:processLen],
		State: barriers.StateDeleted, Observed: observed,
	})
	if err != nil {
		return err
	}
	if rec, err = barriers.Delete(ask, rec); err != nil {
		return err
	}
	// Attempts of the epochs before cannot commit any more: whatever they left is an orphan, however young.
	for {
		err := barriers.Cleanup(ask, barriers.CleanupSpec{Record: rec, Orphans: true})
		if !errors.Is(err, barriers.ErrMoreToClean) {
			return err
		}
	}
}
