package processor

import (
	"container/heap"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The event-time core against naive models, with everything that can overtake, abort and crash: TestInterleavings' machinery.

var eventTimeSeed = flag.Uint64("eventtime-seed", 0, "run this seed of the event-time interleavings only")

func eventTimeSeeds(t *testing.T, n uint64, run func(t *testing.T, seed uint64) (commits int)) {
	first, last := uint64(1), n
	if *eventTimeSeed != 0 {
		first, last = *eventTimeSeed, *eventTimeSeed
	}
	commits := 0
	for seed := first; seed <= last && !t.Failed(); seed++ {
		func() {
			defer func() {
				if t.Failed() {
					t.Logf("seed %d (replay: go test ./processor -run %s -eventtime-seed %d)", seed, t.Name(), seed)
				}
			}()
			commits += run(t, seed)
		}()
	}
	if commits < int(last-first+1) {
		t.Errorf("%d commits in %d runs: the runs test too little", commits, last-first+1)
	}
}

// With one source whatever an operator behind one exchange does is determined by the order of its elements: each meets the
// watermark of those before it, late ones included, over every restart, abort and change of parallelism.
func modelTopology(t *testing.T) *Topology {
	b := NewBuilder("model")
	in := stampedSource(b, "a", EventTime(stampedTime, BoundedOutOfOrderness(3*time.Millisecond), MaxAhead(time.Hour)))
	out := Process(KeyBy(in, byStamped), "op", func(pc *Context[string], v stamped) error {
		pc.Emit(fmt.Sprintf("%s e%d w%s", v.Key, v.At.UnixNano(), modelWatermark(pc.Watermark())))
		if v.At.UnixNano()%5 == 0 {
			if err := pc.DeleteEventTimer(v.At.Add(time.Millisecond)); err != nil {
				return err
			}
		}
		return pc.SetEventTimer(v.At.Truncate(time.Millisecond).Add(2 * time.Millisecond))
	}, OnEventTimer(func(pc *Context[string], at time.Time) error {
		pc.Emit(fmt.Sprintf("%s t%d", pc.Key(), at.UnixNano()))
		if at.UnixNano()/ms%4 == 1 { // sets another, sometimes for the past
			return pc.SetEventTimer(at.Add(3*time.Millisecond + 1))
		}
		return nil
	}))
	textSink(out, "out", func(s string) string { return s })
	return mustBuild(t, b)
}

func modelWatermark(w time.Time) string {
	if w.IsZero() {
		return "none"
	}
	return strconv.FormatInt(w.UnixNano(), 10)
}

// times is a heap of timers without duplicates, the naive way.
type times []int64

func (h times) Len() int           { return len(h) }
func (h times) Less(i, j int) bool { return h[i] < h[j] }
func (h times) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *times) Push(x any)        { *h = append(*h, x.(int64)) }
func (h *times) Pop() any          { x := (*h)[len(*h)-1]; *h = (*h)[:len(*h)-1]; return x }

func (h *times) set(at int64) {
	if !slices.Contains(*h, at) {
		heap.Push(h, at)
	}
}

// modelOutput is what each key emits for the records up to a position.
func modelOutput(records []Record) map[string][]string {
	out, timers, wm := map[string][]string{}, map[string]*times{}, int64(noWatermark)
	for _, r := range records {
		if r.Header != nil {
			continue
		}
		v, _ := stampedCodec.Decode(r.Data)
		at, key := v.At.UnixNano(), v.Key
		out[key] = append(out[key], fmt.Sprintf("%s e%d w%s", key, at, modelWatermark(fromNanos(wm))))
		if timers[key] == nil {
			timers[key] = &times{}
		}
		h := timers[key]
		if at%5 == 0 {
			if i := slices.Index(*h, at+ms); i >= 0 {
				heap.Remove(h, i)
			}
		}
		h.set(at - at%ms + 2*ms)
		wm = max(wm, (at-3*ms)/ms*ms-1) // times here are positive
		for key, h := range timers {
			for len(*h) > 0 && (*h)[0] <= wm {
				at := heap.Pop(h).(int64)
				out[key] = append(out[key], fmt.Sprintf("%s t%d", key, at))
				if at/ms%4 == 1 {
					h.set(at + 3*ms + 1)
				}
			}
		}
	}
	return out
}

func linesByKey(lines []string) map[string][]string {
	out := map[string][]string{}
	for _, l := range lines {
		key, _, _ := strings.Cut(l, " ")
		out[key] = append(out[key], l)
	}
	return out
}

func TestEventTimeEqualsTheModel(t *testing.T) {
	topo := modelTopology(t)
	eventTimeSeeds(t, 300, func(t *testing.T, seed uint64) int {
		r := newInterleaving(t, seed, topo, "a")
		r.slice = []int{0, 1, 3}[seed%3]
		settled := false
		r.verify = func() {
			// What a slice has not fired yet is missing behind what is there, never in between.
			want := modelOutput(r.streams["a"][:r.committed.positions["a"].Position])
			got := linesByKey(r.committed.output["out"])
			for key, lines := range want {
				have := got[key]
				if len(have) > len(lines) || !slices.Equal(have, lines[:len(have)]) || settled && len(have) < len(lines) {
					t.Fatalf("checkpoint %d (settled %t), key %s:\n got %q\nwant %q", r.committed.checkpoint, settled, key, have, lines)
				}
			}
			if dead := r.committed.output[deadLetterSink]; len(dead) > 0 {
				t.Fatalf("dead letters: %q", dead)
			}
		}
		base := int64(100)
		r.settled = func() { settled = true }
		r.run(func(source string) Record {
			settled = false
			if r.rnd.IntN(3) == 0 {
				base += int64(r.rnd.IntN(12))
			}
			at := base*ms - int64(r.rnd.IntN(6))*ms + int64(r.rnd.IntN(3)) - 1
			return rec(source, fmt.Sprintf("%c %d", 'p'+r.rnd.IntN(4), at))
		})
		return r.commits
	})
}

// chainTopology has two operators with timers and an exchange before each. Its sources are in order, so nothing is ever late, not
// even what the first operator's timers emit; the second says so if it is.
func chainTopology(t *testing.T) *Topology {
	b := NewBuilder("chain")
	var streams []Stream[stamped]
	for _, name := range []string{"a", "b"} {
		streams = append(streams, stampedSource(b, name, EventTime(stampedTime, MaxAhead(time.Hour))))
	}
	both := Union("both", streams[0], streams[1])
	first := Process(KeyBy(both, byStamped), "first", func(pc *Context[stamped], v stamped) error {
		if !v.At.After(pc.Watermark()) && !pc.Watermark().IsZero() {
			return fmt.Errorf("element at %v is late: the watermark is %v", v.At, pc.Watermark())
		}
		return pc.SetEventTimer(v.At.Add(20 * time.Millisecond))
	}, OnEventTimer(func(pc *Context[stamped], at time.Time) error {
		pc.Emit(stamped{pc.Key(), at})
		return nil
	}))
	second := Process(KeyBy(first, func(v stamped) string { return v.Key[:1] }), "second", func(pc *Context[string], v stamped) error {
		if !v.At.Equal(pc.Timestamp()) {
			return fmt.Errorf("the time of %v is %v", v, pc.Timestamp())
		}
		if !v.At.After(pc.Watermark()) && !pc.Watermark().IsZero() {
			return fmt.Errorf("%v comes late to the second operator: its watermark is %v", v, pc.Watermark())
		}
		return pc.SetEventTimer(v.At.Add(time.Millisecond))
	}, OnEventTimer(func(pc *Context[string], at time.Time) error {
		pc.Emit(fmt.Sprintf("%s %d", pc.Key(), at.UnixNano()))
		return nil
	}))
	textSink(second, "out", func(s string) string { return s })
	return mustBuild(t, b)
}

// Every timer fires exactly once in what is committed, in the order of time, not before its watermark, and a drain leaves none.
func TestEventTimersFireExactlyOnce(t *testing.T) {
	topo, between := chainTopology(t), 0
	eventTimeSeeds(t, 300, func(t *testing.T, seed uint64) int {
		r := newInterleaving(t, seed, topo, "a", "b")
		r.slice = []int{2, 0, 1}[seed%3]
		settled := false
		r.settled = func() { settled = true }
		r.verify = func() { chainVerdict(t, r, settled) }
		clocks := map[string]int64{"a": 1, "b": 2} // every element of a time of its own
		r.run(func(source string) Record {
			settled = false
			clocks[source] += 2 * int64(r.rnd.IntN(3_000_000)+1)
			return rec(source, fmt.Sprintf("%c%d %d", 'p'+r.rnd.IntN(3), r.rnd.IntN(3), clocks[source]))
		})
		// A drain, and its effects on what comes later: none.
		r.drain, settled = true, true
		r.begin()
		r.finish()
		for _, s := range r.sources {
			if wm := r.committed.positions[s].Watermark; wm != nil && *wm == finalWatermark {
				t.Fatalf("source %s keeps the final watermark", s)
			}
		}
		r.drain, settled = false, false
		between += r.between
		return r.commits
	})
	if between == 0 && *eventTimeSeed == 0 {
		t.Error("no barrier came between two slices")
	}
}

// chainVerdict judges what is committed of chainTopology.
func chainVerdict(t *testing.T, r *interleaving, settled bool) {
	t.Helper()
	want, wm := map[string][]int64{}, int64(finalWatermark)
	for _, source := range r.sources {
		src := r.committed.positions[source]
		if src.Watermark == nil {
			wm = noWatermark
		} else {
			wm = min(wm, *src.Watermark)
		}
		for _, rec := range r.streams[source][:src.Position] {
			if rec.Header == nil {
				v, _ := stampedCodec.Decode(rec.Data)
				want[v.Key[:1]] = append(want[v.Key[:1]], v.At.UnixNano()+21*ms)
			}
		}
	}
	got := map[string][]int64{}
	for key, lines := range linesByKey(r.committed.output["out"]) {
		for _, l := range lines {
			n, err := strconv.ParseInt(l[len(key)+1:], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			got[key] = append(got[key], n)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(want)) {
		slices.Sort(want[key])
		due := want[key]
		if !r.drain {
			n, _ := slices.BinarySearch(due, wm+1)
			due = due[:n]
		}
		if have := got[key]; len(have) > len(due) || !slices.Equal(have, due[:len(have)]) || (settled || r.drain) && len(have) < len(due) {
			t.Fatalf("checkpoint %d (settled %t, drain %t), watermark %d, key %s:\n got %v\nwant %v", r.committed.checkpoint, settled, r.drain, wm, key, have, due)
		}
	}
	if dead := r.committed.output[deadLetterSink]; len(dead) > 0 {
		t.Fatalf("dead letters: %q", dead)
	}
}
