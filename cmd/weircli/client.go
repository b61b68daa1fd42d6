package weircli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/spf13/cobra"

	"github.com/weirstream/weir/jetstream/control"
	"github.com/weirstream/weir/tenants"
)

// controlFlags are those of every command that asks the control service.
type controlFlags struct {
	conn connFlags
	json bool
	wait time.Duration
}

func (f *controlFlags) register(cmd *cobra.Command) {
	f.conn.register(cmd, false)
	cmd.Flags().BoolVar(&f.json, "json", false, "print the service's answer as it is")
}

// registerWork is register for requests that take time.
func (f *controlFlags) registerWork(cmd *cobra.Command) {
	f.register(cmd)
	cmd.Flags().DurationVar(&f.wait, "wait", 15*time.Minute, "how long to wait for the work to be done; it goes on when nobody waits")
}

// client asks the control service.
type client struct {
	nc      *nats.Conn
	timeout time.Duration
	work    time.Duration // of requests that take time
	status  io.Writer     // hears of long waits; nil: silent
}

func (f *controlFlags) open(cmd *cobra.Command) (*client, error) {
	nc, err := f.conn.connect("weir " + cmd.Name())
	if err != nil {
		return nil, err
	}
	return &client{nc: nc, timeout: f.conn.timeout, work: f.wait, status: cmd.ErrOrStderr()}, nil
}

func (c *client) close() { c.nc.Close() }

// refusal is the service's answer that it will not or could not.
type refusal struct {
	control.Problem
	code string
}

func (r *refusal) Error() string { return r.Message }

// anyName stands for the job of a tenant's request, and for the tenant of a global one.
const anyName = "_"

// ask sends one request and decodes the answer into into. Without a worker that answers, or with a refusal, it is an error.
func (c *client) ask(ctx context.Context, subject string, request, into any, timeout time.Duration) (json.RawMessage, error) {
	body := []byte("{}")
	if request != nil {
		var err error
		if body, err = json.Marshal(request); err != nil {
			return nil, fmt.Errorf("encoding the request: %w", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	answer, err := c.nc.RequestWithContext(ctx, subject, body)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return nil, fmt.Errorf("asking %s: no worker answers: does one run against this server, and may this user publish to weir.v1.>?", subject)
	case errors.Is(err, context.DeadlineExceeded):
		return nil, fmt.Errorf("asking %s: no answer within %s: the request may be carried out all the same, ask for the status", subject, timeout)
	case errors.Is(err, nats.ErrPermissionViolation):
		return nil, fmt.Errorf("asking %s: this user may not: %w", subject, err)
	case err != nil:
		return nil, fmt.Errorf("asking %s: %w", subject, err)
	}
	if code := answer.Header.Get(micro.ErrorCodeHeader); code != "" {
		r := &refusal{code: code}
		if err := json.Unmarshal(answer.Data, &r.Problem); err != nil || r.Message == "" {
			r.Message = answer.Header.Get(micro.ErrorHeader)
		}
		return answer.Data, &exitError{code: exitNo, err: r}
	}
	if into != nil {
		if err := json.Unmarshal(answer.Data, into); err != nil {
			return nil, fmt.Errorf("reading the answer of %s: %w: is the worker of another version?", subject, err)
		}
	}
	return answer.Data, nil
}

// read asks what is answered at once.
func (c *client) read(ctx context.Context, t target, verb string, request, into any) (json.RawMessage, error) {
	return c.ask(ctx, t.subject(verb), request, into, c.timeout)
}

// do asks for work and says on the way that it is waiting.
func (c *client) do(ctx context.Context, t target, verb string, request, into any) (json.RawMessage, error) {
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.tell(waiting, verb, t)
	}()
	raw, err := c.ask(ctx, t.subject(verb), request, into, c.work)
	stop()
	<-done
	return raw, err
}

// tell prints a line when an answer takes its time, and another now and then.
func (c *client) tell(ctx context.Context, verb string, t target) {
	if c.status == nil {
		return
	}
	started := time.Now()
	for pause := 2 * time.Second; ; pause = min(2*pause, 30*time.Second) {
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
			fmt.Fprintf(c.status, "%s of %s is under way, %s so far\n", verb, t, time.Since(started).Round(time.Second))
		}
	}
}

// target is a job, a tenant or everything.
type target struct{ tenant, job string }

func (t target) subject(verb string) string {
	return "weir.v1." + t.tenant + "." + t.job + "." + verb
}

func (t target) String() string {
	switch {
	case t.tenant == anyName:
		return "all tenants"
	case t.job == anyName:
		return "tenant " + t.tenant
	}
	return t.tenant + "/" + t.job
}

var everything = target{anyName, anyName}

// parseJob reads tenant/job.
func parseJob(s string) (target, error) {
	id, err := tenants.ParseJobID(s)
	if err != nil {
		return target{}, fmt.Errorf("%w: name a job as tenant/job, for example acme/wordcount", err)
	}
	return target{string(id.Tenant), id.Name}, nil
}

// parseTenantOrJob reads tenant or tenant/job.
func parseTenantOrJob(s string) (target, error) {
	if strings.Contains(s, "/") {
		return parseJob(s)
	}
	id, err := tenants.ParseID(s)
	if err != nil {
		return target{}, fmt.Errorf("%w: name a tenant, or a job as tenant/job", err)
	}
	return target{string(id), anyName}, nil
}

// optionalTenant reads the tenant of commands that may leave it out.
func optionalTenant(args []string) (target, error) {
	if len(args) == 0 {
		return everything, nil
	}
	t, err := parseTenantOrJob(args[0])
	if err == nil && t.job != anyName {
		err = fmt.Errorf("%s is a job: name a tenant, or nothing for all", args[0])
	}
	return t, err
}

// pages reads a list to its end. get asks for what lies behind after and returns where the next page begins.
func pages(get func(after string) (next string, err error)) error {
	for after := ""; ; {
		next, err := get(after)
		if err != nil || next == "" {
			return err
		}
		after = next
	}
}

// printJSON writes one object, indented.
func printJSON(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// command is a cobra command that asks the service: run gets the client and prints.
func (f *controlFlags) command(cmd *cobra.Command, run func(cmd *cobra.Command, c *client, args []string) error) *cobra.Command {
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := f.open(cmd)
		if err != nil {
			return err
		}
		defer c.close()
		return run(cmd, c, args)
	}
	return cmd
}
