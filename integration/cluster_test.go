package integration_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"
)

// cluster is nats-server processes on loopback.
type cluster struct {
	t       *testing.T
	dir     string
	servers []*process
	url     string
	nc      *nats.Conn
	js      js.JetStream
}

func startCluster(t *testing.T, n int) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: t.TempDir()}
	ports := freePorts(t, 2*n)
	var urls []string
	for i := range n {
		cfg := serverConfig{Name: fmt.Sprintf("s%d", i+1), Port: ports[i], Dir: filepath.Join(c.dir, fmt.Sprintf("s%d", i+1))}
		if n > 1 {
			cfg.Cluster, cfg.Routes = ports[n+i], ports[n:]
		}
		urls = append(urls, fmt.Sprintf("nats://127.0.0.1:%d", cfg.Port))
		p := newProcess(t, c.dir, cfg.Name, "server", cfg)
		p.start(t)
		c.servers = append(c.servers, p)
	}
	c.url = strings.Join(urls, ",")
	c.connect()
	t.Cleanup(func() {
		if t.Failed() {
			c.keepLogs()
		}
	})
	return c
}

func (c *cluster) connect() {
	c.t.Helper()
	eventually(c.t, "the servers take connections", func() bool {
		nc, err := nats.Connect(c.url, nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
		c.nc = nc
		return err == nil
	})
	c.t.Cleanup(c.nc.Close)
	var err error
	c.js, err = js.New(c.nc)
	ok(c.t, err)
	c.ready()
}

// ready waits until JetStream answers.
func (c *cluster) ready() {
	c.t.Helper()
	eventually(c.t, "JetStream answers", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_, err := c.js.AccountInfo(ctx)
		return err == nil
	})
}

// must tries until it works: a cluster that lost a server refuses for a while.
func (c *cluster) must(what string, try func(ctx context.Context) error) {
	c.t.Helper()
	var err error
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		err = try(ctx)
		cancel()
		if err == nil {
			return
		}
		breathe(context.Background())
	}
	c.t.Fatalf("%s: %v", what, err)
}

func (c *cluster) create(cfg js.StreamConfig) {
	c.t.Helper()
	c.must("creating stream "+cfg.Name, func(ctx context.Context) error {
		_, err := c.js.CreateOrUpdateStream(ctx, cfg)
		return err
	})
}

// keepLogs copies what the processes logged to a place that outlives the test.
func (c *cluster) keepLogs() {
	to, err := os.MkdirTemp("", "weir-chaos-")
	if err != nil {
		c.t.Log(err)
		return
	}
	logs, err := filepath.Glob(filepath.Join(c.dir, "*.log"))
	for _, name := range logs {
		data, readErr := os.ReadFile(name)
		err = errors.Join(err, readErr, os.WriteFile(filepath.Join(to, filepath.Base(name)), data, 0o600))
	}
	c.t.Logf("the logs of all processes are in %s (%v)", to, err)
}
