package processor

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// basis is what an attempt is made for: when it changes, the attempt must end.
type basis struct {
	desired    string // empty: not known
	generation uint64
	edition    int
	cleaned    bool
}

func (j *Job) basis() basis {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.basisLocked()
}

func (j *Job) basisLocked() basis {
	b := basis{edition: j.edition}
	if in := j.intent.Intent; in != nil {
		b.desired, b.generation, b.cleaned = in.Desired, in.Generation, in.Cleaned
	}
	return b
}

// setIntent takes what the bucket says. A record that cannot be read, or that is gone, changes nothing of a job that has an intent:
// nobody asked for anything else, as far as this worker can tell.
func (j *Job) setIntent(rec IntentRecord) {
	j.mu.Lock()
	j.known = true
	if rec.Intent == nil && j.intent.Intent != nil {
		rec.Intent = j.intent.Intent
	}
	j.intent = rec
	j.mu.Unlock()
	j.intents.ring()
}

// noIntent notes that there is none, unless one was heard of meanwhile.
func (j *Job) noIntent() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.known = true
}

// awaitIntent returns when it is known what the job is to do. A job that the program deployed and that has no intent gets one.
func (j *Job) awaitIntent(ctx context.Context) (basis, error) {
	for n := 1; ; {
		changed := j.intents.heard()
		j.mu.Lock()
		known, rec, coded, b := j.known, j.intent, j.coded, j.basisLocked()
		j.mu.Unlock()
		wait := time.Duration(0)
		switch {
		case ctx.Err() != nil || j.isStopped():
			return b, errDrained
		case !known:
			if j.rt.heardAll() {
				j.noIntent()
				continue
			}
		case rec.Intent != nil:
			return b, nil
		case rec.Err != nil:
			j.log.Error("what the job should do cannot be read: it does not run", "err", rec.Err)
			j.setState(JobFailed, rec.Err)
		case coded:
			err := j.createIntent(ctx, rec.Revision)
			if err == nil {
				continue
			}
			if !isCanceled(err) {
				j.log.Warn("recording that the job should run", "err", err)
				j.setState(JobStandby, err)
			}
			wait = backoff(n)
			n++
		}
		j.wait(ctx, wait, changed)
	}
}

// createIntent records that a job which the program deployed should run.
func (j *Job) createIntent(ctx context.Context, revision uint64) error {
	select {
	case j.rt.starting <- struct{}{}: // thousands that are deployed at once take turns
	case <-ctx.Done():
		return ctx.Err()
	case <-j.stop:
		return errDrained
	}
	defer func() { <-j.rt.starting }()
	t, _, _ := j.setup()
	in := &Intent{
		Tenant: string(j.id.Tenant), Job: j.id.Name, Topology: t.Name(), Desired: DesiredRunning, Changed: time.Now().UTC(),
	}
	rev, err := j.rt.cfg.Broker.WriteIntent(ctx, in, revision)
	if errors.Is(err, ErrIntentChanged) {
		in, rev, err = j.rt.cfg.Broker.ReadIntent(ctx, j.id)
	}
	if err != nil && !errors.Is(err, ErrInvalidIntent) {
		return err
	}
	j.rt.heard(IntentRecord{Job: j.id, Intent: in, Revision: rev, Err: err})
	return nil
}

// begin notes that the supervisor is at the intent that the job has now: whoever waits for that must not take the old attempt's state
// for its outcome.
func (j *Job) begin() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.beginLocked()
}

func (j *Job) beginLocked() {
	j.applied, j.resting = j.intent.Revision, false
	j.status.State = JobStarting
}

// configure makes the configuration of the next attempt: the program's, with what operators changed since.
func (j *Job) configure(b basis) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.basisLocked() != b {
		return errTurned
	}
	j.beginLocked()
	cfg := effectiveConfig(j.base, j.intent.Intent)
	needs, err := prepareJob(j.topo, j.id, cfg, j.rt.cfg.Broker.Namespace())
	if err != nil {
		return Terminal(fmt.Errorf("configuring job %s: %w", j.id, err))
	}
	j.cfg, j.needs = cfg, needs
	j.status.Parallelism = cfg.Parallelism
	return nil
}

// effective returns what the job would run with under an intent.
func (j *Job) effective(in *Intent) (*Topology, JobConfig) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.topo, effectiveConfig(j.base, in)
}

// adopt makes the job the program's: it goes on with the program's topology and configuration. false: it is already.
func (j *Job) adopt(t *Topology, cfg JobConfig) bool {
	j.mu.Lock()
	if j.coded {
		j.mu.Unlock()
		return false
	}
	j.topo, j.base, j.coded = t, cfg, true
	j.edition++
	j.mu.Unlock()
	j.intents.ring()
	return true
}
