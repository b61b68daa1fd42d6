package control_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// fleet is what a few workers would know of each other: a naive model of the jobs behind processor.Control.
type fleet struct {
	mu    sync.Mutex
	jobs  map[tenants.JobID]*fakeJob
	calls []string // verb tenant/job, as they arrived
	// before, if set, is called by each call, without the lock. An error is what the call ends with.
	before func(worker, verb string, id tenants.JobID) error
	// after is like before, once the call's work is done: its answer gets lost.
	after func(worker, verb string, id tenants.JobID) error
}

type fakeJob struct {
	owner       string // process; empty: nobody
	running     bool
	parallelism int
	sources     map[string]processor.Position
	hold        string
	savepoints  map[string]fakeSavepoint
	busy        bool // a savepoint is under way
}

type fakeSavepoint struct {
	processor.SavepointReport
	request string
}

func newFleet() *fleet { return &fleet{jobs: map[tenants.JobID]*fakeJob{}} }

// add makes a job that process runs, with positions by source name: "orders@7" of the stream of the tenant's name.
func (f *fleet) add(process, tenant, name string, sources ...string) {
	j := &fakeJob{owner: process, running: true, parallelism: 1, sources: map[string]processor.Position{}, savepoints: map[string]fakeSavepoint{}}
	for _, s := range sources {
		var p processor.Position
		source, rest, _ := strings.Cut(s, "@")
		stream, seq, _ := strings.Cut(rest, ":")
		_, err := fmt.Sscan(seq, &p.Sequence)
		if err != nil {
			panic(err)
		}
		p.Stream = stream
		j.sources[source] = p
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.jobs[tenants.JobID{Tenant: tenants.ID(tenant), Name: name}] = j
}

// with changes a job.
func (f *fleet) with(job string, change func(j *fakeJob)) {
	id, err := tenants.ParseJobID(job)
	if err != nil {
		panic(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f.jobs[id])
}

// intercept sets before and after.
func (f *fleet) intercept(before, after func(worker, verb string, id tenants.JobID) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before, f.after = before, after
}

func (f *fleet) called() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// fake is one worker's processor.Control.
type fake struct {
	*fleet
	process string
}

func refuse(r processor.Reason, format string, args ...any) error {
	return &processor.ControlError{Reason: r, Message: fmt.Sprintf(format, args...)}
}

// on carries a call out at the job's owner.
func (f *fake) on(verb string, id tenants.JobID, anywhere bool, do func(j *fakeJob) error) error {
	f.mu.Lock()
	f.calls = append(f.calls, verb+" "+id.String())
	before, after := f.before, f.after
	f.mu.Unlock()
	if before != nil {
		if err := before(f.process, verb, id); err != nil {
			return err
		}
	}
	f.mu.Lock()
	err := f.locked(id, anywhere, do)
	f.mu.Unlock()
	if err == nil && after != nil {
		err = after(f.process, verb, id)
	}
	return err
}

func (f *fake) locked(id tenants.JobID, anywhere bool, do func(j *fakeJob) error) error {
	j := f.jobs[id]
	if j == nil {
		for other := range f.jobs {
			if other.Tenant == id.Tenant {
				return refuse(processor.ReasonUnknownJob, "tenant %s has no job %s", id.Tenant, id.Name)
			}
		}
		return refuse(processor.ReasonUnknownTenant, "nothing is known of tenant %s", id.Tenant)
	}
	if !anywhere {
		switch {
		case !j.running:
			return refuse(processor.ReasonNotRunning, "job %s is stopped", id)
		case j.owner == "":
			return refuse(processor.ReasonNoOwner, "nobody runs job %s", id)
		case j.owner != f.process:
			return &processor.NotOwnerError{Job: id, Worker: "w-" + j.owner, Process: "w-" + j.owner + "." + j.owner}
		}
	}
	return do(j)
}

func (f *fake) report(id tenants.JobID, j *fakeJob) processor.JobReport {
	r := processor.JobReport{
		Tenant: string(id.Tenant), Job: id.Name, Topology: id.Name, Desired: processor.DesiredStopped, State: processor.JobStopped,
		Parallelism: j.parallelism,
	}
	if j.running {
		r.Desired, r.State, r.Worker, r.Process = processor.DesiredRunning, processor.JobRunning, "w-"+j.owner, j.owner
	}
	if j.running && j.owner == f.process {
		r.Elements = 42 // live
	}
	return r
}

func (f *fake) Status(_ context.Context, id tenants.JobID) (r processor.JobReport, err error) {
	err = f.on("status", id, true, func(j *fakeJob) error { r = f.report(id, j); return nil })
	return r, err
}

func (f *fake) Jobs(_ context.Context, tenant tenants.ID) ([]processor.JobReport, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []processor.JobReport
	for id, j := range f.jobs {
		if tenant == "" || id.Tenant == tenant {
			all = append(all, f.report(id, j))
		}
	}
	return all, nil
}

func (f *fake) TakeCheckpoint(_ context.Context, id tenants.JobID) (r processor.CheckpointReport, err error) {
	err = f.on("checkpoint", id, false, func(*fakeJob) error {
		r = processor.CheckpointReport{Checkpoint: 7, Kind: barriers.KindCheckpoint, State: "completed"}
		return nil
	})
	return r, err
}

func (f *fake) Checkpoints(_ context.Context, id tenants.JobID) (all []processor.CheckpointReport, err error) {
	err = f.on("checkpoints", id, true, func(*fakeJob) error {
		for n := uint64(10); n > 0; n-- {
			all = append(all, processor.CheckpointReport{Checkpoint: n, State: "completed"})
		}
		all = append(all, processor.CheckpointReport{Checkpoint: 5, State: "failed"})
		return nil
	})
	return all, err
}

// TakeSavepoint takes a second of (virtual) time, in which another is refused.
func (f *fake) TakeSavepoint(ctx context.Context, id tenants.JobID, req processor.SavepointRequest) (r processor.SavepointReport, err error) {
	request := req.Request
	if request == "" {
		request = req.Name
	}
	have := false
	err = f.on("savepoint", id, false, func(j *fakeJob) error {
		old, exists := j.savepoints[req.Name]
		switch {
		case exists && old.request == request:
			r, have = old.SavepointReport, true
			return nil
		case exists:
			return refuse(processor.ReasonConflict, "job %s has a savepoint %s", id, req.Name)
		case j.busy:
			return refuse(processor.ReasonConflict, "a savepoint of job %s is under way", id)
		case req.Hold != "" && j.hold != req.Hold:
			return refuse(processor.ReasonNotFound, "job %s has no hold %s", id, req.Hold)
		}
		for source, seq := range req.Cut {
			if p := j.sources[source]; seq < p.Sequence {
				return refuse(processor.ReasonConflict, "source %s is at %d, beyond %d", source, p.Sequence, seq)
			}
		}
		j.busy = true
		return nil
	})
	if err != nil || have {
		return r, err
	}
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
	}
	f.mu.Lock()
	j := f.jobs[id]
	j.busy = false
	for source, seq := range req.Cut {
		p := j.sources[source]
		p.Sequence = seq
		j.sources[source] = p
	}
	if j.hold == req.Hold {
		j.hold = ""
	}
	r = processor.SavepointReport{Name: req.Name, Tenant: string(id.Tenant), Job: id.Name, Positions: maps.Clone(j.sources), Created: time.Now()}
	if ctx.Err() == nil {
		j.savepoints[req.Name] = fakeSavepoint{r, request}
	}
	after := f.after
	f.mu.Unlock()
	if after != nil {
		if err := after(f.process, "saved", id); err != nil {
			return processor.SavepointReport{}, err
		}
	}
	return r, ctx.Err()
}

func (f *fake) Savepoints(_ context.Context, id tenants.JobID) (all []processor.SavepointReport, err error) {
	err = f.on("savepoints", id, true, func(j *fakeJob) error {
		for _, s := range j.savepoints {
			all = append(all, s.SavepointReport)
		}
		return nil
	})
	return all, err
}

func (f *fake) DeleteSavepoint(_ context.Context, id tenants.JobID, name string) error {
	return f.on("savepoint-delete", id, true, func(j *fakeJob) error {
		if _, have := j.savepoints[name]; !have {
			return refuse(processor.ReasonNotFound, "job %s has no savepoint %s", id, name)
		}
		delete(j.savepoints, name)
		return nil
	})
}

func (f *fake) Stop(_ context.Context, id tenants.JobID, _ processor.StopRequest) (r processor.StopReport, err error) {
	err = f.on("stop", id, false, func(j *fakeJob) error { j.running = false; r.Published = true; return nil })
	return r, err
}

func (f *fake) Start(_ context.Context, id tenants.JobID, req processor.StartRequest) (r processor.JobReport, err error) {
	err = f.on("start", id, true, func(j *fakeJob) error {
		if req.Config != nil && req.Config.Parallelism != nil {
			j.parallelism = *req.Config.Parallelism
		}
		j.running = true
		r = f.report(id, j)
		return nil
	})
	return r, err
}

func (f *fake) Fork(_ context.Context, id tenants.JobID, req processor.ForkRequest) (r processor.JobReport, err error) {
	err = f.on("fork", id, true, func(j *fakeJob) error {
		as := tenants.JobID{Tenant: id.Tenant, Name: req.As}
		if f.jobs[as] != nil {
			return refuse(processor.ReasonConflict, "there is a job %s", as)
		}
		copied := *j
		f.jobs[as] = &copied
		r = f.report(as, &copied)
		return nil
	})
	return r, err
}

func (f *fake) Delete(_ context.Context, id tenants.JobID, _ processor.DeleteRequest) error {
	return f.on("delete", id, true, func(*fakeJob) error { delete(f.jobs, id); return nil })
}

func (f *fake) ReadState(_ context.Context, id tenants.JobID, req processor.StateRequest) (r processor.StateReport, err error) {
	err = f.on("state", id, false, func(*fakeJob) error {
		r = processor.StateReport{Operator: req.Operator, State: req.State}
		if req.Key != nil {
			r.Key, r.Found, r.Value = *req.Key, true, json.RawMessage(`{"count":3}`)
		}
		return nil
	})
	return r, err
}

func (f *fake) Hold(_ context.Context, id tenants.JobID, hold string, timeout time.Duration) (at map[string]processor.Position, err error) {
	err = f.on("hold", id, false, func(j *fakeJob) error {
		if j.hold != "" {
			return refuse(processor.ReasonConflict, "job %s is held already", id)
		}
		j.hold, at = hold, maps.Clone(j.sources)
		time.AfterFunc(timeout, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			if j.hold == hold {
				j.hold = ""
			}
		})
		return nil
	})
	return at, err
}

func (f *fake) Resume(_ context.Context, id tenants.JobID, hold string) error {
	return f.on("resume", id, false, func(j *fakeJob) error {
		if j.hold != hold {
			return refuse(processor.ReasonNotFound, "job %s has no hold %s", id, hold)
		}
		j.hold = ""
		return nil
	})
}
