package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/jetstream"
)

func (w *world) do(r barriers.Request) barriers.Reply {
	return w.b.Do(context.Background(), job, r)
}

func TestRecordsCompareAndSet(t *testing.T) {
	w := newWorld(t)
	key := "acme.revenue"
	equal(t, "status of reading nothing", w.do(barriers.Request{Op: barriers.OpReadRecord, Key: key}).Status, barriers.NotFound)
	write := func(value string, expected uint64) barriers.Reply {
		return w.do(barriers.Request{Op: barriers.OpWriteRecord, Key: key, Value: []byte(value), Expected: expected})
	}
	first := write("one", 0)
	equal(t, "status", first.Status, barriers.OK)
	equal(t, "status of creating again", write("two", 0).Status, barriers.Mismatch)
	equal(t, "status of a later sequence", write("two", first.Seq+1).Status, barriers.Mismatch)
	second := write("two", first.Seq)
	equal(t, "status", second.Status, barriers.OK)
	got := w.do(barriers.Request{Op: barriers.OpReadRecord, Key: key})
	equal(t, "value", string(got.Value), "two")
	equal(t, "sequence", got.Seq, second.Seq)

	kv, err := w.js.KeyValue(context.Background(), jetstream.CheckpointBucket)
	ok(t, err)
	entry, err := kv.Get(context.Background(), key)
	ok(t, err)
	equal(t, "value as nats kv shows it", string(entry.Value()), "two")

	// A key that somebody deleted by hand is not there, and can be written again.
	ok(t, kv.Delete(context.Background(), key))
	gone := w.do(barriers.Request{Op: barriers.OpReadRecord, Key: key})
	equal(t, "status", gone.Status, barriers.NotFound)
	equal(t, "status of writing behind the delete marker", write("three", gone.Seq).Status, barriers.OK)
}

func TestDeleteAndListRecords(t *testing.T) {
	w := newWorld(t)
	seqs := map[string]uint64{}
	for _, key := range []string{"acme.revenue", "acme.revenue.1", "acme.revenue.2", "acme.revenue2.1", "acme.revenue.savepoint.x"} {
		reply := w.do(barriers.Request{Op: barriers.OpWriteRecord, Key: key, Value: []byte("x")})
		equal(t, "status", reply.Status, barriers.OK)
		seqs[key] = reply.Seq
	}
	list := func(key string) string {
		reply := w.do(barriers.Request{Op: barriers.OpListRecords, Key: key})
		equal(t, "status", reply.Status, barriers.OK)
		return strings.Join(reply.Names, " ")
	}
	equal(t, "keys", list("acme.revenue"), "acme.revenue.1 acme.revenue.2 acme.revenue.savepoint.x")
	remove := func(key string, expected uint64) barriers.Status {
		return w.do(barriers.Request{Op: barriers.OpDeleteRecord, Key: key, Expected: expected}).Status
	}
	equal(t, "status", remove("acme.revenue.1", seqs["acme.revenue.1"]), barriers.OK)
	equal(t, "status of deleting twice", remove("acme.revenue.1", seqs["acme.revenue.1"]), barriers.OK)
	equal(t, "status of an older sequence", remove("acme.revenue.2", seqs["acme.revenue.2"]-1), barriers.Mismatch)
	equal(t, "status without a sequence", remove("acme.revenue.2", 0), barriers.Rejected)
	equal(t, "keys", list("acme.revenue"), "acme.revenue.2 acme.revenue.savepoint.x")
	equal(t, "all keys", list(""), "acme.revenue acme.revenue.2 acme.revenue.savepoint.x acme.revenue2.1")
	again := w.do(barriers.Request{Op: barriers.OpWriteRecord, Key: "acme.revenue.1", Value: []byte("y")})
	equal(t, "status of writing again", again.Status, barriers.OK)
}

func TestHostileKeys(t *testing.T) {
	w := newWorld(t)
	for _, key := range []string{"", ">", "acme.*", "a b", "a\r\nPUB x 0", ".a", "a.", strings.Repeat("k", 600)} {
		for _, op := range []barriers.Op{barriers.OpReadRecord, barriers.OpWriteRecord, barriers.OpDeleteRecord} {
			equal(t, fmt.Sprintf("status of %d on %.20q", op, key), w.do(barriers.Request{Op: op, Key: key, Expected: 1}).Status, barriers.Rejected)
		}
	}
	for _, op := range []barriers.Op{0, barriers.OpPublish, barriers.OpWait} {
		equal(t, "status", w.do(barriers.Request{Op: op}).Status, barriers.Rejected)
	}
	for _, stream := range []string{"", "a.b", "*", "a b", "no/such"} {
		reply := w.do(barriers.Request{Op: barriers.OpWriteMarker, Stream: stream, Subject: "acme._weir.x"})
		equal(t, "status of a marker in stream "+stream, reply.Status, barriers.Rejected)
	}
}

func TestMarkers(t *testing.T) {
	w := newWorld(t)
	w.stream(acmeStream())
	marker := barriers.Request{Stream: "acme", Subject: "acme._weir.revenue.sink.out"}
	do := func(op barriers.Op, value string, expected uint64) barriers.Reply {
		r := marker
		r.Op, r.Value, r.Expected = op, []byte(value), expected
		return w.do(r)
	}
	equal(t, "status", do(barriers.OpReadMarker, "", 0).Status, barriers.NotFound)
	first := do(barriers.OpWriteMarker, "one", 0)
	equal(t, "status", first.Status, barriers.OK)
	equal(t, "status of a stale one", do(barriers.OpWriteMarker, "two", 0).Status, barriers.Mismatch)
	got := do(barriers.OpReadMarker, "", 0)
	equal(t, "value", string(got.Value), "one")
	equal(t, "sequence", got.Seq, first.Seq)
	m, err := w.js.Stream(context.Background(), "acme")
	ok(t, err)
	stored, err := m.GetMsg(context.Background(), first.Seq)
	ok(t, err)
	equal(t, "TTL", stored.Header.Get("Nats-TTL"), "never")
	marker.Stream = "nosuch"
	equal(t, "status without a stream", do(barriers.OpReadMarker, "", 0).Status, barriers.Rejected)
}

func TestLostReplies(t *testing.T) {
	fault := jetstream.Pass
	w := newWorld(t, func(c *jetstream.Config) { c.Intercept = func(string, string) jetstream.Fault { return fault } })
	write := barriers.Request{Op: barriers.OpWriteRecord, Key: "acme.revenue", Value: []byte("one")}
	fault = jetstream.Drop
	equal(t, "status", w.do(write).Status, barriers.Unknown)
	fault = jetstream.Pass
	equal(t, "status", w.do(barriers.Request{Op: barriers.OpReadRecord, Key: write.Key}).Status, barriers.NotFound)
	fault = jetstream.LoseReply
	equal(t, "status", w.do(write).Status, barriers.Unknown)
	fault = jetstream.Pass
	equal(t, "value", string(w.do(barriers.Request{Op: barriers.OpReadRecord, Key: write.Key}).Value), "one")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	equal(t, "status", w.b.Do(ctx, job, write).Status, barriers.Canceled)
}

func TestHeartbeats(t *testing.T) {
	w := newWorld(t)
	last := func() uint64 {
		n, err := w.b.LastHeartbeat(context.Background(), "worker-1")
		ok(t, err)
		return n
	}
	equal(t, "none", last(), 0)
	ok(t, w.b.Heartbeat(context.Background(), "worker-1"))
	first := last()
	ok(t, w.b.Heartbeat(context.Background(), "worker-1"))
	if second := last(); first == 0 || second <= first {
		t.Fatalf("revisions %d, %d", first, second)
	}
	if w.b.Heartbeat(context.Background(), "a.>") == nil {
		t.Fatal("a wildcard was taken as a worker")
	}
}

func TestStatusOfErrors(t *testing.T) {
	live := context.Background()
	dead, cancel := context.WithCancel(live)
	cancel()
	for _, c := range []struct {
		code int
		text string
		want barriers.Status
	}{
		{10071, "wrong last sequence: 3", barriers.Mismatch},
		{10164, "", barriers.Busy}, {10163, "", barriers.Busy}, {10210, "", barriers.Busy}, {10176, "", barriers.Busy}, {10167, "", barriers.Busy},
		{10023, "", barriers.Full}, {10047, "", barriers.Full}, {10002, "", barriers.Full}, {10028, "", barriers.Full}, {10122, "", barriers.Full},
		{10077, "maximum bytes exceeded", barriers.Full}, {10077, "maximum messages exceeded", barriers.Full}, {10077, "write: input/output error", barriers.Unknown},
		{10060, "", barriers.Rejected}, {10054, "", barriers.Rejected}, {10109, "", barriers.Rejected}, {10174, "", barriers.Rejected}, {10199, "", barriers.Rejected},
		{10008, "", barriers.Unknown}, {10009, "", barriers.Unknown},
	} {
		err := fmt.Errorf("publish: %w", &js.APIError{Code: 400, ErrorCode: js.ErrorCode(c.code), Description: c.text})
		equal(t, fmt.Sprintf("status of %d %s", c.code, c.text), jetstream.StatusOf(live, err), c.want)
	}
	equal(t, "no error", jetstream.StatusOf(live, nil), barriers.OK)
	for _, err := range []error{nats.ErrTimeout, nats.ErrNoResponders, nats.ErrConnectionClosed, errors.New("?")} {
		equal(t, err.Error(), jetstream.StatusOf(live, err), barriers.Unknown)
		equal(t, err.Error(), jetstream.StatusOf(dead, err), barriers.Canceled)
	}
	equal(t, "too large", jetstream.StatusOf(live, nats.ErrMaxPayload), barriers.Rejected)
}

func TestAckSubjects(t *testing.T) {
	for _, c := range []struct {
		reply string
		good  bool
	}{
		{"$JS.ACK.acme.weir-1.1.7.3.1700000000000000000.12", true},
		{"$JS.ACK.hub.ACCHASH.acme.weir-1.1.7.3.1700000000000000000.12", true},
		{"$JS.ACK.hub.ACCHASH.acme.weir-1.1.7.3.1700000000000000000.12.rAnD", true},
		{"$JS.ACK.acme.weir-1.1.7.3.1700000000000000000", false},
		{"$JS.ACK.acme.weir-1.1.x.3.1700000000000000000.12", false},
		{"$JS.ACK.acme.weir-1.1..3.1700000000000000000.12", false},
		{"$JS.ACK.acme.weir-1.1.7.3.1700000000000000000.12x", false},
		{"$JS.ACK.........", false},
		{"$JS.FC.acme.weir-1.abcd.1.2.3.4", false},
		{"", false},
	} {
		seq, consumer, time, pending, good := jetstream.ParseAck(c.reply)
		equal(t, c.reply, good, c.good)
		if good && (seq != 7 || consumer != 3 || time != 1700000000000000000 || pending != 12) {
			t.Errorf("%s: %d %d %d %d", c.reply, seq, consumer, time, pending)
		}
	}
	reply := "$JS.ACK.acme.weir-1.1.7.3.1700000000000000000.12"
	if n := testing.AllocsPerRun(100, func() { jetstream.ParseAck(reply) }); n > 2 {
		t.Errorf("a first parse allocates %v times", n)
	}
}

func FuzzAckSubject(f *testing.F) {
	f.Add("$JS.ACK.acme.weir-1.1.7.3.1700000000000000000.12")
	f.Add("$JS.ACK.hub.HASH.acme.weir-1.1.7.3.17.12.r")
	f.Fuzz(func(t *testing.T, reply string) {
		if _, _, _, _, good := jetstream.ParseAck(reply); good && (!strings.HasPrefix(reply, "$JS.ACK.") || strings.Count(reply, ".") < 8) {
			t.Errorf("%q was taken", reply)
		}
	})
}

// TestFiltersAgainstEnumeration compares covers and overlaps with their definition over all short subjects.
func TestFiltersAgainstEnumeration(t *testing.T) {
	var subjects, filters []string
	tokens := []string{"a", "b"}
	level := []string{""}
	for range 3 {
		var next []string
		for _, p := range level {
			for _, tok := range tokens {
				next = append(next, p+tok+".")
			}
		}
		for _, s := range next {
			subjects = append(subjects, strings.TrimSuffix(s, "."))
		}
		level = next
	}
	level = []string{""}
	for range 2 {
		var next []string
		for _, p := range level {
			filters = append(filters, p+">")
			for _, tok := range append(tokens, "*") {
				next = append(next, p+tok+".")
			}
		}
		for _, s := range next {
			filters = append(filters, strings.TrimSuffix(s, "."))
		}
		level = next
	}
	matching := func(f string) []string {
		var out []string
		for _, s := range subjects {
			if jetstream.Covers(f, s) {
				out = append(out, s)
			}
		}
		return out
	}
	equal(t, "matches of >", len(matching(">")), len(subjects))
	equal(t, "matches of a.*", strings.Join(matching("a.*"), " "), "a.a a.b")
	equal(t, "matches of a.>", len(matching("a.>")), 6)
	for _, a := range filters {
		for _, b := range filters {
			ma, mb := matching(a), matching(b)
			all, some := true, false
			for _, s := range mb {
				in := slices.Contains(ma, s)
				all, some = all && in, some || in
			}
			equal(t, a+" covers "+b, jetstream.Covers(a, b), all)
			equal(t, a+" overlaps "+b, jetstream.Overlaps(a, b), some)
		}
	}
}
