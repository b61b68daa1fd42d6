package weircli

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirstream/weir/jetstream/control"
	"github.com/weirstream/weir/processor"
)

func (app App) checkpointsCommand() *cobra.Command {
	var f controlFlags
	cmd := f.command(&cobra.Command{
		Use:   "checkpoints tenant/job",
		Short: "List a job's checkpoints with what each took",
		Args:  cobra.ExactArgs(1),
		Long: `List the checkpoints that are kept, and what the worker that runs the job remembers of recent ones: those that failed, too.

DURATION is from the trigger to the end of the release. Its parts: ALIGN, the longest that inputs of a task waited for each other;
FREEZE, the longest that a task stood still; UPLOAD; COMMIT; RELEASE, publishing the output. SIZE is all that a restore would read,
DELTA what was uploaded for this one.

With the nats CLI: nats req weir.v1.acme.wordcount.checkpoints ''`,
		Example:           fmt.Sprintf("  %[1]s checkpoints acme/wordcount\n  %[1]s checkpoints acme/wordcount --json", app.Name),
		ValidArgsFunction: f.completeJobs(true),
	}, func(cmd *cobra.Command, c *client, args []string) error {
		t, err := parseJob(args[0])
		if err != nil {
			return err
		}
		all := control.CheckpointPage{Checkpoints: []processor.CheckpointReport{}}
		err = pages(func(after string) (string, error) {
			var page control.CheckpointPage
			_, err := c.read(cmd.Context(), t, "checkpoints", control.PageRequest{After: after}, &page)
			all.Checkpoints = append(all.Checkpoints, page.Checkpoints...)
			return page.Next, err
		})
		if err != nil {
			return err
		}
		if f.json {
			return printJSON(cmd.OutOrStdout(), all)
		}
		return printCheckpoints(cmd.OutOrStdout(), all.Checkpoints)
	})
	f.register(cmd)
	return cmd
}

func printCheckpoints(out io.Writer, list []processor.CheckpointReport) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tEPOCH\tKIND\tSTATE\tACKS\tSTARTED\tDURATION\tALIGN\tFREEZE\tUPLOAD\tCOMMIT\tRELEASE\tSIZE\tDELTA\tMESSAGES\tERROR")
	for _, r := range list {
		fmt.Fprintf(w, "%d\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n",
			r.Checkpoint, r.Epoch, r.Kind, r.State, cmp.Or(r.Acks, "-"), r.Started.Local().Format("2006-01-02 15:04:05.000"),
			short(r.Duration), short(r.Aligned), short(r.Frozen), short(r.Uploaded), short(r.Committed), short(r.Released),
			byteCount(r.Bytes), byteCount(r.DeltaBytes), r.Messages, r.Error)
	}
	return w.Flush()
}

// short rounds a duration to three digits or so.
func short(d processor.Duration) string {
	v := time.Duration(d)
	switch {
	case v == 0:
		return "-"
	case v < time.Millisecond:
		return v.Round(time.Microsecond).String()
	case v < time.Second:
		return v.Round(100 * time.Microsecond).String()
	}
	return v.Round(10 * time.Millisecond).String()
}

func (app App) checkpointCommand() *cobra.Command {
	var f controlFlags
	cmd := f.command(&cobra.Command{
		Use:   "checkpoint tenant/job",
		Short: "Take a checkpoint now",
		Args:  cobra.ExactArgs(1),
		Long: `Take a checkpoint that holds everything read before the request, and wait until it is committed and its output is published.

With the nats CLI: nats req weir.v1.acme.wordcount.checkpoint '' --timeout 1m`,
		Example:           fmt.Sprintf("  %[1]s checkpoint acme/wordcount", app.Name),
		ValidArgsFunction: f.completeJobs(true),
	}, func(cmd *cobra.Command, c *client, args []string) error {
		t, err := parseJob(args[0])
		if err != nil {
			return err
		}
		var r processor.CheckpointReport
		raw, err := c.do(cmd.Context(), t, "checkpoint", nil, &r)
		if err != nil {
			return err
		}
		if f.json {
			return printJSON(cmd.OutOrStdout(), raw)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "checkpoint %d of %s is complete: %s, %s uploaded, %d messages published, positions %s\n",
			r.Checkpoint, t, short(r.Duration), byteCount(r.DeltaBytes), r.Messages, positions(r.Positions))
		return nil
	})
	f.registerWork(cmd)
	return cmd
}

// positions prints sequences by stream or source, ordered.
func positions(m map[string]uint64) string {
	parts := make([]string, 0, len(m))
	for name, seq := range m {
		parts = append(parts, fmt.Sprintf("%s %d", name, seq))
	}
	slices.Sort(parts)
	return cmp.Or(strings.Join(parts, ", "), "none")
}
