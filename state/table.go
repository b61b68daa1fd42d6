package state

import (
	"encoding/binary"
	"reflect"
	"strings"
	"unsafe"

	"github.com/weirstream/weir/state/codec"
)

// table is one state of a backend.
type table interface {
	freeze(all bool) part
	committed(quiet bool)
	aborted()
	// restore applies one entry of a snapshot; u reads the values of older versions, nil: the entry is of the declared one.
	restore(e *Entry, u *upcast) error
	// reserve prepares for n entries to be restored.
	reserve(n int)
	// eachKey calls fn for every key that has something, in no particular order; it may be called for a key more than once.
	eachKey(fn func(key string))
	// clear removes what the current key has.
	clear()
	// read returns what the current key has, as something that encoding/json writes in one way only.
	read() (v any, ok bool)
}

// entryOverhead is what an item costs beside its key and value: a map slot with its share of empty ones, and bookkeeping.
const entryOverhead = 48

// valueTable holds one value per key: of value, list, reducing and aggregating states.
type valueTable[T any] struct {
	b     *Backend
	name  string
	codec codec.Codec[T]
	old   func([]byte, *upcast) (T, error)
	size  func(T) int // bytes behind a value; nil: none
	fixed int         // bytes of an item without its key
	m     map[string]*item[string, T]
	log   changelog[string, T]
	inFly segments[string, T]
	seq   uint64           // of the backend's key that cur belongs to
	cur   *item[string, T] // nil: the key has no item
}

func newValueTable[T any](b *Backend, name string, c codec.Codec[T], old func([]byte, *upcast) (T, error), size func(T) int) *valueTable[T] {
	var it item[string, T]
	t := &valueTable[T]{b: b, name: name, codec: c, old: old, size: size, fixed: int(unsafe.Sizeof(it)) + entryOverhead,
		m: make(map[string]*item[string, T])}
	t.log = newChangelog(func(it *item[string, T]) {
		delete(t.m, it.key)
		t.b.bytes -= int64(t.fixed + len(it.key))
	})
	return t
}

func (t *valueTable[T]) find() *item[string, T] {
	if t.seq != t.b.seq {
		if t.log.reaped < len(t.log.tombs) {
			t.log.reap(reapPerKey)
		}
		t.cur = t.m[t.b.key]
		t.seq = t.b.seq
	}
	return t.cur
}

func (t *valueTable[T]) get() (v T, ok bool) {
	if it := t.find(); it != nil && it.present {
		return it.val, true
	}
	return v, false
}

func (t *valueTable[T]) set(v T) error {
	it := t.find()
	if it == nil {
		return t.add(v)
	}
	if t.size != nil {
		grow := t.size(v) - t.size(it.val)
		if err := t.b.grow(t.name, grow); err != nil {
			return err
		}
	}
	if it.gen != t.log.gen {
		it = t.touch(it)
	}
	it.val, it.present = v, true
	return nil
}

func (t *valueTable[T]) touch(it *item[string, T]) *item[string, T] {
	w := t.log.touch(it)
	if w != it {
		t.m[w.key] = w
		t.cur = w
	}
	return w
}

func (t *valueTable[T]) add(v T) error {
	n := t.fixed + len(t.b.key)
	if t.size != nil {
		n += t.size(v)
	}
	if err := t.b.admit(t.name, n); err != nil {
		return err
	}
	it := t.log.insert(strings.Clone(t.b.key)) // the caller may use the key's bytes again
	it.val, it.present = v, true
	t.m[it.key] = it
	t.cur = it
	return nil
}

func (t *valueTable[T]) clear() {
	if it := t.find(); it != nil && it.present {
		t.drop(it)
	}
}

// drop removes an item that is present.
func (t *valueTable[T]) drop(it *item[string, T]) {
	if t.size != nil {
		t.b.bytes -= int64(t.size(it.val))
	}
	if it.gen != t.log.gen {
		it = t.touch(it)
	}
	t.log.removed(it)
}

func (t *valueTable[T]) freeze(all bool) part {
	t.inFly = t.log.freeze(all)
	return &frozenTable[string, T]{segments: t.inFly, key: func(k *string) string { return *k }, value: t.encode}
}

func (t *valueTable[T]) encode(dst []byte, it *item[string, T]) ([]byte, error) {
	return appendSized(dst, t.codec, it.val)
}

func (t *valueTable[T]) committed(quiet bool) {
	t.log.committed(t.inFly, quiet)
	t.inFly = segments[string, T]{}
}

func (t *valueTable[T]) aborted() {
	t.log.aborted(t.inFly)
	t.inFly = segments[string, T]{}
}

func (t *valueTable[T]) reserve(n int) {
	if len(t.m) == 0 {
		t.m = make(map[string]*item[string, T], n)
		t.log.reserve(n)
	}
}

func (t *valueTable[T]) eachKey(fn func(key string)) {
	for k, it := range t.m {
		if it.present {
			fn(k)
		}
	}
}

func (t *valueTable[T]) read() (any, bool) { return t.get() }

func (t *valueTable[T]) restore(e *Entry, u *upcast) error {
	it := t.m[string(e.Key)]
	if e.Deleted {
		if it != nil {
			t.account(it.val, -1)
			t.log.unlink(it)
			t.log.release(it)
		}
		return nil
	}
	v, err := decodeValue(t.codec, t.old, e, u)
	if err != nil {
		return err
	}
	if it == nil {
		it = t.log.insertRestored(t.b.arena.string(e.Key))
		t.m[it.key] = it
		t.b.bytes += int64(t.fixed + len(it.key))
	} else {
		t.account(it.val, -1)
	}
	t.account(v, 1)
	it.val = v
	return nil
}

// decodeValue reads an entry's value, whatever version it is of.
func decodeValue[T any](c codec.Codec[T], old func([]byte, *upcast) (T, error), e *Entry, u *upcast) (T, error) {
	if u == nil {
		return c.Decode(e.Value)
	}
	u.group = e.Group
	return old(e.Value, u)
}

func (t *valueTable[T]) account(v T, sign int) {
	if t.size != nil {
		t.b.bytes += int64(sign * t.size(v))
	}
}

// sizer returns a function that counts the bytes behind a value of type T, or nil if T has none that can be seen cheaply.
func sizer[T any]() func(T) int {
	var f any
	var zero T
	switch any(zero).(type) {
	case string:
		f = func(v string) int { return len(v) }
	case []byte:
		f = func(v []byte) int { return len(v) }
	default:
		typ := reflect.TypeFor[T]()
		if typ.Kind() != reflect.Slice {
			return nil
		}
		width := int(typ.Elem().Size())
		return func(v T) int { return reflect.ValueOf(&v).Elem().Len() * width }
	}
	return f.(func(T) int)
}

// appendSized appends a value's length and the value.
func appendSized[T any](dst []byte, c codec.Codec[T], v T) ([]byte, error) {
	at := len(dst)
	dst = append(dst, 0)
	dst, err := c.Append(dst, v)
	if err != nil {
		return nil, err
	}
	n := len(dst) - at - 1
	if n < 0x80 {
		dst[at] = byte(n)
		return dst, nil
	}
	// Most values are short; a longer one moves up to make room for its length.
	var size [binary.MaxVarintLen64]byte
	w := binary.PutUvarint(size[:], uint64(n))
	dst = append(dst, size[1:w]...)
	copy(dst[at+w:], dst[at+1:at+1+n])
	copy(dst[at:], size[:w])
	return dst, nil
}
