package weircli

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/signal"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/weirstream/weir/examples/wordcount"
	"github.com/weirstream/weir/jetstream/embedded"
	"github.com/weirstream/weir/processor"
)

// TestMain lets the test binary be the command line, for the hidden server command that the latency benchmark starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "nats-server" {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		defer stop()
		os.Exit(Execute(ctx, testApp(), os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

func testApp() App {
	return App{
		Name: "weir", Version: "1.2.3",
		Topologies: []func() (*processor.Topology, error){wordcount.Topology},
		Samples:    []Sample{{Topology: "wordcount", Subject: "lines", Message: wordcount.SampleLine}},
		Counts:     []CountCheck{{Name: "wordcount", Input: "lines", Output: "counts", Bucket: "counts", Split: wordcount.Words}},
	}
}

const limit = 2 * time.Minute

func execute(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var out, errOut bytes.Buffer
	code = Execute(ctx, testApp(), args, &out, &errOut)
	return code, out.String(), errOut.String()
}

// testServer is an embedded server with a client.
type testServer struct {
	url string
	nc  *nats.Conn
	js  jetstream.JetStream
}

func newServer(t *testing.T) *testServer {
	t.Helper()
	srv, err := embedded.Start(embedded.Options{Dir: t.TempDir(), Port: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Shutdown)
	nc, err := nats.Connect(srv.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return &testServer{srv.ClientURL(), nc, js}
}

func (s *testServer) stream(t *testing.T, cfg jetstream.StreamConfig) {
	t.Helper()
	if _, err := s.js.CreateOrUpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
}

func (s *testServer) publish(t *testing.T, subject string, payloads ...string) {
	t.Helper()
	for _, p := range payloads {
		if _, err := s.js.Publish(t.Context(), subject, []byte(p)); err != nil {
			t.Fatalf("publishing %q on %s: %v", p, subject, err)
		}
	}
}

func TestVersion(t *testing.T) {
	if code, out, _ := execute(t, "version"); code != 0 || !strings.HasPrefix(out, "weir 1.2.3 (go1.") {
		t.Errorf("exit code %d: %q", code, out)
	}
}

func TestWrongUsage(t *testing.T) {
	for _, args := range [][]string{
		{"nonsense"},
		{"run"},
		{"run", "--tenants", "acme", "--namespace", "events"},
		{"run", "--tenants", "acme", "--topology", "nonsense"},
		{"run", "--tenants", "acme", "--worker", "a", "--data", "b"},
		{"dev", "--rate", "-1"},
		{"dev", "--port", "x"},
		{"verify"},
		{"verify", "nonsense"},
		{"check", "--tenants", "acme", "--param", "nonsense=1"},
		{"bench", "count", "--events", "0"},
		{"bench", "count", "--decoder", "nonsense"},
		{"bench", "latency", "--replicas", "2"},
	} {
		if code, _, errOut := execute(t, args...); code != exitTrouble || !strings.HasPrefix(errOut, "weir: ") {
			t.Errorf("weir %s: exit code %d: %s", strings.Join(args, " "), code, errOut)
		}
	}
}

// Every example in the help must be a command that this binary takes.
func TestHelpExamples(t *testing.T) {
	root := testApp().root()
	checked := 0
	commands := []*cobra.Command{root}
	for i := 0; i < len(commands); i++ {
		commands = append(commands, commands[i].Commands()...)
	}
	for _, cmd := range commands {
		for line := range strings.Lines(cmd.Example) {
			line, _, _ = strings.Cut(strings.TrimSpace(line), "   ")
			fields := strings.Fields(line)
			if len(fields) == 0 || fields[0] != "weir" {
				t.Errorf("example %q does not begin with the program", line)
				continue
			}
			found, rest, err := testApp().root().Find(fields[1:])
			if err == nil {
				err = found.ParseFlags(rest)
			}
			if err != nil {
				t.Errorf("example %q: %v", line, err)
			}
			checked++
		}
	}
	if checked < 40 {
		t.Errorf("only %d examples were found", checked)
	}
}

func TestNoTopology(t *testing.T) {
	var errOut bytes.Buffer
	code := Execute(t.Context(), App{Name: "x"}, []string{"run", "--tenants", "acme"}, &errOut, &errOut)
	if code != exitTrouble || !strings.Contains(errOut.String(), "App.Topologies") {
		t.Errorf("exit code %d: %s", code, errOut.String())
	}
}

func TestBench(t *testing.T) {
	code, out, errOut := execute(t, "bench", "count", "--events", "3000", "--keys", "20", "--pairs", "1", "--checkpoint-interval", "20ms", "--json", "--quiet")
	if code != 0 || errOut != "" {
		t.Fatalf("exit code %d: %s", code, errOut)
	}
	var r map[string]any
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, field := range []string{"events", "baseline_per_s", "weir_per_s", "ratio", "checkpoints", "allocs_per_event"} {
		if n, ok := r[field].(float64); !ok || n <= 0 {
			t.Errorf("field %s is %v", field, r[field])
		}
	}
	code, out, errOut = execute(t, "bench", "pipe", "--events", "3000", "--keys", "20", "--pairs", "1", "--decoder", "scan")
	if code != 0 || !strings.Contains(out, "by hand, atomic batches") || !strings.Contains(errOut, "pair 1 of 1") {
		t.Errorf("exit code %d: %s%s", code, out, errOut)
	}
	code, out, errOut = execute(t, "bench", "checkpoint", "--events", "500", "--keys", "1000", "--pairs", "1", "--changed", "10", "--for", "1s")
	if code != 0 || !strings.Contains(out, "10 %") {
		t.Errorf("exit code %d: %s%s", code, out, errOut)
	}
}

func TestBenchLatencyOnThreeServers(t *testing.T) {
	code, out, errOut := execute(t, "bench", "latency", "--rate", "200", "--for", "300ms", "--checkpoint-interval", "50ms", "--json", "--quiet")
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, errOut)
	}
	var r struct {
		Results []struct {
			Replicas int     `json:"replicas"`
			Events   int     `json:"events"`
			P50      float64 `json:"p50_ms"`
			P99      float64 `json:"p99_ms"`
		} `json:"results"`
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if len(r.Results) != 2 || r.Results[0].Replicas != 1 || r.Results[1].Replicas != 3 {
		t.Fatalf("results: %s", out)
	}
	for _, x := range r.Results {
		if x.Events != 60 || x.P50 <= 0 || x.P99 < x.P50 {
			t.Errorf("result %+v", x)
		}
	}
}
