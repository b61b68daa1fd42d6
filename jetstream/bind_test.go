package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

func needs() processor.Needs {
	return processor.Needs{Job: job,
		Sources: []processor.SourceNeed{{Source: "orders", Filter: "orders.>"}},
		Sinks:   []processor.SinkNeed{{Sink: "out", Subjects: []tenants.Filter{"out.>"}}},
	}
}

// TestBadStreams lists what a stream can lack, and the command that helps.
func TestBadStreams(t *testing.T) {
	both := func(c *js.StreamConfig) {}
	for _, c := range []struct {
		name   string
		change func(c *js.StreamConfig)
		need   func(n *processor.Needs)
		has    string
		fix    string
	}{
		{"all well", both, nil, "", ""},
		{"interest retention", func(c *js.StreamConfig) { c.Retention = js.InterestPolicy }, nil, "interest retention", "nats stream edit S --retention limits"},
		{"work queue", func(c *js.StreamConfig) { c.Retention = js.WorkQueuePolicy }, nil, "work-queue retention", ""},
		{"no batches", func(c *js.StreamConfig) { c.AllowAtomicPublish = false }, nil, "no atomic batches", "nats stream edit S --allow-batch"},
		{"no batches needed", func(c *js.StreamConfig) { c.AllowAtomicPublish = false }, func(n *processor.Needs) { n.Sinks[0].AtLeastOnce = true }, "", ""},
		{"age limit", func(c *js.StreamConfig) { c.MaxAge, c.AllowMsgTTL = time.Hour, false }, nil, "an age limit of 1h0m0s", "nats stream edit S --allow-msg-ttl"},
		{"age limit with TTLs", func(c *js.StreamConfig) { c.MaxAge = time.Hour }, nil, "", ""},
		{"byte limit", func(c *js.StreamConfig) { c.MaxBytes = 1 << 20 }, nil, "a size limit that discards", "nats stream edit S --discard new"},
		{"message limit", func(c *js.StreamConfig) { c.MaxMsgs = 1000 }, nil, "a size limit that discards", "nats stream edit S --discard new"},
		{"message limit, allowed", func(c *js.StreamConfig) { c.MaxMsgs = 1000 }, func(n *processor.Needs) { n.Sinks[0].AllowMarkerLoss = true }, "", ""},
		{"byte limit that refuses", func(c *js.StreamConfig) { c.MaxBytes, c.Discard = 1<<20, js.DiscardNew }, nil, "", ""},
		{"one per subject", func(c *js.StreamConfig) { c.MaxMsgsPerSubject = 1 }, nil, "", ""},
		{"one per subject that refuses", func(c *js.StreamConfig) {
			c.MaxMsgsPerSubject, c.Discard, c.DiscardNewPerSubject = 1, js.DiscardNew, true
		}, nil, "a limit per subject", "nats stream edit S --no-discard-per-subject --discard old"},
		{"no acks", func(c *js.StreamConfig) { c.NoAck = true }, nil, "no acknowledgements", "nats stream edit S --ack"},
		{"counters", func(c *js.StreamConfig) { c.AllowMsgCounter, c.AllowMsgTTL = true, false }, nil, "message counters", ""},
		{"marker not captured", func(c *js.StreamConfig) { c.Subjects = []string{"acme.orders.>", "acme.out.>"} }, nil, "subjects acme.orders.>, acme.out.>",
			"nats stream edit S --subjects 'acme.orders.>' --subjects 'acme.out.>' --subjects 'acme._weir.revenue.sink.out'"},
		{"another marker", func(c *js.StreamConfig) { c.Subjects = []string{"acme.orders.>", "acme.out.>"} },
			func(n *processor.Needs) { n.Sinks[0].Marker = "acme.out._weir.revenue" }, "", ""},
		{"output not captured", func(c *js.StreamConfig) { c.Subjects = []string{"acme.orders.>", "acme.out.a", "acme._weir.>"} }, nil, "acme.out.a",
			"nats stream edit S --subjects 'acme.orders.>' --subjects 'acme.out.a' --subjects 'acme._weir.>' --subjects 'acme.out.>'"},
		{"marker renamed", func(c *js.StreamConfig) {
			c.SubjectTransform = &js.SubjectTransformConfig{Source: "acme._weir.>", Destination: "acme.w.>"}
		}, nil, "a subject transform", "nats stream edit S --no-transform"},
		{"nothing captures", func(c *js.StreamConfig) { c.Subjects = []string{"globex.>"} }, nil, "no stream captures acme.orders.>",
			"nats stream add acme --subjects 'acme.>' --allow-batch --allow-msg-ttl --discard new --defaults"},
		{"no such stream", both, func(n *processor.Needs) { n.Sources[0].Stream = "T" }, "no such stream", "nats stream add acme --subjects 'acme.>' --allow-batch --allow-msg-ttl --discard new --defaults"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, func(c *jetstream.Config) { c.CreateStreams = false })
			cfg := js.StreamConfig{Name: "S", Subjects: []string{"acme.>"}, AllowAtomicPublish: true, AllowMsgTTL: true}
			c.change(&cfg)
			w.stream(cfg)
			n := needs()
			if c.need != nil {
				c.need(&n)
			}
			findings, err := w.b.Check(context.Background(), n)
			bindings, bindErr := w.b.Bind(context.Background(), n)
			after, infoErr := w.js.Stream(context.Background(), "S")
			ok(t, infoErr)
			equal(t, "revision of the foreign stream", after.CachedInfo().Config.Metadata["weir.owner"], "")
			if c.has == "" {
				ok(t, errors.Join(err, bindErr))
				equal(t, "findings", len(findings), 2)
				equal(t, "stream", bindings.Sinks[0].Stream, "S")
				return
			}
			for _, err := range []error{err, bindErr} {
				if err == nil || processor.ClassOf(err) != processor.ClassTerminal || !strings.Contains(err.Error(), "acme/revenue") || !strings.Contains(err.Error(), c.has) {
					t.Fatalf("error is %v, want a terminal one that says %q", err, c.has)
				}
			}
			for _, f := range findings {
				if f.Needs != "" && strings.Contains(f.Has, c.has) {
					equal(t, "fix", f.Fix, c.fix)
					return
				}
			}
			t.Fatalf("findings %+v, want one that has %q", findings, c.has)
		})
	}
}

func TestBindCreatesWhatIsMissing(t *testing.T) {
	w := newWorld(t)
	n := needs()
	n.Sinks = append(n.Sinks, processor.SinkNeed{Sink: "counts", Bucket: "counts"}, processor.SinkNeed{Sink: "_dlq", DeadLetters: true})
	findings, err := w.b.Check(context.Background(), n)
	ok(t, err)
	for _, f := range findings {
		equal(t, f.Subject+" will be created", f.Created, true)
	}
	var streams []string
	for name := range w.js.StreamNames(context.Background()).Name() {
		streams = append(streams, name)
	}
	equal(t, "streams after a dry run", len(streams), 3) // Weir's own: checkpoints, workers, jobs
	for range 2 {
		got, err := w.b.Bind(context.Background(), n)
		ok(t, err)
		equal(t, "source", fmt.Sprint(got.Sources[0].Stream, got.Sources[0].Filter, got.Sources[0].Barrier), "acme"+"acme.orders.>"+"acme.orders._weir.revenue.orders")
		for i, want := range []string{
			"acme acme._weir.revenue.sink.out acme.",
			"KV_counts $KV.counts._weir.acme.revenue.sink.counts $KV.counts.acme.",
			"WEIR_DLQ weir.dlq._weir.acme.revenue weir.dlq.acme.",
		} {
			s := got.Sinks[i]
			equal(t, "sink", fmt.Sprint(s.Stream, " ", s.Marker, " ", s.Prefix), want)
			equal(t, "largest batch", s.MaxPart, 10_000)
			equal(t, "largest message", s.MaxMsg, 1<<20)
			reply := w.b.PublishPart(context.Background(), processor.Part{Job: job, Sink: s.Sink, Stream: s.Stream,
				Messages: []processor.Message{{Subject: s.Prefix + "revenue", Data: []byte("x")}},
				Marker:   processor.Message{Subject: s.Marker, Data: []byte("{}")}, Expected: lastOf(w, s)})
			equal(t, "status", reply.Status, barriers.OK)
		}
	}
	kv, err := w.js.KeyValue(context.Background(), "counts")
	ok(t, err)
	entry, err := kv.Get(context.Background(), "acme.revenue")
	ok(t, err)
	equal(t, "value", string(entry.Value()), "x")
}

// TestShadowBindings puts everything that a fork publishes under its prefix, also into another stream.
func TestShadowBindings(t *testing.T) {
	w := newWorld(t, func(c *jetstream.Config) { c.CreateStreams = false })
	for name, subject := range map[string]string{"IN": "acme.orders.>", "OUT": "acme.out.>", "SHADOW": "acme.shadow.>"} {
		w.stream(js.StreamConfig{Name: name, Subjects: []string{subject}, AllowAtomicPublish: true, AllowMsgTTL: true})
	}
	n := needs()
	n.Sinks[0].Marker = "acme.out._weir.revenue"
	n.Sinks = append(n.Sinks, processor.SinkNeed{Sink: "soon", Subjects: []tenants.Filter{"out.soon"}, AtLeastOnce: true})
	bound := func() string {
		t.Helper()
		b, err := w.b.Bind(context.Background(), n)
		ok(t, err)
		var out []string
		for _, s := range b.Sinks {
			out = append(out, fmt.Sprint(s.Stream, " ", s.Prefix, " ", s.Marker))
		}
		return strings.Join(out, "; ")
	}
	equal(t, "without a shadow", bound(), "OUT acme. acme.out._weir.revenue; OUT acme. ")
	for i := range n.Sinks {
		n.Sinks[i].Shadow = "shadow.test"
	}
	equal(t, "in the shadow", bound(), "SHADOW acme.shadow.test. acme.shadow.test.out._weir.revenue; SHADOW acme.shadow.test. ")
	n.Sinks[0].Marker = ""
	equal(t, "default marker", bound(), "SHADOW acme.shadow.test. acme.shadow.test._weir.revenue.sink.out; SHADOW acme.shadow.test. ")
	// A stream that is named must capture the prefix.
	n.Sinks[0].Stream = "OUT"
	if _, err := w.b.Bind(context.Background(), n); err == nil || !strings.Contains(err.Error(), "nats stream edit OUT --subjects 'acme.out.>' --subjects 'acme.shadow.test.out.>'") {
		t.Errorf("a stream that does not capture the shadow: %v", err)
	}
	w = newWorld(t)
	b, err := w.b.Bind(context.Background(), processor.Needs{Job: job, Sinks: []processor.SinkNeed{{Sink: "counts", Bucket: "counts", Shadow: "shadow.test"}}})
	ok(t, err)
	equal(t, "bucket", b.Sinks[0].Prefix+" "+b.Sinks[0].Marker, "$KV.counts.acme.shadow.test. $KV.counts._weir.acme.revenue.sink.counts")
}

func lastOf(w *world, s processor.SinkBinding) uint64 {
	return w.do(barriers.Request{Op: barriers.OpReadMarker, Stream: s.Stream, Subject: s.Marker}).Seq
}

func TestForeignBucketWithoutBatches(t *testing.T) {
	w := newWorld(t)
	_, err := w.js.CreateKeyValue(context.Background(), js.KeyValueConfig{Bucket: "counts"})
	ok(t, err)
	n := processor.Needs{Job: job, Sinks: []processor.SinkNeed{{Sink: "counts", Bucket: "counts"}}}
	_, err = w.b.Bind(context.Background(), n)
	if err == nil || !strings.Contains(err.Error(), "nats stream edit KV_counts --allow-batch") {
		t.Fatalf("error is %v", err)
	}
}

// TestOwnStreamIsCompleted gives a stream of Weir's own what an older version lacked.
func TestOwnStreamIsCompleted(t *testing.T) {
	w := newWorld(t)
	w.stream(js.StreamConfig{Name: "acme", Subjects: []string{"acme.>"}, Metadata: map[string]string{"weir.owner": "weir"}, Discard: js.DiscardNew})
	_, err := w.b.Check(context.Background(), needs())
	ok(t, err)
	s, err := w.js.Stream(context.Background(), "acme")
	ok(t, err)
	equal(t, "batches after a dry run", s.CachedInfo().Config.AllowAtomicPublish, false)
	_, err = w.b.Bind(context.Background(), needs())
	ok(t, err)
	s, err = w.js.Stream(context.Background(), "acme")
	ok(t, err)
	equal(t, "batches", s.CachedInfo().Config.AllowAtomicPublish, true)
}

func TestAmbiguousAndHostileNeeds(t *testing.T) {
	w := newWorld(t)
	w.stream(js.StreamConfig{Name: "A", Subjects: []string{"acme.orders.eu"}})
	w.stream(js.StreamConfig{Name: "B", Subjects: []string{"acme.orders.us"}})
	_, err := w.b.Bind(context.Background(), needs())
	for _, part := range []string{"streams A, B all capture", "Weir cannot create acme for acme.> beside A, B", "nats stream add NAME --subjects 'acme.out.>'"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Fatalf("error is %v, want one that says %q", err, part)
		}
	}
	for name, change := range map[string]func(n *processor.Needs){
		"tenant":  func(n *processor.Needs) { n.Job.Tenant = "a.>" },
		"filter":  func(n *processor.Needs) { n.Sources[0].Filter = "orders.>.x" },
		"stream":  func(n *processor.Needs) { n.Sources[0].Stream = "A.B" },
		"bucket":  func(n *processor.Needs) { n.Sinks[0].Bucket = "a.>" },
		"marker":  func(n *processor.Needs) { n.Sinks[0].Marker = "acme.*" },
		"subject": func(n *processor.Needs) { n.Sinks[0].Subjects = []tenants.Filter{"out.\r\n"} },
	} {
		n := needs()
		n.Sources[0].Stream = "A"
		change(&n)
		if _, err := w.b.Bind(context.Background(), n); processor.ClassOf(err) != processor.ClassTerminal {
			t.Errorf("%s: error is %v, want a terminal one", name, err)
		}
	}
}

func TestSharedNamespace(t *testing.T) {
	ns, err := tenants.NewNamespace("events.{tenant}")
	ok(t, err)
	w := newWorld(t, func(c *jetstream.Config) { c.Namespace = ns })
	for _, tenant := range []tenants.ID{"acme", "globex"} {
		n := needs()
		n.Job.Tenant = tenant
		got, err := w.b.Bind(context.Background(), n)
		ok(t, err)
		equal(t, "stream", got.Sources[0].Stream, "events")
		equal(t, "filter", got.Sources[0].Filter, "events."+string(tenant)+".orders.>")
	}
	equal(t, "namespace", w.b.Namespace(), ns)
}
