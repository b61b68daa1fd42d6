package processor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/state"
)

// started is what the start protocol hands to the control loop.
type started struct {
	rec     *barriers.HeadRecord
	bind    Bindings
	tables  map[string]*TableRows // by operator
	plan    *plan
	markers map[string]barriers.MarkerSeen
	chains  map[string][]barriers.Object
	full    map[string]bool // operators whose next committed snapshot must hold everything, see restoreOperator
	config  json.RawMessage
	owed    []barriers.OwedSavepoint // see attempt.takeOverOwed
	// positions by source, and where each reader starts.
	positions map[string]barriers.Source
	readers   []sourceReader
}

// startOp is the one path by which a job comes to run (DESIGN, "Starting, taking over, restoring"): check, acquire, fence,
// verify, release what is owed, load, run. Until acquire it only reads, so a deployment that cannot work hurts no running job.
func (a *attempt) startOp(ctx context.Context, io effects) ctlEvent {
	s, err := a.start(ctx, io)
	if err != nil {
		return ctlStarted{err: fmt.Errorf("starting job %s: %w", a.job, err)}
	}
	return ctlStarted{start: s}
}

func (a *attempt) start(ctx context.Context, io effects) (*started, error) {
	ask := a.ask(ctx, io)
	// Check against an ordinary read, before anything is taken from a running owner.
	rec, m, err := barriers.Inspect(ask, string(a.job.Tenant), a.job.Name)
	if err != nil {
		return nil, classify(a.job, err)
	}
	if a.finish {
		return nil, a.finishStop(ctx, io, rec)
	}
	bind, err := io.Bind(ctx, a.needs)
	if err != nil {
		return nil, err
	}
	s := &started{bind: bind, markers: map[string]barriers.MarkerSeen{}, chains: map[string][]barriers.Object{}, full: map[string]bool{}}
	if s.config, err = a.cfg.record(); err != nil {
		return nil, Terminal(err)
	}
	if p := a.pendingStart(rec); p != nil {
		src, err := a.findSource(ask, *p)
		if err != nil {
			return nil, err
		}
		if err := a.checkSource(ctx, io, src, bind); err != nil {
			return nil, err
		}
	} else if err := errors.Join(a.mayGoOn(rec), a.checkCompatible(m)); err != nil {
		return nil, err
	}
	if s.tables, err = a.openTables(ctx, io, bind); err != nil {
		return nil, err
	}
	if m, err = a.acquire(ctx, io, s, barriers.StateRunning); err != nil {
		return nil, err
	}
	if err := a.takeOver(ctx, io, s, m); err != nil {
		if ClassOf(err) == ClassTerminal {
			err = a.judge(ctx, io, err)
		}
		return nil, err
	}
	return s, nil
}

func (a *attempt) acquire(ctx context.Context, io effects, s *started, as barriers.HeadState) (*barriers.Manifest, error) {
	rec, m, err := barriers.Acquire(a.ask(ctx, io), barriers.AcquireSpec{
		Tenant: string(a.job.Tenant), Job: a.job.Name, Worker: a.worker, Owner: a.nonce, Observed: a.observed, State: as,
	})
	if err != nil {
		err = classify(a.job, fmt.Errorf("acquiring the job: %w", err))
		if record := (*barriers.RecordError)(nil); errors.As(err, &record) { // the manifest: a later owner may have removed it
			err = a.judge(ctx, io, err)
		}
		return nil, err
	}
	s.rec = rec
	return m, nil
}

// settle fences and verifies the sinks, and publishes what the committed checkpoint owes them.
func (a *attempt) settle(ctx context.Context, io effects, s *started, m *barriers.Manifest) error {
	targets := a.sinkTargets(s.bind, m)
	markers, err := barriers.Fence(a.ask(ctx, io), s.rec, targets)
	if err != nil {
		return classify(a.job, fmt.Errorf("fencing the sinks: %w", err))
	}
	if err := barriers.Verify(s.rec, m, targets, markers); err != nil {
		return classify(a.job, err)
	}
	for name, mk := range markers {
		s.markers[name] = mk.Now
	}
	if m == nil {
		return nil
	}
	return a.releaseOwed(ctx, io, s, m)
}

// takeOver is what follows the acquire.
func (a *attempt) takeOver(ctx context.Context, io effects, s *started, m *barriers.Manifest) error {
	if err := a.settle(ctx, io, s, m); err != nil {
		return err
	}
	// Somebody may have deployed in between: what was checked above is checked again on what is committed now.
	var err error
	if p := a.pendingStart(s.rec); p != nil {
		m, err = a.startFrom(ctx, io, s, *p, m)
	} else {
		err = errors.Join(a.mayGoOn(s.rec), a.checkCompatible(m))
	}
	if err != nil {
		return err
	}
	return a.load(ctx, io, s, m)
}

// checkCompatible compares the committed state with the topology, before any of it is read.
func (a *attempt) checkCompatible(m *barriers.Manifest) error {
	if m == nil {
		return nil
	}
	if m.Tenant != string(a.job.Tenant) || m.Job != a.job.Name {
		return Terminal(fmt.Errorf("the manifest of checkpoint %d belongs to job %s/%s", m.Checkpoint, m.Tenant, m.Job))
	}
	if problems := a.problems(m); len(problems) > 0 {
		return Terminal(&IncompatibleError{Job: a.job, Problems: problems})
	}
	return nil
}

// sinkTargets lists every marker that must be fenced: the topology's sinks, and those that the committed checkpoint still owes
// output to although the topology no longer has them.
func (a *attempt) sinkTargets(bind Bindings, m *barriers.Manifest) []barriers.SinkTarget {
	var targets []barriers.SinkTarget
	for _, b := range bind.Sinks {
		if b.Marker != "" {
			targets = append(targets, barriers.SinkTarget{
				Name: b.Sink, Stream: b.Stream, Created: b.Created, Subject: b.Marker, AllowMarkerLoss: a.allowsMarkerLoss(b.Sink),
			})
		}
	}
	if m == nil {
		return targets
	}
	for _, s := range m.Sinks {
		known := slices.ContainsFunc(targets, func(t barriers.SinkTarget) bool { return t.Name == s.Name })
		if !known && s.Total > 0 {
			targets = append(targets, barriers.SinkTarget{Name: s.Name, Stream: s.Stream, Created: s.Created, Subject: s.Subject})
		}
	}
	return targets
}

func (a *attempt) allowsMarkerLoss(sink string) bool {
	return slices.ContainsFunc(a.needs.Sinks, func(n SinkNeed) bool { return n.Sink == sink && n.AllowMarkerLoss })
}

// releaseOwed publishes what the committed checkpoint still owes, before anything else of the job moves.
func (a *attempt) releaseOwed(ctx context.Context, io effects, s *started, m *barriers.Manifest) error {
	for _, sink := range m.Sinks {
		seen := s.markers[sink.Name]
		if sink.Total == 0 || (seen.Checkpoint == m.Checkpoint && seen.Released == sink.Total) {
			continue
		}
		outputs, err := a.fetchOutput(ctx, io, m, sink)
		if err != nil {
			return fmt.Errorf("loading the pending output of sink %s: %w", sink.Name, err)
		}
		maxPart := s.bind.sink(sink.Name).MaxPart
		marker, err := a.releaseSink(ctx, io, s.rec, m, sink, seen, maxPart, pendingSource(outputs))
		if err != nil {
			return classify(a.job, fmt.Errorf("releasing checkpoint %d to sink %s: %w", m.Checkpoint, sink.Name, err))
		}
		s.markers[sink.Name] = marker
		a.log.Info("released what the last attempt owed", "checkpoint", m.Checkpoint, "sink", sink.Name, "messages", sink.Total)
	}
	return nil
}

// load builds the tasks, restores their state and says where each source goes on.
func (a *attempt) load(ctx context.Context, io effects, s *started, m *barriers.Manifest) error {
	keyGroups := a.cfg.KeyGroups
	if m != nil {
		keyGroups = m.KeyGroups
	}
	params, err := encodeParams(a.cfg.Params)
	if err != nil {
		return Terminal(err)
	}
	s.plan, err = newPlan(a.topo, planConfig{
		Job: a.job, Prefix: io.Namespace().Prefix(a.job.Tenant), Parallelism: a.cfg.Parallelism, KeyGroups: keyGroups, Params: params,
		Bindings: s.bind, Tables: s.tables, Epoch: s.rec.Head.Epoch, Nonce: a.nonce, AllowDroppedState: a.cfg.AllowDroppedState, Marks: a.cfg.Marks,
		MaxKeyBytes: a.cfg.Quota.KeyBytes, MaxStateBytes: a.cfg.Quota.StateBytes, MaxPendingBytes: a.cfg.Quota.PendingBytes / int64(a.cfg.Parallelism),
	})
	if err != nil {
		return Terminal(err)
	}
	s.positions = map[string]barriers.Source{}
	if m != nil {
		for _, op := range m.Operators {
			s.chains[op.Name] = op.Chain
			full, err := a.restoreOperator(ctx, io, s.plan, op)
			if err != nil {
				return err
			}
			if full {
				s.full[op.Name] = true
			}
		}
		s.positions = a.positionsOf(m)
		s.owed = m.Owed
	}
	for i, t := range s.plan.tasks {
		for input, source := range t.sourceInputs() {
			spec, err := a.readerSpec(s.bind.source(source), s.positions)
			if err != nil {
				return err
			}
			spec.BatchRecords = s.plan.batchLimit(t)
			if err := a.reconcileRules(ctx, io, s, t.inputs[input].source); err != nil {
				return err
			}
			s.readers = append(s.readers, sourceReader{task: i, input: input, spec: spec})
		}
	}
	return nil
}

func (a *attempt) readerSpec(b SourceBinding, positions map[string]barriers.Source) (ReaderSpec, error) {
	spec := ReaderSpec{
		Job: a.job, Source: b.Source, Stream: b.Stream, Created: b.Created, Filter: b.Filter,
		AllowDataLoss: a.cfg.AllowDataLoss, Compacted: b.Prefix != "", BatchRecords: maxBatchRecords, BatchBytes: maxBatchBytes,
	}
	old, ok := positions[b.Source]
	if !ok { // a source that is new starts at the stream's beginning
		spec.After, spec.Fresh = max(b.FirstSeq, 1)-1, true
		positions[b.Source] = barriers.Source{Name: b.Source, Position: spec.After}
		return spec, nil
	}
	if old.Stream != b.Stream {
		return spec, Terminal(fmt.Errorf("source %s read stream %s up to sequence %d, and its subjects are now in stream %s: name the old stream in JobConfig.Streams, or start the job under a new name",
			b.Source, old.Stream, old.Position, b.Stream))
	}
	spec.Created, spec.After, spec.Tail = old.Created, old.Position, old.Tail
	return spec, nil
}

// Bounds of one batch that a reader hands over.
const (
	maxBatchRecords = 1024
	maxBatchBytes   = 1 << 20
)

// restoreOperator loads an operator's chain once and lets every subtask take its key groups. It reports whether the operator's states
// are others than those in the chain: upcast, dropped or added. Then the next snapshot holds everything and starts a new chain, lest one
// chain tell two schemas. Until it is committed the old chain stays.
func (a *attempt) restoreOperator(ctx context.Context, io effects, p *plan, op barriers.Operator) (full bool, err error) {
	var subtasks []*operatorSubtask
	for _, t := range p.tasks {
		for _, sub := range t.stateful() {
			if sub.operator == op.Name {
				subtasks = append(subtasks, sub)
			}
		}
	}
	if len(subtasks) == 0 {
		return false, nil // dropped: problems allowed it
	}
	objects, err := a.fetch(ctx, io, op.Chain)
	if err != nil {
		return false, fmt.Errorf("loading the state of operator %s: %w", op.Name, err)
	}
	for _, sub := range subtasks {
		sub.time.restore(op.Watermark)
		var refused error
		if ended := io.UserCode(Where{Job: a.job, Operator: op.Name}, func() { refused = sub.backend.Restore(objects) }); ended != nil {
			return false, ended
		}
		if err := refused; err != nil {
			return false, Terminal(fmt.Errorf("restoring operator %s, subtask %d: %w", op.Name, sub.subtask, err))
		}
		full = full || sub.backend.Upcasted() || len(sub.backend.Dropped()) > 0
	}
	if len(objects) == 0 {
		return false, nil
	}
	full = full || !sameStates(stateInfosOf(op), subtasks[0].backend.Infos())
	for _, sub := range subtasks {
		sub.full = full
	}
	return full, nil
}

func sameStates(a, b []state.StateInfo) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(i state.StateInfo) bool { return !slices.Contains(b, i) })
}

func (a *attempt) fetch(ctx context.Context, io effects, chain []barriers.Object) ([][]byte, error) {
	objects := make([][]byte, 0, len(chain))
	for _, ref := range chain {
		data, err := io.Get(ctx, a.job.Tenant, ref)
		if err != nil {
			if errors.Is(err, ErrObjectMissing) {
				err = Terminal(fmt.Errorf("job %s: object %s in bucket %s: %w: restore the bucket, or start the job from an older savepoint", a.job, ref.Name, ref.Bucket, err))
			}
			return nil, err
		}
		objects = append(objects, data)
	}
	return objects, nil
}
