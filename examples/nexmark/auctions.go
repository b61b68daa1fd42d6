package nexmark

import (
	"cmp"
	"slices"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
)

// Sale is a closed auction and the bid that won it: of those from the auction's DateTime to its Expires the highest, and of equal
// ones the earliest.
type Sale struct {
	Auction *Auction
	Bid     *Bid
}

// Of an auction, until it is closed. Bids may come before their auction: events are out of order, and some bid on what is yet to come.
var (
	item  = state.NewValue[*Auction]("item", keptAuction)
	best  = state.NewValue[*Bid]("best", keptBid)
	early = state.NewList[*Bid]("early", keptBid)
)

// sales is the operator behind q4, q6 and q9: it emits each auction's sale when the watermark has passed its end. Auctions without a
// bid are not sold. All that it keeps of an auction goes when that is closed, where the SQL of the original keeps all bids for ever.
func sales(events processor.Stream[Event]) processor.Stream[Sale] {
	return processor.Process(byAuction(events), "sales", sell, processor.Uses(item, best, early), processor.OnEventTimer(closeAuction))
}

// byAuction keeps auctions and bids, with the auction as their key.
func byAuction(events processor.Stream[Event]) processor.KeyedStream[Event] {
	return processor.KeyBy(processor.Filter(events, "auctions-and-bids", func(e Event) bool { return e.Person == nil }), func(e Event) string {
		if e.Auction != nil {
			return id(e.Auction.ID)
		}
		return id(e.Bid.Auction)
	})
}

func sell(pc *processor.Context[Sale], e Event) error {
	if a := e.Auction; a != nil {
		bids, err := early.All(pc)
		if err != nil {
			return err
		}
		for _, b := range bids {
			if err := offer(pc, a, b); err != nil {
				return err
			}
		}
		if err := early.Clear(pc); err != nil {
			return err
		}
		if err := item.Set(pc, a); err != nil {
			return err
		}
		return pc.SetEventTimer(a.Expires.Time())
	}
	a, err := item.Get(pc)
	if err != nil {
		return err
	}
	if a != nil {
		return offer(pc, a, e.Bid)
	}
	n, err := early.Len(pc)
	if err != nil {
		return err
	}
	if n == 0 {
		if err := pc.SetEventTimer(e.Bid.DateTime.Time()); err != nil {
			return err
		}
	}
	return early.Add(pc, e.Bid)
}

func offer(pc *processor.Context[Sale], a *Auction, b *Bid) error {
	if b.DateTime < a.DateTime || b.DateTime > a.Expires {
		return nil
	}
	top, err := best.Get(pc)
	if err != nil || top != nil && (b.Price < top.Price || b.Price == top.Price && b.DateTime >= top.DateTime) {
		return err
	}
	return best.Set(pc, b)
}

func closeAuction(pc *processor.Context[Sale], at time.Time) error {
	a, err := item.Get(pc)
	if err != nil {
		return err
	}
	if a == nil {
		return dropEarly(pc, at)
	}
	if at.Before(a.Expires.Time()) {
		return nil // the timer of a bid that was early
	}
	b, err := best.Get(pc)
	if err != nil {
		return err
	}
	if b != nil {
		pc.Emit(Sale{a, b})
	}
	if err := best.Clear(pc); err != nil {
		return err
	}
	return item.Clear(pc)
}

// dropEarly forgets bids whose time has passed while there was no auction: it is closed, or will begin later than the bid was made.
func dropEarly(pc *processor.Context[Sale], at time.Time) error {
	bids, err := early.All(pc)
	if err != nil {
		return err
	}
	var left []*Bid
	for _, b := range bids {
		if b.DateTime.Time().After(at) {
			left = append(left, b)
		}
	}
	if err := early.Set(pc, left); err != nil || len(left) == 0 {
		return err
	}
	return pc.SetEventTimer(left[0].DateTime.Time())
}

// Won is an auction with its winning bid.
type Won struct {
	ID          int64  `json:"id"`
	ItemName    string `json:"itemName"`
	Description string `json:"description"`
	InitialBid  int64  `json:"initialBid"`
	Reserve     int64  `json:"reserve"`
	DateTime    Millis `json:"dateTime"`
	Expires     Millis `json:"expires"`
	Seller      int64  `json:"seller"`
	Category    int64  `json:"category"`
	Extra       string `json:"extra"`
	Auction     int64  `json:"auction"`
	Bidder      int64  `json:"bidder"`
	Price       int64  `json:"price"`
	BidDateTime Millis `json:"bid_dateTime"`
	BidExtra    string `json:"bid_extra"`
}

// winningBids is q9: the winning bid of every closed auction.
//
//	SELECT id, itemName, …, auction, bidder, price, bid_dateTime, bid_extra
//	FROM (SELECT A.*, B.…, ROW_NUMBER() OVER (PARTITION BY A.id ORDER BY B.price DESC, B.dateTime ASC) AS rownum
//	      FROM auction A, bid B WHERE A.id = B.auction AND B.dateTime BETWEEN A.dateTime AND A.expires)
//	WHERE rownum <= 1
//
// The original emits a change with each better bid; this emits a row when the auction is closed.
func winningBids(outOfOrder time.Duration) (*processor.Topology, error) {
	b := processor.NewBuilder("q9")
	won := processor.Map(sales(from(b, outOfOrder)), "won", func(s Sale) Won {
		a, b := s.Auction, s.Bid
		return Won{
			a.ID, a.ItemName, a.Description, a.InitialBid, a.Reserve, a.DateTime, a.Expires, a.Seller, a.Category, a.Extra,
			b.Auction, b.Bidder, b.Price, b.DateTime, b.Extra,
		}
	})
	publish(won, "q9", codec.JSON[Won]())
	return b.Build()
}

// Average is the average of what was paid.
type Average struct {
	Category int64 `json:"category"`
	Avg      int64 `json:"avg"` // cents, rounded down as SQL does with integers
}

// sum is the state of an average.
type sum struct{ N, Sum int64 }

var paid = state.NewValue[sum]("paid")

// categoryPrices is q4: the average of the winning bids of each category.
//
//	SELECT Q.category, AVG(Q.final)
//	FROM (SELECT MAX(B.price) AS final, A.category FROM auction A, bid B
//	      WHERE A.id = B.auction AND B.dateTime BETWEEN A.dateTime AND A.expires GROUP BY A.id, A.category) Q
//	GROUP BY Q.category
//
// The original emits a change with each better bid; this emits one with each auction that is closed.
func categoryPrices(outOfOrder time.Duration) (*processor.Topology, error) {
	b := processor.NewBuilder("q4")
	byCategory := processor.KeyBy(sales(from(b, outOfOrder)), func(s Sale) string { return id(s.Auction.Category) })
	averages := processor.Process(byCategory, "average", func(pc *processor.Context[Average], s Sale) error {
		p, err := paid.Get(pc)
		if err != nil {
			return err
		}
		p.N++
		p.Sum += s.Bid.Price
		pc.Emit(Average{s.Auction.Category, p.Sum / p.N})
		return paid.Set(pc, p)
	}, processor.Uses(paid))
	update(averages, "q4", func(a Average) string { return id(a.Category) }, codec.JSON[Average]())
	return b.Build()
}

// Selling is the average that a seller's last auctions brought, up to this one.
type Selling struct {
	Seller  int64 `json:"seller"`
	Auction int64 `json:"auction"`
	Avg     int64 `json:"avg"`
}

// sold is what is kept of a sale.
type sold struct {
	Auction, Seller, Price int64
	At                     Millis // when the auction was closed
}

var (
	waiting = state.NewList[sold]("waiting")
	lastTen = state.NewList[int64]("last-ten")
)

// sellerPrices is q6: with each auction that is closed the average of its seller's last ten, by the time at which they were closed.
//
//	SELECT Q.seller, Q.id, AVG(Q.final) OVER (PARTITION BY Q.seller ORDER BY Q.expires, Q.id ROWS BETWEEN 9 PRECEDING AND CURRENT ROW)
//	FROM (SELECT MAX(B.price) AS final, A.seller, A.id, A.expires FROM auction A, bid B
//	      WHERE A.id = B.auction AND B.dateTime BETWEEN A.dateTime AND A.expires GROUP BY A.id) Q
//
// (nexmark-flink's has ten preceding, which makes eleven, in the order of the winning bids, and does not run on Flink.) With
// parallelism above 1 a seller's sales come from several subtasks, in any order: event timers put them in order.
func sellerPrices(outOfOrder time.Duration) (*processor.Topology, error) {
	b := processor.NewBuilder("q6")
	bySeller := processor.KeyBy(sales(from(b, outOfOrder)), func(s Sale) string { return id(s.Auction.Seller) })
	averages := processor.Process(bySeller, "average", func(pc *processor.Context[Selling], s Sale) error {
		if err := waiting.Add(pc, sold{s.Auction.ID, s.Auction.Seller, s.Bid.Price, s.Auction.Expires}); err != nil {
			return err
		}
		return pc.SetEventTimer(s.Auction.Expires.Time())
	}, processor.Uses(waiting, lastTen), processor.OnEventTimer(averageLastTen))
	publish(averages, "q6", codec.JSON[Selling]())
	return b.Build()
}

func averageLastTen(pc *processor.Context[Selling], at time.Time) error {
	all, err := waiting.All(pc)
	if err != nil {
		return err
	}
	last, err := lastTen.All(pc)
	if err != nil {
		return err
	}
	var due, left []sold
	for _, s := range all {
		if s.At.Time().After(at) {
			left = append(left, s)
		} else {
			due = append(due, s)
		}
	}
	slices.SortFunc(due, func(a, b sold) int { return cmp.Compare(a.Auction, b.Auction) })
	for _, s := range due {
		last = append(last[max(0, len(last)-9):], s.Price)
		total := int64(0)
		for _, p := range last {
			total += p
		}
		pc.Emit(Selling{s.Seller, s.Auction, total / int64(len(last))})
	}
	if err := lastTen.Set(pc, last); err != nil {
		return err
	}
	return waiting.Set(pc, left)
}
