package state

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/weirstream/weir/state/codec"
)

type seenV2 struct{ N int64 }

type seenV3 struct {
	N    int64
	From string
}

func upcasted(from string) func(seenV2) (seenV3, error) {
	return func(v seenV2) (seenV3, error) { return seenV3{v.N, from}, nil }
}

// evolved is the same operator in three versions of its program. The value began as an int64, is JSON since version 2 and has another
// field since version 3.
func evolved(version int) []Descriptor {
	one := func(v int64) (seenV2, error) { return seenV2{v}, nil }
	opts := []Option{SchemaVersion(version), Codec(codec.JSON[seenV2]()), Upcast(1, codec.Int64(), one)}
	switch version {
	case 1:
		return []Descriptor{NewValue[int64]("seen"), NewMap[string, int64]("tags"), NewList[int64]("list")}
	case 2:
		return []Descriptor{NewValue[seenV2]("seen", opts...), NewMap[string, seenV2]("tags", opts...), NewList[seenV2]("list", opts...)}
	}
	opts = []Option{SchemaVersion(3), Upcast(2, codec.JSON[seenV2](), upcasted("2")), Upcast(1, nil, one)}
	return []Descriptor{NewValue[seenV3]("seen", opts...), NewMap[string, seenV3]("tags", opts...), NewList[seenV3]("list", opts...)}
}

func fillIn[T any](t *testing.T, b *Backend, descs []Descriptor, key string, v T) {
	b.SetKey(key)
	if err := errors.Join(descs[0].(*Value[T]).Set(b, v), descs[1].(*Map[string, T]).Put(b, key, v), descs[2].(*List[T]).Add(b, v)); err != nil {
		t.Fatal(err)
	}
}

// evolvedChain is a base of version 1 with a delta of version 2: b was written by both.
func evolvedChain(t *testing.T) [][]byte {
	v1, v2 := evolved(1), evolved(2)
	b := newTestBackend(t, v1...)
	fillIn[int64](t, b, v1, "a", 1)
	fillIn[int64](t, b, v1, "b", 2)
	chain := mustEncode(t, b.Freeze(1), 0)
	b = newTestBackend(t, v2...)
	if err := b.Restore(chain); err != nil || !b.Upcasted() {
		t.Fatal(err, b.Upcasted())
	}
	fillIn(t, b, v2, "b", seenV2{20})
	fillIn(t, b, v2, "c", seenV2{30})
	return append(chain, mustEncode(t, b.Freeze(2), 0)...)
}

func TestUpcastMixedChain(t *testing.T) {
	chain, v3 := evolvedChain(t), evolved(3)
	merged, err := Merge(chain, 100)
	if err != nil {
		t.Fatal(err)
	}
	var one [][]byte
	for _, o := range merged {
		one = append(one, o.Data)
	}
	twice, err := Merge(one, 0)
	if err != nil {
		t.Fatal(err)
	}
	for name, objects := range map[string][][]byte{"chain": chain, "merged": one, "merged twice": {twice[0].Data}} {
		for _, parallelism := range []int{1, 3} {
			for sub := range parallelism {
				b, err := NewBackend(testConfig(sub, parallelism), v3...)
				if err != nil {
					t.Fatal(err)
				}
				if err := b.Restore(objects); err != nil || !b.Upcasted() {
					t.Fatal(name, err)
				}
				for key, want := range map[string][]seenV3{"a": {{1, "2"}}, "b": {{2, "2"}, {20, "2"}}, "c": {{30, "2"}}} {
					if owner := SubtaskOf(KeyGroup(key, 16), parallelism, 16); owner != sub {
						continue
					}
					b.SetKey(key)
					last := want[len(want)-1]
					v, _ := v3[0].(*Value[seenV3]).Get(b)
					tag, _, _ := v3[1].(*Map[string, seenV3]).Get(b, key)
					list, _ := v3[2].(*List[seenV3]).All(b)
					if v != last || tag != last || !reflect.DeepEqual(list, want) {
						t.Errorf("%s: key %s: %v %v %v", name, key, v, tag, list)
					}
				}
			}
		}
	}
	// What was upcast is whole again with a full snapshot.
	b := newTestBackend(t, v3...)
	if err := b.Restore(chain); err != nil {
		t.Fatal(err)
	}
	full := mustEncode(t, b.FreezeAll(3), 0)
	b = newTestBackend(t, v3...)
	if err := b.Restore(full); err != nil || b.Upcasted() {
		t.Fatal(err, b.Upcasted())
	}
}

func TestUpcastProblems(t *testing.T) {
	infos := func(d ...Descriptor) (infos []StateInfo) {
		for _, d := range d {
			infos = append(infos, d.Info())
		}
		return infos
	}
	to4 := func(from ...int) []Option {
		opts := []Option{SchemaVersion(4)}
		for _, f := range from {
			opts = append(opts, Upcast(f, nil, func(v int64) (int64, error) { return v, nil }))
		}
		return opts
	}
	for _, c := range []struct {
		old, now Descriptor
		want     string
	}{
		{NewValue[int64]("seen"), NewValue[int64]("seen", to4(1, 2, 3)...), ""},
		{NewValue[int64]("seen", SchemaVersion(3)), NewValue[int64]("seen", to4(1, 3)...), ""},
		{NewValue[int64]("seen"), NewValue[int64]("seen", to4(1, 3)...), "version 1 is recorded, version 4 is declared, and there is no upcaster from 2"},
		{NewValue[int64]("seen"), NewValue[int64]("seen", to4()...), "version 1 is recorded, version 4 is declared, and there is no upcaster from 1, 2, 3"},
		{NewValue[int64]("seen", SchemaVersion(5)), NewValue[int64]("seen", to4(1, 2, 3)...), "version 5 is recorded, version 4 is declared: a newer program wrote it"},
		{NewValue[string]("seen", SchemaVersion(3)), NewValue[int64]("seen", to4(3)...), "version 3 is recorded encoded as string, and the upcaster from it reads int64"},
		{NewMap[int64, int64]("m", SchemaVersion(3)), NewMap[string, int64]("m", to4(3)...), "the snapshot has its keys encoded as int64, the operator uses string: upcasters migrate values only"},
		{NewList[int64]("seen"), NewValue[int64]("seen", to4(1, 2, 3)...), "the snapshot has it as a list state, the operator as a value state"},
	} {
		if err := c.now.Validate(); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range CheckCompatible(infos(c.old), []Descriptor{c.now}) {
			got = append(got, p.Detail)
		}
		if strings.Join(got, "|") != c.want {
			t.Errorf("%v to %v: %q, want %q", c.old.Info(), c.now.Info(), got, c.want)
		}
	}
	fn := func(int64) (string, error) { return "", nil }
	for name, d := range map[string]Descriptor{
		"from 0":      NewValue[string]("x", SchemaVersion(2), Upcast(0, nil, fn)),
		"from itself": NewValue[string]("x", SchemaVersion(2), Upcast(2, nil, fn)),
		"no function": NewValue[string]("x", SchemaVersion(2), Upcast[int64, string](1, nil, nil)),
		"twice":       NewValue[string]("x", SchemaVersion(2), Upcast(1, nil, fn), Upcast(1, nil, fn)),
		"last type":   NewValue[int64]("x", SchemaVersion(2), Upcast(1, nil, fn)),
		"inner type":  NewList[string]("x", SchemaVersion(3), Upcast(1, nil, fn), Upcast(2, nil, fn)),
	} {
		if err := d.Validate(); !errors.Is(err, ErrInvalidDescriptor) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestUpcasterFails(t *testing.T) {
	chain := evolvedChain(t)
	for name, fn := range map[string]func(seenV2) (seenV3, error){
		"error": func(v seenV2) (seenV3, error) { return seenV3{}, fmt.Errorf("no room for %d", v.N) },
		"panic": func(v seenV2) (seenV3, error) { panic(fmt.Sprintf("no room for %d", v.N)) },
	} {
		d := NewValue[seenV3]("seen", SchemaVersion(3), Upcast(1, nil, func(v int64) (seenV2, error) { return seenV2{v}, nil }), Upcast(2, codec.JSON[seenV2](), fn))
		cfg := testConfig(0, 1)
		cfg.AllowDropped = true
		b, err := NewBackend(cfg, d)
		if err != nil {
			t.Fatal(err)
		}
		var failed *UpcastError
		if err := b.Restore(chain); !errors.As(err, &failed) {
			t.Fatalf("%s: %v", name, err)
		}
		if failed.State != "seen" || failed.Operator != "op" || failed.From != 2 || failed.To != 3 ||
			failed.KeyGroup != KeyGroup("b", 16) && failed.KeyGroup != KeyGroup("a", 16) || !strings.Contains(failed.Error(), "no room for") {
			t.Errorf("%s: %v", name, failed)
		}
		if got := b.Dropped(); !reflect.DeepEqual(got, []string{"tags", "list"}) {
			t.Errorf("dropped %v", got)
		}
	}
}

// An upcaster's nil pointers and interfaces are values like others.
func TestUpcastNil(t *testing.T) {
	old := NewValue[*seenV2]("p", Codec(codec.JSON[*seenV2]()))
	b := newTestBackend(t, old)
	b.SetKey("a")
	if err := old.Set(b, nil); err != nil {
		t.Fatal(err)
	}
	now := NewValue[any]("p", SchemaVersion(2), Codec(codec.JSON[any]()), Upcast(1, codec.JSON[*seenV2](), func(v *seenV2) (any, error) { return nil, nil }))
	r := newTestBackend(t, now)
	if err := r.Restore(mustEncode(t, b.Freeze(1), 0)); err != nil {
		t.Fatal(err)
	}
	r.SetKey("a")
	if v, ok, err := now.Lookup(r); v != nil || !ok || err != nil {
		t.Fatal(v, ok, err)
	}
}
