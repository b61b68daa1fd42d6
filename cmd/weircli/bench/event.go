package bench

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/weirstream/weir/state/codec"
)

// Event is what the benchmarks read: about 128 bytes of JSON.
type Event struct {
	ID       uint64 `json:"id"`
	Key      string `json:"key"`
	Customer string `json:"customer"`
	Cents    int64  `json:"cents"`
	Currency string `json:"currency"`
	At       int64  `json:"at"`
	Note     string `json:"note"`
}

const eventBytes = 128

// mix is the finalizer of splitmix64: a number that looks random, made of a number.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// keyOf is the key of an event, out of so many.
func keyOf(id uint64, keys int) string { return keyName(mix(id) % uint64(keys)) }

func keyName(n uint64) string { return fmt.Sprintf("k%07d", n) }

// appendEvent appends the JSON of event id.
func appendEvent(b []byte, id uint64, keys int) []byte {
	start := len(b)
	b = append(b, `{"id":`...)
	b = strconv.AppendUint(b, id, 10)
	b = append(b, `,"key":"`...)
	b = append(b, keyOf(id, keys)...)
	b = append(b, `","customer":"c`...)
	b = strconv.AppendUint(b, mix(id+1)%1e6, 10)
	b = append(b, `","cents":`...)
	b = strconv.AppendUint(b, mix(id+2)%1e5, 10)
	b = append(b, `,"currency":"EUR","at":`...)
	b = strconv.AppendUint(b, 1767225600000+id, 10)
	b = append(b, `,"note":"`...)
	for len(b)-start < eventBytes-2 {
		b = append(b, 'x')
	}
	return append(b, `"}`...)
}

// Decoders by name: what --decoder chooses. Both sides of a pair use the same.
func decoder(name string) (codec.Codec[Event], error) {
	switch name {
	case "json":
		return codec.JSON[Event](), nil
	case "scan":
		return codec.New("scan", codec.JSON[Event]().Append, scanEvent), nil
	}
	return nil, fmt.Errorf("there is no decoder %q: use json or scan", name)
}

var errScan = errors.New("not an event")

// scanEvent reads an event as appendEvent writes it: a decoder written by hand, to show the engine without encoding/json.
func scanEvent(b []byte) (Event, error) {
	var e Event
	s := scanner{rest: b}
	s.skip(`{"id":`)
	e.ID = s.number()
	s.skip(`,"key":"`)
	e.Key = s.text()
	s.skip(`,"customer":"`)
	e.Customer = s.text()
	s.skip(`,"cents":`)
	e.Cents = int64(s.number())
	s.skip(`,"currency":"`)
	e.Currency = s.text()
	s.skip(`,"at":`)
	e.At = int64(s.number())
	s.skip(`,"note":"`)
	e.Note = s.text()
	s.skip(`}`)
	if s.bad || len(s.rest) > 0 {
		return Event{}, errScan
	}
	return e, nil
}

type scanner struct {
	rest []byte
	bad  bool
}

func (s *scanner) skip(text string) {
	if len(s.rest) < len(text) || string(s.rest[:len(text)]) != text {
		s.bad = true
		return
	}
	s.rest = s.rest[len(text):]
}

func (s *scanner) number() (n uint64) {
	i := 0
	for i < len(s.rest) && s.rest[i] >= '0' && s.rest[i] <= '9' && i < 19 {
		n = n*10 + uint64(s.rest[i]-'0')
		i++
	}
	s.bad = s.bad || i == 0
	s.rest = s.rest[i:]
	return n
}

// text reads to the closing quote and past it.
func (s *scanner) text() string {
	for i, c := range s.rest {
		if c == '"' {
			t := string(s.rest[:i])
			s.rest = s.rest[i+1:]
			return t
		}
	}
	s.bad = true
	return ""
}

// Counted is the result of counting an event.
type Counted struct {
	ID    uint64 `json:"id"`
	Key   string `json:"key"`
	Count uint64 `json:"count"`
}

// expectedCounts is what a count per key must be.
func expectedCounts(events, keys int) map[string]uint64 {
	counts := make(map[string]uint64, keys)
	for id := range uint64(events) {
		counts[keyOf(id, keys)]++
	}
	return counts
}
