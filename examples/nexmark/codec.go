package nexmark

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
)

// Codec reads and writes events as JSON: {"bid":{"auction":1000,…}}. What Append writes, Decode reads with a scanner of its own, at
// several times the speed of encoding/json, which reads every other form.
func Codec() codec.Codec[Event] {
	slow := codec.JSON[Event]()
	return codec.New("json", appendEvent, func(b []byte) (Event, error) {
		if e, ok := scanEvent(b); ok {
			return e, nil
		}
		e, err := slow.Decode(b)
		if err != nil {
			return Event{}, err
		}
		kinds := 0
		for _, there := range []bool{e.Person != nil, e.Auction != nil, e.Bid != nil} {
			if there {
				kinds++
			}
		}
		if kinds != 1 {
			return Event{}, fmt.Errorf("decoding an event: %w: it must be one of person, auction and bid", codec.ErrMalformed)
		}
		return e, nil
	})
}

var errEmpty = errors.New("encoding an event: it is neither person nor auction nor bid")

func appendEvent(dst []byte, e Event) ([]byte, error) {
	w := writer{b: dst}
	switch {
	case e.Person != nil:
		p := e.Person
		w.number(`{"person":{"id":`, p.ID)
		w.text(`,"name":"`, p.Name)
		w.text(`,"emailAddress":"`, p.Email)
		w.text(`,"creditCard":"`, p.CreditCard)
		w.text(`,"city":"`, p.City)
		w.text(`,"state":"`, p.State)
		w.number(`,"dateTime":`, int64(p.DateTime))
		w.text(`,"extra":"`, p.Extra)
	case e.Auction != nil:
		a := e.Auction
		w.number(`{"auction":{"id":`, a.ID)
		w.text(`,"itemName":"`, a.ItemName)
		w.text(`,"description":"`, a.Description)
		w.number(`,"initialBid":`, a.InitialBid)
		w.number(`,"reserve":`, a.Reserve)
		w.number(`,"dateTime":`, int64(a.DateTime))
		w.number(`,"expires":`, int64(a.Expires))
		w.number(`,"seller":`, a.Seller)
		w.number(`,"category":`, a.Category)
		w.text(`,"extra":"`, a.Extra)
	case e.Bid != nil:
		w.bid(`{"bid":`, e.Bid)
		w.b = w.b[:len(w.b)-1]
	default:
		return dst, errEmpty
	}
	w.b = append(w.b, `}}`...)
	return w.b, w.err
}

// keptBid, keptAuction and keptPerson are for events in state: the same bytes as in the stream.
var (
	keptBids    = kept(func(b *Bid) Event { return Event{Bid: b} }, func(e Event) *Bid { return e.Bid })
	keptBid     = state.Codec(keptBids)
	keptAuction = state.Codec(kept(func(a *Auction) Event { return Event{Auction: a} }, func(e Event) *Auction { return e.Auction }))
	keptPerson  = state.Codec(kept(func(p *Person) Event { return Event{Person: p} }, func(e Event) *Person { return e.Person }))
)

func kept[T any](event func(*T) Event, of func(Event) *T) codec.Codec[*T] {
	events := Codec()
	return codec.New("json",
		func(dst []byte, v *T) ([]byte, error) { return events.Append(dst, event(v)) },
		func(b []byte) (*T, error) {
			e, err := events.Decode(b)
			if err == nil && of(e) == nil {
				err = fmt.Errorf("decoding an event: %w: it is of another kind", codec.ErrMalformed)
			}
			return of(e), err
		})
}

// bidCodec is for results that are bids.
var bidCodec = codec.New("json",
	func(dst []byte, b Bid) ([]byte, error) {
		w := writer{b: dst}
		w.bid("", &b)
		return w.b, w.err
	}, codec.JSON[Bid]().Decode)

// bidsCodec is for the state of q19, which changes with most bids.
var bidsCodec = codec.New("json",
	func(dst []byte, bids []*Bid) ([]byte, error) {
		w := writer{b: append(dst, '[')}
		for i, b := range bids {
			w.bid([]string{"", ","}[min(i, 1)], b)
		}
		return append(w.b, ']'), w.err
	}, codec.JSON[[]*Bid]().Decode)

// rankedCodec is for ranked bids: q19 emits several with each bid.
var rankedCodec = codec.New("json",
	func(dst []byte, r Ranked) ([]byte, error) {
		w := writer{b: dst}
		w.bid("", &Bid{r.Auction, r.Bidder, r.Price, r.Channel, r.URL, r.DateTime, r.Extra})
		w.b = w.b[:len(w.b)-1]
		w.number(`,"rank_number":`, r.Rank)
		return append(w.b, '}'), w.err
	}, codec.JSON[Ranked]().Decode)

// writer appends JSON.
type writer struct {
	b   []byte
	err error
}

func (w *writer) number(before string, v int64) {
	w.b = strconv.AppendInt(append(w.b, before...), v, 10)
}

// text writes a string; before ends with its opening quote.
func (w *writer) text(before, v string) {
	w.b = append(w.b, before...)
	for i := range len(v) {
		if c := v[i]; !plain(c) {
			var err error
			if w.b, err = quoted.Append(w.b[:len(w.b)-1], v); err != nil {
				w.err = err
			}
			return
		}
	}
	w.b = append(append(w.b, v...), '"')
}

var quoted = codec.JSON[string]()

// plain reports whether a byte stands for itself in a JSON string.
func plain(c byte) bool { return c >= ' ' && c < 0x7f && c != '"' && c != '\\' }

func (w *writer) bid(before string, b *Bid) {
	w.b = append(w.b, before...)
	w.number(`{"auction":`, b.Auction)
	w.number(`,"bidder":`, b.Bidder)
	w.number(`,"price":`, b.Price)
	w.text(`,"channel":"`, b.Channel)
	w.text(`,"url":"`, b.URL)
	w.number(`,"dateTime":`, int64(b.DateTime))
	w.text(`,"extra":"`, b.Extra)
	w.b = append(w.b, '}')
}

// scanEvent reads the form that appendEvent writes for strings of plain bytes; for any other it returns false. An event's strings
// share one copy of the record.
func scanEvent(b []byte) (Event, bool) {
	s := scanner{rest: string(b)}
	var e Event
	switch {
	case s.has(`{"bid":{"auction":`):
		v := &Bid{}
		v.Auction = s.number()
		v.Bidder = s.numberAfter(`,"bidder":`)
		v.Price = s.numberAfter(`,"price":`)
		v.Channel = s.text(`,"channel":"`)
		v.URL = s.text(`,"url":"`)
		v.DateTime = Millis(s.numberAfter(`,"dateTime":`))
		v.Extra = s.text(`,"extra":"`)
		e.Bid = v
	case s.has(`{"auction":{"id":`):
		v := &Auction{}
		v.ID = s.number()
		v.ItemName = s.text(`,"itemName":"`)
		v.Description = s.text(`,"description":"`)
		v.InitialBid = s.numberAfter(`,"initialBid":`)
		v.Reserve = s.numberAfter(`,"reserve":`)
		v.DateTime = Millis(s.numberAfter(`,"dateTime":`))
		v.Expires = Millis(s.numberAfter(`,"expires":`))
		v.Seller = s.numberAfter(`,"seller":`)
		v.Category = s.numberAfter(`,"category":`)
		v.Extra = s.text(`,"extra":"`)
		e.Auction = v
	case s.has(`{"person":{"id":`):
		v := &Person{}
		v.ID = s.number()
		v.Name = s.text(`,"name":"`)
		v.Email = s.text(`,"emailAddress":"`)
		v.CreditCard = s.text(`,"creditCard":"`)
		v.City = s.text(`,"city":"`)
		v.State = s.text(`,"state":"`)
		v.DateTime = Millis(s.numberAfter(`,"dateTime":`))
		v.Extra = s.text(`,"extra":"`)
		e.Person = v
	default:
		return e, false
	}
	return e, s.has(`}}`) && s.rest == "" && !s.odd
}

// scanner reads what comes in a fixed order; odd says that something else came.
type scanner struct {
	rest string
	odd  bool
}

func (s *scanner) has(text string) bool {
	if len(s.rest) < len(text) || s.rest[:len(text)] != text {
		return false
	}
	s.rest = s.rest[len(text):]
	return true
}

func (s *scanner) numberAfter(before string) int64 {
	if !s.has(before) {
		s.odd = true
		return 0
	}
	return s.number()
}

// number reads an integer of at most 18 digits that is not negative.
func (s *scanner) number() int64 {
	i, n := 0, int64(0)
	for i < len(s.rest) && s.rest[i]-'0' <= 9 && i <= 18 {
		n = n*10 + int64(s.rest[i]-'0')
		i++
	}
	if i == 0 || i > 18 || i > 1 && s.rest[0] == '0' {
		s.odd = true
		return 0
	}
	s.rest = s.rest[i:]
	return n
}

// text reads a string of plain bytes to its closing quote and past it; before ends with the opening quote.
func (s *scanner) text(before string) string {
	if s.has(before) {
		for i := range len(s.rest) {
			if c := s.rest[i]; !plain(c) {
				if c != '"' {
					break
				}
				v := s.rest[:i]
				s.rest = s.rest[i+1:]
				return v
			}
		}
	}
	s.odd = true
	return ""
}
