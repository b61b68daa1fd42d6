package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/jetstream/embedded"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

func intent(tenant, job, desired string) *processor.Intent {
	return &processor.Intent{Tenant: tenant, Job: job, Topology: "counting", Desired: desired}
}

func TestIntentsCompareAndSet(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	in, rev, err := w.b.ReadIntent(ctx, job)
	ok(t, err)
	if in != nil || rev != 0 {
		t.Fatalf("there is %+v at revision %d", in, rev)
	}
	first, err := w.b.WriteIntent(ctx, intent("acme", "revenue", processor.DesiredRunning), 0)
	ok(t, err)
	_, err = w.b.WriteIntent(ctx, intent("acme", "revenue", processor.DesiredStopped), 0)
	wantErr(t, err, processor.ErrIntentChanged)
	second, err := w.b.WriteIntent(ctx, intent("acme", "revenue", processor.DesiredStopped), first)
	ok(t, err)
	in, rev, err = w.b.ReadIntent(ctx, job)
	ok(t, err)
	equal(t, "desired", in.Desired, processor.DesiredStopped)
	equal(t, "revision", rev, second)

	kv, err := w.js.KeyValue(ctx, jetstream.JobsBucket)
	ok(t, err)
	entry, err := kv.Get(ctx, "acme.revenue")
	ok(t, err)
	if !strings.Contains(string(entry.Value()), `"desired":"stopped"`) {
		t.Errorf("nats kv shows %s", entry.Value())
	}
	_, err = kv.Put(ctx, "acme.revenue", []byte("garbage"))
	ok(t, err)
	_, rev, err = w.b.ReadIntent(ctx, job)
	wantErr(t, err, processor.ErrInvalidIntent)
	third, err := w.b.WriteIntent(ctx, intent("acme", "revenue", processor.DesiredRunning), rev)
	ok(t, err)
	ok(t, kv.Delete(ctx, "acme.revenue"))
	in, rev, err = w.b.ReadIntent(ctx, job)
	ok(t, err)
	if in != nil || rev <= third {
		t.Errorf("after a deletion there is %+v at revision %d", in, rev)
	}
	_, err = w.b.WriteIntent(ctx, intent("acme", "revenue", processor.DesiredRunning), rev)
	ok(t, err)
	_, err = w.b.WriteIntent(ctx, intent("acme", "a.b", processor.DesiredRunning), 0)
	wantErr(t, err, processor.ErrInvalidIntent)
}

// A write whose answer is lost took place once; one that never arrived is sent again.
func TestIntentsWithLostReplies(t *testing.T) {
	for _, fault := range []jetstream.Fault{jetstream.LoseReply, jetstream.Drop} {
		bubble(t, func(t *testing.T) {
			left := 2
			w := newWorld(t, func(c *jetstream.Config) {
				c.Intercept = func(op, subject string) jetstream.Fault {
					if op == "publish" && strings.HasPrefix(subject, "$KV.weir_jobs.") && left > 0 {
						left--
						return fault
					}
					return jetstream.Pass
				}
			})
			rev, err := w.b.WriteIntent(context.Background(), intent("acme", "revenue", processor.DesiredRunning), 0)
			ok(t, err)
			_, now, err := w.b.ReadIntent(context.Background(), job)
			ok(t, err)
			equal(t, "revision", rev, now)
			equal(t, "messages", rev, 1)
		})
	}
}

// heard collects what a watch says.
type heard struct {
	mu    sync.Mutex
	last  map[string]string // what each job should do, "?" for what cannot be read, "" for none
	times int
	ready int
}

func (h *heard) each(rec processor.IntentRecord) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.times++
	what := ""
	switch {
	case rec.Err != nil:
		what = "?"
	case rec.Intent != nil:
		what = rec.Intent.Desired
	}
	h.last[rec.Job.String()] = what
}

func (h *heard) isReady() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ready++
	h.last["ready at"] = fmt.Sprint(len(h.last))
}

func (h *heard) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return fmt.Sprint(h.last)
}

func watch(t *testing.T, b *jetstream.Broker) *heard {
	t.Helper()
	h := &heard{last: map[string]string{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.WatchIntents(ctx, h.each, h.isReady) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("the watch ended with %v", err)
		}
	})
	return h
}

func TestWatchIntents(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		ctx := context.Background()
		empty := watch(t, w.b)
		time.Sleep(time.Second)
		equal(t, "an empty bucket", empty.String(), "map[ready at:0]")
		write := func(job, desired string) {
			_, rev, _ := w.b.ReadIntent(ctx, tenants.JobID{Tenant: "acme", Name: job})
			_, err := w.b.WriteIntent(ctx, intent("acme", job, desired), rev)
			ok(t, err)
		}
		write("a", processor.DesiredRunning)
		write("a", processor.DesiredStopped)
		write("b", processor.DesiredRunning)
		kv, err := w.js.KeyValue(ctx, jetstream.JobsBucket)
		ok(t, err)
		for key, value := range map[string]string{"acme.c": "garbage", "foreign": "x", "a.b.c": "x", "acme.UPPER": "x"} {
			_, err := kv.Put(ctx, key, []byte(value))
			ok(t, err)
		}
		h := watch(t, w.b)
		time.Sleep(time.Second)
		equal(t, "what was heard", h.String(), "map[acme/a:stopped acme/b:running acme/c:? ready at:3]")
		write("c", processor.DesiredRunning)
		ok(t, kv.Delete(ctx, "acme.b"))
		time.Sleep(time.Second)
		equal(t, "what was heard", h.String(), "map[acme/a:stopped acme/b: acme/c:running ready at:3]")

		// The consumer goes away, as with the leader that has it: everything is read again.
		s, err := w.js.Stream(ctx, "KV_"+jetstream.JobsBucket)
		ok(t, err)
		for name := range s.ConsumerNames(ctx).Name() {
			ok(t, s.DeleteConsumer(ctx, name))
		}
		write("a", processor.DesiredRunning)
		time.Sleep(time.Minute)
		equal(t, "what was heard", h.String(), "map[acme/a:running acme/b: acme/c:running ready at:3]")
		h.mu.Lock()
		equal(t, "ready", h.ready, 1)
		h.mu.Unlock()
		time.Sleep(time.Hour)
		names := 0
		for range s.ConsumerNames(ctx).Name() {
			names++
		}
		equal(t, "consumers", names, 2)
	})
}

// A worker follows the bucket over a restart of the server, and hears of what changed meanwhile.
func TestWatchIntentsOverARestartOfTheServer(t *testing.T) {
	dir := t.TempDir()
	srv, err := embedded.Start(embedded.Options{Dir: dir})
	ok(t, err)
	port := portOf(t, srv.ClientURL())
	b := newBroker(t, nil, func(c *jetstream.Config) { c.URL = srv.ClientURL() })
	ctx := context.Background()
	rev, err := b.WriteIntent(ctx, intent("acme", "a", processor.DesiredRunning), 0)
	ok(t, err)
	h := watch(t, b)
	until(t, "the first intent", func() bool { return h.String() == "map[acme/a:running ready at:1]" })
	srv.Shutdown()
	srv, err = embedded.Start(embedded.Options{Dir: dir, Port: port})
	ok(t, err)
	t.Cleanup(srv.Shutdown)
	other := newBroker(t, srv)
	_, err = other.WriteIntent(ctx, intent("acme", "a", processor.DesiredStopped), rev)
	ok(t, err)
	until(t, "the change", func() bool { return h.String() == "map[acme/a:stopped ready at:1]" })
}

// A job that was stopped on a real server stays stopped over restarts and deployments, and starts with another configuration.
func TestStopAndStartOnAServer(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	id := tenants.JobID{Tenant: "acme", Name: "counting"}
	start := func(worker string) (*processor.Runtime, *processor.Job, func()) {
		rt, err := processor.NewRuntime(processor.RuntimeConfig{Broker: w.b, Worker: worker, StandbyInterval: 20 * time.Millisecond})
		ok(t, err)
		j, err := rt.Deploy(ctx, counting(t), "acme", processor.JobConfig{Checkpoint: processor.CheckpointConfig{Interval: 50 * time.Millisecond}})
		ok(t, err)
		run, cancel := context.WithCancel(ctx)
		ran := make(chan struct{})
		go func() {
			defer close(ran)
			_ = rt.Run(run)
		}()
		return rt, j, func() { cancel(); <-ran }
	}
	state := func(j *processor.Job, want processor.JobState) {
		t.Helper()
		until(t, "the job is "+string(want), func() bool { return j.Status().State == want })
	}
	rt, j, crash := start("w1")
	state(j, processor.JobRunning)
	w.publish("acme.lines.a", 100)
	until(t, "results", func() bool { return len(w.results("acme")) == 100 })
	_, err := rt.Stop(ctx, id, processor.StopRequest{Mode: processor.StopSavepoint, Savepoint: "hundred"})
	ok(t, err)
	crash()
	w.publish("acme.lines.a", 50)
	rt, j, crash = start("w1")
	state(j, processor.JobStopped)
	two := 2
	rep, err := rt.Start(ctx, id, processor.StartRequest{Config: &processor.ConfigPatch{Parallelism: &two}})
	ok(t, err)
	equal(t, "parallelism", rep.Parallelism, 2)
	until(t, "results", func() bool { return len(w.results("acme")) == 150 })
	crash()
	// Another worker takes it over with the configuration that the first was given.
	rt, j, crash = start("w1")
	state(j, processor.JobRunning)
	equal(t, "parallelism", j.Status().Parallelism, 2)
	fork, err := rt.Fork(ctx, id, processor.ForkRequest{As: "copy", Savepoint: "hundred"})
	ok(t, err)
	equal(t, "state of the fork", fork.State, processor.JobRunning)
	list, err := rt.Jobs(ctx, "acme")
	ok(t, err)
	equal(t, "jobs", len(list), 2)
	for _, name := range []string{"copy", "counting"} {
		ok(t, rt.Delete(ctx, tenants.JobID{Tenant: "acme", Name: name}, processor.DeleteRequest{Confirm: name, Savepoints: true}))
	}
	list, err = rt.Jobs(ctx, "")
	ok(t, err)
	equal(t, "jobs", len(list), 0)
	crash()
	equal(t, "results", len(w.results("acme")), 150)
	kv, err := w.js.KeyValue(ctx, jetstream.CheckpointBucket)
	ok(t, err)
	keys, err := kv.Keys(ctx)
	ok(t, err)
	equal(t, "records left", strings.Join(keys, " "), "acme.copy acme.counting")
	objects, err := w.js.ObjectStore(ctx, "weir_acme")
	ok(t, err)
	if left, err := objects.List(ctx); !errors.Is(err, js.ErrNoObjectsFound) {
		t.Errorf("objects are left: %d, %v", len(left), err)
	}
}

// A bucket that was made anew counts its revisions from the beginning: what it says counts all the same.
func TestAnIntentBucketThatIsMadeAnew(t *testing.T) {
	w := newWorld(t, func(c *jetstream.Config) { c.Heartbeat = 200 * time.Millisecond })
	ctx := context.Background()
	rt, err := processor.NewRuntime(processor.RuntimeConfig{Broker: w.b, Worker: "w1"})
	ok(t, err)
	j, err := rt.Deploy(ctx, counting(t), "acme", processor.JobConfig{})
	ok(t, err)
	run, cancel := context.WithCancel(ctx)
	ran := make(chan struct{})
	go func() {
		defer close(ran)
		_ = rt.Run(run)
	}()
	until(t, "the job runs", func() bool { return j.Status().State == processor.JobRunning })
	id := tenants.JobID{Tenant: "acme", Name: "counting"}
	for i := range 5 {
		n := 1 + i%2
		_, err := rt.Start(ctx, id, processor.StartRequest{Config: &processor.ConfigPatch{Parallelism: &n}})
		ok(t, err)
	}
	info, err := w.js.Stream(ctx, "KV_"+jetstream.JobsBucket)
	ok(t, err)
	ok(t, w.js.DeleteStream(ctx, "KV_"+jetstream.JobsBucket))
	w.stream(info.CachedInfo().Config)
	_, err = w.b.WriteIntent(ctx, intent("acme", "counting", processor.DesiredStopped), 0)
	ok(t, err)
	until(t, "the job stops", func() bool { return j.Status().State == processor.JobStopped })
	cancel()
	<-ran
}
