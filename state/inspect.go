package state

import (
	"bytes"
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// StateTimers is the name under which an operator's timers are listed and read.
const StateTimers = timersName

// TimerInfo is a timer of a key, as JSON shows it.
type TimerInfo struct {
	Domain string    `json:"domain"`
	At     time.Time `json:"at"`
}

// NoSuchStateError says that an operator has no state of a name.
type NoSuchStateError struct {
	Operator, State string
	Has             []string
}

func (e *NoSuchStateError) Error() string {
	return fmt.Sprintf("operator %s has no state %q; it has %s", e.Operator, e.State, strings.Join(e.Has, ", "))
}

// JSON returns what a key has in a state, decoded by the state's codec and written by encoding/json: the value, a list as an array, a
// map as an object (as an array of pairs where its keys cannot name an object's fields), an accumulator as it is kept, timers
// as a list of TimerInfo. ok is false where the key has nothing. The same state always gives the same bytes. It is for people and
// tools: it moves the current key, and an operator that is running must set its own again.
func (b *Backend) JSON(state, key string) (value json.RawMessage, ok bool, err error) {
	s, err := b.slot(state)
	if err != nil {
		return nil, false, err
	}
	b.SetKey(key)
	v, ok := s.table.read()
	if !ok {
		return nil, false, nil
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, false, fmt.Errorf("writing state %q of operator %s as JSON: %w", state, b.cfg.Operator, err)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), true, nil
}

// Keys returns the keys that have something in a state, or in any with an empty name, in byte order. Its time and memory grow
// with their number.
func (b *Backend) Keys(state string) ([]string, error) {
	var keys []string
	add := func(k string) { keys = append(keys, k) }
	if state == "" {
		for i := range b.slots {
			b.slots[i].table.eachKey(add)
		}
	} else {
		s, err := b.slot(state)
		if err != nil {
			return nil, err
		}
		s.table.eachKey(add)
	}
	slices.Sort(keys)
	return slices.Compact(keys), nil
}

// EachKey sets every key of a state, or of any with an empty name, as the current one, in byte order, and calls fn until it returns
// an error, which it returns. fn may change the state.
func (b *Backend) EachKey(state string, fn func(key string) error) error {
	keys, err := b.Keys(state)
	if err != nil {
		return err
	}
	for _, k := range keys {
		b.SetKey(k)
		if err := fn(k); err != nil {
			return err
		}
	}
	return nil
}

// ClearKey removes everything a key has: all states and timers. It is for tools: its time grows with the number of timers.
func (b *Backend) ClearKey(key string) {
	b.SetKey(key)
	for i := range b.slots {
		b.slots[i].table.clear()
	}
}

func (b *Backend) slot(state string) (*slot, error) {
	e := &NoSuchStateError{Operator: b.cfg.Operator, State: state}
	for i := range b.slots {
		if b.slots[i].info.Name == state {
			return &b.slots[i], nil
		}
		e.Has = append(e.Has, b.slots[i].info.Name)
	}
	return nil, e
}

// ReadKey returns a backend that holds one key's state, and that of the keys in its group, of a chain: what it takes to read a key
// without loading an operator's whole state. States that descs lack are passed over. With no objects there is no state, and
// it returns nil.
func ReadKey(objects [][]byte, key string, descs ...Descriptor) (*Backend, error) {
	if len(objects) == 0 {
		return nil, nil
	}
	h, err := ReadHeader(objects[0])
	if err != nil {
		return nil, fmt.Errorf("reading a key: object 1 of %d: %w", len(objects), err)
	}
	b, err := NewBackend(BackendConfig{Tenant: h.Tenant, Job: h.Job, Operator: h.Operator, KeyGroups: h.KeyGroups, AllowDropped: true,
		Subtask: KeyGroup(key, h.KeyGroups), Parallelism: h.KeyGroups}, descs...)
	if err != nil {
		return nil, err
	}
	if err := b.Restore(objects); err != nil {
		return nil, err
	}
	b.SetKey(key)
	return b, nil
}

// Contents says how much of a state there is.
type Contents struct {
	StateInfo
	Entries uint64
	Bytes   int64 // of keys and values, encoded and not compressed
}

// Describe says what a chain of objects of one operator, in the order in which they were committed, holds after all: states in the
// order of their names, then versions. It needs no descriptors. Its errors are Merge's.
func Describe(objects ...[]byte) ([]Contents, error) {
	m, err := openChain(objects, nil)
	if err != nil || m == nil {
		return nil, err
	}
	out := make([]Contents, len(m.head.States))
	for i, info := range m.head.States {
		out[i].StateInfo = info
	}
	err = m.each(func(_ int, entries []mergeEntry) {
		for _, e := range entries {
			out[e.state].Entries++
			out[e.state].Bytes += int64(e.to - e.from)
		}
	})
	slices.SortFunc(out, func(a, b Contents) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return a.Version - b.Version
	})
	return out, err
}

// jsonMap returns what encoding/json writes a map as.
func jsonMap[K comparable, V any](m map[K]V) any {
	if objectKey(reflect.TypeFor[K]()) {
		return m
	}
	var pairs jsonPairs
	for k, v := range m {
		pairs = append(pairs, [2]any{k, v})
	}
	return pairs
}

// objectKey reports whether encoding/json takes keys of the type for an object's.
func objectKey(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.String, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return true
	}
	return t.Implements(reflect.TypeFor[encoding.TextMarshaler]())
}

// jsonPairs are the entries of a map whose keys no JSON object can have.
type jsonPairs [][2]any

// MarshalJSON writes the pairs in the order of their keys' JSON.
func (p jsonPairs) MarshalJSON() ([]byte, error) {
	type pair struct{ key, value json.RawMessage }
	pairs := make([]pair, len(p))
	for i := range p {
		var err error
		if pairs[i].key, err = json.Marshal(p[i][0]); err != nil {
			return nil, err
		}
		if pairs[i].value, err = json.Marshal(p[i][1]); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(pairs, func(a, b pair) int { return bytes.Compare(a.key, b.key) })
	out := make([][2]json.RawMessage, len(pairs))
	for i := range pairs {
		out[i] = [2]json.RawMessage{pairs[i].key, pairs[i].value}
	}
	return json.Marshal(out)
}
