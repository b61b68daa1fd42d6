package weircli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirstream/weir/cmd/weircli/bench"
)

type benchFlags struct {
	cfg     bench.Config
	json    bool
	quiet   bool
	changed []int
	latency bench.LatencyConfig
}

func (app App) benchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure Weir against a loop written by hand, on one embedded server",
		Long: `Measure Weir and a baseline in one run, on the same embedded server in a temporary folder, in interleaved pairs. Results are
medians with the spread. Every result is checked: a wrong one fails the benchmark (exit code 1).

Weir's time is from Runtime.Run, taking the job over included, to the commit of a checkpoint that holds every event and, with
output, the release of all of it. A baseline's time is from making its consumer to its last event or acknowledgement.`,
		Example: fmt.Sprintf("  %[1]s bench count\n  %[1]s bench pipe --events 200000 --pairs 3 --json\n  %[1]s bench count --decoder scan --cpuprofile cpu.out", app.Name),
	}
	cmd.AddCommand(app.benchCount(), app.benchPipe(), app.benchCheckpoint(), app.benchLatency(), app.benchNexmark())
	return cmd
}

func (f *benchFlags) register(cmd *cobra.Command, events, keys, pairs int) {
	fs := cmd.Flags()
	fs.IntVar(&f.cfg.Events, "events", events, "events in the stream")
	fs.IntVar(&f.cfg.Keys, "keys", keys, "distinct keys")
	fs.IntVar(&f.cfg.Pairs, "pairs", pairs, "pairs of baseline and Weir")
	f.registerCommon(cmd)
}

// registerCommon adds what every benchmark with checkpoints has.
func (f *benchFlags) registerCommon(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.DurationVar(&f.cfg.Interval, "checkpoint-interval", time.Second, "time between Weir's checkpoints")
	fs.StringVar(&f.cfg.Profile, "cpuprofile", "", "write a CPU profile of Weir's side of the last pair")
	f.registerOutput(cmd)
	f.cfg.Decoder = "json"
}

func (f *benchFlags) registerOutput(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.json, "json", false, "print one JSON object instead of a table")
	cmd.Flags().BoolVar(&f.quiet, "quiet", false, "say nothing while it runs")
}

func (f *benchFlags) decoder(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.cfg.Decoder, "decoder", "json", "json: encoding/json on both sides; scan: a hand-written decoder on both sides")
}

// prepare completes the configuration with where progress goes.
func (f *benchFlags) prepare(cmd *cobra.Command) {
	f.cfg.Log = newLogger(cmd.ErrOrStderr(), false)
	if !f.quiet {
		f.cfg.Progress = func(format string, args ...any) { fmt.Fprintf(cmd.ErrOrStderr(), format+"\n", args...) }
	}
}

// answer prints a result, or turns a wrong one into the exit code that says so.
func (f *benchFlags) answer(out io.Writer, result any, err error, table func(io.Writer)) error {
	var wrong *bench.WrongError
	if errors.As(err, &wrong) {
		return &exitError{code: exitNo, err: err}
	}
	if err != nil {
		return err
	}
	if f.json {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(result)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	table(w)
	return w.Flush()
}

func (app App) benchCount() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "count",
		Short: "A running count per key, without output",
		Args:  cobra.NoArgs,
		Long: `Events of 128 bytes of JSON, a running count per key, a checkpoint every second, no output.

Baseline: nats.go's ordered consumer with its best settings (PullMaxMessages 50000), the same decoding, a Go map, and no fault
tolerance whatsoever.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.prepare(cmd)
			r, err := bench.Count(cmd.Context(), f.cfg)
			return f.answer(cmd.OutOrStdout(), r, err, func(w io.Writer) { printResult(w, r) })
		},
	}
	f.register(cmd, 1_000_000, 10_000, 5)
	f.decoder(cmd)
	return cmd
}

func (app App) benchPipe() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "pipe",
		Short: "One exactly-once output per event",
		Args:  cobra.NoArgs,
		Long: `The job of count, with one exactly-once result per event in another stream.

Baselines, both without any recovery: consume + PublishAsync (ratio), and consume + atomic batches of 1000 (ratio_batch).`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.prepare(cmd)
			r, err := bench.Pipe(cmd.Context(), f.cfg)
			return f.answer(cmd.OutOrStdout(), r, err, func(w io.Writer) { printResult(w, r) })
		},
	}
	f.register(cmd, 1_000_000, 10_000, 5)
	f.decoder(cmd)
	return cmd
}

func printResult(w io.Writer, r bench.Result) {
	fmt.Fprintf(w, "%s: %d events, %d keys, decoder %s, median of %d pairs (lowest to highest)\n", r.Bench, r.Events, r.Keys, r.Decoder, r.Pairs)
	fmt.Fprintln(w, "\tevents/s\tspread\tratio of weir\tspread\tCPU µs/event\tallocations/event")
	base := "by hand"
	if r.BatchRates != nil {
		base = "by hand, PublishAsync"
	}
	fmt.Fprintf(w, "%s\t%.0f\t%.0f–%.0f\t%.2f\t%.2f–%.2f\t%.1f\t%.1f\n", base, r.BaselinePerS, r.BaselineRates.Min, r.BaselineRates.Max, r.Ratio, r.RatioMin, r.RatioMax, r.BaselineCPUMicros, r.BaselineAllocsPerEvent)
	if r.BatchRates != nil {
		fmt.Fprintf(w, "by hand, atomic batches\t%.0f\t%.0f–%.0f\t%.2f\t%.2f–%.2f\t\t\n", r.BatchPerS, r.BatchRates.Min, r.BatchRates.Max, r.RatioBatch, r.RatioBatchMin, r.RatioBatchMax)
	}
	fmt.Fprintf(w, "weir, %d checkpoints\t%.0f\t%.0f–%.0f\t\t\t%.1f\t%.1f\n", r.Checkpoints, r.WeirPerS, r.WeirRates.Min, r.WeirRates.Max, r.CPUMicros, r.AllocsPerEvent)
}

func (app App) benchCheckpoint() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "checkpoint",
		Short: "What checkpoints of a large state cost",
		Args:  cobra.NoArgs,
		Long: `A job holds --keys keys. Events that touch 200 keys each, all within a share of the keys, are read as fast as they can be: with a
checkpoint every second, and without any. Per share: how long a task stands still at the barrier, how long a checkpoint takes,
bytes uploaded, throughput against no checkpoints, restore against raw object gets, messages to the broker per checkpoint.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.prepare(cmd)
			r, err := bench.Checkpoint(cmd.Context(), f.cfg, f.changed)
			return f.answer(cmd.OutOrStdout(), map[string]any{"bench": "checkpoint", "shares": r}, err, func(w io.Writer) { printCheckpoint(w, r) })
		},
	}
	f.register(cmd, 400_000, 1_000_000, 3)
	cmd.Flags().DurationVar(&f.cfg.For, "for", 6*time.Second, "how long each run is measured, at most")
	cmd.Flags().IntSliceVar(&f.changed, "changed", []int{1, 10, 100}, "shares of the keys that change, in percent")
	return cmd
}

func printCheckpoint(w io.Writer, rs []bench.CheckpointResult) {
	if len(rs) > 0 {
		fmt.Fprintf(w, "checkpoint: %d keys held, median of %d pairs\n", rs[0].Keys, rs[0].Pairs)
	}
	fmt.Fprintln(w, "changed\tstandstill p50/p99 ms\tcheckpoint p50 ms\tuploaded\tbroker messages\tupdates/s without\twith\tratio (spread)\trestore MB/s (keys/s)\traw get MB/s")
	for _, r := range rs {
		fmt.Fprintf(w, "%s\t%.3f / %.3f\t%.0f\t%s\t%.0f\t%.0f\t%.0f\t%.2f (%.2f–%.2f)\t%.0f (%.1f M)\t%.0f\n", r.Changed, r.StandstillP50, r.StandstillP99, r.DurationP50,
			byteCount(int64(r.BytesUploaded)), r.Operations, r.WithoutPerS, r.WithPerS, r.Ratio, r.RatioMin, r.RatioMax, r.RestoreMBPerS, r.RestoreKeys/1e6, r.RawGetMBPerS)
	}
}

func (app App) benchLatency() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "latency",
		Short: "From publishing an event to its visible exactly-once result",
		Args:  cobra.NoArgs,
		Long: `Publish --rate events a second and take the time from each publish to the moment a consumer of the output stream is given its
exactly-once result. One replica is the embedded server; three are three servers in child processes.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.prepare(cmd)
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("finding this binary: %w", err)
			}
			f.latency.Self = []string{self}
			r, err := bench.Latency(cmd.Context(), f.cfg, f.latency)
			return f.answer(cmd.OutOrStdout(), map[string]any{"bench": "latency", "results": r}, err, func(w io.Writer) { printLatency(w, r) })
		},
	}
	f.registerOutput(cmd)
	fs := cmd.Flags()
	fs.IntVar(&f.latency.Rate, "rate", 1000, "events a second")
	fs.IntVar(&f.latency.Keys, "keys", 10_000, "distinct keys")
	fs.IntSliceVar(&f.latency.Replicas, "replicas", []int{1, 3}, "1, 3 or both")
	fs.DurationVar(&f.latency.For, "for", 15*time.Second, "how long to publish for each measurement; at least three intervals")
	fs.DurationSliceVar(&f.latency.Intervals, "checkpoint-interval", []time.Duration{100 * time.Millisecond, time.Second, 10 * time.Second}, "times between checkpoints")
	return cmd
}

func printLatency(w io.Writer, rs []bench.LatencyResult) {
	fmt.Fprintln(w, "replicas\tcheckpoint every\tevents/s\tp50 ms\tp99 ms\tmax ms")
	for _, r := range rs {
		fmt.Fprintf(w, "%d\t%s\t%d\t%.0f\t%.0f\t%.0f\n", r.Replicas, r.Interval, r.Rate, r.P50, r.P99, r.Max)
	}
}
