package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// hdrWorking marks what an owner sends while it works: it lives, and the answer comes later.
const hdrWorking = "Weir-Working"

// ask carries a request out here or, if another process owns the job, there: then its answer is returned as it came.
func (s *Service) ask(ctx context.Context, v *verb, t target, in any, data []byte) (out any, relayed *nats.Msg, err error) {
	out, err = s.do(ctx, v, t, in)
	var elsewhere *processor.NotOwnerError
	if errors.As(err, &elsewhere) {
		relayed, err = s.forward(ctx, elsewhere, v, t, data)
		var gone *processor.ControlError
		if v.name == "checkpoints" && out != nil && errors.As(err, &gone) && gone.Reason == processor.ReasonNoOwner {
			return out, nil, nil // the records tell it too, without failures and durations
		}
		return nil, relayed, err
	}
	report, ok := out.(processor.JobReport)
	if err == nil && ok && v.name == "status" && report.Process != "" && processToken(report.Process) != s.cfg.Process {
		// The records say how the job is; its owner knows what is live. One that is silent changes nothing of the former.
		owner := &processor.NotOwnerError{Job: t.id(), Worker: report.Worker, Process: report.Process}
		if m, err := s.forward(ctx, owner, v, t, data); err == nil && problemIn(m) == nil {
			return nil, m, nil
		}
	}
	return out, nil, err
}

// processToken is a process's own part of the name of its heart.
func processToken(heart string) string { return heart[strings.LastIndexByte(heart, '.')+1:] }

// forward hands a request to the process that owns the job and waits for its answer as long as that process says that it works.
func (s *Service) forward(ctx context.Context, owner *processor.NotOwnerError, v *verb, t target, data []byte) (*nats.Msg, error) {
	process := processToken(owner.Process)
	if process == s.cfg.Process {
		return nil, refuse(processor.ReasonUnavailable, "job %s changes hands: ask again", t.id())
	}
	if tenants.ValidateSubject(process) != nil {
		return nil, refuse(processor.ReasonNoOwner, "job %s belongs to worker %s, which cannot be addressed: it ran an older Weir; ask again when another worker has taken the job", t.id(), owner.Worker)
	}
	answers, err := s.cfg.Conn.SubscribeSync(s.cfg.Conn.NewInbox())
	if err != nil {
		return nil, unavailable(owner, err)
	}
	defer func() { _ = answers.Unsubscribe() }()
	m := &nats.Msg{Subject: internalPrefix + process + "." + t.tenant + "." + t.job + "." + v.name, Reply: answers.Subject, Data: data}
	if err := s.cfg.Conn.PublishMsg(m); err != nil {
		return nil, unavailable(owner, err)
	}
	for heard := false; ; heard = true {
		limited, cancel := context.WithTimeout(ctx, s.cfg.Limits.Silence)
		answer, err := answers.NextMsgWithContext(limited)
		cancel()
		switch {
		case err == nil && answer.Header.Get("Status") == "503":
			return nil, s.gone(owner)
		case err == nil && answer.Header.Get(hdrWorking) != "":
			continue
		case err == nil:
			s.owners.heard(process)
			return answer, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.Is(err, nats.ErrNoResponders):
			return nil, s.gone(owner)
		case !errors.Is(err, context.DeadlineExceeded):
			return nil, unavailable(owner, err)
		case heard:
			return nil, refuse(processor.ReasonUnavailable, "worker %s began with the request and has been silent for %s: it may have carried it out; ask for the job's status",
				owner.Worker, s.cfg.Limits.Silence)
		}
		return nil, s.gone(owner)
	}
}

// gone says that nobody runs the job for now.
func (s *Service) gone(owner *processor.NotOwnerError) error {
	since := s.owners.silent(processToken(owner.Process), time.Now())
	return refuse(processor.ReasonNoOwner, "job %s belongs to worker %s, which has not answered since %s at least: another worker takes the job over when that one's heartbeat has stood still for its takeover time, if one runs that has its topology",
		owner.Job, owner.Worker, since.UTC().Format(time.RFC3339))
}

func unavailable(owner *processor.NotOwnerError, err error) error {
	return &processor.ControlError{
		Reason: processor.ReasonUnavailable, Err: err,
		Message: fmt.Sprintf("asking worker %s, which runs job %s: %s", owner.Worker, owner.Job, err),
	}
}

// handed takes a request from another worker, in the subscription's goroutine. It is never handed on.
func (s *Service) handed(m *nats.Msg) {
	name := m.Subject[strings.LastIndexByte(m.Subject, '.')+1:]
	v := s.verbs[name]
	if v == nil || !s.isInbox(m.Reply) {
		s.log.Warn("ignoring a request on the workers' subject", "subject", m.Subject)
		return
	}
	t, ok := parse(internalPrefix+s.cfg.Process+".", name, m.Subject)
	if !ok || t.scope() != ofJob {
		v.stats.ignored.Add(1)
		return
	}
	v.stats.requests.Add(1)
	in, err := s.understand(v, t, m.Data)
	if err == nil {
		select {
		case s.forwarded <- struct{}{}:
		default:
			err = refuse(processor.ReasonLimit, "worker %s carries out %d requests: wait a moment", s.cfg.Worker, cap(s.forwarded))
		}
	}
	if err != nil {
		v.stats.refused.Add(1)
		s.send(s.message(m.Reply, nil, pointer(problemOf(s.ctx, err))))
		return
	}
	s.spawn(func() {
		defer func() { <-s.forwarded }()
		s.carryOutHere(v, t, in, m.Reply)
	})
}

// carryOutHere works for another worker and tells it all the while that it does.
func (s *Service) carryOutHere(v *verb, t target, in any, reply string) {
	v.stats.running.Add(1)
	defer v.stats.running.Add(-1)
	timeout := s.cfg.Limits.ReadTimeout
	if v.work {
		timeout = s.cfg.Limits.WorkTimeout
	}
	ctx, cancel := context.WithTimeout(s.ctx, timeout)
	defer cancel()
	done := make(chan *nats.Msg, 1)
	go func() {
		out, err := s.do(ctx, v, t, in)
		if err != nil {
			v.stats.failed.Add(1)
			done <- s.message(reply, nil, pointer(problemOf(ctx, err)))
			return
		}
		done <- s.message(reply, out, nil)
	}()
	ticker := time.NewTicker(s.cfg.Limits.Silence / 4)
	defer ticker.Stop()
	s.send(&nats.Msg{Subject: reply, Header: nats.Header{hdrWorking: {"1"}}})
	for {
		select {
		case m := <-done:
			s.send(m)
			return
		case <-ticker.C:
			s.send(&nats.Msg{Subject: reply, Header: nats.Header{hdrWorking: {"1"}}})
		}
	}
}

// problemIn returns the problem that an answer tells, nil if it is none.
func problemIn(m *nats.Msg) *Problem {
	code := m.Header.Get(micro.ErrorCodeHeader)
	if code == "" {
		return nil
	}
	p := &Problem{}
	if err := json.Unmarshal(m.Data, p); err != nil || p.Reason == "" {
		p = &Problem{processor.ReasonFailed, m.Header.Get(micro.ErrorHeader)}
		if n, err := strconv.Atoi(code); err == nil && n == Code(processor.ReasonUnavailable) {
			p.Reason = processor.ReasonUnavailable
		}
	}
	return p
}

// askJob carries a verb of one job out here or at its owner, for work that spans jobs.
func askJob[Out any](ctx context.Context, s *Service, name string, t target, in any) (Out, error) {
	var zero Out
	data, err := json.Marshal(in)
	if err != nil {
		return zero, fmt.Errorf("encoding %s: %w", name, err)
	}
	out, relayed, err := s.ask(ctx, s.verbs[name], t, in, data)
	if err != nil {
		return zero, err
	}
	if relayed == nil {
		return out.(Out), nil
	}
	if p := problemIn(relayed); p != nil {
		return zero, &processor.ControlError{Reason: p.Reason, Message: p.Message}
	}
	var decoded Out
	if err := json.Unmarshal(relayed.Data, &decoded); err != nil {
		return zero, fmt.Errorf("decoding the answer to %s of job %s: %w", name, t.id(), err)
	}
	return decoded, nil
}

// silence remembers since when processes have not answered, for a sentence. It forgets what is beyond its bound.
type silence struct {
	mu    sync.Mutex
	since map[string]time.Time
}

const maxSilent = 1024

func newSilence() *silence { return &silence{since: map[string]time.Time{}} }

func (q *silence) silent(process string, now time.Time) time.Time {
	q.mu.Lock()
	defer q.mu.Unlock()
	if at, ok := q.since[process]; ok {
		return at
	}
	if len(q.since) >= maxSilent {
		clear(q.since)
	}
	q.since[process] = now
	return now
}

func (q *silence) heard(process string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.since, process)
}
