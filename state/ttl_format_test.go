package state

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

// ttlObjects are a base and a delta with states that expire beside one that does not.
func ttlObjects(t fataler) (base, delta []byte) {
	clock := &fakeClock{processing: 1000, element: -70, watermark: -100}
	b := newTTLBackend(t, clock, 0, 1)
	for _, k := range []string{"a", "b", "ключ"} {
		b.SetKey(k)
		if err := errors.Join(seenTTL.Set(b, strings.Repeat(k, 70)), hotTTL.Add(b, 3), eventTTL.Add(b, 4), linesTTL.Set(b, []string{"x", ""}), tagsTTL.Put(b, k, 5),
			mapTTL.Put(b, -1, k), mapTTL.Put(b, 1, ""), forever.Set(b, 6), b.Timers().Set(EventTime, 9, k)); err != nil {
			t.Fatal(err)
		}
	}
	base = mustEncode(t, b.Freeze(1), 0)[0]
	b.Committed(1)
	b.SetClock(nil)
	b.SetKey("a")
	if err := errors.Join(seenTTL.Clear(b), mapTTL.Remove(b, 1), tagsTTL.Put(b, "new", 1)); err != nil {
		t.Fatal(err)
	}
	return base, mustEncode(t, b.Freeze(2), 0)[0]
}

// Version 2 stays readable and is what is written where entries expire; without such states it is version 1.
func TestGoldenTTL(t *testing.T) {
	base, delta := ttlObjects(t)
	chain := [][]byte{golden(t, whatSnapshot, magicSnapshot, "base-v2.bin", base), golden(t, whatSnapshot, magicSnapshot, "delta-v2.bin", delta)}
	clock := &fakeClock{processing: 1099, element: 29, watermark: -21}
	b := newTTLBackend(t, clock, 0, 1)
	if err := b.Restore(chain); err != nil {
		t.Fatal(err)
	}
	b.SetKey("b")
	seen, ok, err := seenTTL.Lookup(b)
	event, ok2, err2 := eventTTL.Get(b)
	if seen != strings.Repeat("b", 70) || !ok || event != 4 || !ok2 || errors.Join(err, err2) != nil {
		t.Fatal(seen, ok, event, ok2, err, err2)
	}
	if v, ok, _ := b.JSON("map", "b"); string(v) != `{"-1":"b","1":""}` || !ok {
		t.Fatal(string(v), ok)
	}
	if n, err := linesTTL.Len(b); n != 0 || err != nil { // they live 50
		t.Fatal(n, err)
	}
	clock.processing, clock.element = 1100, 30
	for _, key := range []string{"b", "ключ", "a"} {
		b.SetKey(key)
		for _, state := range []string{"seen", "hot", "event", "lines", "map"} {
			if v, ok, err := b.JSON(state, key); ok || err != nil {
				t.Errorf("%s of %s is still there: %s %v", state, key, v, err)
			}
		}
	}
	if v, ok, _ := b.JSON("tags", "a"); string(v) != `{"new":1}` || !ok { // its time had not begun
		t.Fatal(string(v), ok)
	}
	h, err := ReadHeader(chain[0])
	if err != nil || !reflect.DeepEqual(h.States, b.Infos()) || h.States[0].Expiry != ExpiryProcessing || h.States[6].Expiry != NoExpiry {
		t.Fatalf("%+v %v", h, err)
	}
	for i, o := range append(chain, mustEncode(t, goldenBackend(t).Freeze(1), 0)[0]) {
		if version := o[8]; version != 2-byte(i/2) {
			t.Errorf("object %d is of version %d", i, version)
		}
	}
}

// Every changed byte and every truncation of version 2 is found; in the body also what the checksums would let pass.
func TestDamageTTL(t *testing.T) {
	base, delta := ttlObjects(t)
	for _, o := range [][]byte{base, delta} {
		damage(t, "restore", o, func(o []byte) error { return newTTLBackend(t, nil, 0, 1).Restore([][]byte{o}) })
		damage(t, "merge", o, func(o []byte) error { _, err := Merge([][]byte{o}, 0); return err })
	}
	h := Header{Tenant: "acme", Job: "job", Operator: "op", KeyGroups: 16, States: []StateInfo{{"s", KindValue, "string", 1, expiries}}}
	for _, kind := range []string{KindValue, KindTimers} {
		h.States[0].Kind = kind
		if kind == KindTimers {
			h.States[0].Expiry = ExpiryEvent // timers have none
		}
		w := newSectionWriter(&h, 0)
		w.begin(1, 0)
		w.raw = append(w.raw, 2, 'a', 0, 0)
		w.end()
		if _, err := ReadHeader(w.close()[0].Data); !errors.As(err, new(*FormatError)) {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// Merging keeps what has a time beside what has none, and leaves out what is over.
func TestMergeTTL(t *testing.T) {
	base, delta := ttlObjects(t)
	for now, want := range map[int64]uint64{0: 2, 1099: 2, 1100: 0} {
		merged, err := Rewrite([][]byte{base, delta}, MergeSpec{Now: now})
		if err != nil {
			t.Fatal(err)
		}
		contents, err := Describe(merged[0].Data)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range contents {
			switch {
			case c.Name == "seen" && c.Entries != want:
				t.Errorf("at %d %d entries are left, want %d", now, c.Entries, want)
			case c.Name == "event" && c.Entries != 3, c.Name == "forever" && c.Entries != 3:
				t.Errorf("at %d %+v", now, c)
			}
		}
	}
}

func BenchmarkTTL(b *testing.B) {
	for name, d := range map[string]*Value[int64]{"without": NewValue[int64]("v"), "processing": NewValue[int64]("v", TTL(1e9)), "event": NewValue[int64]("v", EventTimeTTL(1e9))} {
		b.Run(name, func(b *testing.B) {
			backend, err := NewBackend(testConfig(0, 1), d)
			if err != nil {
				b.Fatal(err)
			}
			clock := &fakeClock{}
			backend.SetClock(clock)
			keys := make([]string, 10000)
			for i := range keys {
				keys[i] = strings.Repeat("k", 8) + string(rune('a'+i%26)) + string(rune('a'+i/26%26)) + string(rune('a'+i/676))
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				clock.processing, clock.watermark = clock.processing+1, clock.watermark+1
				backend.SetKey(keys[i])
				n, _ := d.Get(backend)
				if err := d.Set(backend, n+1); err != nil {
					b.Fatal(err)
				}
				if i++; i == len(keys) {
					i = 0
				}
			}
		})
	}
}
