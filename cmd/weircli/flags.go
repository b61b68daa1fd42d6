package weircli

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// tenantFlags say whose jobs.
type tenantFlags struct {
	tenants   []string
	namespace string
	optional  bool // no tenant is fine
}

func (f *tenantFlags) register(cmd *cobra.Command, tenants ...string) {
	cmd.Flags().StringSliceVar(&f.tenants, "tenants", tenants, "tenants, separated by commas")
	cmd.Flags().StringVar(&f.namespace, "namespace", "{tenant}", "template of a tenant's subjects: events.{tenant} for one stream events.> that all share")
}

func (f *tenantFlags) parse() ([]tenants.ID, tenants.Namespace, error) {
	var errs []error
	var ids []tenants.ID
	seen := make(map[tenants.ID]bool)
	for _, s := range f.tenants {
		id, err := tenants.ParseID(strings.TrimSpace(s))
		if err != nil {
			errs = append(errs, fmt.Errorf("--tenants: %w", err))
			continue
		}
		if !seen[id] {
			seen[id] = true
			ids = append(ids, id)
		}
	}
	if len(f.tenants) == 0 && !f.optional {
		errs = append(errs, errors.New("--tenants is empty: name at least one, for example --tenants acme,globex"))
	}
	ns, err := tenants.NewNamespace(f.namespace)
	if err != nil {
		errs = append(errs, fmt.Errorf("--namespace: %w", err))
	}
	return ids, ns, errors.Join(errs...)
}

// jobFlags become every job's JobConfig.
type jobFlags struct {
	topologies   []string
	params       []string
	streams      map[string]string
	parallelism  int
	interval     time.Duration
	timeout      time.Duration
	barriers     string
	allowLoss    bool
	allowDropped bool
	allowMarks   bool
}

func (f *jobFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringSliceVar(&f.topologies, "topology", nil, "topologies to deploy (default: all of this binary)")
	fs.StringArrayVar(&f.params, "param", nil, "a topology's parameter, name=value, or tenant:name=value for one tenant; the value is JSON or plain text")
	fs.StringToStringVar(&f.streams, "stream", nil, "source or sink = stream, where the subjects alone do not say which")
	fs.IntVar(&f.parallelism, "parallelism", 1, "subtasks of each keyed operator")
	fs.DurationVar(&f.interval, "checkpoint-interval", 5*time.Second, "time between checkpoints; exactly-once results become visible with each")
	fs.DurationVar(&f.timeout, "checkpoint-timeout", time.Minute, "abort a checkpoint that takes longer")
	fs.StringVar(&f.barriers, "barriers", "", "how barriers reach the sources: in-stream or at-reader (default: in-stream where Weir created the stream)")
	fs.BoolVar(&f.allowLoss, "allow-data-loss", false, "go on where an input stream was recreated, rolled back or trimmed; recorded in every manifest")
	fs.BoolVar(&f.allowDropped, "allow-dropped-state", false, "drop the state of operators that the topology no longer has")
	fs.BoolVar(&f.allowMarks, "allow-marks", false, "publishers may ask for savepoints with the header Weir-Mark: {job}")
}

// config returns the configuration of topology t for a tenant. Parameters of other topologies are left out.
func (f *jobFlags) config(t *processor.Topology, tenant tenants.ID) (processor.JobConfig, error) {
	cfg := processor.JobConfig{
		Parallelism: f.parallelism, Streams: f.streams, AllowDataLoss: f.allowLoss, AllowDroppedState: f.allowDropped,
		Marks:      processor.MarkConfig{Allow: f.allowMarks},
		Checkpoint: processor.CheckpointConfig{Interval: f.interval, Timeout: f.timeout, Barriers: processor.BarrierMode(f.barriers)},
	}
	declared := make(map[string]bool)
	for _, p := range t.Params() {
		declared[p.Name] = true
	}
	own := make(map[string]bool)
	for _, s := range f.params {
		p, err := parseParam(s)
		if err != nil {
			return cfg, err
		}
		if !declared[p.name] || p.tenant != "" && p.tenant != tenant || p.tenant == "" && own[p.name] {
			continue
		}
		own[p.name] = own[p.name] || p.tenant != ""
		if cfg.Params == nil {
			cfg.Params = make(map[string]any)
		}
		cfg.Params[p.name] = p.value
	}
	return cfg, nil
}

// checkParams refuses parameters that no topology has: a slip would otherwise leave the default in place.
func (f *jobFlags) checkParams(topologies []*processor.Topology) error {
	var errs []error
	for _, s := range f.params {
		p, err := parseParam(s)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		known := false
		for _, t := range topologies {
			for _, info := range t.Params() {
				known = known || info.Name == p.name
			}
		}
		if !known {
			errs = append(errs, fmt.Errorf("--param %s: no topology has a parameter %q", s, p.name))
		}
	}
	return errors.Join(errs...)
}

type param struct {
	tenant tenants.ID
	name   string
	value  any
}

func parseParam(s string) (param, error) {
	name, value, ok := strings.Cut(s, "=")
	if !ok {
		return param{}, fmt.Errorf("--param %q: write name=value or tenant:name=value", s)
	}
	p := param{name: name, value: value}
	if tenant, rest, ok := strings.Cut(name, ":"); ok {
		id, err := tenants.ParseID(tenant)
		if err != nil {
			return param{}, fmt.Errorf("--param %q: %w", s, err)
		}
		p.tenant, p.name = id, rest
	}
	if json.Valid([]byte(value)) {
		p.value = json.RawMessage(value)
	}
	return p, nil
}

func topologyNames(ts []*processor.Topology) string {
	names := make([]string, len(ts))
	for i, t := range ts {
		names[i] = t.Name()
	}
	return strings.Join(names, ", ")
}
