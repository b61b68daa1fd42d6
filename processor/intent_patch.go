package processor

import (
	"errors"
	"fmt"
	"maps"

	"github.com/weirstream/weir/tenants"
)

// over returns the configuration with the patch's fields in place of its own.
func (p *ConfigPatch) over(c JobConfig) JobConfig {
	if p == nil {
		return c
	}
	set(&c.Parallelism, p.Parallelism)
	if len(p.Params) > 0 {
		params := maps.Clone(c.Params)
		if params == nil {
			params = map[string]any{}
		}
		for name, v := range p.Params {
			params[name] = v
		}
		c.Params = params
	}
	set((*Duration)(&c.Checkpoint.Interval), p.CheckpointInterval)
	set((*Duration)(&c.Checkpoint.Timeout), p.CheckpointTimeout)
	set(&c.Checkpoint.Retained, p.Retained)
	if len(p.Streams) > 0 {
		streams := maps.Clone(c.Streams)
		if streams == nil {
			streams = map[string]string{}
		}
		maps.Copy(streams, p.Streams)
		c.Streams = streams
	}
	set(&c.Shadow, p.Shadow)
	set(&c.AllowDataLoss, p.AllowDataLoss)
	set(&c.AllowDroppedState, p.AllowDroppedState)
	set(&c.Marks.Allow, p.AllowMarks)
	return c
}

func set[T any](field *T, v *T) {
	if v != nil {
		*field = *v
	}
}

// merge returns a patch that does what p does and then what q does. Neither is changed.
func (p *ConfigPatch) merge(q *ConfigPatch) *ConfigPatch {
	if p == nil || q == nil {
		if p == nil {
			return q
		}
		return p
	}
	out := *p
	pick(&out.Parallelism, q.Parallelism)
	pick(&out.CheckpointInterval, q.CheckpointInterval)
	pick(&out.CheckpointTimeout, q.CheckpointTimeout)
	pick(&out.Retained, q.Retained)
	pick(&out.Shadow, q.Shadow)
	pick(&out.AllowDataLoss, q.AllowDataLoss)
	pick(&out.AllowDroppedState, q.AllowDroppedState)
	pick(&out.AllowMarks, q.AllowMarks)
	out.Params = both(p.Params, q.Params)
	out.Streams = both(p.Streams, q.Streams)
	return &out
}

func pick[T any](field **T, v *T) {
	if v != nil {
		*field = v
	}
}

func both[V any](a, b map[string]V) map[string]V {
	if len(a)+len(b) == 0 {
		return nil
	}
	out := make(map[string]V, len(a)+len(b))
	maps.Copy(out, a)
	maps.Copy(out, b)
	return out
}

// patchOf returns a patch that gives another job of the same topology what this one runs with.
func patchOf(c JobConfig) (*ConfigPatch, error) {
	params, err := encodeParams(c.Params)
	if err != nil {
		return nil, err
	}
	if len(params) == 0 {
		params = nil
	}
	interval, timeout := Duration(c.Checkpoint.Interval), Duration(c.Checkpoint.Timeout)
	return &ConfigPatch{
		Parallelism: &c.Parallelism, Params: params, CheckpointInterval: &interval, CheckpointTimeout: &timeout,
		Retained: &c.Checkpoint.Retained, Streams: maps.Clone(c.Streams), AllowDataLoss: &c.AllowDataLoss,
		AllowDroppedState: &c.AllowDroppedState, AllowMarks: &c.Marks.Allow,
	}, nil
}

// effectiveConfig is what the program deploys with, with what an operator changed since: the intent wins.
func effectiveConfig(base JobConfig, in *Intent) JobConfig {
	if in == nil {
		return base
	}
	cfg := in.Config.over(base)
	if in.Start != nil {
		cfg.Start = *in.Start
	}
	return cfg
}

// prepareJob checks names, configuration, parameters and sizes, all that can be known without the broker, and returns what the job
// needs of it.
func prepareJob(t *Topology, id tenants.JobID, cfg JobConfig, ns tenants.Namespace) (Needs, error) {
	if err := errors.Join(id.Tenant.Validate(), cfg.validate()); err != nil {
		return Needs{}, err
	}
	params, err := encodeParams(cfg.Params)
	if err != nil {
		return Needs{}, err
	}
	if err := t.ValidateParams(params); err != nil {
		return Needs{}, err
	}
	if n := cfg.Parallelism * t.width(); n > maxWidth {
		return Needs{}, fmt.Errorf("parallelism %d times %d operators with state and sinks may need %d snapshot objects a checkpoint, %d fit into a manifest: use parallelism %d or less",
			cfg.Parallelism, t.width(), n, maxWidth, maxWidth/t.width())
	}
	needs := t.Needs(id, ns)
	return needs, cfg.apply(&needs)
}
