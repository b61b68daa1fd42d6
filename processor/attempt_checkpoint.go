package processor

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/state"
)

// pendingCheckpoint is the checkpoint in flight: from the trigger until its output is released, or until it is aborted.
type pendingCheckpoint struct {
	id        uint64
	started   time.Time
	ctx       context.Context // of its uploads
	cancel    context.CancelFunc
	uploading int
	results   map[int]*uploaded // by task
	seen      []glance          // of every task, when it was triggered
	cut       []bool            // by task: it has frozen its part
	sources   []barriers.Source
	times     map[string]int64           // operators' watermarks, each the minimum over its subtasks
	savepoint bool                       // a savepoint is made of it
	aborted   error                      // not nil: it waits only for its uploads to end
	overdue   time.Time                  // of an aborted one: from here on it is looked at what keeps its uploads
	encoding  []atomic.Pointer[encoding] // by task
	looked    []encodingAt               // by task: what it was at at the last look

	manifest  *barriers.Manifest
	chains    map[string][]barriers.Object
	outputs   map[string][]*state.Output // by sink, in publishing order
	merged    map[string]int             // operators whose merge this manifest uses, with the prefix it replaced
	releasing int
	event     CheckpointEvent
	acked     time.Time
	committed time.Time
}

// onSnapshot starts the upload of what a task froze. The task itself is already going on.
func (a *attempt) onSnapshot(now time.Time, s *taskSnapshot) {
	cp := a.current
	if cp == nil || cp.id != s.checkpoint || cp.aborted != nil {
		return // of an aborted checkpoint: the task hears, or has heard, of the abort
	}
	for _, src := range s.sources {
		a.coord.Echoed(now, src.Name)
	}
	cp.sources = append(cp.sources, s.sources...)
	cp.cut[s.task] = true
	cp.observe(s)
	cp.event.Aligned = max(cp.event.Aligned, s.aligned)
	cp.event.Frozen = max(cp.event.Frozen, s.frozeIn)
	cp.uploading++
	names := a.objectNames(cp.id)
	a.drv.spawn(cp.ctx, func(ctx context.Context, io effects) ctlEvent {
		u := &upload{job: a.job, checkpoint: cp.id, names: names, io: io, timeout: a.cfg.Checkpoint.Timeout, wait: a.onWait, encoding: &cp.encoding[s.task]}
		result, err := u.run(ctx, s)
		return ctlUploaded{checkpoint: cp.id, task: s.task, result: result, err: err}
	})
}

// observe notes the operators' watermarks. Behind the barrier's alignment all subtasks of one have been told the same; where that
// should not hold, the minimum is the one at which nothing fires early.
func (cp *pendingCheckpoint) observe(s *taskSnapshot) {
	if cp.times == nil {
		cp.times = make(map[string]int64)
	}
	for _, st := range s.states {
		if wm, ok := cp.times[st.operator]; !ok || st.watermark < wm {
			cp.times[st.operator] = st.watermark
		}
	}
}

func (cp *pendingCheckpoint) watermark(operator string) *int64 {
	if wm, ok := cp.times[operator]; ok {
		return recordWatermark(wm)
	}
	return nil
}

// onWait reports from an upload that waits for room or for the broker; the driver brings it to the control loop.
func (a *attempt) onWait(err error) {
	a.drv.spawn(a.ctx, func(context.Context, effects) ctlEvent { return ctlWaits{err} })
}

func (a *attempt) onUploaded(now time.Time, ev ctlUploaded) {
	cp := a.current
	if cp == nil || cp.id != ev.checkpoint {
		return
	}
	cp.uploading--
	if ev.result != nil {
		cp.results[ev.task] = ev.result
	}
	if cp.aborted != nil {
		a.finishAbort()
		return
	}
	if ev.err != nil {
		if ClassOf(ev.err) == ClassTerminal {
			a.end(ev.err)
			return
		}
		a.apply(a.coord.Decline(now, ev.checkpoint, ev.task, ev.err))
		return
	}
	cp.event.Uploaded = max(cp.event.Uploaded, ev.result.took)
	cp.event.Bytes += ev.result.bytes
	cp.event.Objects += len(ev.result.allObjects())
	a.apply(a.coord.Ack(now, ev.checkpoint, ev.task))
}

// commit writes the manifest and then the head: the commit point.
func (a *attempt) commit(id uint64) {
	cp := a.current
	if a.mustMerge(cp) {
		a.held = true // onMerged goes on
		return
	}
	a.commitNow(id)
}

func (a *attempt) commitNow(id uint64) {
	cp := a.current
	cp.acked = a.drv.now()
	a.serve(cp)
	cp.manifest = a.compose(cp)
	rec, m, retain, pinned := a.rec, cp.manifest, a.cfg.Checkpoint.Retained, a.pinned()
	a.drv.spawn(a.ctx, func(ctx context.Context, io effects) ctlEvent {
		next, err := barriers.Commit(a.ask(ctx, io), rec, m, retain, pinned...)
		return ctlCommitted{checkpoint: id, rec: next, err: err}
	})
}

func (a *attempt) onCommitted(now time.Time, ev ctlCommitted) {
	if ev.err != nil {
		// Whatever the reason, the commit may have been sent: only the next attempt, after its acquire, knows.
		a.end(classify(a.job, fmt.Errorf("committing checkpoint %d: %w", ev.checkpoint, ev.err)))
		return
	}
	cp := a.current
	a.rec = ev.rec
	a.chains = cp.chains
	clear(a.full)
	for operator, prefix := range cp.merged {
		if m := a.merges[operator]; m != nil && m.prefix == prefix && !m.running {
			delete(a.merges, operator)
		}
	}
	cp.committed = now
	cp.event.Committed = now.Sub(cp.acked)
	a.tellAll(evCommitted{cp.id})
	if a.lastCommitted(cp) {
		a.tellStopping()
		return
	}
	a.apply(a.coord.CommitDone(now, ev.checkpoint, nil))
}

// release publishes the checkpoint's output, every sink by itself.
func (a *attempt) release(id uint64) {
	cp := a.current
	for _, sink := range cp.manifest.Sinks {
		if sink.Total == 0 {
			continue
		}
		cp.releasing++
		src := pendingSource(cp.outputs[sink.Name])
		binding := a.bind.sink(sink.Name)
		rec, m, seen := a.rec, cp.manifest, a.markers[sink.Name]
		a.drv.spawn(a.ctx, func(ctx context.Context, io effects) ctlEvent {
			marker, err := a.releaseSink(ctx, io, rec, m, sink, seen, binding.MaxPart, src)
			return ctlReleased{checkpoint: id, sink: sink.Name, marker: marker, err: err}
		})
	}
	if cp.releasing == 0 {
		a.apply(a.coord.Released(a.drv.now(), id))
	}
}

func (a *attempt) onReleased(now time.Time, ev ctlReleased) {
	if ev.err != nil {
		a.end(classify(a.job, fmt.Errorf("releasing checkpoint %d to sink %s: %w", ev.checkpoint, ev.sink, ev.err)))
		return
	}
	a.markers[ev.sink] = ev.marker
	cp := a.current
	if cp.releasing--; cp.releasing == 0 {
		a.apply(a.coord.Released(now, ev.checkpoint))
	}
}

// complete tells the world of a checkpoint that is committed and released, and starts what may run beside the job now.
func (a *attempt) complete(id uint64) {
	cp := a.current
	a.current = nil
	cp.cancel()
	if a.paused {
		a.setPaused(false)
	}
	now := a.drv.now()
	ev := cp.event
	ev.Job, ev.Checkpoint, ev.Epoch, ev.At = a.job, id, a.rec.Head.Epoch, now
	ev.Duration, ev.Released = now.Sub(cp.started), now.Sub(cp.committed)
	ev.Positions = map[string]uint64{}
	for _, s := range cp.manifest.Sources {
		ev.Positions[s.Name] = s.Position
	}
	for _, s := range cp.manifest.Sinks {
		ev.Messages += s.Total
	}
	a.progress.completed(ev)
	a.recordCompleted(cp, ev)
	if a.listen.Checkpoint != nil {
		a.listen.Checkpoint(ev)
	}
	var waiting []waiter
	var satisfied []waiter
	for _, w := range a.waiters {
		if id > w.after {
			satisfied = append(satisfied, w)
		} else {
			waiting = append(waiting, w)
		}
	}
	a.waiters = waiting
	for _, w := range satisfied {
		w.done(ev, nil)
	}
	a.releasedSavepoints(cp)
	a.lastCompleted(id)
	if a.leaving == nil {
		if a.stopping == nil && !a.draining { // else no later checkpoint would use them
			a.startMerges()
		}
		a.startCleanup()
		a.pursue(now)
	}
}

// compose builds the manifest of a checkpoint all of whose parts are uploaded.
func (a *attempt) compose(cp *pendingCheckpoint) *barriers.Manifest {
	m := &barriers.Manifest{
		Version: barriers.ManifestVersion, Kind: barriers.KindCheckpoint,
		Tenant: string(a.job.Tenant), Job: a.job.Name,
		Checkpoint: cp.id, Epoch: a.rec.Head.Epoch, Owner: a.nonce, CreatedAt: a.drv.now().UnixNano(),
		Weir: Version, Topology: a.topo.Fingerprint(),
		Parallelism: a.cfg.Parallelism, KeyGroups: a.plan.keyGroups(), Params: a.plan.paramText(),
		Choices: a.choices(), TopologyName: a.topo.Name(), Config: a.config, Owed: a.owed(),
	}
	for _, b := range a.bind.Sources {
		src := barriers.Source{Name: b.Source, Stream: b.Stream, Created: b.Created, Filter: b.Filter}
		for _, s := range cp.sources {
			if s.Name == b.Source {
				src.Position, src.Tail = s.Position, s.Tail
				src.Watermark, src.Idle = s.Watermark, s.Idle
			}
		}
		m.Sources = append(m.Sources, src)
	}
	a.composeState(cp, m)
	a.composeOutput(cp, m)
	return m
}

func (a *attempt) composeState(cp *pendingCheckpoint, m *barriers.Manifest) {
	cp.chains, cp.merged = map[string][]barriers.Object{}, map[string]int{}
	for _, op := range a.plan.statefulOperators() {
		chain := slices.Clone(a.chains[op.name])
		if a.full[op.name] {
			chain = nil // every subtask's snapshot is a base
		} else if mg := a.merges[op.name]; mg != nil && !mg.running && mg.objects != nil {
			chain = append(slices.Clone(mg.objects), chain[mg.prefix:]...)
			cp.merged[op.name] = mg.prefix
		}
		for _, task := range sortedKeys(cp.results) {
			for _, s := range cp.results[task].states {
				if s.operator == op.name {
					chain = append(chain, s.objects...)
				}
			}
		}
		cp.chains[op.name] = chain
		m.Operators = append(m.Operators, barriers.Operator{Name: op.name, States: op.infos, Chain: chain, Watermark: cp.watermark(op.name)})
	}
}

func (a *attempt) composeOutput(cp *pendingCheckpoint, m *barriers.Manifest) {
	cp.outputs = map[string][]*state.Output{}
	for _, b := range a.bind.Sinks {
		if b.Marker == "" {
			continue // at-least-once: nothing is pending
		}
		var parts []outputUpload
		for _, r := range cp.results {
			for _, o := range r.outputs {
				if o.sink == b.Sink {
					parts = append(parts, o)
				}
			}
		}
		// The order is fixed here, by subtask; what is replayed later is the same bytes in the same order.
		slices.SortStableFunc(parts, func(x, y outputUpload) int { return cmp.Compare(x.subtask, y.subtask) })
		sink := barriers.Sink{Name: b.Sink, Stream: b.Stream, Created: b.Created, Subject: b.Marker, Seen: a.markers[b.Sink]}
		for _, p := range parts {
			sink.Total += uint64(p.output.Len())
			sink.Pending = append(sink.Pending, p.objects...)
			cp.outputs[b.Sink] = append(cp.outputs[b.Sink], p.output)
		}
		m.Sinks = append(m.Sinks, sink)
	}
}

func (a *attempt) choices() []string {
	var c []string
	if a.cfg.AllowDataLoss {
		c = append(c, "AllowDataLoss: input that was lost by its stream is skipped")
	}
	if a.cfg.AllowDroppedState {
		c = append(c, "AllowDroppedState: state the topology no longer has is dropped")
	}
	for _, s := range a.needs.Sinks {
		if s.AllowMarkerLoss {
			c = append(c, "AllowMarkerLoss: sink "+s.Sink+" may lose its marker to the stream's limits")
		}
	}
	return c
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
