package codec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// ErrMalformed is wrapped by the errors of Decode about bytes that no value encodes to.
var ErrMalformed = errors.New("malformed bytes")

// Codec encodes values of one type. Implementations are safe for concurrent use.
type Codec[T any] interface {
	// Name identifies the encoding in manifests: "json", "msgpack", "string".
	Name() string
	// Append appends v's bytes to dst and returns the longer slice.
	Append(dst []byte, v T) ([]byte, error)
	// Decode reads one value that fills b exactly. It does not keep b: the caller reuses it.
	Decode(b []byte) (T, error)
}

type funcs[T any] struct {
	name   string
	append func([]byte, T) ([]byte, error)
	decode func([]byte) (T, error)
}

func (c *funcs[T]) Name() string                           { return c.name }
func (c *funcs[T]) Append(dst []byte, v T) ([]byte, error) { return c.append(dst, v) }
func (c *funcs[T]) Decode(b []byte) (T, error)             { return c.decode(b) }

// New makes a codec of two functions that keep the contract of Codec, for example of a generated protobuf type.
func New[T any](name string, append func(dst []byte, v T) ([]byte, error), decode func(b []byte) (T, error)) Codec[T] {
	return &funcs[T]{name, append, decode}
}

// Bytes is the identity; Decode copies.
func Bytes() Codec[[]byte] {
	return New("bytes",
		func(dst, v []byte) ([]byte, error) { return append(dst, v...), nil },
		func(b []byte) ([]byte, error) { return append(make([]byte, 0, len(b)), b...), nil })
}

// String is the string's bytes, whatever they are.
func String() Codec[string] {
	return New("string",
		func(dst []byte, v string) ([]byte, error) { return append(dst, v...), nil },
		func(b []byte) (string, error) { return string(b), nil })
}

// Int64 is a zigzag varint.
func Int64() Codec[int64] {
	return New("int64",
		func(dst []byte, v int64) ([]byte, error) { return binary.AppendVarint(dst, v), nil }, decodeInt)
}

// Uint64 is a varint.
func Uint64() Codec[uint64] {
	return New("uint64",
		func(dst []byte, v uint64) ([]byte, error) { return binary.AppendUvarint(dst, v), nil }, decodeUint)
}

// Float64 is the IEEE 754 bits, little endian.
func Float64() Codec[float64] {
	return New("float64",
		func(dst []byte, v float64) ([]byte, error) {
			return binary.LittleEndian.AppendUint64(dst, math.Float64bits(v)), nil
		},
		func(b []byte) (float64, error) {
			if len(b) != 8 {
				return 0, fmt.Errorf("decoding a float64: %w: %d bytes instead of 8", ErrMalformed, len(b))
			}
			return math.Float64frombits(binary.LittleEndian.Uint64(b)), nil
		})
}

// Bool is one byte, 0 or 1.
func Bool() Codec[bool] {
	return New("bool",
		func(dst []byte, v bool) ([]byte, error) {
			if v {
				return append(dst, 1), nil
			}
			return append(dst, 0), nil
		},
		func(b []byte) (bool, error) {
			if len(b) != 1 || b[0] > 1 {
				return false, fmt.Errorf("decoding a bool: %w: want one byte, 0 or 1", ErrMalformed)
			}
			return b[0] == 1, nil
		})
}

func decodeUint(b []byte) (uint64, error) {
	v, n := binary.Uvarint(b)
	// Only the shortest form is taken, so that equal values have equal bytes.
	if n <= 0 || n != len(b) || n > 1 && b[n-1] == 0 {
		return 0, fmt.Errorf("decoding an integer: %w: not a varint of %d bytes", ErrMalformed, len(b))
	}
	return v, nil
}

func decodeInt(b []byte) (int64, error) {
	u, err := decodeUint(b)
	v := int64(u >> 1)
	if u&1 != 0 {
		v = ^v
	}
	return v, err
}
