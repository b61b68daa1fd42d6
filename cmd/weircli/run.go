package weircli

import (
	"context"
	"fmt"
	"io"
	"time"

	js "github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/processor"
)

type runFlags struct {
	conn     connFlags
	tenant   tenantFlags
	jobs     jobFlags
	data     string
	worker   string
	replicas int
	memory   bool
	maxBytes int64
	create   bool
	takeover time.Duration
	drain    time.Duration
	verbose  bool
}

func (app App) runCommand() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the jobs on an existing NATS server",
		Args:  cobra.NoArgs,
		Long: `Run the topologies of this binary as a worker: for the given tenants, and for every job that was started, forked or deployed
elsewhere and whose topology this binary has. Several workers may run the same jobs: one owns a job, the others stand by. A job that
was stopped stays stopped, and what was configured with start or rescale goes before these flags. An interrupt or SIGTERM takes a last checkpoint of every job and hands the jobs over at once; kill -9 loses
nothing, the others take over after --takeover-after.

Streams that exist are used as they are and never altered; where one will not do, the error has the nats command that mends it.
Where no stream has a tenant's subjects it is an error, unless --create-streams.

Exit codes: 0 stopped and drained; 1 a job failed for good; 2 could not start.`,
		Example: fmt.Sprintf(`  %[1]s run --url nats://nats:4222 --creds weir.creds --tenants acme,globex
  %[1]s run --tenants acme --topology %[2]s --replicas 3 --checkpoint-interval 1s
  %[1]s run --tenants acme,globex --param limit=3 --param globex:limit=10
  %[1]s run --data /var/lib/weir        # keeps this worker's identity: a restart takes its jobs over at once`, app.Name, "wordcount"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd.Context(), app, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f.conn.register(cmd, false)
	f.tenant.register(cmd)
	f.tenant.optional = true
	f.jobs.register(cmd)
	fs := cmd.Flags()
	fs.StringVar(&f.worker, "worker", "", "this worker's identity, unique among living ones (default: kept in --data, else random)")
	fs.StringVar(&f.data, "data", "", "folder that keeps this worker's identity")
	fs.BoolVar(&f.create, "create-streams", false, "create a tenant's stream where none has its subjects")
	fs.IntVar(&f.replicas, "replicas", 1, "replicas of the streams and buckets that Weir creates")
	fs.BoolVar(&f.memory, "memory", false, "what Weir creates is kept in memory: it is gone with the servers")
	fs.Int64Var(&f.maxBytes, "max-bytes", 0, "size limit of each stream and bucket that Weir creates; 0: none")
	fs.DurationVar(&f.takeover, "takeover-after", 10*time.Second, "how long another worker's heartbeat must stand still before its jobs are taken over")
	fs.DurationVar(&f.drain, "drain-timeout", 30*time.Second, "how long the last checkpoints may take")
	fs.BoolVar(&f.verbose, "verbose", false, "log what the library does")
	cmd.MarkFlagsMutuallyExclusive("worker", "data")
	return cmd
}

func (f *runFlags) run(ctx context.Context, app App, out, errOut io.Writer) error {
	ids, ns, err := f.tenant.parse()
	if err != nil {
		return err
	}
	topologies, err := app.build(f.jobs.topologies)
	if err != nil {
		return err
	}
	if f.data != "" {
		id, err := claimWorkerID(f.data)
		if err != nil {
			return err
		}
		defer id.Close()
		f.worker = id.ID
	}
	log := newLogger(errOut, f.verbose)
	jc := jetstream.Config{
		Provider: &f.conn, Namespace: ns, Logger: log,
		CreateStreams: f.create, Replicas: f.replicas, MaxBytes: f.maxBytes,
	}
	if f.memory {
		jc.Storage = js.MemoryStorage
	}
	rc := processor.RuntimeConfig{Worker: f.worker, Logger: log, Listener: newPrinter(out, 750*time.Millisecond).listener(), TakeoverAfter: f.takeover}
	w, err := startWorker(ctx, jc, rc, topologies, ids, &f.jobs)
	if err != nil {
		return err
	}
	w.drainLimit = f.drain
	if err := w.run(ctx, out); err != nil {
		return err
	}
	if err := w.failures(); err != nil {
		return &exitError{code: exitNo, err: err}
	}
	return nil
}
