package integration_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
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

var seedFlag = flag.Uint64("seed", 0, "seed of every random choice; 0: a new one, which is printed")

// patience bounds every wait. It is no expectation: a test that reaches it has failed for good.
const patience = 90 * time.Second

// newSeed prints the seed that replays the test.
func newSeed(t testing.TB) uint64 {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64N(1_000_000_000) + 1
	}
	t.Logf("replay with -run '^%s$' -seed %d", t.Name(), seed)
	return seed
}

func newRand(seed uint64, salt ...uint64) *rand.Rand {
	var s uint64
	for _, v := range salt {
		s = s*1_000_003 + v + 1
	}
	return rand.New(rand.NewPCG(seed, s))
}

func TestMain(m *testing.M) {
	flag.Parse()
	if role := os.Getenv(roleEnv); role != "" {
		os.Exit(playRole(role))
	}
	// The server's clock goroutine outlives all servers.
	ats.Register()
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())
}

// world is a server and a plain client on it.
type world struct {
	srv *embedded.Server
	nc  *nats.Conn
	js  js.JetStream
}

func newWorld(t testing.TB, change ...func(*embedded.Options)) *world {
	t.Helper()
	o := embedded.Options{Dir: t.TempDir(), InProcessOnly: true}
	for _, f := range change {
		f(&o)
	}
	srv, err := embedded.Start(o)
	ok(t, err)
	t.Cleanup(srv.Shutdown)
	w := &world{srv: srv}
	w.connect(t)
	return w
}

// connect makes the client new; the one before is closed.
func (w *world) connect(t testing.TB) {
	t.Helper()
	if w.nc != nil {
		w.nc.Close()
	}
	nc, err := w.srv.Conn(context.Background(), jetstream.Control)
	ok(t, err)
	t.Cleanup(nc.Close)
	w.nc = nc
	w.js, err = js.New(nc)
	ok(t, err)
}

// publish sends inputs for a tenant and waits for every acknowledgement.
func (w *world) publish(t testing.TB, tenant string, inputs []input) {
	t.Helper()
	ok(t, publishAll(context.Background(), w.js, tenant, inputs))
}

func publishAll(ctx context.Context, s js.JetStream, tenant string, inputs []input) error {
	for _, in := range inputs {
		if _, err := s.Publish(ctx, tenant+"."+in.subject, in.data); err != nil {
			return fmt.Errorf("publish input of tenant %s: %w", tenant, err)
		}
	}
	return nil
}

// ownStream makes a tenant's stream as Weir would, so that inputs can be there before the job is.
func ownStream(tenant string, replicas int) js.StreamConfig {
	return js.StreamConfig{
		Name: tenant, Subjects: []string{tenant + ".>"}, Metadata: map[string]string{"weir.owner": "weir"},
		AllowAtomicPublish: true, AllowMsgTTL: true, AllowDirect: true, Discard: js.DiscardNew, Replicas: replicas,
	}
}

func (w *world) stream(t testing.TB, cfg js.StreamConfig) js.Stream {
	t.Helper()
	s, err := w.js.CreateStream(context.Background(), cfg)
	ok(t, err)
	return s
}

// place says where a job's results are.
type place struct {
	output string // stream
	ns     tenants.Namespace
	job    tenants.JobID
}

// home is the place of a job of the dedicated layout.
func (h *history) home() place {
	return place{output: h.tenant, job: tenants.JobID{Tenant: tenants.ID(h.tenant), Name: h.job}}
}

// released counts the results and dead letters of a job.
func released(ctx context.Context, s js.JetStream, p place) (int, error) {
	out, err := countSubjects(ctx, s, p.output, p.ns.Absolute(p.job.Tenant, "out.>"))
	if err != nil {
		return 0, err
	}
	dead, err := countSubjects(ctx, s, jetstream.DeadLetterStream, processor.DeadLetterSubject(p.job))
	return out + dead, err
}

// countSubjects counts a stream's messages on the subjects of a filter; 0 if there is no stream.
func countSubjects(ctx context.Context, s js.JetStream, stream, filter string) (int, error) {
	handle, err := s.Stream(ctx, stream)
	if errors.Is(err, js.ErrStreamNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	info, err := handle.Info(ctx, js.WithSubjectFilter(filter))
	if err != nil {
		return 0, err
	}
	n := 0
	for _, c := range info.State.Subjects {
		n += int(c)
	}
	return n, nil
}

// outcome reads all that a tenant's job left.
func (w *world) outcome(t testing.TB, h *history) outcome {
	t.Helper()
	o, err := readOutcome(context.Background(), w.js, h.home())
	ok(t, err)
	return o
}

func readOutcome(ctx context.Context, s js.JetStream, p place) (outcome, error) {
	out := outcome{bucket: map[string]tally{}}
	tenant := string(p.job.Tenant)
	err := readStream(ctx, s, p.output, p.ns.Absolute(p.job.Tenant, "out.>"), func(m js.Msg) error {
		var c tally
		if err := json.Unmarshal(m.Data(), &c); err != nil {
			return err
		}
		if want := p.ns.Absolute(p.job.Tenant, "out."+tenants.EscapeToken(c.Key)); m.Subject() != want {
			return fmt.Errorf("key %q is on subject %s, want %s", c.Key, m.Subject(), want)
		}
		out.tallies = append(out.tallies, c)
		return nil
	})
	if err != nil {
		return out, err
	}
	prefix := "$KV." + tallyBucket + "." + tenant + "."
	err = readStream(ctx, s, "KV_"+tallyBucket, prefix+">", func(m js.Msg) error {
		key, err := tenants.UnescapeToken(strings.TrimPrefix(m.Subject(), prefix))
		if err != nil {
			return err
		}
		var c tally
		if err := json.Unmarshal(m.Data(), &c); err != nil {
			return err
		}
		out.bucket[key] = c
		return nil
	})
	if err != nil {
		return out, err
	}
	err = readStream(ctx, s, jetstream.DeadLetterStream, processor.DeadLetterSubject(p.job), func(m js.Msg) error {
		out.dead = append(out.dead, deadLetter{m.Data(), m.Headers()})
		return nil
	})
	return out, err
}

// readStream calls fn with every message of a stream on a subject, in order. A stream that is not there is an empty one.
func readStream(ctx context.Context, s js.JetStream, stream, filter string, fn func(js.Msg) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for next, done := uint64(1), false; !done; {
		var err error
		if next, done, err = readOn(ctx, s, stream, filter, next, fn); err != nil {
			return fmt.Errorf("read %s of stream %s from %d on: %w", filter, stream, next, err)
		}
	}
	return nil
}

// standstill is how long nothing may come of what is pending.
const standstill = 2 * time.Second

// readOn reads from a sequence on, to the end or to a standstill, and returns the sequence to go on from. What was pending may be removed
// before it is sent: then no message says that it is the last, and who asks anew hears that nothing is left.
func readOn(ctx context.Context, s js.JetStream, stream, filter string, from uint64, fn func(js.Msg) error) (next uint64, done bool, err error) {
	cons, err := s.OrderedConsumer(ctx, stream, js.OrderedConsumerConfig{
		FilterSubjects: []string{filter}, DeliverPolicy: js.DeliverByStartSequencePolicy, OptStartSeq: from,
	})
	if errors.Is(err, js.ErrStreamNotFound) {
		return from, true, nil
	}
	if err != nil {
		return from, false, err
	}
	info, err := cons.Info(ctx)
	if err != nil {
		return from, false, err
	}
	name := info.Name
	defer func() {
		if i := cons.CachedInfo(); i != nil {
			name = i.Name
		}
		_ = s.DeleteConsumer(context.Background(), stream, name) // it expires by itself
	}()
	if info.NumPending == 0 {
		return from, true, nil
	}
	it, err := cons.Messages(js.PullMaxMessages(5000))
	if err != nil {
		return from, false, err
	}
	defer it.Stop()
	for next = from; ; {
		quiet, end := context.WithTimeout(ctx, standstill)
		m, err := it.Next(js.NextContext(quiet))
		end()
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			return next, false, nil
		}
		if err != nil {
			return next, false, err
		}
		meta, err := m.Metadata()
		if err != nil {
			return next, false, err
		}
		if err := fn(m); err != nil {
			return next, false, err
		}
		if next = meta.Sequence.Stream + 1; meta.NumPending == 0 {
			return next, true, nil
		}
	}
}

// exact fails the test unless the tenant's outcome is what its history says.
func (w *world) exact(t testing.TB, h *history) {
	t.Helper()
	w.exactAt(t, h.home(), h)
}

// exactAt is exact for results in another place.
func (w *world) exactAt(t testing.TB, p place, h *history) {
	t.Helper()
	got, err := readOutcome(context.Background(), w.js, p)
	ok(t, err)
	if wrong := h.judge(got); len(wrong) > 0 {
		t.Fatalf("tenant %s: not exact (%d tallies of %d, %d dead letters of %d):\n%s", h.tenant, len(got.tallies), h.total,
			len(got.dead), len(h.dead), firstLines(wrong, 20))
	}
}

func firstLines(lines []string, n int) string {
	if len(lines) > n {
		lines = append(lines[:n:n], fmt.Sprintf("and %d more", len(lines)-n))
	}
	return strings.Join(lines, "\n")
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until cond holds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(patience)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("waiting in vain: %s", what)
		}
		<-tick.C
	}
}
