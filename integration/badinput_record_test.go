package integration_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// TestBadInputPoison: each record that cannot be processed is in the dead letters once, with the error and where it was, although
// the worker dies on the way.
func TestBadInputPoison(t *testing.T) {
	seed := newSeed(t)
	rng := newRand(seed)
	w := newWorld(t)
	h := newHistory("acme")
	s := w.stream(t, ownStream("acme", 1))
	w.publish(t, "acme", h.random(rng, 40, 4))
	garbage := [][]byte{
		{}, {0}, []byte("{"), []byte(`{"k":1}`), []byte(`{"v":-1}`), []byte(`{"v":1e99}`), {0xff, 0xfe, 0x80},
		[]byte(strings.Repeat("[", 100_000)), []byte(strings.Repeat(`{"k":`, 50_000)), make([]byte, 500_000),
	}
	for _, data := range garbage {
		w.publish(t, "acme", []input{h.garbage(data)})
	}
	for i := range 20 {
		w.publish(t, "acme", []input{h.event(keyName(i%4), uint64(97*i+96))})
	}
	spec := workerSpec{name: "a", job: smallJob(), topo: tallyTopology(t)}
	spec.job.Parallelism = 2
	for range 3 {
		a := startWorker(t, w.srv, spec, "acme")
		eventually(t, "the job runs", func() bool { return a.status("acme").State == processor.JobRunning })
		w.publish(t, "acme", h.random(rng, 200, 4))
		a.kill()
	}
	startWorker(t, w.srv, spec, "acme").finish(w, h)
	for _, d := range w.outcome(t, h).dead {
		head := nats.Header(d.header)
		seq, err := strconv.ParseUint(head.Get(processor.HeaderSeq), 10, 64)
		ok(t, err)
		m, err := s.GetMsg(context.Background(), seq)
		ok(t, err)
		if string(m.Data) != string(d.data) || m.Subject != head.Get(processor.HeaderSubject) || head.Get(processor.HeaderStream) != "acme" {
			t.Errorf("the dead letter says sequence %d, subject %s of stream %s; there is %.40q on %s", seq, head.Get(processor.HeaderSubject),
				head.Get(processor.HeaderStream), m.Data, m.Subject)
		}
		if e := head.Get(processor.HeaderError); !strings.Contains(e, errPoison.Error()) && !strings.Contains(e, "decoding") {
			t.Errorf("the dead letter's error is %q", e)
		}
		if head.Get(processor.HeaderOperator) == "" {
			t.Error("the dead letter names no operator")
		}
	}
}

// order says where the topology of TestBadInputOutput publishes what, and with which headers.
type order struct {
	subject string
	header  map[string][]string
	size    int
	good    bool
}

// TestBadInputOutput: what can never be published goes to the dead letters, once, and everything else goes out.
func TestBadInputOutput(t *testing.T) {
	orders := []order{
		{subject: "out.a", good: true},
		{subject: "elsewhere.a"}, {subject: "in.a.b.c", good: true}, // the stream has all of acme.>
		{subject: ""}, {subject: "."}, {subject: "out."}, {subject: "out.*"}, {subject: "out.>"}, {subject: "out.a b"}, {subject: "out.\r\nPUB x 0"},
		{subject: "out.\x00"}, {subject: "_weir.tally.sink.out"}, {subject: "out._weir.x"}, {subject: "out." + strings.Repeat("x", 5000)},
		{subject: "out." + strings.Repeat("x", 400), good: true},
		{subject: "out.big", size: 2 << 20}, {subject: "out.large", size: 900_000, good: true},
		{subject: "out.h", header: map[string][]string{"Nats-Expected-Stream": {"other"}}},
		{subject: "out.h", header: map[string][]string{"nats-rollup": {"all"}}},
		{subject: "out.h", header: map[string][]string{"Weir-Barrier": {"1"}}},
		{subject: "out.h", header: map[string][]string{"a b": {"1"}}}, {subject: "out.h", header: map[string][]string{"": {"1"}}},
		{subject: "out.h", header: map[string][]string{"A:B": {"1"}}}, {subject: "out.h", header: map[string][]string{"X": {"a\r\nNats-TTL: 1s"}}},
		{subject: "out.h", header: map[string][]string{"Trace": {"a", "b"}}, good: true},
		{subject: "out.z", good: true},
	}
	w := newWorld(t)
	cfg := ownStream("acme", 1)
	cfg.Subjects = []string{"acme.in.>", "acme.out.>", "acme._weir.>"}
	w.stream(t, cfg)
	b := processor.NewBuilder("emitter")
	src := processor.From(b, "events", processor.SourceSpec[int64]{Filters: []tenants.Filter{"in.>"}, Codec: codec.New("number",
		func(dst []byte, v int64) ([]byte, error) { return strconv.AppendInt(dst, v, 10), nil },
		func(d []byte) (int64, error) { return strconv.ParseInt(string(d), 10, 64) })})
	processor.To(src, "out", processor.SinkSpec[int64]{
		Subject:  func(i int64) string { return orders[i].subject },
		Header:   func(i int64) map[string][]string { return orders[i].header },
		Subjects: []tenants.Filter{"out.>"},
		Codec: codec.New("padded",
			func(dst []byte, i int64) ([]byte, error) {
				return fmt.Appendf(dst, "%d %s", i, make([]byte, orders[i].size)), nil
			},
			func([]byte) (int64, error) { return 0, errors.New("sinks do not decode") }),
	})
	topo, err := b.Build()
	ok(t, err)
	for i := range orders {
		w.publish(t, "acme", []input{{"in.x", []byte(strconv.Itoa(i))}})
	}
	spec := workerSpec{name: "a", job: smallJob(), topo: topo}
	a := startWorker(t, w.srv, spec, "acme")
	eventually(t, "the job runs", func() bool { return a.status("acme").State == processor.JobRunning })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	seen, dead := map[string]int{}, map[string]int{}
	count := func(into map[string]int, stream, filter string) {
		clear(into)
		ok(t, readStream(ctx, w.js, stream, filter, func(m js.Msg) error {
			number, _, _ := strings.Cut(string(m.Data()), " ")
			into[number]++
			return nil
		}))
	}
	eventually(t, "everything is out", func() bool {
		if s := a.status("acme"); s.State == processor.JobFailed || s.State == processor.JobParked {
			t.Fatalf("the job is %s: %v", s.State, s.Err)
		}
		count(seen, "acme", "acme.out.>")
		count(dead, jetstream.DeadLetterStream, "weir.dlq.acme.emitter")
		return len(seen)+len(dead) >= len(orders)
	})
	ok(t, a.drain())
	count(seen, "acme", "acme.out.>")
	count(dead, jetstream.DeadLetterStream, "weir.dlq.acme.emitter")
	for i, o := range orders {
		n := strconv.Itoa(i)
		good := o.good && strings.HasPrefix(o.subject, "out.")
		if good && (seen[n] != 1 || dead[n] != 0) || !good && (seen[n] != 0 || dead[n] != 1) {
			t.Errorf("order %d, subject %.40q, headers %v: it came out %d times and is dead %d times", i, o.subject, o.header, seen[n], dead[n])
		}
	}
}

// TestBadInputHostileKeys: keys of any bytes are counted like others, in the stream, the bucket and the state.
func TestBadInputHostileKeys(t *testing.T) {
	w := newWorld(t)
	h := newHistory("acme")
	w.stream(t, ownStream("acme", 1))
	keys := []string{".", "..", "*", ">", "a.b", "a b", "\x00", "\r\n", "_weir", "=", "=00", "$JS.API.>", "ä", "日本", strings.Repeat("k", 150), "\u2028", "\u200e"}
	for round := range 3 {
		for i, key := range keys {
			w.publish(t, "acme", []input{h.event(key, uint64(round*10+i%10))})
		}
	}
	forgeBarriers(t, w, "acme")
	spec := workerSpec{name: "a", job: smallJob(), topo: tallyTopology(t)}
	spec.job.Parallelism, spec.job.KeyGroups = 3, 7
	a := startWorker(t, w.srv, spec, "acme")
	eventually(t, "the job runs", func() bool { return a.status("acme").State == processor.JobRunning })
	forgeBarriers(t, w, "acme")
	w.publish(t, "acme", []input{h.event("last", 1)})
	a.finish(w, h)
}

// forgeBarriers publishes barriers that nobody asked for, on the barrier's subject and on others.
func forgeBarriers(t testing.TB, w *world, tenant string) {
	t.Helper()
	payloads := [][]byte{nil, {0xc1}, []byte("garbage"), make([]byte, 100_000)}
	for epoch := range uint64(3) {
		for checkpoint := range uint64(6) {
			payloads = append(payloads, barriers.Barrier{
				Tenant: tenant, Job: tallyName, Source: "events", Epoch: epoch, Checkpoint: checkpoint, Nonce: "forged",
			}.Encode())
		}
	}
	job := tenants.JobID{Tenant: tenants.ID(tenant), Name: tallyName}
	for _, subject := range []string{tenants.DefaultNamespace.Barrier(job, "events", "in.>"), tenant + ".in.3"} {
		for _, p := range payloads {
			m := nats.NewMsg(subject)
			m.Data = p
			m.Header.Set(barriers.HeaderBarrier, "1")
			_, err := w.js.PublishMsg(context.Background(), m)
			ok(t, err)
		}
	}
}
