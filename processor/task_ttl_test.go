package processor_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/processor/processortest"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// dedupe passes on what its state has not seen.
func dedupe(seen *state.Value[bool]) func(in processor.Stream[string]) processor.Stream[string] {
	return func(in processor.Stream[string]) processor.Stream[string] {
		return processor.Process(processor.KeyBy(in, strings.ToLower), "dedupe", func(pc *processor.Context[string], v string) error {
			if dup, err := seen.Get(pc); err != nil || dup {
				return err
			}
			pc.Emit(v)
			return seen.Set(pc, true)
		}, processor.Uses(seen), processor.OnTimer(func(*processor.Context[string], time.Time) error { return nil }))
	}
}

func newDedupe(t *testing.T, parallelism int, ttl state.Option) *processortest.Harness[string, string] {
	t.Helper()
	h, err := processortest.NewHarness(dedupe(state.NewValue[bool]("seen", ttl)), processortest.HarnessConfig{Parallelism: parallelism})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// A state's processing time is the task's, and goes on over a restore.
func TestProcessingTimeTTL(t *testing.T) {
	for _, parallelism := range []int{1, 3} {
		h := newDedupe(t, parallelism, state.TTL(time.Hour))
		push := func(want string, words ...string) {
			t.Helper()
			if err := h.Push(words...); err != nil {
				t.Fatal(err)
			}
			got := h.Take()
			slices.Sort(got)
			if fmt.Sprint(got) != want {
				t.Fatalf("parallelism %d at %s: %v passed, want %s", parallelism, h.Now(), got, want)
			}
		}
		advance := func(d time.Duration) {
			if err := h.Advance(d); err != nil {
				t.Fatal(err)
			}
		}
		push("[a b]", "a", "b", "a")
		advance(time.Hour - 1)
		push("[]", "a", "b")
		snapshot, err := h.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		advance(1)
		push("[a c]", "a", "c")
		if err := h.Restore(snapshot, 4-parallelism); err != nil {
			t.Fatal(err)
		}
		push("[]", "a", "b")
		advance(1)
		push("[a b]", "a", "b", "a")
	}
}

// By event time a key's elements see the same whatever the watermark and the other keys do, at any parallelism, until they are late.
func TestEventTimeTTL(t *testing.T) {
	start := time.Unix(1e9, 0)
	for _, parallelism := range []int{1, 3} {
		h := newDedupe(t, parallelism, state.EventTimeTTL(time.Hour))
		push := func(want string, after time.Duration, words ...string) {
			t.Helper()
			if err := h.PushAt(start.Add(after), words...); err != nil {
				t.Fatal(err)
			}
			got := h.Take()
			slices.Sort(got)
			if fmt.Sprint(got) != want {
				t.Fatalf("parallelism %d, %s after the start: %v passed, want %s", parallelism, after, got, want)
			}
		}
		push("[a b]", 0, "a", "b", "a")
		push("[c]", 50*time.Minute, "c")
		push("[]", time.Hour-time.Nanosecond, "a")
		if err := h.AdvanceWatermark(start.Add(time.Hour - time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		push("[b]", time.Hour, "b", "c")
		snapshot, err := h.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Restore(snapshot, 4-parallelism); err != nil {
			t.Fatal(err)
		}
		push("[a]", time.Hour, "a", "b", "c")
		push("[c]", 110*time.Minute, "a", "b", "c")
	}
}

// What has expired by event time leaves the state in every subtask, also where none of a source's elements come: there the watermark
// is told without them.
func TestEventTimeTTLOfAQuietSource(t *testing.T) {
	seen := state.NewValue[bool]("seen", state.EventTimeTTL(time.Minute))
	start := time.Unix(1e9, 0)
	source := func(b *processor.Builder, name string) processor.Stream[int64] {
		return processor.From(b, name, processor.SourceSpec[int64]{
			Filters: []tenants.Filter{tenants.Filter(name)}, Codec: codec.JSON[int64](),
			EventTime: processor.EventTime(func(n int64) time.Time { return start.Add(time.Duration(n) * time.Second) }, processor.IdleAfter(time.Hour), processor.MaxAhead(math.MaxInt64)),
		})
	}
	for parallelism := 1; parallelism <= 3; parallelism++ {
		b := processor.NewBuilder("quiet")
		keyed := processor.KeyBy(processor.Union("both", source(b, "busy"), source(b, "quiet")), func(n int64) string { return fmt.Sprint("k", n) })
		processor.To(processor.Process(keyed, "remember", func(pc *processor.Context[int64], _ int64) error { return seen.Set(pc, true) }, processor.Uses(seen)),
			"out", processor.SinkSpec[int64]{FixedSubject: "out", Codec: codec.JSON[int64]()})
		topology, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		bed, err := processor.NewTestbed(topology, processor.TestbedConfig{Parallelism: parallelism})
		if err != nil {
			t.Fatal(err)
		}
		push := func(source string, n int) {
			t.Helper()
			if err := bed.Push(source, processor.Record{Subject: "test." + source, Data: fmt.Append(nil, n)}); err != nil {
				t.Fatal(err)
			}
		}
		push("quiet", 0)
		for n := range 1000 {
			push("busy", n)
		}
		if err := bed.Advance(2 * time.Hour); err != nil {
			t.Fatal(err)
		}
		for n := range 1000 {
			push("busy", 1000+n)
		}
		kept := 0
		for n := range 2000 {
			backend, err := bed.State("remember", fmt.Sprint("k", n))
			if err != nil {
				t.Fatal(err)
			}
			if there, err := seen.Get(backend); err != nil {
				t.Fatal(err)
			} else if there {
				kept++
			}
		}
		if kept != 61 { // those of the last minute
			t.Errorf("parallelism %d: %d entries are there, want 61", parallelism, kept)
		}
	}
}
