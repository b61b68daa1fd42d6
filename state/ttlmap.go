package state

import (
	"github.com/weirstream/weir/state/codec"
)

// timedMap is a mapTable whose entries expire one by one.
type timedMap[K comparable, V any] struct {
	*mapTable[K, timed[V]]
	due due[mapKey[K], V]
}

func newTimedMap[K comparable, V any](b *Backend, name string, l ttl, keys codec.Codec[K], values codec.Codec[V]) *timedMap[K, V] {
	t := &timedMap[K, V]{due: due[mapKey[K], V]{ttl: l, b: b, now: noTime, watermark: noTime}}
	t.mapTable = newMapTable[K, timed[V]](b, name, keys, timedCodec[V]{values}, timedOld(upcastValue[V]), timedSize(sizer[V]()))
	t.fixed += dueItemBytes
	return t
}

func (t *timedMap[K, V]) find() *mapNode[K, timed[V]] {
	if t.due.tick() {
		t.evict(evictPerKey)
	}
	return t.mapTable.find()
}

// lookup returns an entry that is alive, with its time begun anew if reads do that.
func (t *timedMap[K, V]) lookup(n *mapNode[K, timed[V]], it *item[mapKey[K], timed[V]]) (v V, ok bool) {
	if it == nil || !it.present || !t.due.alive(&it.val) {
		return v, false
	}
	if t.due.stale(&it.val) {
		it = t.touch(n, it)
		t.due.moved(it)
		it.val.expires = t.due.expires(t.due.now)
	}
	return it.val.v, true
}

func (t *timedMap[K, V]) get(k K) (v V, ok bool) {
	if n := t.find(); n != nil {
		return t.lookup(n, n.get(k))
	}
	return v, false
}

func (t *timedMap[K, V]) put(k K, v V) error {
	w := timed[V]{v: v}
	held := false
	n := t.find()
	w.expires = t.due.expires(t.due.now)
	if n != nil {
		if it := n.get(k); it != nil && it.present {
			held, w.heap = true, it.val.heap
			if t.due.alive(&it.val) {
				w.expires = max(w.expires, it.val.expires) // a late write takes no time away
			}
		}
	}
	if err := t.mapTable.put(k, w); err != nil {
		return err
	}
	it := t.mapTable.find().get(k)
	if held {
		t.due.moved(it)
	} else {
		t.due.push(it)
	}
	return nil
}

func (t *timedMap[K, V]) remove(k K) {
	if n := t.find(); n != nil {
		t.drop(n, n.get(k))
	}
}

// drop removes an item, dead or alive.
func (t *timedMap[K, V]) drop(n *mapNode[K, timed[V]], it *item[mapKey[K], timed[V]]) {
	if it != nil && it.present {
		t.due.pull(it)
		t.mapTable.remove(n, it)
	}
}

func (t *timedMap[K, V]) clear() {
	if n := t.find(); n != nil {
		for i := range n.items {
			t.drop(n, n.items[i])
		}
	}
}

func (t *timedMap[K, V]) each(fn func(k K, v V) error) error {
	n := t.find()
	for i := 0; n != nil && i < len(n.items); i++ {
		it := n.items[i]
		if v, ok := t.lookup(n, it); ok {
			if err := fn(it.key.sub, v); err != nil {
				return err
			}
		}
	}
	return nil
}

// count looks at every entry of the key: some may be over without anybody having looked.
func (t *timedMap[K, V]) count() int {
	live := 0
	if n := t.find(); n != nil {
		for _, it := range n.items {
			if it.present && t.due.alive(&it.val) {
				live++
			}
		}
	}
	return live
}

func (t *timedMap[K, V]) evict(n int) {
	for {
		it := t.due.next(&n)
		if it == nil {
			return
		}
		t.drop(t.m[it.key.key], it)
	}
}

func (t *timedMap[K, V]) freeze(all bool) part {
	p := t.mapTable.freeze(all).(*frozenTable[mapKey[K], timed[V]])
	c := t.values.(timedCodec[V]).of
	p.value = func(dst []byte, it *item[mapKey[K], timed[V]]) ([]byte, error) {
		return appendTimed(dst, c, it.val.v, it.val.expires)
	}
	if all {
		t.due.read()
		p.skip = skipOver[mapKey[K]](&t.due)
	}
	return p
}

func (t *timedMap[K, V]) committed(quiet bool) {
	t.mapTable.committed(quiet)
	t.due.read()
	t.evict(evictPerEnd)
}

func (t *timedMap[K, V]) restore(e *Entry, u *upcast) error {
	if n := t.m[string(e.Key)]; n != nil {
		if k, err := t.keys.Decode(e.MapKey); err == nil {
			if it := n.get(k); it != nil {
				t.due.pull(it)
			}
		}
	}
	if err := t.mapTable.restore(e, u); err != nil || e.Deleted {
		return err
	}
	k, err := t.keys.Decode(e.MapKey)
	if err != nil {
		return err
	}
	it := t.m[string(e.Key)].get(k)
	it.val.expires = t.due.recorded(e)
	t.due.push(it)
	return nil
}

func (t *timedMap[K, V]) eachKey(fn func(key string)) {
	t.due.read()
	for _, x := range t.due.heap {
		if t.due.alive(&x.it.val) {
			fn(x.it.key.key)
		}
	}
}

func (t *timedMap[K, V]) read() (any, bool) {
	m := make(map[K]V)
	if n := t.find(); n != nil {
		for _, it := range n.items {
			if it.present && t.due.alive(&it.val) {
				m[it.key.sub] = it.val.v
			}
		}
	}
	return jsonMap(m), len(m) > 0
}
