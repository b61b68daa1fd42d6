package state

import (
	"errors"
	"reflect"
	"slices"
	"testing"

	"github.com/weirstream/weir/state/codec"
)

type point struct{ X, Y int }

var (
	pointState = NewMap[point, []byte]("points")
	levelState = NewMap[int, *seenV3]("levels", Codec(codec.JSON[*seenV3]()))
)

func TestJSON(t *testing.T) {
	b := newTestBackend(t, append(slices.Clone(allStates), pointState, levelState)...)
	b.SetKey("k<")
	err := errors.Join(countState.Set(b, -7), nameState.Set(b, "<&>"), tagState.Put(b, "z", 1), tagState.Put(b, "a", 2), lineState.Add(b, "x"),
		lineState.Add(b, ""), sumState.Add(b, 5), meanState.Add(b, 6), pointState.Put(b, point{2, 1}, []byte("x")), pointState.Put(b, point{1, 9}, nil),
		levelState.Put(b, 10, &seenV3{1, "x"}), levelState.Put(b, -1, nil), levelState.Put(b, 3, nil), levelState.Remove(b, 3),
		b.Timers().Set(EventTime, 1, "k<"), b.Timers().Set(ProcessingTime, 1<<60, "k<"), b.Timers().Set(EventTime, -5, "k<"), b.Timers().Set(EventTime, 3, "other"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"count": `-7`, "name": `"<&>"`, "tags": `{"a":2,"z":1}`, "lines": `["x",""]`, "sum": `5`, "mean": `{"Sum":6,"N":1}`,
		"points": `[[{"X":1,"Y":9},null],[{"X":2,"Y":1},"eA=="]]`, "levels": `{"-1":null,"10":{"N":1,"From":"x"}}`,
		"_timers": `[{"domain":"event time","at":"1969-12-31T23:59:59.999999995Z"},{"domain":"event time","at":"1970-01-01T00:00:00.000000001Z"},{"domain":"processing time","at":"2006-07-14T23:58:24.606846976Z"}]`,
	}
	for name, w := range want {
		got, ok, err := b.JSON(name, "k<")
		if string(got) != w || !ok || err != nil {
			t.Errorf("%s: %s %v %v, want %s", name, got, ok, err, w)
		}
		if got, ok, err := b.JSON(name, "nobody"); got != nil || ok || err != nil {
			t.Errorf("%s of nobody: %s %v %v", name, got, ok, err)
		}
	}
	var none *NoSuchStateError
	if _, _, err := b.JSON("kount", "k<"); !errors.As(err, &none) || none.State != "kount" || len(none.Has) != 9 {
		t.Error(err)
	}
	b.SetKey("k<")
	if err := errors.Join(countState.Clear(b), tagState.Clear(b)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"count", "tags"} {
		if _, ok, err := b.JSON(name, "k<"); ok || err != nil {
			t.Errorf("%s is there after Clear: %v", name, err)
		}
	}
}

func TestKeys(t *testing.T) {
	b := newTestBackend(t, allStates...)
	for _, k := range []string{"b", "", "a", "c"} {
		b.SetKey(k)
		if err := errors.Join(countState.Set(b, 1), tagState.Put(b, "x", 1)); err != nil {
			t.Fatal(err)
		}
	}
	b.SetKey("c")
	if err := errors.Join(countState.Clear(b), b.Timers().Set(EventTime, 5, "only a timer")); err != nil {
		t.Fatal(err)
	}
	for state, want := range map[string][]string{
		"count": {"", "a", "b"}, "tags": {"", "a", "b", "c"}, "lines": nil, "": {"", "a", "b", "c", "only a timer"}, StateTimers: {"only a timer"},
	} {
		if got, err := b.Keys(state); !slices.Equal(got, want) || err != nil {
			t.Errorf("%q: %q %v", state, got, err)
		}
	}
	if _, err := b.Keys("nothing"); err == nil {
		t.Error("keys of a state that does not exist")
	}
	var seen []string
	err := b.EachKey("tags", func(k string) error {
		seen = append(seen, k)
		if k == "b" {
			return errors.New("enough")
		}
		return tagState.Clear(b)
	})
	if err == nil || !slices.Equal(seen, []string{"", "a", "b"}) {
		t.Errorf("%q %v", seen, err)
	}
	if got, _ := b.Keys("tags"); !slices.Equal(got, []string{"b", "c"}) {
		t.Errorf("%q are left", got)
	}
	b.ClearKey("b")
	b.ClearKey("only a timer")
	if got, _ := b.Keys(""); !slices.Equal(got, []string{"", "a", "c"}) {
		t.Errorf("%q are left after ClearKey", got)
	}
}

func TestDescribeAndReadKey(t *testing.T) {
	base, delta := goldenObjects(t)
	chain := [][]byte{base, delta}
	merged, err := Merge(chain, 0)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Describe(chain...)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Describe(merged[0].Data)
	if err != nil || !reflect.DeepEqual(got, again) {
		t.Fatalf("%v: the chain holds\n%v\nmerged\n%v", err, got, again)
	}
	entries := map[string]uint64{}
	for _, c := range got {
		entries[c.Name] = c.Entries
		if c.Bytes <= 0 || c.Kind == "" || c.Version != 1 {
			t.Errorf("%+v", c)
		}
	}
	if want := map[string]uint64{"count": 3, "name": 4, "tags": 7, "lines": 4, "sum": 4, "mean": 4, "_timers": 7}; !reflect.DeepEqual(entries, want) {
		t.Errorf("%v, want %v", entries, want)
	}
	for _, key := range []string{"a", "ключ"} {
		b, err := ReadKey(chain, key, nameState, tagState)
		if err != nil {
			t.Fatal(err)
		}
		if v, ok, err := b.JSON("tags", key); string(v) != map[string]string{"a": `{"a":2}`, "ключ": `{"t":1099511627776,"ключ":2}`}[key] || !ok || err != nil {
			t.Errorf("%s: %s %v", key, v, err)
		}
	}
	if b, err := ReadKey(nil, "x"); b != nil || err != nil {
		t.Error(b, err)
	}
	if c, err := Describe(); c != nil || err != nil {
		t.Error(c, err)
	}
}

// Rewrite gives a chain another owner and leaves states out.
func TestRewrite(t *testing.T) {
	base, delta := goldenObjects(t)
	objects, err := MergeAs([][]byte{base, delta}, Identity{Tenant: "globex", Job: "fork", Operator: "renamed"}, 300)
	if err != nil || len(objects) == 0 {
		t.Fatal(len(objects), err)
	}
	var chain [][]byte
	for _, o := range objects {
		chain = append(chain, o.Data)
	}
	b, err := NewBackend(BackendConfig{Tenant: "globex", Job: "fork", Operator: "renamed", KeyGroups: 16, Parallelism: 1}, allStates...)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Restore(chain); err != nil {
		t.Fatal(err)
	}
	same := newTestBackend(t, allStates...)
	if err := same.Restore([][]byte{base, delta}); err != nil {
		t.Fatal(err)
	}
	keys := []string{"a", "b", "", "ключ"}
	if got, want := dump(t, []*Backend{b}, keys), dump(t, []*Backend{same}, keys); !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v\nwant\n%+v", got, want)
	}
	objects, err = Rewrite(chain, MergeSpec{Drop: []string{"tags", "_timers", "unknown"}})
	if err != nil {
		t.Fatal(err)
	}
	h, err := ReadHeader(objects[0].Data)
	if err != nil || h.Job != "fork" || len(h.States) != 5 || slices.ContainsFunc(h.States, func(i StateInfo) bool { return i.Name == "tags" }) {
		t.Fatalf("%+v %v", h, err)
	}
	if objects, err = Rewrite(nil, MergeSpec{}); objects != nil || err != nil {
		t.Fatal(objects, err)
	}
}
