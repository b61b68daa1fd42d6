package processor

import (
	"context"
	"errors"
	"slices"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/tenants"
)

// stateTries bounds how often a last checkpoint that was cleaned up while it was read is read again: there is a newer one then.
const stateTries = 5

// ReadState implements Control. Only the live state needs the job's owner.
func (r *Runtime) ReadState(ctx context.Context, id tenants.JobID, req StateRequest) (StateReport, error) {
	switch {
	case req.Checkpoint != 0 && req.Savepoint != "":
		return StateReport{}, refuse(ReasonBadRequest, "reading state of job %s: name a checkpoint or a savepoint, not both", id)
	case req.Key != nil && (req.Operator == "" || req.State == ""):
		return StateReport{}, refuse(ReasonBadRequest, "reading a key of job %s: name the operator and the state that the key is of; without a key the answer lists them", id)
	case req.Key != nil && req.Checkpoint == 0 && req.Savepoint == "":
		j, err := r.running(ctx, id)
		if err != nil {
			return StateReport{}, err
		}
		rep, err := j.readLive(ctx, req)
		return rep, asFailed(err)
	}
	s, err := r.lookLoosely(ctx, id)
	if err != nil {
		return StateReport{}, err
	}
	for n := 1; ; n++ {
		m, err := r.manifestFor(ctx, &s, req)
		if err != nil {
			return StateReport{}, err
		}
		rep, err := r.stateOf(ctx, &s, m, req)
		if !errors.Is(err, ErrObjectMissing) {
			return rep, asFailed(err)
		}
		if req.Checkpoint != 0 || req.Savepoint != "" || n == stateTries {
			return StateReport{}, &ControlError{ReasonNotFound, "what was to be read was removed meanwhile: " + err.Error(), err}
		}
	}
}

// manifestFor reads the checkpoint or savepoint that a request is about.
func (r *Runtime) manifestFor(ctx context.Context, s *subject, req StateRequest) (*barriers.Manifest, error) {
	ask, tenant, name := askOf(ctx, r.cfg.Broker, s.id), string(s.id.Tenant), s.id.Name
	var m *barriers.Manifest
	var err error
	if req.Savepoint != "" {
		if verr := tenants.ValidateName("savepoint", req.Savepoint); verr != nil {
			return nil, refuse(ReasonBadRequest, "reading state of job %s: %w", s.id, verr)
		}
		m, err = barriers.ReadSavepoint(ask, tenant, name, req.Savepoint)
	} else {
		m, err = barriers.ReadCheckpoint(ask, tenant, name, req.Checkpoint)
	}
	switch {
	case err == nil:
		return m, nil
	case errors.As(err, new(*barriers.NoSavepointError)), errors.As(err, new(*barriers.NoCheckpointError)):
		if !s.exists() {
			return nil, r.unknown(s.id)
		}
		return nil, refuse(ReasonNotFound, "%w", err)
	}
	return nil, unavailable(err)
}

func (r *Runtime) stateOf(ctx context.Context, s *subject, m *barriers.Manifest, req StateRequest) (StateReport, error) {
	rep := StateReport{Checkpoint: m.Checkpoint, Operator: req.Operator, State: req.State}
	known := false
	for _, op := range m.Operators {
		if req.Operator != "" && op.Name != req.Operator {
			continue
		}
		known = true
		objects, err := fetchChain(ctx, r.cfg.Broker, s.id.Tenant, op.Chain)
		if err != nil {
			return rep, err
		}
		if req.Key != nil {
			return r.keyOf(s, rep, objects, req)
		}
		described, err := describeState(op, objects, req.State)
		if err != nil {
			return rep, err
		}
		rep.Operators = append(rep.Operators, described)
	}
	if req.Operator != "" && !known {
		names := make([]string, len(m.Operators))
		for i, op := range m.Operators {
			names[i] = op.Name
		}
		return rep, refuse(ReasonNotFound, "checkpoint %d of job %s has no operator %q with state: it has %v", m.Checkpoint, s.id, tenants.Printable(req.Operator), names)
	}
	return rep, nil
}

func describeState(op barriers.Operator, objects [][]byte, only string) (OperatorState, error) {
	out := OperatorState{Operator: op.Name}
	for _, o := range op.Chain {
		out.Bytes += o.Bytes
	}
	contents, err := state.Describe(objects...)
	if err != nil {
		return out, err
	}
	for _, c := range contents {
		if only != "" && c.Name != only || only == "" && c.Name == state.StateTimers && c.Entries == 0 {
			continue // every operator could have timers
		}
		out.States = append(out.States, StateContents{
			Name: c.Name, Kind: c.Kind, Codec: c.Codec, Version: c.Version, Entries: int(c.Entries), Bytes: c.Bytes,
		})
	}
	for _, i := range op.States { // declared, and nothing in it yet
		has := func(c StateContents) bool { return c.Name == i.Name }
		if (only == "" && i.Name != state.StateTimers || i.Name == only) && !slices.ContainsFunc(out.States, has) {
			out.States = append(out.States, StateContents{Name: i.Name, Kind: i.Kind, Codec: i.Codec, Version: i.Version})
		}
	}
	return out, nil
}

// keyOf reads one key, through the topology's descriptors.
func (r *Runtime) keyOf(s *subject, rep StateReport, objects [][]byte, req StateRequest) (StateReport, error) {
	rep.Key = *req.Key
	t, _, err := r.program(s, s.intent)
	if err != nil {
		return rep, err
	}
	descs, ok := t.Descriptors()[req.Operator]
	if !ok {
		return rep, refuse(ReasonNotFound, "topology %s has no operator %q with state: its keys cannot be decoded here", t.Name(), tenants.Printable(req.Operator))
	}
	backend, err := state.ReadKey(objects, *req.Key, descs...)
	if err != nil || backend == nil {
		return rep, err
	}
	rep.Value, rep.Found, err = backend.JSON(req.State, *req.Key)
	if errors.As(err, new(*state.NoSuchStateError)) {
		return rep, refuse(ReasonNotFound, "%w", err)
	}
	return rep, err
}
