package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/weirstream/weir/jetstream"
)

// ErrPortTaken says that another process listens on the port.
var ErrPortTaken = errors.New("port is taken")

// Options of a server. The zero value of a field is its default.
type Options struct {
	// Dir holds the data. It is created if missing. Required.
	Dir string
	// Host and Port to listen on: 127.0.0.1 and 4222 by default, -1 for any free port.
	Host string
	Port int
	// InProcessOnly opens no port: only Conn reaches the server.
	InProcessOnly bool
	// SyncAlways syncs every write to disk before it is acknowledged: about a tenth of the speed, and nothing is lost when the
	// power fails.
	SyncAlways bool
	// MaxPayload is the largest message in bytes; 1 MiB by default.
	MaxPayload int32
	// MaxStore bounds all data on disk in bytes; 0: three quarters of what is free.
	MaxStore int64
	// MaxBatch is the most messages of an atomic batch; 10,000 by default, since large batches are half again as fast as the 1000
	// of a server that is not told otherwise.
	MaxBatch int
	// ReadyTimeout is how long Start waits; 20 s by default: a large store takes time to recover.
	ReadyTimeout time.Duration
	// Logger gets what the server has to say; nil discards.
	Logger *slog.Logger
}

// Server is a running server. It is a jetstream.Provider.
type Server struct {
	srv       *server.Server
	listening bool
}

// Start starts a server and waits until it takes connections.
func Start(o Options) (*Server, error) {
	if o.Dir == "" {
		return nil, errors.New("start NATS server: Dir is empty: say where the data goes")
	}
	if o.Host == "" {
		o.Host = "127.0.0.1"
	}
	if o.Port == 0 {
		o.Port = server.DEFAULT_PORT
	}
	if o.MaxPayload == 0 {
		o.MaxPayload = server.MAX_PAYLOAD_SIZE
	}
	if o.MaxBatch == 0 {
		o.MaxBatch = 10_000
	}
	if o.ReadyTimeout == 0 {
		o.ReadyTimeout = 20 * time.Second
	}
	opts := &server.Options{
		ServerName: "weir", Host: o.Host, Port: o.Port, DontListen: o.InProcessOnly,
		JetStream: true, StoreDir: o.Dir, SyncAlways: o.SyncAlways, MaxPayload: o.MaxPayload, JetStreamMaxStore: o.MaxStore,
		NoSigs: true, NoLog: o.Logger == nil, DisableJetStreamBanner: true,
	}
	opts.JetStreamLimits.MaxBatchSize = o.MaxBatch
	if !o.InProcessOnly {
		if err := checkPort(o.Host, o.Port); err != nil {
			return nil, fmt.Errorf("start NATS server: %w", err)
		}
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("start NATS server: %w", err)
	}
	if o.Logger != nil {
		srv.SetLoggerV2(serverLog{o.Logger}, false, false, false)
	}
	srv.Start()
	if !srv.ReadyForConnections(o.ReadyTimeout) {
		srv.Shutdown()
		srv.WaitForShutdown()
		return nil, fmt.Errorf("start NATS server on %s: it was not ready after %s", net.JoinHostPort(o.Host, strconv.Itoa(o.Port)), o.ReadyTimeout)
	}
	if !srv.JetStreamEnabled() {
		srv.Shutdown()
		srv.WaitForShutdown()
		return nil, fmt.Errorf("start NATS server: JetStream did not start in %s: is the folder writable, and used by no other server?", o.Dir)
	}
	return &Server{srv: srv, listening: !o.InProcessOnly}, nil
}

// checkPort says in words that a port is taken: the server itself would only time out.
func checkPort(host string, port int) error {
	if port < 0 {
		return nil
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return fmt.Errorf("%w: %s:%d: choose another with --port, or use the server that runs there with --url nats://%s:%d (%w)",
			ErrPortTaken, host, port, host, port, err)
	}
	return l.Close()
}

// ClientURL is where clients connect; empty without a port.
func (s *Server) ClientURL() string {
	if !s.listening {
		return ""
	}
	return s.srv.ClientURL()
}

// Conn implements jetstream.Provider. Control and output go through memory, which is twice as fast for round trips; readers take
// the loopback interface where there is one, which is faster in bulk.
func (s *Server) Conn(_ context.Context, p jetstream.Purpose) (*nats.Conn, error) {
	options := jetstream.ConnOptions(p, nil)
	url := ""
	if s.listening && p == jetstream.Read {
		url = s.srv.ClientURL()
	} else {
		options = append(options, nats.InProcessServer(s.srv))
	}
	nc, err := nats.Connect(url, options...)
	if err != nil {
		return nil, fmt.Errorf("%w: the embedded server does not take connections: %w", jetstream.ErrNoServer, err)
	}
	return nc, nil
}

// Shutdown stops the server and waits for it. It is idempotent.
func (s *Server) Shutdown() {
	s.srv.Shutdown()
	s.srv.WaitForShutdown()
}

// serverLog passes the server's words on.
type serverLog struct{ log *slog.Logger }

func (l serverLog) Noticef(format string, v ...any) { l.log.Info(fmt.Sprintf(format, v...)) }
func (l serverLog) Warnf(format string, v ...any)   { l.log.Warn(fmt.Sprintf(format, v...)) }
func (l serverLog) Fatalf(format string, v ...any)  { l.log.Error(fmt.Sprintf(format, v...)) }
func (l serverLog) Errorf(format string, v ...any)  { l.log.Error(fmt.Sprintf(format, v...)) }
func (l serverLog) Debugf(format string, v ...any)  { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l serverLog) Tracef(format string, v ...any)  { l.log.Debug(fmt.Sprintf(format, v...)) }
