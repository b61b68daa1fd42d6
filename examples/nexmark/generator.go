package nexmark

import (
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"time"
)

// The proportions of the three kinds, and where their IDs begin.
const (
	persons  = 1
	auctions = 3
	bids     = 46
	every    = persons + auctions + bids

	firstPerson   = 1000
	firstAuction  = 1000
	firstCategory = 10
	categories    = 5

	// hotEvery: of so many auctions or persons in a row, one is the hot one while the others are being made.
	hotEvery = 100
	// lead: so many auctions and persons that are yet to come are referred to as well.
	lead = 10
	// shuffleStep is a prime; stepping by it through a group visits all of the group.
	shuffleStep = 953
)

// Generator makes events. It holds nothing but its configuration and is safe for concurrent use.
type Generator struct {
	cfg    Config
	start  int64 // microseconds since 1970
	micros int64 // between events
}

// NewGenerator returns a generator, or every problem of the configuration.
func NewGenerator(cfg Config) (*Generator, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("making a Nexmark generator: %w", err)
	}
	cfg = cfg.withDefaults()
	return &Generator{cfg: cfg, start: cfg.Start.UnixMicro(), micros: cfg.Interval.Microseconds()}, nil
}

// ID returns the event that is published at a position; both count from 0.
func (g *Generator) ID(position uint64) uint64 {
	n := uint64(g.cfg.Shuffle)
	return position/n*n + position%n*shuffleStep%n
}

// OutOfOrder is how far an event's time can be behind that of an event published before it.
func (g *Generator) OutOfOrder() time.Duration {
	if g.cfg.Shuffle == 1 {
		return 0
	}
	// Times are cut to milliseconds, which can add one.
	return (time.Duration(g.cfg.Shuffle-1)*g.cfg.Interval + time.Millisecond).Truncate(time.Millisecond)
}

func (g *Generator) at(id uint64) Millis { return Millis((g.start + int64(id)*g.micros) / 1000) }

// At returns the event at a position.
func (g *Generator) At(position uint64) Event { return g.Event(g.ID(position)) }

// Event returns the event with an ID.
func (g *Generator) Event(id uint64) Event {
	r := rng(mix(g.cfg.Seed ^ mix(id)))
	switch offset := id % every; {
	case offset < persons:
		return Event{Person: g.person(id, &r)}
	case offset < persons+auctions:
		return Event{Auction: g.auction(id, &r)}
	}
	return Event{Bid: g.bid(id, &r)}
}

// lastPerson is the newest person at an event, counted from 0.
func lastPerson(id uint64) int64 {
	return int64(id/every)*persons + min(int64(id%every), persons-1)
}

// lastAuction is the newest auction at an event, counted from 0, and -1 before the first.
func lastAuction(id uint64) int64 {
	group, offset := int64(id/every), int64(id%every)
	if offset < persons {
		return group*auctions - 1
	}
	return group*auctions + min(offset-persons, auctions-1)
}

// anyPerson draws one of the active persons or of the next few to come.
func (g *Generator) anyPerson(id uint64, r *rng) int64 {
	n := lastPerson(id) + 1
	active := min(n, int64(g.cfg.ActivePeople))
	return n - active + r.below(active+lead)
}

// anyAuction draws one of the open auctions or of the next few to come.
func (g *Generator) anyAuction(id uint64, r *rng) int64 {
	last := lastAuction(id)
	first := max(last-int64(g.cfg.InFlight), 0)
	return first + r.below(last-first+1+lead)
}

func (g *Generator) person(id uint64, r *rng) *Person {
	p := &Person{
		ID:   firstPerson + lastPerson(id),
		Name: firstNames[r.below(int64(len(firstNames)))] + " " + lastNames[r.below(int64(len(lastNames)))],
	}
	p.Email = r.text(7) + "@" + r.text(5) + ".com"
	card := make([]byte, 0, 19)
	for i := range 4 {
		if i > 0 {
			card = append(card, ' ')
		}
		card = strconv.AppendInt(card, 1000+r.below(9000), 10)
	}
	p.CreditCard = string(card)
	p.State = states[r.below(int64(len(states)))]
	p.City = cities[r.below(int64(len(cities)))]
	p.DateTime = g.at(id)
	p.Extra = r.extra(8+len(p.Name)+len(p.Email)+len(p.CreditCard)+len(p.City)+len(p.State)+8, 200)
	return p
}

func (g *Generator) auction(id uint64, r *rng) *Auction {
	a := &Auction{ID: firstAuction + lastAuction(id), DateTime: g.at(id)}
	if r.below(int64(g.cfg.HotSellers)) > 0 {
		a.Seller = lastPerson(id) / hotEvery * hotEvery
	} else {
		a.Seller = g.anyPerson(id, r)
	}
	a.Seller += firstPerson
	a.Category = firstCategory + r.below(categories)
	a.InitialBid = r.price()
	a.Reserve = a.InitialBid + r.price()
	// As long as it takes to make InFlight auctions, on average.
	horizon := int64(g.at(id+uint64(g.cfg.InFlight*every/auctions)) - a.DateTime)
	a.Expires = a.DateTime + 1 + Millis(r.below(max(2*horizon, 1)))
	a.ItemName, a.Description = r.text(20), r.text(100)
	a.Extra = r.extra(8+len(a.ItemName)+len(a.Description)+8*6, 500)
	return a
}

func (g *Generator) bid(id uint64, r *rng) *Bid {
	b := &Bid{DateTime: g.at(id)}
	if r.below(int64(g.cfg.HotAuctions)) > 0 {
		b.Auction = lastAuction(id) / hotEvery * hotEvery
	} else {
		b.Auction = g.anyAuction(id, r)
	}
	b.Auction += firstAuction
	if r.below(int64(g.cfg.HotBidders)) > 0 {
		// The hot bidder is not the hot seller.
		b.Bidder = lastPerson(id)/hotEvery*hotEvery + 1
	} else {
		b.Bidder = g.anyPerson(id, r)
	}
	b.Bidder += firstPerson
	b.Price = r.price()
	b.Channel, b.URL = r.channel(g.cfg.Seed)
	b.Extra = r.extra(4*8, 100)
	return b
}

// rng is splitmix64 (Steele, Lea, Flood 2014).
type rng uint64

const golden = 0x9e3779b97f4a7c15

func (r *rng) next() uint64 {
	v := mix(uint64(*r))
	*r += golden
	return v
}

func mix(x uint64) uint64 {
	x += golden
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// below draws from 0 to n-1.
func (r *rng) below(n int64) int64 {
	v, _ := bits.Mul64(r.next(), uint64(n))
	return int64(v)
}

// price draws cents between 100 and 100,000,000: the logarithm is uniform.
func (r *rng) price() int64 {
	u := float64(r.next()>>11) / (1 << 53)
	return int64(math.Round(math.Pow(10, u*6) * 100))
}
