package processor

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/weirstream/weir/barriers"
)

// errTurned says that what was waited for is no longer wanted: the intent changed.
var errTurned = errors.New("the job is to do something else now")

// standBy returns nil when this worker may try to take the job: nobody owns it, this worker did, its owner let go of it, or the
// owner's heartbeat has stood still for TakeoverAfter on this worker's own clock. Safety does not depend on it. It returns errTurned
// when the job is no longer to do what b says.
func (j *Job) standBy(ctx context.Context, b basis) (*barriers.HeadRecord, error) {
	var watch takeoverWatch
	for {
		changed := j.intents.heard()
		if j.basis() != b {
			return nil, errTurned
		}
		free, rec, err := j.mayTake(ctx, &watch)
		if err != nil && !isCanceled(err) {
			j.log.Warn("looking at the job's owner", "err", err)
			j.setState(JobStandby, err)
		}
		if free {
			return rec, nil
		}
		j.wait(ctx, j.rt.cfg.StandbyInterval, changed)
		if ctx.Err() != nil || j.isStopped() {
			return nil, errDrained
		}
	}
}

func (j *Job) mayTake(ctx context.Context, watch *takeoverWatch) (bool, *barriers.HeadRecord, error) {
	rec, err := barriers.ReadHead(j.ask(ctx), string(j.id.Tenant), j.id.Name)
	if err != nil {
		return false, nil, err
	}
	if rec == nil {
		return true, &barriers.HeadRecord{}, nil // Acquire refuses when somebody else has started the job meanwhile
	}
	switch rec.Head.State {
	case barriers.StateReleased, barriers.StateDeleted, barriers.StateStopped:
		return true, rec, nil
	}
	if rec.Head.Worker == j.rt.cfg.Worker {
		return j.mayTakeBack(rec, watch), rec, nil
	}
	beat, err := j.rt.cfg.Broker.LastHeartbeat(ctx, heartbeatID(rec.Head.Worker, rec.Head.Owner))
	if err != nil {
		return false, nil, err
	}
	if watch.gone(rec.Head.Owner, beat, time.Now(), j.rt.cfg.TakeoverAfter) {
		j.log.Warn("the owner's heartbeat stands still: taking the job over", "owner", rec.Head.Worker)
		return true, rec, nil
	}
	j.standbyOf(rec.Head.Worker)
	return false, nil, nil
}

// mayTakeBack says whether to take a job whose owner has this worker's ID: an earlier attempt of this process, or a dead process
// before it. When it was taken from this very process, another one lives under the same ID, and the heartbeat that both write tells
// nothing: then the head must stand still for longer than a checkpoint may take, lest they take it from each other for ever.
func (j *Job) mayTakeBack(rec *barriers.HeadRecord, watch *takeoverWatch) bool {
	if !j.tried {
		j.heir = rec.Head.Owner // also when the first attempts end before they take the job
	}
	if rec.Head.Owner == j.heir || strings.HasPrefix(rec.Head.Owner, j.rt.process) {
		return true
	}
	cfg := j.Config()
	after := max(j.rt.cfg.TakeoverAfter, 3*cfg.Checkpoint.Interval+cfg.Checkpoint.Timeout)
	if watch.gone(rec.Head.Owner, rec.Seq, time.Now(), after) {
		return true
	}
	j.log.Error("another process runs as this worker: give each its own RuntimeConfig.Worker", "owner", rec.Head.Worker)
	j.standbyOf(rec.Head.Worker)
	return false
}

// takeoverWatch measures how long an owner's heartbeat has stood still.
type takeoverWatch struct {
	owner string
	beat  uint64
	since time.Time
}

func (w *takeoverWatch) gone(owner string, beat uint64, now time.Time, after time.Duration) bool {
	if w.since.IsZero() || owner != w.owner || beat != w.beat {
		w.owner, w.beat, w.since = owner, beat, now
		return false
	}
	return now.Sub(w.since) >= after
}

// wait blocks until the job is to end, changed is closed or, if d is not 0, that long.
func (j *Job) wait(ctx context.Context, d time.Duration, changed <-chan struct{}) {
	var expired <-chan time.Time
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case <-expired:
	case <-changed:
	case <-ctx.Done():
	case <-j.stop:
	}
}
