package weircli

import (
	"cmp"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/weirstream/weir/jetstream/control"
	"github.com/weirstream/weir/processor"
)

func (app App) stateCommand() *cobra.Command {
	var f controlFlags
	var at string
	cmd := f.command(&cobra.Command{
		Use:   "state tenant/job [operator [state key]]",
		Short: "Look into a job's state",
		Args:  cobra.RangeArgs(1, 4),
		Long: `Without a key: the operators and states of the last checkpoint, or of the one that --at names, with the number of entries and
their bytes. With operator, state and key: the value as JSON, from the live job, or as the checkpoint or savepoint of --at holds it.

Exit codes: 0 printed; 1 the key has no such state; 2 could not ask.

With the nats CLI: nats req weir.v1.acme.wordcount.state '{"operator":"count","state":"total","key":"the"}'`,
		Example: fmt.Sprintf(`  %[1]s state acme/wordcount
  %[1]s state acme/wordcount --at before-upgrade
  %[1]s state acme/wordcount count total the
  %[1]s state acme/wordcount --at 1041 count total the`, app.Name),
		ValidArgsFunction: f.completeJobs(true),
	}, func(cmd *cobra.Command, c *client, args []string) error {
		t, err := parseJob(args[0])
		if err != nil {
			return err
		}
		var req control.StateRequest
		if n, err := strconv.ParseUint(at, 10, 64); err == nil {
			req.Checkpoint = n
		} else {
			req.Savepoint = at
		}
		switch len(args) {
		case 2:
			req.Operator = args[1]
		case 3:
			return fmt.Errorf("state %s of operator %s: say the key, too", args[2], args[1])
		case 4:
			req.Operator, req.State, req.Key = args[1], args[2], &args[3]
		}
		var r processor.StateReport
		raw, err := c.read(cmd.Context(), t, "state", req, &r)
		if err != nil {
			return err
		}
		found := req.Key == nil || r.Found
		switch {
		case f.json:
			err = printJSON(cmd.OutOrStdout(), raw)
		case req.Key == nil:
			err = printStates(cmd.OutOrStdout(), t, r)
		case found:
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", r.Value)
		}
		if err == nil && !found {
			err = &exitError{code: exitNo, err: fmt.Errorf("key %q has no state %s in operator %s", *req.Key, req.State, req.Operator)}
		}
		return err
	})
	f.register(cmd)
	cmd.Flags().StringVar(&at, "at", "", "checkpoint number or savepoint name (default: live for a key, the last checkpoint otherwise)")
	return cmd
}

func printStates(out io.Writer, t target, r processor.StateReport) error {
	if len(r.Operators) == 0 {
		fmt.Fprintf(out, "%s has no state in checkpoint %d\n", t, r.Checkpoint)
		return nil
	}
	fmt.Fprintf(out, "%s, checkpoint %d\n", t, r.Checkpoint)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "OPERATOR\tSTATE\tKIND\tCODEC\tVERSION\tENTRIES\tBYTES")
	for _, op := range r.Operators {
		for _, s := range op.States {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%s\n", op.Operator, s.Name, s.Kind, cmp.Or(s.Codec, "-"), s.Version, s.Entries, byteCount(s.Bytes))
		}
		fmt.Fprintf(w, "%s\t\t\t\t\t\t%s stored\n", op.Operator, byteCount(op.Bytes))
	}
	return w.Flush()
}
