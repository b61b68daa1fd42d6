package processor

import (
	"context"
	"fmt"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/state"
)

// StateSnapshot is one operator's keyed state in a committed checkpoint, loaded into memory. Descriptors read it as they read
// the live state: count.Get(snapshot.Key("total")). It is a copy: writes to it reach nothing. One goroutine uses it at a time.
type StateSnapshot struct {
	Checkpoint uint64
	backend    *state.Backend
}

// StateBackend makes a snapshot a state.Context.
func (s *StateSnapshot) StateBackend() *state.Backend { return s.backend }

// Key makes key the current one and returns what descriptors read it with.
func (s *StateSnapshot) Key(key string) state.Context {
	s.backend.SetKey(key)
	return s
}

// OpenState reads the state of an operator as the given checkpoint holds it; 0 means the last committed one. The checkpoint may be
// cleaned up while it is read: then the error says so, and a newer one can be tried.
func (j *Job) OpenState(ctx context.Context, checkpoint uint64, operator string) (*StateSnapshot, error) {
	descs, ok := j.topo.Descriptors()[operator]
	if !ok {
		return nil, fmt.Errorf("job %s has no operator %q with state", j.id, operator)
	}
	a := &attempt{job: j.id, topo: j.topo, cfg: j.cfg}
	io := blocking{j.rt.cfg.Broker}
	ask := a.ask(ctx, io)
	m, err := barriers.ReadCheckpoint(ask, string(j.id.Tenant), j.id.Name, checkpoint)
	if err != nil {
		return nil, fmt.Errorf("opening the state of operator %s: %w", operator, err)
	}
	backend, err := state.NewBackend(state.BackendConfig{
		Tenant: m.Tenant, Job: m.Job, Operator: operator, Parallelism: 1, KeyGroups: m.KeyGroups,
		MaxKeyBytes: j.cfg.Quota.KeyBytes, MaxBytes: j.cfg.Quota.StateBytes, AllowDropped: true,
	}, descs...)
	if err != nil {
		return nil, err
	}
	for _, op := range m.Operators {
		if op.Name != operator {
			continue
		}
		objects, err := a.fetch(ctx, io, op.Chain)
		if err != nil {
			return nil, fmt.Errorf("loading checkpoint %d of job %s: %w", m.Checkpoint, j.id, err)
		}
		if err := backend.Restore(objects); err != nil {
			return nil, fmt.Errorf("loading checkpoint %d of job %s: %w", m.Checkpoint, j.id, err)
		}
	}
	return &StateSnapshot{Checkpoint: m.Checkpoint, backend: backend}, nil
}
