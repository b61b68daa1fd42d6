package processor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/weirstream/weir/barriers"
)

// A savepoint is cut with an ordinary checkpoint N and made of it beside the job:
//
//	wait     for a checkpoint that serves it: one triggered after it was asked for, or one whose positions are exactly those asked for
//	cut      N is committed; from here it is pinned: every later head retains it, so no clean-up removes what it refers to
//	make     N's output is released: reserve the name, merge every chain into objects of the savepoint's own, write the record
//
// Invariant: a savepoint's record is written only over its own reservation, when everything it names is durable and N's output is
// published; N stays in the head until then or until the making was given up. What fails is abandoned first, and only then are its
// objects removed; a crash leaves a reservation and objects that the clean-up of a later attempt buries.
//
// A savepoint that a mark asked for is noted in the manifest of N and of every later checkpoint until it is made: the position has
// passed the mark, so nobody would ask for it again. TestSavepointSurvivesAnyCrash crashes at every request.

const (
	// maxMakings bounds the savepoints under way at once, each of which pins a checkpoint in the head.
	maxMakings = 16
	// maxHold bounds how long a hold, or a mark, may keep sources standing.
	maxHold = time.Minute
)

// making is a savepoint on its way.
type making struct {
	name, request string
	after         uint64            // a checkpoint above it serves, if it has the positions asked for:
	cut           map[string]uint64 // all of these, by source; nil: any
	mark          *barriers.Mark    // this one; nil: any
	time          int64             // of the mark's record
	ready         bool              // it may be cut: the sources stand at the cut, the mark was judged

	checkpoint uint64             // that it is cut with; 0: it waits
	released   bool               // that checkpoint's output is published
	manifest   *barriers.Manifest // of that checkpoint; nil: to be read
	cancel     context.CancelFunc // not nil: it is being made

	began, deadline time.Time
	bytes, total    int64 // stored so far, and of the checkpoint
	done            []func(SavepointReport, error)
}

func (a *attempt) making(name string) *making {
	for _, mk := range a.makings {
		if mk.name == name {
			return mk
		}
	}
	return nil
}

// onSavepoint begins a savepoint, or joins the same request.
func (a *attempt) onSavepoint(now time.Time, ev ctlSavepoint) {
	if err := a.maySave(ev.req); err != nil {
		ev.done(SavepointReport{}, err)
		return
	}
	if mk := a.making(ev.req.Name); mk != nil {
		mk.done = append(mk.done, ev.done)
		return
	}
	mk := a.newMaking(now, ev.req.Name, ev.req.Request)
	mk.done = append(mk.done, ev.done)
	if ev.req.Hold != "" {
		a.cutAt(now, mk, ev.req.Cut)
	} else {
		mk.ready = true
	}
	a.pursue(now)
}

// maySave refuses a savepoint before any work.
func (a *attempt) maySave(req SavepointRequest) error {
	switch {
	case a.coord == nil:
		return refuse(ReasonNotRunning, "job %s is starting: try again when it runs", a.job)
	case a.stopping != nil || a.draining || a.leaving != nil:
		return refuse(ReasonConflict, "job %s is being stopped", a.job)
	}
	for _, mk := range a.makings {
		if mk.name == req.Name && mk.request == req.Request {
			return nil
		}
	}
	if len(a.makings) > 0 {
		return refuse(ReasonConflict, "savepoint %s of job %s is being made: wait until it is complete", a.makings[0].name, a.job)
	}
	if req.Hold != "" {
		return a.mayCut(req)
	}
	return nil
}

func (a *attempt) newMaking(now time.Time, name, request string) *making {
	mk := &making{
		name: name, request: request, after: a.rec.Head.Checkpoint, began: now,
		deadline: now.Add(max(2*a.cfg.Checkpoint.Timeout, maxHold)),
	}
	if a.current != nil {
		mk.after = a.current.id // its barrier may be past already
	}
	a.makings = append(a.makings, mk)
	a.tellSavepoint(mk, SavepointStarted, nil)
	return mk
}

// pursue asks for the checkpoint that somebody waits for. One in flight goes first: it may serve, and when it ends this is called again.
func (a *attempt) pursue(now time.Time) {
	a.steer()
	if a.coord == nil || a.leaving != nil || a.current != nil || a.coord.Checkpoint() != 0 {
		return
	}
	if a.pursueStop(now) {
		return
	}
	for _, mk := range a.makings {
		if mk.checkpoint == 0 && mk.ready {
			a.apply(a.coord.Request(now))
			return
		}
	}
}

// standSource stands for sources that stand, as a reason to inject a barrier instead of publishing it.
const standSource = "(a source stands)"

// steer has barriers injected while a source stands: one in the stream would wait behind it.
func (a *attempt) steer() {
	if a.coord == nil {
		return
	}
	stands := a.holding != nil
	for _, mk := range a.makings {
		stands = stands || mk.mark != nil && mk.checkpoint == 0
	}
	lag := uint64(0)
	if stands {
		lag = lagThreshold + 1
	}
	a.coord.SetLag(standSource, lag)
}

// hasten injects the barrier of the checkpoint in flight, which a standing source cannot read any more.
func (a *attempt) hasten() {
	a.steer()
	if cp := a.current; cp != nil && cp.aborted == nil && cp.manifest == nil {
		a.tellSources(evTrigger{checkpoint: cp.id, nonce: a.nonce, inject: true})
	}
}

// serve gives a checkpoint whose parts are all there to the savepoints that it serves. It is called when the commit begins:
// from there the checkpoint is resolved and never aborted, so the sources that stand for it may go on.
func (a *attempt) serve(cp *pendingCheckpoint) {
	at := map[string]uint64{}
	for _, s := range cp.sources {
		at[s.Name] = s.Position
	}
	for _, mk := range a.makings {
		switch {
		case mk.checkpoint != 0 || !mk.ready || cp.id <= mk.after:
			continue
		case mk.cut != nil && !maps.Equal(mk.cut, at):
			continue
		case mk.mark != nil && at[mk.mark.Source] != mk.mark.Seq:
			continue
		}
		mk.checkpoint, mk.deadline = cp.id, time.Time{}
		cp.savepoint = true
		if mk.mark != nil {
			a.pass(mk.mark)
		}
		if mk.cut != nil {
			a.endHold()
		}
	}
	a.steer()
}

// owed lists the savepoints by marks that are not made yet, for the manifest.
func (a *attempt) owed() []barriers.OwedSavepoint {
	var out []barriers.OwedSavepoint
	for _, mk := range a.makings {
		if mk.mark != nil && mk.checkpoint != 0 {
			out = append(out, barriers.OwedSavepoint{Savepoint: mk.name, Checkpoint: mk.checkpoint, Mark: *mk.mark})
		}
	}
	return out
}

// pinned lists the checkpoints that must stay: until a savepoint was made of them, or until the job has started from one.
func (a *attempt) pinned() []uint64 {
	var out []uint64
	if a.pin != 0 {
		out = append(out, a.pin)
	}
	for _, mk := range a.makings {
		if mk.checkpoint != 0 {
			out = append(out, mk.checkpoint)
		}
	}
	return out
}

// takeOverOwed goes on with what the attempt before could not finish.
func (a *attempt) takeOverOwed(now time.Time, owed []barriers.OwedSavepoint) {
	for _, o := range owed {
		mk := &making{
			name: o.Savepoint, request: markRequest(&o.Mark), mark: &o.Mark, ready: true, began: now,
			checkpoint: o.Checkpoint, released: true,
		}
		a.makings = append(a.makings, mk)
	}
	a.makeNext()
}

// releasedSavepoints begins what was cut with a checkpoint whose output is now published.
func (a *attempt) releasedSavepoints(cp *pendingCheckpoint) {
	for _, mk := range a.makings {
		if mk.checkpoint == cp.id {
			mk.released, mk.manifest = true, cp.manifest
		}
	}
	a.makeNext()
}

// makeNext makes one savepoint at a time: each may hold an operator's whole state in memory.
func (a *attempt) makeNext() {
	for _, mk := range a.makings {
		if mk.cancel != nil {
			return
		}
	}
	for _, mk := range a.makings {
		if mk.released {
			a.make(mk)
			return
		}
	}
}

func (a *attempt) make(mk *making) {
	ctx, cancel := context.WithCancel(a.ctx)
	mk.cancel = cancel
	mk.deadline = a.drv.now().Add(a.cfg.Checkpoint.Timeout)
	a.saves++
	mp := &savepointMaker{
		a: a, name: mk.name, from: mk.manifest, checkpoint: mk.checkpoint, markers: maps.Clone(a.markers), head: a.rec.Head,
		reservation: barriers.Reservation{
			Tenant: string(a.job.Tenant), Job: a.job.Name, Savepoint: mk.name, Request: mk.request,
			Epoch: a.rec.Head.Epoch, Owner: fmt.Sprintf("%s-%d", a.nonce, a.saves),
		},
		mark: mk.mark,
	}
	a.drv.spawn(ctx, func(ctx context.Context, io effects) ctlEvent {
		report, err := mp.run(ctx, io)
		return ctlSavepointMade{name: mk.name, report: report, err: err}
	})
}

// onSavepointMoved gives a savepoint that gets on more time.
func (a *attempt) onSavepointMoved(now time.Time, ev ctlSavepointMoved) {
	mk := a.making(ev.name)
	if mk == nil || mk.cancel == nil {
		return
	}
	if ev.full {
		a.makeRoom(now)
		return
	}
	mk.bytes, mk.total = mk.bytes+ev.bytes, ev.total
	mk.deadline = now.Add(a.cfg.Checkpoint.Timeout)
	a.tellSavepoint(mk, SavepointMoved, nil)
}

func (a *attempt) onSavepointMade(now time.Time, ev ctlSavepointMade) {
	mk := a.making(ev.name)
	if mk == nil {
		return
	}
	mk.cancel()
	if ev.err != nil {
		var known *ControlError
		if !errors.As(ev.err, &known) {
			ev.err = refuse(ReasonFailed, "making savepoint %s of job %s: %w", mk.name, a.job, ev.err)
		}
	}
	a.settleMaking(mk, ev.report, ev.err)
	a.makeNext()
	a.pursue(now)
	a.tryLeave()
}

func (a *attempt) dropMaking(mk *making) {
	a.makings = slices.DeleteFunc(a.makings, func(m *making) bool { return m == mk })
}

// settleMaking ends a savepoint, made or not.
func (a *attempt) settleMaking(mk *making, report SavepointReport, err error) {
	a.dropMaking(mk)
	if mk.checkpoint == 0 && mk.mark != nil {
		a.pass(mk.mark)
	}
	if mk.checkpoint == 0 && mk.cut != nil {
		a.endHold()
	}
	a.steer()
	if err != nil {
		a.log.Warn("savepoint failed", "savepoint", mk.name, "checkpoint", mk.checkpoint, "err", err)
		a.tellSavepoint(mk, SavepointFailed, err)
		a.tellMark(mk, MarkFailed, err)
	} else {
		a.log.Info("savepoint made", "savepoint", mk.name, "checkpoint", report.Checkpoint, "bytes", report.Bytes)
		mk.total, mk.bytes = report.Bytes, report.Bytes
		a.tellSavepoint(mk, SavepointMade, nil)
		a.tellMark(mk, MarkMade, nil)
	}
	for _, done := range mk.done {
		done(report, err)
	}
}

// expireMakings gives up what has waited, or stood still, for too long: the job goes on.
func (a *attempt) expireMakings(now time.Time) {
	for _, mk := range slices.Clone(a.makings) {
		switch {
		case mk.deadline.IsZero() || now.Before(mk.deadline):
		case mk.cancel != nil:
			mk.cancel() // its operation cleans up and reports
			mk.deadline = time.Time{}
		default:
			a.settleMaking(mk, SavepointReport{}, refuse(ReasonFailed,
				"savepoint %s of job %s: no checkpoint that it could be made of was complete in %s", mk.name, a.job, now.Sub(mk.began)))
		}
	}
}

func (a *attempt) tellSavepoint(mk *making, state SavepointState, err error) {
	if a.listen.Savepoint != nil {
		a.listen.Savepoint(SavepointEvent{
			Job: a.job, Savepoint: mk.name, Request: mk.request, State: state, Checkpoint: mk.checkpoint, Mark: mk.mark,
			Bytes: mk.bytes, Total: mk.total, Err: err, At: a.drv.now(),
		})
	}
}
