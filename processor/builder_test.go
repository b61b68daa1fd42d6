package processor

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

var (
	testJob   = tenants.JobID{Tenant: "acme", Name: "job"}
	testCount = state.NewValue[int64]("count")
	testTag   = NewOutputTag[string]("odd")
	testLimit = NewParam("limit", 3, func(n int) error {
		if n < 1 {
			return errors.New("use at least 1")
		}
		return nil
	})
)

func lines(b *Builder, name string, filters ...tenants.Filter) Stream[string] {
	if len(filters) == 0 {
		filters = []tenants.Filter{tenants.Filter(name)}
	}
	return From(b, name, SourceSpec[string]{Filters: filters, Codec: codec.String()})
}

func self(s string) string { return s }

func to(s Stream[string], name string) {
	To(s, name, SinkSpec[string]{FixedSubject: name, Codec: codec.String()})
}

func mustBuild(t testing.TB, b *Builder) *Topology {
	t.Helper()
	topo, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return topo
}

// Each mistake is declared on one line that quotes a word of its own; the error must name that line.
func TestBuildErrorsNameTheirLine(t *testing.T) {
	b := NewBuilder("mistakes")
	in := lines(b, "in")
	mistakes := map[string]string{ // operator's name: part of the error
		"Upper": "invalid name", "twice": "the name is taken", "nomap": "its function is nil", "nofilter": "its function is nil",
		"nocodec": "SourceSpec.Codec is nil", "nofilters": "SourceSpec.Filters is empty", "badfilter": "invalid subject",
		"reserved": "subject is reserved", "_dlq": "Weir's own", "twosubjects": "set one of", "nosubject": "set one of", "badmarker": "{job}",
		"alomarker": "no marker", "nobucket": "it is empty", "weirbucket": "Weir's own", "foreign": "another builder", "undeclared": "does not declare the tag",
		"wrongtimer": "its context must be", "twotimers": "more than one OnTimer", "nilused": "argument 1 of Uses is nil",
		"badparam": "its default is invalid", "twostates": "two different states named", "noresult": "nothing reads this keyby",
		"barriers": "SourceSpec.Barriers", "stream": "a stream's name has no",
	}
	id := func(s string) string { return s }
	pass := func(pc *Context[string], s string) error { pc.Emit(s); return nil }
	sink := func(subject string) SinkSpec[string] {
		return SinkSpec[string]{FixedSubject: subject, Codec: codec.String()}
	}
	Map(in, "Upper", id)
	Map(in, "once", id)
	to(Map(in, "twice", id), "s1")
	Map(in, "twice", id)
	Map[string, string](in, "nomap", nil)
	Filter(in, "nofilter", nil)
	Map(From(b, "nocodec", SourceSpec[string]{Filters: []tenants.Filter{"x"}}), "m1", id)
	Map(From(b, "nofilters", SourceSpec[string]{Codec: codec.String()}), "m2", id)
	Map(From(b, "badfilter", SourceSpec[string]{Codec: codec.String(), Filters: []tenants.Filter{"a..b"}}), "m3", id)
	Map(From(b, "reserved", SourceSpec[string]{Codec: codec.String(), Filters: []tenants.Filter{"_weir.>"}}), "m4", id)
	Map(From(b, "barriers", SourceSpec[string]{Codec: codec.String(), Filters: []tenants.Filter{"x"}, Barriers: "sideways"}), "m5", id)
	Map(From(b, "stream", SourceSpec[string]{Codec: codec.String(), Filters: []tenants.Filter{"x"}, Stream: "a.b"}), "m6", id)
	To(in, "_dlq", sink("x"))
	To(in, "twosubjects", SinkSpec[string]{FixedSubject: "x", Subject: id, Codec: codec.String()})
	To(in, "nosubject", SinkSpec[string]{Codec: codec.String()})
	To(in, "badmarker", SinkSpec[string]{FixedSubject: "x", Codec: codec.String(), MarkerSubject: "x.marker"})
	To(in, "alomarker", SinkSpec[string]{FixedSubject: "x", Codec: codec.String(), AtLeastOnce: true, AllowMarkerLoss: true})
	ToKV(in, "nobucket", KVSpec[string]{Key: id, Codec: codec.String()})
	ToKV(in, "weirbucket", KVSpec[string]{Bucket: "weir_jobs", Key: id, Codec: codec.String()})
	other := lines(NewBuilder("other"), "elsewhere")
	Union("foreign", in, other)
	undeclared := Process(KeyBy(in, id), "undeclared", pass)
	SideOutput(undeclared, testTag) // of "undeclared"
	Process(KeyBy(in, id), "wrongtimer", pass, OnTimer(func(*Context[int], time.Time) error { return nil }))
	onTimer := func(*Context[string], time.Time) error { return nil }
	Process(KeyBy(in, id), "twotimers", pass, OnTimer(onTimer), OnTimer(onTimer))
	Process(KeyBy(in, id), "nilused", pass, Uses(nil))
	Process(KeyBy(in, id), "badparam", pass, Uses(NewParam("p", 0, func(int) error { return errors.New("zero") })))
	Process(KeyBy(in, id), "twostates", pass, Uses(testCount, state.NewValue[string]("count")))
	KeyBy(Map(in, "noresult", id), id)

	_, err := b.Build()
	source, readErr := os.ReadFile("builder_test.go")
	if readErr != nil {
		t.Fatal(readErr)
	}
	text := strings.Split(string(source), "\n")
	var all []*BuildError
	for _, e := range unwrapAll(err) {
		var be *BuildError
		if !errors.As(e, &be) {
			t.Fatalf("%v is not a *BuildError", e)
		}
		all = append(all, be)
		file, n, ok := strings.Cut(be.At, ":")
		line, convErr := strconv.Atoi(n)
		if !ok || file != "processor/builder_test.go" || convErr != nil {
			t.Fatalf("%v: does not name a line of this file", be)
		}
		if !strings.Contains(text[line-1], `"`) {
			t.Errorf("%v: line %d is %q", be, line, text[line-1])
		}
	}
	for word, want := range mistakes {
		if !slices.ContainsFunc(all, func(e *BuildError) bool {
			_, n, _ := strings.Cut(e.At, ":")
			line, _ := strconv.Atoi(n)
			return strings.Contains(text[line-1], `"`+word+`"`) && strings.Contains(e.Error(), want)
		}) {
			t.Errorf("no error names the line of %q and says %q; errors are:\n%v", word, want, err)
		}
	}
}

func unwrapAll(err error) []error {
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		return j.Unwrap()
	}
	return []error{err}
}

func TestZeroStreamPanicsWithItsLine(t *testing.T) {
	defer func() {
		if got := fmt.Sprint(recover()); !strings.Contains(got, "processor/builder_test.go:") {
			t.Errorf("panic %q", got)
		}
	}()
	Map(Stream[string]{}, "zero", self)
	t.Error("a zero Stream was taken")
}

func TestBuildNeedsASource(t *testing.T) {
	if _, err := NewBuilder("empty").Build(); err == nil || !strings.Contains(err.Error(), "no source") {
		t.Errorf("an empty topology: %v", err)
	}
	if _, err := NewBuilder("Not Valid").Build(); !errors.Is(err, tenants.ErrInvalidName) {
		t.Errorf("a bad name: %v", err)
	}
}

func example(name string) *Builder {
	b := NewBuilder(name)
	in := lines(b, "in", "in.>", "more.*")
	counted := Process(KeyBy(in, self), "count", func(pc *Context[string], s string) error {
		if len(s)%2 == 1 {
			testTag.Emit(pc, s)
		}
		n, err := testCount.Get(pc)
		if err != nil || n >= int64(testLimit.Get(pc)) {
			return err
		}
		pc.Emit(fmt.Sprintf("%s=%d", s, n+1))
		return testCount.Set(pc, n+1)
	}, Uses(testCount, testTag, testLimit))
	to(counted, "counts")
	to(SideOutput(counted, testTag), "odd")
	return b
}

func TestTopologyDescribesItself(t *testing.T) {
	topo := mustBuild(t, example("example"))
	again := mustBuild(t, example("example"))
	if topo.Fingerprint() == "" || topo.Fingerprint() != again.Fingerprint() {
		t.Errorf("fingerprints of one topology: %q, %q", topo.Fingerprint(), again.Fingerprint())
	}
	b := example("example")
	Map(lines(b, "second"), "upper", strings.ToUpper)
	if mustBuild(t, b).Fingerprint() == topo.Fingerprint() {
		t.Error("another graph has the same fingerprint")
	}
	var names []string
	for _, o := range topo.Operators() {
		names = append(names, o.Name)
		if o.Name == "count" && (len(o.States) != 1 || o.States[0].Name != "count" || len(o.Params) != 1 || len(o.Tags) != 1 || !strings.HasPrefix(o.Declared, "processor/builder_test.go:")) {
			t.Errorf("operator count: %+v", o)
		}
	}
	if want := []string{"in", "keyby of in", "count", "counts", "count/odd", "odd"}; !slices.Equal(names, want) {
		t.Errorf("operators %q, want %q", names, want)
	}
	needs := topo.Needs(testJob, tenants.DefaultNamespace)
	if len(needs.Sources) != 1 || needs.Sources[0].Filter != ">" || len(needs.Sinks) != 3 || needs.Sinks[0].Subjects[0] != "counts" || !needs.Sinks[2].DeadLetters {
		t.Errorf("needs: %+v", needs)
	}
}

func TestMarkerSubjectNamesTheJob(t *testing.T) {
	b := NewBuilder("marked")
	To(lines(b, "in"), "out", SinkSpec[string]{FixedSubject: "out", Codec: codec.String(), MarkerSubject: "out._weir.{job}"})
	needs := mustBuild(t, b).Needs(testJob, tenants.DefaultNamespace)
	if got := needs.Sinks[0].Marker; got != "acme.out._weir.job" {
		t.Errorf("marker subject %q", got)
	}
}

func TestParams(t *testing.T) {
	topo := mustBuild(t, example("example"))
	if p := topo.Params(); len(p) != 1 || p[0].Name != "limit" || p[0].Type != "int" || string(p[0].Default) != "3" {
		t.Errorf("params: %+v", p)
	}
	for text, want := range map[string]string{`{"limit":0}`: "use at least 1", `{"limit":"x"}`: "decoding", `{"limt":1}`: "it has limit"} {
		var params map[string]json.RawMessage
		if err := json.Unmarshal([]byte(text), &params); err != nil {
			t.Fatal(err)
		}
		if err := topo.ValidateParams(params); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("params %s: %v, want %q", text, err, want)
		}
	}
	if err := topo.ValidateParams(map[string]json.RawMessage{"limit": []byte("7")}); err != nil {
		t.Error(err)
	}
}

func TestCompositeKeys(t *testing.T) {
	for _, parts := range [][]string{{"a", "b"}, {"ab"}, {"a", "", "b"}, {"1:a"}, {""}, {strings.Repeat("x", 1000), "\x00"}} {
		got, err := SplitKey(CompositeKey(parts...))
		if err != nil || !slices.Equal(got, parts) {
			t.Errorf("split of %q: %q, %v", parts, got, err)
		}
	}
	if CompositeKey("a", "bc") == CompositeKey("ab", "c") {
		t.Error("different parts have one key")
	}
	for _, bad := range []string{"x", "3:ab", "1", "99999999999:a", ":"} {
		if parts, err := SplitKey(bad); err == nil {
			t.Errorf("split of %q: %q and no error", bad, parts)
		}
	}
}
