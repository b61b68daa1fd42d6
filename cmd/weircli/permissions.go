package weircli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/weirstream/weir/jetstream/control"
	"github.com/weirstream/weir/tenants"
)

func (app App) permissionsCommand() *cobra.Command {
	var tenant, namespace, inbox string
	var more, buckets []string
	var shared, asJSON bool
	cmd := &cobra.Command{
		Use:       "permissions worker|publisher|operator|reader",
		Short:     "Print the NATS permissions that a role needs",
		Args:      cobra.ExactArgs(1),
		ValidArgs: []string{"worker", "publisher", "operator", "reader"},
		Long: `Print what a NATS user may publish and subscribe to, for its part, and no more: for the server's configuration or, with --json, for
nsc and user JWTs. It asks no server.

  worker     runs jobs (weir run); of one tenant, of several, or of all
  publisher  puts records into a tenant's streams; cannot reach _weir subjects
  operator   asks everything about one tenant's jobs and changes them; cannot address another tenant
  reader     looks at one tenant's jobs, not into their state

Within one account a publisher can disturb any stream it may publish to, through Nats- headers: tenants that hold credentials of their
own belong in accounts of their own.`,
		Example: fmt.Sprintf(`  %[1]s permissions worker
  %[1]s permissions worker --tenant acme --kv-bucket counts
  %[1]s permissions operator --tenant acme
  %[1]s permissions publisher --tenant acme --json`, app.Name),
		RunE: func(cmd *cobra.Command, args []string) error {
			ns, err := tenants.NewNamespace(namespace)
			if err != nil {
				return fmt.Errorf("--namespace: %w", err)
			}
			cfg := control.PermissionConfig{Namespace: ns, Buckets: buckets, SharedBuckets: shared, InboxPrefix: inbox}
			for _, s := range more {
				cfg.Tenants = append(cfg.Tenants, tenants.ID(s))
			}
			set, err := control.Permissions(control.Role(args[0]), tenants.ID(tenant), cfg)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), set)
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), set.Config())
			return err
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&tenant, "tenant", "", "whose; empty for a worker, operator or reader of all tenants")
	fs.StringSliceVar(&more, "also-tenants", nil, "further tenants of a worker")
	fs.StringSliceVar(&buckets, "kv-bucket", nil, "buckets that a worker's KV sinks write to")
	fs.StringVar(&namespace, "namespace", "{tenant}", "template of a tenant's subjects, as the workers have it")
	fs.StringVar(&inbox, "inbox-prefix", "", "prefix of the user's reply subjects (default: one of its own, so that no tenant hears another's answers)")
	fs.BoolVar(&shared, "shared-buckets", false, "snapshots of several tenants share buckets")
	fs.BoolVar(&asJSON, "json", false, "print JSON, as in user JWTs")
	return cmd
}
