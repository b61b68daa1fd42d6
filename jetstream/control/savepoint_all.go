package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nuid"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// A tenant-wide savepoint.
//
// Invariant: when it is answered, every job has the savepoint, and for each stream that several of them read, all were cut at the same
// position. When it is refused, no job has it.
//
// How: nothing is done where a job has the name already. Every job is held: its sources stand still and say where. The cut of a stream
// is the furthest position of any source of any job in it: nobody is behind it who cannot reach it, and nobody beyond. Then each job
// goes on exactly up to the cut and takes its savepoint there.
//
// Failure windows, and what closes them:
//
//   - A job cannot be held, or not in time: those that are get resumed. Holds end by themselves, should this worker die.
//   - A savepoint fails, or its hold has run out: those that were made are deleted, the others resumed.
//   - Whether one was made is unknown, since its owner fell silent: the same request is made again. It carries an ID that only this
//     try has, so that it finds its own savepoint and no one else's; one that is not there is refused, since its hold is gone.
//   - A savepoint that was made cannot be deleted: the answer names it.
//   - This worker dies between the first savepoint and the last answer: the caller gets no answer. What was made has the asked name;
//     asking again is refused with the names of those that have it.

// spread is how many jobs are asked at the same time.
const spread = 64

// member is one job of a tenant-wide savepoint.
type member struct {
	t         target
	positions map[string]processor.Position // by source
	report    processor.SavepointReport
	made      bool
	err       error // of its cut
}

// savepointAll takes one savepoint of all jobs of a tenant that should run, or of some.
func (s *Service) savepointAll(ctx context.Context, tenant tenants.ID, in *SavepointRequest) (TenantSavepoints, error) {
	members, err := s.members(ctx, tenant, in)
	if err != nil {
		return TenantSavepoints{}, err
	}
	if err := s.unused(ctx, members, in.Name); err != nil {
		return TenantSavepoints{}, err
	}
	id := "tenant:" + nuid.Next()
	cut, err := s.cutAll(ctx, members, in.Name, id)
	if err == nil {
		err = sameCut(members, cut)
	}
	if err != nil {
		return TenantSavepoints{}, s.undo(ctx, members, in.Name, id, cut, err)
	}
	all := TenantSavepoints{Name: in.Name, Cut: cut, Savepoints: make([]processor.SavepointReport, len(members))}
	for i, m := range members {
		all.Savepoints[i] = m.report
	}
	return all, nil
}

// members are the jobs that take part.
func (s *Service) members(ctx context.Context, tenant tenants.ID, in *SavepointRequest) ([]*member, error) {
	jobs, err := s.listJobs(ctx, target{string(tenant), none})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(jobs, func(a, b processor.JobReport) int { return cmp.Compare(a.Job, b.Job) })
	var members []*member
	missing := map[string]bool{}
	for _, j := range in.Jobs {
		missing[j] = true
	}
	for _, j := range jobs {
		if in.Jobs != nil && !missing[j.Job] || in.Jobs == nil && j.Desired != processor.DesiredRunning {
			continue
		}
		delete(missing, j.Job)
		members = append(members, &member{t: target{j.Tenant, j.Job}})
	}
	if len(missing) > 0 {
		return nil, refuse(processor.ReasonUnknownJob, "tenant %s has no job %s", tenant, strings.Join(slices.Sorted(maps.Keys(missing)), ", "))
	}
	if len(members) == 0 {
		return nil, refuse(processor.ReasonNotRunning, "no job of tenant %s is to run: there is nothing to take a savepoint of", tenant)
	}
	return members, nil
}

// unused refuses a name that a job has.
func (s *Service) unused(ctx context.Context, members []*member, name string) error {
	var mu sync.Mutex
	var have []string
	err := s.each(members, func(m *member) error {
		all, err := s.cfg.Control.Savepoints(ctx, m.t.id())
		if err != nil {
			return err
		}
		if slices.ContainsFunc(all, func(r processor.SavepointReport) bool { return r.Name == name }) {
			mu.Lock()
			defer mu.Unlock()
			have = append(have, m.t.job)
		}
		return nil
	})
	if err == nil && len(have) > 0 {
		slices.Sort(have)
		err = refuse(processor.ReasonConflict, "these jobs of tenant %s have a savepoint %s: %s: choose another name, or delete them", members[0].t.tenant, name, strings.Join(have, ", "))
	}
	return err
}

// cutAll holds every job, finds the cut and takes the savepoints.
func (s *Service) cutAll(ctx context.Context, members []*member, name, id string) (map[string]uint64, error) {
	hold := s.cfg.Limits.HoldTimeout
	limited, cancel := context.WithTimeout(ctx, hold/2) // the other half is for the cuts to begin
	err := s.each(members, func(m *member) error {
		answer, err := askJob[heldAnswer](limited, s, "hold", m.t, &holdRequest{ID: id, Timeout: processor.Duration(hold)})
		m.positions = answer.Positions
		return err
	})
	if limited.Err() != nil && ctx.Err() == nil && err != nil {
		err = refuse(processor.ReasonUnavailable, "not all jobs stood still within %s: %w", hold/2, err)
	}
	cancel()
	if err != nil {
		return nil, err
	}
	cut := map[string]uint64{}
	for _, m := range members {
		for _, p := range m.positions {
			cut[p.Stream] = max(cut[p.Stream], p.Sequence)
		}
	}
	return cut, s.each(members, func(m *member) error { return s.cutOne(ctx, m, name, id, cut) })
}

func (s *Service) cutOne(ctx context.Context, m *member, name, id string, cut map[string]uint64) error {
	at := make(map[string]uint64, len(m.positions))
	for source, p := range m.positions {
		at[source] = cut[p.Stream]
	}
	report, err := askJob[processor.SavepointReport](ctx, s, "cut", m.t, &cutRequest{Name: name, Request: id, Hold: id, Cut: at})
	m.report, m.made, m.err = report, err == nil, err
	return err
}

// sameCut checks the invariant on what the jobs say of their savepoints.
func sameCut(members []*member, cut map[string]uint64) error {
	for _, m := range members {
		for source, p := range m.positions {
			if got := m.report.Positions[source]; got.Stream != p.Stream || got.Sequence != cut[p.Stream] {
				return fmt.Errorf("the savepoint of job %s was cut at %d of stream %s in source %s, and not at %d of %s",
					m.t.id(), got.Sequence, got.Stream, source, cut[p.Stream], p.Stream)
			}
		}
	}
	return nil
}

// undoTime bounds what is done to leave nothing behind. The caller's own time may be over.
const undoTime = 20 * time.Second

// undo resumes what stands still and deletes what was made, and returns the error that led here.
func (s *Service) undo(ctx context.Context, members []*member, name, id string, cut map[string]uint64, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	var mu sync.Mutex
	var left []string
	_ = s.each(members, func(m *member) error {
		unknown := false
		if !m.made {
			// Also where the hold failed: it may be the answer that did. Where there is none it ends by itself, or never was.
			_, _ = askJob[Done](ctx, s, "resume", m.t, &resumeRequest{ID: id})
		}
		if m.err != nil && unsure(m.err) {
			// Made again, the request finds the savepoint that it made. Where it finds none, one may still be under way, unless
			// the first answer was that it failed.
			failed := reasonOf(m.err) == processor.ReasonFailed
			err := s.cutOne(ctx, m, name, id, cut)
			unknown = err != nil && !failed && (unsure(err) || reasonOf(err) == processor.ReasonConflict)
		}
		if m.made {
			unknown = s.deleteSavepoint(ctx, m, name) != nil
		}
		if unknown {
			mu.Lock()
			defer mu.Unlock()
			left = append(left, m.t.job)
		}
		return nil
	})
	if len(left) == 0 {
		return cause
	}
	slices.Sort(left)
	s.log.Error("a tenant-wide savepoint that failed could not be removed from every job", "tenant", members[0].t.tenant, "savepoint", name, "jobs", left)
	p := problemOf(ctx, cause)
	return refuse(p.Reason, "%s; of these jobs it is unknown whether they have a savepoint %s now, delete it where they do: %s", p.Message, name, strings.Join(left, ", "))
}

func (s *Service) deleteSavepoint(ctx context.Context, m *member, name string) error {
	var err error
	for range 3 {
		if _, err = askJob[Done](ctx, s, "savepoint-delete", m.t, &SavepointDeleteRequest{Name: name}); err == nil {
			return nil
		}
		if reasonOf(err) == processor.ReasonNotFound {
			return nil
		}
	}
	return err
}

// unsure reports whether an error leaves open what was done.
func unsure(err error) bool {
	r := reasonOf(err)
	return r == "" || Code(r) >= 500
}

func reasonOf(err error) processor.Reason {
	var own *processor.ControlError
	if errors.As(err, &own) {
		return own.Reason
	}
	return ""
}

// each asks the jobs at the same time, a bounded number of them, and returns the first error in their order with the job's name.
func (s *Service) each(members []*member, f func(*member) error) error {
	errs := make([]error, len(members))
	places := make(chan struct{}, spread)
	var wg sync.WaitGroup
	for i, m := range members {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			errs[i] = s.guarded("savepoint", m.t, func() error { return f(m) })
		})
	}
	wg.Wait()
	for i, err := range errs {
		if err == nil {
			continue
		}
		if r := reasonOf(err); r != "" {
			return refuse(r, "job %s: %w", members[i].t.id(), err)
		}
		return fmt.Errorf("job %s: %w", members[i].t.id(), err)
	}
	return nil
}
