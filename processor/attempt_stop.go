package processor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/weirstream/weir/barriers"
)

// A job stops in three steps. Its sources stand: where they are, or at the tail that their streams had when the request came. A last
// checkpoint is taken there; with a drain behind a final watermark, which nothing survives but that checkpoint. When its output is
// published, and its savepoint is made, the head says stopped. StopNow leaves out the first two, but resolves a commit that was sent.
//
// Invariant: the head says stopped only when everything committed is published; nothing is committed behind the last checkpoint, since
// no other is triggered; and an attempt that has sent the final watermark commits the checkpoint behind it or ends. A crash leaves
// a head that says running or stopping, and an intent that says what is to become of it.

// stopping is a stop under way.
type stopping struct {
	req        StopRequest
	mode       StopMode // "": a last checkpoint
	after      uint64   // the last checkpoint is one above it, once final
	final      bool     // the last checkpoint was asked for, or is in flight
	finished   bool     // the final watermark was sent
	checkpoint uint64   // the last one, once committed
	report     StopReport
	done       []func(StopReport, error)
}

// leaving is the end of an attempt that lets go of the job: nothing is triggered or committed any more.
type leaving struct {
	state barriers.HeadState // to be recorded; empty: none
	as    error
	under bool // its operation runs
}

func (a *attempt) onStop(now time.Time, ev ctlStop) {
	s := a.stopping
	switch {
	case s != nil && (ev.req.Mode == StopNow || ev.req.Mode == s.req.Mode && ev.req.Savepoint == s.req.Savepoint):
		s.done = append(s.done, ev.done)
		switch {
		case ev.req.Mode != StopNow || s.mode == StopNow || a.leaving != nil:
		case a.coord == nil:
			s.mode = StopNow
		default:
			a.stopNow()
		}
		return
	case s != nil:
		ev.done(StopReport{}, refuse(ReasonConflict, "job %s is being stopped in another way", a.job))
		return
	case a.draining || a.leaving != nil:
		ev.done(StopReport{}, refuse(ReasonUnavailable, "this worker is letting go of job %s: ask again", a.job))
		return
	}
	s = &stopping{req: ev.req, mode: ev.req.Mode, done: []func(StopReport, error){ev.done}}
	if s.mode == StopSavepoint {
		s.mode = ""
	}
	a.stopping = s
	if a.coord != nil {
		a.beginStop(now)
	}
}

func (a *attempt) beginStop(now time.Time) {
	a.log.Info("job stops", "mode", string(a.stopping.req.Mode))
	if h := a.holding; h != nil {
		err := refuse(ReasonConflict, "job %s is being stopped", a.job)
		if h.making != nil {
			a.settleMaking(h.making, SavepointReport{}, err)
		}
		a.cancelHold(err)
	}
	switch a.stopping.mode {
	case StopNow:
		a.stopNow()
	case StopDrain:
		a.drv.spawn(a.ctx, func(ctx context.Context, io effects) ctlEvent {
			bind, err := io.Bind(ctx, a.needs)
			tails := map[string]uint64{}
			for _, b := range bind.Sources {
				tails[b.Source] = b.LastSeq
			}
			return ctlTails{tails: tails, err: err}
		})
	default:
		a.hold(now, "", nil)
	}
}

func (a *attempt) onTails(now time.Time, ev ctlTails) {
	if a.stopping == nil || a.stopping.mode != StopDrain {
		return
	}
	if ev.err != nil {
		a.cancelStop(fmt.Errorf("looking at the ends of the streams: %w", ev.err))
		return
	}
	a.hold(now, "", ev.tails)
}

// cancelStop lets the job run on.
func (a *attempt) cancelStop(err error) {
	s := a.stopping
	a.stopping = nil
	a.coord.Rest(false)
	a.endHold()
	a.log.Warn("the job does not stop", "err", err)
	for _, done := range s.done {
		done(StopReport{}, err)
	}
}

// pursueStop asks for the last checkpoint when the sources stand and nothing else is in flight that may have been cut before. It
// reports whether a stop is under way that savepoints must wait for.
func (a *attempt) pursueStop(now time.Time) bool {
	s := a.stopping
	if s == nil || s.mode == StopNow {
		return s != nil
	}
	if s.final || a.holding == nil || !a.holding.complete(len(a.bind.Sources)) {
		return s.final
	}
	for _, mk := range a.makings {
		if mk.mark != nil && !mk.ready {
			return false // the last checkpoint may serve it
		}
	}
	if s.mode == StopDrain {
		s.finished = true
		a.tellSources(evFinish{})
	}
	s.final, s.after = true, a.coord.LastID()
	if s.req.Savepoint != "" {
		mk := a.newMaking(now, s.req.Savepoint, s.savepointRequest())
		mk.after, mk.ready, mk.deadline = s.after, true, time.Time{}
		mk.done = append(mk.done, a.onStopSavepoint)
	}
	a.apply(a.coord.Request(now))
	return true
}

func (s *stopping) savepointRequest() string {
	if s.req.Request != "" {
		return s.req.Request
	}
	return s.req.Savepoint
}

// onStopSavepoint goes on when the savepoint that a stop promised is there, or not.
func (a *attempt) onStopSavepoint(report SavepointReport, err error) {
	s := a.stopping
	switch {
	case s == nil || a.ended:
	case err == nil:
		s.report.Savepoint = &report
		a.leave(barriers.StateStopped, errStopped)
	case s.finished:
		a.end(fmt.Errorf("job %s was not stopped: its savepoint failed behind the final watermark: %w", a.job, err))
	default:
		a.cancelStop(err)
	}
}

// lastCommitted notes the commit of the last checkpoint. If it owes output the head is to say so before that is published.
func (a *attempt) lastCommitted(cp *pendingCheckpoint) (tell bool) {
	s := a.stopping
	if s == nil || !s.final || cp.id <= s.after {
		return false
	}
	s.checkpoint = cp.id
	a.coord.Rest(true) // no other follows, also not while its savepoint is made
	owes := slices.ContainsFunc(cp.manifest.Sinks, func(k barriers.Sink) bool { return k.Total > 0 })
	return owes && s.req.Savepoint == "" // a stop may still be given up for its savepoint
}

// tellStopping writes that the job is to stop into the head, before the release: whoever takes over then brings it to its end.
func (a *attempt) tellStopping() {
	rec := a.rec
	a.drv.spawn(a.ctx, func(ctx context.Context, io effects) ctlEvent {
		next, err := barriers.LetGo(a.ask(ctx, io), rec, barriers.StateStopping)
		return ctlStopping{rec: next, err: err}
	})
}

func (a *attempt) onStopping(now time.Time, ev ctlStopping) {
	if ev.err != nil {
		a.end(classify(a.job, ev.err))
		return
	}
	a.rec = ev.rec
	a.apply(a.coord.CommitDone(now, a.current.id, nil))
}

// lastCompleted ends the attempt behind the last checkpoint, unless a savepoint is still to be made of it.
func (a *attempt) lastCompleted(id uint64) {
	s := a.stopping
	if s == nil || !s.final || id <= s.after {
		return
	}
	s.checkpoint = id
	if s.req.Savepoint == "" || s.mode == StopNow {
		a.leave(barriers.StateStopped, errStopped)
	}
}

// stopNow ends the attempt at the last committed checkpoint.
func (a *attempt) stopNow() {
	s, cp := a.stopping, a.current
	s.mode = StopNow
	if cp != nil && cp.manifest != nil {
		s.final, s.after = true, cp.id-1 // its commit was sent: it is resolved and released
		a.dropWaiting(refuse(ReasonConflict, "job %s is being stopped", a.job))
		return
	}
	a.leave(barriers.StateStopped, errStopped)
}

// leave ends the attempt when the savepoints that were cut are made, and an abort is through.
func (a *attempt) leave(state barriers.HeadState, as error) {
	if a.leaving != nil || a.ended {
		return
	}
	a.leaving = &leaving{state: state, as: as}
	a.held = false
	a.dropWaiting(fmt.Errorf("the job ends: %w", as))
	if cp := a.current; cp != nil && cp.aborted == nil {
		a.abort(barriers.Abort{Checkpoint: cp.id, Err: fmt.Errorf("the job ends: %w", as)})
	}
	a.tryLeave()
}

// dropWaiting fails every savepoint that was not cut yet.
func (a *attempt) dropWaiting(err error) {
	for _, mk := range slices.Clone(a.makings) {
		if mk.checkpoint == 0 {
			a.settleMaking(mk, SavepointReport{}, err)
		}
	}
}

func (a *attempt) tryLeave() {
	l := a.leaving
	if l == nil || l.under || a.ended || a.current != nil || len(a.makings) > 0 {
		return
	}
	l.under = true
	if l.state == "" {
		a.end(l.as)
		return
	}
	a.dropMerges()
	rec, spec := a.rec, barriers.CleanupSpec{Record: a.rec, Garbage: objectNamesOf(a.garbage), OrphanAge: 2 * a.cfg.Checkpoint.Timeout}
	a.drv.spawn(a.ctx, func(ctx context.Context, io effects) ctlEvent {
		ask := a.ask(ctx, io)
		// Best effort: the next attempt cleans up what is left.
		if err := barriers.Cleanup(ask, spec); err != nil && !isCanceled(err) {
			a.log.Warn("cleaning up old checkpoints", "err", err)
		}
		_, err := barriers.LetGo(ask, rec, l.state)
		return ctlLetGo{err}
	})
}

func (a *attempt) onLetGo(ev ctlLetGo) {
	if ev.err != nil {
		a.end(classify(a.job, ev.err))
		return
	}
	if s := a.stopping; s != nil && errors.Is(a.leaving.as, errStopped) {
		s.report.Checkpoint, s.report.Published = a.rec.Head.Checkpoint, true
		for _, done := range s.done {
			done(s.report, nil)
		}
		s.done = nil
	}
	a.end(a.leaving.as)
}
