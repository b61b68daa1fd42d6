package embedded_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server/ats"
	js "github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/jetstream/embedded"
)

func TestMain(m *testing.M) {
	ats.Register() // the server's clock outlives all servers
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestDataSurvivesARestart writes, stops, and reads again, over each kind of connection.
func TestDataSurvivesARestart(t *testing.T) {
	for name, o := range map[string]embedded.Options{
		"with a port":     {Port: -1},
		"in process":      {InProcessOnly: true},
		"syncing always":  {InProcessOnly: true, SyncAlways: true},
		"with store size": {InProcessOnly: true, MaxStore: 1 << 30},
	} {
		t.Run(name, func(t *testing.T) {
			o.Dir = t.TempDir()
			for round := range 2 {
				srv, err := embedded.Start(o)
				ok(t, err)
				if (srv.ClientURL() == "") != o.InProcessOnly {
					t.Fatalf("the URL is %q", srv.ClientURL())
				}
				for _, p := range []jetstream.Purpose{jetstream.Control, jetstream.Output, jetstream.Read} {
					nc, err := srv.Conn(context.Background(), p)
					ok(t, err)
					s, err := js.New(nc)
					ok(t, err)
					kv, err := s.CreateOrUpdateKeyValue(context.Background(), js.KeyValueConfig{Bucket: "b"})
					ok(t, err)
					if round == 0 {
						_, err = kv.PutString(context.Background(), p.String(), "x")
					} else {
						_, err = kv.Get(context.Background(), p.String())
					}
					ok(t, err)
					nc.Close()
				}
				srv.Shutdown()
				srv.Shutdown()
			}
		})
	}
}

func TestTakenPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	defer l.Close()
	_, err = embedded.Start(embedded.Options{Dir: t.TempDir(), Port: l.Addr().(*net.TCPAddr).Port})
	if !errors.Is(err, embedded.ErrPortTaken) || !strings.Contains(err.Error(), "--port") || !strings.Contains(err.Error(), "--url") {
		t.Fatalf("error is %v", err)
	}
}

func TestNoDir(t *testing.T) {
	if _, err := embedded.Start(embedded.Options{}); err == nil {
		t.Fatal("a server without a folder started")
	}
}
