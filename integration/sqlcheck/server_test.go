package sqlcheck_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server/ats"
	js "github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/jetstream/embedded"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// patience bounds every wait. It is no expectation: a test that reaches it has failed for good.
const patience = 90 * time.Second

func TestMain(m *testing.M) {
	ats.Register() // the server's clock goroutine outlives all servers
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())

}

// world is a server and a plain client on it.
type world struct {
	srv *embedded.Server
	js  js.JetStream
}

func newWorld(t *testing.T) *world {
	t.Helper()
	srv, err := embedded.Start(embedded.Options{Dir: t.TempDir(), InProcessOnly: true})
	ok(t, err)
	t.Cleanup(srv.Shutdown)
	nc, err := srv.Conn(t.Context(), jetstream.Control)
	ok(t, err)
	t.Cleanup(nc.Close)
	w := &world{srv: srv}
	w.js, err = js.New(nc)
	ok(t, err)
	return w
}

// stream makes a tenant's stream as Weir would, so that events can be there before the job is.
func (w *world) stream(t *testing.T, tenant string) {
	t.Helper()
	_, err := w.js.CreateStream(t.Context(), js.StreamConfig{
		Name: tenant, Subjects: []string{tenant + ".>"}, Metadata: map[string]string{"weir.owner": "weir"},
		AllowAtomicPublish: true, AllowMsgTTL: true, AllowDirect: true, Discard: js.DiscardNew,
	})
	ok(t, err)
}

// message is one that a test publishes, on a subject relative to the tenant.
type message struct {
	tenant, subject string
	data            []byte
}

// publish publishes in order and waits for every acknowledgement.
func (w *world) publish(t *testing.T, messages []message) {
	t.Helper()
	var acks []js.PubAckFuture
	for _, m := range messages {
		ack, err := w.js.PublishAsync(m.tenant+"."+m.subject, m.data, js.WithStallWait(patience))
		ok(t, err)
		acks = append(acks, ack)
	}
	acknowledged(t, acks)
}

// acknowledged waits until everything that was published is stored.
func acknowledged(t *testing.T, acks []js.PubAckFuture) {
	t.Helper()
	for _, ack := range acks {
		select {
		case <-ack.Ok():
		case err := <-ack.Err():
			t.Fatal(err)
		case <-t.Context().Done():
			t.Fatal("not acknowledged")
		}
	}
}

// read returns what a stream has under a subject, or of each matching subject only the last.
func (w *world) read(t *testing.T, stream, subject string, policy js.DeliverPolicy) [][]byte {
	t.Helper()
	c, err := w.js.OrderedConsumer(t.Context(), stream, js.OrderedConsumerConfig{FilterSubjects: []string{subject}, DeliverPolicy: policy})
	ok(t, err)
	info, err := c.Info(t.Context())
	ok(t, err)
	if info.NumPending == 0 {
		return nil
	}
	msgs, err := c.Messages()
	ok(t, err)
	defer msgs.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out [][]byte
	for range info.NumPending {
		m, err := msgs.Next(js.NextContext(ctx))
		ok(t, err)
		out = append(out, m.Data())
	}
	return out
}

// job is a topology for a tenant.
type job struct {
	topology    *processor.Topology
	tenant      tenants.ID
	parallelism int
}

func (j job) id() tenants.JobID { return tenants.JobID{Tenant: j.tenant, Name: j.topology.Name()} }

// worker is one life of a worker process.
type worker struct {
	broker *jetstream.Broker
	rt     *processor.Runtime
	cancel context.CancelFunc
	ended  chan error
	log    *logBook

	mu          sync.Mutex
	checkpoints int
	after       int           // so many checkpoints, all jobs together, before enough is closed
	enough      chan struct{} // closed once
}

func startWorker(t *testing.T, w *world, jobs []job, after int) *worker {
	t.Helper()
	k := &worker{ended: make(chan error, 1), log: &logBook{}, after: after, enough: make(chan struct{})}
	logger := slog.New(slog.NewTextHandler(k.log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	var err error
	k.broker, err = jetstream.New(jetstream.Config{Provider: w.srv, CreateStreams: true, Logger: logger})
	ok(t, err)
	k.rt, err = processor.NewRuntime(processor.RuntimeConfig{
		Broker: k.broker, Worker: "w", Logger: logger, Listener: processor.Listener{Checkpoint: k.onCheckpoint},
	})
	ok(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	k.cancel = cancel
	ok(t, k.broker.Start(ctx))
	for _, j := range jobs {
		_, err := k.rt.Deploy(ctx, j.topology, j.tenant, processor.JobConfig{
			Parallelism: j.parallelism, KeyGroups: 12, MergeAfter: 3, Checkpoint: processor.CheckpointConfig{Interval: 50 * time.Millisecond},
			Restart: processor.RestartConfig{First: 5 * time.Millisecond, Max: 50 * time.Millisecond, Attempts: 1000},
		})
		ok(t, err)
	}
	go func() { k.ended <- k.rt.Run(ctx) }()
	return k
}

func (k *worker) onCheckpoint(processor.CheckpointEvent) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.checkpoints++; k.checkpoints == k.after {
		close(k.enough)
	}
}

// kill ends the worker as a crash would.
func (k *worker) kill() {
	k.cancel()
	<-k.ended // with the context's error
	k.broker.Close()
}

// drain ends every job: all input is read, every window closed, all results published.
func (k *worker) drain(t *testing.T, jobs []job) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	errs := make(chan error, len(jobs))
	for _, j := range jobs {
		go func() {
			for {
				_, err := k.rt.Stop(ctx, j.id(), processor.StopRequest{Mode: processor.StopDrain})
				if err == nil || !notYet(err) || ctx.Err() != nil {
					errs <- err
					return
				}
				breathe(ctx)
			}
		}()
	}
	for range jobs {
		if err := <-errs; err != nil {
			t.Errorf("draining: %v", err)
		}
	}
	if t.Failed() {
		t.Fatalf("the worker's log ends with\n%s", k.log.tail())
	}
}

// breathe waits a moment before something is asked again.
func breathe(ctx context.Context) {
	timer := time.NewTimer(10 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// logBook keeps what a worker logged.
type logBook struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBook) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buf.Bytes()
	return string(b[max(0, len(b)-6000):])
}

// play publishes messages while workers read them; all but the last of the workers are killed in between. The last one drains.
func play(t *testing.T, w *world, rng *rand.Rand, jobs []job, messages []message) {
	t.Helper()
	const lives = 4
	for life := range lives {
		for i := range jobs {
			jobs[i].parallelism = 1 + rng.IntN(3)
		}
		after := 1 + rng.IntN(len(jobs)) // each job has input, and takes at least one
		k := startWorker(t, w, jobs, after)
		share := len(messages) / (lives - life)
		w.publish(t, messages[:share])
		messages = messages[share:]
		if life == lives-1 {
			k.drain(t, jobs)
		} else {
			select {
			case <-k.enough:
			case <-time.After(patience):
				k.kill()
				t.Fatalf("life %d: %d of %d checkpoints in %s; the worker's log ends with\n%s", life, k.checkpoints, after, patience, k.log.tail())
			}
		}
		k.kill()
	}
	for _, j := range jobs {
		dlq, err := w.js.Stream(t.Context(), jetstream.DeadLetterStream)
		if err != nil {
			continue // nothing was ever dead-lettered
		}
		info, err := dlq.Info(t.Context(), js.WithSubjectFilter(processor.DeadLetterSubject(j.id())))
		ok(t, err)
		if n := fmt.Sprint(info.State.Subjects); len(info.State.Subjects) > 0 {
			t.Errorf("job %s has dead letters: %s", j.id(), n)
		}
	}
}

// notYet says that a job has not started yet, still seems to be its dead owner's, or could not be stopped for now and runs on, as
// on a machine that is so busy that requests to the server time out.
func notYet(err error) bool {
	var refused *processor.ControlError
	var elsewhere *processor.NotOwnerError
	if errors.As(err, &elsewhere) {
		return true
	}
	return errors.As(err, &refused) && slices.Contains([]processor.Reason{
		processor.ReasonNotRunning, processor.ReasonNoOwner, processor.ReasonUnavailable, processor.ReasonFailed,
	}, refused.Reason)
}
