package processor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/tenants"
)

// Savepoint is a copy of a job's state outside of a running job, to be read, changed and saved under a new name. What it was opened
// from is never changed, and neither is the job. A job starts from what was saved with StartPoint{From: FromSavepoint}.
//
// An operator's state is loaded whole when it is asked for; what is not asked for is copied as it is. It is used from one goroutine.
type Savepoint struct {
	broker   Broker
	topology *Topology
	job      tenants.JobID
	manifest barriers.Manifest // Operators are in ops
	ops      []*SavepointOperator
}

// BootstrapSpec describes a savepoint that is made from nothing.
type BootstrapSpec struct {
	KeyGroups int // of the job for its whole life, see JobConfig. Zero: 128
}

// OpenSavepoint opens a savepoint of a job. topology is the program whose descriptors read the state; nil if no state is to be
// read. A *barriers.NoSavepointError says that there is none of this name.
func OpenSavepoint(ctx context.Context, broker Broker, topology *Topology, job tenants.JobID, name string) (*Savepoint, error) {
	m, err := barriers.ReadSavepoint(askOf(ctx, broker, job), string(job.Tenant), job.Name, name)
	if err != nil {
		return nil, fmt.Errorf("opening savepoint %s of job %s: %w", name, job, err)
	}
	return openSavepoint(broker, topology, job, m, "savepoint "+name), nil
}

// OpenCheckpoint opens a committed checkpoint that the job retains, 0 the latest. A job that runs may clean up an older one at any
// time: then loading an operator fails with ErrObjectMissing.
func OpenCheckpoint(ctx context.Context, broker Broker, topology *Topology, job tenants.JobID, checkpoint uint64) (*Savepoint, error) {
	m, err := barriers.ReadCheckpoint(askOf(ctx, broker, job), string(job.Tenant), job.Name, checkpoint)
	if err != nil {
		return nil, fmt.Errorf("opening a checkpoint of job %s: %w", job, err)
	}
	return openSavepoint(broker, topology, job, m, fmt.Sprintf("checkpoint %d", m.Checkpoint)), nil
}

// NewSavepoint begins with no state and no positions, for a job that is to start from a history that was worked out elsewhere. The
// job need not exist yet. Sources without a position begin at the beginning of their streams.
func NewSavepoint(broker Broker, topology *Topology, job tenants.JobID, spec BootstrapSpec) (*Savepoint, error) {
	setDefault(&spec.KeyGroups, JobConfig{}.withDefaults(topology).KeyGroups)
	if spec.KeyGroups < 1 || spec.KeyGroups > MaxParallelism {
		return nil, fmt.Errorf("making a savepoint: %d key groups: use 1 to %d", spec.KeyGroups, MaxParallelism)
	}
	if err := job.Validate(); err != nil {
		return nil, fmt.Errorf("making a savepoint: %w", err)
	}
	s := &Savepoint{broker: broker, topology: topology, job: job, manifest: barriers.Manifest{
		Tenant: string(job.Tenant), Job: job.Name, Checkpoint: 1, Epoch: 1, Parallelism: 1, KeyGroups: spec.KeyGroups,
		RestoredFrom: "nothing",
	}}
	for _, name := range sortedKeys(topology.Descriptors()) {
		s.ops = append(s.ops, &SavepointOperator{sp: s, op: barriers.Operator{Name: name}})
	}
	return s, nil
}

func openSavepoint(broker Broker, topology *Topology, job tenants.JobID, m *barriers.Manifest, from string) *Savepoint {
	s := &Savepoint{broker: broker, topology: topology, job: job, manifest: *m}
	s.manifest.RestoredFrom = from
	s.manifest.Sources, s.manifest.Operators = slices.Clone(m.Sources), nil
	for _, op := range m.Operators {
		s.ops = append(s.ops, &SavepointOperator{sp: s, op: op})
	}
	return s
}

// Manifest returns what was opened, as it was recorded.
func (s *Savepoint) Manifest() barriers.Manifest {
	m := s.manifest
	for _, o := range s.ops {
		m.Operators = append(m.Operators, o.op)
	}
	return m
}

// Operators returns the names of the operators that have state here, in their recorded order.
func (s *Savepoint) Operators() []string {
	names := make([]string, len(s.ops))
	for i, o := range s.ops {
		names[i] = o.op.Name
	}
	return names
}

// Operator loads an operator's state. The topology must have an operator of the name, with states that fit: rename or drop what does
// not before. An operator that the topology has and the savepoint has not is empty.
func (s *Savepoint) Operator(ctx context.Context, name string) (*SavepointOperator, error) {
	o := s.find(name)
	if o != nil && o.backend != nil {
		return o, nil
	}
	if s.topology == nil {
		return nil, fmt.Errorf("reading operator %s: the savepoint was opened without a topology", name)
	}
	descriptors := s.topology.Descriptors()
	descs, ok := descriptors[name]
	if !ok {
		return nil, fmt.Errorf("reading operator %s: topology %s has no operator of this name with state; it has %v: rename the savepoint's operator, or drop it",
			name, s.topology.Name(), sortedKeys(descriptors))
	}
	if o == nil {
		o = &SavepointOperator{sp: s, op: barriers.Operator{Name: name}}
		s.ops = append(s.ops, o)
	}
	if err := o.load(ctx, descs); err != nil {
		return nil, fmt.Errorf("reading operator %s: %w", name, err)
	}
	return o, nil
}

func (s *Savepoint) find(name string) *SavepointOperator {
	for _, o := range s.ops {
		if o.op.Name == name {
			return o
		}
	}
	return nil
}

// Rename gives an operator another name, as when the program did so.
func (s *Savepoint) Rename(from, to string) error {
	o := s.find(from)
	switch {
	case o == nil:
		return fmt.Errorf("renaming operator %s: the savepoint has %v", from, s.Operators())
	case s.find(to) != nil:
		return fmt.Errorf("renaming operator %s: the savepoint has an operator %s already: drop that first", from, to)
	case o.backend != nil:
		return fmt.Errorf("renaming operator %s: its state is loaded: rename before reading it", from)
	}
	if err := tenants.ValidateName("operator", to); err != nil {
		return fmt.Errorf("renaming operator %s: %w", from, err)
	}
	o.op.Name = to
	return nil
}

// Drop removes an operator's state, or with names only these states of it.
func (s *Savepoint) Drop(operator string, states ...string) error {
	o := s.find(operator)
	if o == nil {
		return fmt.Errorf("dropping operator %s: the savepoint has %v", operator, s.Operators())
	}
	if len(states) == 0 {
		s.ops = slices.DeleteFunc(s.ops, func(x *SavepointOperator) bool { return x == o })
		return nil
	}
	if o.backend != nil {
		return fmt.Errorf("dropping states of operator %s: its state is loaded: drop before reading it", operator)
	}
	for _, name := range states {
		if !slices.ContainsFunc(o.op.States, func(i barriers.StateInfo) bool { return i.Name == name }) {
			return fmt.Errorf("dropping state %q of operator %s: the savepoint has no such state", name, operator)
		}
	}
	o.drop = append(o.drop, states...)
	o.op.States = slices.DeleteFunc(slices.Clone(o.op.States), func(i barriers.StateInfo) bool { return slices.Contains(o.drop, i.Name) })
	return nil
}

// Positions returns where each source goes on, by its name. A source that is missing begins at the beginning.
func (s *Savepoint) Positions() map[string]Position {
	out := map[string]Position{}
	for _, src := range s.manifest.Sources {
		out[src.Name] = Position{Stream: src.Stream, Sequence: src.Position}
	}
	return out
}

// SetPosition makes a source go on behind a sequence of a stream. With the stream it has, later records are forgotten and the
// stream is still checked against the earlier ones; any other stream is taken as it is found when the job starts. Going back does not
// turn event time back, see ResetTime.
func (s *Savepoint) SetPosition(source string, at Position) error {
	if at.Stream == "" {
		return fmt.Errorf("setting the position of source %s: it names no stream", source)
	}
	if s.topology != nil && !slices.ContainsFunc(s.topology.nodes, func(n *node) bool { return n.source != nil && n.name == source }) {
		return fmt.Errorf("setting the position of source %s: topology %s has no such source", source, s.topology.Name())
	}
	i := slices.IndexFunc(s.manifest.Sources, func(src barriers.Source) bool { return src.Name == source })
	if i < 0 {
		s.manifest.Sources = append(s.manifest.Sources, barriers.Source{Name: source})
		i = len(s.manifest.Sources) - 1
	}
	src := &s.manifest.Sources[i]
	if src.Stream != at.Stream {
		*src = barriers.Source{Name: source, Stream: at.Stream, Watermark: src.Watermark, Idle: src.Idle}
	}
	src.Position = at.Sequence
	src.Tail = slices.DeleteFunc(slices.Clone(src.Tail), func(f barriers.Fingerprint) bool { return f.Seq > at.Sequence })
	return nil
}

// ResetTime forgets every watermark: event time begins anew with the first records. Timers and panes stay as they are.
func (s *Savepoint) ResetTime() {
	for i := range s.manifest.Sources {
		s.manifest.Sources[i].Watermark, s.manifest.Sources[i].Idle = nil, false
	}
	for _, o := range s.ops {
		o.op.Watermark = nil
	}
}

// SaveAs writes everything as a new savepoint of the job. A *barriers.SavepointExistsError says that the name is taken. Nothing that
// fails leaves a savepoint behind, and one cannot be seen before it is complete. The Savepoint may be changed on and saved again
// under another name.
func (s *Savepoint) SaveAs(ctx context.Context, name string) (*barriers.Manifest, error) {
	m := s.manifest
	m.Kind, m.Savepoint, m.CreatedAt, m.Weir = barriers.KindSavepoint, name, time.Now().UnixNano(), Version
	m.Mark, m.Owed, m.Request = nil, nil, ""
	m.Sinks = slices.Clone(m.Sinks)
	for i := range m.Sinks {
		m.Sinks[i].Total, m.Sinks[i].Pending = 0, nil
	}
	if s.topology != nil {
		m.Topology, m.TopologyName = s.topology.Fingerprint(), s.topology.Name()
	}
	w := newSavepointWriter(s.broker, s.job, name, "")
	if err := w.write(ctx, &m, func(put putObjects) error {
		for _, o := range s.ops {
			op, err := o.save(ctx, put)
			if err != nil {
				return fmt.Errorf("saving operator %s: %w", o.op.Name, err)
			}
			m.Operators = append(m.Operators, op)
		}
		return nil
	}); err != nil {
		return nil, fmt.Errorf("saving savepoint %s of job %s: %w", name, s.job, err)
	}
	return &m, nil
}

// savepointWriter writes a savepoint that no running attempt makes: reserve, upload, write, and clean up what failed.
type savepointWriter struct {
	broker      Broker
	job         tenants.JobID
	reservation barriers.Reservation
	names       int
	uploaded    []string
}

// putObjects stores encoded objects of one operator and returns how a manifest names them.
type putObjects func(operator string, encoded []state.EncodedObject, checkpoint uint64) ([]barriers.Object, error)

func newSavepointWriter(broker Broker, job tenants.JobID, name, request string) *savepointWriter {
	return &savepointWriter{broker: broker, job: job, reservation: barriers.Reservation{
		Tenant: string(job.Tenant), Job: job.Name, Savepoint: name, Owner: "offline-" + rand.Text(), Request: request,
	}}
}

// write completes m, whose objects fill uploads. m is what stands under the name in the end.
func (w *savepointWriter) write(ctx context.Context, m *barriers.Manifest, fill func(putObjects) error) error {
	ask := askOf(ctx, w.broker, w.job)
	done, err := barriers.ReserveSavepoint(ask, w.reservation)
	if err != nil {
		return err
	}
	if done != nil {
		*m = *done
		return nil
	}
	m.Owner = w.reservation.Owner
	put := func(operator string, encoded []state.EncodedObject, checkpoint uint64) ([]barriers.Object, error) {
		return w.put(ctx, operator, encoded, checkpoint)
	}
	if err := fill(put); err != nil {
		return errors.Join(err, w.abandon(ctx))
	}
	is, err := barriers.WriteSavepoint(ask, m)
	if err != nil {
		return errors.Join(err, w.abandon(ctx))
	}
	*m = *is
	return nil
}

func (w *savepointWriter) put(ctx context.Context, operator string, encoded []state.EncodedObject, checkpoint uint64) ([]barriers.Object, error) {
	var objects []barriers.Object
	for _, e := range encoded {
		w.names++
		name := fmt.Sprintf("%s%s-%d-%s", barriers.SavepointPrefix(w.job.Name, w.reservation.Savepoint), operator, w.names, w.reservation.Owner)
		obj, err := w.broker.Put(ctx, w.job.Tenant, name, e.Data)
		if err != nil {
			return nil, fmt.Errorf("uploading object %s: %w", name, err)
		}
		w.uploaded = append(w.uploaded, obj.Name)
		obj.Base, obj.Checkpoint, obj.FirstGroup, obj.LastGroup = e.Base, checkpoint, e.FirstGroup, e.LastGroup
		objects = append(objects, obj)
	}
	return objects, nil
}

// abandon removes what a failed writer left. It goes on when the caller's context has ended; what it cannot remove, the job's search
// for orphans does.
func (w *savepointWriter) abandon(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	ask := askOf(ctx, w.broker, w.job)
	m, err := barriers.AbandonSavepoint(ask, w.reservation)
	if err != nil || m != nil {
		return err
	}
	for _, name := range w.uploaded {
		if r := ask(barriers.Request{Op: barriers.OpDeleteObject, Key: name}); r.Status != barriers.OK && r.Status != barriers.NotFound {
			return fmt.Errorf("removing object %s: %w", name, r.Err)
		}
	}
	return nil
}

// fetchChain reads an operator's objects in order.
func fetchChain(ctx context.Context, store SnapshotStore, tenant tenants.ID, chain []barriers.Object) ([][]byte, error) {
	objects := make([][]byte, 0, len(chain))
	for _, ref := range chain {
		data, err := store.Get(ctx, tenant, ref)
		if err != nil {
			return nil, fmt.Errorf("object %s in bucket %s: %w", ref.Name, ref.Bucket, err)
		}
		objects = append(objects, data)
	}
	return objects, nil
}

// stateInfos is what a manifest records of states.
func stateInfos(infos []state.StateInfo) []barriers.StateInfo {
	seen := map[string]bool{}
	var out []barriers.StateInfo
	for _, i := range infos {
		if !seen[i.Name] {
			out = append(out, barriers.StateInfo{Name: i.Name, Kind: i.Kind, Codec: i.Codec, Version: i.Version})
		}
		seen[i.Name] = true
	}
	return out
}
