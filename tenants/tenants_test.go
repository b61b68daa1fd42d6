package tenants

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestNames(t *testing.T) {
	for _, s := range []string{"acme", "A", "0", "a_b-C9", strings.Repeat("x", 64)} {
		if _, err := ParseID(s); err != nil {
			t.Errorf("tenant %q: %v", s, err)
		}
	}
	for _, s := range []string{"", "_acme", "-a", "a.b", "a b", "a*", "a>", "ä", "a/b", "a\x00", strings.Repeat("x", 65)} {
		if _, err := ParseID(s); !errors.Is(err, ErrInvalidName) {
			t.Errorf("tenant %q: %v", s, err)
		}
	}
	for _, s := range []string{"Count", "", "_weir", "a.b", strings.Repeat("x", 49)} {
		if err := ValidateName("operator", s); !errors.Is(err, ErrInvalidName) || !strings.Contains(err.Error(), "operator") {
			t.Errorf("name %q: %v", s, err)
		}
	}
	j, err := ParseJobID("acme/wordcount")
	if err != nil || j != (JobID{"acme", "wordcount"}) || j.String() != "acme/wordcount" {
		t.Errorf("job: %v, %v", j, err)
	}
	for _, s := range []string{"acme", "acme/", "/x", "a/b/c", "a.b/c"} {
		if _, err := ParseJobID(s); !errors.Is(err, ErrInvalidName) {
			t.Errorf("job %q: %v", s, err)
		}
	}
}

func TestFilterValidate(t *testing.T) {
	for _, f := range []Filter{"orders", "orders.>", "*.created", "a.*.b", ">", "*"} {
		if err := f.Validate(); err != nil {
			t.Errorf("%q: %v", f, err)
		}
	}
	for _, f := range []Filter{"", ".", "a.", "a..b", "a.>.b", "a b", "a.b*", "a.>x", "a\tb", Filter(strings.Repeat("a", 513))} {
		if err := f.Validate(); !errors.Is(err, ErrInvalidSubject) {
			t.Errorf("%q: %v", f, err)
		}
	}
	if err := Filter("a._weir.>").Validate(); !errors.Is(err, ErrReserved) {
		t.Errorf("a reserved filter: %v", err)
	}
}

func TestSubjectValidate(t *testing.T) {
	for _, s := range []string{"a.*", "a.>", "a. b", "a.\r\n", "_weir.x", "x._weir"} {
		if ValidateSubject(s) == nil {
			t.Errorf("%q is accepted", s)
		}
	}
	if err := ValidateSubject("a.b_weir"); err != nil {
		t.Error(err)
	}
}

// matches is the naive reference for Filter.Matches.
func matches(filter, subject []string) bool {
	switch {
	case len(filter) == 0 || len(subject) == 0:
		return len(filter) == len(subject)
	case filter[0] == ">":
		return true
	case filter[0] == "*" || filter[0] == subject[0]:
		return matches(filter[1:], subject[1:])
	}
	return false
}

func filters() *rapid.Generator[Filter] {
	return rapid.Custom(func(t *rapid.T) Filter {
		tokens := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "*"}), 1, 4).Draw(t, "tokens")
		if rapid.IntRange(0, 3).Draw(t, "tail") == 0 {
			tokens = append(tokens, ">")
		}
		return Filter(strings.Join(tokens, "."))
	})
}

func subjects() *rapid.Generator[string] {
	return rapid.Map(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "d"}), 1, 5), func(s []string) string { return strings.Join(s, ".") })
}

func TestFilterMatches(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f, s := filters().Draw(t, "filter"), subjects().Draw(t, "subject")
		if got, want := f.Matches(s), matches(strings.Split(string(f), "."), strings.Split(s, ".")); got != want {
			t.Fatalf("%q matches %q: %t, want %t", f, s, got, want)
		}
	})
	if n := testing.AllocsPerRun(100, func() { Filter("a.*.>").Matches("a.b.c.d") }); n != 0 {
		t.Errorf("Matches allocates %v times", n)
	}
}

func TestFilterOverlaps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f, g, s := filters().Draw(t, "f"), filters().Draw(t, "g"), subjects().Draw(t, "s")
		if f.Overlaps(g) != g.Overlaps(f) {
			t.Fatalf("%s and %s overlap one way only", f, g)
		}
		if f.Matches(s) && g.Matches(s) && !f.Overlaps(g) {
			t.Fatalf("%s and %s both match %s", f, g, s)
		}
	})
	for _, c := range []struct {
		f, g Filter
		want bool
	}{{"orders.>", "shadow.test.>", false}, {">", "shadow.test.>", true}, {"*.test.x", "shadow.test.>", true}, {"shadow.*", "shadow.test.>", false}, {"shadow", "shadow.>", false}} {
		if got := c.f.Overlaps(c.g); got != c.want {
			t.Errorf("%s and %s: %t", c.f, c.g, got)
		}
	}
}

func TestCoverCovers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fs := rapid.SliceOfN(filters(), 1, 4).Draw(t, "filters")
		cover := Cover(fs)
		if err := cover.Validate(); err != nil {
			t.Fatalf("the cover of %q: %v", fs, err)
		}
		s := subjects().Draw(t, "subject")
		for _, f := range fs {
			if f.Matches(s) && !cover.Matches(s) {
				t.Fatalf("%q matches %q, the cover %q of %q does not", f, s, cover, fs)
			}
		}
	})
	for _, c := range []struct {
		in   []Filter
		want Filter
	}{
		{[]Filter{"orders.>"}, "orders.>"},
		{[]Filter{"orders.created", "orders.paid"}, "orders.*"},
		{[]Filter{"orders.created", "orders.eu.paid"}, "orders.>"},
		{[]Filter{"orders.a", "refunds.b"}, "*.*"},
		{[]Filter{"lines", "lines"}, "lines"},
	} {
		if got := Cover(c.in); got != c.want {
			t.Errorf("Cover(%q) = %q, want %q", c.in, got, c.want)
		}
	}
}

func TestNamespace(t *testing.T) {
	shared, err := NewNamespace("events.{tenant}")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		ns   Namespace
		want string
	}{{DefaultNamespace, "acme.orders.>"}, {shared, "events.acme.orders.>"}} {
		abs := c.ns.Absolute("acme", "orders.>")
		if abs != c.want {
			t.Errorf("%s: %q", c.ns, abs)
		}
		if rel, ok := c.ns.Relative("acme", abs); !ok || rel != "orders.>" {
			t.Errorf("%s: back to %q, %t", c.ns, rel, ok)
		}
		if _, ok := c.ns.Relative("acm", abs); ok {
			t.Errorf("%s: another tenant's subject is taken for one's own", c.ns)
		}
	}
	for _, bad := range []string{"events", "{tenant}.{tenant}", "x{tenant}", "a..{tenant}", "*.{tenant}", "_weir.{tenant}"} {
		if _, err := NewNamespace(bad); err == nil {
			t.Errorf("namespace %q is accepted", bad)
		}
	}
	if shared.String() != "events.{tenant}" || DefaultNamespace.String() != "{tenant}" {
		t.Error("templates do not come back")
	}
}

// A barrier must reach the reader of the source's filter, and be a literal subject.
func TestBarrierSubjectMatchesItsFilter(t *testing.T) {
	job := JobID{"acme", "revenue"}
	rapid.Check(t, func(t *rapid.T) {
		f := filters().Draw(t, "filter")
		s := DefaultNamespace.Barrier(job, "orders", f)
		if strings.ContainsAny(s, "*>") || !Filter(DefaultNamespace.Absolute("acme", string(f))).Matches(s) {
			t.Fatalf("the barrier of %q is on %q", f, s)
		}
	})
	if s := DefaultNamespace.Barrier(job, "orders", "orders.>"); s != "acme.orders._weir.revenue.orders" {
		t.Error(s)
	}
	if s := DefaultNamespace.Marker(job, "counts"); s != "acme._weir.revenue.sink.counts" {
		t.Error(s)
	}
}

func TestEscapeToken(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.String().Draw(t, "a"), rapid.String().Draw(t, "b")
		ea, eb := EscapeToken(a), EscapeToken(b)
		if (a == b) != (ea == eb) {
			t.Fatalf("%q and %q become %q and %q", a, b, ea, eb)
		}
		if len(ea) <= MaxSubjectLen {
			if err := ValidateSubject(ea); err != nil || strings.Contains(ea, ".") {
				t.Fatalf("%q becomes %q: %v", a, ea, err)
			}
		}
		if back, err := UnescapeToken(ea); err != nil || back != a {
			t.Fatalf("%q becomes %q and then %q, %v", a, ea, back, err)
		}
	})
	for in, want := range map[string]string{"": "=", "the": "the", "a.b": "a=2Eb", "_weir": "=5Fweir", "é": "=C3=A9", "_x": "_x"} {
		if got := EscapeToken(in); got != want {
			t.Errorf("EscapeToken(%q) = %q, want %q", in, got, want)
		}
	}
	for _, bad := range []string{"=4", "a=", "=zz", "=2"} {
		if _, err := UnescapeToken(bad); err == nil {
			t.Errorf("%q is unescaped", bad)
		}
	}
}

func TestHasReserved(t *testing.T) {
	for s, want := range map[string]bool{
		"_weir": true, "a._weir": true, "a._weir.b": true, "_weir.b": true, "a_weir": false, "_weirs.a": false, "a._weirs._weir": true, "": false,
	} {
		if HasReserved(s) != want {
			t.Errorf("HasReserved(%q) is %t", s, !want)
		}
	}
}

func TestQuota(t *testing.T) {
	if err := (Quota{}).WithDefaults().Validate(); err != nil {
		t.Error(err)
	}
	err := Quota{StateBytes: -1, PendingBytes: 1, KeyBytes: 1 << 30}.Validate()
	for _, word := range []string{"state bytes", "pending bytes", "key bytes"} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s is not reported: %v", word, err)
		}
	}
}

func TestPrintable(t *testing.T) {
	if s := Printable(strings.Repeat("é", 100)); len(s) > 64 || !strings.HasSuffix(s, "…") || strings.ContainsRune(s, '\uFFFD') {
		t.Errorf("%q", s)
	}
	if Printable("short") != "short" {
		t.Error("a short text is changed")
	}
}

func TestTenantsCannotTakeWeirsOwnNames(t *testing.T) {
	for _, s := range []string{"weir", "WEIR", "WEIR_DLQ", "weir_shared-001", "KV_weir_checkpoints", "OBJ_weir_acme", "kv_x"} {
		if _, err := ParseID(s); !errors.Is(err, ErrInvalidName) {
			t.Errorf("%s: %v", s, err)
		}
	}
	for _, s := range []string{"weirstream", "acme_weir", "KV", "obj"} {
		if _, err := ParseID(s); err != nil {
			t.Error(err)
		}
	}
}
