package weircli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

type checkFlags struct {
	conn   connFlags
	tenant tenantFlags
	jobs   jobFlags
	create bool
	json   bool
}

func (app App) checkCommand() *cobra.Command {
	var f checkFlags
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say, per stream, what is there and what is needed, and change nothing",
		Args:  cobra.NoArgs,
		Long: `Resolve every source and sink of the jobs against the server as run would, and say what is there, what is missing and the
command that mends it. Nothing is created or changed.

Exit codes: 0 all is well; 1 something is missing; 2 could not look.`,
		Example: fmt.Sprintf("  %[1]s check --url nats://nats:4222 --tenants acme,globex\n  %[1]s check --tenants acme --json", app.Name),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd.Context(), app, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f.conn.register(cmd, false)
	f.tenant.register(cmd)
	f.jobs.register(cmd)
	cmd.Flags().BoolVar(&f.create, "create-streams", false, "as run with this flag: a missing stream of a tenant would be created")
	cmd.Flags().BoolVar(&f.json, "json", false, "print the findings as a JSON list")
	return cmd
}

// checkLine is one finding with whose it is.
type checkLine struct {
	Tenant  tenants.ID `json:"tenant"`
	Job     string     `json:"job"`
	Subject string     `json:"subject"` // source or sink
	Stream  string     `json:"stream,omitempty"`
	Has     string     `json:"has,omitempty"`
	Needs   string     `json:"needs,omitempty"`
	Fix     string     `json:"fix,omitempty"`
	Created bool       `json:"would_create,omitempty"`
}

func (f *checkFlags) run(ctx context.Context, app App, out, errOut io.Writer) error {
	ids, ns, err := f.tenant.parse()
	if err != nil {
		return err
	}
	topologies, err := app.build(f.jobs.topologies)
	if err != nil {
		return err
	}
	if err := f.jobs.checkParams(topologies); err != nil {
		return err
	}
	broker, err := jetstream.New(jetstream.Config{
		Provider: &f.conn, Namespace: ns, CreateStreams: f.create, CheckOnly: true, Logger: newLogger(errOut, false),
	})
	if err != nil {
		return err
	}
	defer broker.Close()
	if err := broker.Start(ctx); err != nil {
		return err
	}
	lines, missing, err := f.check(ctx, broker, topologies, ids, ns)
	if err != nil {
		return err
	}
	if f.json {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		err = e.Encode(lines)
	} else {
		err = printFindings(out, lines)
	}
	if err == nil && missing > 0 {
		err = &exitError{code: exitNo, err: fmt.Errorf("%d of %d need something", missing, len(lines))}
	}
	return err
}

func (f *checkFlags) check(ctx context.Context, broker processor.Transport, topologies []*processor.Topology, ids []tenants.ID, ns tenants.Namespace) ([]checkLine, int, error) {
	lines, missing := []checkLine{}, 0
	for _, id := range ids {
		for _, t := range topologies {
			needs := t.Needs(tenants.JobID{Tenant: id, Name: t.Name()}, ns)
			f.choose(&needs)
			findings, err := broker.Check(ctx, needs)
			if err != nil && len(findings) == 0 {
				return nil, 0, fmt.Errorf("job %s/%s: %w", id, t.Name(), err)
			}
			for _, g := range findings {
				lines = append(lines, checkLine{id, t.Name(), g.Subject, g.Stream, g.Has, g.Needs, g.Fix, g.Created})
				if g.Needs != "" && !g.Created {
					missing++
				}
			}
		}
	}
	return lines, missing, nil
}

// choose applies the flags that a deployment would have.
func (f *checkFlags) choose(needs *processor.Needs) {
	for i := range needs.Sources {
		s := &needs.Sources[i]
		if name := f.jobs.streams[s.Source]; name != "" {
			s.Stream = name
		}
		switch processor.BarrierMode(f.jobs.barriers) {
		case processor.BarriersInStream:
			s.InStream = true
		case processor.BarriersAtReader:
			s.InStream = false
		}
	}
	for i := range needs.Sinks {
		if name := f.jobs.streams[needs.Sinks[i].Sink]; name != "" {
			needs.Sinks[i].Stream = name
		}
	}
}

func printFindings(out io.Writer, lines []checkLine) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TENANT\tJOB\tWHAT\tSTREAM\tTHERE IS\tNEEDED")
	for _, l := range lines {
		needs := l.Needs
		switch {
		case l.Created:
			needs = "nothing: Weir creates it"
		case needs == "":
			needs = "nothing"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", l.Tenant, l.Job, l.Subject, l.Stream, l.Has, needs)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fixed := make(map[string]bool)
	for _, l := range lines {
		if l.Fix == "" || fixed[l.Fix] {
			continue
		}
		if len(fixed) == 0 {
			fmt.Fprintln(out, "\nto mend it")
		}
		fixed[l.Fix] = true
		fmt.Fprintln(out, " ", l.Fix)
	}
	return nil
}
