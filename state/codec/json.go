package codec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sync"
)

// MaxDepth is how deep arrays and objects may be nested in JSON and msgpack that comes from outside.
const MaxDepth = 64

// JSON is encoding/json without HTML escaping. Data after the value and nesting beyond MaxDepth are refused.
func JSON[T any]() Codec[T] { return &jsonCodec[T]{} }

type jsonCodec[T any] struct{ encoders, decoders sync.Pool }

// appender collects what an encoder writes.
type appender struct{ b []byte }

func (a *appender) Write(p []byte) (int, error) { a.b = append(a.b, p...); return len(p), nil }

type jsonEncoder[T any] struct {
	out appender
	enc *json.Encoder
	v   T // encoded by reference, so that it does not escape on each call
}

func (c *jsonCodec[T]) Name() string { return "json" }

func (c *jsonCodec[T]) Append(dst []byte, v T) ([]byte, error) {
	e, ok := c.encoders.Get().(*jsonEncoder[T])
	if !ok {
		e = &jsonEncoder[T]{}
		e.enc = json.NewEncoder(&e.out)
		e.enc.SetEscapeHTML(false)
	}
	var zero T
	e.out.b, e.v = dst, v
	err := e.enc.Encode(&e.v)
	out := e.out.b
	e.out.b, e.v = nil, zero
	if err != nil {
		return dst, fmt.Errorf("encoding JSON: %w", err) // the encoder remembers errors: not put back
	}
	c.encoders.Put(e)
	return out[:len(out)-1], nil // without Encode's newline
}

func (c *jsonCodec[T]) Decode(b []byte) (T, error) {
	var zero T
	if err := checkJSONDepth(b); err != nil {
		return zero, err
	}
	p, ok := c.decoders.Get().(*T)
	if !ok {
		p = new(T)
	}
	err := json.Unmarshal(b, p)
	v := *p
	*p = zero
	c.decoders.Put(p)
	if err != nil {
		return zero, fmt.Errorf("decoding JSON: %w: %w", ErrMalformed, err)
	}
	return v, nil
}

var openArray, openObject = []byte{'['}, []byte{'{'}

// checkJSONDepth limits nesting: encoding/json recurses up to 10000 levels.
func checkJSONDepth(b []byte) error {
	if bytes.Count(b, openArray)+bytes.Count(b, openObject) <= MaxDepth {
		return nil
	}
	depth, quoted := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[' || c == '{':
			if depth++; depth > MaxDepth {
				return fmt.Errorf("decoding JSON: %w: nested deeper than %d at byte %d", ErrMalformed, MaxDepth, i)
			}
		case c == ']' || c == '}':
			depth--
		}
	}
	return nil
}
