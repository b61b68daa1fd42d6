package weircli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/weirstream/weir/processor"
)

// App is what a binary is made of.
type App struct {
	// Name of the binary in messages. Zero: the file name of the program.
	Name string
	// Version of the binary. Zero: the module version that Go recorded.
	Version string
	// Topologies are what dev, run and check deploy; --topology picks some of them.
	Topologies []func() (*processor.Topology, error)
	// Samples are published by dev, so that something happens at once. May be empty.
	Samples []Sample
	// Counts are the running counts that verify can judge. Without any there is no such command.
	Counts []CountCheck
}

// Sample makes input to try a topology with.
type Sample struct {
	Topology string
	// Subject is relative to the tenant.
	Subject string
	// Message returns the n-th message.
	Message func(tenant string, n uint64) []byte
}

// Main runs the command line of the process and exits. The first interrupt or SIGTERM asks the command to finish, the second
// one kills.
func Main(app App) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(Execute(ctx, app, os.Args[1:], os.Stdout, os.Stderr))
}

// Execute runs one command and returns its exit code. Cancelling ctx asks the command to finish.
func Execute(ctx context.Context, app App, args []string, stdout, stderr io.Writer) int {
	if app.Name == "" {
		app.Name = filepath.Base(os.Args[0])
	}
	if app.Version == "" {
		app.Version = moduleVersion()
	}
	root := app.root()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	var exit *exitError
	if !errors.As(err, &exit) {
		exit = &exitError{code: exitTrouble, err: err}
	}
	if exit.err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", app.Name, exit.err)
	}
	return exit.code
}

// Exit codes; doc.go says what they mean.
const (
	exitOK      = 0
	exitNo      = 1
	exitTrouble = 2
)

// exitError ends the program with a code. A nil err has been told already.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func (app App) root() *cobra.Command {
	root := &cobra.Command{
		Use:   app.Name,
		Short: "Stateful, exactly-once stream jobs for many tenants on NATS JetStream",
		Long: `Stateful, exactly-once stream jobs for many tenants on NATS JetStream, and on nothing else.

Exit codes: 0 done and all is well; 1 the answer is no (something is missing, not exact, failed);
2 the command could not do its work, or cannot judge.`,
		Example:       fmt.Sprintf("  %[1]s dev                                # a server, jobs and sample input in one process\n  %[1]s check --url nats://nats:4222       # would my streams do?\n  %[1]s run --url nats://nats:4222 --tenants acme,globex", app.Name),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddGroup(&cobra.Group{ID: "run", Title: "Run jobs:"}, &cobra.Group{ID: "control", Title: "Look at jobs and control them:"})
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("run", app.devCommand(), app.runCommand(), app.checkCommand())
	if len(app.Counts) > 0 {
		add("run", app.verifyCommand())
	}
	add("control", app.jobsCommand(), app.tenantsCommand(), app.statusCommand(), app.watchCommand(), app.checkpointCommand(), app.checkpointsCommand(),
		app.savepointCommand(), app.stopCommand(), app.startCommand(), app.rescaleCommand(), app.forkCommand(), app.deleteCommand(),
		app.stateCommand(), app.permissionsCommand())
	root.AddCommand(app.benchCommand(), app.versionCommand(), serverCommand())
	return root
}

func (app App) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %s (%s, %s/%s)\n", app.Name, app.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

func moduleVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "devel"
}

// build makes the chosen topologies, all of them when names is empty. It reports every problem at once.
func (app App) build(names []string) ([]*processor.Topology, error) {
	var errs []error
	byName := make(map[string]*processor.Topology)
	var all []*processor.Topology
	for _, fn := range app.Topologies {
		t, err := fn()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if byName[t.Name()] != nil {
			errs = append(errs, fmt.Errorf("two topologies have the name %s: a name is a job's identity", t.Name()))
			continue
		}
		byName[t.Name()] = t
		all = append(all, t)
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("building the topologies: %w", errors.Join(errs...))
	}
	if len(all) == 0 {
		return nil, errors.New("this binary has no topology: hand some to weircli.Main in App.Topologies")
	}
	if len(names) == 0 {
		return all, nil
	}
	var chosen []*processor.Topology
	for _, name := range names {
		t := byName[name]
		if t == nil {
			return nil, fmt.Errorf("there is no topology %q in this binary: it has %s", name, topologyNames(all))
		}
		chosen = append(chosen, t)
	}
	return chosen, nil
}
