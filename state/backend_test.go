package state

import (
	"errors"
	"strings"
	"testing"
	"unsafe"

	"github.com/weirstream/weir/state/codec"
)

func bytesAsString(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

func TestUndeclared(t *testing.T) {
	b := newTestBackend(t, countState)
	var undeclared *UndeclaredError
	err := nameState.Set(b, "x")
	if !errors.As(err, &undeclared) || undeclared.Operator != "op" || undeclared.State != "name" {
		t.Fatal(err)
	}
	if err := tagState.Put(none{}, "x", 1); !errors.Is(err, ErrNoState) {
		t.Fatal(err)
	}
	// Another declaration with the same name is another state.
	if _, err := NewValue[int64]("count").Get(b); !errors.As(err, &undeclared) {
		t.Fatal(err)
	}
}

type none struct{}

func (none) StateBackend() *Backend { return nil }

func TestInvalidDeclarations(t *testing.T) {
	for name, d := range map[string]Descriptor{
		"empty name":     NewValue[int](""),
		"long name":      NewMap[string, int](strings.Repeat("x", 49)),
		"subject":        NewList[int]("a.b"),
		"reserved":       NewValue[int]("_timers"),
		"nil reduce":     NewReducing[int]("x", nil),
		"other codec":    NewValue[int]("x", Codec(codec.String())),
		"key codec":      NewValue[int]("x", KeyCodec(codec.String())),
		"version":        NewValue[int]("x", SchemaVersion(0)),
		"unnamed codec":  NewValue[int]("x", Codec(codec.New[int]("", nil, nil))),
		"map's K":        NewMap[string, int]("x", KeyCodec(codec.Int64())),
		"nil aggregator": NewAggregating("x", Aggregator[int, int, int](nil)),
	} {
		if err := d.Validate(); !errors.Is(err, ErrInvalidDescriptor) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := NewBackend(testConfig(0, 1), d); !errors.Is(err, ErrInvalidDescriptor) {
			t.Errorf("%s: NewBackend: %v", name, err)
		}
	}
	if _, err := NewBackend(testConfig(0, 1), countState, NewList[int]("count")); !errors.Is(err, ErrInvalidDescriptor) {
		t.Errorf("declared twice: %v", err)
	}
	for name, change := range map[string]func(*BackendConfig){
		"no tenant":   func(c *BackendConfig) { c.Tenant = "" },
		"subtask":     func(c *BackendConfig) { c.Subtask = 1 },
		"parallelism": func(c *BackendConfig) { c.Parallelism = 17 },
		"groups":      func(c *BackendConfig) { c.KeyGroups = MaxKeyGroups + 1 },
	} {
		cfg := testConfig(0, 1)
		change(&cfg)
		if _, err := NewBackend(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestQuota(t *testing.T) {
	cfg := testConfig(0, 1)
	cfg.MaxKeyBytes, cfg.MaxBytes = 10, 2000
	b, err := NewBackend(cfg, countState, nameState, lineState, tagState)
	if err != nil {
		t.Fatal(err)
	}
	var quota *QuotaError
	b.SetKey("a key too long")
	for _, err := range []error{countState.Set(b, 1), tagState.Put(b, "x", 1), b.Timers().Set(EventTime, 1, b.Key())} {
		if !errors.As(err, &quota) || quota.What != "key bytes" || quota.Need != 14 {
			t.Fatal(err)
		}
	}
	b.SetKey("k")
	if err := nameState.Set(b, strings.Repeat("x", 1500)); err != nil {
		t.Fatal(err)
	}
	if err := nameState.Set(b, strings.Repeat("x", 2500)); !errors.As(err, &quota) || quota.What != "state bytes" || quota.State != "name" {
		t.Fatal(err)
	}
	if v, _ := nameState.Get(b); len(v) != 1500 {
		t.Fatalf("a refused write changed the value: %d bytes", len(v))
	}
	for err = error(nil); err == nil; err = lineState.Add(b, "x") {
	}
	if n, _ := lineState.Len(b); !errors.As(err, &quota) || n == 0 {
		t.Fatal(n, err)
	}
	if err := errors.Join(nameState.Clear(b), lineState.Add(b, "now there is room")); err != nil {
		t.Fatal(err)
	}
}

// The bytes that a restored backend counts are those of the one that was saved.
func TestBytesAfterRestore(t *testing.T) {
	b := newTestBackend(t, allStates...)
	for i, k := range []string{"a", "bb", "a", "ccc"} {
		b.SetKey(k)
		err := errors.Join(countState.Set(b, 1), nameState.Set(b, strings.Repeat("n", i)), tagState.Put(b, k+"x", 1), lineState.Add(b, "l"),
			sumState.Add(b, 1), meanState.Add(b, 4), b.Timers().Set(EventTime, 4, k))
		if err != nil {
			t.Fatal(err)
		}
		if v, ok, err := meanState.Get(b); v != 4 || !ok || err != nil {
			t.Fatal(v, ok, err)
		}
	}
	chain := mustEncode(t, b.Freeze(1), 0)
	r := newTestBackend(t, allStates...)
	// Twice the same: the second time everything is replaced.
	if err := r.Restore(append(chain, chain...)); err != nil {
		t.Fatal(err)
	}
	if r.Bytes() != b.Bytes() || r.Bytes() == 0 {
		t.Fatalf("%d bytes were saved, %d restored", b.Bytes(), r.Bytes())
	}
	if err := r.Restore(chain); err == nil {
		t.Fatal("a backend that is not empty was restored")
	}
}

func TestKeyGroups(t *testing.T) {
	for _, groups := range []int{1, 2, 7, 128, 1000} {
		for parallelism := 1; parallelism <= min(groups, 20); parallelism++ {
			next := 0
			for s := range parallelism {
				first, last := GroupRange(s, parallelism, groups)
				if first != next || last < first {
					t.Fatalf("%d groups, subtask %d of %d: %d to %d", groups, s, parallelism, first, last)
				}
				for g := first; g <= last; g++ {
					if SubtaskOf(g, parallelism, groups) != s {
						t.Fatalf("group %d of %d is not subtask %d's of %d", g, groups, s, parallelism)
					}
				}
				next = last + 1
			}
			if next != groups {
				t.Fatalf("%d groups at parallelism %d: %d are owned", groups, parallelism, next)
			}
		}
	}
	// Part of the format.
	for key, want := range map[string]int{"": 25, "a": 91, "acme": 12} {
		if g := KeyGroup(key, 128); g != want {
			t.Errorf("key %q is in group %d, want %d", key, g, want)
		}
	}
}
