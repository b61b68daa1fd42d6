package processor

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
	"pgregory.net/rapid"
)

var ruledBefore = state.NewValue[int]("before")

func rulesOf(b *Builder, shared bool) RuleStream[int] {
	return Rules(b, "rules", RulesSpec[int]{Bucket: "limits", Shared: shared, Codec: codec.JSON[int]()})
}

// inForce writes the rules down.
func inForce(view *RuleView[int]) string {
	var out []string
	for key, r := range view.All() {
		if again, ok := view.Get(key); !ok || again != r {
			return fmt.Sprintf("Get(%q) is %d, %t and All says %d", key, again, ok, r)
		}
		out = append(out, fmt.Sprintf("%s=%d", key, r))
	}
	if view.Len() != len(out) {
		return fmt.Sprintf("%d rules, and a Len of %d", len(out), view.Len())
	}
	return strings.Join(out, ",")
}

// broadcastTopology numbers the elements of a key and shows the rules to each, and to an event timer a second later.
func broadcastTopology(t require, shared bool) *Topology {
	b := NewBuilder("broadcast")
	rules := rulesOf(b, shared)
	seen := Broadcast(KeyBy(lines(b, "in"), self), rules, "seen", func(pc *Context[string], v string, view *RuleView[int]) error {
		n, err := ruledBefore.Get(pc)
		if err != nil {
			return err
		}
		pc.Emit(fmt.Sprintf("%s%d %s", v, n+1, inForce(view)))
		return errors.Join(ruledBefore.Set(pc, n+1), pc.SetEventTimer(pc.Timestamp().Add(time.Second)))
	}, Uses(ruledBefore), OnEventTimer(func(pc *Context[string], _ time.Time) error {
		view, err := rules.View(pc)
		if err == nil {
			pc.Emit(fmt.Sprintf("%s later %s", pc.Key(), inForce(view)))
		}
		return err
	}))
	to(seen, "out")
	topology, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return topology
}

// ruleOp is something that happens: an element, or a change of a rule.
type ruleOp struct {
	element string
	key     string
	value   string // empty: deleted
}

func (o ruleOp) push(t require, bed *Testbed) {
	if o.element != "" {
		pushOrFail(t, bed, "in", Record{Subject: "test.in", Data: []byte(o.element)})
		return
	}
	r := Record{Subject: "$KV.limits.test." + o.key, Data: []byte(o.value)}
	if o.value == "" {
		r.Header = map[string][]string{"KV-Operation": {"PURGE"}}
	}
	pushOrFail(t, bed, "rules", r)
}

func pushOrFail(t require, bed *Testbed, source string, r Record) {
	if err := bed.Push(source, r); err != nil {
		t.Fatal(err)
	}
}

// While the input stands still for each change, what comes out is exactly what a model says, whatever the parallelism, the snapshots,
// the crashes and rescalings. A rule that is refused changes nothing.
func TestBroadcastEqualsTheModel(t *testing.T) {
	topology := broadcastTopology(t, false)
	rapid.Check(t, func(t *rapid.T) {
		run := newReplay(t, topology, rapid.IntRange(1, 4).Draw(t, "parallelism"), func(t require, bed *Testbed, o ruleOp) { o.push(t, bed) }, "out", deadLetterSink)
		rules, before := map[string]string{}, map[string]int{}
		var want []string
		refused := 0
		run.snapshot(t)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				run.snapshot(t)
			case 1:
				run.crash(t, rapid.IntRange(1, 4).Draw(t, "parallelism again"))
			case 2, 3, 4:
				o := ruleOp{key: rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "key"), value: rapid.SampledFrom([]string{"", "1", "2", "3", "{", "1 2"}).Draw(t, "value")}
				run.push(t, o)
				switch o.value {
				case "":
					delete(rules, o.key)
				case "{", "1 2":
					refused++
				default:
					rules[o.key] = o.value
				}
			default:
				e := rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "element")
				run.push(t, ruleOp{element: e})
				var force []string
				for _, k := range slices.Sorted(maps.Keys(rules)) {
					force = append(force, k+"="+rules[k])
				}
				before[e]++
				want = append(want, fmt.Sprintf("%s%d %s", e, before[e], strings.Join(force, ",")))
			}
		}
		run.snapshot(t)
		got := run.kept["out"]
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Fatalf("published\n%q\nwant\n%q", got, want)
		}
		if n := len(run.kept[deadLetterSink]); n != refused {
			t.Fatalf("%d dead letters, want %d", n, refused)
		}
	})
}

func TestBroadcastBuildErrors(t *testing.T) {
	b := NewBuilder("mistakes")
	in := KeyBy(lines(b, "in"), self)
	fn := func(*Context[string], string, *RuleView[int]) error { return nil }
	Rules(b, "nocodec", RulesSpec[int]{Bucket: "limits"})
	Rules(b, "nobucket", RulesSpec[int]{Codec: codec.JSON[int]()})
	Rules(b, "weirs", RulesSpec[int]{Bucket: "weir_jobs", Codec: codec.JSON[int]()})
	rules := rulesOf(b, false)
	Broadcast[string, int, string](in, rules, "nofunc", nil)
	Broadcast(in, rules, "timers", fn, OnTimer(func(*Context[int], time.Time) error { return nil }))
	Broadcast(in, rules, "timers", fn)
	Broadcast(in, rulesOf(NewBuilder("other"), false), "stranger", fn)
	_, err := b.Build()
	for _, want := range []string{
		"operator nocodec: RulesSpec.Codec is nil", "operator nobucket: RulesSpec.Bucket: it is empty", "operator weirs: RulesSpec.Bucket", "operator nofunc: its function is nil",
		"operator nocodec: nothing reads this rules", "operator timers: OnTimer has a", "operator timers: the name is taken", "operator stranger: input",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not among the errors:\n%v", want, err)
		}
	}
	alone := NewBuilder("alone")
	rulesOf(alone, false)
	if _, err := alone.Build(); err == nil || !strings.Contains(err.Error(), "it has no source") {
		t.Errorf("a topology of rules alone: %v", err)
	}
}

// Only a Broadcast of the rules may look at them.
func TestRulesOfAnotherOperator(t *testing.T) {
	b := NewBuilder("stranger")
	rules := rulesOf(b, false)
	in := KeyBy(lines(b, "in"), self)
	to(Broadcast(in, rules, "reader", func(*Context[string], string, *RuleView[int]) error { return nil }), "out")
	to(Process(in, "stranger", func(pc *Context[string], _ string) error {
		_, err := rules.View(pc)
		return err
	}), "out2")
	bed, err := NewTestbed(mustBuild(t, b), TestbedConfig{})
	if err != nil {
		t.Fatal(err)
	}
	err = bed.Push("in", Record{Subject: "test.in", Data: []byte("x")})
	var undeclared *UndeclaredError
	if !errors.As(err, &undeclared) || undeclared.Name != "rules" || ClassOf(err) == ClassPoison {
		t.Errorf("an operator that is no Broadcast got %v", err)
	}
}

// Whatever is in a bucket: a key or a value that is no rule is a dead letter, or no rule of this tenant at all.
func TestHostileRules(t *testing.T) {
	for _, parallelism := range []int{1, 3} {
		bed, err := NewTestbed(broadcastTopology(t, false), TestbedConfig{Parallelism: parallelism})
		if err != nil {
			t.Fatal(err)
		}
		push := func(key, value string, header map[string][]string) {
			pushOrFail(t, bed, "rules", Record{Subject: "$KV.limits." + key, Data: []byte(value), Header: header})
		}
		push("test.ok", "7", map[string][]string{HeaderMark: {"broadcast"}})
		push("test.ok", "8", map[string][]string{"Weir-Barrier": {"1"}})
		push("test.=zz", "1", nil)
		push("test.=61", "1", nil) // a is written plainly
		push("test."+strings.Repeat("k", 5000), "1", nil)
		push("test.ok", strings.Repeat("[", 100_000), nil)
		push("test.ok", "", nil)
		push("test._weir", "1", nil)
		push("other.ok", "1", nil)
		push("test.never", "", map[string][]string{"Nats-Marker-Reason": {"MaxAge"}})
		pushOrFail(t, bed, "in", Record{Subject: "test.in", Data: []byte("x")})
		if got := payloads(bed.Output("out")); !slices.Equal(got, []string{"x1 ok=7"}) {
			t.Errorf("parallelism %d: the rules are %q", parallelism, got)
		}
		dead := bed.Output(deadLetterSink)
		for _, m := range dead {
			if m.Header[HeaderOperator][0] != "rules" || m.Header[HeaderStream][0] != "KV_limits" || m.Header[HeaderError][0] == "" {
				t.Errorf("a dead letter has the headers %v", m.Header)
			}
		}
		if len(dead) != 5 {
			t.Errorf("parallelism %d: %d dead letters", parallelism, len(dead))
		}
	}
}

// A state that had timers gets rules: nothing fires and no element is processed before the rules are there, no checkpoint is cut, and a
// hold waits for them too.
func TestNothingComesBeforeTheFirstRules(t *testing.T) {
	b := NewBuilder("broadcast")
	seen := Process(KeyBy(lines(b, "in"), self), "seen", func(pc *Context[string], _ string) error {
		return errors.Join(ruledBefore.Set(pc, 1), pc.SetEventTimer(pc.Timestamp().Add(time.Second)))
	}, Uses(ruledBefore), OnEventTimer(func(pc *Context[string], at time.Time) error { return nil }))
	to(seen, "out")
	old, err := NewTestbed(mustBuild(t, b), TestbedConfig{})
	if err != nil {
		t.Fatal(err)
	}
	start := old.Now()
	pushOrFail(t, old, "in", Record{Subject: "test.in", Data: []byte("x")})
	snap, err := old.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	due := start.Add(time.Minute).UnixNano()
	snap.watermarks["seen"] = &due // as if it had been cut while the timer was due
	for i, parallelism := range []int{1, 3, 1, 3} {
		pending := uint64(1)
		if i > 1 {
			pending = 0 // as the server sees it, which does not have the second rule yet
		}
		bed, err := NewTestbed(broadcastTopology(t, false), TestbedConfig{
			Parallelism: parallelism, From: snap, bind: func(b *Bindings) { b.Sources[0].LastSeq = 2 },
		})
		if err != nil {
			t.Fatal(err)
		}
		pushOrFail(t, bed, "in", Record{Subject: "test.in", Data: []byte("x"), Seq: 2})
		first := Record{Subject: "$KV.limits.test.a", Data: []byte("1"), Seq: 1, Time: 1}
		task := slices.IndexFunc(bed.plan.tasks, func(t *task) bool { return slices.Contains(t.sourceInputs(), "rules") })
		input := slices.Index(bed.plan.tasks[task].sourceInputs(), "rules")
		if err := bed.run(task, evBatch{input: input, batch: Batch{Records: []Record{first}, Position: 1, Pending: pending}}); err != nil {
			t.Fatal(err)
		}
		if _, err := bed.Snapshot(); err == nil {
			t.Error("half of the first rules are in a checkpoint")
		}
		for i := range bed.plan.tasks {
			if err := bed.run(i, evLimit{token: 1}); err != nil {
				t.Fatal(err)
			}
		}
		if out := bed.Output("out"); len(out) > 0 {
			t.Errorf("parallelism %d: %q came before the rules", parallelism, payloads(out))
		}
		pushOrFail(t, bed, "rules", Record{Subject: "$KV.limits.test.b", Data: []byte("2"), Seq: 2})
		for i := range bed.plan.tasks {
			if err := bed.run(i, evUnlimit{token: 1}); err != nil {
				t.Fatal(err)
			}
		}
		if len(bed.snapshots) != len(bed.plan.tasks) {
			t.Errorf("parallelism %d: %d of %d tasks have cut the checkpoint that waited", parallelism, len(bed.snapshots), len(bed.plan.tasks))
		}
		for i := range bed.plan.tasks {
			if err := bed.run(i, evCommitted{bed.checkpoint}); err != nil {
				t.Fatal(err)
			}
		}
		var got []string // what the checkpoint has, and what came behind it
		for _, s := range bed.snapshots {
			for _, o := range s.outputs {
				for m := range o.output.From(0) {
					if o.sink == "out" {
						got = append(got, string(m.Data))
					}
				}
			}
		}
		got = append(got, payloads(bed.Output("out"))...)
		if !slices.Equal(got, []string{"x later a=1,b=2", "x2 a=1,b=2", "x later a=1,b=2"}) {
			t.Errorf("parallelism %d: published %q", parallelism, got)
		}
	}
}

// A bucket that is another one is read anew: the rules stay until that is done.
func TestRulesAreReadAnew(t *testing.T) {
	for _, parallelism := range []int{1, 3} {
		bed, err := NewTestbed(broadcastTopology(t, false), TestbedConfig{Parallelism: parallelism})
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"a", "b", "c"} {
			ruleOp{key: key, value: "1"}.push(t, bed)
		}
		task := slices.IndexFunc(bed.plan.tasks, func(t *task) bool { return slices.Contains(t.sourceInputs(), "rules") })
		input := slices.Index(bed.plan.tasks[task].sourceInputs(), "rules")
		for i, step := range []struct {
			batch Batch
			want  string
		}{
			{Batch{Reset: true, Records: []Record{{Subject: "$KV.limits.test.a", Data: []byte("2"), Seq: 1}}, Position: 1, Pending: 1}, "a=2,b=1,c=1"},
			{Batch{Records: []Record{{Subject: "$KV.limits.test.d", Data: []byte("2"), Seq: 2}}, Position: 2}, "a=2,d=2"},
			{Batch{Reset: true}, ""},
		} {
			if err := bed.run(task, evBatch{input: input, batch: step.batch}); err != nil {
				t.Fatal(err)
			}
			ruleOp{element: "x"}.push(t, bed)
			if got := payloads(bed.Output("out")); !slices.Equal(got, []string{fmt.Sprintf("x%d %s", i+1, step.want)}) {
				t.Errorf("parallelism %d: %q, want %q", parallelism, got, step.want)
			}
		}
	}
}

// A rule whose key is gone from the bucket is removed where the bucket ended when it was asked, between what lies before and behind.
func TestRulesThatAreGone(t *testing.T) {
	bed, err := NewTestbed(broadcastTopology(t, false), TestbedConfig{})
	if err != nil {
		t.Fatal(err)
	}
	ruleOp{key: "a", value: "1"}.push(t, bed)
	ruleOp{key: "b", value: "1"}.push(t, bed)
	rules := bed.plan.tasks[0].inputs[0].source.rules
	rules.last = 5 // as in a job that is restored: the rules are loaded, and the bucket has more
	if err := rules.reconcile([]string{"$KV.limits.test.b", "$KV.limits.test.c"}); err != nil {
		t.Fatal(err)
	}
	batch := Batch{Position: 4, Pending: 3, Records: []Record{{Subject: "$KV.limits.test.c", Data: []byte("1"), Seq: 4}}}
	for i, want := range []string{"a=1,b=1,c=1", "b=1,c=1,d=1"} {
		if err := bed.run(0, evBatch{batch: batch}); err != nil {
			t.Fatal(err)
		}
		ruleOp{element: "x"}.push(t, bed)
		if got := payloads(bed.Output("out")); !slices.Equal(got, []string{fmt.Sprintf("x%d %s", i+1, want)}) {
			t.Errorf("%q, want %q", got, want)
		}
		batch = Batch{Position: 6, Pending: 1, Records: []Record{{Subject: "$KV.limits.test.d", Data: []byte("1"), Seq: 6}}}
	}
}

// Rules say in the state what they say in the bucket, and a topology that would read them otherwise is refused.
func TestStateOfRules(t *testing.T) {
	bed, err := NewTestbed(broadcastTopology(t, true), TestbedConfig{Parallelism: 3})
	if err != nil {
		t.Fatal(err)
	}
	pushOrFail(t, bed, "rules", Record{Subject: "$KV.limits.eu.north", Data: []byte("12")})
	b, err := bed.State("rules", "eu.north")
	if err != nil {
		t.Fatal(err)
	}
	text, ok, err := b.JSON("rule", "eu.north")
	if err != nil || !ok || string(text) != "12" {
		t.Errorf("the state is %s, %t, %v", text, ok, err)
	}
	if text, err := json.Marshal(ruleText("a b")); err != nil || string(text) != `"a b"` {
		t.Errorf("a rule that is no JSON is %s, %v", text, err)
	}
	if p := state.CheckCompatible(b.Infos(), []state.Descriptor{newRuleState("msgpack")}); len(p) == 0 {
		t.Error("another codec reads the rules of the state")
	}
}
