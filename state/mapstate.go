package state

import (
	"fmt"
	"strings"
	"unsafe"

	"github.com/weirstream/weir/state/codec"
)

// Map declares a state with a map per key. Its entries are frozen and encoded one by one: changing one entry of a large map is cheap.
type Map[K comparable, V any] struct{ *spec }

// NewMap declares a map state.
func NewMap[K comparable, V any](name string, opts ...Option) *Map[K, V] {
	s, o := declare(name, KindMap, opts)
	keys, values := choose[K](s, o.keyCodec), choose[V](s, o.codec)
	s.info.Codec = keys.Name() + "," + values.Name()
	migrate[V](s, o)
	s.newTable = func(b *Backend) table {
		if s.ttl.by != NoExpiry {
			return newTimedMap[K, V](b, name, s.ttl, keys, values)
		}
		return newMapTable(b, name, keys, values, upcastValue[V], sizer[V]())
	}
	return &Map[K, V]{s}
}

// Get returns the value of entry k of the key's map, and whether there is one.
func (d *Map[K, V]) Get(c Context, k K) (v V, ok bool, err error) {
	if d.ttl.by != NoExpiry {
		t, err := tableOf[*timedMap[K, V]](c, d.spec)
		if err != nil {
			return v, false, err
		}
		v, ok = t.get(k)
		return v, ok, nil
	}
	t, err := tableOf[*mapTable[K, V]](c, d.spec)
	if err != nil {
		return v, false, err
	}
	if n := t.find(); n != nil {
		if it := n.get(k); it != nil && it.present {
			return it.val, true, nil
		}
	}
	return v, false, nil
}

// Has reports whether the key's map has entry k.
func (d *Map[K, V]) Has(c Context, k K) (bool, error) {
	_, ok, err := d.Get(c, k)
	return ok, err
}

// Put sets entry k. What v refers to must not be changed any more. A *QuotaError says that there is no room.
func (d *Map[K, V]) Put(c Context, k K, v V) error {
	if d.ttl.by != NoExpiry {
		t, err := tableOf[*timedMap[K, V]](c, d.spec)
		if err != nil {
			return err
		}
		return t.put(k, v)
	}
	t, err := tableOf[*mapTable[K, V]](c, d.spec)
	if err != nil {
		return err
	}
	return t.put(k, v)
}

// Remove removes entry k.
func (d *Map[K, V]) Remove(c Context, k K) error {
	if d.ttl.by != NoExpiry {
		t, err := tableOf[*timedMap[K, V]](c, d.spec)
		if err != nil {
			return err
		}
		t.remove(k)
		return nil
	}
	t, err := tableOf[*mapTable[K, V]](c, d.spec)
	if err != nil {
		return err
	}
	if n := t.find(); n != nil {
		if it := n.get(k); it != nil {
			t.remove(n, it)
		}
	}
	return nil
}

// Each calls fn for every entry of the key's map, in no particular order, until fn returns an error, which it returns. fn may
// change the map: entries it adds may be visited or not.
func (d *Map[K, V]) Each(c Context, fn func(k K, v V) error) error {
	if d.ttl.by != NoExpiry {
		t, err := tableOf[*timedMap[K, V]](c, d.spec)
		if err != nil {
			return err
		}
		return t.each(fn)
	}
	t, err := tableOf[*mapTable[K, V]](c, d.spec)
	if err != nil {
		return err
	}
	n := t.find()
	for i := 0; n != nil && i < len(n.items); i++ {
		if it := n.items[i]; it.present {
			if err := fn(it.key.sub, it.val); err != nil {
				return err
			}
		}
	}
	return nil
}

// Len returns the number of entries of the key's map.
func (d *Map[K, V]) Len(c Context) (int, error) {
	if d.ttl.by != NoExpiry {
		t, err := tableOf[*timedMap[K, V]](c, d.spec)
		if err != nil {
			return 0, err
		}
		return t.count(), nil
	}
	t, err := tableOf[*mapTable[K, V]](c, d.spec)
	if err != nil {
		return 0, err
	}
	if n := t.find(); n != nil {
		return n.live, nil
	}
	return 0, nil
}

// Clear removes all entries of the key's map, in a time that grows with their number.
func (d *Map[K, V]) Clear(c Context) error {
	if d.ttl.by != NoExpiry {
		t, err := tableOf[*timedMap[K, V]](c, d.spec)
		if err != nil {
			return err
		}
		t.clear()
		return nil
	}
	t, err := tableOf[*mapTable[K, V]](c, d.spec)
	if err != nil {
		return err
	}
	t.clear()
	return nil
}

// mapKey identifies an entry of a map state.
type mapKey[K comparable] struct {
	key string
	sub K
}

// indexFrom is the number of entries from which a key's map has an index; fewer are searched one by one.
const indexFrom = 9

// mapNode is one key's map. Its items include tombstones that are not committed yet.
type mapNode[K comparable, V any] struct {
	key   string
	items []*item[mapKey[K], V]
	index map[K]*item[mapKey[K], V]
	live  int
}

func (n *mapNode[K, V]) get(k K) *item[mapKey[K], V] {
	if n.index != nil {
		return n.index[k]
	}
	for _, it := range n.items {
		if it.key.sub == k {
			return it
		}
	}
	return nil
}

func (n *mapNode[K, V]) link(it *item[mapKey[K], V]) {
	it.pos = int32(len(n.items))
	n.items = append(n.items, it)
	switch {
	case n.index != nil:
		n.index[it.key.sub] = it
	case len(n.items) >= indexFrom:
		n.index = make(map[K]*item[mapKey[K], V], 2*indexFrom)
		for _, it := range n.items {
			n.index[it.key.sub] = it
		}
	}
}

func (n *mapNode[K, V]) unlink(it *item[mapKey[K], V]) {
	last := len(n.items) - 1
	n.items[it.pos] = n.items[last]
	n.items[it.pos].pos = it.pos
	n.items[last] = nil
	n.items = n.items[:last]
	if n.index != nil {
		delete(n.index, it.key.sub)
	}
}

type mapTable[K comparable, V any] struct {
	b      *Backend
	name   string
	keys   codec.Codec[K]
	values codec.Codec[V]
	old    func([]byte, *upcast) (V, error)
	size   func(V) int
	fixed  int
	m      map[string]*mapNode[K, V]
	log    changelog[mapKey[K], V]
	inFly  segments[mapKey[K], V]
	seq    uint64
	cur    *mapNode[K, V]
}

func newMapTable[K comparable, V any](b *Backend, name string, keys codec.Codec[K], values codec.Codec[V],
	old func([]byte, *upcast) (V, error), size func(V) int) *mapTable[K, V] {
	var it item[mapKey[K], V]
	t := &mapTable[K, V]{b: b, name: name, keys: keys, values: values, old: old, size: size,
		fixed: int(unsafe.Sizeof(it)) + entryOverhead, m: make(map[string]*mapNode[K, V])}
	t.log = newChangelog(t.unlink)
	return t
}

func (t *mapTable[K, V]) unlink(it *item[mapKey[K], V]) {
	n := t.m[it.key.key]
	n.unlink(it)
	t.b.bytes -= int64(t.fixed)
	if len(n.items) == 0 {
		delete(t.m, n.key)
		t.b.bytes -= int64(len(n.key) + entryOverhead)
	}
}

func (t *mapTable[K, V]) find() *mapNode[K, V] {
	if t.seq != t.b.seq {
		if t.log.reaped < len(t.log.tombs) {
			t.log.reap(reapPerKey)
		}
		t.cur = t.m[t.b.key]
		t.seq = t.b.seq
	}
	return t.cur
}

// touch returns the item to write to instead of it, linked in its place.
func (t *mapTable[K, V]) touch(n *mapNode[K, V], it *item[mapKey[K], V]) *item[mapKey[K], V] {
	w := t.log.touch(it)
	if w != it {
		n.items[w.pos] = w
		if n.index != nil {
			n.index[w.key.sub] = w
		}
	}
	return w
}

func (t *mapTable[K, V]) put(k K, v V) error {
	n := t.find()
	var it *item[mapKey[K], V]
	if n != nil {
		it = n.get(k)
	}
	grow := 0
	if t.size != nil {
		grow = t.size(v)
	}
	if it == nil {
		return t.add(n, k, v, grow)
	}
	if t.size != nil && it.present {
		grow -= t.size(it.val)
	}
	if err := t.b.grow(t.name, grow); err != nil {
		return err
	}
	it = t.touch(n, it)
	if !it.present {
		n.live++
	}
	it.val, it.present = v, true
	return nil
}

func (t *mapTable[K, V]) add(n *mapNode[K, V], k K, v V, size int) error {
	size += t.fixed
	if n == nil {
		size += len(t.b.key) + entryOverhead
	}
	if err := t.b.admit(t.name, size); err != nil {
		return err
	}
	if n == nil {
		n = &mapNode[K, V]{key: strings.Clone(t.b.key)}
		t.m[n.key] = n
		t.cur = n
	}
	it := t.log.insert(mapKey[K]{n.key, k})
	it.val, it.present = v, true
	n.link(it)
	n.live++
	return nil
}

func (t *mapTable[K, V]) remove(n *mapNode[K, V], it *item[mapKey[K], V]) {
	if !it.present {
		return
	}
	if t.size != nil {
		t.b.bytes -= int64(t.size(it.val))
	}
	it = t.touch(n, it)
	t.log.removed(it)
	n.live--
}

func (t *mapTable[K, V]) clear() {
	if n := t.find(); n != nil {
		for i := range n.items {
			t.remove(n, n.items[i])
		}
	}
}

func (t *mapTable[K, V]) freeze(all bool) part {
	t.inFly = t.log.freeze(all)
	return &frozenTable[mapKey[K], V]{segments: t.inFly, key: func(k *mapKey[K]) string { return k.key },
		sub:   func(dst []byte, k *mapKey[K]) ([]byte, error) { return appendSized(dst, t.keys, k.sub) },
		value: func(dst []byte, it *item[mapKey[K], V]) ([]byte, error) { return appendSized(dst, t.values, it.val) }}
}

func (t *mapTable[K, V]) committed(quiet bool) {
	t.log.committed(t.inFly, quiet)
	t.inFly = segments[mapKey[K], V]{}
}

func (t *mapTable[K, V]) aborted() {
	t.log.aborted(t.inFly)
	t.inFly = segments[mapKey[K], V]{}
}

func (t *mapTable[K, V]) reserve(n int) {
	if len(t.m) == 0 {
		t.log.reserve(n)
	}
}

func (t *mapTable[K, V]) eachKey(fn func(key string)) {
	for k, n := range t.m {
		if n.live > 0 {
			fn(k)
		}
	}
}

// read returns a map where JSON objects can have its keys, else pairs of key and value in the order of the keys' JSON.
func (t *mapTable[K, V]) read() (any, bool) {
	n := t.find()
	if n == nil || n.live == 0 {
		return nil, false
	}
	m := make(map[K]V, n.live)
	for _, it := range n.items {
		if it.present {
			m[it.key.sub] = it.val
		}
	}
	return jsonMap(m), true
}

func (t *mapTable[K, V]) restore(e *Entry, u *upcast) error {
	k, err := t.keys.Decode(e.MapKey)
	if err != nil {
		return fmt.Errorf("map key: %w", err)
	}
	n := t.m[string(e.Key)]
	var it *item[mapKey[K], V]
	if n != nil {
		it = n.get(k)
	}
	if it != nil && t.size != nil {
		t.b.bytes -= int64(t.size(it.val))
	}
	if e.Deleted {
		if it != nil {
			n.live--
			t.unlink(it)
			t.log.release(it)
		}
		return nil
	}
	v, err := decodeValue(t.values, t.old, e, u)
	if err != nil {
		return err
	}
	if n == nil {
		n = &mapNode[K, V]{key: t.b.arena.string(e.Key)}
		t.m[n.key] = n
		t.b.bytes += int64(len(n.key) + entryOverhead)
	}
	if it == nil {
		it = t.log.insertRestored(mapKey[K]{n.key, k})
		n.link(it)
		n.live++
		t.b.bytes += int64(t.fixed)
	}
	if t.size != nil {
		t.b.bytes += int64(t.size(v))
	}
	it.val = v
	return nil
}
