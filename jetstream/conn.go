package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// ErrNoServer says that no NATS server answered.
var ErrNoServer = errors.New("no NATS server")

type urlProvider struct {
	url     string
	options []nats.Option
}

// Conn opens a connection.
func (p urlProvider) Conn(_ context.Context, purpose Purpose) (*nats.Conn, error) {
	nc, err := nats.Connect(p.url, append(ConnOptions(purpose, nil), p.options...)...)
	if err != nil {
		return nil, fmt.Errorf("%w at %s: %w: start one (nats-server -js), or give the right --url", ErrNoServer, p.url, err)
	}
	return nc, nil
}

// ConnOptions are the options a Provider should open connections with: reconnect for ever, and keep nothing back while
// disconnected, so that a request is never sent long after its caller gave up on it. log may be nil.
func ConnOptions(p Purpose, log *slog.Logger) []nats.Option {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return []nats.Option{
		nats.Name("weir " + p.String()),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(200 * time.Millisecond),
		nats.ReconnectJitter(100*time.Millisecond, 500*time.Millisecond),
		nats.ReconnectBufSize(-1),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			log.Warn("connection reports an error", "purpose", p.String(), "err", err)
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			log.Warn("connection lost", "purpose", p.String(), "err", err)
		}),
	}
}

// conn is one connection, with whoever must hear that it was re-established.
type conn struct {
	nc     *nats.Conn
	status chan nats.Status
	done   chan struct{}

	mu       sync.Mutex
	ack      *acker
	watchers map[int]func()
	next     int
}

func newConn(nc *nats.Conn) *conn {
	c := &conn{nc: nc, status: nc.StatusChanged(nats.CONNECTED, nats.CLOSED), done: make(chan struct{}), watchers: map[int]func(){}}
	go c.watch()
	return c
}

func (c *conn) watch() {
	defer close(c.done)
	for s := range c.status {
		c.mu.Lock()
		fns := make([]func(), 0, len(c.watchers))
		for _, fn := range c.watchers {
			fns = append(fns, fn)
		}
		c.mu.Unlock()
		for _, fn := range fns {
			fn()
		}
		if s == nats.CLOSED {
			return
		}
	}
}

// onReconnect calls fn after every reconnect and when the connection is closed for good, until cancel is called.
func (c *conn) onReconnect(fn func()) (cancel func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := c.next
	c.next++
	c.watchers[id] = fn
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.watchers, id)
	}
}

func (c *conn) close() {
	c.nc.Close()
	c.nc.RemoveStatusListener(c.status)
	<-c.done
}
