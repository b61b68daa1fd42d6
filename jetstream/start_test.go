package jetstream_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/weirstream/weir/jetstream"
)

func start(t *testing.T, cfg jetstream.Config) error {
	t.Helper()
	b, err := jetstream.New(cfg)
	ok(t, err)
	defer b.Close()
	return b.Start(context.Background())
}

func TestNoServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	url := "nats://" + l.Addr().String()
	ok(t, l.Close())
	err = start(t, jetstream.Config{URL: url})
	wantErr(t, err, jetstream.ErrNoServer)
	if !strings.Contains(err.Error(), url) {
		t.Fatalf("the error does not name the server: %v", err)
	}
}

// inProcess makes connections to a server of the test's own.
type inProcess struct{ srv *server.Server }

func (p inProcess) Conn(_ context.Context, purpose jetstream.Purpose) (*nats.Conn, error) {
	return nats.Connect("", append(jetstream.ConnOptions(purpose, nil), nats.InProcessServer(p.srv))...)
}

func TestServerWithoutJetStream(t *testing.T) {
	srv, err := server.NewServer(&server.Options{DontListen: true, NoSigs: true, NoLog: true})
	ok(t, err)
	srv.Start()
	defer func() { srv.Shutdown(); srv.WaitForShutdown() }()
	wantErr(t, start(t, jetstream.Config{Provider: inProcess{srv}}), jetstream.ErrNoJetStream)
}

// TestOldServer talks to something that greets like an older server.
func TestOldServer(t *testing.T) {
	for _, version := range []string{"2.10.29", "2.14.9", "1.99.99", "dev"} {
		t.Run(version, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			ok(t, err)
			defer l.Close()
			done := make(chan struct{})
			go func() {
				defer close(done)
				c, err := l.Accept()
				if err != nil {
					return
				}
				defer c.Close()
				fmt.Fprintf(c, "INFO {\"server_id\":\"x\",\"version\":%q,\"headers\":true,\"max_payload\":1048576}\r\n", version)
				for lines := bufio.NewScanner(c); lines.Scan(); {
					if lines.Text() == "PING" {
						fmt.Fprint(c, "PONG\r\n")
					}
				}
			}()
			err = start(t, jetstream.Config{URL: "nats://" + l.Addr().String()})
			wantErr(t, err, jetstream.ErrServerTooOld)
			<-done
		})
	}
}

func TestConfig(t *testing.T) {
	bad := jetstream.Config{Provider: inProcess{}, URL: "x", Replicas: 9, MaxBytes: -1, SharedBuckets: -1, ChunkBytes: 3, MaxPart: 1, Timeout: -1, Heartbeat: 1}
	err := bad.Validate()
	for _, field := range []string{"URL", "Replicas", "MaxBytes", "SharedBuckets", "ChunkBytes", "MaxPart", "Timeout", "Heartbeat"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("the error does not name %s: %v", field, err)
		}
	}
	if _, err := jetstream.New(bad); err == nil {
		t.Error("New took it")
	}
}

func TestClosedBroker(t *testing.T) {
	w := newWorld(t)
	if err := w.b.Start(context.Background()); err == nil {
		t.Error("a broker started twice")
	}
	w.b.Close()
	w.b.Close()
	_, err := w.b.Conn(context.Background(), jetstream.Control)
	wantErr(t, err, jetstream.ErrClosed)
	_, err = w.b.OpenReader(context.Background(), orders(0))
	wantErr(t, err, jetstream.ErrClosed)
}
