package processor

import (
	"context"
	"errors"
	"log/slog"

	"github.com/weirstream/weir/tenants"
)

// RunOnce runs one attempt of a job to its end; with finish it brings a job that is to stop to its end.
func RunOnce(ctx context.Context, broker Broker, t *Topology, job tenants.JobID, cfg JobConfig, finish bool) error {
	cfg.Name = job.Name
	cfg = cfg.withDefaults(t)
	needs, err := prepareJob(t, job, cfg, broker.Namespace())
	if err != nil {
		return err
	}
	return runAttempt(ctx, broker, func(d driver) *attempt {
		return &attempt{
			job: job, topo: t, cfg: cfg, needs: needs, worker: "w1", nonce: newNonce(), drv: d, log: slog.New(slog.DiscardHandler),
			ctx: ctx, progress: &progress{}, finish: finish,
		}
	}, func(a *attempt, r *runner) { a.ctx = r.ctx })
}

// Stopped reports whether an attempt ended because the job has stopped.
func Stopped(err error) bool { return errors.Is(err, errStopped) }

// Mutants are the protocol errors that the simulation must notice.
var Mutants = []string{
	string(mutantDropAborted), string(mutantUnguardedHead), string(mutantUnguardedPart), string(mutantReaderGap),
}

// WithMutant returns the configuration with a protocol error in it; "" is none.
func (c SimulationConfig) WithMutant(m string) SimulationConfig {
	c.mutant = mutant(m)
	return c
}
