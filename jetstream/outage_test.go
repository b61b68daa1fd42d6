package jetstream_test

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/jetstream/embedded"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

var seen = state.NewValue[int64]("seen")

// counting numbers the records of every tenant: 1, 2, 3.
func counting(t testing.TB) *processor.Topology {
	t.Helper()
	b := processor.NewBuilder("counting")
	lines := processor.From(b, "lines", processor.SourceSpec[string]{Filters: []tenants.Filter{"lines.>"}, Codec: codec.String()})
	keyed := processor.KeyBy(lines, func(string) string { return "all" })
	counts := processor.Process(keyed, "count", func(pc *processor.Context[string], _ string) error {
		n, err := seen.Get(pc)
		if err != nil {
			return err
		}
		pc.Emit(strconv.FormatInt(n+1, 10))
		return seen.Set(pc, n+1)
	}, processor.Uses(seen))
	processor.To(counts, "counts", processor.SinkSpec[string]{Subject: func(string) string { return "counts" }, Codec: codec.String()})
	topology, err := b.Build()
	ok(t, err)
	return topology
}

// until polls, and fails the test when it takes for ever.
func until(t testing.TB, what string, done func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not after a minute", what)
		}
	}
}

// results reads what counting has published for a tenant.
func (w *world) results(tenant string) []string {
	w.t.Helper()
	c, err := w.js.OrderedConsumer(context.Background(), tenant, js.OrderedConsumerConfig{FilterSubjects: []string{tenant + ".counts"}})
	ok(w.t, err)
	info, err := c.Info(context.Background())
	ok(w.t, err)
	n := int(info.NumPending)
	if n == 0 {
		return nil
	}
	batch, err := c.Fetch(n)
	ok(w.t, err)
	out := make([]string, 0, n)
	for m := range batch.Messages() {
		out = append(out, string(m.Data()))
	}
	ok(w.t, batch.Error())
	return out
}

// TestJobsOutliveTheServer stops the server under a running job for longer than every timeout and every restart the job has. Another
// job is deployed while there is no server.
func TestJobsOutliveTheServer(t *testing.T) {
	dir, port := t.TempDir(), -1
	srv, err := embedded.Start(embedded.Options{Dir: dir, Port: port})
	ok(t, err)
	defer func() { srv.Shutdown() }()
	port = portOf(t, srv.ClientURL())
	var down atomic.Bool
	var asked atomic.Int64 // while the server was away
	b, err := jetstream.New(jetstream.Config{
		URL: srv.ClientURL(), CreateStreams: true, Timeout: 100 * time.Millisecond, Heartbeat: 100 * time.Millisecond,
		Options: []nats.Option{nats.ReconnectWait(20 * time.Millisecond), nats.ReconnectJitter(0, 0)},
		Intercept: func(string, string) jetstream.Fault {
			if down.Load() {
				asked.Add(1)
			}
			return jetstream.Pass
		},
	})
	ok(t, err)
	ok(t, b.Start(context.Background()))
	defer b.Close()

	var mu sync.Mutex
	events := map[string]int{}
	rt, err := processor.NewRuntime(processor.RuntimeConfig{Broker: b, HeartbeatInterval: 100 * time.Millisecond, TakeoverAfter: time.Second,
		StandbyInterval: 100 * time.Millisecond, Listener: processor.Listener{Job: func(ev processor.JobEvent) {
			mu.Lock()
			defer mu.Unlock()
			events[string(ev.Job.Tenant)+" "+string(ev.State)]++
		}}})
	ok(t, err)
	cfg := processor.JobConfig{
		Restart:    processor.RestartConfig{First: 10 * time.Millisecond, Max: 100 * time.Millisecond, Attempts: 2},
		Checkpoint: processor.CheckpointConfig{Interval: 20 * time.Millisecond, Timeout: 300 * time.Millisecond, TolerableFailures: -1},
	}
	acme, err := rt.Deploy(context.Background(), counting(t), "acme", cfg)
	ok(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ran := make(chan error, 1)
	go func() { ran <- rt.Run(ctx) }()
	until(t, "the first job runs", func() bool { return acme.Status().State == processor.JobRunning })

	w := &world{t: t, srv: srv}
	w.nc, w.js = newClient(t, srv)
	w.publish("acme.lines.a", 300)
	until(t, "a checkpoint", func() bool { return acme.Status().Checkpoint > 1 })
	w.publish("acme.lines.a", 50) // most likely in the middle of a checkpoint
	w.nc.Close()
	down.Store(true)
	srv.Shutdown()
	globex, err := rt.Deploy(context.Background(), counting(t), "globex", cfg)
	ok(t, err)
	until(t, "the broker asks in vain", func() bool { return asked.Load() > 200 })
	down.Store(false)

	srv, err = embedded.Start(embedded.Options{Dir: dir, Port: port})
	ok(t, err)
	w.srv = srv
	w.nc, w.js = newClient(t, srv)
	until(t, "both jobs run", func() bool {
		return acme.Status().State == processor.JobRunning && globex.Status().State == processor.JobRunning
	})
	w.publish("acme.lines.a", 50)
	w.publish("globex.lines.a", 100)
	for tenant, n := range map[string]int{"acme": 400, "globex": 100} {
		until(t, "the results of "+tenant, func() bool { return len(w.results(tenant)) >= n })
	}
	cancel()
	<-ran
	for tenant, n := range map[string]int{"acme": 400, "globex": 100} {
		got := w.results(tenant)
		equal(t, "number of results of "+tenant, len(got), n)
		for i := range got {
			equal(t, "a result of "+tenant, got[i], strconv.Itoa(i+1))
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for _, tenant := range []string{"acme", "globex"} {
		for _, state := range []processor.JobState{processor.JobParked, processor.JobFailed} {
			if events[tenant+" "+string(state)] > 0 {
				t.Errorf("a job was hit: %v", events)
			}
		}
	}
}
