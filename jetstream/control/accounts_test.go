package control_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/weirstream/weir/jetstream/control"
	"github.com/weirstream/weir/processor"
)

// TestServiceImport: a request from another account comes with a reply subject that only the server can make. It is answered where
// the service's configuration says so, and not else: in the other account the answer goes wherever the caller wants it.
func TestServiceImport(t *testing.T) {
	for _, allowed := range []bool{false, true} {
		t.Run(fmt.Sprint(allowed), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				weir, acme := server.NewAccount("WEIR"), server.NewAccount("ACME")
				srv, err := server.NewServer(&server.Options{
					ServerName: "accounts", DontListen: true, NoSigs: true, NoLog: true, Accounts: []*server.Account{weir, acme},
					Users: []*server.User{{Username: "weir", Password: "weir", Account: weir}, {Username: "acme", Password: "acme", Account: acme}},
				})
				ok(t, err)
				srv.Start()
				t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
				to, err := srv.LookupAccount("WEIR")
				ok(t, err)
				from, err := srv.LookupAccount("ACME")
				ok(t, err)
				ok(t, to.AddServiceExport("weir.v1.acme.>", nil))
				ok(t, from.AddServiceImport(to, "weir.v1.acme.>", "weir.v1.acme.>"))
				connect := func(user string) *nats.Conn {
					nc, err := nats.Connect("", nats.InProcessServer(srv), nats.UserInfo(user, user))
					ok(t, err)
					t.Cleanup(nc.Close)
					return nc
				}
				f := newFleet()
				f.add("p1", "acme", "revenue", "orders@acme:1")
				cfg := control.Config{Conn: connect("weir"), Control: &fake{f, "p1"}, Worker: "w1", Process: "p1"}
				if allowed {
					cfg.InboxPrefixes = []string{nats.InboxPrefix, "_R_."}
				}
				s, err := control.New(cfg)
				ok(t, err)
				ok(t, s.Start(context.Background()))
				t.Cleanup(s.Close)

				caller := connect("acme")
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				defer cancel()
				m, err := caller.RequestWithContext(ctx, "weir.v1.acme.revenue.status", nil)
				if !allowed {
					if !errors.Is(err, context.DeadlineExceeded) {
						t.Fatalf("answered %v, %v", m, err)
					}
					equal(t, "calls", len(f.called()), 0)
					equal(t, "ignored", s.Stats()["status"].Ignored, uint64(1))
					return
				}
				ok(t, err)
				equal(t, "job", into[processor.JobReport](t, read(t, m)).Job, "revenue")
			})
		})
	}
}
