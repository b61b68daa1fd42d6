package processor

import (
	"context"
	"errors"
	"fmt"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/tenants"
)

// Starting from somewhere else than the latest checkpoint is a commit of its own, behind the acquire, the fence and the release of
// what is owed: a manifest of kind start, with an ID above every earlier one, the source's state and positions, no pending output
// and the request's ID. The request counts as applied with the head write and not before: an attempt that crashes anywhere in
// between is followed by one that does it again, and one behind it goes on as from any other checkpoint.
//
// The manifest refers to objects of the job's own only. A retained checkpoint's are: whoever cleans up by a head that retains it keeps
// them (barriers.Cleanup), and so does whoever cleans up by a later head, which names the start. A savepoint's and another job's
// are not: they are copied before the commit into objects of this epoch, so that savepoints may be deleted, and the other job may
// clean up, at any time.

// startSource is what a job starts from.
type startSource struct {
	point    StartPoint
	manifest *barriers.Manifest // nil: nothing, the job starts fresh
}

// pendingStart returns the start that is to be applied; nil: none is, or it was.
func (a *attempt) pendingStart(rec *barriers.HeadRecord) *StartPoint {
	p := a.cfg.Start
	if p.From == FromLatest || rec != nil && rec.Head.Request == p.request() {
		return nil
	}
	return &p
}

// mayGoOn refuses to start a job empty that has had state.
func (a *attempt) mayGoOn(rec *barriers.HeadRecord) error {
	if rec == nil || rec.Head.ManifestSeq != 0 || rec.Head.Checkpoint == 0 && rec.Head.State != barriers.StateDeleted {
		return nil
	}
	what := fmt.Sprintf("a start after checkpoint %d was begun and not completed", rec.Head.Checkpoint)
	if rec.Head.State == barriers.StateDeleted {
		what = "it was deleted"
	}
	return Terminal(fmt.Errorf("job %s: %w: %s: start it fresh, or from a savepoint or another job's checkpoint", a.job, ErrNoState, what))
}

// startTries bounds how often a source that was cleaned up while it was read is looked for again.
const startTries = 5

// findSource reads the manifest that a start begins with. A *StartGoneError says that there is none.
func (a *attempt) findSource(ask barriers.Ask, p StartPoint) (*startSource, error) {
	src := &startSource{point: p}
	if p.From == FromFresh {
		return src, nil
	}
	tenant, job := string(a.job.Tenant), a.job.Name
	if p.Job != "" {
		job = p.Job
	}
	var err error
	for range startTries {
		if p.From == FromSavepoint {
			src.manifest, err = barriers.ReadSavepoint(ask, tenant, job, p.Savepoint)
		} else {
			src.manifest, err = barriers.ReadCheckpoint(ask, tenant, job, p.Checkpoint)
		}
		if !errors.As(err, new(*barriers.RecordError)) || p.From == FromSavepoint {
			break
		}
		// The other job's owner may have cleaned it up since its head was read.
	}
	if err == nil {
		return src, nil
	}
	if errors.As(err, new(*barriers.NoSavepointError)) || errors.As(err, new(*barriers.NoCheckpointError)) {
		return nil, Terminal(&StartGoneError{Job: a.job, Start: p, Err: err})
	}
	return nil, classify(a.job, err)
}

// checkSource compares a start's source with the topology and the streams, before anything is taken from a running owner.
func (a *attempt) checkSource(ctx context.Context, io effects, src *startSource, bind Bindings) error {
	m := src.manifest
	if m == nil {
		return nil
	}
	if problems := a.problems(m); len(problems) > 0 {
		return Terminal(&IncompatibleError{Job: a.job, Problems: problems})
	}
	positions := a.positionsOf(m)
	for _, b := range bind.Sources {
		if _, ok := positions[b.Source]; !ok {
			continue
		}
		spec, err := a.readerSpec(b, positions)
		if err != nil {
			return err
		}
		if err := validateStream(ctx, io, spec); err != nil {
			return err
		}
	}
	return nil
}

// validateStream opens a reader and closes it: that is what compares the stream with the position and the fingerprints.
func validateStream(ctx context.Context, io Transport, spec ReaderSpec) error {
	r, err := io.OpenReader(ctx, spec)
	if err != nil {
		return err
	}
	r.Close()
	return nil
}

// positionsOf returns the recorded positions of the topology's sources.
func (a *attempt) positionsOf(m *barriers.Manifest) map[string]barriers.Source {
	positions := map[string]barriers.Source{}
	if m == nil {
		return positions
	}
	for _, n := range a.needs.Sources {
		for _, s := range m.Sources {
			if s.Name == n.Source {
				positions[s.Name] = s
			}
		}
	}
	return positions
}

// startFrom commits the manifest of a start and returns it. Everything that cur, the one committed until now, owes is released.
func (a *attempt) startFrom(ctx context.Context, io effects, s *started, p StartPoint, cur *barriers.Manifest) (*barriers.Manifest, error) {
	var src *startSource
	var operators []barriers.Operator
	for n := 1; ; n++ {
		var err error
		if src, err = a.findSource(a.ask(ctx, io), p); err != nil {
			return nil, err
		}
		if err = a.checkSource(ctx, io, src, s.bind); err != nil {
			return nil, err
		}
		operators, err = a.takeState(ctx, io, s, src)
		if err == nil {
			break
		}
		// The last checkpoint of another job moves on while it is copied: then there is a newer one.
		if !errors.As(err, new(*StartGoneError)) || p.From != FromCheckpoint || p.Checkpoint != 0 || n == startTries {
			return nil, err
		}
	}
	m, err := a.composeStart(s, src, operators)
	if err != nil {
		return nil, Terminal(err)
	}
	var pinned []uint64
	if cur != nil {
		// What marks have asked for is still made, of the checkpoints that they were cut with.
		for _, o := range cur.Owed {
			m.Owed, pinned = append(m.Owed, o), append(pinned, o.Checkpoint)
		}
	}
	rec, err := barriers.Commit(a.ask(ctx, io), s.rec, m, a.cfg.Checkpoint.Retained, pinned...)
	if err != nil {
		return nil, classify(a.job, fmt.Errorf("committing the start from %s: %w", p, err))
	}
	s.rec = rec
	a.log.Info("the job starts from elsewhere", "from", m.RestoredFrom, "checkpoint", m.Checkpoint)
	return m, nil
}

// takeState returns the state that a start begins with, as objects of the job's own. Operators that the topology no longer has are
// left out: checkSource has allowed it.
func (a *attempt) takeState(ctx context.Context, io effects, s *started, src *startSource) ([]barriers.Operator, error) {
	if src.manifest == nil {
		return nil, nil
	}
	descriptors := a.topo.Descriptors()
	own := src.point.From == FromCheckpoint && !src.point.foreign(a.job)
	var out []barriers.Operator
	for _, op := range src.manifest.Operators {
		if _, ok := descriptors[op.Name]; !ok {
			continue
		}
		if !own {
			chain, err := a.copyState(ctx, io, s, src, op)
			if err != nil {
				return nil, err
			}
			op.Chain = chain
		}
		out = append(out, op)
	}
	return out, nil
}

// copyState copies an operator's chain into a new base of this job.
func (a *attempt) copyState(ctx context.Context, io effects, s *started, src *startSource, op barriers.Operator) ([]barriers.Object, error) {
	objects, err := a.fetch(ctx, io, op.Chain)
	if errors.Is(err, ErrObjectMissing) || errors.As(err, new(*CorruptError)) { // one that is being removed loses its content first
		return nil, a.whyMissing(ctx, io, src, err)
	}
	if err != nil {
		return nil, fmt.Errorf("copying the state of operator %s: %w", op.Name, err)
	}
	encoded, err := state.MergeAs(objects, state.Identity{Tenant: string(a.job.Tenant), Job: a.job.Name, Operator: op.Name}, maxObject)
	if err != nil {
		return nil, Terminal(fmt.Errorf("copying the state of operator %s: %w", op.Name, err))
	}
	id := s.rec.Head.Checkpoint + 1
	u := &upload{
		job: a.job, checkpoint: id, io: io, timeout: a.cfg.Checkpoint.Timeout, wait: a.onWait,
		names: objectNames{prefix: barriers.ObjectPrefix(a.job.Name, s.rec.Head.Epoch, id), nonce: a.nonce, next: &a.names},
	}
	return u.putAll(ctx, op.Name, 0, encoded)
}

// whyMissing tells a source that was removed while it was read from one that is damaged.
func (a *attempt) whyMissing(ctx context.Context, io effects, src *startSource, missing error) error {
	p := src.point
	if p.From == FromCheckpoint {
		p.Checkpoint = src.manifest.Checkpoint
	}
	now, err := a.findSource(a.ask(ctx, io), p)
	switch {
	case errors.As(err, new(*StartGoneError)):
		return err
	case err != nil:
		return errors.Join(missing, err)
	case now.manifest.Owner != src.manifest.Owner || now.manifest.CreatedAt != src.manifest.CreatedAt: // another one of the same name
		return Terminal(&StartGoneError{Job: a.job, Start: src.point, Err: fmt.Errorf("it was replaced while it was read: %w", missing)})
	}
	return missing
}

// composeStart builds the manifest of a start.
func (a *attempt) composeStart(s *started, src *startSource, operators []barriers.Operator) (*barriers.Manifest, error) {
	h := &s.rec.Head
	params, err := encodeParams(a.cfg.Params)
	if err != nil {
		return nil, err
	}
	values, err := a.topo.resolveParams(params)
	if err != nil {
		return nil, err
	}
	m := &barriers.Manifest{
		Kind: barriers.KindStart, Tenant: h.Tenant, Job: h.Job, Checkpoint: h.Checkpoint + 1, Epoch: h.Epoch, Owner: a.nonce,
		CreatedAt: a.drv.now().UnixNano(), Weir: Version, Topology: a.topo.Fingerprint(), TopologyName: a.topo.Name(), Config: s.config,
		Parallelism: a.cfg.Parallelism, KeyGroups: a.cfg.KeyGroups, Params: (&plan{topology: a.topo, params: values}).paramText(),
		Operators: operators, RestoredFrom: src.point.String(), Request: src.point.request(), Choices: a.choices(),
	}
	if from := src.manifest; from != nil {
		m.KeyGroups = from.KeyGroups
		positions := a.positionsOf(from)
		for _, n := range a.needs.Sources {
			if pos, ok := positions[n.Source]; ok {
				m.Sources = append(m.Sources, pos)
			}
		}
		if src.point.From == FromCheckpoint && src.point.Checkpoint == 0 {
			m.RestoredFrom = fmt.Sprintf("checkpoint %d of job %s", from.Checkpoint, src.point.Job)
		}
	}
	// The markers as they stand now: what the next takeover verifies.
	for _, b := range s.bind.Sinks {
		if b.Marker != "" {
			m.Sinks = append(m.Sinks, barriers.Sink{Name: b.Sink, Stream: b.Stream, Created: b.Created, Subject: b.Marker, Seen: s.markers[b.Sink]})
		}
	}
	return m, nil
}

// problems compares recorded state with the topology and the configuration: everything that does not fit.
func (a *attempt) problems(m *barriers.Manifest) []error {
	var errs []error
	if a.cfg.Parallelism > m.KeyGroups {
		errs = append(errs, fmt.Errorf("parallelism %d is above the %d key groups that the state has: use at most %d", a.cfg.Parallelism, m.KeyGroups, m.KeyGroups))
	}
	descriptors := a.topo.Descriptors()
	for _, op := range m.Operators {
		descs, ok := descriptors[op.Name]
		if !ok {
			if len(op.Chain) > 0 && !a.cfg.AllowDroppedState {
				errs = append(errs, fmt.Errorf("operator %s has state in the checkpoint and is not in the topology: put it back, or set AllowDroppedState", op.Name))
			}
			continue
		}
		for _, p := range state.CheckCompatible(stateInfosOf(op), descs) {
			if !p.Undeclared || !a.cfg.AllowDroppedState {
				errs = append(errs, fmt.Errorf("operator %s, state %q: %s", op.Name, p.State, p.Detail))
			}
		}
	}
	return errs
}

func stateInfosOf(op barriers.Operator) []state.StateInfo {
	infos := make([]state.StateInfo, len(op.States))
	for i, s := range op.States {
		infos[i] = state.StateInfo{Name: s.Name, Kind: s.Kind, Codec: s.Codec, Version: s.Version}
	}
	return infos
}

// finishStop brings a job that is to stop, and whose owner is gone, to its end: what it owes is published, then its head says so.
func (a *attempt) finishStop(ctx context.Context, io effects, rec *barriers.HeadRecord) error {
	if rec == nil || rec.Head.State == barriers.StateStopped || rec.Head.State == barriers.StateDeleted {
		return errStopped
	}
	bind, err := io.Bind(ctx, a.needs)
	if err != nil {
		return err
	}
	s := &started{bind: bind, markers: map[string]barriers.MarkerSeen{}}
	m, err := a.acquire(ctx, io, s, barriers.StateStopping)
	if err != nil {
		return err
	}
	if err := a.settle(ctx, io, s, m); err != nil {
		if ClassOf(err) == ClassTerminal {
			err = a.judge(ctx, io, err)
		}
		return err
	}
	if _, err := barriers.LetGo(a.ask(ctx, io), s.rec, barriers.StateStopped); err != nil {
		return classify(a.job, fmt.Errorf("recording that the job has stopped: %w", err))
	}
	return errStopped
}

// CheckStart says everything that would keep a job from starting with this topology and configuration: names, parameters, streams,
// state, positions. It changes nothing. nil: it would start.
func CheckStart(ctx context.Context, broker Broker, t *Topology, job tenants.JobID, cfg JobConfig) []error {
	cfg.Name = job.Name
	cfg = cfg.withDefaults(t)
	needs, err := prepareJob(t, job, cfg, broker.Namespace())
	if err != nil {
		return flatten(err)
	}
	var errs []error
	if _, err := broker.Check(ctx, needs); err != nil {
		errs = flatten(err)
	}
	a := &attempt{job: job, topo: t, cfg: cfg, needs: needs, ctx: ctx}
	io := blocking{broker}
	ask := a.ask(ctx, io)
	rec, m, err := barriers.Inspect(ask, string(job.Tenant), job.Name)
	if err != nil {
		return append(errs, classify(job, err))
	}
	if p := a.pendingStart(rec); p != nil {
		src, err := a.findSource(ask, *p)
		if err != nil {
			return append(errs, err)
		}
		m = src.manifest
	} else if err := a.mayGoOn(rec); err != nil {
		return append(errs, err)
	}
	if m == nil {
		return errs
	}
	errs = append(errs, a.problems(m)...)
	positions := a.positionsOf(m)
	for _, n := range needs.Sources {
		old, ok := positions[n.Source]
		if !ok {
			continue
		}
		b := SourceBinding{Source: n.Source, Stream: old.Stream, Filter: broker.Namespace().Absolute(job.Tenant, string(n.Filter))}
		if n.Stream != "" {
			b.Stream = n.Stream
		}
		spec, err := a.readerSpec(b, positions)
		if err == nil {
			err = validateStream(ctx, io, spec)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// flatten takes joined errors apart.
func flatten(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var out []error
		for _, e := range joined.Unwrap() {
			out = append(out, flatten(e)...)
		}
		return out
	}
	return []error{err}
}
