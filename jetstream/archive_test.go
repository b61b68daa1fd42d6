package jetstream_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// site is one of two clusters that a leaf node joins, each with a JetStream domain of its own.
type site struct {
	*world
	domain string
}

// twoSites starts two servers: streams of the first can be mirrored and sourced by the second.
func twoSites(t *testing.T) (a, b *site) {
	t.Helper()
	start := func(domain string, leaf server.LeafNodeOpts) *server.Server {
		srv, err := server.NewServer(&server.Options{
			ServerName: domain, Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true, DontListen: true, JetStream: true, JetStreamDomain: domain,
			StoreDir: t.TempDir(), LeafNode: leaf,
		})
		ok(t, err)
		srv.Start()
		t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
		if !srv.ReadyForConnections(10 * time.Second) {
			t.Fatal("the server does not start")
		}
		return srv
	}
	hub := start("hub", server.LeafNodeOpts{Host: "127.0.0.1", Port: -1})
	varz, err := hub.Varz(nil)
	ok(t, err)
	remote := &url.URL{Scheme: "nats-leaf", Host: fmt.Sprintf("127.0.0.1:%d", varz.LeafNode.Port)}
	// Streams of both sites capture these subjects: across a leaf node a publish would land in both.
	own := []string{"acme.>", "weir.>", "$O.>", "$KV.>"}
	edge := start("edge", server.LeafNodeOpts{Remotes: []*server.RemoteLeafOpts{{
		URLs: []*url.URL{remote}, DenyImports: own, DenyExports: own,
	}}})
	await(t, "the leaf node", func() bool { return hub.NumLeafNodes() == 1 && edge.NumLeafNodes() == 1 })
	open := func(srv *server.Server, domain string) *site {
		s := &site{world: &world{t: t}, domain: domain}
		s.b = newBroker(t, inProcess{srv})
		nc, err := inProcess{srv}.Conn(context.Background(), jetstream.Control)
		ok(t, err)
		t.Cleanup(nc.Close)
		s.nc = nc
		s.js, err = js.New(nc)
		ok(t, err)
		return s
	}
	return open(hub, "hub"), open(edge, "edge")
}

// await polls in real time: a leaf node has no virtual one.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for tick := time.NewTicker(5 * time.Millisecond); !done(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s does not come", what)
		}
	}
}

var orderCount = state.NewValue[int64]("n")

// orderTopology counts orders per last digit.
func orderTopology(t *testing.T) *processor.Topology {
	t.Helper()
	b := processor.NewBuilder("revenue")
	orders := processor.From(b, "orders", processor.SourceSpec[string]{Filters: []tenants.Filter{"orders.>"}, Stream: "ORDERS", Codec: codec.String()})
	counts := processor.Process(processor.KeyBy(orders, func(o string) string { return o[len(o)-1:] }), "count",
		func(pc *processor.Context[string], o string) error {
			n, err := orderCount.Get(pc)
			pc.Emit(fmt.Sprintf("%s=%d", pc.Key(), n+1))
			return errors.Join(err, orderCount.Set(pc, n+1))
		}, processor.Uses(orderCount))
	processor.To(counts, "totals", processor.SinkSpec[string]{Subject: func(string) string { return "totals" }, Stream: "OUT", Codec: codec.String()})
	topology, err := b.Build()
	ok(t, err)
	return topology
}

// output has what the job publishes.
func (s *site) output() {
	s.t.Helper()
	s.stream(js.StreamConfig{Name: "OUT", Subjects: []string{"acme.totals", "acme._weir.>"}, AllowAtomicPublish: true, AllowMsgTTL: true})
}

func (s *site) send(from, to int) {
	s.t.Helper()
	for i := from; i < to; i++ {
		_, err := s.js.Publish(context.Background(), fmt.Sprintf("acme.orders.%d", i%3), fmt.Appendf(nil, "order %d", i))
		ok(s.t, err)
	}
}

// process runs the job until it has published what it should, and waits for the checkpoint.
func (s *site) process(t *testing.T, start processor.StartPoint, want map[string]string) {
	t.Helper()
	rt, err := processor.NewRuntime(processor.RuntimeConfig{Broker: s.b, Worker: "w"})
	ok(t, err)
	j, err := rt.Deploy(t.Context(), orderTopology(t), "acme", processor.JobConfig{Start: start, Checkpoint: processor.CheckpointConfig{Interval: 50 * time.Millisecond}})
	ok(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- rt.Run(ctx) }()
	got := map[string]string{}
	seen := uint64(0)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("published %v, the job: %+v", got, j.Status())
		}
	})
	await(t, "the output", func() bool {
		out, err := s.js.Stream(ctx, "OUT")
		if err != nil {
			return false
		}
		for ; seen < out.CachedInfo().State.LastSeq; seen++ {
			m, err := out.GetMsg(ctx, seen+1)
			if err == nil && m.Subject == "acme.totals" {
				k, n, _ := strings.Cut(string(m.Data), "=")
				got[k] = n
			}
		}
		for k, n := range want {
			if got[k] != n {
				return false
			}
		}
		return true
	})
	await(t, "the job", func() bool { return j.Status().State == processor.JobRunning })
	_, err = j.Checkpoint(ctx)
	ok(t, err)
	cancel()
	<-done
}

func digits(n int) map[string]string {
	m := map[string]string{}
	for i := range n {
		k := fmt.Sprint(i % 10)
		var was int
		_, _ = fmt.Sscan(m[k], &was)
		m[k] = fmt.Sprint(was + 1)
	}
	return m
}

// A job moves to another cluster. Where its stream was mirrored the position stays, where it was sourced or published again it is
// found, and the job goes on there without losing or doubling a record.
func TestImportIntoAnotherCluster(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(t *testing.T, a, b *site)
		how     string
		detail  string
		to      uint64
		more    func(a, b *site) *site // who gets the records that come after the move
	}{
		"mirror": {
			prepare: func(t *testing.T, a, b *site) {
				b.stream(js.StreamConfig{Name: "ORDERS", Mirror: &js.StreamSource{Name: "ORDERS", Domain: a.domain}})
			},
			how: processor.PositionKept, detail: "8 of the last 8", to: 25, more: func(a, _ *site) *site { return a },
		},
		"sourced": {
			prepare: func(t *testing.T, a, b *site) {
				b.stream(js.StreamConfig{Name: "ORDERS", Subjects: []string{"acme.local.>"}, AllowDirect: true})
				b.publish("acme.local.x", 3)
				_, err := b.js.UpdateStream(t.Context(), js.StreamConfig{Name: "ORDERS", Subjects: []string{"acme.local.>"}, AllowDirect: true,
					Sources: []*js.StreamSource{{Name: "ORDERS", Domain: a.domain}}})
				ok(t, err)
			},
			how: processor.PositionMapped, detail: "its header says", to: 28, more: func(a, _ *site) *site { return a },
		},
		"published again": {
			prepare: func(_ *testing.T, _, b *site) {
				b.stream(js.StreamConfig{Name: "ORDERS", Subjects: []string{"acme.orders.>", "acme.local.>"}})
				b.publish("acme.local.x", 7)
				b.send(0, 25)
			},
			how: processor.PositionMapped, detail: "the last 8 records read are in stream ORDERS once", to: 32, more: func(_, b *site) *site { return b },
		},
		"unrelated": {
			prepare: func(_ *testing.T, _, b *site) {
				b.stream(js.StreamConfig{Name: "ORDERS", Subjects: []string{"acme.orders.>"}})
				b.send(100, 140)
			},
			how: processor.PositionRefused, detail: "is not the one that was read, and the last 8 records read are not in stream ORDERS",
		},
		"twice": {
			prepare: func(_ *testing.T, _, b *site) {
				b.stream(js.StreamConfig{Name: "ORDERS", Subjects: []string{"acme.orders.>"}})
				b.send(100, 101)
				b.send(0, 25)
				b.send(0, 25)
			},
			how: processor.PositionRefused, detail: "the last record read is in stream ORDERS 2 times",
		},
		"no stream": {prepare: func(*testing.T, *site, *site) {}, how: processor.PositionRefused, detail: "there is no stream ORDERS here"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			a, b := twoSites(t)
			a.stream(js.StreamConfig{Name: "ORDERS", Subjects: []string{"acme.orders.>"}})
			a.output()
			b.output()
			a.send(0, 25)
			a.process(t, processor.StartPoint{}, digits(25))
			sp, err := processor.OpenCheckpoint(ctx, a.b, nil, job, 0)
			ok(t, err)
			_, err = sp.SaveAs(ctx, "moving")
			ok(t, err)
			var file bytes.Buffer
			_, err = processor.ExportSavepoint(ctx, a.b, job, "moving", &file, nil)
			ok(t, err)
			c.prepare(t, a, b)
			if c.how != processor.PositionRefused {
				await(t, "the copy", func() bool {
					facts, found, err := b.b.StreamFacts(ctx, "ORDERS")
					return err == nil && found && facts.Last >= c.to
				})
			}
			archive, err := processor.OpenArchive(bytes.NewReader(file.Bytes()), nil)
			ok(t, err)
			report, err := processor.ImportSavepoint(ctx, b.b, archive, processor.ImportSpec{})
			got, _ := json.Marshal(report.Sources)
			if len(report.Sources) != 1 || report.Sources[0].How != c.how || report.Sources[0].To.Sequence != c.to || !strings.Contains(report.Sources[0].Detail, c.detail) {
				t.Fatalf("%s: %v", got, err)
			}
			if c.how == processor.PositionRefused {
				if !errors.As(err, new(*processor.ImportRefusedError)) || !strings.Contains(err.Error(), c.detail) {
					t.Fatal(err)
				}
				return
			}
			ok(t, err)
			c.more(a, b).send(25, 35)
			b.process(t, processor.StartPoint{From: processor.FromSavepoint, Savepoint: "moving"}, digits(35))
		})
	}
}
