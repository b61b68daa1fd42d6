package weircli

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirstream/weir/jetstream/control"
	"github.com/weirstream/weir/processor"
)

func (app App) jobsCommand() *cobra.Command {
	var f controlFlags
	cmd := f.command(&cobra.Command{
		Use:   "jobs [tenant]",
		Short: "List the jobs, of one tenant or of all",
		Args:  cobra.MaximumNArgs(1),
		Long: `List what should run and what does: every job that any worker of this server knows, with its owner.

With the nats CLI: nats req weir.v1._._.jobs '' or, of one tenant, nats req weir.v1.acme._.jobs ''`,
		Example:           fmt.Sprintf("  %[1]s jobs\n  %[1]s jobs acme --json", app.Name),
		ValidArgsFunction: f.completeJobs(false),
	}, func(cmd *cobra.Command, c *client, args []string) error {
		t, err := optionalTenant(args)
		if err != nil {
			return err
		}
		all := control.JobPage{Jobs: []processor.JobReport{}}
		err = pages(func(after string) (string, error) {
			var page control.JobPage
			_, err := c.read(cmd.Context(), t, "jobs", control.PageRequest{After: after}, &page)
			all.Jobs = append(all.Jobs, page.Jobs...)
			return page.Next, err
		})
		if err != nil {
			return err
		}
		if f.json {
			return printJSON(cmd.OutOrStdout(), all)
		}
		return printJobs(cmd.OutOrStdout(), all.Jobs)
	})
	f.register(cmd)
	return cmd
}

func printJobs(out io.Writer, jobs []processor.JobReport) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "JOB\tDESIRED\tSTATE\tEPOCH\tCHECKPOINT\tPARALLELISM\tWORKER\tREASON")
	for _, j := range jobs {
		fmt.Fprintf(w, "%s/%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\n", j.Tenant, j.Job, j.Desired, j.State, j.Epoch, j.Checkpoint,
			numberOr(j.Parallelism, "-"), cmp.Or(j.Worker, "-"), j.Reason)
	}
	return w.Flush()
}

func (app App) tenantsCommand() *cobra.Command {
	var f controlFlags
	cmd := f.command(&cobra.Command{
		Use:     "tenants",
		Short:   "List the tenants that have jobs",
		Args:    cobra.NoArgs,
		Example: fmt.Sprintf("  %[1]s tenants\n  %[1]s tenants --json", app.Name),
	}, func(cmd *cobra.Command, c *client, _ []string) error {
		all := control.TenantPage{Tenants: []control.TenantReport{}}
		err := pages(func(after string) (string, error) {
			var page control.TenantPage
			_, err := c.read(cmd.Context(), everything, "tenants", control.PageRequest{After: after}, &page)
			all.Tenants = append(all.Tenants, page.Tenants...)
			return page.Next, err
		})
		if err != nil {
			return err
		}
		if f.json {
			return printJSON(cmd.OutOrStdout(), all)
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "TENANT\tJOBS\tRUNNING")
		for _, t := range all.Tenants {
			fmt.Fprintf(w, "%s\t%d\t%d\n", t.Tenant, t.Jobs, t.Running)
		}
		return w.Flush()
	})
	f.register(cmd)
	return cmd
}

func (app App) statusCommand() *cobra.Command {
	var f controlFlags
	cmd := f.command(&cobra.Command{
		Use:   "status tenant/job",
		Short: "Say how a job is",
		Args:  cobra.ExactArgs(1),
		Long: `Say what a job should do and what it does: state and reason, owner, last checkpoint, and per source how far it has read.

Exit codes: 0 the job does what it should; 1 it does not (starting, restarting, parked, failed, without an owner) or is not known; 2 could not ask.

With the nats CLI: nats req weir.v1.acme.wordcount.status ''`,
		Example:           fmt.Sprintf("  %[1]s status acme/wordcount\n  %[1]s status acme/wordcount --json", app.Name),
		ValidArgsFunction: f.completeJobs(true),
	}, func(cmd *cobra.Command, c *client, args []string) error {
		t, err := parseJob(args[0])
		if err != nil {
			return err
		}
		var j processor.JobReport
		raw, err := c.read(cmd.Context(), t, "status", nil, &j)
		if err != nil {
			return err
		}
		if f.json {
			err = printJSON(cmd.OutOrStdout(), raw)
		} else {
			err = printStatus(cmd.OutOrStdout(), j)
		}
		if err == nil && !asDesired(j) {
			err = &exitError{code: exitNo}
		}
		return err
	})
	f.register(cmd)
	return cmd
}

// asDesired reports whether a job does what it should.
func asDesired(j processor.JobReport) bool {
	switch j.Desired {
	case processor.DesiredRunning:
		return j.State == processor.JobRunning
	default:
		return j.State == processor.JobStopped
	}
}

func printStatus(out io.Writer, j processor.JobReport) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(name string, value any) { fmt.Fprintf(w, "%s\t%v\n", name, value) }
	line("job", j.Tenant+"/"+j.Job)
	line("topology", j.Topology)
	line("desired", j.Desired)
	line("state", j.State)
	if j.Reason != "" {
		line("reason", j.Reason)
	}
	if !j.Retry.IsZero() {
		line("next try", j.Retry.Local().Format(time.DateTime))
	}
	line("worker", cmp.Or(j.Worker, "-"))
	line("epoch", j.Epoch)
	if j.CompletedAt.IsZero() {
		line("checkpoint", j.Checkpoint)
	} else {
		line("checkpoint", fmt.Sprintf("%d, %s ago", j.Checkpoint, ageOf(j.CompletedAt)))
	}
	line("parallelism", numberOr(j.Parallelism, "-"))
	if j.Shadow != "" {
		line("writes under", j.Shadow)
	}
	if j.Restarts > 0 {
		line("restarts", j.Restarts)
	}
	if j.Elements > 0 {
		line("elements", j.Elements)
	}
	if j.StateBytes > 0 {
		line("state", byteCount(j.StateBytes))
	}
	if err := w.Flush(); err != nil || len(j.Sources) == 0 {
		return err
	}
	fmt.Fprintln(w, "\nSOURCE\tSTREAM\tFILTER\tPOSITION\tPENDING")
	names := make([]string, 0, len(j.Sources))
	for name := range j.Sources {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		s := j.Sources[name]
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\n", name, s.Stream, s.Filter, s.Position, s.Pending)
	}
	return w.Flush()
}

// ageOf is how long ago a time was, coarse.
func ageOf(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := time.Since(t)
	switch {
	case d < time.Minute:
		return max(d, 0).Round(100 * time.Millisecond).String()
	case d < 48*time.Hour:
		return d.Round(time.Second).String()
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

func numberOr(n int, none string) string {
	if n == 0 {
		return none
	}
	return fmt.Sprint(n)
}
