package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/tenants"
)

// Purpose says what a connection is for. Connections are kept apart so that a burst of input delays neither a commit nor output.
type Purpose uint8

const (
	// Control carries commits, heartbeats, checks and snapshots.
	Control Purpose = iota
	// Output carries batches and at-least-once messages.
	Output
	// Read carries what readers deliver.
	Read
	// Service carries control requests and events: a flood of requests must not delay a commit.
	Service
)

func (p Purpose) String() string {
	return [...]string{"control", "output", "read", "service"}[p]
}

// Provider opens connections. The broker asks once per purpose, and again when that connection was closed for good. It owns what
// it gets and closes it in Close.
type Provider interface {
	Conn(ctx context.Context, p Purpose) (*nats.Conn, error)
}

// Fault is what an Intercept does to one request.
type Fault uint8

const (
	// Pass lets the request through.
	Pass Fault = iota
	// Drop fails the request without sending it, as a crash before it would.
	Drop
	// LoseReply sends the request, waits until the server has answered and reports no answer.
	LoseReply
)

// Config of a Broker. The zero value of a field is its default.
type Config struct {
	// Provider opens the connections. nil: URL with Options.
	Provider Provider
	// URL of the servers, comma separated; nats://127.0.0.1:4222 by default. Options are added to Weir's own.
	URL     string
	Options []nats.Option

	// Namespace makes tenants' subjects; DefaultNamespace by default.
	Namespace tenants.Namespace

	// CreateStreams lets Bind create a tenant's stream where no stream captures its subjects. Buckets and the stream of dead
	// letters are created in any case.
	CreateStreams bool
	// CheckOnly keeps Start from creating the control buckets: the broker is good for Check and changes nothing on the server.
	CheckOnly bool
	// Replicas, Storage and MaxBytes are set on what Weir creates: 1 replica, file storage, no limit by default. MaxBytes is per
	// stream or bucket. On a server that others use too, set it: a full server refuses everybody's writes.
	Replicas int
	Storage  js.StorageType
	MaxBytes int64

	// SharedBuckets spreads all tenants' snapshots over so many buckets; 0: a bucket for each tenant. Every bucket is a stream, so
	// set it for thousands of small tenants. It must not change while snapshots exist.
	SharedBuckets int
	// ChunkBytes is the size of a snapshot object's chunks; 128 KiB by default.
	ChunkBytes int

	// MaxPart bounds one atomic batch in messages, markers included; 10,000 by default. The server's own limit (max_batch_size, 1000
	// by default) is asked for and holds as well: larger batches are half again as fast.
	MaxPart int
	// MaxPartBytes bounds one atomic batch in bytes where a batch carries several jobs; 8 MiB by default.
	MaxPartBytes int
	// MaxTableBytes bounds the copy of the rows that lookups read of one bucket, of one tenant where they are not shared; 512 MiB by
	// default. Jobs that would need more fail.
	MaxTableBytes int64
	// MaxPending bounds the at-least-once messages under way per broker; 8192 by default.
	MaxPending int

	// Timeout of one request to the server; 5 s by default.
	Timeout time.Duration
	// Heartbeat is how often an idle reader hears from the server; after two and a half without a word it reopens. 5 s by default.
	Heartbeat time.Duration

	// Logger gets reopened readers and the like, nothing per record; nil discards.
	Logger *slog.Logger

	// Intercept is the seam for tests that crash at every request: it is called before each request that the broker makes, from
	// the goroutine that makes it, with the operation ("api", "publish", "chunk", "batch.body", "batch.commit", "consumer") and
	// the subject. Blocking in it pauses that request. nil in production.
	Intercept func(op, subject string) Fault
}

const (
	defaultURL          = "nats://127.0.0.1:4222"
	defaultTimeout      = 5 * time.Second
	defaultHeartbeat    = 5 * time.Second
	defaultChunkBytes   = 128 << 10
	defaultMaxPart      = 10_000
	defaultMaxPartBytes = 8 << 20
	defaultMaxTable     = 512 << 20
	defaultMaxPending   = 8192
	minHeartbeat        = 100 * time.Millisecond
)

// Validate reports everything that is wrong.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Provider != nil && (c.URL != "" || len(c.Options) > 0) {
		bad("Provider and URL or Options are both set: the provider opens the connections, leave the others empty")
	}
	if c.Replicas < 0 || c.Replicas > 5 {
		bad("Replicas is %d: 1 to 5 are possible", c.Replicas)
	}
	if c.MaxBytes < 0 {
		bad("MaxBytes is %d: use 0 for no limit", c.MaxBytes)
	}
	if c.SharedBuckets < 0 || c.SharedBuckets > 1024 {
		bad("SharedBuckets is %d: 0 to 1024 are possible", c.SharedBuckets)
	}
	if c.ChunkBytes < 0 || c.ChunkBytes > 0 && c.ChunkBytes < 1024 {
		bad("ChunkBytes is %d: use 1024 or more, and less than the server's max_payload", c.ChunkBytes)
	}
	if c.MaxPart < 0 || c.MaxPart == 1 {
		bad("MaxPart is %d: a part needs a message and a marker", c.MaxPart)
	}
	if c.MaxPartBytes < 0 || c.MaxTableBytes < 0 || c.MaxPending < 0 || c.Timeout < 0 {
		bad("MaxPartBytes, MaxTableBytes, MaxPending and Timeout must not be negative")
	}
	if c.Heartbeat != 0 && c.Heartbeat < minHeartbeat {
		bad("Heartbeat is %s: the server takes %s or more", c.Heartbeat, minHeartbeat)
	}
	if len(errs) > 0 {
		return fmt.Errorf("check jetstream config: %w", errors.Join(errs...))
	}
	return nil
}

func (c Config) withDefaults() Config {
	set(&c.URL, defaultURL)
	set(&c.Replicas, 1)
	set(&c.ChunkBytes, defaultChunkBytes)
	set(&c.MaxPart, defaultMaxPart)
	set(&c.MaxPartBytes, defaultMaxPartBytes)
	set(&c.MaxTableBytes, defaultMaxTable)
	set(&c.MaxPending, defaultMaxPending)
	set(&c.Timeout, defaultTimeout)
	set(&c.Heartbeat, defaultHeartbeat)
	if c.Provider == nil {
		c.Provider = urlProvider{url: c.URL, options: c.Options}
	}
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
