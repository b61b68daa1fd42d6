package processor

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/tenants"
)

// TakeCheckpoint implements Control.
func (r *Runtime) TakeCheckpoint(ctx context.Context, id tenants.JobID) (CheckpointReport, error) {
	j, err := r.running(ctx, id)
	if err != nil {
		return CheckpointReport{}, err
	}
	ev, err := j.Checkpoint(ctx)
	switch {
	case isCanceled(err):
		return CheckpointReport{}, unavailable(err)
	case err != nil:
		return CheckpointReport{}, &ControlError{ReasonFailed, err.Error(), err}
	}
	rep := CheckpointReport{
		Checkpoint: ev.Checkpoint, Epoch: ev.Epoch, Kind: barriers.KindCheckpoint, State: checkpointCompleted, Started: ev.At.Add(-ev.Duration).UTC(),
		Duration: Duration(ev.Duration), Aligned: Duration(ev.Aligned), Frozen: Duration(ev.Frozen), Uploaded: Duration(ev.Uploaded),
		Committed: Duration(ev.Committed), Released: Duration(ev.Released), DeltaBytes: ev.Bytes, Objects: ev.Objects, Messages: ev.Messages,
	}
	_, _, needs := j.setup()
	if m, err := barriers.ReadCheckpoint(j.ask(ctx), string(id.Tenant), id.Name, ev.Checkpoint); err == nil && len(needs.Sources) > 0 {
		rep.describe(m)
	}
	return rep, nil
}

// States of a checkpoint.
const (
	checkpointCompleted = "completed"
	checkpointFailed    = "failed"
)

// describe adds what the manifest says.
func (rep *CheckpointReport) describe(m *barriers.Manifest) {
	rep.Kind, rep.Epoch = m.Kind, m.Epoch
	rep.Bytes, rep.Objects, rep.Messages = 0, 0, 0
	each := func(objects []barriers.Object) {
		for _, o := range objects {
			rep.Bytes += o.Bytes
			rep.Objects++
		}
	}
	for _, op := range m.Operators {
		each(op.Chain)
	}
	for _, s := range m.Sinks {
		each(s.Pending)
		rep.Messages += s.Total
	}
	rep.Positions = map[string]uint64{}
	for _, s := range m.Sources {
		// A stream that several sources read is read again from the one that is behind.
		if at, ok := rep.Positions[s.Stream]; !ok || s.Position < at {
			rep.Positions[s.Stream] = s.Position
		}
	}
}

// Checkpoints implements Control. Of a job that another process owns it returns what the records say, with a *NotOwnerError: its owner
// also knows of failures, and how long the parts took.
func (r *Runtime) Checkpoints(ctx context.Context, id tenants.JobID) ([]CheckpointReport, error) {
	s, err := r.lookLoosely(ctx, id)
	if err != nil {
		return nil, err
	}
	if !s.exists() {
		return nil, r.unknown(id)
	}
	list, err := r.retained(ctx, &s)
	if err != nil {
		return nil, unavailable(err)
	}
	elsewhere := r.elsewhere(&s)
	if s.job != nil && elsewhere == nil {
		list = mergeHistory(list, s.job.checkpoints())
	}
	slices.SortStableFunc(list, func(a, b CheckpointReport) int { return cmp.Compare(b.Checkpoint, a.Checkpoint) })
	return list, elsewhere
}

// retained reports the checkpoints that the head names.
func (r *Runtime) retained(ctx context.Context, s *subject) ([]CheckpointReport, error) {
	if s.head == nil || s.head.Head.ManifestSeq == 0 {
		return nil, nil
	}
	h := &s.head.Head
	refs := append(slices.Clone(h.Retained), barriers.ManifestRef{Checkpoint: h.Checkpoint, Seq: h.ManifestSeq, Digest: h.Digest})
	var list []CheckpointReport
	for _, ref := range refs {
		m, err := barriers.ReadCheckpoint(askOf(ctx, r.cfg.Broker, s.id), h.Tenant, h.Job, ref.Checkpoint)
		if errors.As(err, new(*barriers.RecordError)) || errors.As(err, new(*barriers.NoCheckpointError)) {
			continue // cleaned up since the head was read
		}
		if err != nil {
			return nil, err
		}
		rep := CheckpointReport{Checkpoint: m.Checkpoint, State: checkpointCompleted, Started: time.Unix(0, m.CreatedAt).UTC()}
		rep.describe(m)
		list = append(list, rep)
	}
	return list, nil
}

// mergeHistory adds to the retained checkpoints what the job's process remembers: failures, and how long the parts of each took.
func mergeHistory(list, history []CheckpointReport) []CheckpointReport {
	at := map[uint64]int{}
	for i, rep := range list {
		at[rep.Checkpoint] = i
	}
	for _, h := range history {
		i, kept := at[h.Checkpoint]
		switch {
		case h.State != checkpointCompleted:
			list = append(list, h)
		case kept:
			rep := &list[i]
			h.Kind, h.Bytes, h.Objects, h.Messages, h.Positions = rep.Kind, rep.Bytes, rep.Objects, rep.Messages, rep.Positions
			*rep = h
		}
	}
	return list
}

// TakeSavepoint implements Control.
func (r *Runtime) TakeSavepoint(ctx context.Context, id tenants.JobID, req SavepointRequest) (SavepointReport, error) {
	if err := tenants.ValidateName("savepoint", req.Name); err != nil {
		return SavepointReport{}, refuse(ReasonBadRequest, "taking a savepoint of job %s: %w", id, err)
	}
	j, err := r.running(ctx, id)
	if err != nil {
		return SavepointReport{}, err
	}
	rep, err := j.savepoint(ctx, req)
	return rep, asFailed(err)
}

// asFailed makes an error of carrying a request out one that says so.
func asFailed(err error) error {
	var known *ControlError
	switch {
	case err == nil, errors.As(err, &known):
		return err
	case isCanceled(err), errors.Is(err, ErrUnavailable):
		return unavailable(err)
	}
	return &ControlError{ReasonFailed, err.Error(), err}
}

// Savepoints implements Control. It asks for no owner: the records tell.
func (r *Runtime) Savepoints(ctx context.Context, id tenants.JobID) ([]SavepointReport, error) {
	s, err := r.lookLoosely(ctx, id)
	if err != nil {
		return nil, err
	}
	list, err := barriers.ListSavepoints(askOf(ctx, r.cfg.Broker, id), string(id.Tenant), id.Name)
	if err != nil && !errors.As(err, new(*barriers.RecordError)) {
		return nil, unavailable(err)
	}
	if err != nil {
		r.cfg.Logger.Error("a savepoint cannot be read: it is not listed", "tenant", string(id.Tenant), "job", id.Name, "err", err)
	}
	if len(list) == 0 && !s.exists() {
		return nil, r.unknown(id)
	}
	out := make([]SavepointReport, len(list))
	for i, m := range list {
		out[i] = savepointReport(m)
	}
	slices.SortStableFunc(out, func(a, b SavepointReport) int { return b.Created.Compare(a.Created) })
	return out, nil
}

// DeleteSavepoint implements Control. It asks for no owner.
func (r *Runtime) DeleteSavepoint(ctx context.Context, id tenants.JobID, name string) error {
	if err := errors.Join(id.Validate(), tenants.ValidateName("savepoint", name)); err != nil {
		return refuse(ReasonBadRequest, "deleting a savepoint of job %s: %w", id, err)
	}
	err := barriers.DeleteSavepoint(askOf(ctx, r.cfg.Broker, id), string(id.Tenant), id.Name, name)
	if errors.As(err, new(*barriers.NoSavepointError)) {
		return refuse(ReasonNotFound, "job %s has no savepoint %s", id, name)
	}
	if err != nil {
		return unavailable(err)
	}
	return nil
}

// Hold implements Control.
func (r *Runtime) Hold(ctx context.Context, id tenants.JobID, hold string, timeout time.Duration) (map[string]Position, error) {
	j, err := r.running(ctx, id)
	if err != nil {
		return nil, err
	}
	at, err := j.hold(ctx, hold, timeout)
	return at, asFailed(err)
}

// Resume implements Control.
func (r *Runtime) Resume(ctx context.Context, id tenants.JobID, hold string) error {
	j, err := r.running(ctx, id)
	if err != nil {
		return err
	}
	return asFailed(j.resume(ctx, hold))
}
