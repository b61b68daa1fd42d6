package processor

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirstream/weir/state/codec"
	"pgregory.net/rapid"
)

var (
	lateLefts  = NewOutputTag[tick]("late-lefts")
	lateRights = NewOutputTag[tick]("late-rights")
)

// joinTopology joins two streams of ticks in three ways.
func joinTopology(t require, bound int64, within Interval, window Assigner) *Topology {
	b := NewBuilder("joins")
	key := func(e tick) string { return e.Key }
	left := KeyBy(ticks(b, "left", time.Duration(bound)*time.Millisecond), key)
	right := KeyBy(ticks(b, "right", time.Duration(bound)*time.Millisecond), key)
	pair := func(pc *Context[string], l tick, r *tick) error {
		id := 0
		if r != nil {
			id = r.ID
		}
		pc.Emit(fmt.Sprintf("%s %d-%d @%d", pc.Key(), l.ID, id, pc.Timestamp().UnixMilli()))
		return nil
	}
	inner := IntervalJoin(left, right, "inner", within, func(pc *Context[string], l, r tick) error { return pair(pc, l, &r) }, LateLeft(lateLefts), LateRight(lateRights))
	to(inner, "out-inner")
	to(IntervalLeftJoin(left, right, "outer", within, pair), "out-outer")
	to(WindowJoin(left, right, "window", window, func(pc *Context[string], p Pane, l, r tick) error {
		pc.Emit(fmt.Sprintf("%s %d-%d in %d..%d", p.Key, l.ID, r.ID, p.Start.UnixMilli(), p.End.UnixMilli()))
		return nil
	}, JoinState(codec.JSON[tick](), codec.JSON[tick]())), "out-window")
	sink := SinkSpec[tick]{FixedSubject: "late", Codec: codec.JSON[tick]()}
	To(SideOutput(inner, lateLefts), "out-late-left", sink)
	To(SideOutput(inner, lateRights), "out-late-right", sink)
	topology, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return topology
}

type sidedTick struct {
	right bool
	tick
}

// joinModel looks at every pair of the whole input. Times are in milliseconds.
type joinModel struct {
	before, after, size, bound int64
	done                       [2]int64  // of the sides: nothing before it is expected
	kept, gathered             [2][]tick // for the interval, and in open windows
	late                       [2][]string
	inner, outer, window       []string
	matched                    map[int]bool
}

func (m *joinModel) push(e sidedTick) {
	side := 0
	if e.right {
		side = 1
	}
	if e.At < min(m.done[0], m.done[1]) {
		m.late[side] = append(m.late[side], fmt.Sprint(e.ID))
	} else {
		for _, o := range m.kept[1-side] {
			l, r := e.tick, o
			if e.right {
				l, r = o, e.tick
			}
			if l.Key != r.Key {
				continue
			}
			if r.At >= l.At-m.before && r.At <= l.At+m.after {
				row := fmt.Sprintf("%s %d-%d @%d", l.Key, l.ID, r.ID, max(l.At, r.At))
				m.inner, m.outer = append(m.inner, row), append(m.outer, row)
				m.matched[l.ID] = true
			}
		}
		m.kept[side] = append(m.kept[side], e.tick)
	}
	if start := floorTo(e.At, m.size, 0); start+m.size > min(m.done[0], m.done[1]) {
		for _, o := range m.gathered[1-side] {
			l, r := e.tick, o
			if e.right {
				l, r = o, e.tick
			}
			if l.Key == r.Key && floorTo(o.At, m.size, 0) == start {
				m.window = append(m.window, fmt.Sprintf("%s %d-%d in %d..%d", l.Key, l.ID, r.ID, start, start+m.size))
			}
		}
		m.gathered[side] = append(m.gathered[side], e.tick)
	}
	m.done[side] = max(m.done[side], e.At-m.bound)
}

func (m *joinModel) finish() {
	for _, l := range m.kept[0] {
		if !m.matched[l.ID] {
			m.outer = append(m.outer, fmt.Sprintf("%s %d-0 @%d", l.Key, l.ID, l.At+max(m.after, 0)))
		}
	}
}

var joinSinks = []string{"out-inner", "out-outer", "out-window", "out-late-left", "out-late-right"}

func pushSided(t require, p *Testbed, e sidedTick) {
	source := "left"
	if e.right {
		source = "right"
	}
	data, err := codec.JSON[tick]().Append(nil, e.tick)
	if err == nil {
		err = p.Push(source, Record{Subject: "test." + source, Data: data, Time: 1e18})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Whatever the interval, the order of the elements, the parallelism, the snapshots and the crashes: what is committed is what the
// model says.
func TestJoinsEqualTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &joinModel{
			before: int64(rapid.IntRange(-10, 30).Draw(t, "before")), size: int64(rapid.IntRange(1, 40).Draw(t, "size")),
			bound: int64(rapid.IntRange(0, 40).Draw(t, "bound")), matched: map[int]bool{}, done: [2]int64{math.MinInt64, math.MinInt64},
		}
		m.after = -m.before + int64(rapid.IntRange(0, 40).Draw(t, "length"))
		const ms = time.Millisecond
		topology := joinTopology(t, m.bound, Within(time.Duration(m.before)*ms, time.Duration(m.after)*ms), Tumbling(time.Duration(m.size)*ms))
		run := newReplay(t, topology, rapid.IntRange(1, 4).Draw(t, "parallelism"), pushSided, joinSinks...)
		run.snapshot(t)
		base := int64(rapid.IntRange(-100, 100).Draw(t, "base"))
		for i := range rapid.IntRange(1, 60).Draw(t, "elements") {
			switch rapid.IntRange(0, 19).Draw(t, "what") {
			case 0:
				run.snapshot(t)
			case 1:
				run.crash(t, rapid.IntRange(1, 4).Draw(t, "to"))
			}
			base += int64(rapid.SampledFrom([]int{0, 0, 1, 3, 12}).Draw(t, "step"))
			e := sidedTick{rapid.Bool().Draw(t, "right"), tick{
				Key: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "key"), ID: i + 1,
				At: base - int64(rapid.SampledFrom([]int{0, 0, 1, 5, 20, 60}).Draw(t, "behind")),
			}}
			m.push(e)
			run.push(t, e)
		}
		if err := run.bed.Finish(); err != nil {
			t.Fatal(err)
		}
		run.snapshot(t)
		m.finish()
		same(t, "inner", run.kept["out-inner"], m.inner)
		same(t, "outer", run.kept["out-outer"], m.outer)
		same(t, "window", run.kept["out-window"], m.window)
		for i, sink := range []string{"out-late-left", "out-late-right"} {
			var ids []string
			for _, s := range run.kept[sink] {
				e, err := codec.JSON[tick]().Decode([]byte(s))
				if err != nil {
					t.Fatal(err)
				}
				ids = append(ids, fmt.Sprint(e.ID))
			}
			same(t, sink, ids, m.late[i])
		}
		run.noStateLeft(t)
	})
}

// same compares rows without their order: between keys and subtasks there is none.
func same(t require, what string, got, want []string) {
	got, want = slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))
	if !slices.Equal(got, want) {
		t.Fatalf("%s:\n%s\nthe model says\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestJoinMistakes(t *testing.T) {
	b := NewBuilder("joins")
	key := func(e tick) string { return e.Key }
	left, right := KeyBy(ticks(b, "left", 0), key), KeyBy(ticks(b, "right", 0), key)
	fn := func(*Context[string], tick, tick) error { return nil }
	to(IntervalJoin(left, right, "backwards", Within(-time.Hour, time.Minute), fn), "out1")
	to(IntervalJoin[tick, tick, string](left, right, "empty", Within(0, 0), nil, nil), "out2")
	to(IntervalJoin(left, right, "tags", Within(0, 0), fn, LateLeft(NewOutputTag[int]("ints")), LateRight[tick](nil), JoinState(codec.Int64(), codec.Int64())), "out3")
	to(WindowJoin(left, right, "sessions", SessionBy(func(tick) time.Duration { return 1 }), func(*Context[string], Pane, tick, tick) error { return nil }), "out4")
	to(WindowJoin(left, right, "nothing", Tumbling(0), func(*Context[string], Pane, tick, tick) error { return nil }), "out5")
	_, err := b.Build()
	if err == nil {
		t.Fatal("it was built")
	}
	for _, want := range []string{
		"backwards: Within(-1h0m0s, 1m0s): the interval ends before it begins", "empty: its function is nil", "empty: option 1 of the join is nil",
		"tags: LateLeft has a", "tags: the tag of LateRight is nil", "tags: JoinState has codecs of other types", "sessions: SessionBy does not go with WindowJoin",
		"Tumbling(0s)",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in:\n%v", want, err)
		}
	}
}

func FuzzJoinCodecs(f *testing.F) {
	w, e := &waitingCodec[int64]{codec.Int64()}, &eitherCodec[int64, string]{codec.Int64(), codec.String()}
	seed, _ := w.Append(nil, []waiting[int64]{{V: 7, Matched: true}, {V: -1}})
	f.Add(seed)
	seed, _ = e.Append(nil, []either[int64, string]{{L: 7}, {Right: true, R: "x"}})
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) {
		if list, err := w.Decode(data); err == nil {
			again, err := w.Append(nil, list)
			back, derr := w.Decode(again)
			if err != nil || derr != nil || !slices.Equal(back, list) {
				t.Errorf("%v: %v, %v", list, err, derr)
			}
		}
		if list, err := e.Decode(data); err == nil {
			again, err := e.Append(nil, list)
			back, derr := e.Decode(again)
			if err != nil || derr != nil || !slices.Equal(back, list) {
				t.Errorf("%v: %v, %v", list, err, derr)
			}
		}
	})
}

// A left element at the end of time has its turn with the final watermark.
func TestLeftJoinAtTheEndOfTime(t *testing.T) {
	b := NewBuilder("ends")
	side := func(name string) KeyedStream[stamped] {
		return KeyBy(stampedSource(b, name, EventTime(stampedTime, MaxAhead(math.MaxInt64))), byStamped)
	}
	to(IntervalLeftJoin(side("left"), side("right"), "join", Within(0, maxWindow), func(pc *Context[string], l stamped, r *stamped) error {
		pc.Emit(fmt.Sprint(l.Key, " alone ", r == nil))
		return nil
	}), "out")
	p := bed(t, b, TestbedConfig{})
	push(t, p, "left", fmt.Sprint("k ", time.Date(2260, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano()), 0)
	if err := p.Finish(); err != nil {
		t.Fatal(err)
	}
	wantPayloads(t, "at the end", p.Output("out"), "k alone true")
}

// A left element that has met one is not alone, also when the function refuses the right one for another pair.
func TestLeftJoinOfARefusedElement(t *testing.T) {
	b := NewBuilder("refused")
	key := func(e tick) string { return e.Key }
	to(IntervalLeftJoin(KeyBy(ticks(b, "left", 0), key), KeyBy(ticks(b, "right", 0), key), "join", Within(time.Second, time.Second), func(pc *Context[string], l tick, r *tick) error {
		if r == nil {
			pc.Emit(fmt.Sprint(l.ID, " alone"))
			return nil
		}
		if l.ID == 2 {
			return Poison(fmt.Errorf("%d does not go with %d", r.ID, l.ID))
		}
		pc.Emit(fmt.Sprint(l.ID, " ", r.ID))
		return nil
	}), "out")
	p := bed(t, b, TestbedConfig{})
	pushSided(t, p, sidedTick{false, tick{Key: "a", At: 1, ID: 1}})
	pushSided(t, p, sidedTick{false, tick{Key: "a", At: 1, ID: 2}})
	pushSided(t, p, sidedTick{false, tick{Key: "a", At: 1, ID: 3}})
	pushSided(t, p, sidedTick{true, tick{Key: "a", At: 2, ID: 10}})
	if err := p.Finish(); err != nil {
		t.Fatal(err)
	}
	wantPayloads(t, "out", p.Output("out"), "1 10", "3 alone")
	if dead := p.Output(deadLetterSink); len(dead) != 1 {
		t.Errorf("dead letters: %v", dead)
	}
}

// What one key has waiting is let go in slices, between which barriers come, however much it is.
func TestJoinLetsGoInSlices(t *testing.T) {
	b := NewBuilder("slices")
	side := func(name string) KeyedStream[stamped] {
		return KeyBy(stampedSource(b, name, EventTime(stampedTime)), byStamped)
	}
	to(IntervalJoin(side("left"), side("right"), "join", Within(time.Second, time.Second), func(*Context[string], stamped, stamped) error { return nil }), "out")
	p := bed(t, b, TestbedConfig{})
	p.plan.tasks[0].slice = 10
	for i := range 10 * dropPerTurn {
		push(t, p, "left", fmt.Sprint("k ", i), ms)
		push(t, p, "right", fmt.Sprint("k ", i), ms)
	}
	push(t, p, "left", fmt.Sprint("z ", int64(time.Hour)), int64(time.Hour))
	last := Record{Subject: "test.right", Seq: 10*dropPerTurn + 1, Time: int64(time.Hour), Data: fmt.Append(nil, "z ", int64(time.Hour))}
	task, steps := p.plan.tasks[0], 0
	step(t, task, evBatch{input: slices.Index(task.sourceInputs(), "right"), batch: Batch{Records: []Record{last}, Position: last.Seq}})
	for ; task.unfinished(); steps++ {
		step(t, task, evContinue{})
	}
	if steps < 2 {
		t.Errorf("%d times of a key were let go in %d steps of 10 turns", 20*dropPerTurn, 1+steps)
	}
	backend, err := p.State("join", "k")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"left", "right"} {
		if keys, err := backend.Keys(name); err != nil || slices.Contains(keys, "k") {
			t.Errorf("%s: %q are left (%v)", name, keys, err)
		}
	}
}
