package verdict_test

import (
	"strings"
	"testing"

	"github.com/weirstream/weir/cmd/weircli/verdict"
	"pgregory.net/rapid"
)

type out struct {
	key   string
	count uint64
}

func judge(outs []out, in verdict.Input) verdict.Report {
	c := verdict.NewCount()
	for _, o := range outs {
		c.Add(o.key, o.count)
	}
	return c.Judge("acme", in)
}

func TestVerdicts(t *testing.T) {
	three := map[string]uint64{"a": 3}
	for name, tc := range map[string]struct {
		outs []out
		in   verdict.Input
		want string
	}{
		"exact":             {[]out{{"a", 1}, {"a", 2}, {"a", 3}}, verdict.Input{AtLeast: three, AtMost: three}, "exact: 3 elements, 1 keys"},
		"lost prefix":       {[]out{{"a", 3}}, verdict.Input{AtLeast: three, AtMost: three}, "not exact: 2 lost-prefix"},
		"lost middle":       {[]out{{"a", 1}, {"a", 3}}, verdict.Input{AtLeast: three, AtMost: three}, "not exact: 1 lost-middle"},
		"lost tail":         {[]out{{"a", 1}}, verdict.Input{AtLeast: three, AtMost: three}, "not exact: 2 lost-tail"},
		"lost key":          {nil, verdict.Input{AtLeast: three, AtMost: three}, "not exact: 3 lost-tail"},
		"duplicated":        {[]out{{"a", 1}, {"a", 2}, {"a", 2}, {"a", 3}}, verdict.Input{AtLeast: three, AtMost: three}, "not exact: 1 duplicated"},
		"replayed":          {[]out{{"a", 1}, {"a", 2}, {"a", 3}, {"a", 1}, {"a", 2}, {"a", 3}}, verdict.Input{AtLeast: three, AtMost: three}, "not exact: 3 duplicated"},
		"reordered":         {[]out{{"a", 1}, {"a", 3}, {"a", 2}}, verdict.Input{AtLeast: three, AtMost: three}, "not exact: 1 reordered"},
		"counted twice":     {[]out{{"a", 1}, {"a", 2}, {"a", 3}, {"a", 4}}, verdict.Input{AtLeast: three, AtMost: three}, "not exact: 1 unexpected"},
		"still running":     {[]out{{"a", 1}, {"a", 2}, {"a", 3}, {"a", 4}}, verdict.Input{AtLeast: three, AtMost: map[string]uint64{"a": 9}}, "exact: 3 elements, 1 keys"},
		"new key runs":      {[]out{{"a", 1}, {"a", 2}, {"a", 3}, {"b", 1}}, verdict.Input{AtLeast: three, AtMost: map[string]uint64{"a": 3, "b": 1}}, "exact: 3 elements, 1 keys"},
		"leaked":            {[]out{{"a", 1}, {"a", 2}, {"a", 3}, {"b", 1}}, verdict.Input{AtLeast: three, AtMost: three, Foreign: func(k string) bool { return k == "b" }}, "not exact: 1 leaked"},
		"out of nothing":    {[]out{{"a", 1}, {"a", 2}, {"a", 3}, {"b", 1}}, verdict.Input{AtLeast: three, AtMost: three}, "not exact: 1 unexpected"},
		"count zero":        {[]out{{"a", 0}, {"a", 1}, {"a", 2}, {"a", 3}}, verdict.Input{AtLeast: three, AtMost: three}, "not exact: 1 duplicated"},
		"state behind":      {[]out{{"a", 1}, {"a", 2}, {"a", 3}}, verdict.Input{AtLeast: three, AtMost: three, State: map[string]uint64{"a": 2}}, "not exact: 1 wrong-state"},
		"state ahead":       {[]out{{"a", 1}, {"a", 2}, {"a", 3}}, verdict.Input{AtLeast: three, AtMost: three, State: map[string]uint64{"a": 4}}, "not exact: 1 wrong-state"},
		"state missing":     {[]out{{"a", 1}, {"a", 2}, {"a", 3}}, verdict.Input{AtLeast: three, AtMost: three, State: map[string]uint64{}}, "not exact: 1 wrong-state"},
		"state of no input": {[]out{{"a", 1}, {"a", 2}, {"a", 3}}, verdict.Input{AtLeast: three, AtMost: three, State: map[string]uint64{"a": 3, "z": 1}}, "not exact: 1 wrong-state"},
		"several":           {[]out{{"a", 2}, {"a", 2}}, verdict.Input{AtLeast: three, AtMost: three}, "not exact: 1 lost-prefix, 1 lost-tail, 1 duplicated"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := judge(tc.outs, tc.in).Summary(); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestExplainedByRemoval(t *testing.T) {
	in := verdict.Input{AtLeast: map[string]uint64{"a": 1}, AtMost: map[string]uint64{"a": 1}}
	if r := judge([]out{{"a", 3}}, in); !r.ExplainedByRemoval(in) {
		t.Errorf("a lost prefix and a count beyond the input are what retention leaves behind: %s", r.Summary())
	}
	if r := judge([]out{{"a", 3}, {"a", 3}}, in); r.ExplainedByRemoval(in) {
		t.Errorf("retention does not double: %s", r.Summary())
	}
	if r := judge([]out{{"a", 1}}, in); r.ExplainedByRemoval(in) {
		t.Error("an exact report needs no explanation")
	}
}

// The naive model keeps the whole output per key and compares it with 1..n.
func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		input := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c"}), 0, 20).Draw(t, "input")
		counts := map[string]uint64{}
		var outs []out
		for _, k := range input {
			counts[k]++
			outs = append(outs, out{k, counts[k]})
		}
		for range rapid.IntRange(0, 3).Draw(t, "faults") {
			if len(outs) == 0 {
				break
			}
			i := rapid.IntRange(0, len(outs)-1).Draw(t, "at")
			j := rapid.IntRange(0, len(outs)-1).Draw(t, "other")
			switch rapid.IntRange(0, 2).Draw(t, "fault") {
			case 0:
				outs = append(outs[:i:i], outs[i+1:]...)
			case 1:
				outs = append(outs, outs[i])
			case 2:
				outs[i], outs[j] = outs[j], outs[i]
			}
		}
		exact := true
		perKey := map[string][]uint64{}
		for _, o := range outs {
			perKey[o.key] = append(perKey[o.key], o.count)
		}
		for k, n := range counts {
			got := perKey[k]
			if uint64(len(got)) != n {
				exact = false
				continue
			}
			for i, c := range got {
				exact = exact && c == uint64(i)+1
			}
		}
		r := judge(outs, verdict.Input{AtLeast: counts, AtMost: counts})
		if r.Exact != exact {
			t.Fatalf("model says exact %t, verdict %q of %v", exact, r.Summary(), outs)
		}
		if !exact && !strings.HasPrefix(r.Summary(), "not exact: ") {
			t.Fatalf("summary %q names nothing", r.Summary())
		}
	})
}
