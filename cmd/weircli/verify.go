package weircli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/weirstream/weir/cmd/weircli/verdict"
	"github.com/weirstream/weir/tenants"
)

// CountCheck says where a running count has its input and output, so that verify can recompute and compare it.
type CountCheck struct {
	// Name is the argument of verify.
	Name string
	// Input and Output are subjects relative to the tenant. The output is JSON with the fields word and count.
	Input, Output string
	// Bucket is the KV bucket that holds the current counts as numbers. Empty: there is none.
	Bucket string
	// Split returns what is counted in one input message.
	Split func(string) []string
}

type verifyFlags struct {
	conn   connFlags
	tenant tenantFlags
	wait   time.Duration
	json   bool
	list   int
}

func (app App) verifyCommand() *cobra.Command {
	var f verifyFlags
	names := make([]string, len(app.Counts))
	for i, c := range app.Counts {
		names[i] = c.Name
	}
	cmd := &cobra.Command{
		Use:       "verify " + strings.Join(names, "|"),
		Short:     "Recompute a running count from its input and compare it with the output",
		ValidArgs: names,
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		Long: `Read the whole input and output of every tenant, recompute the counts and say "exact", or what is lost (prefix, middle,
tail), duplicated, reordered, leaked from another tenant, unexpected, or wrong in the KV bucket.

It may run while the jobs run: everything that was in the input when verify began must come out, and nothing may come out
that was not in the input when it ended.

Exit codes: 0 exact; 1 not exact; 2 cannot judge (retention has removed input, no server).`,
		Example: fmt.Sprintf("  %[1]s verify %[2]s\n  %[1]s verify %[2]s --url nats://nats:4222 --tenants acme --wait 2m --json", app.Name, names[0]),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, c := range app.Counts {
				if c.Name == args[0] {
					return f.run(cmd.Context(), c, cmd.OutOrStdout())
				}
			}
			return fmt.Errorf("there is no check %q", args[0])
		},
	}
	f.conn.register(cmd, false)
	f.tenant.register(cmd, "acme", "globex")
	cmd.Flags().DurationVar(&f.wait, "wait", 30*time.Second, "how long the output may stand still before what is missing counts as lost")
	cmd.Flags().IntVar(&f.list, "list", 10, "deviations to list for each tenant")
	cmd.Flags().BoolVar(&f.json, "json", false, "print the reports as a JSON list")
	return cmd
}

func (f *verifyFlags) run(ctx context.Context, check CountCheck, out io.Writer) error {
	ids, ns, err := f.tenant.parse()
	if err != nil {
		return err
	}
	nc, err := f.conn.connect("weir verify")
	if err != nil {
		return err
	}
	defer nc.Close()
	v := &verification{check: check, ns: ns, nc: nc, wait: f.wait}
	reports, err := v.run(ctx, ids)
	if err != nil {
		return err
	}
	if f.json {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		err = e.Encode(reports)
	} else {
		err = printReports(out, reports, f.list)
	}
	if err != nil {
		return err
	}
	code := exitOK
	for _, r := range reports {
		switch {
		case r.Inconclusive != "":
			code = exitTrouble
		case !r.Exact:
			return &exitError{code: exitNo}
		}
	}
	if code != exitOK {
		return &exitError{code: code}
	}
	return nil
}

func printReports(out io.Writer, reports []verdict.Report, list int) error {
	for _, r := range reports {
		if _, err := fmt.Fprintf(out, "%-12s %s\n", r.Tenant, r.Summary()); err != nil {
			return err
		}
		for i, finding := range r.Findings {
			if i == list {
				fmt.Fprintf(out, "    … and %d more (--list, --json)\n", len(r.Findings)-list)
				break
			}
			fmt.Fprintf(out, "    %-13s %q: %s\n", finding.Kind, tenants.Printable(finding.Key), finding.Detail)
		}
	}
	return nil
}

// verification makes one consistent cut over all tenants: first all inputs, then outputs and bucket, then all inputs again.
type verification struct {
	check CountCheck
	ns    tenants.Namespace
	nc    *nats.Conn
	wait  time.Duration
}

// subjectOf is one tenant's part.
type tenantCut struct {
	id      tenants.ID
	in, out *tail
	input   map[string]uint64 // counts so far
	cut     verdict.Input
	count   *verdict.Count
}

func (v *verification) run(ctx context.Context, ids []tenants.ID) ([]verdict.Report, error) {
	var cuts []*tenantCut
	for _, id := range ids {
		c, err := v.open(ctx, id)
		if err != nil {
			return nil, fmt.Errorf("tenant %s: %w", id, err)
		}
		defer c.in.close()
		defer c.out.close()
		cuts = append(cuts, c)
	}
	each := func(step func(*tenantCut) error) error {
		for _, c := range cuts {
			if err := step(c); err != nil {
				return fmt.Errorf("tenant %s: %w", c.id, err)
			}
		}
		return nil
	}
	err := each(func(c *tenantCut) error {
		if err := c.in.readAll(ctx); err != nil {
			return err
		}
		c.cut.AtLeast = clone(c.input)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := each(func(c *tenantCut) error { return v.readOutput(ctx, c) }); err != nil {
		return nil, err
	}
	err = each(func(c *tenantCut) error {
		if err := c.in.readAll(ctx); err != nil {
			return err
		}
		c.cut.AtMost = c.input
		return nil
	})
	if err != nil {
		return nil, err
	}
	reports := make([]verdict.Report, len(cuts))
	for i, c := range cuts {
		c.cut.Foreign = func(key string) bool {
			for _, other := range cuts {
				if other != c && other.input[key] > 0 {
					return true
				}
			}
			return false
		}
		r := c.count.Judge(string(c.id), c.cut)
		if first := max(c.in.first, c.out.first); first > 1 && r.ExplainedByRemoval(c.cut) {
			r.Inconclusive = fmt.Sprintf("messages before sequence %d of stream %s were removed (retention or purge), and what is left does not add up: %s", first, c.in.stream, r.Summary())
		}
		reports[i] = r
	}
	return reports, nil
}

func (v *verification) open(ctx context.Context, id tenants.ID) (*tenantCut, error) {
	c := &tenantCut{id: id, input: make(map[string]uint64), count: verdict.NewCount()}
	var err error
	c.in, err = openTail(ctx, v.nc, v.ns.Absolute(id, v.check.Input), func(m jetstream.Msg) error {
		for _, w := range v.check.Split(string(m.Data())) {
			c.input[w]++
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	c.out, err = openTail(ctx, v.nc, v.ns.Absolute(id, v.check.Output), func(m jetstream.Msg) error {
		var o struct {
			Word  *string `json:"word"`
			Count uint64  `json:"count"`
		}
		if err := json.Unmarshal(m.Data(), &o); err != nil || o.Word == nil {
			return fmt.Errorf("output %q is not {\"word\":…,\"count\":…}", tenants.Printable(string(m.Data())))
		}
		c.count.Add(*o.Word, o.Count)
		return nil
	})
	if err != nil {
		c.in.close()
		return nil, err
	}
	return c, nil
}

// readOutput reads until output and bucket hold what the input held, or stand still for too long.
func (v *verification) readOutput(ctx context.Context, c *tenantCut) error {
	deadline := time.Now().Add(v.wait)
	for {
		before := c.out.read
		if err := c.out.readAll(ctx); err != nil {
			return err
		}
		if c.out.read > before {
			deadline = time.Now().Add(v.wait)
		}
		done := c.count.Covers(c.cut.AtLeast)
		if done && v.check.Bucket != "" {
			state, err := v.readBucket(ctx, c.id)
			if err != nil {
				return err
			}
			c.cut.State = state
			for key, n := range c.cut.AtLeast {
				done = done && state[key] >= n
			}
		}
		if done || time.Now().After(deadline) {
			if !done && v.check.Bucket != "" && c.cut.State == nil {
				state, err := v.readBucket(ctx, c.id)
				c.cut.State = state
				return err
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(quiet / 2):
		}
	}
}

// readBucket returns the counts that the bucket holds for a tenant.
func (v *verification) readBucket(ctx context.Context, id tenants.ID) (map[string]uint64, error) {
	js, err := jetstream.New(v.nc)
	if err != nil {
		return nil, err
	}
	kv, err := js.KeyValue(ctx, v.check.Bucket)
	if err != nil {
		return nil, fmt.Errorf("opening KV bucket %s: %w", v.check.Bucket, err)
	}
	w, err := kv.Watch(ctx, string(id)+".>", jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("reading KV bucket %s: %w", v.check.Bucket, err)
	}
	defer func() { err = errors.Join(err, w.Stop()) }()
	state := make(map[string]uint64)
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case e := <-w.Updates():
			if e == nil {
				return state, nil
			}
			key, err := tenants.UnescapeToken(strings.TrimPrefix(e.Key(), string(id)+"."))
			if err != nil {
				return nil, fmt.Errorf("reading KV bucket %s: key %s: %w", v.check.Bucket, e.Key(), err)
			}
			n, err := strconv.ParseUint(string(e.Value()), 10, 64)
			if err != nil {
				return nil, fmt.Errorf("reading KV bucket %s: the value of %s is not a count: %w", v.check.Bucket, e.Key(), err)
			}
			state[key] = n
		}
	}
}

func clone(m map[string]uint64) map[string]uint64 {
	c := make(map[string]uint64, len(m))
	for k, n := range m {
		c[k] = n
	}
	return c
}
