package processor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// What a stream could never take must be a dead letter before the barrier.
func TestSinkRefusals(t *testing.T) {
	b := NewBuilder("refusals")
	To(lines(b, "in"), "out", SinkSpec[string]{
		Stream: "s",
		Subject: func(s string) string {
			if rest, ok := strings.CutPrefix(s, "subject:"); ok {
				return rest
			}
			return "out." + tenants.EscapeToken(s[:min(len(s), 8)])
		},
		Header: func(s string) map[string][]string {
			if rest, ok := strings.CutPrefix(s, "header:"); ok {
				k, v, _ := strings.Cut(rest, "=")
				return map[string][]string{k: {v}}
			}
			return nil
		},
		Codec: codec.New("picky", func(dst []byte, s string) ([]byte, error) {
			if s == "unencodable" {
				return nil, errors.New("cannot be encoded")
			}
			return append(dst, s...), nil
		}, func(b []byte) (string, error) { return string(b), nil }),
	})
	task, h := single(t, b, func(c *planConfig) {
		c.Bindings.Sinks[0].Captures = []string{"acme.out.>", "elsewhere.>"}
	})
	refused := map[string]string{
		"subject:":            "empty",
		"subject:a b":         "invalid subject",
		"subject:out.*":       "invalid subject",
		"subject:out._weir.x": "reserved",
		"subject:other.x":     "does not capture",
		"subject:out." + strings.Repeat("x", 505): "at most 512",
		"header:Nats-Msg-Id=1":                    "reserved",
		"header:weir-seq=1":                       "reserved",
		"header:KV-Operation=PURGE":               "reserved",
		"header:a b=1":                            "the key",
		"header:=1":                               "a key is empty",
		"header:x=a\r\nNats-Rollup: all":          "line break",
		"unencodable":                             "cannot be encoded",
		"big" + strings.Repeat("x", 4000):         "too large",
	}
	records := []Record{rec("in", "good"), rec("in", "header:X-Good=yes")}
	for _, bad := range sortedKeys(refused) {
		records = append(records, rec("in", bad))
	}
	records = append(records, rec("in", "good"))
	step(t, task, batchOf(0, 1, records...), evTrigger{checkpoint: 1, nonce: testNonce, inject: true})
	s := h.snapshots[0]
	if got := staged(s, "out"); !slices.Equal(got, []string{"good", "header:X-Good=yes", "good"}) {
		t.Errorf("staged %q", got)
	}
	i := 0
	for m := range s.outputs[len(s.outputs)-1].output.From(0) {
		bad := sortedKeys(refused)[i]
		i++
		if got := m.Header[HeaderError][0]; !strings.Contains(got, refused[bad]) || m.Header[HeaderOperator][0] != "out" {
			t.Errorf("refusal of %.40q: %q", bad, got)
		}
		if !strings.HasPrefix(bad, string(m.Data)) || m.Subject != "weir.dlq.acme.job" {
			t.Errorf("dead letter of %.40q on %s: %.40q", bad, m.Subject, m.Data)
		}
		if m.Header[HeaderTruncated] != nil != (len(m.Data) < len(bad)) {
			t.Errorf("dead letter of %.40q: truncated is %q", bad, m.Header[HeaderTruncated])
		}
	}
	if i != len(refused) || task.metrics().DeadLetters != uint64(i) {
		t.Errorf("%d dead letters, want %d", i, len(refused))
	}
}

// A record as large as its stream allows does not fit beside the headers of a dead letter: it is cut, and says so.
func TestHugeDeadLetterFits(t *testing.T) {
	b := NewBuilder("huge")
	to(FlatMap(lines(b, "in"), "refuse", func(s string, _ func(string)) error {
		return Poison(errors.New(strings.Repeat("a long story\r\n", 1000)))
	}), "out")
	task, h := single(t, b, nil)
	step(t, task, batchOf(0, 1, rec("in", strings.Repeat("x", 4096))), evTrigger{checkpoint: 1, nonce: testNonce, inject: true})
	for m := range h.snapshots[0].outputs[1].output.From(0) {
		size := releaseHeaders + len(m.Data)
		for k, v := range m.Header {
			size += len(k) + len(v[0]) + 4
			if strings.ContainsAny(v[0], "\r\n") {
				t.Errorf("header %s has a line break", k)
			}
		}
		if size > 4096 || m.Header[HeaderTruncated][0] != "4096" || len(m.Header[HeaderError][0]) != maxHeaderError || len(m.Data) < 1000 {
			t.Errorf("dead letter of %d bytes, %d of data, truncated %q", size, len(m.Data), m.Header[HeaderTruncated])
		}
		return
	}
	t.Error("no dead letter")
}

func TestKVSink(t *testing.T) {
	b := NewBuilder("kv")
	ToKV(lines(b, "in"), "kv", KVSpec[string]{
		Bucket: "counts", Codec: codec.String(),
		Key:    func(s string) string { k, _, _ := strings.Cut(s, "="); return k },
		Delete: func(s string) bool { return strings.HasSuffix(s, "=") },
	})
	task, h := single(t, b, nil)
	step(t, task, batchOf(0, 1, rec("in", "a=1"), rec("in", "b.*=1"), rec("in", "a=2"), rec("in", "c="), rec("in", "=x"), rec("in", strings.Repeat("k", 600)+"=1")),
		evTrigger{checkpoint: 1, nonce: testNonce, inject: true})
	var got []string
	for m := range h.snapshots[0].outputs[0].output.From(0) {
		got = append(got, fmt.Sprintf("%s %s %v", m.Subject, m.Data, m.Header))
	}
	want := []string{"$KV.counts.acme.b=2E=2A b.*=1 map[]", "$KV.counts.acme.a a=2 map[]", "$KV.counts.acme.c  map[KV-Operation:[DEL]]", "$KV.counts.acme.= =x map[]"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if task.metrics().DeadLetters != 1 {
		t.Error("a key that makes the subject too long is no dead letter")
	}
}

func atLeastOnce() *Builder {
	b := NewBuilder("alo")
	To(lines(b, "in"), "out", SinkSpec[string]{FixedSubject: "out", Codec: codec.String(), AtLeastOnce: true})
	return b
}

func TestAtLeastOnceWaitsAtTheBarrier(t *testing.T) {
	task, h := single(t, atLeastOnce(), nil)
	trigger := func(n uint64) func(context.Context) error {
		step(t, task, evTrigger{checkpoint: n, nonce: testNonce, inject: true})
		return h.snapshots[len(h.snapshots)-1].flushed
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	step(t, task, batchOf(0, 1, rec("in", "a"), rec("in", "b")))
	if got := payloads(h.published); !slices.Equal(got, []string{"a", "b"}) || h.published[0].Subject != "acme.out" {
		t.Fatalf("published %q", got)
	}
	first := trigger(1)
	step(t, task, batchOf(0, 3, rec("in", "c")))
	h.acks[0](nil)
	if err := first(canceled); !errors.Is(err, context.Canceled) {
		t.Errorf("flushed with an ack missing: %v", err)
	}
	// Aborted: what it waited for must be waited for by the next.
	step(t, task, evAborted{1})
	second := trigger(2)
	h.acks[2](nil)
	if err := second(canceled); !errors.Is(err, context.Canceled) {
		t.Errorf("flushed with an older ack missing: %v", err)
	}
	h.acks[1](nil)
	if err := second(t.Context()); err != nil {
		t.Error(err)
	}
	step(t, task, evCommitted{2})
	if len(task.direct[0].sealed) != 0 {
		t.Errorf("%d groups are kept after a commit", len(task.direct[0].sealed))
	}
	step(t, task, batchOf(0, 4, rec("in", "d")))
	third := trigger(3)
	refusal := errors.New("no such stream")
	h.acks[3](refusal)
	if err := third(t.Context()); !errors.Is(err, refusal) || !strings.Contains(err.Error(), "out") {
		t.Errorf("flushed after a refusal: %v", err)
	}
	h.refuse = context.Canceled
	if err := task.step(batchOf(0, 5, rec("in", "e"))); !errors.Is(err, context.Canceled) {
		t.Errorf("publishing after the end: %v", err)
	}
}

func TestQuotas(t *testing.T) {
	words := state.NewValue[string]("words")
	b := NewBuilder("quotas")
	out := Process(KeyBy(lines(b, "in"), func(s string) string { k, _, _ := strings.Cut(s, "="); return k }), "keep", func(pc *Context[string], s string) error {
		pc.Emit(s)
		return words.Set(pc, s)
	}, Uses(words))
	to(out, "out")
	task, h := single(t, b, func(c *planConfig) { c.MaxPendingBytes = 200; c.MaxStateBytes = 4000 })
	step(t, task, batchOf(0, 1, rec("in", "a=1"), rec("in", strings.Repeat("k", 65)+"=1")))
	if m := task.metrics(); m.DeadLetters != 1 {
		t.Errorf("a key above the quota: %+v", m)
	}
	// Once for the records, once for half of the quota, once for all of it.
	if h.dirtied != 3 || task.pendingBytes() < 200 {
		t.Errorf("dirty %d times with %d bytes pending: half of the quota must ask for a checkpoint, all of it for a stop", h.dirtied, task.pendingBytes())
	}
	err := task.step(batchOf(0, 3, rec("in", "b="+strings.Repeat("x", 3900))))
	var q *state.QuotaError
	if !errors.As(err, &q) || ClassOf(err) != ClassTerminal || !strings.Contains(err.Error(), "keep") {
		t.Errorf("state above the quota: %v (class %v)", err, ClassOf(err))
	}
}
