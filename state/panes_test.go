package state

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"testing"

	"github.com/weirstream/weir/state/codec"
	"pgregory.net/rapid"
)

var (
	listPanes    = NewPanes[[]int64]("lists", "1m0s")
	sessionPanes = NewSessions[string]("sessions", "session")
)

// paneModel is the naive table: a map of maps that is copied whole.
type paneModel[V any] map[string]map[int64]V

func (m paneModel[V]) clone() paneModel[V] {
	c := paneModel[V]{}
	for k, v := range m {
		if len(v) > 0 {
			c[k] = maps.Clone(v)
		}
	}
	return c
}

// check compares the table with the model by every way of reading it.
func checkPanes[V any](t fataler, b *Backend, d *Panes[V], keys []string, starts int64, want paneModel[V]) {
	table, err := d.Table(b)
	if err != nil {
		t.Fatal(err)
	}
	got := paneModel[V]{}
	table.Keys(func(n *PaneKey[V]) {
		if got[n.Key()] != nil {
			t.Fatalf("key %s is listed twice", n.Key())
		}
		got[n.Key()] = map[int64]V{}
		last := int64(-1)
		for i, to := n.Bounds(); i < to; i++ {
			start, v := n.Item(i)
			if start <= last {
				t.Fatalf("key %s: start %d comes behind %d", n.Key(), start, last)
			}
			if last = start; v != nil {
				got[n.Key()][start] = *v
			}
		}
		if n.Live() != len(got[n.Key()]) {
			t.Fatalf("key %s: Live %d, but %d panes", n.Key(), n.Live(), len(got[n.Key()]))
		}
		if from := n.Search(starts / 2); from < len(n.items) && n.items[from].key.start < starts/2 {
			t.Fatalf("key %s: Search gave an item with start %d for %d", n.Key(), n.items[from].key.start, starts/2)
		}
	})
	if !reflect.DeepEqual(got, want.clone()) {
		t.Fatalf("the table has %v, want %v", got, want)
	}
	for _, k := range keys {
		n := table.Key(k)
		for s := range starts {
			v, ok := want[k][s]
			if has := n != nil && n.At(s) != nil; has != ok || ok && !reflect.DeepEqual(*n.At(s), v) {
				t.Fatalf("key %s, start %d: found %t, want %t %v", k, s, has, ok, v)
			}
		}
		b.SetKey(k)
		m, ok := table.read()
		if ok != (len(want[k]) > 0) || ok && !reflect.DeepEqual(m, want[k]) {
			t.Fatalf("key %s: read gave %v, want %v", k, m, want[k])
		}
	}
}

// A random history of writes, snapshots, commits, aborts and restores against the model.
func TestPanesEqualTheModel(t *testing.T) {
	t.Run("lists", func(t *testing.T) {
		testPanes(t, listPanes, func(t *rapid.T, old []int64) []int64 { return append(old, rapid.Int64().Draw(t, "element")) })
	})
	t.Run("sessions", func(t *testing.T) {
		testPanes(t, sessionPanes, func(t *rapid.T, old Session[string]) Session[string] {
			return Session[string]{End: rapid.Int64().Draw(t, "end"), Emitted: old.Emitted + 1, Since: rapid.Uint32().Draw(t, "since"),
				Fired: !old.Fired, Acc: old.Acc + "x"}
		})
	})
}

func testPanes[V any](t *testing.T, d *Panes[V], change func(*rapid.T, V) V) {
	const starts = 12
	keys := []string{"a", "b", "c", ""}
	rapid.Check(t, func(t *rapid.T) {
		b := newTestBackend(t, d)
		table, _ := d.Table(b)
		now, frozen := paneModel[V]{}, paneModel[V]{}
		var inFlight *Frozen
		var chain [][]byte
		for c := range uint64(rapid.IntRange(1, 80).Draw(t, "steps")) {
			key, start := rapid.SampledFrom(keys).Draw(t, "key"), rapid.Int64Range(0, starts-1).Draw(t, "start")
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			default:
				n := table.Key(key)
				v := change(t, now[key][start])
				if now[key] == nil {
					now[key] = map[int64]V{}
				}
				now[key][start] = v
				if _, err := table.Put(n, key, start, v); err != nil {
					t.Fatal(err)
				}
			case 0, 1:
				if n := table.Key(key); n != nil {
					table.Remove(n, start)
				}
				delete(now[key], start)
			case 2:
				if inFlight == nil {
					inFlight, frozen = b.Freeze(c+1), now.clone()
				}
			case 3:
				if inFlight == nil {
					break
				}
				if rapid.Bool().Draw(t, "abort") {
					b.Aborted(inFlight.Checkpoint())
					inFlight = nil
					break
				}
				chain = append(chain, mustEncode(t, inFlight, 0)...)
				b.Committed(inFlight.Checkpoint())
				inFlight = nil
				again := newTestBackend(t, d)
				if err := again.Restore(chain); err != nil {
					t.Fatal(err)
				}
				checkPanes(t, again, d, keys, starts, frozen)
			}
			checkPanes(t, b, d, keys, starts, now)
		}
		if inFlight != nil {
			b.Aborted(inFlight.Checkpoint())
		}
		merged, err := Merge(append(chain, mustEncode(t, b.Freeze(1000), 0)...), 0)
		if err != nil {
			t.Fatal(err)
		}
		b.Committed(1000)
		base := newTestBackend(t, d)
		for _, o := range merged {
			if err := base.Restore([][]byte{o.Data}); err != nil {
				t.Fatal(err)
			}
		}
		checkPanes(t, base, d, keys, starts, now)
		table.log.reap(1 << 20)
		if base.Bytes() != b.Bytes() {
			t.Fatalf("%d bytes, but %d of the same state restored", b.Bytes(), base.Bytes())
		}
	})
}

func TestPanesRefuse(t *testing.T) {
	for _, d := range []Descriptor{
		NewPanes[int64]("x", "a,b"), NewPanes[int64]("x", "1m", KeyCodec(codec.Int64())), NewSessions[int64]("X", "session"),
		NewPanes[int64]("x", "1m", Codec(codec.String())), NewPanes[int64]("x", "1m", TTL(1)),
	} {
		if err := d.Validate(); !errors.Is(err, ErrInvalidDescriptor) {
			t.Errorf("%+v: %v", d.Info(), err)
		}
	}
	b := newTestBackend(t, NewPanes[int64]("x", "1m"))
	p := b.slots[0].table.(*PaneTable[int64])
	if _, err := p.Put(nil, "k", 1, 2); err != nil {
		t.Fatal(err)
	}
	object := mustEncode(t, b.Freeze(1), 0)
	var e *CompatibilityError
	if err := newTestBackend(t, NewPanes[int64]("x", "1h")).Restore(object); !errors.As(err, &e) {
		t.Errorf("panes of another layout: %v", err)
	}
	// What is a map on the outside can be read as one.
	h, err := Scan(object[0], func(h *Header, e *Entry) error {
		if start, err := codec.Int64().Decode(e.MapKey); err != nil || start != 1 || string(e.Value) != "\x04" {
			return fmt.Errorf("start %d, value %q (%v)", start, e.Value, err)
		}
		return nil
	})
	if err != nil || h.States[0].Kind != KindMap || h.States[0].Codec != "int64@1m,int64" {
		t.Errorf("%+v: %v", h.States[0], err)
	}
}

func TestMalformedSessions(t *testing.T) {
	c := &sessionCodec[string]{codec.String()}
	whole, err := c.Append(nil, Session[string]{End: -5, Emitted: 3, Since: 300, Fired: true, Acc: "acc"})
	if err != nil {
		t.Fatal(err)
	}
	if want := "\x09\x07\xac\x02acc"; string(whole) != want { // as FORMAT.md says
		t.Errorf("a session is written as %q, want %q", whole, want)
	}
	if s, err := c.Decode(whole); err != nil || s != (Session[string]{-5, 3, 300, true, "acc"}) {
		t.Errorf("%+v %v", s, err)
	}
	for _, b := range [][]byte{nil, {0x80}, whole[:1], whole[:2], []byte("\x01\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x00"), []byte("\x01\x00\xff\xff\xff\xff\xff\x7f")} {
		if s, err := c.Decode(b); !errors.Is(err, codec.ErrMalformed) {
			t.Errorf("%q: %+v %v", b, s, err)
		}
	}
}

func TestPanesInPlaceAllocateNothing(t *testing.T) {
	b := newTestBackend(t, NewPanes[int64]("x", "1m"))
	p := b.slots[0].table.(*PaneTable[int64])
	n, err := p.Put(nil, "key", 60, 1)
	if err != nil {
		t.Fatal(err)
	}
	mustEncode(t, b.Freeze(1), 0)
	b.Committed(1)
	if allocs := testing.AllocsPerRun(100, func() {
		n = p.Key("key")
		if n, err = p.Put(n, "key", 60, *n.At(60)+1); err != nil {
			t.Fatal(err)
		}
	}); allocs != 0 {
		t.Errorf("%v allocations per change of a pane", allocs)
	}
}
