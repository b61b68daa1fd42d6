package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirstream/weir/jetstream/embedded"
)

// TestMain lets the test binary be weir: the tests start real processes and kill them.
func TestMain(m *testing.M) {
	if os.Getenv("WEIR_TEST_CHILD") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// limit bounds every wait for a child, so that a broken one fails the test instead of hanging it.
const limit = 2 * time.Minute

// child is a running weir process.
type child struct {
	t     *testing.T
	cmd   *exec.Cmd
	ended chan struct{}
	err   error

	mu    sync.Mutex
	lines []string
	more  chan struct{}
}

func start(t *testing.T, args ...string) *child {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &child{t: t, cmd: exec.Command(self, args...), ended: make(chan struct{}), more: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), "WEIR_TEST_CHILD=1")
	c.cmd.Dir = t.TempDir()
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.cmd.Stderr = c.cmd.Stdout
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			c.mu.Lock()
			c.lines = append(c.lines, s.Text())
			close(c.more)
			c.more = make(chan struct{})
			c.mu.Unlock()
		}
		c.err = c.cmd.Wait()
		close(c.ended)
	}()
	t.Cleanup(func() {
		c.cmd.Process.Kill()
		<-c.ended
	})
	return c
}

func (c *child) output() (string, chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.lines, "\n"), c.more
}

// await returns when the child has printed text n times.
func (c *child) await(text string, n int) {
	c.t.Helper()
	timeout := time.After(limit)
	for {
		out, more := c.output()
		if strings.Count(out, text) >= n {
			return
		}
		select {
		case <-more:
		case <-c.ended:
			out, _ := c.output()
			if strings.Count(out, text) >= n {
				return
			}
			c.t.Fatalf("weir ended (%v) without printing %q %d times:\n%s", c.err, text, n, out)
		case <-timeout:
			c.t.Fatalf("weir did not print %q %d times in %s:\n%s", text, n, limit, out)
		}
	}
}

// signal sends a signal and returns the exit code, -1 for a killed process.
func (c *child) signal(s os.Signal) int {
	c.t.Helper()
	if err := c.cmd.Process.Signal(s); err != nil {
		c.t.Fatal(err)
	}
	return c.wait()
}

func (c *child) wait() int {
	c.t.Helper()
	select {
	case <-c.ended:
	case <-time.After(limit):
		out, _ := c.output()
		c.t.Fatalf("weir did not end in %s:\n%s", limit, out)
	}
	return c.cmd.ProcessState.ExitCode()
}

// weir runs a command to its end.
func weir(t *testing.T, args ...string) (int, string) {
	t.Helper()
	c := start(t, args...)
	code := c.wait()
	out, _ := c.output()
	return code, out
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// A kill -9 at any moment, a clean stop, and the next start goes on; in the end every word was counted once.
func TestDevSurvivesKill(t *testing.T) {
	port, data := freePort(t), t.TempDir()
	url := fmt.Sprintf("nats://127.0.0.1:%d", port)
	dev := func(more ...string) *child {
		return start(t, append([]string{"dev", "--port", fmt.Sprint(port), "--data", data, "--checkpoint-interval", "100ms"}, more...)...)
	}
	for round := range 3 {
		c := dev("--rate", "200")
		c.await(fmt.Sprintf("acme/wordcount        running, epoch %d", round+1), 1)
		c.await("results out", 1+round)
		if code := c.signal(syscall.SIGKILL); code != -1 {
			t.Fatalf("killed, but the exit code is %d", code)
		}
	}
	c := dev("--rate", "200")
	c.await("results out", 2)
	if code := c.signal(os.Interrupt); code != 0 {
		out, _ := c.output()
		t.Fatalf("a clean stop has exit code %d:\n%s", code, out)
	}
	if out, _ := c.output(); strings.Count(out, "stopped") != 2 {
		t.Errorf("two jobs were not reported as stopped:\n%s", out)
	}

	c = dev("--rate", "0")
	c.await("running, epoch", 2)
	code, out := weir(t, "verify", "wordcount", "--url", url)
	if code != 0 || strings.Count(out, " exact: ") != 2 || strings.Contains(out, "exact: 0 elements") {
		t.Fatalf("verify: exit code %d:\n%s", code, out)
	}

	// A forged result must not go unnoticed.
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := nc.Request("acme.counts", []byte(`{"word":"the","count":1}`), limit); err != nil {
		t.Fatal(err)
	}
	code, out = weir(t, "verify", "wordcount", "--url", url)
	if code != 1 || !strings.Contains(out, "not exact: 1 duplicated") || strings.Count(out, " exact: ") != 2 {
		t.Fatalf("verify of a doubled result: exit code %d:\n%s", code, out)
	}
	if code := c.signal(os.Interrupt); code != 0 {
		t.Fatalf("exit code %d", code)
	}
}

func TestDevTellsWhatToTry(t *testing.T) {
	port := freePort(t)
	c := start(t, "dev", "--port", fmt.Sprint(port), "--tenants", "initech", "--rate", "100", "--checkpoint-interval", "100ms", "--sync-always")
	c.await("initech/wordcount     checkpoint", 1)
	out, _ := c.output()
	for _, want := range []string{
		fmt.Sprintf("nats --server nats://127.0.0.1:%d pub initech.lines", port),
		"sub --stream initech initech.counts",
		"kv watch counts 'initech.>'",
		fmt.Sprintf("weir verify wordcount --url nats://127.0.0.1:%d --tenants initech", port),
		fmt.Sprintf("kill -9 %d; weir dev --port %d", c.cmd.Process.Pid, port),
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the banner lacks %q:\n%s", want, out)
		}
	}
	if code := c.signal(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
}

func TestDevRefuses(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	if code, out := weir(t, "dev", "--port", fmt.Sprint(port)); code != 2 || !strings.Contains(out, "--port") || !strings.Contains(out, fmt.Sprintf("--url nats://127.0.0.1:%d", port)) {
		t.Errorf("busy port: exit code %d: %s", code, out)
	}
	if code, out := weir(t, "dev", "--url", "nats://127.0.0.1:1"); code != 2 || !strings.Contains(out, "127.0.0.1:1") || !strings.Contains(out, "--url") {
		t.Errorf("no server: exit code %d: %s", code, out)
	}
	if code, out := weir(t, "dev", "--tenants", "a.b,acme", "--port", "-1"); code != 2 || !strings.Contains(out, `"a.b"`) {
		t.Errorf("bad tenant: exit code %d: %s", code, out)
	}
	data := t.TempDir()
	first := start(t, "dev", "--port", "-1", "--data", data)
	first.await("running, epoch 1", 2)
	if code, out := weir(t, "dev", "--port", "-1", "--data", data); code != 2 || !strings.Contains(out, "another process uses it") {
		t.Errorf("folder in use: exit code %d: %s", code, out)
	}
}

// Two workers on one server: one owns a job, the other stands by and takes over when it goes.
func TestDevStandby(t *testing.T) {
	// A server without a worker: one that has the topology would be a candidate, too, whatever tenants it was started for.
	srv, err := embedded.Start(embedded.Options{Dir: t.TempDir(), Port: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Shutdown)
	url := srv.ClientURL()
	worker := func() *child {
		return start(t, "dev", "--url", url, "--tenants", "acme", "--rate", "50", "--checkpoint-interval", "100ms")
	}
	first := worker()
	first.await("results out", 1)
	second := worker()
	second.await("standing by", 1)
	if code := first.signal(os.Interrupt); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	second.await("running, epoch 2", 1)
	second.await("results out", 1)
	if code, out := weir(t, "verify", "wordcount", "--url", url, "--tenants", "acme"); code != 0 {
		t.Fatalf("verify: exit code %d:\n%s", code, out)
	}
}
