package jetstream_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/processor"
)

// outcome counts how often done was called.
type outcome struct {
	mu    sync.Mutex
	calls int
	err   error
}

func (o *outcome) done(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.calls++
	o.err = err
}

func (o *outcome) get() (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.calls, o.err
}

func TestPublishAtLeastOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.stream(acmeStream())
		var o outcome
		for i := range 500 {
			ok(t, w.b.Publish(context.Background(), "acme", processor.Message{Subject: "acme.out.a", Data: []byte(strconv.Itoa(i))}, o.done))
		}
		synctest.Wait()
		calls, err := o.get()
		ok(t, err)
		equal(t, "calls of done", calls, 500)
		equal(t, "messages", len(strings.Fields(w.contents("acme.out.a"))), 500)
	})
}

// TestPublishIsRetried loses messages and acknowledgements, and cuts the connection.
func TestPublishIsRetried(t *testing.T) {
	for name, fault := range map[string]jetstream.Fault{"message lost": jetstream.Drop, "reply lost": jetstream.LoseReply} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				tries := 0
				var mu sync.Mutex
				w := newWorld(t, func(c *jetstream.Config) {
					c.Intercept = func(op, subject string) jetstream.Fault {
						mu.Lock()
						defer mu.Unlock()
						if op == "publish" && subject == "acme.out.a" {
							if tries++; tries <= 2 {
								return fault
							}
						}
						return jetstream.Pass
					}
				})
				w.stream(acmeStream())
				var o outcome
				ok(t, w.b.Publish(context.Background(), "acme", processor.Message{Subject: "acme.out.a", Data: []byte("x")}, o.done))
				time.Sleep(time.Minute)
				calls, err := o.get()
				ok(t, err)
				equal(t, "calls of done", calls, 1)
				want := map[jetstream.Fault]string{jetstream.Drop: "x", jetstream.LoseReply: "x x x"}[fault]
				equal(t, "messages", w.contents("acme.out.a"), want)
			})
		})
	}
	t.Run("reconnect", func(t *testing.T) {
		w := newWorld(t)
		w.stream(acmeStream())
		nc, err := w.b.Conn(context.Background(), jetstream.Output)
		ok(t, err)
		var wg sync.WaitGroup
		var o outcome
		for i := range 50 {
			if i%10 == 5 {
				ok(t, nc.ForceReconnect())
			}
			wg.Add(1)
			ok(t, w.b.Publish(context.Background(), "acme", processor.Message{Subject: "acme.out.a", Data: []byte(strconv.Itoa(i))}, func(err error) {
				o.done(err)
				wg.Done()
			}))
		}
		wg.Wait()
		_, err = o.get()
		ok(t, err)
		seen := map[string]bool{}
		for _, v := range strings.Fields(w.contents("acme.out.a")) {
			seen[v] = true
		}
		equal(t, "distinct messages", len(seen), 50)
	})
}

func TestPublishRefusedAndCanceled(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, func(c *jetstream.Config) { c.MaxPending = 2 })
		w.stream(acmeStream())
		w.stream(js.StreamConfig{Name: "other", Subjects: []string{"other.>"}})
		var refused, large, waiting outcome
		ok(t, w.b.Publish(context.Background(), "acme", processor.Message{Subject: "other.x"}, refused.done))
		synctest.Wait()
		calls, err := refused.get()
		equal(t, "calls of done", calls, 1)
		var api *js.APIError
		if !errors.As(err, &api) || api.ErrorCode != 10060 {
			t.Fatalf("error is %v, want 10060", err)
		}
		ok(t, w.b.Publish(context.Background(), "acme", processor.Message{Subject: "acme.out.a", Data: make([]byte, 2<<20)}, large.done))
		_, err = large.get()
		wantErr(t, err, nats.ErrMaxPayload)

		// Nobody takes this one: it waits for a stream until its context ends, and holds a place.
		ctx, cancel := context.WithCancel(context.Background())
		for range 2 {
			ok(t, w.b.Publish(ctx, "nosuch", processor.Message{Subject: "nosuch.x"}, waiting.done))
		}
		short, stop := context.WithTimeout(context.Background(), time.Minute)
		defer stop()
		wantErr(t, w.b.Publish(short, "acme", processor.Message{Subject: "acme.out.a"}, waiting.done), context.DeadlineExceeded)
		cancel()
		time.Sleep(time.Second)
		calls, err = waiting.get()
		equal(t, "calls of done", calls, 2)
		wantErr(t, err, context.Canceled)

		// Close ends what is under way.
		var last outcome
		ok(t, w.b.Publish(context.Background(), "nosuch", processor.Message{Subject: "nosuch.x"}, last.done))
		w.b.Close()
		calls, err = last.get()
		equal(t, "calls of done", calls, 1)
		wantErr(t, err, jetstream.ErrClosed)
		wantErr(t, w.b.Publish(context.Background(), "acme", processor.Message{Subject: "acme.out.a"}, last.done), jetstream.ErrClosed)
	})
}

func TestPublishBarrier(t *testing.T) {
	payload := barriers.Barrier{Tenant: "acme", Job: "revenue", Source: "orders", Epoch: 2, Checkpoint: 7, Nonce: "n"}.Encode()
	const own, literal = "acme.orders._weir.revenue.orders", "acme.lines"
	for _, c := range []struct {
		name        string
		ttl, rollup bool
		subject     string
		header      string
		value       string
	}{
		{"with TTLs", true, true, own, "Nats-TTL", "10m"},
		{"with rollups", false, true, own, "Nats-Rollup", "sub"},
		{"a rollup would remove records", false, true, literal, "Nats-Rollup", ""},
		{"with neither", false, false, own, "Nats-TTL", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			cfg := acmeStream()
			cfg.AllowMsgTTL, cfg.AllowRollup = c.ttl, c.rollup
			s := w.stream(cfg)
			w.publish(c.subject, 1)
			ok(t, w.b.PublishBarrier(context.Background(), "acme", c.subject, payload))
			m, err := s.GetMsg(context.Background(), 2)
			ok(t, err)
			equal(t, "header", m.Header.Get(c.header), c.value)
			equal(t, "checkpoint", m.Header.Get(barriers.HeaderBarrier), "7")
			equal(t, "payload", string(m.Data), string(payload))
			if c.subject == literal {
				_, err := s.GetMsg(context.Background(), 1)
				ok(t, err)
			}
			if w.b.PublishBarrier(context.Background(), "acme", c.subject, []byte("forged")) == nil {
				t.Fatal("something else was published as a barrier")
			}
			if w.b.PublishBarrier(context.Background(), "nosuch", c.subject, payload) == nil {
				t.Fatal("a barrier went into another stream")
			}
		})
	}
}
