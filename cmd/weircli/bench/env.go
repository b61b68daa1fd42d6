package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/jetstream/embedded"
)

const tenant = "bench"

// Config of a benchmark.
type Config struct {
	Events   int           // in the stream
	Keys     int           // distinct keys
	Pairs    int           // of baseline and Weir
	Decoder  string        // json or scan
	Interval time.Duration // between checkpoints
	For      time.Duration // how long a run of checkpoint is measured at most
	Replicas int           // of what Weir creates; 0: 1
	// Profile is where a CPU profile of Weir's side of the last pair goes; empty: none.
	Profile string
	// Log hears of trouble; Progress of every step. Both may be nil.
	Log      *slog.Logger
	Progress func(format string, args ...any)
}

// Validate reports all problems at once.
func (c Config) Validate() error {
	var errs []error
	if c.Events < 1 || c.Events > 1e9 {
		errs = append(errs, fmt.Errorf("--events is %d: use 1 to 1000000000", c.Events))
	}
	if c.Keys < 1 || c.Keys > 1e7 {
		errs = append(errs, fmt.Errorf("--keys is %d: use 1 to 10000000", c.Keys))
	}
	if c.Pairs < 1 || c.Pairs > 1000 {
		errs = append(errs, fmt.Errorf("--pairs is %d: use 1 to 1000", c.Pairs))
	}
	if _, err := decoder(c.Decoder); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (c Config) step(format string, args ...any) {
	if c.Progress != nil {
		c.Progress(format, args...)
	}
}

// env is an embedded server of its own in a temporary folder, and a connection to it.
type env struct {
	dir     string
	srv     *embedded.Server
	cluster *cluster
	url     string
	nc      *nats.Conn
	js      jetstream.JetStream
}

func newEnv() (*env, error) {
	dir, err := os.MkdirTemp("", "weir-bench-")
	if err != nil {
		return nil, fmt.Errorf("making a folder for the benchmark's server: %w", err)
	}
	e := &env{dir: dir}
	e.srv, err = embedded.Start(embedded.Options{Dir: dir, Host: "127.0.0.1", Port: -1})
	if err == nil {
		e.url = e.srv.ClientURL()
		err = e.connect()
	}
	if err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

func (e *env) connect() (err error) {
	if e.nc, err = nats.Connect(e.url, nats.Name("weir bench")); err != nil {
		return fmt.Errorf("connecting to the benchmark's server: %w", err)
	}
	e.js, err = jetstream.New(e.nc)
	return err
}

func (e *env) close() {
	if e.nc != nil {
		e.nc.Close()
	}
	if e.srv != nil {
		e.srv.Shutdown()
	}
	if e.cluster != nil {
		e.cluster.stop() // the files are thrown away: how the children ended does not matter
	}
	os.RemoveAll(e.dir)
}

// stream makes a stream for a tenant's subjects as a user of Weir would.
func (e *env) stream(ctx context.Context, name string, replicas int, subjects ...string) error {
	_, err := e.js.CreateStream(ctx, jetstream.StreamConfig{
		Name: name, Subjects: subjects, Storage: jetstream.FileStorage, Replicas: replicas,
		AllowAtomicPublish: true, AllowMsgTTL: true, AllowDirect: true,
	})
	if err != nil {
		return fmt.Errorf("creating stream %s: %w", name, err)
	}
	return nil
}

// fill publishes n more messages and checks that the stream has them all.
func (e *env) fill(ctx context.Context, stream, subject string, n int, payload func(b []byte, id uint64) []byte) error {
	before, err := e.stored(ctx, stream, subject)
	if err != nil {
		return err
	}
	for id := range uint64(n) {
		// PublishAsync keeps the bytes until they are acknowledged.
		_, err := e.js.PublishAsync(subject, payload(make([]byte, 0, eventBytes+16), id), jetstream.WithStallWait(time.Minute))
		if err != nil {
			return fmt.Errorf("filling stream %s: %w", stream, err)
		}
	}
	select {
	case <-e.js.PublishAsyncComplete():
	case <-ctx.Done():
		return ctx.Err()
	}
	after, err := e.stored(ctx, stream, subject)
	if err == nil && after-before != uint64(n) {
		err = fmt.Errorf("filling stream %s: it took %d of %d messages: was the disk full?", stream, after-before, n)
	}
	return err
}

// stored is the number of messages that a stream has under a subject.
func (e *env) stored(ctx context.Context, stream, subject string) (uint64, error) {
	s, err := e.js.Stream(ctx, stream)
	if err != nil {
		return 0, fmt.Errorf("reading stream %s: %w", stream, err)
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(subject))
	if err != nil {
		return 0, fmt.Errorf("reading stream %s: %w", stream, err)
	}
	return info.State.Subjects[subject], nil
}
