package processor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/weirstream/weir/tenants"
)

// watchIntents hears what should run, with one watch for all jobs, until ctx ends.
func (r *Runtime) watchIntents(ctx context.Context) {
	for n := 1; ctx.Err() == nil; n++ {
		err := r.cfg.Broker.WatchIntents(ctx, r.heard, func() {
			r.mu.Lock()
			r.listed = true
			jobs := make([]*Job, 0, len(r.jobs))
			for _, j := range r.jobs {
				jobs = append(jobs, j)
			}
			r.mu.Unlock()
			for _, j := range jobs {
				j.intents.ring()
			}
		})
		if ctx.Err() != nil {
			return
		}
		r.cfg.Logger.Warn("watching what should run", "err", err)
		_ = (blocking{}).Sleep(ctx, backoff(n)) // the loop looks at ctx
	}
}

// heardAll reports whether every intent there was has been heard of.
func (r *Runtime) heardAll() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.listed
}

// heard takes what the bucket has of a job, from the watch or from a request of this worker: the newest counts.
func (r *Runtime) heard(rec IntentRecord) {
	if rec.Err != nil {
		r.cfg.Logger.Error("what a job should do cannot be read: it is left as it is", "tenant", string(rec.Job.Tenant), "job", rec.Job.Name, "err", rec.Err)
	}
	if r.take(rec, false) {
		return
	}
	// This worker wrote a newer one and the watch lags behind, or the bucket was made anew: the broker tells.
	in, rev, err := r.cfg.Broker.ReadIntent(r.context(), rec.Job)
	if err == nil || errors.Is(err, ErrInvalidIntent) {
		r.take(IntentRecord{Job: rec.Job, Intent: in, Revision: rev, Err: err}, rev == rec.Revision)
	}
}

// take takes a record unless it is older than what is known. sure: the broker was asked.
func (r *Runtime) take(rec IntentRecord, sure bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, ok := r.intents[rec.Job]; ok && rec.Revision < old.Revision && !sure {
		return false
	}
	r.intents[rec.Job] = rec
	if j := r.jobs[rec.Job]; j != nil {
		j.setIntent(rec)
	} else {
		r.host(rec)
	}
	return true
}

func (r *Runtime) context() context.Context {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx == nil {
		return context.Background()
	}
	return r.ctx
}

// host takes on a job that is known by its intent only. r.mu is held.
func (r *Runtime) host(rec IntentRecord) {
	in := rec.Intent
	if in == nil || in.Desired == DesiredDeleted && in.Cleaned || r.closed || r.ctx == nil {
		return
	}
	log := r.cfg.Logger.With("tenant", in.Tenant, "job", in.Job)
	t := r.topologyOf(in)
	if t == nil {
		if original := in.original(); in.ForkOf != "" && !slices.Contains(r.waiting[original], rec.Job) {
			r.waiting[original] = append(r.waiting[original], rec.Job)
		}
		log.Debug("a job is left to other workers: this one has no such topology", "topology", in.Topology)
		return
	}
	if r.full() {
		log.Warn("a job is left to other workers: this one has all it takes (RuntimeConfig.MaxJobs)", "jobs", len(r.jobs))
		return
	}
	j := newJob(r, rec.Job, t, r.baseConfig(t, rec.Job))
	j.intent, j.known = rec, true
	r.launch(j)
}

// launch adds a job. r.mu is held.
func (r *Runtime) launch(j *Job) {
	r.jobs[j.id] = j
	if r.ctx != nil {
		ctx := r.ctx
		r.wg.Go(func() { j.run(ctx) })
	}
	forks := r.waiting[j.id]
	delete(r.waiting, j.id)
	for _, id := range forks {
		if r.jobs[id] == nil {
			r.host(r.intents[id])
		}
	}
}

func (r *Runtime) full() bool { return r.cfg.MaxJobs > 0 && len(r.jobs) >= r.cfg.MaxJobs }

// topologyOf returns what a job that is known by its intent runs: that of the job it is a fork of, where this worker has that job, or one
// of RuntimeConfig.Topologies. nil: this worker has none. What code deploys for one job does not count for others: with what
// parameters and quotas they run only the code that deploys them knows. r.mu is held.
func (r *Runtime) topologyOf(in *Intent) *Topology {
	if in.ForkOf != "" {
		if j := r.jobs[in.original()]; j != nil {
			if t, _, _ := j.setup(); t.Name() == in.Topology {
				return t
			}
		}
	}
	return r.topologies[in.Topology]
}

// baseConfig is what a job that no program deploys starts from.
func (r *Runtime) baseConfig(t *Topology, id tenants.JobID) JobConfig {
	var cfg JobConfig
	if r.cfg.JobConfig != nil {
		cfg = r.cfg.JobConfig(t, id)
	}
	cfg.Name = id.Name
	return cfg.withDefaults(t)
}

// retire forgets a job that is deleted, unless the program deployed it or it is to do something else by now.
func (r *Runtime) retire(j *Job, b basis) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.coded || j.basisLocked() != b || r.jobs[j.id] != j {
		return false
	}
	delete(r.jobs, j.id)
	if r.cfg.MaxJobs > 0 { // there is a place now for one that was left to others
		for id, rec := range r.intents {
			if r.jobs[id] == nil && !r.full() {
				r.host(rec)
			}
		}
	}
	return true
}

// known returns what this worker has heard of a job's intent, and the job if it is hosted here.
func (r *Runtime) known(id tenants.JobID) (IntentRecord, *Job) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.intents[id], r.jobs[id]
}

// intentBefore reads a job's intent for a deployment: the watch's once that has told everything, else the broker's.
func (r *Runtime) intentBefore(ctx context.Context, id tenants.JobID) (IntentRecord, error) {
	r.mu.Lock()
	rec, ok := r.intents[id]
	listed := r.listed
	r.mu.Unlock()
	if ok || listed {
		rec.Job = id
		return rec, nil
	}
	in, rev, err := r.cfg.Broker.ReadIntent(ctx, id)
	if errors.Is(err, ErrInvalidIntent) {
		return IntentRecord{Job: id, Revision: rev, Err: err}, nil
	}
	return IntentRecord{Job: id, Intent: in, Revision: rev}, err
}

// tenantsKnown lists the tenants that have intents or jobs here, in order.
func (r *Runtime) tenantsKnown() []tenants.ID {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := map[tenants.ID]bool{}
	for id := range r.intents {
		seen[id.Tenant] = true
	}
	for id := range r.jobs {
		seen[id.Tenant] = true
	}
	out := make([]tenants.ID, 0, len(seen))
	for id := range seen {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

// changeIntent writes an intent over the revision that it was made from, and makes it known here at once.
func (r *Runtime) changeIntent(ctx context.Context, in *Intent, revision uint64) (uint64, error) {
	in.Changed = time.Now().UTC()
	rev, err := r.cfg.Broker.WriteIntent(ctx, in, revision)
	if errors.Is(err, ErrIntentChanged) {
		return 0, &ControlError{ReasonConflict, fmt.Sprintf("job %s was changed by another request meanwhile: look at its status and ask again", in.ID()), err}
	}
	if err != nil {
		return 0, unavailable(err)
	}
	kept := *in
	r.heard(IntentRecord{Job: in.ID(), Intent: &kept, Revision: rev})
	return rev, nil
}
