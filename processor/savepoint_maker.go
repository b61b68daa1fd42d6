package processor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/state"
)

// savepointMaker makes one savepoint of a committed checkpoint whose output is released.
type savepointMaker struct {
	a           *attempt
	name        string
	from        *barriers.Manifest // nil: to be read
	checkpoint  uint64
	markers     map[string]barriers.MarkerSeen
	head        barriers.Head
	reservation barriers.Reservation
	mark        *barriers.Mark
	stored      []barriers.Object
}

func (s *savepointMaker) run(ctx context.Context, io effects) (SavepointReport, error) {
	ask := s.a.ask(ctx, io)
	if s.from == nil {
		var err error
		if s.from, err = barriers.ReadCheckpoint(ask, s.head.Tenant, s.head.Job, s.checkpoint); err != nil {
			return SavepointReport{}, err
		}
	}
	exists, err := barriers.ReserveSavepoint(ask, s.reservation)
	var taken *barriers.SavepointExistsError
	switch {
	case errors.As(err, &taken):
		return SavepointReport{}, &ControlError{Reason: ReasonConflict, Message: taken.Error(), Err: err}
	case exists != nil:
		return savepointReport(exists), nil
	}
	if err == nil {
		var m *barriers.Manifest
		if m, err = s.copy(ctx, io); err == nil {
			if m, err = barriers.WriteSavepoint(ask, m); err == nil {
				return savepointReport(m), nil
			}
		}
	}
	if ctx.Err() != nil && s.a.ctx.Err() == nil {
		err = fmt.Errorf("nothing was stored for %s: %w", s.a.cfg.Checkpoint.Timeout, err)
	}
	return s.abandon(io, err)
}

// abandon leaves nothing behind. What it was doing may have been cancelled; this is not.
func (s *savepointMaker) abandon(io effects, cause error) (SavepointReport, error) {
	ask := s.a.ask(s.a.ctx, io)
	exists, err := barriers.AbandonSavepoint(ask, s.reservation)
	if exists != nil {
		return savepointReport(exists), nil
	}
	if err != nil {
		return SavepointReport{}, errors.Join(cause, err) // the objects stay for the clean-up, which can tell
	}
	for _, o := range s.stored {
		// What cannot be removed now is an orphan.
		_ = ask(barriers.Request{Op: barriers.OpDeleteObject, Key: o.Name})
	}
	return SavepointReport{}, cause
}

// copy stores every operator's state in objects of the savepoint's own and returns its manifest.
func (s *savepointMaker) copy(ctx context.Context, io effects) (*barriers.Manifest, error) {
	m := *s.from
	m.Kind, m.Savepoint, m.Request, m.Mark = barriers.KindSavepoint, s.name, s.reservation.Request, s.mark
	m.Owner, m.CreatedAt, m.Weir = s.reservation.Owner, s.a.drv.now().UnixNano(), Version
	m.RestoredFrom, m.Origin, m.Owed = "", "", nil
	m.Operators, m.Sinks = slices.Clone(m.Operators), slices.Clone(m.Sinks)
	for i := range m.Sinks {
		k := &m.Sinks[i]
		k.Total, k.Pending = 0, nil
		if seen, ok := s.markers[k.Name]; ok {
			k.Seen = seen
		}
	}
	names := objectNames{prefix: barriers.SavepointPrefix(m.Job, s.name), nonce: s.reservation.Owner, next: &s.a.names}
	total := int64(0)
	for _, op := range s.from.Operators {
		for _, o := range op.Chain {
			total += o.Bytes
		}
	}
	for i := range m.Operators {
		op := &m.Operators[i]
		u := &upload{job: s.a.job, checkpoint: m.Checkpoint, names: names, io: io, timeout: s.a.cfg.Checkpoint.Timeout, wait: s.wait}
		objects, err := s.merge(ctx, io, op.Chain)
		if err == nil {
			op.Chain, err = u.putAll(ctx, op.Name, 0, objects)
			s.stored = append(s.stored, op.Chain...)
		}
		if err != nil {
			return nil, fmt.Errorf("copying the state of operator %s: %w", op.Name, err)
		}
		stored := u.result.bytes
		s.a.drv.spawn(s.a.ctx, func(context.Context, effects) ctlEvent {
			return ctlSavepointMoved{name: s.name, bytes: stored, total: total}
		})
	}
	return &m, nil
}

func (s *savepointMaker) merge(ctx context.Context, io effects, chain []barriers.Object) ([]state.EncodedObject, error) {
	objects, err := s.a.fetch(ctx, io, chain)
	if err != nil {
		return nil, err
	}
	return state.Merge(objects, maxObject)
}

// wait hears why an upload waits.
func (s *savepointMaker) wait(err error) {
	if errors.Is(err, ErrFull) {
		s.a.drv.spawn(s.a.ctx, func(context.Context, effects) ctlEvent { return ctlSavepointMoved{name: s.name, full: true} })
	}
}

// savepointReport describes a savepoint.
func savepointReport(m *barriers.Manifest) SavepointReport {
	r := SavepointReport{
		Name: m.Savepoint, Tenant: m.Tenant, Job: m.Job, Checkpoint: m.Checkpoint, Epoch: m.Epoch, Created: time.Unix(0, m.CreatedAt).UTC(),
		Positions: map[string]Position{}, Origin: m.Origin, Mark: m.Mark, Topology: cmp.Or(m.TopologyName, m.Topology), Weir: m.Weir,
	}
	for _, s := range m.Sources {
		r.Positions[s.Name] = Position{Stream: s.Stream, Sequence: s.Position}
	}
	for _, op := range m.Operators {
		for _, o := range op.Chain {
			r.Bytes += o.Bytes
			r.Objects++
		}
	}
	return r
}
