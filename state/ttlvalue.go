package state

import (
	"encoding/binary"

	"github.com/weirstream/weir/state/codec"
)

// timedTable is a valueTable whose entries expire.
type timedTable[T any] struct {
	*valueTable[timed[T]]
	due due[string, T]
}

func newTimedTable[T any](b *Backend, name string, l ttl, c codec.Codec[T], old func([]byte, *upcast) (T, error), size func(T) int) *timedTable[T] {
	t := &timedTable[T]{due: due[string, T]{ttl: l, b: b, now: noTime, watermark: noTime}}
	t.valueTable = newValueTable[timed[T]](b, name, timedCodec[T]{c}, timedOld(old), timedSize(size))
	t.fixed += dueItemBytes
	return t
}

// find returns the key's entry, dead or alive.
func (t *timedTable[T]) find() *item[string, timed[T]] {
	if t.due.tick() {
		t.evict(evictPerKey)
	}
	return t.valueTable.find()
}

func (t *timedTable[T]) get() (v T, ok bool) {
	it := t.find()
	if it == nil || !it.present || !t.due.alive(&it.val) {
		return v, false
	}
	if t.due.stale(&it.val) {
		if it.gen != t.log.gen {
			it = t.touch(it)
			t.due.moved(it)
		}
		it.val.expires = t.due.expires(t.due.now)
	}
	return it.val.v, true
}

func (t *timedTable[T]) set(v T) error {
	it := t.find()
	held := it != nil && it.present
	w := timed[T]{v: v, expires: t.due.expires(t.due.now)}
	if held {
		w.heap = it.val.heap
		if t.due.alive(&it.val) {
			w.expires = max(w.expires, it.val.expires) // a late write takes no time away
		}
	}
	if err := t.valueTable.set(w); err != nil {
		return err
	}
	if held {
		t.due.moved(t.cur)
	} else {
		t.due.push(t.cur)
	}
	return nil
}

func (t *timedTable[T]) clear() {
	if it := t.find(); it != nil && it.present {
		t.due.pull(it)
		t.valueTable.clear()
	}
}

// evict removes entries that are over, in the order of their time. It must not run while the caller holds an item.
func (t *timedTable[T]) evict(n int) {
	for {
		it := t.due.next(&n)
		if it == nil {
			return
		}
		t.due.pull(it)
		t.drop(it)
	}
}

func (t *timedTable[T]) freeze(all bool) part {
	p := t.valueTable.freeze(all).(*frozenTable[string, timed[T]])
	c := t.codec.(timedCodec[T]).of
	p.value = func(dst []byte, it *item[string, timed[T]]) ([]byte, error) {
		return appendTimed(dst, c, it.val.v, it.val.expires)
	}
	if all {
		t.due.read()
		p.skip = skipOver[string](&t.due)
	}
	return p
}

func (t *timedTable[T]) committed(quiet bool) {
	t.valueTable.committed(quiet)
	t.due.read()
	t.evict(evictPerEnd)
}

func (t *timedTable[T]) restore(e *Entry, u *upcast) error {
	if it := t.m[string(e.Key)]; it != nil {
		t.due.pull(it)
	}
	if err := t.valueTable.restore(e, u); err != nil || e.Deleted {
		return err
	}
	it := t.m[string(e.Key)]
	it.val.expires = t.due.recorded(e)
	t.due.push(it)
	return nil
}

func (t *timedTable[T]) eachKey(fn func(key string)) {
	t.due.read()
	for k, it := range t.m {
		if it.present && t.due.alive(&it.val) {
			fn(k)
		}
	}
}

// read leaves the entry's time as it is: who looks on does not keep it alive.
func (t *timedTable[T]) read() (any, bool) {
	it := t.find()
	if it == nil || !it.present || !t.due.alive(&it.val) {
		return nil, false
	}
	return it.val.v, true
}

// skipOver returns what tells the entries that a base need not have. It is called beside the task: it holds the time of the freeze.
func skipOver[K, T any](d *due[K, T]) func(*item[K, timed[T]]) bool {
	watermark := d.watermark
	return func(it *item[K, timed[T]]) bool { return it.val.expires <= watermark && it.val.expires != noTime }
}

// appendTimed appends what an entry of an expiring state has: when it expires, and the value with its length.
func appendTimed[T any](dst []byte, c codec.Codec[T], v T, expires int64) ([]byte, error) {
	return appendSized(binary.AppendVarint(dst, expires), c, v)
}

// timedCodec reads values without their expiry: that is a field of the entry.
type timedCodec[T any] struct{ of codec.Codec[T] }

func (c timedCodec[T]) Name() string { return c.of.Name() }

func (c timedCodec[T]) Append(dst []byte, v timed[T]) ([]byte, error) { return c.of.Append(dst, v.v) }

func (c timedCodec[T]) Decode(b []byte) (timed[T], error) {
	v, err := c.of.Decode(b)
	return timed[T]{v: v, expires: noTime}, err
}

func timedOld[T any](old func([]byte, *upcast) (T, error)) func([]byte, *upcast) (timed[T], error) {
	return func(b []byte, u *upcast) (timed[T], error) {
		v, err := old(b, u)
		return timed[T]{v: v, expires: noTime}, err
	}
}

func timedSize[T any](size func(T) int) func(timed[T]) int {
	if size == nil {
		return nil
	}
	return func(v timed[T]) int { return size(v.v) }
}
