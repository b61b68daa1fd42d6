package integration_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/processor"
)

// site is a server with a domain of its own, and a client that speaks as the nats command line does: raw requests.
type site struct {
	*world
	srv    *server.Server
	domain string
	rec    *recorder
}

// Conn is for workers in this process.
func (s *site) Conn(_ context.Context, p jetstream.Purpose) (*nats.Conn, error) {
	return nats.Connect("", append(jetstream.ConnOptions(p, nil), nats.InProcessServer(s.srv))...)
}

// startSite starts a server that the given subjects never leave.
func startSite(t testing.TB, domain string, leaf server.LeafNodeOpts) *site {
	t.Helper()
	srv, err := server.NewServer(&server.Options{
		ServerName: domain, Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true, JetStream: true, JetStreamDomain: domain,
		StoreDir: t.TempDir(), LeafNode: leaf,
	})
	ok(t, err)
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(patience) {
		t.Fatal("the server does not start")
	}
	s := &site{world: &world{}, srv: srv, domain: domain}
	s.nc, err = s.Conn(context.Background(), jetstream.Control)
	ok(t, err)
	t.Cleanup(s.nc.Close)
	s.js, err = js.New(s.nc)
	ok(t, err)
	// The buckets are there before the first job is, so that the recorder misses nothing.
	b, err := jetstream.New(jetstream.Config{Provider: s})
	ok(t, err)
	defer b.Close()
	ok(t, b.Start(context.Background()))
	s.rec = record(t, s.js)
	return s
}

// oneSite is a server that no other mirrors.
func oneSite(t testing.TB) *site { return startSite(t, "hub", server.LeafNodeOpts{}) }

// mirrorSite starts a second server, whose streams can mirror those of the first. Subjects of the given tenants stay where they are.
func mirrorSite(t testing.TB, hub *site, port int, names ...string) *site {
	t.Helper()
	own := []string{"weir.>", "$O.>", "$KV.>"}
	for _, n := range names {
		own = append(own, n+".>")
	}
	edge := startSite(t, "edge", server.LeafNodeOpts{Remotes: []*server.RemoteLeafOpts{{
		URLs: []*url.URL{{Scheme: "nats-leaf", Host: "127.0.0.1:" + strconv.Itoa(port)}}, DenyImports: own, DenyExports: own,
	}}})
	eventually(t, "the leaf node is connected", func() bool { return hub.srv.NumLeafNodes() == 1 && edge.srv.NumLeafNodes() == 1 })
	return edge
}

// answer is what comes back for a raw request.
type answer struct {
	reason  processor.Reason // empty: done
	message string
	data    []byte
}

func (a answer) Error() string { return string(a.reason) + ": " + a.message }

// ask sends one request. An error that is no answer says that nobody answered.
func (s *site) ask(ctx context.Context, tenant, job, verb string, body any) (answer, error) {
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return answer{}, err
		}
	}
	m, err := s.nc.RequestWithContext(ctx, "weir.v1."+tenant+"."+job+"."+verb, data)
	if err != nil {
		return answer{}, fmt.Errorf("asking %s of %s/%s: %w", verb, tenant, job, err)
	}
	a := answer{data: m.Data}
	if m.Header.Get("Nats-Service-Error-Code") != "" {
		var p struct {
			Reason  processor.Reason
			Message string
		}
		if err := json.Unmarshal(m.Data, &p); err != nil {
			return a, fmt.Errorf("reading the refusal %q: %w", m.Data, err)
		}
		a.reason, a.message = p.Reason, p.Message
	}
	return a, nil
}

// passing reports whether asking again later is what a refusal advises.
func (a answer) passing() bool {
	return a.reason == processor.ReasonUnavailable || a.reason == processor.ReasonNoOwner ||
		a.reason == processor.ReasonNotRunning && !strings.Contains(a.message, "Mend the cause") ||
		a.reason == processor.ReasonConflict && (strings.HasSuffix(a.message, "wait until it is complete") || strings.HasSuffix(a.message, "ask again"))
}

// oneTry is how long one request waits for its answer: the worker that has it may die of kill -9.
const oneTry = 10 * time.Second

// persist asks until it is done or refused for good: while a job changes hands nobody answers, or says to ask again.
func (s *site) persist(ctx context.Context, tenant, job, verb string, body any) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		try, end := context.WithTimeout(ctx, oneTry)
		a, err := s.ask(try, tenant, job, verb, body)
		lost := try.Err() != nil
		end()
		switch {
		case ctx.Err() != nil:
			return a, fmt.Errorf("%s of %s/%s in vain: %w, last answer: %w", verb, tenant, job, ctx.Err(), errors.Join(a, err))
		case err != nil && !lost && !errors.Is(err, nats.ErrNoResponders):
			return a, err
		case err == nil && !a.passing():
			return a, nil
		}
		breathe(ctx)
	}
}

// done asks for something that must work, and decodes the answer.
func done[T any](t testing.TB, s *site, tenant, job, verb string, body any) T {
	t.Helper()
	a, err := s.persist(context.Background(), tenant, job, verb, body)
	ok(t, err)
	if a.reason != "" {
		t.Fatalf("%s of %s/%s %+v is refused: %s", verb, tenant, job, body, a.Error())
	}
	return decoded[T](t, a)
}

func decoded[T any](t testing.TB, a answer) T {
	t.Helper()
	var out T
	d := json.NewDecoder(bytes.NewReader(a.data))
	d.DisallowUnknownFields()
	ok(t, d.Decode(&out))
	return out
}

// body is a request's JSON object.
type body map[string]any

// layout makes a tenant's two streams: what comes in, which another site can mirror, and what goes out.
func (s *site) layout(t testing.TB, tenant string, weirs bool) {
	t.Helper()
	in := js.StreamConfig{Name: inputOf(tenant), Subjects: []string{tenant + ".in.>"}, AllowDirect: true, AllowMsgTTL: true}
	if weirs {
		in.Metadata = map[string]string{"weir.owner": "weir"} // barriers come in the stream
	}
	s.stream(t, in)
	s.outputs(t, tenant)
}

func (s *site) outputs(t testing.TB, tenant string) {
	t.Helper()
	s.stream(t, js.StreamConfig{Name: outputOf(tenant), Subjects: []string{tenant + ".out.>", tenant + "._weir.>", tenant + ".shadow.>"},
		AllowAtomicPublish: true, AllowMsgTTL: true, AllowDirect: true})
}

func inputOf(tenant string) string  { return tenant + "-in" }
func outputOf(tenant string) string { return tenant + "-out" }

// settle waits until a job has committed and released everything that was published for it.
func (s *site) settle(t testing.TB, f *feed, job string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		rep := done[processor.CheckpointReport](t, s, f.tenant, job, "checkpoint", nil)
		if rep.Positions[inputOf(f.tenant)] >= f.last() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("job %s/%s has read up to %v, its input ends at %d", f.tenant, job, rep.Positions, f.last())
		}
	}
}
