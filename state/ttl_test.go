package state

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"
)

// fakeClock is a clock that tests set.
type fakeClock struct{ processing, element, watermark int64 }

func (c *fakeClock) ProcessingTime() int64 { return c.processing }

func (c *fakeClock) EventTime() (int64, int64) { return max(c.element, c.watermark), c.watermark }

var (
	seenTTL   = NewValue[string]("seen", TTL(100))
	hotTTL    = NewReducing("hot", func(a, b int64) int64 { return a + b }, TTL(100), RefreshOnRead())
	eventTTL  = NewAggregating("event", mean{}, EventTimeTTL(100))
	linesTTL  = NewList[string]("lines", EventTimeTTL(50), RefreshOnRead())
	tagsTTL   = NewMap[string, int64]("tags", TTL(100), RefreshOnRead())
	mapTTL    = NewMap[int64, string]("map", EventTimeTTL(100))
	forever   = NewValue[int64]("forever")
	ttlStates = []Descriptor{seenTTL, hotTTL, eventTTL, linesTTL, tagsTTL, mapTTL, forever}
)

// An expired entry leaves by other keys' accesses, a few at a time, and leaves snapshots as a deletion.
func TestTTLEvictsInSteps(t *testing.T) {
	clock := &fakeClock{}
	b := newTTLBackend(t, clock, 0, 1)
	const keys = 500
	for i := range keys {
		b.SetKey(fmt.Sprint("k", i))
		if err := seenTTL.Set(b, "x"); err != nil {
			t.Fatal(err)
		}
	}
	table := b.slots[0].table.(*timedTable[string])
	chain := mustEncode(t, b.Freeze(1), 0)
	b.Committed(1)
	clock.processing = 100
	for i := 1; i <= keys/evictPerKey; i++ {
		b.SetKey("other")
		if _, ok, _ := seenTTL.Lookup(b); ok || len(table.due.heap) != keys-i*evictPerKey {
			t.Fatalf("%d are left after %d accesses", len(table.due.heap), i)
		}
	}
	chain = append(chain, mustEncode(t, b.Freeze(2), 0)...)
	b.Committed(2)
	if c, err := Describe(chain...); err != nil || c[6].Name != "seen" || c[6].Entries != 0 {
		t.Fatalf("%+v %v", c, err)
	}
}

// What was restored without a TTL begins its time when it is there; a clock that knows no time lets nothing expire.
func TestTTLBegins(t *testing.T) {
	plain := NewValue[string]("seen")
	old := newTestBackend(t, plain)
	for _, k := range []string{"a", "b", "c"} {
		old.SetKey(k)
		if err := plain.Set(old, k); err != nil {
			t.Fatal(err)
		}
	}
	chain := mustEncode(t, old.Freeze(1), 0)
	clock := &fakeClock{processing: 1000}
	b := newTTLBackend(t, clock, 0, 1)
	if err := b.Restore(chain); err != nil {
		t.Fatal(err)
	}
	has := func(b *Backend, key string, want bool) {
		t.Helper()
		b.SetKey(key)
		if _, ok, err := seenTTL.Lookup(b); ok != want || err != nil {
			t.Fatalf("key %s at %d: %t %v", key, clock.processing, ok, err)
		}
	}
	has(b, "a", true)
	clock.processing += 99
	has(b, "a", true)
	has(b, "b", true)
	clock.processing++
	has(b, "a", false)
	has(b, "b", true)
	if b.Freeze(2).Keys() == 0 {
		t.Fatal("the times that began are not in the next snapshot")
	}
	b.Aborted(2)
	clock.processing += 300
	b.SetKey("other")
	for range 10 {
		b.SetKey("other")
		_, _, _ = seenTTL.Lookup(b)
	}
	if keys, _ := b.Keys("seen"); len(keys) != 0 {
		t.Fatalf("%q are there for ever", keys)
	}

	// Without a clock.
	b = newTestBackend(t, ttlStates...)
	b.SetKey("k")
	if err := errors.Join(seenTTL.Set(b, "x"), mapTTL.Put(b, 1, "y"), linesTTL.Add(b, "z")); err != nil {
		t.Fatal(err)
	}
	has(b, "k", true)
	if v, ok, err := b.JSON("map", "k"); string(v) != `{"1":"y"}` || !ok || err != nil {
		t.Fatal(string(v), ok, err)
	}
	chain = mustEncode(t, b.Freeze(1), 0)
	clock = &fakeClock{processing: 5000, watermark: noTime, element: noTime}
	b = newTTLBackend(t, clock, 0, 1)
	if err := b.Restore(chain); err != nil {
		t.Fatal(err)
	}
	has(b, "k", true)
	clock.processing += 100
	has(b, "k", false)
	if n, err := mapTTL.Len(b); n != 1 || err != nil { // there is no event time yet
		t.Fatal(n, err)
	}
	// A program without a TTL goes on with what there is.
	b = newTestBackend(t, plain, NewMap[int64, string]("map"), NewList[string]("lines"), forever, hotTTL, eventTTL, tagsTTL)
	if err := b.Restore(chain); err != nil || b.Upcasted() {
		t.Fatal(err)
	}
	b.SetKey("k")
	if v, err := plain.Get(b); v != "x" || err != nil {
		t.Fatal(v, err)
	}
}

func TestTTLDeclarations(t *testing.T) {
	for name, d := range map[string]Descriptor{
		"zero": NewValue[int]("x", TTL(0)), "negative": NewMap[int, int]("x", EventTimeTTL(-1)), "twice": NewValue[int]("x", TTL(1), EventTimeTTL(1)),
		"refresh alone": NewList[int]("x", RefreshOnRead()),
	} {
		if err := d.Validate(); !errors.Is(err, ErrInvalidDescriptor) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if p, e := newTTLBackend(t, nil, 0, 1).Expires(); !p || !e {
		t.Error(p, e)
	}
	if p, e := newTestBackend(t, allStates...).Expires(); p || e {
		t.Error(p, e)
	}
	l := ttl{by: ExpiryEvent, after: int64(time.Hour)}
	if l.expires(math.MaxInt64-1) != math.MaxInt64 || l.expires(noTime) != noTime || l.expires(-5) != int64(time.Hour)-5 {
		t.Error("an expiry overflows")
	}
}

// Who looks on from outside keeps nothing alive, and the operator's reads do.
func TestTTLReadFromOutside(t *testing.T) {
	clock := &fakeClock{processing: 1}
	b := newTTLBackend(t, clock, 0, 1)
	for _, k := range []string{"looked at", "read"} {
		b.SetKey(k)
		if err := errors.Join(hotTTL.Add(b, 1), tagsTTL.Put(b, "x", 1)); err != nil {
			t.Fatal(err)
		}
	}
	clock.processing = 100
	for _, state := range []string{"hot", "tags"} {
		if _, ok, err := b.JSON(state, "looked at"); !ok || err != nil {
			t.Fatal(state, ok, err)
		}
	}
	b.SetKey("read")
	if _, ok, err := hotTTL.Get(b); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if ok, err := tagsTTL.Has(b, "x"); !ok || err != nil {
		t.Fatal(ok, err)
	}
	clock.processing = 101
	for _, state := range []string{"hot", "tags"} {
		if keys, err := b.Keys(state); !slices.Equal(keys, []string{"read"}) || err != nil {
			t.Fatalf("%s: %q %v", state, keys, err)
		}
	}
}

// Accesses of states with a TTL allocate nothing.
func TestTTLAllocatesNothing(t *testing.T) {
	clock := &fakeClock{processing: 1}
	b := newTTLBackend(t, clock, 0, 1)
	step := func() {
		clock.processing++
		clock.watermark++
		b.SetKey("k")
		v, _ := seenTTL.Get(b)
		sum, _, _ := hotTTL.Get(b)
		tag, _, _ := tagsTTL.Get(b, "t")
		if err := errors.Join(seenTTL.Set(b, v), hotTTL.Add(b, sum), tagsTTL.Put(b, "t", tag), eventTTL.Add(b, 1)); err != nil {
			t.Fatal(err)
		}
	}
	step()
	if n := testing.AllocsPerRun(100, step); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
