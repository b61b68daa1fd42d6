package integration_test

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/jetstream/embedded"
	"github.com/weirstream/weir/processor"
)

// TestBadInputFullStream: a stream or bucket of the job's is full. The job waits, publishes nothing twice, and goes on by itself when
// there is room.
func TestBadInputFullStream(t *testing.T) {
	seed := newSeed(t)
	tries := map[string]string{ // what the worker sends again and again when the stream is full
		"OBJ_weir_acme": "$O.weir_acme.C.", "outputs": "acme._weir.", "KV_" + tallyBucket: "$KV.tallies._weir.",
		jetstream.DeadLetterStream: "weir.dlq._weir.", "KV_weir_checkpoints": "$KV.weir_checkpoints.acme.",
	}
	for i, name := range slices.Sorted(maps.Keys(tries)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			rng := newRand(seed, uint64(i))
			w := newWorld(t)
			h := newHistory("acme")
			in, out := ownStream("acme", 1), ownStream("outputs", 1)
			in.Subjects, out.Subjects = []string{"acme.in.>"}, []string{"acme.out.>", "acme._weir.>"}
			w.stream(t, in)
			w.stream(t, out)
			spec := workerSpec{name: "a", job: smallJob(), topo: tallyTopology(t)}
			spec.job.Restart.Attempts = 10_000
			var sent atomic.Int64
			spec.broker = func(cfg *jetstream.Config) {
				cfg.Intercept = func(op, subject string) jetstream.Fault {
					if (op == "chunk" || op == "publish" || op == "batch.commit") && strings.HasPrefix(subject, tries[name]) {
						sent.Add(1)
					}
					return jetstream.Pass
				}
			}
			a := startWorker(t, w.srv, spec, "acme")
			w.publish(t, "acme", h.random(rng, 100, 5))
			w.publish(t, "acme", []input{h.garbage([]byte("first"))})
			place := h.home()
			place.output = "outputs"
			settled := func() error { return a.settledAt(ctx, w, place, h) }
			ok(t, settled())
			s, err := w.js.Stream(ctx, name)
			ok(t, err)
			roomy := s.CachedInfo().Config
			info, err := s.Info(ctx)
			ok(t, err)
			tight := roomy
			tight.MaxBytes, tight.Discard = int64(info.State.Bytes)+100, js.DiscardNew
			_, err = w.js.UpdateStream(ctx, tight)
			ok(t, err)
			w.publish(t, "acme", h.random(rng, 300, 50))
			w.publish(t, "acme", []input{h.garbage(make([]byte, 10_000))})
			before := sent.Load()
			eventually(t, "the worker has tried often", func() bool { return sent.Load() > before+3 })
			info, err = s.Info(ctx)
			ok(t, err)
			if info.State.Bytes > uint64(tight.MaxBytes) {
				t.Fatalf("the stream holds %d bytes, its limit is %d", info.State.Bytes, tight.MaxBytes)
			}
			if st := a.status("acme").State; st == processor.JobFailed || st == processor.JobParked {
				t.Fatalf("the job is %s: %v", st, a.status("acme").Err)
			}
			_, err = w.js.UpdateStream(ctx, roomy)
			ok(t, err)
			ok(t, settled())
			ok(t, a.drain())
			w.exactAt(t, place, h)
		})
	}
}

// TestBadInputFullServer fills the server's disk quota while a job runs.
func TestBadInputFullServer(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	rng := newRand(newSeed(t))
	w := newWorld(t, func(o *embedded.Options) { o.MaxStore = 32 << 20 })
	h := newHistory("acme")
	w.stream(t, ownStream("acme", 1))
	spec := workerSpec{name: "a", job: smallJob(), topo: tallyTopology(t)}
	spec.job.Restart.Attempts = 10_000
	a := startWorker(t, w.srv, spec, "acme")
	w.publish(t, "acme", h.random(rng, 100, 5))
	ok(t, a.settled(ctx, w, h))
	w.stream(t, js.StreamConfig{Name: "filler", Subjects: []string{"filler"}})
	var refused error
	for size := 512 << 10; size >= 16; size /= 2 {
		for refused = nil; refused == nil; {
			_, refused = w.js.Publish(ctx, "filler", make([]byte, size))
		}
	}
	var api *js.APIError
	if !errors.As(refused, &api) {
		t.Fatalf("the server is not full, it says %v", refused)
	}
	// Room for the input, not for what comes of it.
	ok(t, w.mustStream(t, "filler").Purge(ctx, js.WithPurgeKeep(1_000_000)))
	sent := 0
	for ; sent < 200; sent++ {
		in := newEvent("acme", "probe", uint64(sent))
		if _, err := w.js.Publish(ctx, "acme."+in.subject, in.data); err != nil {
			break
		}
		h.apply(in.data)
	}
	t.Logf("%d events fit into the full server", sent)
	eventually(t, "the full server refuses the worker", func() bool { return a.log.has("insufficient") || a.log.has("no room") || a.log.has("resource") })
	if st := a.status("acme").State; st == processor.JobFailed || st == processor.JobParked {
		t.Fatalf("the job is %s: %v", st, a.status("acme").Err)
	}
	ok(t, w.js.DeleteStream(ctx, "filler"))
	w.publish(t, "acme", h.random(rng, 100, 5))
	a.finish(w, h)
}

func (w *world) mustStream(t testing.TB, name string) js.Stream {
	t.Helper()
	s, err := w.js.Stream(context.Background(), name)
	ok(t, err)
	return s
}

// flakyServer is a provider whose server can go away and come back with the same data.
type flakyServer struct {
	dir string

	mu  sync.Mutex
	srv *server.Server
}

// InProcessConn implements nats.InProcessConnProvider.
func (f *flakyServer) InProcessConn() (net.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.srv == nil {
		return nil, errors.New("connection refused")
	}
	return f.srv.InProcessConn()
}

func (f *flakyServer) Conn(_ context.Context, p jetstream.Purpose) (*nats.Conn, error) {
	return nats.Connect("", append(jetstream.ConnOptions(p, nil), nats.InProcessServer(f))...)
}

func (f *flakyServer) up(t testing.TB) {
	t.Helper()
	srv, err := server.NewServer(&server.Options{DontListen: true, NoSigs: true, NoLog: true, JetStream: true, StoreDir: f.dir})
	ok(t, err)
	srv.Start()
	if !srv.ReadyForConnections(patience) {
		t.Fatal("the server is not ready")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.srv = srv
}

func (f *flakyServer) down() {
	f.mu.Lock()
	srv := f.srv
	f.srv = nil
	f.mu.Unlock()
	srv.Shutdown()
	srv.WaitForShutdown()
}

// TestBadInputBrokerGone takes the server away for a minute, several times, in virtual time. The job is neither parked nor lost.
func TestBadInputBrokerGone(t *testing.T) {
	seed := newSeed(t)
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		rng := newRand(seed)
		f := &flakyServer{dir: dir}
		f.up(t)
		nc, err := f.Conn(context.Background(), jetstream.Control)
		ok(t, err)
		defer nc.Close()
		s, err := js.New(nc)
		ok(t, err)
		w := &world{nc: nc, js: s}
		h := newHistory("acme")
		w.stream(t, ownStream("acme", 1))
		spec := workerSpec{name: "a", job: smallJob(), topo: tallyTopology(t)}
		spec.job.Restart.Attempts = 3
		a := startWorker(t, f, spec, "acme")
		for range 4 {
			w.publish(t, "acme", h.random(rng, 50, 5))
			time.Sleep(time.Duration(rng.IntN(60)) * time.Millisecond)
			f.down()
			time.Sleep(time.Minute)
			f.up(t)
			time.Sleep(5 * time.Second)
			if st := a.status("acme"); st.State == processor.JobFailed || st.State == processor.JobParked {
				t.Fatalf("the job is %s: %v", st.State, st.Err)
			}
		}
		w.publish(t, "acme", h.random(rng, 50, 5))
		a.finish(w, h)
		a.kill()
		nc.Close()
		f.down()
	})
}
