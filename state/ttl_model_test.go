package state

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// lived is an entry of the naive model: it stays, dead or alive.
type lived struct {
	v       any
	expires int64
}

// ttlModel is the naive implementation: entries by state, key and own key.
type ttlModel map[string]lived

// ttlMachine drives backends and model with the same history.
type ttlMachine struct {
	clock     fakeClock
	keys      []string
	backends  []*Backend
	now       ttlModel
	frozen    ttlModel
	committed ttlModel
	chain     [][]byte
	parts     []*Frozen
	next      uint64
}

func newTTLBackend(t fataler, clock Clock, subtask, parallelism int) *Backend {
	b, err := NewBackend(testConfig(subtask, parallelism), ttlStates...)
	if err != nil {
		t.Fatal(err)
	}
	b.SetClock(clock)
	return b
}

func (m *ttlMachine) start(t fataler, parallelism int) {
	m.backends, m.parts, m.frozen = nil, nil, nil
	for i := range parallelism {
		b := newTTLBackend(t, &m.clock, i, parallelism)
		if err := b.Restore(m.chain); err != nil {
			t.Fatal(err)
		}
		m.backends = append(m.backends, b)
	}
	m.now = maps.Clone(m.committed)
}

func (m *ttlMachine) time(state string) int64 {
	if state == "seen" || state == "hot" || state == "tags" {
		return m.clock.processing
	}
	return max(m.clock.element, m.clock.watermark)
}

// get reads the model, refreshing where the state does.
func (m *ttlMachine) get(state, key, sub string) any {
	id := state + "/" + key + "/" + sub
	l, ok := m.now[id]
	if !ok || state != "forever" && l.expires <= m.time(state) {
		return nil
	}
	if state == "hot" || state == "lines" || state == "tags" {
		l.expires = max(l.expires, m.time(state)+after(state))
		m.now[id] = l
	}
	return l.v
}

func after(state string) int64 {
	if state == "lines" {
		return 50
	}
	return 100
}

func (m *ttlMachine) set(state, key, sub string, v any) {
	id := state + "/" + key + "/" + sub
	expires := m.time(state) + after(state)
	if l, ok := m.now[id]; ok && l.expires > m.time(state) {
		expires = max(expires, l.expires)
	}
	m.now[id] = lived{v, expires}
}

func (m *ttlMachine) access(t *rapid.T) {
	k := rapid.SampledFrom(m.keys).Draw(t, "key")
	v := rapid.Int64Range(1, 1000).Draw(t, "value")
	sub := rapid.Int64Range(0, 11).Draw(t, "sub")
	m.clock.element = m.clock.watermark + rapid.Int64Range(-30, 150).Draw(t, "element")
	b := owner(m.backends, k)
	b.SetKey(k)
	var err error
	switch rapid.IntRange(0, 8).Draw(t, "op") {
	case 0:
		err = seenTTL.Set(b, fmt.Sprint(v))
		m.set("seen", k, "", fmt.Sprint(v))
	case 1:
		old, _ := m.now["hot/"+k+"/"]
		sum := v
		if m.get("hot", k, "") != nil {
			sum += old.v.(int64)
		}
		err = hotTTL.Add(b, v)
		m.set("hot", k, "", sum)
	case 2:
		acc := meanAcc{}
		if old := m.get("event", k, ""); old != nil {
			acc = old.(meanAcc)
		}
		err = eventTTL.Add(b, v)
		m.set("event", k, "", mean{}.Add(acc, v))
	case 3:
		var list []string
		if old := m.get("lines", k, ""); old != nil {
			list = slices.Clone(old.([]string))
		}
		err = linesTTL.Add(b, fmt.Sprint(v))
		m.set("lines", k, "", append(list, fmt.Sprint(v)))
	case 4:
		err = tagsTTL.Put(b, fmt.Sprint(sub), v)
		m.set("tags", k, fmt.Sprint(sub), v)
	case 5:
		err = mapTTL.Put(b, sub, fmt.Sprint(v))
		m.set("map", k, fmt.Sprint(sub), fmt.Sprint(v))
	case 6:
		err = errors.Join(tagsTTL.Remove(b, fmt.Sprint(sub)), mapTTL.Remove(b, sub), seenTTL.Clear(b), linesTTL.Clear(b))
		for _, id := range []string{"tags/" + k + "/" + fmt.Sprint(sub), "map/" + k + "/" + fmt.Sprint(sub), "seen/" + k + "/", "lines/" + k + "/"} {
			delete(m.now, id)
		}
	case 7:
		err = forever.Set(b, v)
		m.now["forever/"+k+"/"] = lived{v, math.MaxInt64}
	case 8:
		if v%5 == 0 {
			err = errors.Join(tagsTTL.Clear(b), mapTTL.Clear(b), hotTTL.Clear(b), eventTTL.Clear(b))
			for id := range m.now {
				if parts := strings.Split(id, "/"); parts[1] == k && slices.Contains([]string{"tags", "map", "hot", "event"}, parts[0]) {
					delete(m.now, id)
				}
			}
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	m.compare(t, k)
}

// compare reads everything that one key has, at the current time.
func (m *ttlMachine) compare(t fataler, k string) {
	b := owner(m.backends, k)
	got, want := map[string]any{}, map[string]any{}
	put := func(id string, v any, ok bool, err error) {
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			got[id] = v
		}
	}
	for _, s := range []string{"seen", "hot", "event", "lines", "forever"} {
		if v := m.get(s, k, ""); v != nil {
			want[s] = v
		}
	}
	for _, s := range []string{"tags", "map"} {
		for i := range 12 {
			if v := m.get(s, k, fmt.Sprint(i)); v != nil {
				want[fmt.Sprint(s, i)] = v
			}
		}
	}
	seen, ok, err := seenTTL.Lookup(b)
	put("seen", seen, ok, err)
	hot, ok, err := hotTTL.Get(b)
	put("hot", hot, ok, err)
	_, ok, err = eventTTL.Get(b)
	if ok {
		v, _, _ := lookup[meanAcc](b, eventTTL.spec)
		put("event", v, true, err)
	}
	lines, err := linesTTL.All(b)
	put("lines", slices.Clone(lines), len(lines) > 0, err)
	n, err := forever.Get(b)
	put("forever", n, n != 0, err)
	tags, entries := 0, 0
	_ = tagsTTL.Each(b, func(k string, v int64) error { tags++; put("tags"+k, v, true, nil); return nil })
	_ = mapTTL.Each(b, func(k int64, v string) error { entries++; put(fmt.Sprint("map", k), v, true, nil); return nil })
	if n, err := tagsTTL.Len(b); n != tags || err != nil {
		t.Fatalf("%d tags, Len says %d", tags, n)
	}
	if n, err := mapTTL.Len(b); n != entries || err != nil {
		t.Fatalf("%d entries, Len says %d", entries, n)
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("key %s at %+v:\n%v\nmodel\n%v", k, m.clock, got, want)
	}
}

func (m *ttlMachine) freeze(t *rapid.T) {
	if m.parts != nil {
		return
	}
	m.next++
	all := rapid.IntRange(0, 3).Draw(t, "all") == 0
	for _, b := range m.backends {
		if all || b.full {
			m.parts = append(m.parts, b.FreezeAll(m.next))
		} else {
			m.parts = append(m.parts, b.Freeze(m.next))
		}
	}
	m.frozen = maps.Clone(m.now)
}

func (m *ttlMachine) commit(t fataler) {
	if m.parts == nil {
		return
	}
	var objects [][]byte
	base := false
	for _, p := range m.parts {
		objects = append(objects, mustEncode(t, p, 0)...)
		base = base || p.base && m.chain != nil
	}
	if base {
		m.chain = nil
	}
	m.chain = append(m.chain, objects...)
	for _, b := range m.backends {
		b.Committed(m.next)
	}
	m.committed, m.parts, m.frozen = m.frozen, nil, nil
}

func (m *ttlMachine) merge(t fataler) {
	var now int64
	if m.next%2 == 0 {
		now = m.clock.processing
	}
	objects, err := Rewrite(m.chain, MergeSpec{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	if len(m.chain) > 0 {
		m.chain = [][]byte{}
	}
	for _, o := range objects {
		m.chain = append(m.chain, o.Data)
	}
}

func checkHeap[K, T any](t fataler, d *due[K, T], present int) {
	if len(d.heap) != present {
		t.Fatalf("%d entries are in the heap, %d in the table", len(d.heap), present)
	}
	for i, x := range d.heap {
		if int(x.it.val.heap) != i || !x.it.present || x.it.life != itemLive || i > 0 && d.heap[(i-1)/2].at > x.at || x.at > x.it.val.expires {
			t.Fatalf("heap entry %d: %+v %+v", i, x, *x.it)
		}
	}
}

func checkHeaps(t fataler, b *Backend) {
	values := func(table table) {
		switch v := table.(type) {
		case *timedTable[string]:
			checkTimed(t, v)
		case *timedTable[int64]:
			checkTimed(t, v)
		case *timedTable[meanAcc]:
			checkTimed(t, v)
		case *timedTable[[]string]:
			checkTimed(t, v)
		case *timedMap[string, int64]:
			checkTimedMap(t, v)
		case *timedMap[int64, string]:
			checkTimedMap(t, v)
		}
	}
	for i := range b.slots {
		values(b.slots[i].table)
	}
}

func checkTimed[T any](t fataler, v *timedTable[T]) {
	n := 0
	for _, it := range v.m {
		if it.present {
			n++
		}
	}
	checkHeap(t, &v.due, n)
}

func checkTimedMap[K comparable, V any](t fataler, v *timedMap[K, V]) {
	n := 0
	for _, node := range v.m {
		n += node.live
	}
	checkHeap(t, &v.due, n)
}

// TestTTLModel: under any history, also of times out of order, what a state shows is the naive model's, where nothing ever leaves and
// each access compares times; and what is restored is that as of the committed checkpoint. In the end nothing is left of what expired.
func TestTTLModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &ttlMachine{committed: ttlModel{}, clock: fakeClock{1000, 0, noTime + 1e6}}
		if rapid.Bool().Draw(t, "watermark") {
			m.clock.watermark = -500
		}
		for i := range rapid.SampledFrom([]int{1, 3, 12}).Draw(t, "keys") {
			m.keys = append(m.keys, fmt.Sprint("k", i))
		}
		m.start(t, rapid.IntRange(1, 4).Draw(t, "parallelism"))
		access := func(t *rapid.T) { m.access(t); m.access(t); m.access(t) }
		t.Repeat(map[string]func(*rapid.T){
			"access": access, "access2": access, "access3": access,
			"processing": func(t *rapid.T) { m.clock.processing += rapid.Int64Range(0, 120).Draw(t, "passed") },
			"watermark":  func(t *rapid.T) { m.clock.watermark += rapid.Int64Range(0, 120).Draw(t, "passed") },
			"freeze":     m.freeze,
			"commit":     func(t *rapid.T) { m.commit(t) },
			"abort": func(*rapid.T) {
				if m.parts != nil {
					for _, b := range m.backends {
						b.Aborted(m.next)
					}
					m.parts, m.frozen = nil, nil
				}
			},
			"merge":      func(t *rapid.T) { m.merge(t) },
			"checkpoint": func(t *rapid.T) { m.freeze(t); m.commit(t) },
			"cycle": func(t *rapid.T) {
				m.freeze(t)
				m.commit(t)
				m.start(t, rapid.IntRange(1, 4).Draw(t, "parallelism"))
			},
			"restore": func(t *rapid.T) { m.start(t, rapid.IntRange(1, 4).Draw(t, "parallelism")) },
			"": func(t *rapid.T) {
				for _, b := range m.backends {
					checkHeaps(t, b)
				}
			},
		})
		m.empty(t)
	})
}

// empty lets everything expire, and checks that it leaves.
func (m *ttlMachine) empty(t fataler) {
	m.commit(t)
	m.clock.processing, m.clock.watermark = m.clock.processing+1000, 1<<40
	for _, b := range m.backends {
		for _, k := range m.keys {
			b.SetKey(k)
			if err := forever.Clear(b); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 { // evict, then forget the tombstones
			m.next++
			b.Freeze(m.next)
			b.Committed(m.next)
			m.next++
			b.Freeze(m.next)
			b.Committed(m.next)
		}
		if keys, err := b.Keys(""); len(keys) > 0 || b.Bytes() != 0 || err != nil {
			t.Fatalf("%q are left, %d bytes", keys, b.Bytes())
		}
	}
}
