package integration_test

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// says fails unless the error has every word: which tenant, job and stream it is about, and what to do.
func says(t testing.TB, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("there is no error, want one that says %q", words)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error does not say %q: %v", word, err)
		}
	}
}

func isError(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("the error is %v, want %v", err, want)
	}
}

// plainServer is a provider for a server that the embedded package would not start.
type plainServer struct{ srv *server.Server }

func (p plainServer) Conn(_ context.Context, purpose jetstream.Purpose) (*nats.Conn, error) {
	return nats.Connect("", append(jetstream.ConnOptions(purpose, nil), nats.InProcessServer(p.srv))...)
}

func newPlainServer(t testing.TB, o server.Options) plainServer {
	t.Helper()
	o.DontListen, o.NoSigs, o.NoLog = true, true, true
	srv, err := server.NewServer(&o)
	ok(t, err)
	srv.Start()
	t.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	if !srv.ReadyForConnections(patience) {
		t.Fatal("the server is not ready")
	}
	return plainServer{srv}
}

func TestBadInputServer(t *testing.T) {
	start := func(cfg jetstream.Config) error {
		b, err := jetstream.New(cfg)
		ok(t, err)
		defer b.Close()
		return b.Start(context.Background())
	}
	t.Run("no server", func(t *testing.T) {
		err := start(jetstream.Config{URL: "nats://127.0.0.1:1", Options: []nats.Option{nats.Timeout(time.Second)}})
		isError(t, err, jetstream.ErrNoServer)
		says(t, err, "nats://127.0.0.1:1", "nats-server -js", "--url")
	})
	t.Run("no JetStream", func(t *testing.T) {
		err := start(jetstream.Config{Provider: newPlainServer(t, server.Options{})})
		isError(t, err, jetstream.ErrNoJetStream)
		says(t, err, "-js")
	})
	t.Run("no JetStream in the account", func(t *testing.T) {
		acc := server.NewAccount("POOR")
		srv := newPlainServer(t, server.Options{
			JetStream: true, StoreDir: t.TempDir(), Accounts: []*server.Account{acc}, NoAuthUser: "poor",
			Users: []*server.User{{Username: "poor", Password: "poor", Account: acc}},
		})
		err := start(jetstream.Config{Provider: srv})
		isError(t, err, jetstream.ErrNoJetStream)
		says(t, err, "account")
	})
}

// TestBadInputStreams deploys onto streams that cannot work. Each error names tenant, job and stream and what to do; the streams
// stay as they were.
func TestBadInputStreams(t *testing.T) {
	good := func() js.StreamConfig {
		return js.StreamConfig{Name: "theirs", Subjects: []string{"acme.>"}, AllowAtomicPublish: true, AllowMsgTTL: true}
	}
	cases := []struct {
		name   string
		change func(*js.StreamConfig)
		words  []string
	}{
		{"nothing captures the input", func(c *js.StreamConfig) { c.Subjects = []string{"acme.out.>", "acme._weir.>"} },
			[]string{"acme.in.>", "source events"}},
		{"nothing captures the output", func(c *js.StreamConfig) { c.Subjects = []string{"acme.in.>", "acme._weir.>"} },
			[]string{"acme.out.>", "sink out"}},
		{"the marker is not captured", func(c *js.StreamConfig) { c.Subjects = []string{"acme.in.>", "acme.out.>"} },
			[]string{"theirs", "acme._weir.tally.sink.out", "nats stream edit theirs --subjects"}},
		{"work-queue retention", func(c *js.StreamConfig) { c.Retention = js.WorkQueuePolicy },
			[]string{"theirs", "work-queue", "limits retention", "source events"}},
		{"interest retention", func(c *js.StreamConfig) { c.Retention = js.InterestPolicy },
			[]string{"theirs", "interest", "nats stream edit theirs --retention limits"}},
		{"no atomic batches", func(c *js.StreamConfig) { c.AllowAtomicPublish = false },
			[]string{"theirs", "sink out", "nats stream edit theirs --allow-batch"}},
		{"an age limit without TTLs", func(c *js.StreamConfig) { c.MaxAge, c.AllowMsgTTL = time.Hour, false },
			[]string{"theirs", "age limit", "nats stream edit theirs --allow-msg-ttl"}},
		{"a size limit that discards the marker", func(c *js.StreamConfig) { c.MaxMsgs, c.Discard = 1000, js.DiscardOld },
			[]string{"theirs", "size limit", "nats stream edit theirs --discard new", "AllowMarkerLoss"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			cfg := good()
			c.change(&cfg)
			w.stream(t, cfg)
			before := w.configs(t)
			spec := workerSpec{job: smallJob(), topo: tallyTopology(t), broker: func(cfg *jetstream.Config) { cfg.CreateStreams = false }}
			err := newWorker(t, w.srv, spec).start(spec, "acme")
			says(t, err, append(c.words, "acme/tally")...)
			after := w.configs(t)
			for name := range after {
				if strings.HasPrefix(name, "KV_weir_") {
					delete(after, name) // Weir's own
				}
			}
			if !reflect.DeepEqual(before, after) {
				t.Errorf("the streams were\n%+v\nand are now\n%+v", before, after)
			}
		})
	}
}

// configs returns the configuration of every stream.
func (w *world) configs(t testing.TB) map[string]js.StreamConfig {
	t.Helper()
	all := map[string]js.StreamConfig{}
	list := w.js.ListStreams(context.Background())
	for info := range list.Info() {
		all[info.Config.Name] = info.Config
	}
	ok(t, list.Err())
	return all
}

func TestBadInputNames(t *testing.T) {
	w := newWorld(t)
	spec := workerSpec{job: smallJob(), topo: tallyTopology(t)}
	worker := newWorker(t, w.srv, spec)
	ok(t, worker.start(spec))
	before := w.configs(t)
	hostile := []string{"", ".", "..", "*", ">", "a.b", "a b", "a\x00b", "a\r\nb", "../up", "_weir", "$JS", "ä", "-a", "a*", strings.Repeat("a", 65)}
	for _, name := range hostile {
		if _, err := worker.rt.Deploy(context.Background(), spec.topo, tenants.ID(name), spec.job); !errors.Is(err, tenants.ErrInvalidName) {
			t.Errorf("tenant %q: the error is %v", name, err)
		}
		if name == "" {
			continue // the topology's name
		}
		cfg := spec.job
		cfg.Name = name
		if _, err := worker.rt.Deploy(context.Background(), spec.topo, "acme", cfg); !errors.Is(err, tenants.ErrInvalidName) {
			t.Errorf("job %q: the error is %v", name, err)
		}
	}
	for _, name := range []string{"a.b", "a b", "*", "x/../y", "\x00"} {
		cfg := spec.job
		cfg.Streams = map[string]string{"events": name}
		if _, err := worker.rt.Deploy(context.Background(), spec.topo, "acme", cfg); err == nil {
			t.Errorf("stream %q was accepted", name)
		}
	}
	if after := w.configs(t); !reflect.DeepEqual(before, after) {
		t.Errorf("the refused deployments left something: %v", after)
	}
	if len(worker.rt.Hosted()) != 0 {
		t.Errorf("the refused deployments left jobs: %v", worker.rt.Hosted())
	}
}

// TestBadInputSecondWorker: of two workers one owns the job and the other stands by, says whom it waits for, and takes over when
// the owner is gone.
func TestBadInputSecondWorker(t *testing.T) {
	w := newWorld(t)
	h := newHistory("acme")
	rng := newRand(newSeed(t))
	w.stream(t, ownStream("acme", 1))
	spec := func(name string) workerSpec {
		return workerSpec{name: name, job: smallJob(), topo: tallyTopology(t), runtime: func(cfg *processor.RuntimeConfig) {
			cfg.HeartbeatInterval, cfg.TakeoverAfter = 50*time.Millisecond, 5*time.Second
		}}
	}
	w.publish(t, "acme", h.random(rng, 100, 10))
	a := startWorker(t, w.srv, spec("a"), "acme")
	eventually(t, "the first worker runs the job", func() bool { return a.status("acme").State == processor.JobRunning })
	b := startWorker(t, w.srv, spec("b"), "acme")
	eventually(t, "the second worker stands by", func() bool {
		s := b.status("acme")
		return s.State == processor.JobStandby && s.Owner == "a"
	})
	w.publish(t, "acme", h.random(rng, 100, 10))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ok(t, a.settled(ctx, w, h))
	if head := headOf(t, w, "acme"); head.Epoch != 1 || head.Worker != "a" {
		t.Fatalf("epoch %d of worker %s, want epoch 1 of a", head.Epoch, head.Worker)
	}
	a.kill()
	w.publish(t, "acme", h.random(rng, 100, 10))
	b.finish(w, h)
}
