package control

import (
	"context"
	"runtime/debug"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/nats-io/nuid"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// grace is how long a request that nobody waits for may take to be refused at once.
const grace = 200 * time.Millisecond

// heard looks at a request in the endpoint's own goroutine, where nothing may block, and hands it to one of its own.
func (s *Service) heard(v *verb, r micro.Request) {
	v.stats.requests.Add(1)
	t, ok := parse(prefix, v.name, r.Subject())
	if !ok || !s.isInbox(r.Reply()) {
		// A consumer's delivery, a mapped or imported subject, or somebody who wants the answer published elsewhere.
		v.stats.ignored.Add(1)
		s.log.Debug("ignoring a control request", "subject", r.Subject(), "reply", tenants.Printable(r.Reply()))
		return
	}
	begin, err := s.admit(v, t, r.Data())
	if err != nil {
		v.stats.refused.Add(1)
		m := s.message(r.Reply(), nil, pointer(problemOf(s.ctx, err)))
		if err := r.Error(m.Header.Get(micro.ErrorCodeHeader), m.Header.Get(micro.ErrorHeader), m.Data); err != nil {
			s.log.Debug("refusing a control request", "err", err)
		}
		return
	}
	data, reply := r.Data(), r.Reply()
	if !s.spawn(func() { begin(data, reply) }) {
		s.send(s.message(reply, nil, pointer(problemOf(s.ctx, errClosing))))
	}
}

// admit checks everything that can be checked without work, and returns the work.
func (s *Service) admit(v *verb, t target, data []byte) (func(data []byte, reply string), error) {
	if err := s.limits.admit(t.tenant, v.work, time.Now()); err != nil {
		return nil, err
	}
	in, err := s.understand(v, t, data)
	if err != nil {
		return nil, err
	}
	leave, err := s.limits.enter(t.tenant, v.work)
	if err != nil {
		return nil, err
	}
	return func(data []byte, reply string) {
		defer leave()
		s.carryOut(v, t, in, data, reply)
	}, nil
}

// understand checks names and reads the request.
func (s *Service) understand(v *verb, t target, data []byte) (any, error) {
	if v.scopes&t.scope() == 0 {
		return nil, refuse(processor.ReasonBadRequest, "%s is asked of %s", v.name, where(v))
	}
	if t.tenant != none {
		if err := tenants.ID(t.tenant).Validate(); err != nil {
			return nil, refuse(processor.ReasonBadRequest, "%w", err)
		}
	}
	if t.job != none {
		if err := tenants.ValidateName("job", t.job); err != nil {
			return nil, refuse(processor.ReasonBadRequest, "%w", err)
		}
	}
	return v.decode(data)
}

func where(v *verb) string {
	var forms []string
	if v.scopes&ofJob != 0 {
		forms = append(forms, prefix+"{tenant}.{job}."+v.name)
	}
	if v.scopes&ofTenant != 0 {
		forms = append(forms, prefix+"{tenant}."+none+"."+v.name)
	}
	if v.scopes&ofAll != 0 {
		forms = append(forms, prefix+none+"."+none+"."+v.name)
	}
	return strings.Join(forms, " or ")
}

// carryOut does the work of one request and answers.
func (s *Service) carryOut(v *verb, t target, in any, data []byte, reply string) {
	v.stats.running.Add(1)
	defer v.stats.running.Add(-1)
	timeout := s.cfg.Limits.ReadTimeout
	if v.work {
		timeout = s.cfg.Limits.WorkTimeout
	}
	ctx, cancel := context.WithTimeout(s.ctx, timeout)
	defer cancel()
	w, ok := in.(interface{ waits() bool })
	if !ok || w.waits() {
		m, _ := s.outcome(ctx, v, t, in, data, reply)
		s.send(m)
		return
	}
	s.unattended(ctx, v, t, in, data, reply)
}

// unattended works while nobody waits: what is refused at once is answered so, anything else told as an event.
func (s *Service) unattended(ctx context.Context, v *verb, t target, in any, data []byte, reply string) {
	type ended struct {
		m *nats.Msg
		p *Problem
	}
	done := make(chan ended, 1)
	go func() {
		m, p := s.outcome(ctx, v, t, in, data, reply)
		done <- ended{m, p}
	}()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case e := <-done:
		s.send(e.m)
		return
	case <-timer.C:
	}
	id := nuid.Next()
	s.send(s.message(reply, Accepted{Accepted: true, Request: id, Events: eventSubject(t.tenant, t.job, whatRequest)}, nil))
	e := <-done
	if s.cfg.Events != nil {
		s.cfg.Events.request(t, v.name, id, e.m.Data, e.p)
	}
}

// outcome carries a request out, here or where the job runs, and encodes what came of it.
func (s *Service) outcome(ctx context.Context, v *verb, t target, in any, data []byte, reply string) (*nats.Msg, *Problem) {
	out, relayed, err := s.ask(ctx, v, t, in, data)
	if relayed != nil {
		if p := problemIn(relayed); p != nil {
			v.stats.failed.Add(1)
			return &nats.Msg{Subject: reply, Header: relayed.Header, Data: relayed.Data}, p
		}
		s.found(v, t)
		return &nats.Msg{Subject: reply, Data: relayed.Data}, nil
	}
	if err != nil {
		v.stats.failed.Add(1)
		p := problemOf(ctx, err)
		return s.message(reply, nil, &p), &p
	}
	s.found(v, t)
	return s.message(reply, out, nil), nil
}

// found gives a tenant of which a job was found its own allowance.
func (s *Service) found(v *verb, t target) {
	if !v.list {
		s.limits.learn(t.tenant)
	}
}

// do runs a verb here.
func (s *Service) do(ctx context.Context, v *verb, t target, in any) (out any, err error) {
	err = s.guarded(v.name, t, func() error {
		out, err = v.run(s, ctx, t, in)
		return err
	})
	return out, err
}

// guarded runs what a request asked for. A panic is a failed request, not the end of the process.
func (s *Service) guarded(verb string, t target, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("a control request panicked", "tenant", t.tenant, "job", t.job, "verb", verb, "err", p, "stack", string(debug.Stack()))
			err = refuse(processor.ReasonFailed, "%s ended in a panic, which is a bug: the worker's log has the details", verb)
		}
	}()
	return f()
}

func (s *Service) send(m *nats.Msg) {
	if err := s.cfg.Conn.PublishMsg(m); err != nil {
		s.log.Warn("answering a control request", "err", err)
	}
}

// parse takes {tenant}, {job} and the verb out of a subject. Both may be anything a subject token can be.
func parse(prefix, verb, subject string) (target, bool) {
	rest, ok := strings.CutPrefix(subject, prefix)
	if !ok {
		return target{}, false
	}
	rest, ok = strings.CutSuffix(rest, "."+verb)
	if !ok {
		return target{}, false
	}
	tenant, job, ok := strings.Cut(rest, ".")
	if !ok || tenant == "" || job == "" || strings.Contains(job, ".") {
		return target{}, false
	}
	return target{tenant, job}, true
}

// isInbox reports whether answers may go to a subject.
func (s *Service) isInbox(reply string) bool {
	if len(reply) > tenants.MaxSubjectLen || tenants.ValidateSubject(reply) != nil {
		return false
	}
	for _, p := range s.inboxes {
		if strings.HasPrefix(reply, p) {
			return true
		}
	}
	return false
}

// ownInboxes is what the connection's own reply subjects begin with.
func ownInboxes(nc *nats.Conn) string {
	inbox := nc.NewInbox()
	return inbox[:strings.LastIndexByte(inbox, '.')+1]
}

func pointer[T any](v T) *T { return &v }
