package weircli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/jetstream/embedded"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

type devFlags struct {
	conn       connFlags
	tenant     tenantFlags
	jobs       jobFlags
	port       int
	data       string
	dataSet    bool
	rate       float64
	syncAlways bool
	verbose    bool
}

func (app App) devCommand() *cobra.Command {
	var f devFlags
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a server, the jobs and sample input in one process",
		Args:  cobra.NoArgs,
		Long: `Start a NATS server with JetStream on 127.0.0.1, deploy the topologies of this binary for a few tenants, publish sample
input, and say what to try. Everything is kept in --data: stop it, or kill it with -9, and the next start goes on where the
last checkpoint was committed.

With --url it uses a server that runs already, and starts none. Several such workers may run: one owns a job, the others stand
by and take over when it goes. Each publishes sample input of its own, unless --rate is 0.`,
		Example: fmt.Sprintf(`  %[1]s dev
  %[1]s dev --port 4333 --data ./other --tenants acme,globex,initech --rate 100
  %[1]s dev --checkpoint-interval 500ms --sync-always
  %[1]s dev --url nats://127.0.0.1:4222 --rate 0        # a second worker beside the first`, app.Name),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.dataSet = cmd.Flags().Changed("data")
			return f.run(cmd.Context(), app, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f.conn.register(cmd, true)
	f.tenant.register(cmd, "acme", "globex")
	f.jobs.register(cmd)
	fs := cmd.Flags()
	fs.IntVar(&f.port, "port", 4222, "port of the server on 127.0.0.1")
	fs.StringVar(&f.data, "data", "./weir-data", "folder of the server's files and of this worker's identity")
	fs.Float64Var(&f.rate, "rate", 2, "sample messages a second for each tenant; 0 for none")
	fs.BoolVar(&f.syncAlways, "sync-always", false, "the server syncs every write to disk: slower, and safe against power loss")
	fs.BoolVar(&f.verbose, "verbose", false, "log what the library does")
	return cmd
}

func (f *devFlags) run(ctx context.Context, app App, out, errOut io.Writer) error {
	ids, ns, err := f.tenant.parse()
	if err != nil {
		return err
	}
	if f.rate < 0 || f.rate > 1e6 {
		return fmt.Errorf("--rate is %g: use 0 to 1000000", f.rate)
	}
	topologies, err := app.build(f.jobs.topologies)
	if err != nil {
		return err
	}
	log := newLogger(errOut, f.verbose)
	worker, closeFolder, err := f.identity()
	if err != nil {
		return err
	}
	defer closeFolder()
	if f.conn.url == "" {
		srv, err := embedded.Start(embedded.Options{Dir: filepath.Join(f.data, "nats"), Host: "127.0.0.1", Port: f.port, SyncAlways: f.syncAlways})
		if err != nil {
			return err
		}
		defer srv.Shutdown()
		f.conn.url = srv.ClientURL()
		f.banner(out, app, topologies, ids, true)
	} else {
		f.banner(out, app, topologies, ids, false)
	}

	p := newPrinter(out, 750*time.Millisecond)
	w, err := startWorker(ctx,
		jetstream.Config{Provider: &f.conn, Namespace: ns, CreateStreams: true, Logger: log},
		processor.RuntimeConfig{Worker: worker, Logger: log, Listener: p.listener()},
		topologies, ids, &f.jobs)
	if err != nil {
		return err
	}
	stopSamples, err := f.publishSamples(ctx, app, topologies, ids, ns, log)
	if err != nil {
		w.close()
		return err
	}
	defer stopSamples()
	if err := w.run(ctx, out); err != nil {
		return err
	}
	if err := w.failures(); err != nil {
		return &exitError{code: exitNo, err: err}
	}
	return nil
}

// identity claims the data folder. Beside an existing server, a worker without a folder of its own gets a random identity.
func (f *devFlags) identity() (string, func(), error) {
	if f.conn.url != "" && !f.dataSet {
		return "", func() {}, nil
	}
	id, err := claimWorkerID(f.data)
	if err != nil {
		return "", nil, err
	}
	return id.ID, func() { id.Close() }, nil
}

// publishSamples starts a publisher per tenant and sample, and returns what stops them.
func (f *devFlags) publishSamples(ctx context.Context, app App, topologies []*processor.Topology, ids []tenants.ID, ns tenants.Namespace, log *slog.Logger) (func(), error) {
	if f.rate == 0 {
		return func() {}, nil
	}
	nc, err := f.conn.connect("weir dev samples")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var errs []error
	for _, t := range topologies {
		for _, sample := range app.Samples {
			if sample.Topology != t.Name() {
				continue
			}
			for _, id := range ids {
				s, err := newSampler(nc, sample, id, ns, f.rate, log)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				wg.Go(func() { s.run(ctx) })
			}
		}
	}
	stop := func() { cancel(); wg.Wait(); nc.Close() }
	if len(errs) > 0 {
		stop()
		return nil, errors.Join(errs...)
	}
	return stop, nil
}

// banner says what runs and what to try. url and data are shown only where they differ from what the commands assume.
func (f *devFlags) banner(out io.Writer, app App, topologies []*processor.Topology, ids []tenants.ID, own bool) {
	if own {
		fmt.Fprintf(out, "NATS server with JetStream on %s, files in %s\n", redact(f.conn.url), f.data)
	} else {
		fmt.Fprintf(out, "worker on %s\n", redact(f.conn.url))
	}
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = string(id)
	}
	fmt.Fprintf(out, "jobs: %s for %s; a checkpoint every %s\n\ntry\n", topologyNames(topologies), strings.Join(names, ", "), f.jobs.interval)
	server, url := "", ""
	if f.conn.url != defaultURL {
		server, url = " --server "+redact(f.conn.url), " --url "+redact(f.conn.url)
	}
	tenant := names[0]
	for _, t := range topologies {
		for _, s := range app.Samples {
			if s.Topology == t.Name() {
				fmt.Fprintf(out, "  nats%s pub %s.%s %q\n", server, tenant, s.Subject, s.Message(tenant, 0))
			}
		}
		for _, c := range app.Counts {
			if c.Name == t.Name() {
				fmt.Fprintf(out, "  nats%s sub --stream %s %s.%s --last --count 5\n", server, tenant, tenant, c.Output)
				fmt.Fprintf(out, "  nats%s kv watch %s '%s.>'\n", server, c.Bucket, tenant)
				fmt.Fprintf(out, "  %s verify %s%s --tenants %s\n", app.Name, c.Name, url, strings.Join(names, ","))
			}
		}
		fmt.Fprintf(out, "  nats%s kv get --raw weir_checkpoints %s.%s\n", server, tenant, t.Name())
		fmt.Fprintf(out, "  nats%s req weir.v1.%s.%s.status ''\n", server, tenant, t.Name())
	}
	again := app.Name + " dev"
	if own {
		if f.data != "./weir-data" {
			again += " --data " + f.data
		}
		if f.port != 4222 {
			again += fmt.Sprint(" --port ", f.port)
		}
	} else {
		again += url
	}
	fmt.Fprintf(out, "  kill -9 %d; %s      # nothing is lost or doubled: look again\n\n", os.Getpid(), again)
}

// redact takes user and password out of URLs.
func redact(urls string) string {
	parts := strings.Split(urls, ",")
	for i, u := range parts {
		if scheme, rest, ok := strings.Cut(u, "://"); ok {
			if at := strings.LastIndex(rest, "@"); at >= 0 {
				parts[i] = scheme + "://" + rest[at+1:]
			}
		}
	}
	return strings.Join(parts, ",")
}

func newLogger(w io.Writer, verbose bool) *slog.Logger {
	level := slog.LevelWarn
	if verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}
