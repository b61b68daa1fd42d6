package control_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/conf"
	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/jetstream/control"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

var sumOf = state.NewValue[uint64]("sum")

// slowNumber keeps the job for so long that its reader has to wait.
const slowNumber = 777

// sums adds numbers up per class: what is no number is a dead letter.
func sums(t *testing.T) *processor.Topology {
	t.Helper()
	b := processor.NewBuilder("sums")
	in := processor.From(b, "in", processor.SourceSpec[uint64]{Filters: []tenants.Filter{"in.*"}, Codec: codec.JSON[uint64]()})
	total := processor.Process(processor.KeyBy(in, func(n uint64) string { return fmt.Sprint(n % 3) }), "add",
		func(pc *processor.Context[uint64], n uint64) error {
			if n == slowNumber {
				time.Sleep(20 * time.Second)
			}
			sum, err := sumOf.Get(pc)
			if err != nil {
				return err
			}
			pc.Emit(sum + n)
			return sumOf.Set(pc, sum+n)
		}, processor.Uses(sumOf))
	processor.To(total, "out", processor.SinkSpec[uint64]{Subject: func(uint64) string { return "out" }, Codec: codec.JSON[uint64]()})
	processor.ToKV(total, "last", processor.KVSpec[uint64]{Bucket: "sums", Key: func(n uint64) string { return fmt.Sprint(n % 3) }, Codec: codec.JSON[uint64]()})
	topo, err := b.Build()
	ok(t, err)
	return topo
}

func roles(t *testing.T) map[string]control.PermissionSet {
	t.Helper()
	sets := map[string]control.PermissionSet{}
	for _, role := range control.Roles {
		p, err := control.Permissions(role, "acme", control.PermissionConfig{Buckets: []string{"sums"}})
		ok(t, err)
		sets[string(role)] = p
	}
	return sets
}

// TestRoles runs jobs with a worker's permissions and lets the others try what they may and may not.
func TestRoles(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGuarded(t, roles(t), true)
		g.olderBucket()
		stop := g.work(sums(t), "w1")
		pub := g.as("publisher")
		g.publishNumbers(pub, 100)
		op, reader := g.as("operator"), g.as("reader")
		events, err := reader.SubscribeSync("weir.evt.acme.>")
		ok(t, err)

		into[processor.CheckpointReport](t, askWith(t, op, "weir.v1.acme.sums.checkpoint", ""))
		into[processor.SavepointReport](t, askWith(t, op, "weir.v1.acme.sums.savepoint", `{"name":"one"}`))
		next(t, events)
		into[processor.StateReport](t, askWith(t, op, "weir.v1.acme.sums.state", `{"operator":"add","state":"sum","key":"1"}`))
		into[processor.StateReport](t, askWith(t, op, "weir.v1.acme.sums.state", ""))
		into[processor.StopReport](t, askWith(t, op, "weir.v1.acme.sums.stop", ""))
		into[processor.JobReport](t, askWith(t, op, "weir.v1.acme.sums.start", `{"from":"savepoint","savepoint":"one"}`))
		into[processor.JobReport](t, askWith(t, op, "weir.v1.acme.sums.rescale", `{"parallelism":2}`))
		into[processor.JobReport](t, askWith(t, op, "weir.v1.acme.sums.fork", `{"as":"copy","savepoint":"one"}`))
		into[control.TenantSavepoints](t, askWith(t, op, "weir.v1.acme._.savepoint", `{"name":"all"}`))
		into[control.Done](t, askWith(t, op, "weir.v1.acme.copy.delete", `{"confirm":"copy"}`))
		into[control.Done](t, askWith(t, op, "weir.v1.acme.sums.savepoint-delete", `{"name":"one"}`))
		for _, verb := range []string{"sums.status", "sums.checkpoints", "sums.savepoints", "_.jobs"} {
			into[map[string]any](t, askWith(t, reader, "weir.v1.acme."+verb, ""))
		}
		if _, err := request(reader, "$SRV.INFO.weir", ""); err != nil {
			t.Errorf("a reader cannot discover the service: %v", err)
		}
		g.publishBacklog(pub)
		stop2 := g.work(sums(t), "w2")
		for range 20 { // whichever hears it
			into[processor.JobReport](t, askWith(t, op, "weir.v1.acme.sums.status", ""))
		}
		stop()
		time.Sleep(30 * time.Second) // the second restores, and reads the backlog
		g.publishNumbers(pub, 50)
		into[processor.CheckpointReport](t, askWith(t, op, "weir.v1.acme.sums.checkpoint", ""))
		stop2()
		if v := g.denied(); len(v) > 0 {
			t.Fatalf("denied: %s", strings.Join(v, "\n"))
		}
		g.used()
		g.refusals(pub, op, reader)
	})
}

// TestTenantSavepointOfRunningJobs: real jobs on two workers read one stream while it is written to. Every savepoint of the tenant is
// cut at the same place in all of them.
func TestTenantSavepointOfRunningJobs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGuarded(t, roles(t), false)
		defer g.work(sums(t), "w1", "a", "b")()
		defer g.work(sums(t), "w2", "c", "d")()
		op, pub := g.as("operator"), g.as("publisher")
		written := make(chan struct{})
		go func() {
			defer close(written)
			for i := range 1000 {
				if pub.Publish(fmt.Sprintf("acme.in.%d", i%7), []byte(fmt.Sprint(i%100))) != nil {
					return
				}
				time.Sleep(time.Millisecond)
			}
		}()
		last := uint64(0)
		for round := range 5 {
			name := fmt.Sprint("all-", round)
			all := into[control.TenantSavepoints](t, askWith(t, op, "weir.v1.acme._.savepoint", fmt.Sprintf(`{"name":%q}`, name)))
			equal(t, "savepoints", len(all.Savepoints), 5)
			for _, s := range all.Savepoints {
				equal(t, "cut of "+s.Job, s.Positions["in"], processor.Position{Stream: "acme", Sequence: all.Cut["acme"]})
			}
			if all.Cut["acme"] <= last {
				t.Errorf("round %d was cut at %d, the one before at %d", round, all.Cut["acme"], last)
			}
			last = all.Cut["acme"]
			time.Sleep(100 * time.Millisecond)
		}
		<-written
	})
}

// olderBucket makes the output bucket as an older Weir did, so that the worker has to bring it up to date.
func (g *guarded) olderBucket() {
	g.t.Helper()
	s, err := js.New(g.as("admin"))
	ok(g.t, err)
	_, err = s.CreateStream(context.Background(), js.StreamConfig{
		Name: "KV_sums", Subjects: []string{"$KV.sums.>"}, MaxMsgsPerSubject: 1, AllowRollup: true, DenyDelete: true, AllowDirect: true,
		Discard: js.DiscardNew, Metadata: map[string]string{"weir.owner": "weir"},
	})
	ok(g.t, err)
}

func (g *guarded) publishNumbers(nc *nats.Conn, n int) {
	g.t.Helper()
	s, err := js.New(nc)
	ok(g.t, err)
	for i := range n {
		data := fmt.Sprint(i)
		if i%10 == 9 {
			data = "no number"
		}
		_, err := s.Publish(context.Background(), fmt.Sprintf("acme.in.%d", i%7), []byte(data))
		ok(g.t, err)
	}
}

// publishBacklog publishes what takes the job a while, and makes the server ask for flow control.
func (g *guarded) publishBacklog(nc *nats.Conn) {
	g.t.Helper()
	s, err := js.New(nc)
	ok(g.t, err)
	for i := range 300 {
		data := fmt.Sprint(i, strings.Repeat(" ", 40_000))
		if i == 0 {
			data = fmt.Sprint(slowNumber)
		}
		_, err := s.Publish(context.Background(), "acme.in.1", []byte(data))
		ok(g.t, err)
	}
}

// work runs a worker with its service until it is stopped.
func (g *guarded) work(topo *processor.Topology, worker string, jobs ...string) (stop func()) {
	g.t.Helper()
	ctx := context.Background()
	broker, err := jetstream.New(jetstream.Config{Provider: g, CreateStreams: true})
	ok(g.t, err)
	ok(g.t, broker.Start(ctx))
	nc, err := broker.Conn(ctx, jetstream.Service)
	ok(g.t, err)
	events := control.NewEvents(nc, worker, nil)
	rt, err := processor.NewRuntime(processor.RuntimeConfig{Broker: broker, Worker: worker, Listener: events.Listener(), Topologies: []*processor.Topology{topo}})
	ok(g.t, err)
	for _, name := range append(jobs, topo.Name()) {
		_, err = rt.Deploy(ctx, topo, "acme", processor.JobConfig{Name: name, Checkpoint: processor.CheckpointConfig{Interval: time.Second}})
		ok(g.t, err)
	}
	svc, err := control.New(control.Config{Conn: nc, Control: rt, Worker: rt.Worker(), Process: rt.Process(), Events: events})
	ok(g.t, err)
	ok(g.t, svc.Start(ctx))
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- rt.Run(ctx) }()
	time.Sleep(5 * time.Second)
	return func() {
		svc.Close()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			g.t.Errorf("the worker ended with %v", err)
		}
		events.Close()
		broker.Close()
	}
}

// used checks that the worker needs each line of its permissions.
func (g *guarded) used() {
	g.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	set := g.sets["worker"]
	for _, list := range []struct {
		what   string
		allow  []string
		actual map[string]string
	}{{"publish", set.Publish.Allow, g.publish}, {"subscribe", set.Subscribe.Allow, g.subs}} {
		for _, pattern := range list.allow {
			found := false
			for subject := range list.actual {
				found = found || matches(pattern, subject)
			}
			if !found {
				g.t.Errorf("a worker may %s to %s, and never did", list.what, pattern)
			}
		}
		for subject := range list.actual {
			if !slices.ContainsFunc(list.allow, func(p string) bool { return matches(p, subject) }) {
				g.t.Errorf("a worker did %s to %s, which nothing allows", list.what, subject)
			}
		}
	}
}

// refusals tries what the roles may not do.
func (g *guarded) refusals(pub, op, reader *nats.Conn) {
	g.t.Helper()
	for _, c := range []struct {
		nc       *nats.Conn
		subjects []string
	}{
		{pub, []string{
			"acme._weir.sums.sink.out", "acme.in._weir", "acme.in._weir.sums.in", "acme.a.b.c._weir.x", "globex.in.1", "$KV.weir_jobs.acme.sums", "$KV.weir_checkpoints.acme.sums",
			"weir.v1.acme.sums.stop", "weir.worker.x.acme.sums.stop", "weir.evt.acme.sums.state", "weir.dlq.acme.sums", "$JS.API.STREAM.DELETE.acme", "$O.weir_acme.M.x",
		}},
		{op, []string{
			"weir.v1.globex.sums.status", "weir.v1._._.jobs", "weir.v1._._.tenants", "weir.worker.x.acme.sums.stop", "weir.worker.x.acme.sums.cut",
			"acme.in.1", "$KV.weir_jobs.acme.sums", "weir.evt.acme.sums.state", "$JS.API.STREAM.INFO.acme", "_INBOX.x",
		}},
		{reader, []string{
			"weir.v1.acme.sums.stop", "weir.v1.acme.sums.start", "weir.v1.acme.sums.savepoint", "weir.v1.acme.sums.delete", "weir.v1.acme.sums.state", "weir.v1.acme._.savepoint",
			"weir.v1.globex.sums.status", "weir.v1.globex._.jobs", "acme.in.1",
		}},
	} {
		for _, subject := range c.subjects {
			g.wantDenied("Publish", subject, c.nc.Publish(subject, nil), c.nc)
		}
		for _, subject := range []string{"_INBOX.>", "weir.v1.>", "weir.worker.>", "weir.evt.globex.>", "weir.evt.>", "$KV.>", ">"} {
			sub, err := c.nc.SubscribeSync(subject)
			ok(g.t, err)
			g.wantDenied("Subscription", subject, nil, c.nc)
			_ = sub.Unsubscribe()
		}
	}
}

func (g *guarded) wantDenied(what, subject string, err error, nc *nats.Conn) {
	g.t.Helper()
	ok(g.t, err)
	ok(g.t, nc.Flush())
	time.Sleep(10 * time.Millisecond) // the client's error handler
	if v := g.denied(); len(v) != 1 || !strings.Contains(v[0], what) || !strings.Contains(v[0], `"`+subject+`"`) {
		g.t.Errorf("%s to %s: denied was %q", what, subject, v)
	}
}

// TestPermissionForms: the server reads what is rendered, and it says the same as the JSON.
func TestPermissionForms(t *testing.T) {
	p, err := control.Permissions(control.RoleOperator, "acme", control.PermissionConfig{})
	ok(t, err)
	want := `# This user's answers come to subjects of its own: nats --inbox-prefix=_INBOX.operator.acme …, or the field inbox_prefix of its context.
permissions: {
  publish: {
    allow: [
      "weir.v1.acme.>"
      "$SRV.PING"
      "$SRV.*.weir"
      "$SRV.*.weir.*"
    ]
  }
  subscribe: {
    allow: [
      "_INBOX.operator.acme.>"
      "weir.evt.acme.>"
    ]
  }
}
`
	equal(t, "the configuration", p.Config(), want)
	for _, role := range control.Roles {
		for _, tenant := range []tenants.ID{"", "acme"} {
			p, err := control.Permissions(role, tenant, control.PermissionConfig{Buckets: []string{"counts"}})
			if role == control.RolePublisher && tenant == "" {
				if err == nil {
					t.Error("a publisher of no tenant has permissions")
				}
				continue
			}
			ok(t, err)
			parsed, err := conf.Parse(p.Config())
			ok(t, err)
			fromConf, err := json.Marshal(parsed["permissions"])
			ok(t, err)
			fromJSON, err := json.Marshal(p)
			ok(t, err)
			var a, b any
			ok(t, json.Unmarshal(fromConf, &a))
			ok(t, json.Unmarshal(fromJSON, &b))
			equal(t, "configuration and JSON of "+string(role), fmt.Sprint(a), fmt.Sprint(b))
		}
	}
	ns, err := tenants.NewNamespace("events.{tenant}")
	ok(t, err)
	w, err := control.Permissions(control.RoleWorker, "", control.PermissionConfig{Namespace: ns, SharedBuckets: true})
	ok(t, err)
	if !slices.Contains(w.Publish.Allow, "events.*.>") || slices.Contains(w.Publish.Allow, "*.>") {
		t.Errorf("a worker of a fleet may publish to %v", w.Publish.Allow)
	}
	for _, c := range []control.PermissionConfig{{Buckets: []string{"a.>"}}, {Buckets: []string{"*"}}, {InboxPrefix: "a.*"}, {Tenants: []tenants.ID{"a.b"}}, {Tenants: []tenants.ID{"*"}}} {
		if p, err := control.Permissions(control.RoleWorker, "acme", c); err == nil {
			t.Errorf("%+v: %+v", c, p)
		}
	}
	for _, tenant := range []tenants.ID{"*", ">", "a.b", "_", "weir"} {
		if p, err := control.Permissions(control.RoleOperator, tenant, control.PermissionConfig{}); err == nil {
			t.Errorf("%q: %+v", tenant, p)
		}
	}
	if _, err := control.Permissions("root", "acme", control.PermissionConfig{}); err == nil {
		t.Error("root has permissions")
	}
}
