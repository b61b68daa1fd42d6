package jetstream_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// onMovable is a world whose server can be stopped and started, with the data or a copy of it.
func onMovable(t *testing.T) (*world, *movable) {
	t.Helper()
	m := &movable{t: t, dir: t.TempDir() + "/store", port: -1}
	m.start()
	t.Cleanup(func() { m.srv.Shutdown() })
	w := &world{t: t, srv: m.srv, b: newBroker(t, m, func(c *jetstream.Config) { c.Heartbeat = 100 * time.Millisecond })}
	w.nc, w.js = newClient(t, m.srv)
	return w, m
}

// restart stops the server, lets between do something to its data and starts it again on the same port.
func (w *world) restart(m *movable, between func()) {
	w.t.Helper()
	m.port = portOf(w.t, m.srv.ClientURL())
	w.nc.Close()
	m.srv.Shutdown()
	between()
	m.start()
	w.srv = m.srv
	w.nc, w.js = newClient(w.t, m.srv)
	for _, p := range []jetstream.Purpose{jetstream.Control, jetstream.Read} {
		nc, err := w.b.Conn(context.Background(), p)
		ok(w.t, err)
		until(w.t, "the broker is connected again", nc.IsConnected)
	}
}

func (w *world) bucket(name string) js.KeyValue {
	w.t.Helper()
	kv, err := w.js.KeyValue(context.Background(), name)
	ok(w.t, err)
	return kv
}

// A copy outlives its server. One that comes back with older data is noticed, whatever was written since.
func TestTableOutlivesTheServer(t *testing.T) {
	w, m := onMovable(t)
	kv := w.kv(js.KeyValueConfig{Bucket: "prices"})
	putRow(t, kv, "acme.a", "1")
	putRow(t, kv, "acme.b", "2")
	c := w.openTable("acme", "prices", false)
	for i := range 3 {
		w.restart(m, func() {})
		rev := putRow(t, w.bucket("prices"), "acme.a", fmt.Sprint("again ", i))
		until(t, "the row", func() bool { return c.Rows().Get("a").Revision == rev })
		equal(t, "rows", rowsOf(c), fmt.Sprintf("a=again %d@%d b=2@2", i, rev))
	}
	ok(t, c.Err())
}

func TestTableRolledBack(t *testing.T) {
	for name, c := range map[string]struct {
		refill func(kv js.KeyValue)
		fault  processor.StreamFault
	}{
		"rolled back": {func(js.KeyValue) {}, processor.StreamTailLost},
		"an older row": {func(kv js.KeyValue) {
			for range 40 {
				putRow(t, kv, "acme.k0", "c")
			}
		}, processor.StreamRewritten},
		"another content": {func(kv js.KeyValue) { fill(t, kv, "c", 22) }, processor.StreamRewritten},
		"another row": {func(kv js.KeyValue) {
			fill(t, kv, "b", 20)
			putRow(t, kv, "acme.unknown", "c")
			putRow(t, kv, "globex.k", "c")
		}, processor.StreamRewritten},
	} {
		t.Run(name, func(t *testing.T) {
			w, m := onMovable(t)
			fill(t, w.kv(js.KeyValueConfig{Bucket: "prices"}), "a", 10)
			backup := t.TempDir() + "/copy"
			w.restart(m, func() { ok(t, os.CopyFS(backup, os.DirFS(m.dir))) })
			kv := w.bucket("prices")
			fill(t, kv, "b", 20)
			putRow(t, kv, "acme.brief", "b")
			ok(t, kv.Delete(context.Background(), "acme.brief"))
			table := w.openTable("acme", "prices", false)
			w.restart(m, func() {
				ok(t, os.RemoveAll(m.dir))
				ok(t, os.CopyFS(m.dir, os.DirFS(backup)))
				// Nobody may look before the bucket is filled again.
				before := *m
				before.port = -1
				before.start()
				nc, s := newClient(t, before.srv)
				kv, err := s.KeyValue(context.Background(), "prices")
				ok(t, err)
				c.refill(kv)
				nc.Close()
				before.srv.Shutdown()
			})
			until(t, "the copy fails", func() bool { return table.Err() != nil })
			var fault *processor.StreamError
			if !errors.As(table.Err(), &fault) || fault.Fault != c.fault {
				t.Errorf("the fault is %v", table.Err())
			}
		})
	}
}

// fill writes n rows of other values, of a few keys.
func fill(t testing.TB, kv js.KeyValue, value string, n int) {
	t.Helper()
	for i := range n {
		putRow(t, kv, fmt.Sprintf("acme.k%d", i%4), fmt.Sprint(value, i))
	}
}

// TestTableOfManyRows opens a copy of 100,000 rows.
func TestTableOfManyRows(t *testing.T) {
	const n = 100_000
	w := newWorld(t)
	w.kv(js.KeyValueConfig{Bucket: "prices"})
	for i := range n {
		w.publishAsync(fmt.Sprintf("$KV.prices.acme.k%d", i), fmt.Appendf(nil, "value %d", i))
	}
	<-w.js.PublishAsyncComplete()
	began := time.Now()
	c := w.openTable("acme", "prices", false)
	t.Logf("opened in %s", time.Since(began))
	rows, size := c.Rows().Size()
	equal(t, "rows", rows, n)
	t.Logf("%d bytes", size)
	for _, i := range []int{0, 1, n / 2, n - 1} {
		if r := c.Rows().Get(fmt.Sprint("k", i)); r == nil || string(r.Data) != fmt.Sprint("value ", i) || r.Revision != uint64(i+1) {
			t.Errorf("row %d is %+v", i, r)
		}
	}
}

// quote is what comes of an order that found its price.
type quote struct {
	Item  string `json:"item"`
	Found bool   `json:"found"`
	Cents int64  `json:"cents"`
}

func quoting(t testing.TB) *processor.Topology {
	t.Helper()
	b := processor.NewBuilder("quoting")
	items := processor.From(b, "items", processor.SourceSpec[string]{Filters: []tenants.Filter{"items"}, Codec: codec.String()})
	quotes := processor.Lookup(items, "price", processor.TableSpec[int64]{Bucket: "prices", Codec: codec.JSON[int64]()}, func(item string) string { return item },
		func(item string, r processor.Row[int64], emit func(quote)) error {
			emit(quote{item, r.Found, r.Value})
			return nil
		})
	processor.To(quotes, "quotes", processor.SinkSpec[quote]{FixedSubject: "quotes", Codec: codec.JSON[quote]()})
	topology, err := b.Build()
	ok(t, err)
	return topology
}

// TestLookupOnServer runs a job with a lookup while its rows change, the server restarts, and last the bucket is deleted.
func TestLookupOnServer(t *testing.T) {
	w, m := onMovable(t)
	kv := w.kv(js.KeyValueConfig{Bucket: "prices"})
	rt, err := processor.NewRuntime(processor.RuntimeConfig{Broker: w.b})
	ok(t, err)
	j, err := rt.Deploy(context.Background(), quoting(t), "acme", processor.JobConfig{
		Parallelism: 2, Checkpoint: processor.CheckpointConfig{Interval: 20 * time.Millisecond},
	})
	ok(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ran := make(chan error, 1)
	go func() { ran <- rt.Run(ctx) }()
	until(t, "the job runs", func() bool { return j.Status().State == processor.JobRunning })

	sent := 0
	ask := func(item, want string) { // again and again, since rows come soon and not at once
		t.Helper()
		until(t, item+" is "+want, func() bool {
			sent++
			if _, err := w.js.Publish(ctx, "acme.items", []byte(item)); err != nil {
				sent--
				return false
			}
			s, err := w.js.Stream(ctx, "acme")
			if err != nil {
				return false
			}
			last, err := s.GetLastMsgForSubject(ctx, "acme.quotes")
			var q quote
			return err == nil && json.Unmarshal(last.Data, &q) == nil && q.Item == item && fmt.Sprint(q.Found, " ", q.Cents) == want
		})
	}
	ask("apple", "false 0")
	putRow(t, kv, "acme.apple", "5")
	putRow(t, kv, "globex.apple", "1000")
	putRow(t, kv, "acme.pear", `"no price"`)
	ask("apple", "true 5")
	_, err = w.js.Publish(ctx, "acme.items", []byte("pear"))
	ok(t, err)
	until(t, "the dead letter", func() bool { return j.Metrics().DeadLetters == 1 })
	w.restart(m, func() {})
	putRow(t, w.bucket("prices"), "acme.apple", "6")
	ask("apple", "true 6")
	ok(t, w.bucket("prices").Delete(ctx, "acme.apple"))
	ask("apple", "false 0")
	if mt := j.Metrics(); mt.TableRows != 1 {
		t.Errorf("metrics %+v", mt)
	}
	until(t, "all results", func() bool {
		s, err := w.js.Stream(ctx, "acme")
		ok(t, err)
		info, err := s.Info(ctx, js.WithSubjectFilter("acme.quotes"))
		ok(t, err)
		return info.State.Subjects["acme.quotes"] >= uint64(sent)
	})
	ok(t, w.js.DeleteKeyValue(ctx, "prices"))
	until(t, "the job fails", func() bool { return j.Status().State == processor.JobFailed })
	var fault *processor.StreamError
	if err := j.Status().Err; !errors.As(err, &fault) || fault.Fault != processor.StreamMissing || fault.Table != "price" || fault.Job != j.ID() {
		t.Errorf("the job failed with %v", err)
	}
	cancel()
	<-ran
}
