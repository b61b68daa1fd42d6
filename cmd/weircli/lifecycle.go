package weircli

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirstream/weir/jetstream/control"
	"github.com/weirstream/weir/processor"
)

func (app App) stopCommand() *cobra.Command {
	var f controlFlags
	var now, drain bool
	var savepoint string
	cmd := f.command(&cobra.Command{
		Use:   "stop tenant/job",
		Short: "Stop a job; it stays stopped until it is started",
		Args:  cobra.ExactArgs(1),
		Long: `Stop a job and wait until its output is published. It stays stopped over restarts of every worker, until weir start.

By default it takes a last checkpoint first. --savepoint takes a savepoint and ends exactly there. --now ends at the last committed
checkpoint: what was read after it is read again when the job starts. --drain reads up to the tail that the streams have at the
time of the request, ends event time, so that every window closes and every event-time timer fires, takes a last checkpoint (a
savepoint, with --savepoint) and ends.

Exit codes: 0 stopped, and all its output is published; 1 not, or refused; 2 could not ask.

With the nats CLI: nats req weir.v1.acme.wordcount.stop '{"mode":"savepoint","savepoint":"final"}' --timeout 5m`,
		Example:           fmt.Sprintf("  %[1]s stop acme/wordcount\n  %[1]s stop acme/wordcount --savepoint before-upgrade\n  %[1]s stop acme/wordcount --drain", app.Name),
		ValidArgsFunction: f.completeJobs(true),
	}, func(cmd *cobra.Command, c *client, args []string) error {
		t, err := parseJob(args[0])
		if err != nil {
			return err
		}
		req := control.StopRequest{StopRequest: processor.StopRequest{Savepoint: savepoint}}
		switch {
		case now:
			req.Mode = processor.StopNow
		case drain:
			req.Mode = processor.StopDrain
		case savepoint != "":
			req.Mode = processor.StopSavepoint
		}
		var r processor.StopReport
		raw, err := c.do(cmd.Context(), t, "stop", req, &r)
		if err != nil {
			return err
		}
		if f.json {
			err = printJSON(cmd.OutOrStdout(), raw)
		} else {
			printStop(cmd.OutOrStdout(), t, r)
		}
		if err == nil && !r.Published {
			err = &exitError{code: exitNo, err: errors.New(cmp.Or(r.Detail, "its output is not published yet"))}
		}
		return err
	})
	f.registerWork(cmd)
	fs := cmd.Flags()
	fs.BoolVar(&now, "now", false, "end at the last committed checkpoint")
	fs.BoolVar(&drain, "drain", false, "read up to the tail of the streams and close every window first")
	fs.StringVar(&savepoint, "savepoint", "", "end with a savepoint of this name")
	cmd.MarkFlagsMutuallyExclusive("now", "drain")
	cmd.MarkFlagsMutuallyExclusive("now", "savepoint")
	return cmd
}

func printStop(out io.Writer, t target, r processor.StopReport) {
	fmt.Fprintf(out, "%s is stopped at checkpoint %d\n", t, r.Checkpoint)
	if s := r.Savepoint; s != nil {
		fmt.Fprintf(out, "savepoint %s: %s, %s in %d objects\n", s.Name, positions(sequences(*s)), byteCount(s.Bytes), s.Objects)
	}
	if r.Published {
		fmt.Fprintln(out, "all its output is published")
	}
	if r.Detail != "" {
		fmt.Fprintln(out, r.Detail)
	}
}

// patchFlags become a ConfigPatch: only those that are given.
type patchFlags struct {
	parallelism  int
	params       []string
	streams      map[string]string
	interval     time.Duration
	timeout      time.Duration
	retained     int
	allowLoss    bool
	allowDropped bool
	allowMarks   bool
}

func (f *patchFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.IntVar(&f.parallelism, "parallelism", 0, "subtasks of each keyed operator")
	fs.StringArrayVar(&f.params, "param", nil, "a topology's parameter, name=value; the value is JSON or plain text")
	fs.StringToStringVar(&f.streams, "stream", nil, "source or sink = stream")
	fs.DurationVar(&f.interval, "checkpoint-interval", 0, "time between checkpoints")
	fs.DurationVar(&f.timeout, "checkpoint-timeout", 0, "abort a checkpoint that takes longer")
	fs.IntVar(&f.retained, "retained", 0, "committed checkpoints that are kept")
	fs.BoolVar(&f.allowLoss, "allow-data-loss", false, "go on where an input stream was recreated, rolled back or trimmed; recorded in every manifest")
	fs.BoolVar(&f.allowDropped, "allow-dropped-state", false, "drop the state of operators that the topology no longer has")
	fs.BoolVar(&f.allowMarks, "allow-marks", false, "publishers may ask for savepoints with the header Weir-Mark")
}

// patch returns what was given, nil for nothing.
func (f *patchFlags) patch(cmd *cobra.Command) (*processor.ConfigPatch, error) {
	var p processor.ConfigPatch
	given, fs := false, cmd.Flags()
	changed := func(name string) bool {
		ok := fs.Changed(name)
		given = given || ok
		return ok
	}
	if changed("parallelism") {
		p.Parallelism = &f.parallelism
	}
	if changed("param") {
		p.Params = map[string]json.RawMessage{}
		for _, s := range f.params {
			q, err := parseParam(s)
			if err != nil {
				return nil, err
			}
			if q.tenant != "" {
				return nil, fmt.Errorf("--param %q: the command is about one tenant's job: write name=value", s)
			}
			if p.Params[q.name], err = json.Marshal(q.value); err != nil {
				return nil, fmt.Errorf("--param %q: %w", s, err)
			}
		}
	}
	if changed("stream") {
		p.Streams = f.streams
	}
	if changed("checkpoint-interval") {
		d := processor.Duration(f.interval)
		p.CheckpointInterval = &d
	}
	if changed("checkpoint-timeout") {
		d := processor.Duration(f.timeout)
		p.CheckpointTimeout = &d
	}
	if changed("retained") {
		p.Retained = &f.retained
	}
	if changed("allow-data-loss") {
		p.AllowDataLoss = &f.allowLoss
	}
	if changed("allow-dropped-state") {
		p.AllowDroppedState = &f.allowDropped
	}
	if changed("allow-marks") {
		p.AllowMarks = &f.allowMarks
	}
	if !given {
		return nil, nil
	}
	return &p, nil
}

func (app App) startCommand() *cobra.Command {
	var f controlFlags
	var patch patchFlags
	var fresh bool
	var checkpoint uint64
	var savepoint, topology, of, id string
	cmd := f.command(&cobra.Command{
		Use:   "start tenant/job",
		Short: "Run a job: go on, or start from a checkpoint, a savepoint or nothing",
		Args:  cobra.ExactArgs(1),
		Long: `Make a job run, and wait until it does: one that is stopped, parked or failed goes on where it ended; one that never ran is
deployed (name its topology; a worker must have it in its binary). A running job starts again when it is given another point or
another configuration, which is kept for good. What cannot work is refused before a running job is touched.

--checkpoint and --savepoint go back (or on) to another state: input after its positions is read again, and its results are
published again. --fresh starts empty at the beginning of the streams.

With the nats CLI: nats req weir.v1.acme.wordcount.start '{"from":"savepoint","savepoint":"before-upgrade"}' --timeout 1m`,
		Example: fmt.Sprintf(`  %[1]s start acme/wordcount
  %[1]s start acme/wordcount --savepoint before-upgrade
  %[1]s start acme/wordcount --checkpoint 1041
  %[1]s start initech/wordcount --topology wordcount --parallelism 4`, app.Name),
		ValidArgsFunction: f.completeJobs(true),
	}, func(cmd *cobra.Command, c *client, args []string) error {
		t, err := parseJob(args[0])
		if err != nil {
			return err
		}
		req := control.StartRequest{StartRequest: processor.StartRequest{Topology: topology}}
		if req.Config, err = patch.patch(cmd); err != nil {
			return err
		}
		req.Request, req.Job, req.Checkpoint, req.Savepoint = id, of, checkpoint, savepoint
		switch {
		case fresh:
			req.From = processor.FromFresh
		case checkpoint != 0:
			req.From = processor.FromCheckpoint
		case savepoint != "":
			req.From = processor.FromSavepoint
		}
		if req.From != processor.FromLatest && id == "" {
			req.Request = "start-" + strconv.FormatInt(time.Now().UnixNano(), 36) // typed again, it is meant again
		}
		return askJob(cmd, c, &f, t, "start", req)
	})
	f.registerWork(cmd)
	patch.register(cmd)
	fs := cmd.Flags()
	fs.BoolVar(&fresh, "fresh", false, "start empty, at the beginning of the streams")
	fs.Uint64Var(&checkpoint, "checkpoint", 0, "start from this retained checkpoint")
	fs.StringVar(&savepoint, "savepoint", "", "start from this savepoint")
	fs.StringVar(&of, "of", "", "whose checkpoint or savepoint: another job of the tenant")
	fs.StringVar(&topology, "topology", "", "topology of a job that was never deployed")
	fs.StringVar(&id, "request", "", "ID of this request: the same one is applied once")
	cmd.MarkFlagsMutuallyExclusive("fresh", "checkpoint", "savepoint")
	return cmd
}

// askJob asks for work that answers with the job, and prints it.
func askJob(cmd *cobra.Command, c *client, f *controlFlags, t target, verb string, req any) error {
	var j processor.JobReport
	raw, err := c.do(cmd.Context(), t, verb, req, &j)
	if err != nil {
		return err
	}
	if f.json {
		return printJSON(cmd.OutOrStdout(), raw)
	}
	return printStatus(cmd.OutOrStdout(), j)
}

func (app App) rescaleCommand() *cobra.Command {
	var f controlFlags
	cmd := f.command(&cobra.Command{
		Use:   "rescale tenant/job parallelism",
		Short: "Go on at another parallelism",
		Args:  cobra.ExactArgs(2),
		Long: `Take a last checkpoint and go on from it with another number of subtasks of each keyed operator. The key groups that the
job's first checkpoint fixed are the upper bound.

With the nats CLI: nats req weir.v1.acme.wordcount.rescale '{"parallelism":4}' --timeout 1m`,
		Example:           fmt.Sprintf("  %[1]s rescale acme/wordcount 4", app.Name),
		ValidArgsFunction: f.completeJobs(true),
	}, func(cmd *cobra.Command, c *client, args []string) error {
		t, err := parseJob(args[0])
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(args[1])
		if err != nil || n < 1 {
			return fmt.Errorf("parallelism is %q: use a number from 1", args[1])
		}
		return askJob(cmd, c, &f, t, "rescale", control.RescaleRequest{Parallelism: n})
	})
	f.registerWork(cmd)
	return cmd
}

func (app App) forkCommand() *cobra.Command {
	var f controlFlags
	var patch patchFlags
	var at, as, shadow string
	cmd := f.command(&cobra.Command{
		Use:   "fork tenant/job --as name",
		Short: "Run a copy of a job from one of its checkpoints or savepoints",
		Args:  cobra.ExactArgs(1),
		Long: `Run a copy of a job under another name. It reads the same streams from where the checkpoint or savepoint was cut, and writes
under a shadow prefix: what the job publishes on acme.counts, the fork publishes on acme.shadow.{name}.counts; keys of KV buckets
get the prefix, too. The original does not notice. Delete the fork when it is no longer needed.

--at takes the number of a retained checkpoint or the name of a savepoint; without it the fork begins at the last checkpoint.

With the nats CLI: nats req weir.v1.acme.wordcount.fork '{"as":"wordcount-test","savepoint":"before-upgrade"}' --timeout 1m`,
		Example: fmt.Sprintf(`  %[1]s fork acme/wordcount --as wordcount-test
  %[1]s fork acme/wordcount --at before-upgrade --as wordcount-test --shadow test.wordcount
  %[1]s fork acme/wordcount --at 1041 --as wordcount-test --param limit=5`, app.Name),
		ValidArgsFunction: f.completeJobs(true),
	}, func(cmd *cobra.Command, c *client, args []string) error {
		t, err := parseJob(args[0])
		if err != nil {
			return err
		}
		req := control.ForkRequest{ForkRequest: processor.ForkRequest{As: as, Shadow: shadow}}
		if n, err := strconv.ParseUint(at, 10, 64); err == nil {
			req.Checkpoint = n
		} else {
			req.Savepoint = at
		}
		if req.Config, err = patch.patch(cmd); err != nil {
			return err
		}
		return askJob(cmd, c, &f, t, "fork", req)
	})
	f.registerWork(cmd)
	patch.register(cmd)
	cmd.Flags().StringVar(&at, "at", "", "checkpoint number or savepoint name (default: the last checkpoint)")
	cmd.Flags().StringVar(&as, "as", "", "name of the copy")
	cmd.Flags().StringVar(&shadow, "shadow", "", "relative subject prefix of its output (default: shadow.{name})")
	_ = cmd.MarkFlagRequired("as")
	return cmd
}

func (app App) deleteCommand() *cobra.Command {
	var f controlFlags
	var confirm string
	var savepoints bool
	cmd := f.command(&cobra.Command{
		Use:   "delete tenant/job --confirm job",
		Short: "Delete a job for good",
		Args:  cobra.ExactArgs(1),
		Long: `Stop a job and delete its state and checkpoints. Its output stays; so do its savepoints, unless --savepoints. What is left is a
tombstone that keeps the numbers of checkpoints and epochs from being used again. Without --confirm it asks nothing and is refused.

With the nats CLI: nats req weir.v1.acme.wordcount.delete '{"confirm":"wordcount"}' --timeout 1m`,
		Example:           fmt.Sprintf("  %[1]s delete acme/wordcount-test --confirm wordcount-test", app.Name),
		ValidArgsFunction: f.completeJobs(true),
	}, func(cmd *cobra.Command, c *client, args []string) error {
		t, err := parseJob(args[0])
		if err != nil {
			return err
		}
		req := control.DeleteRequest{DeleteRequest: processor.DeleteRequest{Confirm: confirm, Savepoints: savepoints}}
		raw, err := c.do(cmd.Context(), t, "delete", req, nil)
		if err != nil {
			return err
		}
		if f.json {
			return printJSON(cmd.OutOrStdout(), raw)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s is deleted\n", t)
		return nil
	})
	f.registerWork(cmd)
	cmd.Flags().StringVar(&confirm, "confirm", "", "the job's name again")
	cmd.Flags().BoolVar(&savepoints, "savepoints", false, "delete its savepoints, too")
	return cmd
}
