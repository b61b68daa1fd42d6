package weircli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/weirstream/weir/jetstream/control"
	"github.com/weirstream/weir/processor"
)

func (app App) watchCommand() *cobra.Command {
	var f controlFlags
	var every time.Duration
	cmd := f.command(&cobra.Command{
		Use:   "watch [tenant]",
		Short: "Watch jobs live",
		Args:  cobra.MaximumNArgs(1),
		Long: `In a terminal: the jobs and the latest events, redrawn as they change. Elsewhere, and with --json: one line per event. An
interrupt ends it.

With the nats CLI: nats sub 'weir.evt.acme.>'`,
		Example:           fmt.Sprintf("  %[1]s watch\n  %[1]s watch acme --every 500ms\n  %[1]s watch acme --json", app.Name),
		ValidArgsFunction: f.completeJobs(false),
	}, func(cmd *cobra.Command, c *client, args []string) error {
		t, err := optionalTenant(args)
		if err != nil {
			return err
		}
		if every < 100*time.Millisecond {
			return fmt.Errorf("--every is %s: use at least 100ms", every)
		}
		w := &watch{c: c, of: t, out: cmd.OutOrStdout(), json: f.json, every: every}
		return w.run(cmd.Context(), !f.json && isTerminal(cmd.OutOrStdout()))
	})
	f.register(cmd)
	cmd.Flags().DurationVar(&every, "every", time.Second, "how often the jobs are asked for")
	return cmd
}

func isTerminal(out io.Writer) bool {
	file, ok := out.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// watchedEvents is how many events the live view shows.
const watchedEvents = 12

// watch shows jobs and events until it is interrupted.
type watch struct {
	c     *client
	of    target
	out   io.Writer
	json  bool
	every time.Duration

	recent []string
	jobs   []processor.JobReport
	asked  error // why jobs are not current
}

func (w *watch) run(ctx context.Context, live bool) error {
	events := make(chan *nats.Msg, 1024)
	tenant := cmp.Or(strings.Trim(w.of.tenant, anyName), "*")
	sub, err := w.c.nc.ChanSubscribe("weir.evt."+tenant+".>", events)
	if err != nil {
		return fmt.Errorf("listening to events: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := w.c.nc.FlushTimeout(w.c.timeout); err != nil {
		return fmt.Errorf("listening to events: %w", err)
	}
	if !live {
		return w.lines(ctx, events)
	}
	ticker := time.NewTicker(w.every)
	defer ticker.Stop()
	for {
		w.refresh(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err := w.draw(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case m := <-events:
			w.note(m)
			w.drain(events)
			if !w.pause(ctx) {
				return nil
			}
		case <-ticker.C:
		}
	}
}

// pause keeps many events from redrawing too often.
func (w *watch) pause(ctx context.Context) bool {
	timer := time.NewTimer(100 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (w *watch) drain(events <-chan *nats.Msg) {
	for {
		select {
		case m := <-events:
			w.note(m)
		default:
			return
		}
	}
}

// lines prints events as they come.
func (w *watch) lines(ctx context.Context, events <-chan *nats.Msg) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-events:
			line := string(m.Data)
			if !w.json {
				line = eventLine(m)
			}
			if _, err := fmt.Fprintln(w.out, line); err != nil {
				return fmt.Errorf("printing events: %w", err)
			}
		}
	}
}

func (w *watch) note(m *nats.Msg) {
	w.recent = append(w.recent, eventLine(m))
	if extra := len(w.recent) - watchedEvents; extra > 0 {
		w.recent = w.recent[extra:]
	}
}

// eventLine prints an event's fields in the order they came in, which is the publisher's.
func eventLine(m *nats.Msg) string {
	tokens := strings.SplitN(m.Subject, ".", 5)
	if len(tokens) < 5 {
		return m.Subject
	}
	dec := json.NewDecoder(bytes.NewReader(m.Data))
	dec.UseNumber()
	var fields map[string]any
	if err := dec.Decode(&fields); err != nil {
		return fmt.Sprintf("%s/%s %s", tokens[2], tokens[3], tokens[4])
	}
	at := ""
	if s, ok := fields["at"].(string); ok {
		if when, err := time.Parse(time.RFC3339Nano, s); err == nil {
			at = when.Local().Format("15:04:05.000 ")
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s%s/%s %s", at, tokens[2], tokens[3], tokens[4])
	for _, name := range []string{"state", "checkpoint", "epoch", "name", "messages", "error", "reason", "message"} {
		if v, ok := fields[name]; ok && v != "" {
			fmt.Fprintf(&b, " %s=%v", name, v)
		}
	}
	return b.String()
}

func (w *watch) refresh(ctx context.Context) {
	var page control.JobPage
	if _, err := w.c.read(ctx, w.of, "jobs", control.PageRequest{Limit: 1000}, &page); err != nil {
		w.asked = err
		return
	}
	w.jobs, w.asked = page.Jobs, nil
}

// watchedJobs is how many jobs the live view shows.
const watchedJobs = 30

func (w *watch) draw() error {
	var b bytes.Buffer
	b.WriteString("\x1b[H\x1b[2J") // home, clear
	running := 0
	for _, j := range w.jobs {
		if j.State == processor.JobRunning {
			running++
		}
	}
	fmt.Fprintf(&b, "%s  %s: %d jobs, %d running\n\n", time.Now().Format(time.TimeOnly), w.of, len(w.jobs), running)
	if w.asked != nil {
		fmt.Fprintf(&b, "not current: %v\n\n", w.asked)
	}
	shown := w.jobs[:min(len(w.jobs), watchedJobs)]
	if err := printJobs(&b, shown); err != nil {
		return err
	}
	if more := len(w.jobs) - len(shown); more > 0 {
		fmt.Fprintf(&b, "and %d more: name a tenant\n", more)
	}
	tw := tabwriter.NewWriter(&b, 0, 0, 1, ' ', 0)
	fmt.Fprintln(tw, "\nEVENTS")
	for _, line := range w.recent {
		fmt.Fprintln(tw, line)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := w.out.Write(b.Bytes())
	return err
}
