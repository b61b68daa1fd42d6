package weircli

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// connFlags say which server. Their defaults come from the variables that the nats CLI reads.
type connFlags struct{ url, creds, user, password string }

const defaultURL = "nats://127.0.0.1:4222"

func (f *connFlags) register(cmd *cobra.Command, url string) {
	fs := cmd.Flags()
	fs.StringVar(&f.url, "url", url, "NATS server, or several separated by commas ($NATS_URL)")
	fs.StringVar(&f.creds, "creds", os.Getenv("NATS_CREDS"), "credentials file ($NATS_CREDS)")
	fs.StringVar(&f.user, "user", os.Getenv("NATS_USER"), "user name or token ($NATS_USER)")
	fs.StringVar(&f.password, "password", "", "password of --user (better: $NATS_PASSWORD)")
}

func envURL() string { return cmp.Or(os.Getenv("NATS_URL"), defaultURL) }

func (f *connFlags) options() []nats.Option {
	var opts []nats.Option
	if f.creds != "" {
		opts = append(opts, nats.UserCredentials(f.creds))
	}
	password := cmp.Or(f.password, os.Getenv("NATS_PASSWORD"))
	switch {
	case f.user != "" && password != "":
		opts = append(opts, nats.UserInfo(f.user, password))
	case f.user != "":
		opts = append(opts, nats.Token(f.user))
	}
	return opts
}

func (f *connFlags) connect(name string) (*nats.Conn, error) {
	nc, err := nats.Connect(f.url, append(f.options(), nats.Name(name), nats.MaxReconnects(-1))...)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w: is a server running there? Give another with --url", f.url, err)
	}
	return nc, nil
}

// tenantFlags say whose jobs.
type tenantFlags struct {
	tenants   []string
	namespace string
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
	if len(f.tenants) == 0 {
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
}

// config returns the configuration of topology t for a tenant. Parameters of other topologies are left out.
func (f *jobFlags) config(t *processor.Topology, tenant tenants.ID) (processor.JobConfig, error) {
	cfg := processor.JobConfig{
		Parallelism: f.parallelism, Streams: f.streams, AllowDataLoss: f.allowLoss, AllowDroppedState: f.allowDropped,
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
