package processor

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/tenants"
)

// Status implements Control. What it says of a job that another process owns is what the records say; Process names that process.
func (r *Runtime) Status(ctx context.Context, id tenants.JobID) (JobReport, error) {
	s, err := r.lookLoosely(ctx, id)
	if err != nil {
		return JobReport{}, err
	}
	if !s.exists() {
		return JobReport{}, r.unknown(id)
	}
	rep := r.report(&s)
	if s.head == nil || s.head.Head.ManifestSeq == 0 {
		return rep, nil
	}
	// When the last checkpoint was, and what with, its manifest says. The owner may have moved on: then that is left out.
	m, err := barriers.ReadCheckpoint(askOf(ctx, r.cfg.Broker, id), string(id.Tenant), id.Name, 0)
	if err == nil && m.Checkpoint >= rep.Checkpoint {
		rep.Checkpoint, rep.CompletedAt = m.Checkpoint, time.Unix(0, m.CreatedAt).UTC()
		if rep.Parallelism == 0 {
			rep.Parallelism = m.Parallelism
		}
		if rep.Config == nil {
			rep.Config = m.Config
		}
	}
	return rep, nil
}

// report makes a report of what is known of a job.
func (r *Runtime) report(s *subject) JobReport {
	rep := JobReport{Tenant: string(s.id.Tenant), Job: s.id.Name, Topology: s.topology(), State: JobStarting, Reason: "it has not run yet"}
	if s.intent != nil {
		rep.Desired = s.intent.Desired
		if c := s.intent.Config; c != nil && c.Shadow != nil {
			rep.Shadow = *c.Shadow
		}
		if s.head == nil && rep.Desired != DesiredRunning {
			rep.State, rep.Reason = JobState(rep.Desired), "it never ran"
		}
	}
	if s.head != nil {
		s.reportHead(&rep)
	}
	if s.job != nil && r.elsewhere(s) == nil {
		s.job.reportLive(&rep)
	}
	if s.broken != nil {
		rep.Reason = s.broken.Error()
	}
	return rep
}

// reportHead says what a job's head says.
func (s *subject) reportHead(rep *JobReport) {
	h := s.head.Head
	rep.Epoch, rep.Checkpoint, rep.Reason = h.Epoch, h.Checkpoint, ""
	switch h.State {
	case barriers.StateReleased:
		rep.State, rep.Reason = JobStarting, "its last worker let go of it, and none has taken it yet"
	case barriers.StateStopped:
		rep.State = JobStopped
	case barriers.StateDeleted:
		rep.State = JobDeleted
	default:
		rep.State, rep.Worker, rep.Process = JobRunning, h.Worker, s.process()
		if h.State == barriers.StateStopping {
			rep.Reason = "it is stopping"
		}
	}
}

// reportLive says how a job is on the worker that has it, or that may take it.
func (j *Job) reportLive(rep *JobReport) {
	t, cfg, _ := j.setup()
	st := j.Status()
	rep.Topology = t.Name()
	if st.State == JobStandby && st.Err == nil {
		return // the records know more
	}
	rep.State, rep.Parallelism, rep.Restarts, rep.Retry, rep.Shadow = st.State, st.Parallelism, st.Restarts, st.Retry, cfg.Shadow
	rep.Epoch, rep.Checkpoint = max(rep.Epoch, st.Epoch), max(rep.Checkpoint, st.Checkpoint)
	rep.Reason = ""
	if st.Err != nil {
		rep.Reason = st.Err.Error()
	}
	if text, err := cfg.record(); err == nil {
		rep.Config = text
	}
	if attempt, _ := j.running(); attempt != nil {
		m := j.Metrics()
		rep.Elements, rep.StateBytes, rep.Sources = m.RecordsIn, m.StateBytes, j.sources()
	}
}

// jobReaders bounds how many heads a list reads at the same time.
const jobReaders = 16

// Jobs implements Control. Jobs that are deleted for good are not listed.
func (r *Runtime) Jobs(ctx context.Context, tenant tenants.ID) ([]JobReport, error) {
	if tenant != "" {
		if err := tenant.Validate(); err != nil {
			return nil, refuse(ReasonBadRequest, "%w", err)
		}
	}
	subjects, err := r.subjects(ctx, tenant)
	if err != nil {
		return nil, unavailable(err)
	}
	reports := make([]JobReport, len(subjects))
	errs := make([]error, len(subjects))
	var wg sync.WaitGroup
	places := make(chan struct{}, jobReaders)
	for i := range subjects {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			s := &subjects[i]
			s.head, errs[i] = barriers.ReadHead(askOf(ctx, r.cfg.Broker, s.id), string(s.id.Tenant), s.id.Name)
			reports[i] = r.report(s)
			if errs[i] != nil {
				reports[i].Reason = errs[i].Error()
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil, unavailable(ctx.Err())
	}
	return slices.DeleteFunc(reports, func(rep JobReport) bool { return rep.State == JobDeleted && rep.Desired != DesiredRunning }), nil
}

// subjects lists every job that has an intent or a head, or is hosted here, in order.
func (r *Runtime) subjects(ctx context.Context, tenant tenants.ID) ([]subject, error) {
	intents, err := r.allIntents(ctx)
	if err != nil {
		return nil, err
	}
	reply := r.cfg.Broker.Do(ctx, tenants.JobID{Tenant: tenant}, barriers.Request{Op: barriers.OpListRecords, Key: string(tenant)})
	if reply.Status != barriers.OK {
		return nil, fmt.Errorf("%w: listing the jobs that ever ran: %w", ErrUnavailable, reply.Err)
	}
	found := map[tenants.JobID]*subject{}
	add := func(id tenants.JobID) *subject {
		if found[id] == nil && (tenant == "" || id.Tenant == tenant) {
			_, j := r.known(id)
			found[id] = &subject{id: id, job: j}
		}
		return found[id]
	}
	for id, rec := range intents {
		if s := add(id); s != nil {
			s.intent, s.revision, s.broken = rec.Intent, rec.Revision, rec.Err
		}
	}
	for _, j := range r.Hosted() {
		add(j.id)
	}
	for _, key := range reply.Names {
		t, name, _ := strings.Cut(key, ".")
		if id := (tenants.JobID{Tenant: tenants.ID(t), Name: name}); id.Validate() == nil {
			add(id)
		}
	}
	out := make([]subject, 0, len(found))
	for _, s := range found {
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b subject) int { return strings.Compare(a.id.String(), b.id.String()) })
	return out, nil
}

// allIntents returns the intents of all jobs: what the watch has heard or, where none runs, what one pass over the bucket says.
func (r *Runtime) allIntents(ctx context.Context) (map[tenants.JobID]IntentRecord, error) {
	r.mu.Lock()
	listed, all := r.listed, maps.Clone(r.intents)
	r.mu.Unlock()
	if listed {
		return all, nil
	}
	clear(all)
	pass, done := context.WithCancel(ctx)
	defer done()
	ready := false
	err := r.cfg.Broker.WatchIntents(pass, func(rec IntentRecord) { all[rec.Job] = rec }, func() { ready = true; done() })
	if !ready {
		return nil, err
	}
	return all, nil
}
