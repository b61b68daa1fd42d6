package nexmark

import (
	"fmt"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
)

func millis(t time.Time) Millis { return Millis(t.UnixMilli()) }

// Popular is how many bids an auction had in a window.
type Popular struct {
	Auction int64  `json:"auction"`
	Num     int64  `json:"num"`
	Start   Millis `json:"starttime"`
	End     Millis `json:"endtime"`
}

// countBids counts an auction's bids.
type countBids struct{}

func (countBids) Init() Popular                 { return Popular{} }
func (countBids) Add(p Popular, b *Bid) Popular { return Popular{Auction: b.Auction, Num: p.Num + 1} }
func (countBids) Merge(a, b Popular) Popular    { return Popular{Auction: a.Auction, Num: a.Num + b.Num} }
func (countBids) Result(w processor.Pane, p Popular) Popular {
	p.Start, p.End = millis(w.Start), millis(w.End)
	return p
}

// mostBids keeps the auctions with the most bids of a window.
type mostBids struct{}

func (mostBids) Init() []Popular { return nil }

func (mostBids) Add(top []Popular, p Popular) []Popular {
	switch {
	case len(top) == 0 || p.Num > top[0].Num:
		return []Popular{p}
	case p.Num == top[0].Num:
		return append(top, p)
	}
	return top
}

func (m mostBids) Merge(a, b []Popular) []Popular {
	top := a[:len(a):len(a)]
	for _, p := range b {
		top = m.Add(top, p)
	}
	return top
}

func (mostBids) Result(_ processor.Pane, top []Popular) []Popular { return top }

// hotItems is q5: every two seconds the auctions with the most bids in the last ten.
//
//	SELECT auction, num, starttime, endtime FROM (count per auction in HOP(bid, dateTime, 2 s, 10 s)) AS AuctionBids
//	JOIN (max(num) per window) AS MaxBids ON starttime, endtime WHERE num >= maxn
//
// What a window emits has the time of its end, so a window of one slide behind it gathers the counts of one window.
func hotItems(outOfOrder time.Duration) (*processor.Topology, error) {
	const size, slide = 10 * time.Second, 2 * time.Second
	b := processor.NewBuilder("q5")
	byAuction := processor.KeyBy(bidsOf(from(b, outOfOrder)), func(b *Bid) string { return id(b.Auction) })
	counts := processor.Aggregate(processor.Window(byAuction, processor.Sliding(size, slide)), "count", countBids{})
	hot := processor.Aggregate(processor.WindowAll(counts, processor.Tumbling(slide)), "hot", mostBids{})
	publish(processor.FlatMap(hot, "items", each[Popular]), "q5", codec.JSON[Popular]())
	return b.Build()
}

// each emits a list's elements.
func each[T any](list []T, emit func(T)) error {
	for _, v := range list {
		emit(v)
	}
	return nil
}

// highest keeps the highest bids.
type highest struct{}

func (highest) Init() []*Bid { return nil }

func (highest) Add(top []*Bid, b *Bid) []*Bid {
	switch {
	case len(top) == 0 || b.Price > top[0].Price:
		return []*Bid{b}
	case b.Price == top[0].Price:
		return append(top, b)
	}
	return top
}

func (h highest) Merge(a, b []*Bid) []*Bid {
	top := a[:len(a):len(a)]
	for _, bid := range b {
		top = h.Add(top, bid)
	}
	return top
}

func (highest) Result(_ processor.Pane, top []*Bid) []*Bid { return top }

// highestBid is q7: the highest bids of every ten seconds.
//
//	SELECT B.auction, B.price, B.bidder, B.dateTime, B.extra FROM bid B
//	JOIN (SELECT MAX(price) AS maxprice, window_end FROM TUMBLE(bid, dateTime, 10 s) GROUP BY window_end) W ON B.price = W.maxprice
//	WHERE B.dateTime BETWEEN W.window_end - 10 s AND W.window_end
//
// (By the letter the original also takes a bid of that price from the first millisecond of the next window.)
func highestBid(outOfOrder time.Duration) (*processor.Topology, error) {
	b := processor.NewBuilder("q7")
	bids := processor.WindowAll(bidsOf(from(b, outOfOrder)), processor.Tumbling(10*time.Second))
	top := processor.FlatMap(processor.Aggregate(bids, "highest", highest{}), "each", func(top []*Bid, emit func(Bid)) error {
		for _, b := range top {
			emit(*b)
		}
		return nil
	})
	publish(top, "q7", bidCodec)
	return b.Build()
}

// User is a new user who offers something.
type User struct {
	ID    int64  `json:"id"`
	Name  string `json:"name"`
	Start Millis `json:"starttime"`

	sells bool
}

// newcomer is a person in a window: who it is, if it is new, and whether it sells something.
type newcomer struct {
	ID    int64
	Name  string
	Sells bool
}

type newcomers struct{}

func (newcomers) Init() newcomer { return newcomer{} }

func (newcomers) Add(n newcomer, e Event) newcomer {
	if e.Auction != nil {
		n.Sells = true
	} else {
		n.ID, n.Name = e.Person.ID, e.Person.Name
	}
	return n
}

func (newcomers) Merge(a, b newcomer) newcomer {
	if a.ID == 0 {
		a.ID, a.Name = b.ID, b.Name
	}
	a.Sells = a.Sells || b.Sells
	return a
}

func (newcomers) Result(w processor.Pane, n newcomer) User {
	return User{n.ID, n.Name, millis(w.Start), n.Sells}
}

// newUsers is q8: persons who came and offered something in the same ten seconds.
//
//	SELECT P.id, P.name, P.starttime FROM (TUMBLE(person, dateTime, 10 s) GROUP BY id, name, window) P
//	JOIN (TUMBLE(auction, dateTime, 10 s) GROUP BY seller, window) A ON P.id = A.seller AND the same window
func newUsers(outOfOrder time.Duration) (*processor.Topology, error) {
	b := processor.NewBuilder("q8")
	byPerson := processor.KeyBy(processor.Filter(from(b, outOfOrder), "persons-and-auctions", func(e Event) bool { return e.Bid == nil }), func(e Event) string {
		if e.Person != nil {
			return id(e.Person.ID)
		}
		return id(e.Auction.Seller)
	})
	users := processor.Aggregate(processor.Window(byPerson, processor.Tumbling(10*time.Second)), "join", newcomers{})
	publish(processor.Filter(users, "both", func(u User) bool { return u.ID != 0 && u.sells }), "q8", codec.JSON[User]())
	return b.Build()
}

// Active is how much a bidder bid in a session or window.
type Active struct {
	Bidder int64  `json:"bidder"`
	Count  int64  `json:"bid_count"`
	Start  Millis `json:"starttime"`
	End    Millis `json:"endtime"`
}

type countOwn struct{}

func (countOwn) Init() Active                { return Active{} }
func (countOwn) Add(a Active, b *Bid) Active { return Active{Bidder: b.Bidder, Count: a.Count + 1} }
func (countOwn) Merge(a, b Active) Active    { return Active{Bidder: a.Bidder, Count: a.Count + b.Count} }
func (countOwn) Result(w processor.Pane, a Active) Active {
	a.Start, a.End = millis(w.Start), millis(w.End)
	return a
}

// userSessions is q11: how much a bidder bid in each session; ten seconds without a bid end one.
//
//	SELECT bidder, count(*) AS bid_count, window_start AS starttime, window_end AS endtime
//	FROM SESSION(bid PARTITION BY bidder, dateTime, 10 s) GROUP BY bidder, window_start, window_end
func userSessions(outOfOrder time.Duration) (*processor.Topology, error) {
	b := processor.NewBuilder("q11")
	byBidder := processor.KeyBy(bidsOf(from(b, outOfOrder)), func(b *Bid) string { return id(b.Bidder) })
	sessions := processor.Aggregate(processor.Window(byBidder, processor.Session(10*time.Second)), "sessions", countOwn{})
	publish(sessions, "q11", codec.JSON[Active]())
	return b.Build()
}

// ClockWindow is the size of the windows of q12. Where events come faster than in their own time, a smaller one closes as often.
var ClockWindow = processor.NewParam("window", 10*time.Second, func(d time.Duration) error {
	if d < time.Millisecond {
		return fmt.Errorf("%s: use 1ms or more", d)
	}
	return nil
})

// counts is how much a bidder bid in windows of processing time, by their ends in nanoseconds.
var counts = state.NewMap[int64, Active]("counts")

// processingTime is q12: how much a bidder bid in each ten seconds of processing time.
//
//	SELECT bidder, count(*) AS bid_count, window_start AS starttime, window_end AS endtime
//	FROM TUMBLE(bid, PROCTIME(), 10 s) GROUP BY bidder, window_start, window_end
//
// Which window a bid is in depends on when it is read: after a failure, on when it is read again. Each is counted once all the same.
func processingTime(outOfOrder time.Duration) (*processor.Topology, error) {
	b := processor.NewBuilder("q12")
	byBidder := processor.KeyBy(bidsOf(from(b, outOfOrder)), func(b *Bid) string { return id(b.Bidder) })
	windows := processor.Process(byBidder, "windows", func(pc *processor.Context[Active], b *Bid) error {
		size := ClockWindow.Get(pc)
		end := pc.Now().Truncate(size).Add(size)
		a, ok, err := counts.Get(pc, end.UnixNano())
		if err != nil {
			return err
		}
		if !ok {
			a = Active{b.Bidder, 0, millis(end.Add(-size)), millis(end)}
			if err := pc.SetTimer(end); err != nil {
				return err
			}
		}
		a.Count++
		return counts.Put(pc, end.UnixNano(), a)
	}, processor.Uses(counts, ClockWindow), processor.OnTimer(func(pc *processor.Context[Active], end time.Time) error {
		a, ok, err := counts.Get(pc, end.UnixNano())
		if err != nil || !ok {
			return err
		}
		pc.Emit(a)
		return counts.Remove(pc, end.UnixNano())
	}))
	publish(windows, "q12", codec.JSON[Active]())
	return b.Build()
}
