package state

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"github.com/weirstream/weir/state/codec"
)

// List declares a state with a list of values per key.
type List[T any] struct{ *spec }

// NewList declares a list state; its codec is the elements'.
func NewList[T any](name string, opts ...Option) *List[T] {
	s, o := declare(name, KindList, opts)
	elem := choose[T](s, o.codec)
	s.info.Codec = elem.Name()
	migrate[T](s, o)
	s.newTable = func(b *Backend) table {
		if s.ttl.by != NoExpiry {
			return newTimedTable(b, name, s.ttl, &listCodec[T]{elem}, upcastList[T], listSizer[T]())
		}
		return newValueTable(b, name, &listCodec[T]{elem}, upcastList[T], listSizer[T]())
	}
	return &List[T]{s}
}

// Add appends v to the key's list.
func (d *List[T]) Add(c Context, v T) error {
	if d.ttl.by != NoExpiry {
		return change(c, d.spec, func(list []T, _ bool) []T { return append(list, v) })
	}
	t, err := tableOf[*valueTable[[]T]](c, d.spec)
	if err != nil {
		return err
	}
	list, _ := t.get()
	// A frozen list keeps its length: appending behind it, in the same array or another, does not change it.
	return t.set(append(list, v))
}

// All returns the key's list. The caller must not change it.
func (d *List[T]) All(c Context) ([]T, error) {
	list, _, err := lookup[[]T](c, d.spec)
	return list[:len(list):len(list)], err
}

// Len returns the length of the key's list.
func (d *List[T]) Len(c Context) (int, error) {
	list, err := d.All(c)
	return len(list), err
}

// Set replaces the key's list; an empty one clears it. The caller must not change the slice any more.
func (d *List[T]) Set(c Context, list []T) error {
	if len(list) == 0 {
		return d.Clear(c)
	}
	return (&Value[[]T]{d.spec}).Set(c, list[:len(list):len(list)])
}

// Clear removes the key's list.
func (d *List[T]) Clear(c Context) error { return (&Value[[]T]{d.spec}).Clear(c) }

// listCodec is a count and the elements, each with its length.
type listCodec[T any] struct{ elem codec.Codec[T] }

func (c *listCodec[T]) Name() string { return c.elem.Name() }

func (c *listCodec[T]) Append(dst []byte, list []T) ([]byte, error) {
	dst = binary.AppendUvarint(dst, uint64(len(list)))
	var err error
	for i := range list {
		if dst, err = appendSized(dst, c.elem, list[i]); err != nil {
			return nil, fmt.Errorf("element %d: %w", i, err)
		}
	}
	return dst, nil
}

func (c *listCodec[T]) Decode(b []byte) ([]T, error) { return decodeList(b, c.elem.Decode) }

// upcastList reads a list of an older version.
func upcastList[T any](b []byte, u *upcast) ([]T, error) {
	return decodeList(b, func(b []byte) (T, error) { return upcastValue[T](b, u) })
}

func decodeList[T any](b []byte, decode func([]byte) (T, error)) ([]T, error) {
	r := reader{b: b}
	n := r.count(1)
	if r.bad {
		return nil, fmt.Errorf("decoding a list: %w: the count", codec.ErrMalformed)
	}
	list := make([]T, 0, n)
	for i := range n {
		elem := r.bytes()
		if r.bad {
			return nil, fmt.Errorf("decoding a list: %w: it ends in element %d of %d", codec.ErrMalformed, i, n)
		}
		v, err := decode(elem)
		if err != nil {
			return nil, fmt.Errorf("element %d: %w", i, err)
		}
		list = append(list, v)
	}
	if len(r.b) != 0 {
		return nil, fmt.Errorf("decoding a list: %w: %d bytes behind the last element", codec.ErrMalformed, len(r.b))
	}
	return list, nil
}

func listSizer[T any]() func([]T) int {
	var zero T
	width := int(unsafe.Sizeof(zero))
	return func(list []T) int { return len(list) * width }
}
