package processor

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/tenants"
)

// simWorker is one worker of a simulation: the driver of its attempt.
type simWorker struct {
	sim    *simulation
	id     string
	frozen bool // stopped like a process by SIGSTOP: it does nothing and does not know it

	att     *attempt
	ctx     context.Context
	cancel  context.CancelFunc
	events  []ctlEvent
	hosts   []*simHost
	ops     []*simOp
	readers []*simReader
	tables  []*simTable
	paused  bool
}

// simOp is an operation beside the control loop, as a coroutine that stops before and behind every request.
type simOp struct {
	next  func() (struct{}, bool)
	stop  func()
	until time.Time // it sleeps
}

type simReader struct {
	sourceReader
	reader Reader
	failed bool
}

var errSimulatedLoss = errors.New("simulated: no answer")

// begin starts an attempt, whoever owns the job.
func (w *simWorker) begin() {
	s := w.sim
	s.nonces++
	s.result.Attempts++
	cfg := s.cfg.Job
	if s.cfg.Vary {
		cfg.Parallelism = 1 + s.rng.IntN(min(5, cfg.KeyGroups))
		cfg.MergeAfter = 1 + s.rng.IntN(3)
		cfg.Checkpoint.Retained = 1 + s.rng.IntN(3)
	}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	w.att = &attempt{
		job: s.job, topo: s.cfg.Topology, cfg: cfg, needs: s.needs, worker: w.id, nonce: fmt.Sprintf("nonce%d", s.nonces),
		drv: w, log: slog.New(slog.DiscardHandler), ctx: w.ctx, progress: &progress{},
		listen: Listener{
			Checkpoint:       func(CheckpointEvent) { s.result.Checkpoints++ },
			CheckpointFailed: func(CheckpointFailure) { s.result.Aborted++ },
			Mark: func(ev MarkEvent) {
				if ev.State == MarkMade {
					s.result.Marks++
				}
			},
		},
	}
	w.att.begin()
}

// kill ends the attempt between two steps. A request that was on its way may still arrive.
func (w *simWorker) kill() {
	if w.att == nil {
		return
	}
	w.cancel()
	for _, op := range w.ops {
		op.stop()
	}
	for _, r := range w.readers {
		if r.reader != nil {
			r.reader.Close()
		}
	}
	w.closeTables()
	w.outlive()
	w.hangUp()
	w.att, w.events, w.hosts, w.ops, w.readers, w.paused, w.frozen = nil, nil, nil, nil, nil, false, false
}

// choices appends everything that the worker could do next.
func (w *simWorker) choices(out []func()) []func() {
	if w.att == nil || w.frozen {
		return out
	}
	if len(w.events) > 0 {
		out = append(out, w.handle)
	}
	now := w.now()
	if d := w.att.deadline(); !d.IsZero() && !d.After(now) {
		out = append(out, func() { w.control(ctlTick{}) })
	}
	for _, op := range w.ops {
		if !op.until.After(now) {
			out = append(out, func() { w.resume(op) })
		}
	}
	for _, h := range w.hosts {
		out = h.choices(out)
	}
	out = w.tableChoices(out)
	for _, r := range w.readers {
		if (!w.paused || r.spec.Compacted) && !r.failed && w.hosts[r.task].queued(r.input) < inputCredits {
			out = append(out, func() { w.read(r) })
		}
	}
	return out
}

func (w *simWorker) handle() {
	ev := w.events[0]
	w.events = w.events[1:]
	w.control(ev)
}

func (w *simWorker) control(ev ctlEvent) {
	w.att.handle(ev)
	w.reap()
}

// reap ends a worker whose attempt has ended.
func (w *simWorker) reap() {
	if w.att != nil && w.att.ended {
		err := w.att.err
		w.kill()
		w.sim.ended(err)
	}
}

func (w *simWorker) resume(op *simOp) {
	op.until = time.Time{}
	if _, more := op.next(); !more {
		w.ops = slices.DeleteFunc(w.ops, func(o *simOp) bool { return o == op })
	}
}

// read delivers what the reader has, without waiting.
func (w *simWorker) read(r *simReader) {
	var err error
	if r.reader == nil {
		spec := r.spec
		spec.BatchRecords = 1 + w.sim.rng.IntN(8)
		if r.reader, err = w.sim.cfg.Broker.OpenReader(w.ctx, spec); err != nil {
			r.failed = true
			w.events = append(w.events, ctlFailed{err: err})
			return
		}
	}
	at, cancel := context.WithCancel(context.Background())
	cancel()
	batch, err := r.reader.Next(at)
	if err != nil {
		return // nothing there
	}
	if w.sim.cfg.mutant == mutantReaderGap && len(batch.Records) > 2 && w.sim.rng.IntN(10) == 0 {
		batch.Records = slices.Delete(slices.Clone(batch.Records), 1, 2)
	}
	w.hosts[r.task].data = append(w.hosts[r.task].data, evBatch{input: r.input, batch: batch})
}

// idle reports whether the worker has nothing left to read or do.
func (w *simWorker) idle() bool {
	if w.frozen || len(w.events) > 0 || len(w.ops) > 0 || w.att.coord == nil || w.att.current != nil || w.busy() || len(w.sim.late) > 0 {
		return false
	}
	for _, h := range w.hosts {
		if len(h.data) > 0 || len(h.control) > 0 || h.task.unfinished() || h.task.calls() > 0 {
			return false
		}
	}
	for _, r := range w.readers {
		before := len(w.hosts[r.task].data)
		if w.read(r); len(w.hosts[r.task].data) > before || r.failed {
			return false
		}
	}
	return true
}

func (w *simWorker) nextWake(next time.Time) time.Time {
	if w.att == nil || w.frozen {
		return next
	}
	earlier := func(t time.Time) {
		if t.After(w.now()) && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	earlier(w.att.deadline())
	for _, op := range w.ops {
		earlier(op.until)
	}
	for _, h := range w.hosts {
		earlier(h.wakeAt)
		for _, c := range h.calls {
			earlier(c.due)
		}
	}
	return next
}

func (w *simWorker) describe() string {
	if w.att == nil {
		return w.id + " is idle"
	}
	return fmt.Sprintf("%s: %d events, %d operations, %d tasks, frozen %t, draining %t", w.id, len(w.events), len(w.ops), len(w.hosts), w.frozen, w.att.draining)
}

// The driver.

func (w *simWorker) now() time.Time { return w.sim.cfg.Clock.t }

func (w *simWorker) spawn(ctx context.Context, op func(context.Context, effects) ctlEvent) {
	o := &simOp{}
	o.next, o.stop = iter.Pull(func(yield func(struct{}) bool) {
		io := &simEffects{w: w, op: o, yield: yield}
		ev := op(ctx, io)
		if !io.dead {
			w.events = append(w.events, ev)
		}
	})
	w.ops = append(w.ops, o)
}

func (w *simWorker) launch(p *plan, positions map[string]barriers.Source, readers []sourceReader) {
	for i, t := range p.tasks {
		h := &simHost{w: w, index: i, task: t}
		w.hosts = append(w.hosts, h)
		t.bind(h)
		t.start(positions)
	}
	for _, r := range readers {
		w.readers = append(w.readers, &simReader{sourceReader: r})
	}
}

func (w *simWorker) tell(task int, ev event) {
	if a, ok := ev.(evAborted); ok && w.sim.cfg.mutant == mutantDropAborted {
		ev = evCommitted(a)
	}
	w.hosts[task].control = append(w.hosts[task].control, ev)
}

func (w *simWorker) pause(paused bool) { w.paused = paused }

// simHost runs one task: the taskHost of a simulation.
type simHost struct {
	w             *simWorker
	index         int
	task          *task
	data, control []event
	wakeAt        time.Time
	calls         []*simUserCall
	steps         uint64
	stuck         bool // inside user code that does not return while the attempt lasts
}

func (h *simHost) choices(out []func()) []func() {
	out = h.callChoices(out)
	if h.stuck {
		return out
	}
	if len(h.control) > 0 {
		out = append(out, func() {
			ev := h.control[0]
			h.control = h.control[1:]
			h.step(ev)
		})
	}
	if len(h.data) > 0 {
		out = append(out, func() {
			ev := h.data[0]
			h.data = h.data[1:]
			h.step(ev)
		})
	}
	if h.task.unfinished() {
		out = append(out, func() { h.step(evContinue{}) })
	}
	if !h.wakeAt.IsZero() && !h.wakeAt.After(h.now()) {
		out = append(out, func() {
			h.wakeAt = time.Time{}
			h.step(evTick{now: h.now()})
		})
	}
	return out
}

func (h *simHost) step(ev event) {
	h.steps++
	if err := h.task.step(ev); err != nil {
		h.w.events = append(h.w.events, ctlFailed{err: err})
		h.data, h.control, h.calls, h.wakeAt = nil, nil, nil, time.Time{}
	}
}

func (h *simHost) queued(input int) int {
	n := 0
	for _, ev := range h.data {
		if b, ok := ev.(evBatch); ok && b.input == input {
			n++
		}
	}
	return n
}

func (h *simHost) send(task, input int, f *frame) error {
	to := h.w.hosts[task]
	to.data = append(to.data, evFrame{input: input, frame: f})
	return nil
}

func (h *simHost) consumed(int) {}

func (h *simHost) waiting(input int) bool { return h.queued(input) > 0 }

func (h *simHost) snapshot(s *taskSnapshot) { h.w.events = append(h.w.events, ctlSnapshot{s}) }

func (h *simHost) wake(t time.Time) {
	if t.IsZero() || h.wakeAt.IsZero() || t.Before(h.wakeAt) {
		h.wakeAt = t
	}
}

func (h *simHost) publish(ctx context.Context, stream string, m Message, done func(error)) error {
	return h.w.sim.cfg.Broker.Publish(ctx, stream, m, done)
}

func (h *simHost) dirty(task int) { h.w.events = append(h.w.events, ctlDirty{task}) }

func (h *simHost) notify(ev ctlEvent) { h.w.events = append(h.w.events, ev) }

func (h *simHost) now() time.Time { return h.w.now() }

// simEffects hands every request of an operation to the scheduler.
type simEffects struct {
	w     *simWorker
	op    *simOp
	yield func(struct{}) bool
	dead  bool
}

// pause lets the scheduler go on; false means that the worker has died meanwhile.
func (e *simEffects) pause() bool {
	if !e.dead && !e.yield(struct{}{}) {
		e.dead = true
	}
	return !e.dead
}

// simCall makes one request: it may be delayed, lost on the way there or back, arrive late, or arrive after its worker's death.
func simCall[T any](ctx context.Context, e *simEffects, apply func() T, lost, canceled T) T {
	s := e.w.sim
	if e.dead {
		return canceled
	}
	if !e.pause() {
		if s.rng.IntN(3) == 0 {
			s.late = append(s.late, func() { apply() })
		}
		return canceled
	}
	if ctx.Err() != nil {
		return canceled
	}
	if s.unlucky() {
		switch s.rng.IntN(3) {
		case 0: // lost on the way there
		case 1: // done, and the answer lost
			apply()
		default: // done later
			s.late = append(s.late, func() { apply() })
		}
		e.pause()
		return lost
	}
	v := apply()
	if !e.pause() {
		return canceled
	}
	return v
}

type simObject struct {
	obj barriers.Object
	err error
}

func (e *simEffects) Put(ctx context.Context, tenant tenants.ID, name string, data []byte) (barriers.Object, error) {
	r := simCall(ctx, e, func() simObject {
		obj, err := e.w.sim.cfg.Broker.Put(ctx, tenant, name, data)
		return simObject{obj, err}
	}, simObject{err: errSimulatedLoss}, simObject{err: context.Canceled})
	return r.obj, r.err
}

type simBytes struct {
	data []byte
	err  error
}

func (e *simEffects) Get(ctx context.Context, tenant tenants.ID, ref barriers.Object) ([]byte, error) {
	r := simCall(ctx, e, func() simBytes {
		data, err := e.w.sim.cfg.Broker.Get(ctx, tenant, ref)
		return simBytes{data, err}
	}, simBytes{err: errSimulatedLoss}, simBytes{err: context.Canceled})
	return r.data, r.err
}

func (e *simEffects) Do(ctx context.Context, job tenants.JobID, r barriers.Request) barriers.Reply {
	broker := e.w.sim.cfg.Broker
	return simCall(ctx, e, func() barriers.Reply {
		if e.w.sim.cfg.mutant == mutantUnguardedHead && r.Op == barriers.OpWriteRecord {
			r.Expected = broker.Do(ctx, job, barriers.Request{Op: barriers.OpReadRecord, Key: r.Key}).Seq
		}
		return broker.Do(ctx, job, r)
	},
		barriers.Reply{Status: barriers.Unknown}, barriers.Reply{Status: barriers.Canceled})
}

func (e *simEffects) PublishPart(ctx context.Context, p Part) barriers.Reply {
	return simCall(ctx, e, func() barriers.Reply {
		if e.w.sim.cfg.mutant == mutantUnguardedPart {
			p.Expected = e.w.sim.cfg.Broker.Do(ctx, p.Job, barriers.Request{Op: barriers.OpReadMarker, Stream: p.Stream, Subject: p.Marker.Subject}).Seq
		}
		return e.w.sim.cfg.Broker.PublishPart(ctx, p)
	}, barriers.Reply{Status: barriers.Unknown}, barriers.Reply{Status: barriers.Canceled})
}

func (e *simEffects) PublishBarrier(ctx context.Context, stream, subject string, payload []byte) error {
	return simCall(ctx, e, func() error { return e.w.sim.cfg.Broker.PublishBarrier(ctx, stream, subject, payload) }, errSimulatedLoss, context.Canceled)
}

func (e *simEffects) Sleep(ctx context.Context, d time.Duration) error {
	e.op.until = e.w.now().Add(d)
	if !e.pause() || ctx.Err() != nil {
		return context.Canceled
	}
	return nil
}

func (e *simEffects) UserCode(_ Where, f func()) error {
	f()
	return nil
}

func (e *simEffects) Namespace() tenants.Namespace { return e.w.sim.cfg.Broker.Namespace() }

func (e *simEffects) Bind(ctx context.Context, n Needs) (Bindings, error) {
	return e.w.sim.cfg.Broker.Bind(ctx, n)
}

func (e *simEffects) Check(ctx context.Context, n Needs) ([]Finding, error) {
	return e.w.sim.cfg.Broker.Check(ctx, n)
}

func (e *simEffects) Subjects(ctx context.Context, stream, filter string) ([]string, error) {
	return e.w.sim.cfg.Broker.Subjects(ctx, stream, filter)
}

func (e *simEffects) OpenReader(ctx context.Context, spec ReaderSpec) (Reader, error) {
	return e.w.sim.cfg.Broker.OpenReader(ctx, spec)
}

func (e *simEffects) Publish(ctx context.Context, stream string, m Message, done func(error)) error {
	return e.w.sim.cfg.Broker.Publish(ctx, stream, m, done)
}

func (e *simEffects) Heartbeat(ctx context.Context, worker string) error {
	return e.w.sim.cfg.Broker.Heartbeat(ctx, worker)
}

func (e *simEffects) LastHeartbeat(ctx context.Context, worker string) (uint64, error) {
	return e.w.sim.cfg.Broker.LastHeartbeat(ctx, worker)
}
