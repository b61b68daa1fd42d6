package processor

import (
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
	"pgregory.net/rapid"
)

var (
	lateTicks = NewOutputTag[tick]("late")
)

func ticks(b *Builder, name string, bound time.Duration) Stream[tick] {
	return From(b, name, SourceSpec[tick]{
		Filters: []tenants.Filter{tenants.Filter(name)}, Codec: codec.JSON[tick](),
		EventTime: EventTime(tick.time, BoundedOutOfOrderness(bound)),
	})
}

// sumTicks counts and sums IDs.
type sumTicks struct{}

type tickSum struct {
	N, Sum int
	Last   string
}

func (sumTicks) Init() tickSum                 { return tickSum{} }
func (sumTicks) Add(a tickSum, e tick) tickSum { return tickSum{a.N + 1, a.Sum + e.ID, e.Key} }
func (sumTicks) Merge(a, b tickSum) tickSum    { return tickSum{a.N + b.N, a.Sum + b.Sum, b.Last} }
func (sumTicks) Result(p Pane, a tickSum) string {
	return fmt.Sprintf("%s %d..%d %s #%d n=%d sum=%d", a.Last, p.Start.UnixMilli(), p.End.UnixMilli(), p.Timing, p.Index, a.N, a.Sum)
}

func tickRow(pc *Context[string], p Pane, elements iter.Seq[tick]) error {
	var ids []int
	for e := range elements {
		ids = append(ids, e.ID)
	}
	at := pc.Timestamp()
	if !at.Equal(p.End.Add(-1)) || pc.Key() != p.Key {
		return fmt.Errorf("the pane %+v of key %q is emitted at %s", p, pc.Key(), at)
	}
	pc.Emit(windowRow(p.Key, p.Start.UnixMilli(), p.End.UnixMilli(), p.Timing, p.Index, ids))
	return nil
}

// tickTopology gathers ticks twice with one assigner: whole elements to rows, sums to sums; what is late goes to late.
func tickTopology(t require, bound time.Duration, assigner Assigner, opts ...WindowOption) *Topology {
	b := NewBuilder("windows")
	w := Window(KeyBy(ticks(b, "in", bound), func(e tick) string { return e.Key }), assigner, append(slices.Clone(opts), LateOutput(lateTicks))...)
	rows := ProcessWindow(w, "rows", tickRow)
	to(rows, "out-rows")
	to(Aggregate(w, "sums", sumTicks{}), "out-sums")
	To(SideOutput(rows, lateTicks), "out-late", SinkSpec[tick]{FixedSubject: "late", Codec: codec.JSON[tick]()})
	topology, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return topology
}

func pushTick(t require, p *Testbed, e tick) {
	data, err := codec.JSON[tick]().Append(nil, e)
	if err != nil {
		t.Fatal(err)
	}
	// The record's own time is far on, so that nothing is ahead of it.
	if err := p.Push("in", Record{Subject: "test.in", Data: data, Time: 1e18}); err != nil {
		t.Fatal(err)
	}
}

// require is a *testing.T or a *rapid.T.
type require interface {
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// byKey groups rows, which begin with their key.
func byKey(rows []string) map[string][]string {
	out := map[string][]string{}
	for _, r := range rows {
		key, _, _ := strings.Cut(r, " ")
		out[key] = append(out[key], r)
	}
	return out
}

// sumRow turns a row of whole elements into that of the sums.
func sumRow(row string) string {
	head, list, _ := strings.Cut(row, " [")
	n, sum := 0, 0
	for _, f := range strings.Fields(strings.TrimSuffix(list, "]")) {
		id := 0
		fmt.Sscan(f, &id)
		n, sum = n+1, sum+id
	}
	return fmt.Sprintf("%s n=%d sum=%d", head, n, sum)
}

var tickSinks = []string{"out-rows", "out-sums", "out-late"}

type windowCase struct {
	model    windowModel
	assigner Assigner
	opts     []WindowOption
}

func drawWindow(t *rapid.T) windowCase {
	const ms = time.Millisecond
	c := windowCase{model: windowModel{bound: int64(rapid.IntRange(0, 40).Draw(t, "bound"))}}
	m := &c.model
	switch rapid.SampledFrom([]string{"tumbling", "sliding", "session", "session-by"}).Draw(t, "kind") {
	case "tumbling":
		m.size = int64(rapid.IntRange(1, 30).Draw(t, "size"))
		m.slide = m.size
		c.assigner = Tumbling(time.Duration(m.size) * ms)
	case "sliding":
		m.size = int64(rapid.IntRange(2, 40).Draw(t, "size"))
		m.slide = int64(rapid.IntRange(1, int(m.size)).Draw(t, "slide"))
		c.assigner = Sliding(time.Duration(m.size)*ms, time.Duration(m.slide)*ms)
	case "session":
		c.assigner = Session(7 * ms)
	default:
		c.assigner = SessionBy(func(e tick) time.Duration { return time.Duration(e.Gap) * ms })
	}
	if m.size > 0 && rapid.Bool().Draw(t, "has offset") {
		m.offset = int64(rapid.IntRange(-int(m.slide)+1, int(m.slide)-1).Draw(t, "offset"))
		c.opts = append(c.opts, Offset(time.Duration(m.offset)*ms))
	}
	if rapid.Bool().Draw(t, "has lateness") {
		m.lateness = int64(rapid.IntRange(0, 40).Draw(t, "lateness"))
		c.opts = append(c.opts, AllowedLateness(time.Duration(m.lateness)*ms))
	}
	if rapid.Bool().Draw(t, "has early") {
		m.every = rapid.IntRange(1, 5).Draw(t, "every")
		c.opts = append(c.opts, EarlyEvery(m.every))
	}
	return c
}

// Whatever the windows, the order of the elements, the parallelism, the snapshots and the crashes: what is committed is what the
// model says.
func TestWindowsEqualTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawWindow(t)
		model := newWindowModel(c.model)
		topology := tickTopology(t, time.Duration(c.model.bound)*time.Millisecond, c.assigner, c.opts...)
		run := newReplay(t, topology, rapid.IntRange(1, 4).Draw(t, "parallelism"), pushTick, tickSinks...)
		run.snapshot(t)
		base := int64(rapid.IntRange(-200, 200).Draw(t, "base")) // before 1970 too
		for i := range rapid.IntRange(1, 60).Draw(t, "elements") {
			switch rapid.IntRange(0, 19).Draw(t, "what") {
			case 0:
				run.snapshot(t)
			case 1:
				run.crash(t, rapid.IntRange(1, 4).Draw(t, "to"))
			}
			base += int64(rapid.SampledFrom([]int{0, 0, 1, 3, 12}).Draw(t, "step"))
			e := tick{
				Key: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "key"), ID: i + 1,
				At: base - int64(rapid.SampledFrom([]int{0, 0, 1, 5, 20, 60, 90}).Draw(t, "behind")), Gap: 7,
			}
			if c.assigner.gapOf != nil {
				e.Gap = int64(rapid.IntRange(1, 20).Draw(t, "gap"))
			}
			model.push(e)
			run.push(t, e)
		}
		if rapid.Bool().Draw(t, "snapshot before the end") {
			run.snapshot(t)
			run.crash(t, rapid.IntRange(1, 4).Draw(t, "to"))
		}
		late := run.bed.Metrics().LateElements
		if err := run.bed.Finish(); err != nil {
			t.Fatal(err)
		}
		if run.bed.Metrics().LateElements != late {
			t.Fatalf("closing windows refused elements")
		}
		run.snapshot(t)
		model.finish()
		compareRows(t, "rows", byKey(run.kept["out-rows"]), model.rows)
		sums := map[string][]string{}
		for k, rows := range model.rows {
			for _, r := range rows {
				sums[k] = append(sums[k], sumRow(r))
			}
		}
		compareRows(t, "sums", byKey(run.kept["out-sums"]), sums)
		var ids []int
		for _, s := range run.kept["out-late"] {
			e, err := codec.JSON[tick]().Decode([]byte(s))
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, e.ID)
		}
		slices.Sort(ids)
		if !slices.Equal(ids, model.late) {
			t.Fatalf("late: %v, the model says %v", ids, model.late)
		}
		run.noStateLeft(t)
	})
}

func compareRows(t require, what string, got, want map[string][]string) {
	for _, k := range []string{"a", "b", "c"} {
		if !slices.Equal(got[k], want[k]) {
			t.Fatalf("%s of key %s:\n%s\nthe model says\n%s", what, k, strings.Join(got[k], "\n"), strings.Join(want[k], "\n"))
		}
	}
}
