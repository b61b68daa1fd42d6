package control_test

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server/ats"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"go.uber.org/goleak"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/jetstream/control"
	"github.com/weirstream/weir/jetstream/embedded"
)

func TestMain(m *testing.M) {
	// The server's clock goroutine must exist before the first bubble and outlives all servers.
	ats.Register()
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())
}

// bubble runs a test in virtual time, and lets the server's stragglers run out at the end. The client keeps timers in a pool, which
// must not pass from one bubble to the next: two collections empty it.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	runtime.GC()
	runtime.GC()
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(time.Minute) })
		f(t)
	})
}

// world is a server, a fleet behind some services and a plain client.
type world struct {
	t *testing.T
	*fleet
	srv      *embedded.Server
	nc       *nats.Conn
	services map[string]*control.Service
}

// newWorld starts a service for each process; the first is "p1".
func newWorld(t *testing.T, processes int, change ...func(*control.Config)) *world {
	t.Helper()
	srv, err := embedded.Start(embedded.Options{Dir: t.TempDir(), InProcessOnly: true})
	ok(t, err)
	t.Cleanup(srv.Shutdown)
	w := &world{t: t, fleet: newFleet(), srv: srv, services: map[string]*control.Service{}}
	w.nc = w.connect()
	w.add("p1", "acme", "revenue", "orders@acme:100")
	for i := range processes {
		w.serve("p"+strconv.Itoa(i+1), change...)
	}
	return w
}

func (w *world) connect() *nats.Conn {
	w.t.Helper()
	nc, err := w.srv.Conn(context.Background(), jetstream.Service)
	ok(w.t, err)
	w.t.Cleanup(nc.Close)
	return nc
}

func (w *world) serve(process string, change ...func(*control.Config)) *control.Service {
	w.t.Helper()
	cfg := control.Config{Conn: w.connect(), Control: &fake{w.fleet, process}, Worker: "w-" + process, Process: process}
	for _, f := range change {
		f(&cfg)
	}
	s, err := control.New(cfg)
	ok(w.t, err)
	ok(w.t, s.Start(context.Background()))
	w.t.Cleanup(s.Close)
	w.services[process] = s
	return s
}

// answer is what came back on a raw request.
type answer struct {
	*nats.Msg
	code int
	control.Problem
}

func (a answer) verdict() string { return fmt.Sprintf("%d %s", a.code, a.Reason) }

// ask sends a raw request, as nats req does.
func (w *world) ask(subject, body string) answer {
	w.t.Helper()
	return askWith(w.t, w.nc, subject, body)
}

func askWith(t *testing.T, nc *nats.Conn, subject, body string) answer {
	t.Helper()
	m, err := request(nc, subject, body)
	if err != nil {
		t.Fatalf("%s %.80s: %v", subject, body, err)
	}
	return read(t, m)
}

// request waits for an hour, of virtual time where that is used.
func request(nc *nats.Conn, subject, body string) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	return nc.RequestWithContext(ctx, subject, []byte(body))
}

// next waits for a message.
func next(t *testing.T, sub *nats.Subscription) *nats.Msg {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	m, err := sub.NextMsgWithContext(ctx)
	ok(t, err)
	return m
}

// read checks the form that every answer has.
func read(t *testing.T, m *nats.Msg) answer {
	t.Helper()
	a := answer{Msg: m}
	code := m.Header.Get(micro.ErrorCodeHeader)
	if code == "" {
		if !json.Valid(m.Data) || m.Data[0] != '{' {
			t.Fatalf("the answer is no JSON object: %.200s", m.Data)
		}
		return a
	}
	var err error
	a.code, err = strconv.Atoi(code)
	ok(t, err)
	ok(t, json.Unmarshal(m.Data, &a.Problem))
	if a.Reason == "" || a.Message == "" || control.Code(a.Reason) != a.code || m.Header.Get(micro.ErrorHeader) == "" {
		t.Fatalf("the refusal says %v %s", m.Header, m.Data)
	}
	return a
}

// into decodes an answer that is no refusal.
func into[T any](t *testing.T, a answer) T {
	t.Helper()
	var v T
	if a.code != 0 {
		t.Fatalf("refused: %d %s", a.code, a.Data)
	}
	ok(t, json.Unmarshal(a.Data, &v))
	return v
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("%s is %v, want %v", what, got, want)
	}
}
