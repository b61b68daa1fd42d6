package weircli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/weirstream/weir/cmd/weircli/bench"
)

func (app App) benchNexmark() *cobra.Command {
	var f benchFlags
	var queries []string
	cmd := &cobra.Command{
		Use:   "nexmark",
		Short: "The queries of the Nexmark benchmark, from JetStream and from memory",
		Args:  cobra.NoArgs,
		Long: `The queries of examples/nexmark over one history of events, each as a job with a checkpoint every second and exactly-once
output: once reading from JetStream and publishing to it, once fed from memory with its output taken and counted, which shows the
broker's share. Both must have the same results. Rates are events per second, of all events; ratios are to q0, which passes bids
through. q12 counts in windows of processing time: they are short here, as a clock that runs with the events would make them.`,
		Example: fmt.Sprintf("  %[1]s bench nexmark\n  %[1]s bench nexmark --query q5,q7 --events 200000 --pairs 1 --json", app.Name),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.prepare(cmd)
			r, err := bench.Nexmark(cmd.Context(), f.cfg, queries)
			return f.answer(cmd.OutOrStdout(), map[string]any{"bench": "nexmark", "queries": r}, err, func(w io.Writer) { printNexmark(w, f.cfg.Pairs, r) })
		},
	}
	fs := cmd.Flags()
	fs.StringSliceVar(&queries, "query", nil, "queries, by name; none: all. q0 is always among them")
	fs.IntVar(&f.cfg.Events, "events", 1_000_000, "events in the stream")
	fs.IntVar(&f.cfg.Pairs, "pairs", 3, "runs of each query, from JetStream and from memory")
	f.cfg.Keys = 1 // the events have their own
	f.registerCommon(cmd)
	return cmd
}

func printNexmark(w io.Writer, pairs int, rs []bench.NexmarkResult) {
	if len(rs) > 0 {
		fmt.Fprintf(w, "nexmark: %d events, median of %d runs\n", rs[0].Events, pairs)
	}
	fmt.Fprintln(w, "query\tevents/s\tratio to q0\tcore s/M events\tfrom memory: events/s\tratio to q0\tcore s/M events\tbroker's share\tresults\t")
	for _, r := range rs {
		fmt.Fprintf(w, "%s\t%.0f\t%.2f\t%.2f\t%.0f\t%.2f\t%.2f\t%.0f %%\t%d\t%s\n",
			r.Query, r.PerS, r.Ratio, r.CoreS, r.MemoryPerS, r.MemoryRatio, r.MemoryCoreS, 100*r.BrokerShare, r.Results, r.Title)
	}
}
