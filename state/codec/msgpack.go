package codec

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/vmihailenco/msgpack/v5"
)

// Msgpack is msgpack with compact integers and sorted maps. Bytes are checked with CheckMsgpack before they are decoded.
func Msgpack[T any]() Codec[T] { return &msgpackCodec[T]{} }

type msgpackCodec[T any] struct{ encoders, decoders sync.Pool }

type msgpackEncoder[T any] struct {
	out appender
	enc *msgpack.Encoder
	v   T
}

type msgpackDecoder[T any] struct {
	in  bytes.Reader
	dec *msgpack.Decoder
	v   T
}

func (c *msgpackCodec[T]) Name() string { return "msgpack" }

func (c *msgpackCodec[T]) Append(dst []byte, v T) ([]byte, error) {
	e, ok := c.encoders.Get().(*msgpackEncoder[T])
	if !ok {
		e = &msgpackEncoder[T]{}
		e.enc = msgpack.NewEncoder(&e.out)
		e.enc.UseCompactInts(true)
		e.enc.SetSortMapKeys(true)
	}
	var zero T
	e.out.b, e.v = dst, v
	err := e.enc.Encode(&e.v)
	out := e.out.b
	e.out.b, e.v = nil, zero
	if err != nil {
		return dst, fmt.Errorf("encoding msgpack: %w", err)
	}
	c.encoders.Put(e)
	return out, nil
}

func (c *msgpackCodec[T]) Decode(b []byte) (T, error) {
	var zero T
	if err := CheckMsgpack(b); err != nil {
		return zero, err
	}
	d, ok := c.decoders.Get().(*msgpackDecoder[T])
	if !ok {
		d = &msgpackDecoder[T]{}
		d.dec = msgpack.NewDecoder(&d.in)
	}
	d.in.Reset(b)
	d.dec.ResetReader(&d.in)
	err := d.dec.Decode(&d.v)
	v := d.v
	d.v = zero
	d.in.Reset(nil)
	if err != nil {
		return zero, fmt.Errorf("decoding msgpack: %w: %w", ErrMalformed, err)
	}
	c.decoders.Put(d)
	return v, nil
}

func malformed(at int, what string) error {
	return fmt.Errorf("decoding msgpack: %w: %s at byte %d", ErrMalformed, what, at)
}

// CheckMsgpack reports whether b is exactly one msgpack value, nested at most MaxDepth deep, whose counts and lengths fit into
// the bytes that follow and whose map keys are neither containers nor byte strings (they panic as Go map keys). It does not
// recurse and allocates nothing for good bytes.
func CheckMsgpack(b []byte) error {
	var left [MaxDepth]uint64 // values still to come in each open container; a map of n counts 2n
	var isMap [MaxDepth]bool
	depth, i := 0, 0
	for {
		if i >= len(b) {
			return malformed(i, "the value ends early")
		}
		at := i
		key := depth > 0 && isMap[depth-1] && left[depth-1]%2 == 0
		h, err := msgpackHead(b, i)
		if err != nil {
			return err
		}
		if key && (h.container || h.binary) {
			return malformed(at, "a map key that is a container or bytes")
		}
		i = h.next
		if depth > 0 {
			left[depth-1]--
		}
		if h.container && h.count > 0 {
			per := uint64(1)
			if h.isMap {
				per = 2
			}
			if h.count > uint64(len(b)-i)/per {
				return malformed(at, "a count larger than the bytes that follow")
			}
			if depth == MaxDepth {
				return malformed(at, "nested too deep")
			}
			left[depth], isMap[depth] = h.count*per, h.isMap
			depth++
		} else if h.count > 0 {
			if h.count > uint64(len(b)-i) {
				return malformed(at, "a length larger than the bytes that follow")
			}
			i += int(h.count)
		}
		for depth > 0 && left[depth-1] == 0 {
			depth--
		}
		if depth == 0 {
			if i != len(b) {
				return malformed(i, "data after the value")
			}
			return nil
		}
	}
}

// head is a value's first bytes: count is its elements if it is a container, else the bytes of its body.
type head struct {
	next                     int
	count                    uint64
	container, isMap, binary bool
}

func msgpackHead(b []byte, i int) (head, error) {
	c := b[i]
	h := head{next: i + 1}
	size := func(n int) (uint64, bool) { // reads a big-endian length of n bytes
		if n > len(b)-h.next {
			return 0, false
		}
		p := b[h.next : h.next+n]
		h.next += n
		switch n {
		case 1:
			return uint64(p[0]), true
		case 2:
			return uint64(binary.BigEndian.Uint16(p)), true
		}
		return uint64(binary.BigEndian.Uint32(p)), true
	}
	ok := true
	switch {
	case c <= 0x7f || c >= 0xe0: // small integers
	case c <= 0x8f:
		h.container, h.isMap, h.count = true, true, uint64(c&0x0f)
	case c <= 0x9f:
		h.container, h.count = true, uint64(c&0x0f)
	case c <= 0xbf:
		h.count = uint64(c & 0x1f)
	case c == 0xc1:
		return h, malformed(i, "the unused type 0xc1")
	case c <= 0xc3: // nil, false, true
	case c <= 0xc6:
		h.binary = true
		h.count, ok = size(1 << (c - 0xc4))
	case c <= 0xc9: // ext: a type byte follows the length
		h.count, ok = size(1 << (c - 0xc7))
		h.count++
	case c == 0xca:
		h.count = 4
	case c == 0xcb:
		h.count = 8
	case c <= 0xcf:
		h.count = 1 << (c - 0xcc)
	case c <= 0xd3:
		h.count = 1 << (c - 0xd0)
	case c <= 0xd8:
		h.count = 1<<(c-0xd4) + 1
	case c <= 0xdb:
		h.count, ok = size(1 << (c - 0xd9))
	case c <= 0xdd:
		h.container = true
		h.count, ok = size(2 << (c - 0xdc))
	default:
		h.container, h.isMap = true, true
		h.count, ok = size(2 << (c - 0xde))
	}
	if !ok {
		return h, malformed(i, "the length ends early")
	}
	return h, nil
}
