package processor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/tenants"
)

// A source that stands at a mark stays there until a checkpoint is committed that is cut exactly there, or until it is known that
// there will be none: the mark is ignored, its savepoint exists, or the time is up. Which checkpoint serves is told by its
// positions alone, so neither an abort nor a checkpoint that was in flight already can make a savepoint of anything else.

// markRequest identifies the savepoint that a mark asks for: once per stream and sequence, whoever reads it again.
func markRequest(m *barriers.Mark) string { return fmt.Sprintf("mark:%s:%d", m.Stream, m.Seq) }

// markName is the savepoint's name where the mark gives none.
func markName(m *barriers.Mark) string {
	seq := fmt.Sprintf("-%d", m.Seq)
	source := m.Source[:min(len(m.Source), tenants.MaxNameLen-len("mark-")-len(seq))]
	return "mark-" + source + seq
}

// onMark hears of a source that stands at a mark.
func (a *attempt) onMark(now time.Time, ev ctlMark) {
	mk := &making{name: ev.savepoint, request: markRequest(&ev.mark), mark: &ev.mark, time: ev.time, began: now}
	if mk.name == "" {
		mk.name = markName(mk.mark)
	}
	mk.deadline = now.Add(maxHold)
	known := 0
	for _, other := range a.makings {
		if other.mark != nil {
			known++
		}
	}
	switch {
	case a.leaving != nil:
		a.ignoreMark(mk.mark, MarkJobStops)
		return
	case len(a.makings) >= maxMakings:
		a.ignoreMark(mk.mark, MarkTooMany)
		return
	case a.making(mk.name) != nil:
		a.tellMark(mk, MarkFailed, refuse(ReasonConflict, "savepoint %s of job %s is being made", mk.name, a.job))
		a.pass(mk.mark)
		return
	}
	a.makings = append(a.makings, mk)
	a.hasten()
	config := a.cfg.Marks
	a.drv.spawn(a.ctx, func(ctx context.Context, io effects) ctlEvent {
		out := ctlMarkJudged{name: mk.name, mark: ev.mark}
		list, err := barriers.ListSavepoints(a.ask(ctx, io), string(a.job.Tenant), a.job.Name)
		if err != nil && !errors.As(err, new(*barriers.RecordError)) {
			out.err = err
			return out
		}
		out.done, out.reason, out.err = judgeMark(list, mk, config, known)
		return out
	})
}

// judgeMark says what to do about a mark, by the savepoints there are and the number of those that marks have under way.
func judgeMark(list []*barriers.Manifest, mk *making, config MarkConfig, underWay int) (done bool, reason string, err error) {
	last := int64(0)
	for _, m := range list {
		switch {
		case m.Request == mk.request:
			return true, "", nil
		case m.Savepoint == mk.name:
			err = refuse(ReasonConflict, "savepoint %s exists: the mark must name another, or none", mk.name)
		}
		if m.Mark == nil {
			continue
		}
		underWay++
		if m.Mark.Source == mk.mark.Source && m.Mark.Stream == mk.mark.Stream && m.Mark.Seq < mk.mark.Seq {
			last = max(last, markTime(m))
		}
	}
	switch {
	case err != nil:
	case underWay >= config.Max:
		reason = MarkTooMany
	case last != 0 && mk.time-last < int64(config.MinInterval):
		reason = MarkTooSoon
	}
	return false, reason, err
}

// markTime is the server time of the mark that a savepoint was made for: the mark is the last record that its source had read.
func markTime(m *barriers.Manifest) int64 {
	for _, s := range m.Sources {
		if n := len(s.Tail); s.Name == m.Mark.Source && n > 0 && s.Tail[n-1].Seq == m.Mark.Seq {
			return s.Tail[n-1].Time
		}
	}
	return 0
}

func (a *attempt) onMarkJudged(now time.Time, ev ctlMarkJudged) {
	mk := a.making(ev.name)
	if mk == nil || mk.mark == nil || *mk.mark != ev.mark || mk.ready {
		return // given up meanwhile
	}
	switch {
	case ev.err != nil:
		a.settleMaking(mk, SavepointReport{}, ev.err)
	case ev.done, ev.reason != "":
		a.dropMaking(mk)
		if ev.reason != "" {
			a.ignoreMark(mk.mark, ev.reason)
		} else {
			a.pass(mk.mark)
		}
	default:
		mk.ready = true
		a.tellSavepoint(mk, SavepointStarted, nil)
	}
	a.pursue(now)
}

// pass lets a source go on behind a mark.
func (a *attempt) pass(m *barriers.Mark) { a.tellSources(evPass{source: m.Source, seq: m.Seq}) }

// ignoreMark passes a mark and says so.
func (a *attempt) ignoreMark(m *barriers.Mark, reason string) {
	a.tellSources(evPass{source: m.Source, seq: m.Seq, ignored: true})
	a.onMarkIgnored(ctlMarkIgnored{mark: *m, reason: reason})
}

func (a *attempt) onMarkIgnored(ev ctlMarkIgnored) {
	a.log.Warn("a mark is ignored", "stream", ev.mark.Stream, "seq", ev.mark.Seq, "err", ev.reason)
	if a.listen.Mark != nil {
		a.listen.Mark(MarkEvent{Job: a.job, Mark: ev.mark, State: MarkIgnored, Reason: ev.reason, At: a.drv.now()})
	}
}

func (a *attempt) tellMark(mk *making, state MarkState, err error) {
	if mk.mark != nil && a.listen.Mark != nil {
		a.listen.Mark(MarkEvent{Job: a.job, Mark: *mk.mark, Savepoint: mk.name, State: state, Err: err, At: a.drv.now()})
	}
}
