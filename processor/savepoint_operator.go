package processor

import (
	"context"
	"encoding/json"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/state"
)

// SavepointOperator is one operator's keyed state in a Savepoint. The topology's own descriptors read and write it:
//
//	op, err := sp.Operator(ctx, "count")
//	n, err := count.Get(op.Key("total"))
type SavepointOperator struct {
	sp      *Savepoint
	op      barriers.Operator
	drop    []string
	backend *state.Backend // nil: not loaded
}

// load reads the operator's chain into a backend of its own. Older schema versions are upcast.
func (o *SavepointOperator) load(ctx context.Context, descs []state.Descriptor) error {
	s := o.sp
	backend, err := state.NewBackend(state.BackendConfig{
		Tenant: string(s.job.Tenant), Job: s.job.Name, Operator: o.op.Name, Parallelism: 1, KeyGroups: s.manifest.KeyGroups,
	}, descs...)
	if err != nil {
		return err
	}
	objects, err := o.copy(ctx, 0)
	if err != nil {
		return err
	}
	var chain [][]byte
	for _, e := range objects {
		chain = append(chain, e.Data)
	}
	if err := backend.Restore(chain); err != nil {
		return err
	}
	o.backend = backend
	return nil
}

// copy merges the recorded chain into objects that are the operator's under its name here.
func (o *SavepointOperator) copy(ctx context.Context, maxObject int) ([]state.EncodedObject, error) {
	s := o.sp
	objects, err := fetchChain(ctx, s.broker, s.job.Tenant, o.op.Chain)
	if err != nil {
		return nil, err
	}
	id := state.Identity{Tenant: string(s.job.Tenant), Job: s.job.Name, Operator: o.op.Name}
	return state.Rewrite(objects, state.MergeSpec{As: id, Drop: o.drop, MaxObject: maxObject})
}

// save uploads the operator's state and describes it.
func (o *SavepointOperator) save(ctx context.Context, put putObjects) (barriers.Operator, error) {
	out := o.op
	checkpoint := o.sp.manifest.Checkpoint
	var encoded []state.EncodedObject
	var err error
	if o.backend == nil {
		encoded, err = o.copy(ctx, maxObject)
	} else {
		frozen := o.backend.FreezeAll(checkpoint)
		encoded, err = frozen.Encode(maxObject)
		o.backend.Aborted(checkpoint) // the next SaveAs holds everything again
		out.States = stateInfos(o.backend.Infos())
	}
	if err != nil {
		return out, err
	}
	out.Chain, err = put(out.Name, encoded, checkpoint)
	return out, err
}

// Key makes a key the current one and returns what descriptors need to read and write its state. It is valid until the next Key.
func (o *SavepointOperator) Key(key string) state.Context {
	o.backend.SetKey(key)
	return o.backend
}

// Keys returns the keys that have something in the state d, or with nil in any, in byte order.
func (o *SavepointOperator) Keys(d state.Descriptor) ([]string, error) {
	return o.backend.Keys(nameOf(d))
}

// Each calls fn for every key that has something in the state d, or with nil in any, in byte order, until fn returns an error, which
// it returns. fn may change the state.
func (o *SavepointOperator) Each(d state.Descriptor, fn func(c state.Context, key string) error) error {
	return o.backend.EachKey(nameOf(d), func(key string) error { return fn(o.backend, key) })
}

func nameOf(d state.Descriptor) string {
	if d == nil {
		return ""
	}
	return d.Info().Name
}

// JSON returns what a key has in a state of that name, as JSON, and whether it has something.
func (o *SavepointOperator) JSON(state, key string) (json.RawMessage, bool, error) {
	return o.backend.JSON(state, key)
}

// Timers returns the operator's timers.
func (o *SavepointOperator) Timers() *state.Timers { return o.backend.Timers() }

// Clear removes everything a key has: all states and timers.
func (o *SavepointOperator) Clear(key string) { o.backend.ClearKey(key) }
