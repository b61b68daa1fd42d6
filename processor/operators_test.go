package processor

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

func bed(t testing.TB, b *Builder, cfg TestbedConfig) *Testbed {
	t.Helper()
	out, err := NewTestbed(mustBuild(t, b), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func feed(t testing.TB, b *Testbed, source string, payloads ...string) {
	t.Helper()
	for _, p := range payloads {
		if err := b.Push(source, Record{Subject: "test." + source, Data: []byte(p)}); err != nil {
			t.Fatal(err)
		}
	}
}

func payloads(messages []Message) []string {
	var out []string
	for _, m := range messages {
		out = append(out, string(m.Data))
	}
	return out
}

func wantPayloads(t *testing.T, what string, got []Message, want ...string) {
	t.Helper()
	if g := payloads(got); !slices.Equal(g, want) {
		t.Errorf("%s: got %q, want %q", what, g, want)
	}
}

func TestStatelessOperators(t *testing.T) {
	for _, parallelism := range []int{1, 4} {
		b := NewBuilder("stateless")
		a, c := lines(b, "a"), lines(b, "c")
		words := FlatMap(Union("both", a, c), "words", func(line string, emit func(string)) error {
			if line == "poison" {
				return Poison(errors.New("not a line"))
			}
			for _, w := range strings.Fields(line) {
				emit(w)
			}
			return nil
		})
		long := Filter(words, "long", func(w string) bool { return len(w) > 2 })
		to(Map(long, "shout", strings.ToUpper), "upper")
		to(words, "all") // a second reader of the same stream
		p := bed(t, b, TestbedConfig{Parallelism: parallelism})
		feed(t, p, "a", "to be or")
		feed(t, p, "c", "poison", "not two bee")
		wantPayloads(t, "upper", p.Output("upper"), "NOT", "TWO", "BEE")
		wantPayloads(t, "all", p.Output("all"), "to", "be", "or", "not", "two", "bee")
		dead := p.Output(deadLetterSink)
		wantPayloads(t, "dead letters", dead, "poison")
		for k, v := range map[string]string{HeaderError: "not a line", HeaderOperator: "words", HeaderStream: "c", HeaderSeq: "1", HeaderSubject: "test.c", HeaderTime: "2000-01-01T00:00:00Z"} {
			if got := dead[0].Header[k]; len(got) != 1 || got[0] != v {
				t.Errorf("header %s of the dead letter: %q, want %q", k, got, v)
			}
		}
		if dead[0].Subject != "weir.dlq.test.stateless" {
			t.Errorf("dead letter on %s", dead[0].Subject)
		}
	}
}

func TestProcessWithEverything(t *testing.T) {
	for _, parallelism := range []int{1, 3} {
		p := bed(t, example("example"), TestbedConfig{Parallelism: parallelism, Params: map[string]any{"limit": 2}})
		for _, s := range []string{"ab", "abc", "ab", "ab", "abc"} {
			if err := p.Push("in", Record{Subject: "test.in.x", Data: []byte(s)}); err != nil {
				t.Fatal(err)
			}
		}
		wantPayloads(t, "counts", p.Output("counts"), "ab=1", "abc=1", "ab=2", "abc=2")
		wantPayloads(t, "odd", p.Output("odd"), "abc", "abc")
		if m := p.Metrics(); m.RecordsIn != 5 || m.RecordsOut != 6 || m.DeadLetters != 0 || m.StateBytes == 0 {
			t.Errorf("metrics %+v", m)
		}
	}
}

func TestContextKnowsTheRecord(t *testing.T) {
	for _, parallelism := range []int{1, 2} {
		b := NewBuilder("record")
		to(Process(KeyBy(lines(b, "in", "in.>"), self), "who", func(pc *Context[string], s string) error {
			r := pc.Record()
			pc.Emit(fmt.Sprint(pc.Key(), " ", r.Source, " ", r.Stream, " ", r.Seq, " ", pc.Subject(), " ", pc.Timestamp().Format(time.RFC3339), " ", r.Time.Equal(pc.Timestamp()), " ", pc.Now().Year()))
			return nil
		}), "out")
		p := bed(t, b, TestbedConfig{Parallelism: parallelism})
		if err := p.Push("in", Record{Subject: "test.in.x.y", Data: []byte("k"), Seq: 12, Time: 1e18}); err != nil {
			t.Fatal(err)
		}
		wantPayloads(t, "out", p.Output("out"), "k in in 12 in.x.y 2001-09-09T01:46:40Z true 2000")
	}
}

// A keyed operator behind another one, and two on one keyed stream: several exchanges in a row.
func TestChainOfExchanges(t *testing.T) {
	for _, parallelism := range []int{1, 2, 5} {
		b := NewBuilder("chain")
		count := func(pc *Context[string], s string) error {
			n, err := testCount.Get(pc)
			if err != nil {
				return err
			}
			pc.Emit(fmt.Sprintf("%s%d", s, n))
			return testCount.Set(pc, n+1)
		}
		keyed := KeyBy(lines(b, "in"), self)
		first := Process(keyed, "first", count, Uses(testCount))
		second := Process(KeyBy(first, func(s string) string { return s[:1] }), "second", count, Uses(testCount))
		to(second, "out")
		to(Union("u", Process(keyed, "twin", count, Uses(testCount)), lines(b, "other")), "joined")
		p := bed(t, b, TestbedConfig{Parallelism: parallelism})
		feed(t, p, "in", "x", "y", "x", "z", "x")
		feed(t, p, "other", "direct")
		wantPayloads(t, "out", p.Output("out"), "x00", "y00", "x11", "z00", "x22")
		wantPayloads(t, "joined", p.Output("joined"), "x0", "y0", "x1", "z0", "x2", "direct")
	}
}

func TestTimers(t *testing.T) {
	b := NewBuilder("timers")
	keyed := KeyBy(lines(b, "in"), self)
	to(Process(keyed, "timer", func(pc *Context[string], s string) error {
		if err := pc.SetTimer(pc.Now().Add(time.Duration(len(s)) * time.Second)); err != nil {
			return err
		}
		if s == "withdrawn" {
			return pc.DeleteTimer(pc.Now().Add(time.Duration(len(s)) * time.Second))
		}
		return nil
	}, OnTimer(func(pc *Context[string], at time.Time) error {
		if pc.Key() == "poison" {
			return Poison(errors.New("refused by the timer"))
		}
		if pc.Record() != (RecordMeta{}) || !pc.Timestamp().Equal(at) || pc.Now().Before(at) {
			return fmt.Errorf("a timer of %s has record %+v, timestamp %s, now %s", at, pc.Record(), pc.Timestamp(), pc.Now())
		}
		pc.Emit(pc.Key())
		return nil
	})), "out")
	p := bed(t, b, TestbedConfig{})
	feed(t, p, "in", "ccc", "a", "withdrawn", "bb", "poison")
	if err := p.Advance(2 * time.Second); err != nil {
		t.Fatal(err)
	}
	wantPayloads(t, "after 2 s", p.Output("out"), "a", "bb")
	snap, err := p.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	// Restored timers wake the task without any input, on whichever subtask they lie now.
	restored, err := NewTestbed(p.plan.topology, TestbedConfig{From: snap, Parallelism: 4})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []*Testbed{p, restored} {
		if err := p.Advance(time.Hour); err != nil {
			t.Fatal(err)
		}
		wantPayloads(t, "after an hour", p.Output("out"), "ccc")
		dead := p.Output(deadLetterSink)
		wantPayloads(t, "dead letters", dead, "")
		if _, ok := dead[0].Header[HeaderSeq]; ok || dead[0].Header[HeaderTime][0] != "2000-01-01T00:00:06Z" {
			t.Errorf("dead letter of a timer: %v", dead[0].Header)
		}
	}
}

func TestUndeclaredUseNamesBoth(t *testing.T) {
	uses := map[string]func(*Context[string]) error{
		`state "count"`:     func(pc *Context[string]) error { return testCount.Set(pc, 1) },
		`parameter "limit"`: func(pc *Context[string]) error { testLimit.Get(pc); return nil },
		`output tag "odd"`:  func(pc *Context[string]) error { testTag.Emit(pc, ""); return nil },
		`no OnTimer`:        func(pc *Context[string]) error { return pc.SetTimer(pc.Now()) },
	}
	for want, use := range uses {
		b := NewBuilder("undeclared")
		Process(KeyBy(lines(b, "in"), self), "careless", func(pc *Context[string], _ string) error { return use(pc) })
		err := bed(t, b, TestbedConfig{}).Push("in", Record{Subject: "test.in", Data: []byte("x")})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "careless") || ClassOf(err) != ClassTerminal {
			t.Errorf("using %s: %v (class %v)", want, err, ClassOf(err))
		}
	}
}

func TestErrorsSayWhere(t *testing.T) {
	boom := errors.New("boom")
	b := NewBuilder("where")
	to(Map(lines(b, "in"), "outer", func(s string) string {
		if s == "panic" {
			panic(boom)
		}
		return s
	}), "x")
	Process(KeyBy(lines(b, "keyed"), self), "inner", func(*Context[string], string) error { return boom })
	err := bed(t, b, TestbedConfig{}).Push("keyed", Record{Subject: "test.keyed", Data: []byte("x"), Seq: 9})
	var oe *OperatorError
	if !errors.As(err, &oe) || oe.Operator != "inner" || oe.Stream != "keyed" || oe.Seq != 9 || !errors.Is(err, boom) || ClassOf(err) != ClassRestart {
		t.Errorf("error of a function: %v", err)
	}
	p := bed(t, b, TestbedConfig{})
	err = p.Push("in", Record{Subject: "test.in", Data: []byte("panic")})
	var pe *PanicError
	if !errors.As(err, &pe) || pe.Operator != "outer" || !strings.Contains(string(pe.Stack), "operators_test.go") {
		t.Errorf("panic of a function: %v", err)
	}
	if again := p.Push("in", Record{Subject: "test.in", Data: []byte("fine")}); !errors.Is(again, err) {
		t.Errorf("a failed task goes on: %v", again)
	}
}

// What Poison returns must not turn a panic into a dead letter: the state may be half changed.
func TestPanicWithPoisonRestarts(t *testing.T) {
	b := NewBuilder("p")
	to(Map(lines(b, "in"), "m", func(string) string { panic(Poison(errors.New("x"))) }), "out")
	err := bed(t, b, TestbedConfig{}).Push("in", Record{Subject: "test.in"})
	if ClassOf(err) != ClassRestart || err == nil {
		t.Errorf("class %v of %v", ClassOf(err), err)
	}
}

func TestUndecodableRecord(t *testing.T) {
	b := NewBuilder("decode")
	in := From(b, "in", SourceSpec[int64]{Filters: []tenants.Filter{"in"}, Codec: codec.JSON[int64]()})
	To(in, "out", SinkSpec[int64]{FixedSubject: "out", Codec: codec.JSON[int64]()})
	p := bed(t, b, TestbedConfig{})
	feed(t, p, "in", "1", "{", "2")
	wantPayloads(t, "out", p.Output("out"), "1", "2")
	wantPayloads(t, "dead letters", p.Output(deadLetterSink), "{")
}

func TestSourceDropsWhatItDidNotAskFor(t *testing.T) {
	b := NewBuilder("filters")
	to(lines(b, "in", "orders.*.new", "orders.eu.>"), "out")
	p := bed(t, b, TestbedConfig{})
	for _, s := range []string{"orders.us.new", "orders.us.old", "orders.eu.old.x", "orders.eu._weir.x", "orders._weir.new"} {
		if err := p.Push("in", Record{Subject: "test." + s, Data: []byte(s)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Push("in", Record{Subject: "other.orders.eu.x", Data: []byte("foreign")}); err != nil {
		t.Fatal(err)
	}
	wantPayloads(t, "out", p.Output("out"), "orders.us.new", "orders.eu.old.x")
}

func TestReaderThatGoesBackIsAnError(t *testing.T) {
	b := NewBuilder("back")
	to(lines(b, "in"), "out")
	p := bed(t, b, TestbedConfig{})
	for i, seq := range []uint64{5, 5} {
		err := p.Push("in", Record{Subject: "test.in", Seq: seq})
		if (err != nil) != (i == 1) {
			t.Errorf("record %d: %v", i, err)
		}
	}
}
