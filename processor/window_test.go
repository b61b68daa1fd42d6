package processor

import (
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
	"pgregory.net/rapid"
)

// A snapshot in the middle of closing 3000 windows at once holds exactly those that are left, for whichever parallelism goes on.
func TestSnapshotBetweenSlicesOfClosing(t *testing.T) {
	const ms = time.Millisecond
	cases := map[string]struct {
		assigner Assigner
		opts     []WindowOption
	}{
		"tumbling": {assigner: Tumbling(10 * ms)}, "late": {Tumbling(10 * ms), []WindowOption{AllowedLateness(time.Second)}},
		"sliding": {assigner: Sliding(20*ms, 10*ms)}, "session": {assigner: Session(7 * ms)},
		"early":            {Sliding(20*ms, 10*ms), []WindowOption{EarlyEvery(1)}},
		"session and late": {Session(7 * ms), []WindowOption{AllowedLateness(time.Second)}},
	}
	for name, c := range cases {
		for cuts := range 2 {
			t.Run(fmt.Sprintf("%s after %d slices", name, cuts), func(t *testing.T) {
				topology := tickTopology(t, 0, c.assigner, c.opts...)
				run := newReplay(t, topology, 1, pushTick, tickSinks...)
				bed := run.bed
				for i := range 3000 {
					run.push(t, tick{Key: fmt.Sprint("k", i), At: 5, ID: i})
				}
				// The last element closes everything. Its task is stepped by hand, and interrupted.
				data, _ := codec.JSON[tick]().Append(nil, tick{Key: "z", At: 100, ID: 3000})
				task := bed.plan.tasks[0]
				err := task.step(evBatch{batch: Batch{Records: []Record{{Subject: "test.in", Seq: 3001, Time: 1e18, Data: data}}, Position: 3001}})
				for range cuts {
					if err == nil {
						err = task.step(evContinue{})
					}
				}
				if err != nil || !task.unfinished() {
					t.Fatalf("closing 6000 windows ended after %d slices (%v)", cuts, err)
				}
				for _, s := range task.sinks {
					bed.take(s)
				}
				run.take()
				before := run.fresh
				run.fresh = map[string][]string{}
				run.snapshot(t)
				run.kept = before
				run.crash(t, 1+2*cuts)
				if err := run.bed.Finish(); err != nil {
					t.Fatal(err)
				}
				run.take()
				got := byKey(append(before["out-rows"], run.fresh["out-rows"]...))
				want := soloRows(name)
				for i := range 3000 {
					key := fmt.Sprint("k", i)
					rows := make([]string, len(want))
					for j, r := range want {
						rows[j] = fmt.Sprintf("%s %s [%d]", key, r, i)
					}
					if strings.Join(got[key], "\n") != strings.Join(rows, "\n") {
						t.Fatalf("key %s: got\n%s\nwant\n%s", key, strings.Join(got[key], "\n"), strings.Join(rows, "\n"))
					}
				}
			})
		}
	}
}

// soloRows is what a single element at 5 ms gives.
func soloRows(name string) []string {
	switch name {
	case "tumbling", "late":
		return []string{"0..10 on time #0"}
	case "sliding":
		return []string{"-10..10 on time #0", "0..20 on time #0"}
	case "early":
		return []string{"-10..10 early #0", "0..20 early #0", "-10..10 on time #1", "0..20 on time #1"}
	}
	return []string{"5..12 on time #0"}
}

// windowBed is a testbed of one window operator with a sink of rows.
func windowBed(t testing.TB, cfg TestbedConfig, assigner Assigner, opts ...WindowOption) *Testbed {
	t.Helper()
	b := NewBuilder("window")
	w := Window(KeyBy(ticks(b, "in", 0), func(e tick) string { return e.Key }), assigner, opts...)
	to(Aggregate(w, "sums", countTicks{}), "out")
	return bed(t, b, cfg)
}

// countTicks says everything about a pane.
type countTicks struct{}

func (countTicks) Init() tickSum                 { return tickSum{} }
func (countTicks) Add(a tickSum, e tick) tickSum { return tickSum{N: a.N + 1, Sum: a.Sum + e.ID} }
func (countTicks) Merge(a, b tickSum) tickSum    { return tickSum{N: a.N + b.N, Sum: a.Sum + b.Sum} }
func (countTicks) Result(p Pane, a tickSum) string {
	bounds := "unbounded"
	if !p.Start.IsZero() || !p.End.IsZero() {
		bounds = fmt.Sprintf("%d..%d", p.Start.UnixMilli(), p.End.UnixMilli())
	}
	return fmt.Sprintf("%s %s %s #%d: %d", p.Key, bounds, p.Timing, p.Index, a.Sum)
}

func TestCountWindows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 9).Draw(t, "n")
		slide := rapid.IntRange(1, n).Draw(t, "slide")
		assigner := CountSliding(n, slide)
		if slide == n && rapid.Bool().Draw(t, "tumbling") {
			assigner = CountTumbling(n)
		}
		b := NewBuilder("count")
		keyed := KeyBy(ticks(b, "in", 0), func(e tick) string { return e.Key })
		to(Aggregate(Window(keyed, assigner), "sums", countTicks{}), "out")
		topology, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		bed, err := NewTestbed(topology, TestbedConfig{Parallelism: rapid.IntRange(1, 3).Draw(t, "parallelism")})
		if err != nil {
			t.Fatal(err)
		}
		all, want := map[string][]int{}, map[string][]string{}
		var got []string
		for i := range rapid.IntRange(1, 50).Draw(t, "elements") {
			e := tick{Key: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "key"), At: int64(rapid.IntRange(-5, 5).Draw(t, "at")), ID: i + 1}
			all[e.Key] = append(all[e.Key], e.ID)
			if ids := all[e.Key]; len(ids)%slide == 0 {
				sum := 0
				for _, id := range ids[max(0, len(ids)-n):] {
					sum += id
				}
				want[e.Key] = append(want[e.Key], fmt.Sprintf("%s unbounded on time #0: %d", e.Key, sum))
			}
			pushTick(t, bed, e)
			got = append(got, payloads(bed.Output("out"))...)
			if rapid.IntRange(0, 9).Draw(t, "restart") == 0 {
				snap, err := bed.Snapshot()
				if err != nil {
					t.Fatal(err)
				}
				if bed, err = NewTestbed(topology, TestbedConfig{From: snap, Parallelism: rapid.IntRange(1, 3).Draw(t, "to")}); err != nil {
					t.Fatal(err)
				}
			}
		}
		compareRows(t, "rows", byKey(got), want)
	})
}

func TestGlobalWindow(t *testing.T) {
	p := windowBed(t, TestbedConfig{}, Global(), EarlyEvery(2))
	for i := range 5 {
		pushTick(t, p, tick{Key: "a", At: int64(-100 * i), ID: i + 1}) // nothing is late
	}
	wantPayloads(t, "after every two", p.Output("out"), "a unbounded early #0: 3", "a unbounded early #1: 10")
	snap, err := p.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	p, err = NewTestbed(p.plan.topology, TestbedConfig{From: snap, Parallelism: 2})
	if err != nil {
		t.Fatal(err)
	}
	pushTick(t, p, tick{Key: "a", At: 1, ID: 6})
	wantPayloads(t, "restored", p.Output("out"), "a unbounded early #2: 21")
	if err := p.Finish(); err != nil {
		t.Fatal(err)
	}
	wantPayloads(t, "at the end", p.Output("out"), "a unbounded on time #3: 21")
}

func TestEarlyInterval(t *testing.T) {
	for name, c := range map[string]struct {
		assigner Assigner
		bounds   []string
	}{
		"tumbling": {Tumbling(time.Second), []string{"0..1000"}},
		"sliding":  {Sliding(time.Second, 500*time.Millisecond), []string{"-500..500", "0..1000"}},
		"session":  {Session(time.Second), []string{"1..1001"}},
		"global":   {Global(), []string{"unbounded"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := windowBed(t, TestbedConfig{Parallelism: 2}, c.assigner, EarlyInterval(10*time.Second))
			want := func(what, format string) {
				t.Helper()
				var rows []string
				for _, b := range c.bounds {
					rows = append(rows, fmt.Sprintf(format, b))
				}
				wantPayloads(t, what, p.Output("out"), rows...)
			}
			if err := p.Advance(time.Second); err != nil {
				t.Fatal(err)
			}
			pushTick(t, p, tick{Key: "a", At: 1, ID: 1})
			pushTick(t, p, tick{Key: "a", At: 1, ID: 2})
			if err := p.Advance(9*time.Second - 1); err != nil {
				t.Fatal(err)
			}
			wantPayloads(t, "before the interval", p.Output("out"))
			snap, err := p.Snapshot()
			if err != nil {
				t.Fatal(err)
			}
			if p, err = NewTestbed(p.plan.topology, TestbedConfig{From: snap}); err != nil {
				t.Fatal(err)
			}
			if err := p.Advance(1); err != nil {
				t.Fatal(err)
			}
			want("at the interval", "a %s early #0: 3")
			if err := p.Advance(time.Minute); err != nil {
				t.Fatal(err)
			}
			wantPayloads(t, "without new elements", p.Output("out"))
			pushTick(t, p, tick{Key: "a", At: 1, ID: 3})
			if err := p.Advance(time.Minute); err != nil {
				t.Fatal(err)
			}
			want("with a new element", "a %s early #1: 6")
			if err := p.Finish(); err != nil {
				t.Fatal(err)
			}
			want("at the end", "a %s on time #2: 6")
			if err := p.Advance(time.Hour); err != nil {
				t.Fatal(err)
			}
			wantPayloads(t, "behind the end", p.Output("out"))
		})
	}
}

// Windows behind windows: what a window emits is in time for the windows behind it. And without a key.
func TestWindowsBehindWindows(t *testing.T) {
	for _, parallelism := range []int{1, 3} {
		b := NewBuilder("chain")
		perKey := Reduce(Window(KeyBy(ticks(b, "in", 0), func(e tick) string { return e.Key }), Tumbling(10*time.Millisecond)), "per-key",
			func(a, b tick) tick { return tick{Key: a.Key, ID: a.ID + b.ID} })
		to(Aggregate(WindowAll(perKey, Tumbling(20*time.Millisecond)), "all", countTicks{}), "out")
		p := bed(t, b, TestbedConfig{Parallelism: parallelism})
		for i := range 45 {
			pushTick(t, p, tick{Key: fmt.Sprint("k", i%7), At: int64(i), ID: 1})
		}
		wantPayloads(t, "out", p.Output("out"), " 0..20 on time #0: 20", " 20..40 on time #0: 20")
		if m := p.Metrics(); m.LateElements != 0 {
			t.Errorf("%d late elements", m.LateElements)
		}
	}
}

// Times that windows cannot hold, or that are too far ahead, make their elements late: nothing overflows, nothing is lost unseen.
func TestWindowsAtTheEndsOfTime(t *testing.T) {
	for name, assigner := range map[string]Assigner{
		"tumbling": Tumbling(maxWindow), "sliding": Sliding(maxWindow, maxWindow/1000), "session": Session(maxWindow), "short": Tumbling(1),
	} {
		b := NewBuilder("ends")
		in := From(b, "in", SourceSpec[int64]{
			Filters: []tenants.Filter{"in"}, Codec: codec.JSON[int64](), EventTime: EventTime(func(ns int64) time.Time { return time.Unix(0, ns) }),
		})
		late := NewOutputTag[int64]("late")
		w := Window(KeyBy(in, func(int64) string { return "k" }), assigner, LateOutput(late), AllowedLateness(math.MaxInt64))
		rows := ProcessWindow(w, "rows", func(pc *Context[int64], p Pane, elements iter.Seq[int64]) error {
			if !p.Start.Before(p.End) {
				return fmt.Errorf("pane %+v", p)
			}
			for v := range elements {
				pc.Emit(v)
			}
			return nil
		})
		To(rows, "out", SinkSpec[int64]{FixedSubject: "out", Codec: codec.JSON[int64]()})
		To(SideOutput(rows, late), "late", SinkSpec[int64]{FixedSubject: "late", Codec: codec.JSON[int64]()})
		p := bed(t, b, TestbedConfig{})
		const edge = (math.MaxInt64/int64(time.Second) - 1) * int64(time.Second) // the last that event time takes
		pushed := 0
		for _, ns := range []int64{-edge, -edge + 1, -1, 0, 1, edge - 1, edge} {
			// The record's time lets it be; the second one is far ahead of its record.
			for _, recorded := range []int64{math.MaxInt64, satSub(ns, int64(25*time.Hour))} {
				if err := p.Push("in", Record{Subject: "test.in", Data: fmt.Append(nil, ns), Time: recorded}); err != nil {
					t.Fatalf("%s: an element at %d: %v", name, ns, err)
				}
				pushed++
			}
		}
		if err := p.Finish(); err != nil {
			t.Fatal(name, err)
		}
		out, refused := payloads(p.Output("out")), payloads(p.Output("late"))
		seen := append(slices.Clone(out), refused...)
		slices.Sort(seen)
		if distinct := len(slices.Compact(seen)); distinct != 7 || p.Metrics().LateElements != uint64(len(refused)) || len(refused) < 5 {
			t.Errorf("%s: of %d elements %v came out and %v late; counted %d", name, pushed, out, refused, p.Metrics().LateElements)
		}
	}
}

func TestSessionGapsThatAreNone(t *testing.T) {
	p := windowBed(t, TestbedConfig{}, SessionBy(func(e tick) time.Duration { return time.Duration(e.Gap) }))
	for _, gap := range []int64{0, -1, int64(maxWindow) + 1, int64(maxWindow)} {
		pushTick(t, p, tick{Key: "a", At: 1, ID: 1, Gap: gap})
	}
	dead := p.Output(deadLetterSink)
	if len(dead) != 3 || !strings.Contains(dead[0].Header[HeaderError][0], "the session gap is 0s") {
		t.Errorf("dead letters: %v", dead)
	}
	if err := p.Finish(); err != nil || len(p.Output("out")) != 1 {
		t.Errorf("the element with a good gap has not come out (%v)", err)
	}
}

// Options may change between two versions of a program; the layout may not.
func TestWindowOptionsChange(t *testing.T) {
	const ms = time.Millisecond
	late := windowBed(t, TestbedConfig{}, Tumbling(10*ms), AllowedLateness(time.Hour))
	for _, at := range []int64{1, 11, 25} {
		pushTick(t, late, tick{Key: "a", At: at, ID: int(at)})
	}
	wantPayloads(t, "with lateness", late.Output("out"), "a 0..10 on time #0: 1", "a 10..20 on time #0: 11")
	snap, err := late.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	strict := windowBed(t, TestbedConfig{From: snap}, Tumbling(10*ms))
	pushTick(t, strict, tick{Key: "a", At: 2, ID: 2})
	pushTick(t, strict, tick{Key: "a", At: 31, ID: 31})
	wantPayloads(t, "without lateness", strict.Output("out"), "a 20..30 on time #0: 25")
	if snap, err = strict.Snapshot(); err != nil {
		t.Fatal(err)
	}
	again := windowBed(t, TestbedConfig{From: snap}, Tumbling(10*ms), AllowedLateness(time.Hour), EarlyEvery(2))
	pushTick(t, again, tick{Key: "a", At: 32, ID: 32})
	pushTick(t, again, tick{Key: "a", At: 29, ID: 29})
	pushTick(t, again, tick{Key: "a", At: 33, ID: 33})
	wantPayloads(t, "with lateness again", again.Output("out"), "a 20..30 late #0: 29", "a 30..40 early #0: 96")
	for _, other := range []Assigner{Tumbling(20 * ms), Sliding(10*ms, 5*ms), Session(10 * ms)} {
		b := NewBuilder("window")
		to(Aggregate(Window(KeyBy(ticks(b, "in", 0), func(e tick) string { return e.Key }), other), "sums", countTicks{}), "out")
		if _, err := NewTestbed(mustBuild(t, b), TestbedConfig{From: snap}); err == nil || !strings.Contains(err.Error(), `int64@10ms/10ms+0s`) {
			t.Errorf("state of other windows was taken: %v", err)
		}
	}
}

// A window function's state is that of the key, and lives on when its windows are gone.
func TestProcessWindowHasState(t *testing.T) {
	panes := state.NewValue[int]("panes-seen")
	b := NewBuilder("stateful")
	w := Window(KeyBy(ticks(b, "in", 0), func(e tick) string { return e.Key }), Tumbling(10*time.Millisecond))
	to(ProcessWindow(w, "count", func(pc *Context[string], p Pane, _ iter.Seq[tick]) error {
		n, err := panes.Get(pc)
		if err != nil {
			return err
		}
		if n == 1 {
			pc.Emit(fmt.Sprint(p.Key, n))
			return Poison(fmt.Errorf("the second pane of %s", p.Key))
		}
		pc.Emit(fmt.Sprint(p.Key, n))
		return panes.Set(pc, n+1)
	}, Uses(panes)), "out")
	p := bed(t, b, TestbedConfig{})
	for at := range int64(35) {
		pushTick(t, p, tick{Key: []string{"a", "b"}[at%2], At: at})
	}
	wantPayloads(t, "out", p.Output("out"), "a0", "b0", "a1", "b1", "a1", "b1")
	if dead := p.Output(deadLetterSink); len(dead) != 4 || dead[0].Header[HeaderOperator][0] != "count" {
		t.Errorf("dead letters: %v", dead)
	}
}

func TestWindowBuildErrors(t *testing.T) {
	tag := NewOutputTag[string]("wrong")
	cases := []struct {
		want     string
		assigner Assigner
		opts     []WindowOption
	}{
		{"Tumbling(0s)", Tumbling(0), nil},
		{"Tumbling(-1ns)", Tumbling(-1), nil},
		{"at most", Tumbling(maxWindow + 1), nil},
		{"Sliding(0s, 1s)", Sliding(0, time.Second), nil},
		{"the slide must be positive", Sliding(time.Second, 0), nil},
		{"the slide must be positive", Sliding(time.Second, -time.Second), nil},
		{"in no window", Sliding(time.Second, time.Minute), nil},
		{"slices", Sliding(time.Hour, time.Hour-1), nil},
		{"Session(0s)", Session(0), nil},
		{"Session(-1s)", Session(-time.Second), nil},
		{"SessionBy is nil", SessionBy[tick](nil), nil},
		{"SessionBy has a func(string)", SessionBy(func(string) time.Duration { return 1 }), nil},
		{"CountTumbling(0)", CountTumbling(0), nil},
		{"the slide must be 1 to 5", CountSliding(5, 6), nil},
		{"the slide must be 1 to 5", CountSliding(5, 0), nil},
		{"slices", CountSliding(1<<20+1, 2), nil},
		{"CountSliding(0, 1)", CountSliding(0, 1), nil},
		{"it has no assigner", Assigner{}, nil},
		{"needs EarlyEvery or EarlyInterval", Global(), nil},
		{"AllowedLateness(-1s)", Tumbling(1), []WindowOption{AllowedLateness(-time.Second)}},
		{"less than the slide", Tumbling(time.Hour), []WindowOption{Offset(time.Hour)}},
		{"less than the slide", Sliding(time.Hour, time.Minute), []WindowOption{Offset(-time.Minute)}},
		{"Offset does not go with a session", Session(1), []WindowOption{Offset(1)}},
		{"AllowedLateness does not go with a count window", CountTumbling(1), []WindowOption{AllowedLateness(1)}},
		{"EarlyEvery does not go with a count window", CountTumbling(1), []WindowOption{EarlyEvery(1)}},
		{"LateOutput does not go with a global window", Global(), []WindowOption{EarlyEvery(1), LateOutput(lateTicks)}},
		{"EarlyEvery(0)", Tumbling(1), []WindowOption{EarlyEvery(0)}},
		{"EarlyInterval(1ns)", Tumbling(1), []WindowOption{EarlyInterval(1)}},
		{"LateOutput has a", Tumbling(1), []WindowOption{LateOutput(tag)}},
		{"the tag of LateOutput is nil", Tumbling(1), []WindowOption{LateOutput[tick](nil)}},
		{"option 1 of the window is nil", Tumbling(1), []WindowOption{nil}},
		{"EarlyEvery is set twice", Tumbling(1), []WindowOption{EarlyEvery(1), EarlyEvery(2)}},
		{"schema version", Tumbling(1), []WindowOption{WindowState(state.SchemaVersion(0))}},
	}
	for _, c := range cases {
		b := NewBuilder("bad")
		to(Aggregate(Window(KeyBy(ticks(b, "in", 0), func(e tick) string { return e.Key }), c.assigner, c.opts...), "sums", countTicks{}), "out")
		_, err := b.Build()
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "window_test.go:") {
			t.Errorf("want %q, got %v", c.want, err)
		}
	}
	b := NewBuilder("bad")
	w := Window(KeyBy(ticks(b, "in", 0), func(e tick) string { return e.Key }), Tumbling(1))
	Aggregate[Aggregator[tick, int, string]](w, "a", nil)
	Reduce(w, "b", nil)
	ProcessWindow[tick, string](w, "c", nil, OnTimer(func(*Context[string], time.Time) error { return nil }))
	_, err := b.Build()
	for _, want := range []string{"the aggregator is nil", "its function is nil", "has no OnTimer"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

// A key that lives on for long keeps nothing of the windows that are closed.
func TestClosedWindowsAreForgotten(t *testing.T) {
	const ms = time.Millisecond
	for name, assigner := range map[string]Assigner{"tumbling": Tumbling(10 * ms), "sliding": Sliding(20*ms, 5*ms), "session": Session(5 * ms)} {
		p := windowBed(t, TestbedConfig{}, assigner, EarlyEvery(1), AllowedLateness(30*ms), EarlyInterval(time.Second))
		most := 0
		for at := range int64(500) {
			pushTick(t, p, tick{Key: "a", At: at * 3 * (1 + at%2), ID: 1})
			if _, err := p.Snapshot(); err != nil {
				t.Fatal(err)
			}
			for _, s := range p.plan.tasks[0].subtasks {
				for _, info := range s.backend.Infos() {
					text, _, err := s.backend.JSON(info.Name, "a")
					if err != nil {
						t.Fatal(err)
					}
					most = max(most, strings.Count(string(text), ":"))
				}
			}
		}
		if most > 60 {
			t.Errorf("%s: a key had %d entries at once", name, most)
		}
	}
}

// What a processing timer emits comes behind the windows that the watermark has made due, also when these are closed in slices: else
// they would count as fired, and what they have would be lost.
func TestTimersWaitForDueWindows(t *testing.T) {
	for name, c := range map[string]struct {
		assigner Assigner
		opts     []WindowOption
		want     []string
	}{
		"sliding": {Sliding(20*time.Second, 10*time.Second), nil, []string{"-10000..10000 on time #0: 1", "0..20000 on time #0: 1", "10000..30000 on time #0: 100"}},
		"late":    {Tumbling(10 * time.Second), []WindowOption{AllowedLateness(time.Hour)}, []string{"0..10000 on time #0: 1", "10000..20000 late #0: 100"}},
		"session": {Session(10 * time.Second), []WindowOption{AllowedLateness(time.Hour)}, []string{"5000..15000 on time #0: 1", "5000..25000 on time #1: 101"}},
	} {
		b := NewBuilder("timers")
		again := Process(KeyBy(stampedSource(b, "in", EventTime(stampedTime)), byStamped), "again", func(pc *Context[tick], v stamped) error {
			pc.Emit(tick{Key: v.Key, ID: 1})
			return pc.SetTimer(time.Unix(15, 0))
		}, OnTimer(func(pc *Context[tick], _ time.Time) error {
			pc.Emit(tick{Key: pc.Key(), ID: 100})
			return nil
		}))
		to(Aggregate(Window(KeyBy(again, func(e tick) string { return e.Key }), c.assigner, c.opts...), "sums", countTicks{}), "out")
		p := newBed(t, b, TestbedConfig{Start: time.Unix(1, 0)})
		p.plan.tasks[0].slice = 3
		for i := range 10 {
			push(t, p, "in", fmt.Sprintf("k%d %d", i, 5*time.Second), int64(5*time.Second))
		}
		p.now = time.Unix(30, 0)
		last := Record{Subject: "test.in", Seq: 11, Time: int64(20 * time.Second), Data: fmt.Append(nil, "z ", int64(20*time.Second))}
		p.queue = append(p.queue, bedEvent{0, evBatch{batch: Batch{Records: []Record{last}, Position: 11}}}, bedEvent{0, evTick{now: p.now}})
		if err := p.settle(); err != nil {
			t.Fatal(name, err)
		}
		if err := p.Finish(); err != nil {
			t.Fatal(name, err)
		}
		rows := byKey(payloads(p.Output("out")))
		for i := range 10 {
			key := fmt.Sprint("k", i)
			for j, row := range rows[key] {
				rows[key][j] = strings.TrimPrefix(row, key+" ")
			}
			if !slices.Equal(rows[key], c.want) {
				t.Errorf("%s, key %s: %q, want %q", name, key, rows[key], c.want)
			}
		}
	}
}

// What a drain makes of a global window is in time for what is behind it, also before 1970.
func TestDrainedGlobalWindowIsNotLate(t *testing.T) {
	for at, want := range map[int64]string{60: "a 60..70 on time #0: 1", -60: "a -60..-50 on time #0: 1"} {
		b := NewBuilder("global")
		key := func(e tick) string { return e.Key }
		sums := Reduce(Window(KeyBy(ticks(b, "in", 0), key), Global(), EarlyEvery(100)), "global", func(_, e tick) tick { return e })
		to(Aggregate(Window(KeyBy(sums, key), Tumbling(10*time.Millisecond)), "sums", countTicks{}), "out")
		p := bed(t, b, TestbedConfig{})
		pushTick(t, p, tick{Key: "a", At: at, ID: 1})
		if err := p.Finish(); err != nil {
			t.Fatal(err)
		}
		wantPayloads(t, fmt.Sprint("drained at ", at), p.Output("out"), want)
	}
}

// A drain closes windows that are kept for ever, too: what goes on behind it opens new ones.
func TestDrainEndsLatenessWithoutEnd(t *testing.T) {
	const ms = time.Millisecond
	for name, c := range map[string]struct {
		assigner Assigner
		bounds   []string
	}{
		"tumbling": {Tumbling(10 * ms), []string{"0..10"}}, "sliding": {Sliding(20*ms, 10*ms), []string{"-10..10", "0..20"}}, "session": {Session(10 * ms), []string{"5..15"}},
	} {
		p := windowBed(t, TestbedConfig{}, c.assigner, AllowedLateness(math.MaxInt64))
		for id := 1; id <= 2; id++ {
			pushTick(t, p, tick{Key: "a", At: 5, ID: id})
			if err := p.Finish(); err != nil {
				t.Fatal(err)
			}
			var want []string
			for _, b := range c.bounds {
				want = append(want, fmt.Sprintf("a %s on time #0: %d", b, id))
			}
			wantPayloads(t, fmt.Sprintf("%s, drain %d", name, id), p.Output("out"), want...)
			snap, err := p.Snapshot()
			if err != nil {
				t.Fatal(err)
			}
			p = windowBed(t, TestbedConfig{From: snap}, c.assigner, AllowedLateness(math.MaxInt64))
		}
	}
}

// What only an option needed that a new version of the program does not have leaves the state.
func TestCountsOfAnOlderProgramAreForgotten(t *testing.T) {
	p := windowBed(t, TestbedConfig{}, Tumbling(10*time.Millisecond), EarlyEvery(1))
	pushTick(t, p, tick{Key: "a", At: 1, ID: 1})
	snap, err := p.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	p = windowBed(t, TestbedConfig{From: snap}, Tumbling(10*time.Millisecond))
	pushTick(t, p, tick{Key: "a", At: 100, ID: 2})
	if err := p.Finish(); err != nil {
		t.Fatal(err)
	}
	b, err := p.State("sums", "a")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"panes", "fired", "emitted"} {
		if keys, err := b.Keys(name); err != nil || len(keys) > 0 {
			t.Errorf("%s are left of %q (%v)", name, keys, err)
		}
	}
}
