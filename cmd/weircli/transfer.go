package weircli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// storeFlags are those of commands that read and write savepoints themselves: they need a worker's permissions.
type storeFlags struct {
	conn      connFlags
	namespace string
	json      bool
	quiet     bool
}

func (f *storeFlags) register(cmd *cobra.Command) {
	f.conn.register(cmd, false)
	cmd.Flags().StringVar(&f.namespace, "namespace", "{tenant}", "template of a tenant's subjects, as the workers have it")
	cmd.Flags().BoolVar(&f.json, "json", false, "print one JSON object")
	cmd.Flags().BoolVar(&f.quiet, "quiet", false, "no progress bar")
}

func (f *storeFlags) open(cmd *cobra.Command, checkOnly bool) (*jetstream.Broker, error) {
	ns, err := tenants.NewNamespace(f.namespace)
	if err != nil {
		return nil, fmt.Errorf("--namespace: %w", err)
	}
	broker, err := jetstream.New(jetstream.Config{Provider: &f.conn, Namespace: ns, CheckOnly: checkOnly, Logger: newLogger(cmd.ErrOrStderr(), false)})
	if err != nil {
		return nil, err
	}
	if err := broker.Start(cmd.Context()); err != nil {
		broker.Close()
		return nil, err
	}
	return broker, nil
}

// progress shows a bar where somebody looks.
func (f *storeFlags) progress(cmd *cobra.Command, what string) processor.Progress {
	if f.quiet || f.json || !isTerminal(cmd.ErrOrStderr()) {
		return nil
	}
	var bar *progressbar.ProgressBar
	return func(done, total int64) {
		if bar == nil {
			bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(cmd.ErrOrStderr()), progressbar.OptionSetDescription(what),
				progressbar.OptionShowBytes(true), progressbar.OptionClearOnFinish())
		}
		_ = bar.Set64(done)
	}
}

func (app App) savepointExport() *cobra.Command {
	var f storeFlags
	cmd := &cobra.Command{
		Use:   "export tenant/job name file",
		Short: "Write a savepoint to one file",
		Args:  cobra.ExactArgs(3),
		Long: `Write a savepoint to one file: a tar with the manifest, every object and their digests. Everything that is read is verified. The
file appears under its name when it is whole.

It reads the buckets itself, so its user needs a worker's permissions (weir permissions worker).`,
		Example: fmt.Sprintf("  %[1]s savepoint export acme/wordcount before-upgrade wordcount.savepoint", app.Name),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := tenants.ParseJobID(args[0])
			if err != nil {
				return err
			}
			broker, err := f.open(cmd, true)
			if err != nil {
				return err
			}
			defer broker.Close()
			return f.export(cmd, broker, id, args[1], args[2])
		},
	}
	f.register(cmd)
	return cmd
}

// export writes beside the target and renames, so that a file that was cut off never looks like a savepoint.
func (f *storeFlags) export(cmd *cobra.Command, broker *jetstream.Broker, id tenants.JobID, name, path string) (err error) {
	if _, err := os.Stat(path); err == nil {
		return fmt.Errorf("%s exists: choose another name, or remove it", path)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer func() {
		err = errors.Join(err, tmp.Close())
		if err != nil {
			_ = os.Remove(tmp.Name())
		}
	}()
	if _, err := processor.ExportSavepoint(cmd.Context(), broker, id, name, tmp, f.progress(cmd, "exporting")); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	archive, err := processor.OpenArchive(tmp, nil) // what was written, not what was meant to be
	if err != nil {
		return fmt.Errorf("reading back %s: %w", path, err)
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return f.printArchive(cmd.OutOrStdout(), path, archive)
}

type archiveLine struct {
	File      string                        `json:"file"`
	Tenant    string                        `json:"tenant"`
	Job       string                        `json:"job"`
	Savepoint string                        `json:"savepoint"`
	Topology  string                        `json:"topology"`
	Weir      string                        `json:"weir"`
	Bytes     int64                         `json:"bytes"`
	Objects   int                           `json:"objects"`
	Positions map[string]processor.Position `json:"positions"`
}

func (f *storeFlags) printArchive(out io.Writer, path string, a *processor.Archive) error {
	m := a.Manifest
	line := archiveLine{File: path, Tenant: m.Tenant, Job: m.Job, Savepoint: m.Savepoint, Topology: m.TopologyName, Weir: a.Weir, Bytes: a.Bytes,
		Objects: a.Objects, Positions: map[string]processor.Position{}}
	seqs := map[string]uint64{}
	for _, s := range m.Sources {
		line.Positions[s.Name] = processor.Position{Stream: s.Stream, Sequence: s.Position}
		seqs[s.Stream] = s.Position
	}
	if f.json {
		return printJSON(out, line)
	}
	_, err := fmt.Fprintf(out, "%s: savepoint %s of %s/%s (topology %s, weir %s), cut at %s, %s in %d objects, every digest verified\n",
		path, m.Savepoint, m.Tenant, m.Job, m.TopologyName, a.Weir, positions(seqs), byteCount(a.Bytes), a.Objects)
	return err
}

func (app App) savepointShow() *cobra.Command {
	var f storeFlags
	cmd := &cobra.Command{
		Use:     "show file",
		Short:   "Verify an exported savepoint and say what is in it",
		Args:    cobra.ExactArgs(1),
		Long:    "Read the whole file, verify structure and digests, and say what it holds. It asks no server.",
		Example: fmt.Sprintf("  %[1]s savepoint show wordcount.savepoint", app.Name),
		RunE: func(cmd *cobra.Command, args []string) error {
			file, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer file.Close()
			a, err := processor.OpenArchive(file, f.progress(cmd, "verifying"))
			if err != nil {
				return refusedFile(args[0], err)
			}
			return f.printArchive(cmd.OutOrStdout(), args[0], a)
		},
	}
	cmd.Flags().BoolVar(&f.json, "json", false, "print one JSON object")
	cmd.Flags().BoolVar(&f.quiet, "quiet", false, "no progress bar")
	return cmd
}

// refusedFile is the answer no for a file that is no archive; a file that cannot be read is trouble.
func refusedFile(path string, err error) error {
	var archive *processor.ArchiveError
	if errors.As(err, &archive) {
		return &exitError{code: exitNo, err: fmt.Errorf("%s: %w", path, err)}
	}
	return err
}

func (app App) savepointImport() *cobra.Command {
	var f storeFlags
	var tenant, job, name string
	var streams map[string]string
	var at map[string]int64
	cmd := &cobra.Command{
		Use:   "import file",
		Short: "Store an exported savepoint on this server",
		Args:  cobra.ExactArgs(1),
		Long: `Verify the whole file, find out where each source goes on in the streams that are here, and store the savepoint; then
weir start … --savepoint runs the job from it. Where a stream is the same, a mirror or a restored copy, the position is kept; where it was
re-sourced, with other sequences, the last records that were read are looked for and the position is mapped (not that of rules: they say
nothing of the other keys of a KV bucket). Where neither can be proved the import is refused, unless --position says where the source goes
on. Nothing is written before all of that is known. An import that was interrupted goes on where it stopped when the same command is given
again.

It writes the buckets itself, so its user needs a worker's permissions (weir permissions worker).

Exit codes: 0 stored; 1 refused (the file is damaged, a position cannot be told, the name is taken); 2 trouble.`,
		Example: fmt.Sprintf(`  %[1]s savepoint import wordcount.savepoint --server nats://other:4222
  %[1]s savepoint import wordcount.savepoint --tenant globex --name from-acme
  %[1]s savepoint import wordcount.savepoint --stream lines=acme_mirror
  %[1]s savepoint import wordcount.savepoint --position lines=0`, app.Name),
		RunE: func(cmd *cobra.Command, args []string) error {
			positions := map[string]uint64{}
			for source, seq := range at {
				if seq < 0 {
					return fmt.Errorf("--position %s=%d: sequences are not negative", source, seq)
				}
				positions[source] = uint64(seq)
			}
			file, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer file.Close()
			archive, err := processor.OpenArchive(file, f.progress(cmd, "verifying"))
			if err != nil {
				return refusedFile(args[0], err)
			}
			broker, err := f.open(cmd, false)
			if err != nil {
				return err
			}
			defer broker.Close()
			report, err := processor.ImportSavepoint(cmd.Context(), broker, archive, processor.ImportSpec{
				Job: tenants.JobID{Tenant: tenants.ID(tenant), Name: job}, Name: name, Streams: streams, Positions: positions, Progress: f.progress(cmd, "importing"),
			})
			return f.printImport(cmd, report, err)
		},
	}
	f.register(cmd)
	fs := cmd.Flags()
	fs.StringVar(&tenant, "tenant", "", "tenant to store it for (default: as exported)")
	fs.StringVar(&job, "job", "", "job to store it for (default: as exported)")
	fs.StringVar(&name, "name", "", "name to store it under (default: as exported)")
	fs.StringToStringVar(&streams, "stream", nil, "source = stream, where it is not the one it was exported with")
	fs.StringToInt64Var(&at, "position", nil, "source = sequence: go on behind it, without proof; 0 for the beginning")
	return cmd
}

func (f *storeFlags) printImport(cmd *cobra.Command, r *processor.ImportReport, err error) error {
	out := cmd.OutOrStdout()
	if r != nil && f.json {
		if jerr := printJSON(out, r); jerr != nil {
			return jerr
		}
	} else if r != nil && len(r.Sources) > 0 {
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "SOURCE\tEXPORTED AT\tGOES ON AT\tHOW\tWHY")
		for _, s := range r.Sources {
			fmt.Fprintf(w, "%s\t%s %d\t%s %d\t%s\t%s\n", s.Source, s.From.Stream, s.From.Sequence, s.To.Stream, s.To.Sequence, s.How, s.Detail)
		}
		if ferr := w.Flush(); ferr != nil {
			return ferr
		}
	}
	var refused *processor.ImportRefusedError
	var archive *processor.ArchiveError
	var exists *barriers.SavepointExistsError
	switch {
	case errors.As(err, &refused), errors.As(err, &archive), errors.As(err, &exists):
		return &exitError{code: exitNo, err: err}
	case err != nil:
		return err
	}
	if f.json {
		return nil
	}
	s := r.Savepoint
	state := "stored"
	if r.Existed {
		state = "was there already"
	}
	_, err = fmt.Fprintf(out, "savepoint %s of %s/%s %s: %s in %d objects (%d were there)\nweir start %s/%s --savepoint %s --topology %s\n",
		s.Name, s.Tenant, s.Job, state, byteCount(s.Bytes), s.Objects, r.Skipped, s.Tenant, s.Job, s.Name, s.Topology)
	return err
}

func (app App) savepointCheck() *cobra.Command {
	var f storeFlags
	var jobs jobFlags
	var of string
	cmd := &cobra.Command{
		Use:   "check tenant/job name",
		Short: "Would this binary's topology start from a savepoint?",
		Args:  cobra.ExactArgs(2),
		Long: `Compare a savepoint with the topology of this binary and with the streams that are there, and list everything that would keep
the job from starting: operators and states that are gone or changed without an upcaster, parallelism, parameters, streams that were
recreated or trimmed. Nothing is touched.

It reads the buckets itself, so its user needs a worker's permissions (weir permissions worker).

Exit codes: 0 it would start; 1 it would not; 2 could not look.`,
		Example: fmt.Sprintf("  %[1]s savepoint check acme/wordcount before-upgrade\n  %[1]s savepoint check acme/wordcount before-upgrade --parallelism 4 --allow-dropped-state", app.Name),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := tenants.ParseJobID(args[0])
			if err != nil {
				return err
			}
			names := jobs.topologies
			if len(names) == 0 {
				names = []string{id.Name}
			}
			built, err := app.build(names)
			if err != nil {
				return fmt.Errorf("%w: say which topology with --topology", err)
			}
			cfg, err := jobs.config(built[0], id.Tenant)
			if err != nil {
				return err
			}
			cfg.Start = processor.StartPoint{From: processor.FromSavepoint, Savepoint: args[1], Job: of, Request: "check"}
			broker, err := f.open(cmd, true)
			if err != nil {
				return err
			}
			defer broker.Close()
			return f.printProblems(cmd.OutOrStdout(), args[1], built[0], processor.CheckStart(cmd.Context(), broker, built[0], id, cfg))
		},
	}
	f.register(cmd)
	jobs.register(cmd)
	cmd.Flags().StringVar(&of, "of", "", "whose savepoint: another job of the tenant")
	cmd.Flags().Lookup("topology").Usage = "the job's topology (default: the one of the job's name)"
	return cmd
}

func (f *storeFlags) printProblems(out io.Writer, name string, t *processor.Topology, problems []error) error {
	texts := make([]string, len(problems))
	for i, p := range problems {
		texts[i] = p.Error()
	}
	if f.json {
		if err := printJSON(out, map[string]any{"savepoint": name, "topology": t.Name(), "starts": len(problems) == 0, "problems": texts}); err != nil {
			return err
		}
	} else if len(problems) == 0 {
		fmt.Fprintf(out, "topology %s would start from savepoint %s\n", t.Name(), name)
	}
	if len(problems) == 0 {
		return nil
	}
	if !f.json {
		for _, p := range texts {
			fmt.Fprintln(out, "-", p)
		}
	}
	return &exitError{code: exitNo, err: fmt.Errorf("topology %s would not start from savepoint %s: %d problems", t.Name(), name, len(problems))}
}
