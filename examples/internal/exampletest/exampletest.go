// Package exampletest runs an example against an embedded server, as its reader would run it against theirs.
package exampletest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/jetstream/embedded"
)

// limit bounds every wait, so that a broken example fails instead of hanging. No test depends on how long something takes.
const limit = 2 * time.Minute

// Run is an example that runs until the test ends.
type Run struct {
	t   *testing.T
	ctx context.Context
	js  jetstream.JetStream
	nc  *nats.Conn
	out *output
}

// Start starts a server and the example. When the test ends it stops both and fails where the example returned an error of its
// own.
func Start(t *testing.T, run func(ctx context.Context, url string, out io.Writer) error) *Run {
	t.Helper()
	srv, err := embedded.Start(embedded.Options{Dir: t.TempDir(), Port: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Shutdown)
	nc, err := nats.Connect(srv.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	r := &Run{t: t, ctx: ctx, js: js, nc: nc, out: &output{changed: make(chan struct{})}}
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, srv.ClientURL(), r.out) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("the example ended with %v", err)
		}
	})
	return r
}

// Publish publishes messages, each acknowledged. It waits for the example to have made the stream.
func (r *Run) Publish(subject string, payloads ...string) {
	r.t.Helper()
	for _, p := range payloads {
		for {
			_, err := r.js.Publish(r.ctx, subject, []byte(p))
			if err == nil {
				break
			}
			if !errors.Is(err, jetstream.ErrNoStreamResponse) {
				r.t.Fatalf("publishing %q on %s: %v", p, subject, err)
			}
			r.pause()
		}
	}
}

func (r *Run) pause() {
	r.t.Helper()
	select {
	case <-time.After(20 * time.Millisecond):
	case <-r.ctx.Done():
		r.t.Fatal("the example did nothing in ", limit)
	}
}

// Read returns the payloads of the first n messages that a stream has under a subject.
func (r *Run) Read(stream, subject string, n int) []string {
	r.t.Helper()
	for {
		if _, err := r.js.Stream(r.ctx, stream); err == nil {
			break
		}
		r.pause()
	}
	c, err := r.js.OrderedConsumer(r.ctx, stream, jetstream.OrderedConsumerConfig{FilterSubjects: []string{subject}})
	if err != nil {
		r.t.Fatal(err)
	}
	msgs, err := c.Messages()
	if err != nil {
		r.t.Fatal(err)
	}
	defer msgs.Stop()
	var out []string
	for len(out) < n {
		m, err := msgs.Next(jetstream.NextContext(r.ctx))
		if err != nil {
			r.t.Fatalf("reading %s: %d of %d messages came: %q: %v", subject, len(out), n, out, err)
		}
		out = append(out, string(m.Data()))
	}
	return out
}

// AwaitKey returns when a key of a KV bucket has the value.
func (r *Run) AwaitKey(bucket, key, want string) {
	r.t.Helper()
	got := ""
	for got != want {
		kv, err := r.js.KeyValue(r.ctx, bucket)
		if err == nil {
			var e jetstream.KeyValueEntry
			if e, err = kv.Get(r.ctx, key); err == nil {
				got = string(e.Value())
			}
		}
		if r.ctx.Err() != nil {
			r.t.Fatalf("key %s of bucket %s is %q instead of %q", key, bucket, got, want)
		}
		if got != want {
			r.pause()
		}
	}
}

// AwaitNoKey returns when a key of a KV bucket is gone.
func (r *Run) AwaitNoKey(bucket, key string) {
	r.t.Helper()
	for {
		kv, err := r.js.KeyValue(r.ctx, bucket)
		if err == nil {
			_, err = kv.Get(r.ctx, key)
		}
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			return
		}
		r.pause()
	}
}

// AwaitOutput returns when the example has printed text.
func (r *Run) AwaitOutput(text string) {
	r.t.Helper()
	for {
		got, changed := r.out.get()
		if bytes.Contains([]byte(got), []byte(text)) {
			return
		}
		select {
		case <-changed:
		case <-r.ctx.Done():
			r.t.Fatalf("the example did not print %q but\n%s", text, got)
		}
	}
}

// output is what the example prints.
type output struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	changed chan struct{}
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.changed)
	o.changed = make(chan struct{})
	return o.buf.Write(p)
}

func (o *output) get() (string, chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String(), o.changed
}

// Stored returns the payloads that a stream has under a subject now.
func (r *Run) Stored(stream, subject string) []string {
	r.t.Helper()
	r.pause()
	s, err := r.js.Stream(r.ctx, stream)
	if err != nil {
		r.t.Fatal(err)
	}
	info, err := s.Info(r.ctx, jetstream.WithSubjectFilter(subject))
	if err != nil {
		r.t.Fatal(err)
	}
	return r.Read(stream, subject, int(info.State.Subjects[subject]))
}
