package jetstream_test

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/jetstream/embedded"
	"github.com/weirstream/weir/processor"
)

// movable is a server that can be replaced by another one on the same data.
type movable struct {
	t    *testing.T
	dir  string
	port int
	srv  *embedded.Server
}

func (m *movable) start() {
	m.t.Helper()
	var err error
	m.srv, err = embedded.Start(embedded.Options{Dir: m.dir, Port: m.port})
	ok(m.t, err)
}

// Conn goes over the port, so that a connection finds the next server.
func (m *movable) Conn(_ context.Context, p jetstream.Purpose) (*nats.Conn, error) {
	return nats.Connect(m.srv.ClientURL(), jetstream.ConnOptions(p, nil)...)
}

// TestRolledBackStore puts an older copy of the data under a reader: it never goes on silently.
func TestRolledBackStore(t *testing.T) {
	for name, c := range map[string]struct {
		refill int
		fault  processor.StreamFault
	}{
		"rolled back":              {0, processor.StreamTailLost},
		"rolled back and refilled": {80, processor.StreamRewritten},
	} {
		t.Run(name, func(t *testing.T) {
			m := &movable{t: t, dir: t.TempDir() + "/store", port: -1}
			m.start()
			defer func() { m.srv.Shutdown() }()
			w := &world{t: t, srv: m.srv, b: newBroker(t, m, func(c *jetstream.Config) { c.Heartbeat = 200 * time.Millisecond })}
			defer w.b.Close()
			w.nc, w.js = newClient(t, m.srv)
			s := w.stream(acmeStream())
			created := s.CachedInfo().Created.UnixNano()
			w.publish("acme.orders.a", 50)

			// The copy is what a backup would be.
			url := m.srv.ClientURL()
			m.srv.Shutdown()
			backup := t.TempDir() + "/copy"
			ok(t, os.CopyFS(backup, os.DirFS(m.dir)))
			m.port = portOf(t, url)
			m.start()
			w.nc, w.js = newClient(t, m.srv)
			w.publish("acme.orders.b", 50)
			spec := orders(0)
			spec.Created = created
			r := w.open(spec)
			got := read(t, r, 100)

			m.srv.Shutdown()
			ok(t, os.RemoveAll(m.dir))
			ok(t, os.CopyFS(m.dir, os.DirFS(backup)))
			m.start()
			w.nc, w.js = newClient(t, m.srv)
			if c.refill > 0 {
				w.publish("acme.orders.c", c.refill)
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			var err error
			for err == nil {
				var batch processor.Batch
				batch, err = r.Next(ctx)
				equal(t, "records", len(batch.Records), 0)
			}
			// The reader may have reopened before the refill: then the stream was too short.
			if c.fault == processor.StreamTailLost {
				wantFault(t, err, c.fault)
			} else {
				equal(t, "class", processor.ClassOf(err), processor.ClassTerminal)
			}
			spec.Job, spec.Source, spec.After, spec.Tail = job, "orders", 100, fingerprints(got)
			_, err = w.b.OpenReader(ctx, spec)
			wantFault(t, err, c.fault)

			// Who goes on regardless gets what is there, from the last record that is still the same.
			spec.AllowDataLoss = true
			r, err = w.b.OpenReader(ctx, spec)
			ok(t, err)
			defer r.Close()
			w.publish("acme.orders.d", 1)
			batch, err := r.Next(ctx)
			ok(t, err)
			if len(batch.Records) == 0 || batch.Records[0].Seq > 51 && c.refill == 0 {
				t.Fatalf("the first batch is %+v", batch)
			}
		})
	}
}
