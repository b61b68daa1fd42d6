package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// cluster is three servers in child processes.
type cluster struct {
	children []*exec.Cmd
	urls     []string
}

// startCluster runs the command self (this binary's hidden server command) three times and waits until streams with three
// replicas can be made.
func startCluster(self []string, dir string) (*cluster, error) {
	ports, err := freePorts(6)
	if err != nil {
		return nil, err
	}
	c := &cluster{}
	var routes []string
	for i := range 3 {
		c.urls = append(c.urls, fmt.Sprintf("nats://127.0.0.1:%d", ports[i]))
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", ports[3+i]))
	}
	for i := range 3 {
		name := fmt.Sprintf("n%d", i+1)
		args := append(append([]string(nil), self[1:]...), "nats-server", "--name", name, "--dir", filepath.Join(dir, name),
			"--port", strconv.Itoa(ports[i]), "--cluster-port", strconv.Itoa(ports[3+i]), "--routes", strings.Join(routes, ","))
		cmd := exec.Command(self[0], args...)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			return nil, errors.Join(fmt.Errorf("starting server %s: %w", name, err), c.stop())
		}
		c.children = append(c.children, cmd)
	}
	return c, nil
}

func (c *cluster) stop() error {
	var errs []error
	for _, cmd := range c.children {
		errs = append(errs, cmd.Process.Signal(os.Interrupt))
	}
	for _, cmd := range c.children {
		errs = append(errs, cmd.Wait())
	}
	c.children = nil
	return errors.Join(errs...)
}

// freePorts returns ports that were free a moment ago.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("looking for a free port: %w", err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// newClusterEnv is newEnv with three servers.
func newClusterEnv(ctx context.Context, self []string) (*env, error) {
	dir, err := os.MkdirTemp("", "weir-bench-")
	if err != nil {
		return nil, fmt.Errorf("making a folder for the benchmark's servers: %w", err)
	}
	e := &env{dir: dir}
	if e.cluster, err = startCluster(self, dir); err != nil {
		e.close()
		return nil, err
	}
	e.url = strings.Join(e.cluster.urls, ",")
	limited, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		err := e.tryCluster(limited)
		if err == nil {
			return e, nil
		}
		select {
		case <-limited.Done():
			e.close()
			return nil, fmt.Errorf("waiting for three servers to form a cluster: %w", err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// tryCluster connects where there is no connection yet, and makes a stream with three replicas.
func (e *env) tryCluster(ctx context.Context) error {
	if e.nc == nil {
		if err := e.connect(); err != nil {
			return err
		}
	}
	// Without a leader nobody answers: each try has its own end.
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	const name = "ready"
	if _, err := e.js.CreateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{name}, Replicas: 3}); err != nil {
		return err
	}
	return e.js.DeleteStream(ctx, name)
}
