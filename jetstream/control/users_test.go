package control_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/jetstream/control"
)

// guarded is a server whose users have exactly the permissions of their roles. It keeps what clients publish and subscribe to.
type guarded struct {
	t    *testing.T
	srv  *server.Server
	sets map[string]control.PermissionSet // by user name

	mu       sync.Mutex
	publish  map[string]string // subject that a worker published to, and an example of the line
	subs     map[string]string
	violated []string
}

func newGuarded(t *testing.T, sets map[string]control.PermissionSet, trace bool) *guarded {
	t.Helper()
	g := &guarded{t: t, sets: sets, publish: map[string]string{}, subs: map[string]string{}}
	opts := &server.Options{
		ServerName: "guarded", DontListen: true, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, DisableJetStreamBanner: true,
		Trace: trace, MaxTracedMsgLen: 1, NoLog: !trace,
		Users: []*server.User{{Username: "admin", Password: "admin"}},
	}
	for name, set := range sets {
		opts.Users = append(opts.Users, &server.User{Username: name, Password: name, Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: set.Publish.Allow, Deny: set.Publish.Deny},
			Subscribe: &server.SubjectPermission{Allow: set.Subscribe.Allow, Deny: set.Subscribe.Deny},
		}})
	}
	srv, err := server.NewServer(opts)
	ok(t, err)
	if trace {
		srv.SetLoggerV2(g, false, true, false)
	}
	srv.Start()
	if !srv.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server did not start")
	}
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	g.srv = srv
	return g
}

// Conn implements jetstream.Provider for the user worker.
func (g *guarded) Conn(_ context.Context, p jetstream.Purpose) (*nats.Conn, error) {
	return nats.Connect("", append(jetstream.ConnOptions(p, nil), g.options("worker")...)...)
}

func (g *guarded) options(user string) []nats.Option {
	opts := []nats.Option{nats.InProcessServer(g.srv), nats.UserInfo(user, user), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.violated = append(g.violated, user+": "+err.Error())
	})}
	if set, has := g.sets[user]; has {
		opts = append(opts, nats.CustomInboxPrefix(set.InboxPrefix))
	}
	return opts
}

func (g *guarded) as(user string) *nats.Conn {
	g.t.Helper()
	nc, err := nats.Connect("", append(g.options(user), nats.Name(user))...)
	ok(g.t, err)
	g.t.Cleanup(nc.Close)
	return nc
}

// denied reports what the server has denied since the last time.
func (g *guarded) denied() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	v := g.violated
	g.violated = nil
	return v
}

// Tracef keeps the subjects of the workers' connections: "<<- [PUB subject reply 12]".
func (g *guarded) Tracef(format string, v ...any) {
	line := fmt.Sprintf(format, v...)
	_, op, incoming := strings.Cut(line, "<<- [")
	if !incoming || !strings.Contains(line, ":weir ") {
		return
	}
	fields := strings.Fields(strings.TrimSuffix(op, "]"))
	if len(fields) < 2 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch fields[0] {
	case "PUB", "HPUB":
		g.publish[fields[1]] = line
	case "SUB":
		g.subs[fields[1]] = line
	}
}

func (g *guarded) Noticef(string, ...any)         {}
func (g *guarded) Warnf(string, ...any)           {}
func (g *guarded) Debugf(string, ...any)          {}
func (g *guarded) Fatalf(format string, v ...any) { g.t.Errorf("the server: "+format, v...) }
func (g *guarded) Errorf(string, ...any)          {}

// matches is how the server matches a subject or a subscription with a pattern.
func matches(pattern, subject string) bool {
	for {
		p, prest, pmore := strings.Cut(pattern, ".")
		s, srest, smore := strings.Cut(subject, ".")
		if p == ">" {
			return true
		}
		if p != s && (p != "*" || s == ">") || pmore != smore {
			return false
		}
		if !pmore {
			return true
		}
		pattern, subject = prest, srest
	}
}
