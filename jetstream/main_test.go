package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server/ats"
	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/jetstream/embedded"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

func TestMain(m *testing.M) {
	// The server's clock goroutine must exist before the first bubble and outlives all servers.
	ats.Register()
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())
}

var job = tenants.JobID{Tenant: "acme", Name: "revenue"}

// bubble runs a test in virtual time, and lets the server's stragglers run out at the end.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(time.Minute) })
		f(t)
	})
}

// world is a server, a broker on it and a plain client.
type world struct {
	t   testing.TB
	dir string
	srv *embedded.Server
	b   *jetstream.Broker
	nc  *nats.Conn
	js  js.JetStream
}

func newWorld(t testing.TB, change ...func(*jetstream.Config)) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	w.srv = startServer(t, w.dir)
	w.b = newBroker(t, w.srv, change...)
	w.nc, w.js = newClient(t, w.srv)
	return w
}

func startServer(t testing.TB, dir string) *embedded.Server {
	t.Helper()
	srv, err := embedded.Start(embedded.Options{Dir: dir, InProcessOnly: true})
	ok(t, err)
	t.Cleanup(srv.Shutdown)
	return srv
}

func newBroker(t testing.TB, p jetstream.Provider, change ...func(*jetstream.Config)) *jetstream.Broker {
	t.Helper()
	cfg := jetstream.Config{Provider: p, CreateStreams: true}
	for _, f := range change {
		f(&cfg)
	}
	b, err := jetstream.New(cfg)
	ok(t, err)
	t.Cleanup(b.Close)
	ok(t, b.Start(context.Background()))
	return b
}

func newClient(t testing.TB, srv *embedded.Server) (*nats.Conn, js.JetStream) {
	t.Helper()
	nc, err := srv.Conn(context.Background(), jetstream.Control)
	ok(t, err)
	t.Cleanup(nc.Close)
	s, err := js.New(nc)
	ok(t, err)
	return nc, s
}

// stream creates a stream as a user would.
func (w *world) stream(cfg js.StreamConfig) js.Stream {
	w.t.Helper()
	s, err := w.js.CreateStream(context.Background(), cfg)
	ok(w.t, err)
	return s
}

func (w *world) publish(subject string, n int) {
	w.t.Helper()
	for i := range n {
		_, err := w.js.Publish(context.Background(), subject, fmt.Appendf(nil, "%s %d", subject, i))
		ok(w.t, err)
	}
}

func (w *world) publishAsync(subject string, data []byte) {
	w.t.Helper()
	_, err := w.js.PublishAsync(subject, data, js.WithStallWait(time.Minute))
	ok(w.t, err)
}

func (w *world) open(spec processor.ReaderSpec) processor.Reader {
	w.t.Helper()
	if spec.Job.Name == "" {
		spec.Job, spec.Source = job, "orders"
	}
	r, err := w.b.OpenReader(context.Background(), spec)
	ok(w.t, err)
	w.t.Cleanup(r.Close)
	return r
}

// read takes batches until n records came, and checks that they are in order.
func read(t testing.TB, r processor.Reader, n int) []processor.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var out []processor.Record
	for len(out) < n {
		batch, err := r.Next(ctx)
		ok(t, err)
		for _, rec := range batch.Records {
			if len(out) > 0 && rec.Seq <= out[len(out)-1].Seq {
				t.Fatalf("sequence %d follows %d", rec.Seq, out[len(out)-1].Seq)
			}
			out = append(out, rec)
		}
		if len(out) > 0 && batch.Position < out[len(out)-1].Seq {
			t.Fatalf("position %d, but sequence %d was handed over", batch.Position, out[len(out)-1].Seq)
		}
	}
	if len(out) != n {
		t.Fatalf("%d records came, want %d", len(out), n)
	}
	return out
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("%s is %v, want %v", what, got, want)
	}
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
}

func portOf(t testing.TB, raw string) int {
	t.Helper()
	u, err := url.Parse(raw)
	ok(t, err)
	port, err := strconv.Atoi(u.Port())
	ok(t, err)
	return port
}
