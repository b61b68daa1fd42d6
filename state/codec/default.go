package codec

import "fmt"

// Default picks a codec by type: strings, byte slices, booleans, integers and floats have their own, everything else is
// msgpack. Named types (type Cents int64) are msgpack too.
func Default[T any]() Codec[T] {
	var zero T
	var c any
	switch any(zero).(type) {
	case string:
		c = String()
	case []byte:
		c = Bytes()
	case bool:
		c = Bool()
	case int64:
		c = Int64()
	case uint64:
		c = Uint64()
	case float64:
		c = Float64()
	case int:
		c = signed[int]()
	case int32:
		c = signed[int32]()
	case int16:
		c = signed[int16]()
	case int8:
		c = signed[int8]()
	case uint:
		c = unsigned[uint]()
	case uint32:
		c = unsigned[uint32]()
	case uint16:
		c = unsigned[uint16]()
	case uint8:
		c = unsigned[uint8]()
	case float32:
		c = float32Codec()
	default:
		return Msgpack[T]()
	}
	return c.(Codec[T])
}

// The smaller integers share the bytes and the name of the widest, so a state may be widened without a new version.
func signed[T int | int32 | int16 | int8]() Codec[T] {
	wide := Int64()
	return New(wide.Name(),
		func(dst []byte, v T) ([]byte, error) { return wide.Append(dst, int64(v)) },
		func(b []byte) (T, error) {
			w, err := wide.Decode(b)
			if err == nil && int64(T(w)) != w {
				return 0, fmt.Errorf("decoding an integer: %w: %d overflows %T", ErrMalformed, w, T(0))
			}
			return T(w), err
		})
}

func unsigned[T uint | uint32 | uint16 | uint8]() Codec[T] {
	wide := Uint64()
	return New(wide.Name(),
		func(dst []byte, v T) ([]byte, error) { return wide.Append(dst, uint64(v)) },
		func(b []byte) (T, error) {
			w, err := wide.Decode(b)
			if err == nil && uint64(T(w)) != w {
				return 0, fmt.Errorf("decoding an integer: %w: %d overflows %T", ErrMalformed, w, T(0))
			}
			return T(w), err
		})
}

func float32Codec() Codec[float32] {
	wide := Float64()
	return New("float64",
		func(dst []byte, v float32) ([]byte, error) { return wide.Append(dst, float64(v)) },
		func(b []byte) (float32, error) {
			w, err := wide.Decode(b)
			return float32(w), err
		})
}
