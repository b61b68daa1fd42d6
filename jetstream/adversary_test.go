package jetstream_test

import (
	"context"
	"errors"
	"testing"
	"time"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/processor"
)

// Between binding and the reader's first look a busy stream's limits may remove what no checkpoint has ever counted on.
func TestFreshReaderOnATrimmedStream(t *testing.T) {
	w := newWorld(t)
	cfg := acmeStream()
	cfg.MaxMsgs, cfg.Discard = 10, js.DiscardOld
	w.stream(cfg)
	w.publish("acme.orders.a", 30) // 21 to 30 are there
	spec := orders(20)
	spec.Job, spec.Source, spec.Fresh = job, "orders", true
	w.publish("acme.orders.a", 5)
	r := w.open(spec)
	batch, err := r.Next(context.Background())
	ok(t, err)
	equal(t, "first record", batch.Records[0].Seq, 26)
	r.Close()
	spec.Fresh = false
	_, err = w.b.OpenReader(context.Background(), spec)
	wantFault(t, err, processor.StreamTrimmed)
}

// A broker that does not answer is nobody's fault: jobs wait for it however long it takes, and are not parked.
func TestSilentBrokerIsUnavailable(t *testing.T) {
	silent := false
	w := newWorld(t, func(c *jetstream.Config) {
		c.Timeout = 300 * time.Millisecond // a loaded machine starts the broker within it
		c.Intercept = func(op, subject string) jetstream.Fault {
			if silent {
				return jetstream.Drop
			}
			return jetstream.Pass
		}
	})
	ctx := context.Background()
	ref, err := w.b.Put(ctx, "acme", "revenue/1-1/count-0-x", []byte("x"))
	ok(t, err)
	silent = true
	_, putErr := w.b.Put(ctx, "acme", "revenue/1-1/count-0-y", []byte("x"))
	_, getErr := w.b.Get(ctx, "acme", ref)
	_, bindErr := w.b.Bind(ctx, processor.Needs{Job: job, Sources: []processor.SourceNeed{{Source: "orders", Filter: "orders.>"}}})
	for _, err := range []error{putErr, getErr, bindErr} {
		if !errors.Is(err, processor.ErrUnavailable) {
			t.Errorf("not recognised: %v", err)
		}
	}
	silent = false
	_, err = w.b.Bind(ctx, processor.Needs{Job: job, Sources: []processor.SourceNeed{{Source: "orders", Stream: "nowhere", Filter: "orders.>"}}})
	if processor.ClassOf(err) != processor.ClassTerminal {
		t.Errorf("a missing stream is of class %d: %v", processor.ClassOf(err), err)
	}
}
