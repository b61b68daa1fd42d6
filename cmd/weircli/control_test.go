package weircli

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/jetstream/control"
	"github.com/weirstream/weir/processor"
)

// lockedBuffer is written by a running command and read by the test.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// startRun runs weir run beside the test until it ends, and returns what it prints.
func startRun(t *testing.T, args ...string) *lockedBuffer {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out, done := &lockedBuffer{}, make(chan int, 1)
	go func() { done <- Execute(ctx, testApp(), append([]string{"run"}, args...), out, out) }()
	t.Cleanup(func() {
		cancel()
		if code := <-done; code != exitOK {
			t.Errorf("weir run: exit code %d: %s", code, out)
		}
	})
	return out
}

// until runs a command until it exits with 0 and prints what is wanted.
func until(t *testing.T, want string, args ...string) string {
	t.Helper()
	for deadline := time.Now().Add(limit); ; {
		code, out, errOut := execute(t, args...)
		if code == exitOK && strings.Contains(out, want) {
			return out
		}
		if time.Now().After(deadline) {
			t.Fatalf("weir %s: exit code %d: %s%s", strings.Join(args, " "), code, out, errOut)
		}
	}
}

func must(t *testing.T, args ...string) string {
	t.Helper()
	code, out, errOut := execute(t, args...)
	if code != exitOK {
		t.Fatalf("weir %s: exit code %d: %s%s", strings.Join(args, " "), code, out, errOut)
	}
	return out
}

func mustJSON[T any](t *testing.T, args ...string) T {
	t.Helper()
	var v T
	out := must(t, append(args, "--json")...)
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatalf("weir %s --json: %v: %s", strings.Join(args, " "), err, out)
	}
	return v
}

func newControlled(t *testing.T) (*testServer, func(args ...string) []string) {
	t.Helper()
	s := newServer(t)
	s.stream(t, jetstream.StreamConfig{Name: "acme", Subjects: []string{"acme.>"}, AllowAtomicPublish: true, AllowMsgTTL: true})
	startRun(t, "--server", s.url, "--tenants", "acme", "--checkpoint-interval", "50ms", "--allow-marks")
	s.publish(t, "acme.lines", "the quick the slow", "the end")
	at := func(args ...string) []string { return append(args, "--server", s.url) }
	until(t, "epoch", at("status", "acme/wordcount")...)
	until(t, "3\n", at("state", "acme/wordcount", "count", "total", "the")...) // it has read what was published
	return s, at
}

// Every command that asks the service, once, as a person would go through a job's life.
func TestControlCommands(t *testing.T) {
	s, at := newControlled(t)
	must(t, at("checkpoint", "acme/wordcount")...)
	if out := must(t, at("state", "acme/wordcount", "count", "total", "the")...); out != "3\n" {
		t.Errorf("state of the: %q", out)
	}
	if r := mustJSON[processor.SavepointReport](t, at("savepoint", "create", "acme/wordcount", "before")...); r.Name != "before" || r.Objects == 0 {
		t.Errorf("savepoint: %+v", r)
	}
	s.publish(t, "acme.lines", "the rest")
	must(t, at("checkpoint", "acme/wordcount")...)
	if out := must(t, at("state", "acme/wordcount", "--at", "before", "count", "total", "the")...); out != "3\n" {
		t.Errorf("state of the in the savepoint: %q", out)
	}
	if out := must(t, at("state", "acme/wordcount")...); !strings.Contains(out, "total") {
		t.Errorf("states: %s", out)
	}
	if page := mustJSON[control.JobPage](t, at("jobs", "acme")...); len(page.Jobs) != 1 || page.Jobs[0].Job != "wordcount" {
		t.Errorf("jobs: %+v", page)
	}
	if page := mustJSON[control.TenantPage](t, at("tenants")...); len(page.Tenants) != 1 || page.Tenants[0].Running != 1 {
		t.Errorf("tenants: %+v", page)
	}
	if page := mustJSON[control.CheckpointPage](t, at("checkpoints", "acme/wordcount")...); len(page.Checkpoints) == 0 {
		t.Error("no checkpoints")
	}
	if j := mustJSON[processor.JobReport](t, at("rescale", "acme/wordcount", "3")...); j.Parallelism != 3 {
		t.Errorf("rescaled: %+v", j)
	}
	if j := mustJSON[processor.JobReport](t, at("fork", "acme/wordcount", "--at", "before", "--as", "copy")...); j.Shadow != "shadow.copy" {
		t.Errorf("fork: %+v", j)
	}
	if all := mustJSON[control.TenantSavepoints](t, at("savepoint", "create", "acme", "all")...); len(all.Savepoints) != 2 || all.Cut["acme"] == 0 {
		t.Errorf("tenant-wide savepoint: %+v", all)
	}
	if r := mustJSON[processor.StopReport](t, at("stop", "acme/copy", "--drain")...); !r.Published {
		t.Errorf("stop: %+v", r)
	}
	must(t, at("delete", "acme/copy", "--confirm", "copy", "--savepoints")...)
	must(t, at("stop", "acme/wordcount", "--savepoint", "end")...)
	if out := must(t, at("status", "acme/wordcount")...); !strings.Contains(out, "stopped") {
		t.Errorf("status: %s", out)
	}
	if out := must(t, at("start", "acme/wordcount", "--savepoint", "before", "--parallelism", "1")...); !strings.Contains(out, "running") {
		t.Errorf("start: %s", out)
	}
	page := mustJSON[control.SavepointPage](t, at("savepoint", "ls", "acme/wordcount")...)
	if len(page.Savepoints) != 3 {
		t.Errorf("savepoints: %+v", page)
	}
	must(t, at("savepoint", "rm", "acme/wordcount", "all")...)
	must(t, at("savepoint", "ls", "acme/wordcount")...)
	must(t, at("checkpoints", "acme/wordcount")...)
	must(t, at("tenants")...)
	until(t, "running", at("jobs")...)
}

func TestControlAnswersNo(t *testing.T) {
	_, at := newControlled(t)
	for want, args := range map[string][]string{
		"nobody":      at("status", "acme/nobody"),
		"no state":    at("state", "acme/wordcount", "count", "nonsense", "the"),
		"unheard":     at("state", "acme/wordcount", "count", "total", "unheard"),
		"nonsense":    at("start", "acme/wordcount", "--savepoint", "nonsense"),
		"parallelism": at("rescale", "acme/wordcount", "5000"),
		"confirm":     at("delete", "acme/wordcount"),
	} {
		code, out, errOut := execute(t, args...)
		if code != exitNo || !strings.Contains(errOut, want) {
			t.Errorf("weir %s: exit code %d: %s%s", strings.Join(args, " "), code, out, errOut)
		}
	}
	for _, args := range [][]string{
		at("status", "acme"), at("status", "a.b/c"), at("stop", "acme/wordcount", "--now", "--drain"), at("rescale", "acme/wordcount", "many"),
		at("fork", "acme/wordcount"), at("start", "acme/wordcount", "--fresh", "--checkpoint", "1"), at("state", "acme/wordcount", "count", "total"),
		at("watch", "--every", "1ms"), {"status", "acme/wordcount", "--context", "no-such-context"}, at("status", "acme/wordcount", "--tlscert", "x"),
	} {
		if code, _, errOut := execute(t, args...); code != exitTrouble || !strings.HasPrefix(errOut, "weir: ") {
			t.Errorf("weir %s: exit code %d: %s", strings.Join(args, " "), code, errOut)
		}
	}
}

func TestNobodyAnswers(t *testing.T) {
	s := newServer(t)
	code, _, errOut := execute(t, "status", "acme/wordcount", "--server", s.url)
	if code != exitTrouble || !strings.Contains(errOut, "no worker answers") {
		t.Errorf("exit code %d: %s", code, errOut)
	}
	code, _, errOut = execute(t, "jobs", "--server", "nats://127.0.0.1:1")
	if code != exitTrouble || !strings.Contains(errOut, "--server") {
		t.Errorf("exit code %d: %s", code, errOut)
	}
}

// A context of the nats CLI, named and selected.
func TestContext(t *testing.T) {
	s, _ := newControlled(t)
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	folder := filepath.Join(dir, "nats", "context")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, url := range map[string]string{"here": s.url, "nowhere": "nats://127.0.0.1:1"} {
		if err := os.WriteFile(filepath.Join(folder, name+".json"), []byte(`{"url":"`+url+`"}`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	must(t, "status", "acme/wordcount", "--context", "here")
	must(t, "status", "acme/wordcount", "--context", "nowhere", "--server", s.url)
	if code, _, errOut := execute(t, "jobs", "--context", "nowhere"); code != exitTrouble || !strings.Contains(errOut, "nowhere") {
		t.Errorf("another context: exit code %d: %s", code, errOut)
	}
	if err := os.WriteFile(filepath.Join(dir, "nats", "context.txt"), []byte("here\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, "status", "acme/wordcount")
}

// watch prints a line per event where it is no terminal.
func TestWatch(t *testing.T) {
	s, at := newControlled(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, done := &lockedBuffer{}, make(chan int, 1)
	go func() { done <- Execute(ctx, testApp(), at("watch", "acme"), out, out) }()
	for !strings.Contains(out.String(), "acme/wordcount checkpoint") {
		if ctx.Err() != nil {
			t.Fatal("no event was printed")
		}
		s.publish(t, "acme.lines", "more")
		execute(t, at("checkpoint", "acme/wordcount")...)
	}
	cancel()
	if code := <-done; code != exitOK {
		t.Errorf("exit code %d: %s", code, out)
	}
}

func TestCompletion(t *testing.T) {
	_, at := newControlled(t)
	url := at()[1]
	t.Setenv("NATS_URL", url)
	if out := must(t, "__complete", "status", ""); !strings.HasPrefix(out, "acme/wordcount\n") {
		t.Errorf("completion of jobs: %q", out)
	}
	if out := must(t, "__complete", "jobs", ""); !strings.HasPrefix(out, "acme\n") {
		t.Errorf("completion of tenants: %q", out)
	}
}
