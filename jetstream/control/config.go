package control

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// Config of a Service.
type Config struct {
	// Conn carries requests, answers and events. The service does not close it. Required.
	Conn *nats.Conn
	// Control carries requests out; *processor.Runtime is one. Required.
	Control processor.Control
	// Worker and Process say who this is: Runtime.Worker and Runtime.Process. Required.
	Worker, Process string
	// InboxPrefixes are what a reply subject may begin with, beside the connection's own inboxes; "_INBOX." by default. Each ends in
	// a dot. Add "_R_." to answer requests that come from other accounts through service imports.
	InboxPrefixes []string
	// Events, if set, tells the outcome of requests that nobody waits for.
	Events *Events
	// Limits on requests; zero fields have defaults.
	Limits Limits
	// Logger; nil discards.
	Logger *slog.Logger
}

// Limits of a Service. The zero value of a field is its default.
type Limits struct {
	// Rate is how many requests a second one tenant may make of one worker, and Burst how many at once; 100 and 200. One that
	// changes something counts for five. More is refused. Requests for tenants that nobody knows share one such allowance.
	Rate  float64
	Burst int
	// Reads and Works bound the requests under way of one worker: what only looks, and what changes something; 64 and 32. One
	// tenant may have a quarter of either.
	Reads, Works int
	// Forwarded bounds the requests that other workers hand over; 512.
	Forwarded int
	// ReadTimeout and WorkTimeout end requests; 30 s and 15 min. What they asked for may go on.
	ReadTimeout, WorkTimeout time.Duration
	// Silence is how long an owner may say nothing of a request that it was handed; 10 s.
	Silence time.Duration
	// HoldTimeout is how long jobs may stand still for a tenant-wide savepoint before any of it is cut; 30 s, at most 60 s.
	HoldTimeout time.Duration
}

const (
	// MaxPayload is the largest request, in bytes.
	MaxPayload = 64 << 10
	// maxDepth is how deeply a request may nest.
	maxDepth = 16

	prefix         = "weir.v1."
	internalPrefix = "weir.worker."
	eventPrefix    = "weir.evt."
	// none stands in a subject for the job of a tenant's verb and for the tenant of a global one. It is no valid name.
	none = "_"
)

// Validate reports everything that is wrong.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Conn == nil {
		bad("Conn is nil: give the service a connection (jetstream.Broker.Conn with jetstream.Service)")
	}
	if c.Control == nil {
		bad("Control is nil: give it a *processor.Runtime")
	}
	if c.Worker == "" {
		bad("Worker is empty: use Runtime.Worker")
	}
	if err := tenants.ValidateSubject(c.Process); err != nil || strings.Contains(c.Process, ".") {
		bad("Process is %q: it must be one subject token: use Runtime.Process", tenants.Printable(c.Process))
	}
	for _, p := range c.InboxPrefixes {
		if err := tenants.ValidateSubject(strings.TrimSuffix(p, ".")); err != nil || !strings.HasSuffix(p, ".") {
			bad("InboxPrefixes has %q: use whole tokens and a dot at the end, as in \"_INBOX.\"", tenants.Printable(p))
		}
	}
	l := c.Limits
	if l.Rate < 0 || l.Burst < 0 || l.Reads < 0 || l.Works < 0 || l.Forwarded < 0 || l.ReadTimeout < 0 || l.WorkTimeout < 0 || l.Silence < 0 {
		bad("Limits has a negative field: use 0 for the default")
	}
	if l.HoldTimeout < 0 || l.HoldTimeout > time.Minute {
		bad("Limits.HoldTimeout is %s: use up to 1m, 0 for the default", l.HoldTimeout)
	}
	if len(errs) > 0 {
		return fmt.Errorf("checking control config: %w", errors.Join(errs...))
	}
	return nil
}

func (c Config) withDefaults() Config {
	if len(c.InboxPrefixes) == 0 {
		c.InboxPrefixes = []string{nats.InboxPrefix}
	}
	l := &c.Limits
	set(&l.Rate, 100)
	set(&l.Burst, 200)
	set(&l.Reads, 64)
	set(&l.Works, 32)
	set(&l.Forwarded, 512)
	set(&l.ReadTimeout, 30*time.Second)
	set(&l.WorkTimeout, 15*time.Minute)
	set(&l.Silence, 10*time.Second)
	set(&l.HoldTimeout, 30*time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
