package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

var _ processor.Broker = (*Broker)(nil)

var (
	// ErrClosed says that the broker was closed, or not started yet.
	ErrClosed = errors.New("broker is closed")
	// ErrNoJetStream says that the server or the account has no JetStream.
	ErrNoJetStream = errors.New("JetStream is not enabled")
	// ErrServerTooOld says that the server lacks what Weir needs.
	ErrServerTooOld = errors.New("NATS server is too old")
)

// minServer is the first version whose atomic batches check several guards rightly.
var minServer = [3]int{2, 15, 0}

// Broker implements processor.Broker. Its methods may be called from any goroutine.
type Broker struct {
	cfg Config
	log *slog.Logger

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu        sync.Mutex
	started   bool
	closed    bool
	conns     map[Purpose]*conn
	dials     map[Purpose]*dial      // tries under way
	streams   map[string]streamFacts // what is known of output streams, by name
	releasers map[string]*releaser   // by stream
	buckets   map[string]bool        // snapshot buckets known to exist
	tables    map[tableKey]*table    // that somebody has open
	pub       *publisher
}

// New validates the configuration. It does no I/O.
func New(cfg Config) (*Broker, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	ctx, cancel := context.WithCancel(context.Background())
	return &Broker{
		cfg: cfg, log: cfg.Logger, ctx: ctx, cancel: cancel,
		conns: map[Purpose]*conn{}, dials: map[Purpose]*dial{}, streams: map[string]streamFacts{}, releasers: map[string]*releaser{}, buckets: map[string]bool{},
		tables: map[tableKey]*table{},
	}, nil
}

// Start connects, checks that the server can hold Weir's guarantees (ErrNoServer, ErrNoJetStream, ErrServerTooOld) and creates the
// control buckets that are missing.
func (b *Broker) Start(ctx context.Context) error {
	b.mu.Lock()
	if b.closed || b.started {
		b.mu.Unlock()
		return fmt.Errorf("start broker: %w", errors.Join(ErrClosed, errors.New("a broker starts once")))
	}
	b.started = true
	b.mu.Unlock()
	if err := b.checkServer(ctx); err != nil {
		return asTransient(ctx, fmt.Errorf("start broker: %w", err))
	}
	if b.cfg.CheckOnly {
		return nil
	}
	for _, cfg := range []js.StreamConfig{b.checkpointBucket(), b.workersBucket(), b.jobsBucket()} {
		if _, err := b.ensureStream(ctx, cfg); err != nil {
			return asTransient(ctx, fmt.Errorf("start broker: create bucket %s: %w", cfg.Name, err))
		}
	}
	return nil
}

// Close ends everything under way and waits for it. It is idempotent.
func (b *Broker) Close() {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return
	}
	b.closed = true
	conns, pub := b.conns, b.pub
	b.conns = map[Purpose]*conn{}
	b.mu.Unlock()
	b.cancel()
	if pub != nil {
		pub.close()
	}
	b.wg.Wait()
	for _, c := range conns {
		c.close()
	}
}

// Conn returns the broker's connection for a purpose, for what is built beside it (the control service). It must not be closed.
func (b *Broker) Conn(ctx context.Context, p Purpose) (*nats.Conn, error) {
	c, err := b.conn(ctx, p)
	if err != nil {
		return nil, err
	}
	return c.nc, nil
}

func (b *Broker) conn(ctx context.Context, p Purpose) (*conn, error) {
	b.mu.Lock()
	if b.closed || !b.started {
		b.mu.Unlock()
		return nil, ErrClosed
	}
	if c := b.conns[p]; c != nil && !c.nc.IsClosed() {
		b.mu.Unlock()
		return c, nil
	}
	// A server that does not answer takes seconds to find out about: all who need the connection wait for one try.
	d := b.dials[p]
	if d == nil {
		d = &dial{done: make(chan struct{})}
		b.dials[p] = d
		b.wg.Go(func() { b.dial(p, d) })
	}
	b.mu.Unlock()
	select {
	case <-d.done:
		return d.c, d.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// dial is one try to open a connection. c and err are set when done is closed.
type dial struct {
	done chan struct{}
	c    *conn
	err  error
}

func (b *Broker) dial(p Purpose, d *dial) {
	defer close(d.done)
	nc, err := b.cfg.Provider.Conn(b.ctx, p)
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.dials, p)
	switch {
	case err != nil:
		d.err = fmt.Errorf("open %s connection: %w", p, err)
		return
	case b.closed:
		nc.Close()
		d.err = ErrClosed
		return
	}
	if old := b.conns[p]; old != nil {
		old.close()
	}
	d.c = newConn(nc)
	b.conns[p] = d.c
}

// spawn runs f in a goroutine that Close waits for; false: the broker is closed.
func (b *Broker) spawn(f func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	b.wg.Go(f)
	return true
}

func (b *Broker) checkServer(ctx context.Context) error {
	c, err := b.conn(ctx, Control)
	if err != nil {
		return err
	}
	version := c.nc.ConnectedServerVersion()
	var v [3]int
	if _, err := fmt.Sscanf(version, "%d.%d.%d", &v[0], &v[1], &v[2]); err != nil {
		return fmt.Errorf("%w: %s says its version is %q", ErrServerTooOld, c.nc.ConnectedUrlRedacted(), version)
	}
	for i := range v {
		if v[i] != minServer[i] {
			if v[i] < minServer[i] {
				return fmt.Errorf("%w: %s runs %s, Weir needs %d.%d.%d or later, where atomic batches check several guards rightly: upgrade it",
					ErrServerTooOld, c.nc.ConnectedUrlRedacted(), version, minServer[0], minServer[1], minServer[2])
			}
			break
		}
	}
	err = b.api(ctx, "INFO", nil, nil)
	if code := apiCode(err); errors.Is(err, nats.ErrNoResponders) || code == codeNotEnabled || code == codeNotEnabledForAccount {
		return fmt.Errorf("%w on %s: start the server with -js, or enable it for this account (%w)", ErrNoJetStream, c.nc.ConnectedUrlRedacted(), err)
	}
	if err != nil {
		return fmt.Errorf("read JetStream account info: %w", err)
	}
	return nil
}

// Namespace implements processor.Transport.
func (b *Broker) Namespace() tenants.Namespace { return b.cfg.Namespace }
