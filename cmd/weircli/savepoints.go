package weircli

import (
	"cmp"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirstream/weir/jetstream/control"
	"github.com/weirstream/weir/processor"
)

func (app App) savepointCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "savepoint",
		Short: "Take, list, check, move and delete savepoints",
		Long: `A savepoint is a checkpoint that you own: named, self-contained, never deleted by Weir. A job can start from it, at another
parallelism, with a changed program, under another name, or in another NATS cluster.`,
		Example: fmt.Sprintf(`  %[1]s savepoint create acme/wordcount before-upgrade
  %[1]s savepoint create acme before-upgrade                   # all jobs of the tenant over one cut
  %[1]s savepoint check acme/wordcount before-upgrade          # would this binary's topology start from it?
  %[1]s start acme/wordcount --savepoint before-upgrade
  %[1]s savepoint export acme/wordcount before-upgrade w.savepoint
  %[1]s savepoint import w.savepoint --server nats://other:4222`, app.Name),
	}
	cmd.AddCommand(app.savepointCreate(), app.savepointList(), app.savepointDelete(), app.savepointCheck(), app.savepointExport(), app.savepointShow(), app.savepointImport())
	return cmd
}

func (app App) savepointCreate() *cobra.Command {
	var f controlFlags
	cmd := f.command(&cobra.Command{
		Use:   "create tenant/job|tenant name",
		Short: "Take a savepoint of a job, or of all jobs of a tenant over one cut",
		Args:  cobra.ExactArgs(2),
		Long: `Take a savepoint and wait until its output is published and its state is copied into objects of its own. The job goes on
meanwhile. A name that exists is refused.

Of a tenant, every job that should run is cut at the same position of each stream they share; all of the savepoints are made, or none.

With the nats CLI: nats req weir.v1.acme.wordcount.savepoint '{"name":"before-upgrade"}' --timeout 5m`,
		Example:           fmt.Sprintf("  %[1]s savepoint create acme/wordcount before-upgrade\n  %[1]s savepoint create acme before-upgrade --json", app.Name),
		ValidArgsFunction: f.completeJobs(true),
	}, func(cmd *cobra.Command, c *client, args []string) error {
		t, err := parseTenantOrJob(args[0])
		if err != nil {
			return err
		}
		request := control.SavepointRequest{Name: args[1]}
		out := cmd.OutOrStdout()
		if t.job == anyName {
			var all control.TenantSavepoints
			raw, err := c.do(cmd.Context(), t, "savepoint", request, &all)
			if err != nil {
				return err
			}
			if f.json {
				return printJSON(out, raw)
			}
			fmt.Fprintf(out, "savepoint %s of %d jobs of tenant %s, all cut at %s\n", all.Name, len(all.Savepoints), t.tenant, positions(all.Cut))
			return printSavepoints(out, all.Savepoints)
		}
		var r processor.SavepointReport
		raw, err := c.do(cmd.Context(), t, "savepoint", request, &r)
		if err != nil {
			return err
		}
		if f.json {
			return printJSON(out, raw)
		}
		fmt.Fprintf(out, "savepoint %s of %s is complete: cut with checkpoint %d at %s, %s in %d objects\n",
			r.Name, t, r.Checkpoint, positions(sequences(r)), byteCount(r.Bytes), r.Objects)
		return nil
	})
	f.registerWork(cmd)
	return cmd
}

func sequences(r processor.SavepointReport) map[string]uint64 {
	m := make(map[string]uint64, len(r.Positions))
	for _, p := range r.Positions {
		m[p.Stream] = p.Sequence
	}
	return m
}

func (app App) savepointList() *cobra.Command {
	var f controlFlags
	cmd := f.command(&cobra.Command{
		Use:     "ls tenant/job",
		Aliases: []string{"list"},
		Short:   "List the savepoints of a job",
		Args:    cobra.ExactArgs(1),
		Long: `List the savepoints of a job, newest first.

With the nats CLI: nats req weir.v1.acme.wordcount.savepoints ''`,
		Example:           fmt.Sprintf("  %[1]s savepoint ls acme/wordcount\n  %[1]s savepoint ls acme/wordcount --json", app.Name),
		ValidArgsFunction: f.completeJobs(true),
	}, func(cmd *cobra.Command, c *client, args []string) error {
		t, err := parseJob(args[0])
		if err != nil {
			return err
		}
		all := control.SavepointPage{Savepoints: []processor.SavepointReport{}}
		err = pages(func(after string) (string, error) {
			var page control.SavepointPage
			_, err := c.read(cmd.Context(), t, "savepoints", control.PageRequest{After: after}, &page)
			all.Savepoints = append(all.Savepoints, page.Savepoints...)
			return page.Next, err
		})
		if err != nil {
			return err
		}
		if f.json {
			return printJSON(cmd.OutOrStdout(), all)
		}
		return printSavepoints(cmd.OutOrStdout(), all.Savepoints)
	})
	f.register(cmd)
	return cmd
}

func printSavepoints(out io.Writer, list []processor.SavepointReport) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SAVEPOINT\tJOB\tCREATED\tCHECKPOINT\tSIZE\tOBJECTS\tPOSITIONS\tFROM")
	for _, r := range list {
		from := r.Origin
		if r.Mark != nil {
			from = fmt.Sprintf("mark %s %d", r.Mark.Stream, r.Mark.Seq)
		}
		fmt.Fprintf(w, "%s\t%s/%s\t%s\t%d\t%s\t%d\t%s\t%s\n", r.Name, r.Tenant, r.Job, r.Created.Local().Format(time.DateTime), r.Checkpoint,
			byteCount(r.Bytes), r.Objects, positions(sequences(r)), cmp.Or(from, "request"))
	}
	return w.Flush()
}

func (app App) savepointDelete() *cobra.Command {
	var f controlFlags
	cmd := f.command(&cobra.Command{
		Use:     "rm tenant/job name",
		Aliases: []string{"delete"},
		Short:   "Delete a savepoint and its objects",
		Args:    cobra.ExactArgs(2),
		Long: `Delete a savepoint and its objects. Jobs that were started from it have state of their own and do not notice.

With the nats CLI: nats req weir.v1.acme.wordcount.savepoint-delete '{"name":"before-upgrade"}'`,
		Example:           fmt.Sprintf("  %[1]s savepoint rm acme/wordcount before-upgrade", app.Name),
		ValidArgsFunction: f.completeJobs(true),
	}, func(cmd *cobra.Command, c *client, args []string) error {
		t, err := parseJob(args[0])
		if err != nil {
			return err
		}
		raw, err := c.do(cmd.Context(), t, "savepoint-delete", control.SavepointDeleteRequest{Name: args[1]}, nil)
		if err != nil {
			return err
		}
		if f.json {
			return printJSON(cmd.OutOrStdout(), raw)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "savepoint %s of %s is deleted\n", args[1], t)
		return nil
	})
	f.registerWork(cmd)
	return cmd
}
