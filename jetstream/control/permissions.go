package control

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/tenants"
)

// Role is what a NATS user is for.
type Role string

const (
	// RoleWorker runs jobs: weir run.
	RoleWorker Role = "worker"
	// RolePublisher puts records into a tenant's streams.
	RolePublisher Role = "publisher"
	// RoleOperator may ask everything about one tenant's jobs, and change them.
	RoleOperator Role = "operator"
	// RoleReader may look at one tenant's jobs, and not into their state.
	RoleReader Role = "reader"
)

// Roles are all of them.
var Roles = []Role{RoleWorker, RolePublisher, RoleOperator, RoleReader}

// reservedDepth is how deep in a subject publishers are kept from the token _weir: the server has no pattern for any depth. What lies
// deeper is passed on by no source, and no barrier or marker is there unless a filter has that many tokens.
const reservedDepth = 8

// PermissionConfig says what the permissions depend on. The zero value is the default layout.
type PermissionConfig struct {
	// Namespace as the workers have it.
	Namespace tenants.Namespace
	// Tenants are those a worker works for, beside the one that is asked for; none at all: every tenant.
	Tenants []tenants.ID
	// Buckets are the KV buckets that a worker's KV sinks write to. Those that lookups read need not be named.
	Buckets []string
	// SharedBuckets says that snapshots lie in shared buckets (jetstream.Config.SharedBuckets).
	SharedBuckets bool
	// InboxPrefix is what the user's reply subjects begin with. Empty: "_INBOX" for a worker, and one of the role's and tenant's own
	// for the others, so that no tenant can listen to the answers that another gets.
	InboxPrefix string
}

// Subjects is a list of what is allowed and what is denied, as the server has it.
type Subjects struct {
	Allow []string `json:"allow,omitempty"`
	Deny  []string `json:"deny,omitempty"`
}

// PermissionSet is what a NATS user may do. Its JSON form is that of the server's configuration and of user JWTs.
type PermissionSet struct {
	Publish   Subjects `json:"publish"`
	Subscribe Subjects `json:"subscribe"`
	// InboxPrefix must be given to the user's client where it is not _INBOX: nats --inbox-prefix.
	InboxPrefix string `json:"-"`
	// Notes say what the lists do not.
	Notes []string `json:"-"`
}

// Permissions returns what a role needs, and no more. tenant is empty for a worker of all tenants, and for an operator or reader of
// the whole fleet; a publisher has one.
func Permissions(role Role, tenant tenants.ID, cfg PermissionConfig) (PermissionSet, error) {
	for _, id := range append(slices.Clone(cfg.Tenants), tenant) {
		if id == "" && tenant == "" {
			continue
		}
		if err := id.Validate(); err != nil {
			return PermissionSet{}, fmt.Errorf("listing the permissions of a %s: %w", tenants.Printable(string(role)), err)
		}
	}
	for _, b := range cfg.Buckets {
		if tenants.ValidateSubject(b) != nil || strings.Contains(b, ".") {
			return PermissionSet{}, fmt.Errorf("listing the permissions of a %s: %q is no bucket name", tenants.Printable(string(role)), tenants.Printable(b))
		}
	}
	p := PermissionSet{InboxPrefix: cfg.inbox(role, tenant)}
	if err := tenants.ValidateSubject(p.InboxPrefix); err != nil {
		return PermissionSet{}, fmt.Errorf("listing the permissions of a %s: inbox prefix: %w", tenants.Printable(string(role)), err)
	}
	p.Subscribe.Allow = []string{p.InboxPrefix + ".>"}
	switch role {
	case RoleWorker:
		p.worker(tenant, cfg)
	case RolePublisher:
		if tenant == "" {
			return PermissionSet{}, errors.New("listing the permissions of a publisher: say for which tenant")
		}
		p.publisher(tenant, cfg)
	case RoleOperator:
		p.operator(tenant)
	case RoleReader:
		p.reader(tenant)
	default:
		return PermissionSet{}, fmt.Errorf("listing permissions: no role %q: use worker, publisher, operator or reader", tenants.Printable(string(role)))
	}
	if p.InboxPrefix+"." != nats.InboxPrefix {
		p.Notes = append(p.Notes, fmt.Sprintf("This user's answers come to subjects of its own: nats --inbox-prefix=%s …, or the field inbox_prefix of its context.", p.InboxPrefix))
	}
	return p, nil
}

func (c PermissionConfig) inbox(role Role, tenant tenants.ID) string {
	switch {
	case c.InboxPrefix != "":
		return strings.TrimSuffix(c.InboxPrefix, ".")
	case role == RoleWorker || tenant == "":
		return strings.TrimSuffix(nats.InboxPrefix, ".")
	}
	return nats.InboxPrefix + tenants.EscapeToken(string(role)) + "." + string(tenant)
}

// worker allows what Weir does; a test runs jobs with exactly this and finds each line used.
func (p *PermissionSet) worker(tenant tenants.ID, c PermissionConfig) {
	ids := []string{"*"}
	if tenant != "" || len(c.Tenants) > 0 {
		ids = ids[:0]
		for _, id := range append([]tenants.ID{tenant}, c.Tenants...) {
			if id != "" && !slices.Contains(ids, string(id)) {
				ids = append(ids, string(id))
			}
		}
	}
	buckets := slices.Concat([]string{jetstream.CheckpointBucket, jetstream.WorkersBucket, jetstream.JobsBucket}, c.Buckets)
	pub := []string{
		"$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.INFO.*", "$JS.API.STREAM.MSG.GET.*",
		"$JS.API.STREAM.CREATE.*", "$JS.API.STREAM.UPDATE.*", "$JS.API.STREAM.PURGE.*",
		"$JS.API.DIRECT.GET.*", "$JS.API.CONSUMER.CREATE.>", "$JS.API.CONSUMER.INFO.*.*", "$JS.API.CONSUMER.DELETE.*.*",
		"$JS.FC.>", // answers to flow control
	}
	for _, b := range buckets {
		pub = append(pub, "$KV."+b+".>")
	}
	for _, id := range ids {
		pub = append(pub, strings.TrimSuffix(c.Namespace.Prefix(tenants.ID(id)), ".")+".>")
		if !c.SharedBuckets && id != "*" {
			pub = append(pub, "$O.weir_"+id+".>")
		}
	}
	if c.SharedBuckets || slices.Contains(ids, "*") {
		pub = append(pub, "$O.>")
	}
	pub = append(pub, "weir.dlq.>", eventPrefix+">", internalPrefix+">", nats.InboxPrefix+">")
	p.Publish.Allow = pub
	p.Subscribe.Allow = append(p.Subscribe.Allow, prefix+">", internalPrefix+">", "$SRV.>")
	p.Notes = append(p.Notes, "A worker owns JetStream: it creates consumers on the input streams and streams and buckets of its own. Give it an account that no tenant has users in, or no tenant more than the publisher's permissions.")
	if slices.Contains(ids, "*") && strings.HasPrefix(c.Namespace.String(), "{") {
		p.Notes = append(p.Notes, "Every tenant's subjects begin with the tenant, so a worker of all tenants may publish anywhere: name the tenants, or use a namespace with a fixed first token (events.{tenant}).")
	}
}

func (p *PermissionSet) publisher(tenant tenants.ID, c PermissionConfig) {
	ns := c.Namespace.Prefix(tenant)
	p.Publish.Allow = []string{ns + ">"}
	deep := ns
	for range reservedDepth {
		p.Publish.Deny = append(p.Publish.Deny, deep+tenants.Reserved, deep+tenants.Reserved+".>")
		deep += "*."
	}
	p.Notes = append(p.Notes,
		"To publish is to be trusted with the stream: headers such as Nats-Rollup or Nats-Expected-* act on every stream the user may publish to. Tenants who must not disturb each other's streams need streams of their own, those who hold credentials an account of their own.",
		"Results lie beside the input under the same prefix: allow only the input's subjects where a publisher must not write results.")
}

func (p *PermissionSet) operator(tenant tenants.ID) {
	t := anyOf(tenant)
	p.Publish.Allow = append([]string{prefix + t + ".>"}, discovery...)
	p.Subscribe.Allow = append(p.Subscribe.Allow, eventPrefix+t+".>")
}

// readVerbs are those that a reader may ask of a job.
var readVerbs = []string{"status", "checkpoints", "savepoints"}

func (p *PermissionSet) reader(tenant tenants.ID) {
	t := anyOf(tenant)
	for _, v := range readVerbs {
		p.Publish.Allow = append(p.Publish.Allow, prefix+t+".*."+v)
	}
	p.Publish.Allow = append(p.Publish.Allow, prefix+t+"."+none+".jobs")
	if tenant == "" {
		p.Publish.Allow = append(p.Publish.Allow, prefix+none+"."+none+".tenants")
	}
	p.Publish.Allow = append(p.Publish.Allow, discovery...)
	p.Subscribe.Allow = append(p.Subscribe.Allow, eventPrefix+t+".>")
}

// discovery is what nats micro asks of this service, and of services in general: who is there.
var discovery = []string{"$SRV.PING", "$SRV.*.weir", "$SRV.*.weir.*"}

func anyOf(tenant tenants.ID) string {
	if tenant == "" {
		return "*"
	}
	return string(tenant)
}

// Config renders the set as the value of a user's permissions in the server's configuration, with the notes as comments.
func (p PermissionSet) Config() string {
	var b strings.Builder
	for _, n := range p.Notes {
		b.WriteString("# " + n + "\n")
	}
	b.WriteString("permissions: {\n")
	for _, part := range []struct {
		name string
		Subjects
	}{{"publish", p.Publish}, {"subscribe", p.Subscribe}} {
		b.WriteString("  " + part.name + ": {\n")
		for _, list := range []struct {
			name     string
			subjects []string
		}{{"allow", part.Allow}, {"deny", part.Deny}} {
			if len(list.subjects) == 0 {
				continue
			}
			b.WriteString("    " + list.name + ": [\n")
			for _, s := range list.subjects {
				b.WriteString("      " + strconv.Quote(s) + "\n")
			}
			b.WriteString("    ]\n")
		}
		b.WriteString("  }\n")
	}
	b.WriteString("}\n")
	return b.String()
}
