package integration_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// The test binary plays the parts of other processes: it is started again with its role and configuration in the environment.
const (
	roleEnv   = "WEIR_TEST_ROLE"
	configEnv = "WEIR_TEST_CONFIG"
)

func playRole(role string) int {
	go func() { // the parent holds the other end: when it is gone, so are we
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(3)
	}()
	var err error
	switch role {
	case "server":
		err = playServer()
	case "worker":
		err = playWorker()
	case "control":
		err = playControl()
	default:
		err = fmt.Errorf("there is no role %q", role)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// serverConfig is a nats-server process.
type serverConfig struct {
	Name    string
	Port    int
	Dir     string
	Cluster int   // its port; 0: alone
	Routes  []int // the cluster ports of all
}

func playServer() error {
	var cfg serverConfig
	if err := json.Unmarshal([]byte(os.Getenv(configEnv)), &cfg); err != nil {
		return err
	}
	o := &server.Options{ServerName: cfg.Name, Host: "127.0.0.1", Port: cfg.Port, JetStream: true, StoreDir: cfg.Dir, NoSigs: true}
	if cfg.Cluster > 0 {
		o.Cluster = server.ClusterOpts{Name: "weir", Host: "127.0.0.1", Port: cfg.Cluster}
		for _, port := range cfg.Routes {
			o.Routes = append(o.Routes, &url.URL{Scheme: "nats", Host: fmt.Sprintf("127.0.0.1:%d", port)})
		}
	}
	srv, err := server.NewServer(o)
	if err != nil {
		return err
	}
	srv.ConfigureLogger()
	srv.Start()
	srv.WaitForShutdown()
	return nil
}

// workerConfig is a worker process.
type workerConfig struct {
	Name      string
	URL       string
	Namespace string
	Replicas  int
	Buckets   int
	Jobs      map[string][]string // topology: tenants
	Interval  time.Duration
	// Parallelism of every job; 0: it depends on the tenant.
	Parallelism int
	// Life counts the processes before, for the job operators.
	Life int
	// At the FailAt-th request of kind FailOp the process ends: before the request, or when the server has answered it.
	FailOp    string
	FailAt    int64
	FailAfter bool
}

func playWorker() error {
	var cfg workerConfig
	if err := json.Unmarshal([]byte(os.Getenv(configEnv)), &cfg); err != nil {
		return err
	}
	ns, err := tenants.NewNamespace(cfg.Namespace)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	broker, err := cfg.broker(ctx, ns, log)
	if err != nil {
		return err
	}
	defer broker.Close()
	rt, err := processor.NewRuntime(processor.RuntimeConfig{
		Broker: broker, Worker: cfg.Name, Logger: log,
		HeartbeatInterval: 500 * time.Millisecond, TakeoverAfter: takeoverAfter, StandbyInterval: 500 * time.Millisecond,
	})
	if err != nil {
		return err
	}
	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, syscall.SIGTERM)
	drained := make(chan error, 1)
	go func() {
		<-terminate
		drained <- rt.Drain(ctx)
	}()
	go deployAll(ctx, rt, cfg, log)
	if err := rt.Run(ctx); err != nil {
		return err
	}
	return <-drained
}

// broker connects until it works: the cluster may be without a leader just now.
func (cfg workerConfig) broker(ctx context.Context, ns tenants.Namespace, log *slog.Logger) (*jetstream.Broker, error) {
	intercept := cfg.intercept()
	for {
		broker, err := jetstream.New(jetstream.Config{
			URL: cfg.URL, Namespace: ns, CreateStreams: true, Replicas: cfg.Replicas, SharedBuckets: cfg.Buckets,
			Heartbeat: time.Second, Logger: log, Intercept: intercept,
		})
		if err != nil {
			return nil, err
		}
		if err = broker.Start(ctx); err == nil {
			return broker, nil
		}
		log.Warn("starting the broker, trying again", "err", err)
		broker.Close()
		breathe(ctx)
	}
}

// takeoverAfter is that of worker processes.
const takeoverAfter = 3 * time.Second

// deployAll deploys every job, several at a time.
func deployAll(ctx context.Context, rt *processor.Runtime, cfg workerConfig, log *slog.Logger) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, 8)
	for name, build := range topologies {
		topo, err := build(cfg)
		if err != nil {
			log.Error("building a topology", "err", err)
			os.Exit(2)
		}
		for _, tenant := range cfg.Jobs[name] {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				cfg.deploy(ctx, rt, topo, tenant, log)
			})
		}
	}
	wg.Wait()
	log.Info("everything is deployed")
}

// deploy tries until it works: a cluster that just lost a server refuses for a while.
func (cfg workerConfig) deploy(ctx context.Context, rt *processor.Runtime, topo *processor.Topology, tenant string, log *slog.Logger) {
	for ctx.Err() == nil {
		_, err := rt.Deploy(ctx, topo, tenants.ID(tenant), processor.JobConfig{
			Checkpoint:  processor.CheckpointConfig{Interval: cfg.Interval},
			Restart:     processor.RestartConfig{First: 50 * time.Millisecond, Max: time.Second, Attempts: 1000},
			Parallelism: cmp.Or(cfg.Parallelism, 1+len(tenant)%2),
		})
		if err == nil {
			return
		}
		log.Warn("deploying, trying again", "tenant", tenant, "err", err)
		breathe(ctx)
	}
}

// topologies are what worker processes can run.
var topologies = map[string]func(workerConfig) (*processor.Topology, error){
	tallyName:     func(workerConfig) (*processor.Topology, error) { return buildTally() },
	delaysName:    func(workerConfig) (*processor.Topology, error) { return buildDelays() },
	operatorsName: func(cfg workerConfig) (*processor.Topology, error) { return buildOperators(cfg.Life) },
}

func (cfg workerConfig) intercept() func(op, subject string) jetstream.Fault {
	if cfg.FailAt == 0 {
		return nil
	}
	var n atomic.Int64
	return func(op, _ string) jetstream.Fault {
		if n.Load() >= cfg.FailAt && cfg.FailAfter {
			os.Exit(9) // the reply has come, or something else is sent meanwhile: either way the process saw no reply
		}
		if op != cfg.FailOp || n.Add(1) != cfg.FailAt {
			return jetstream.Pass
		}
		if !cfg.FailAfter {
			os.Exit(9)
		}
		return jetstream.LoseReply
	}
}

// process is a child that plays a role. It is restarted under the same identity.
type process struct {
	role string
	cfg  any
	log  string // file

	cmd   *exec.Cmd
	stdin io.Closer
	done  chan struct{}
}

func newProcess(t testing.TB, dir, name, role string, cfg any) *process {
	t.Helper()
	p := &process{role: role, cfg: cfg, log: filepath.Join(dir, name+".log")}
	t.Cleanup(p.kill)
	return p
}

func (p *process) start(t testing.TB) {
	t.Helper()
	text, err := json.Marshal(p.cfg)
	ok(t, err)
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	ok(t, err)
	defer func() { ok(t, out.Close()) }()
	exe, err := os.Executable()
	ok(t, err)
	p.cmd = exec.Command(exe)
	p.cmd.Env = append(os.Environ(), roleEnv+"="+p.role, configEnv+"="+string(text))
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.stdin, err = p.cmd.StdinPipe()
	ok(t, err)
	ok(t, p.cmd.Start())
	p.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		defer close(done)
		_ = cmd.Wait() // how it ended is in ProcessState
	}(p.cmd, p.done)
}

// alive reports whether the process runs, or stands still.
func (p *process) alive() bool {
	if p.done == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// kill is kill -9.
func (p *process) kill() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	<-p.done
	_ = p.stdin.Close()
}

func (p *process) signal(t testing.TB, sig os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil && p.alive() {
		t.Fatal(err)
	}
}

// logTail is the end of what the process logged.
func (p *process) logTail() string {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-30):], []byte("\n")))
}

// freePorts finds ports that nobody listens on.
func freePorts(t testing.TB, n int) []int {
	t.Helper()
	ports := make([]int, n)
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		ok(t, err)
		defer func() { ok(t, l.Close()) }()
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports
}
