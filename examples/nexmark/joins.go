package nexmark

import (
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
)

// Suggestion is an item for sale by somebody who lives near.
type Suggestion struct {
	Name  string `json:"name"`
	City  string `json:"city"`
	State string `json:"state"`
	ID    int64  `json:"id"` // the auction
}

var (
	seller = state.NewValue[*Person]("seller", keptPerson)
	offers = state.NewList[int64]("offers")
)

// localItems is q3: auctions of one category with sellers in some states.
//
//	SELECT P.name, P.city, P.state, A.id FROM auction A INNER JOIN person P ON A.seller = P.id
//	WHERE A.category = 10 AND P.state IN ('OR', 'ID', 'CA')
//
// As in SQL, persons and auctions are kept for ever: either may come first, by any time.
func localItems(outOfOrder time.Duration) (*processor.Topology, error) {
	b := processor.NewBuilder("q3")
	local := processor.Filter(from(b, outOfOrder), "local", func(e Event) bool {
		switch {
		case e.Auction != nil:
			return e.Auction.Category == 10
		case e.Person != nil:
			return e.Person.State == "OR" || e.Person.State == "ID" || e.Person.State == "CA"
		}
		return false
	})
	byPerson := processor.KeyBy(local, func(e Event) string {
		if e.Person != nil {
			return id(e.Person.ID)
		}
		return id(e.Auction.Seller)
	})
	publish(processor.Process(byPerson, "join", suggest, processor.Uses(seller, offers)), "q3", codec.JSON[Suggestion]())
	return b.Build()
}

func suggest(pc *processor.Context[Suggestion], e Event) error {
	if p := e.Person; p != nil {
		ids, err := offers.All(pc)
		if err != nil {
			return err
		}
		for _, id := range ids {
			pc.Emit(Suggestion{p.Name, p.City, p.State, id})
		}
		if err := offers.Clear(pc); err != nil {
			return err
		}
		return seller.Set(pc, p)
	}
	p, err := seller.Get(pc)
	if err != nil {
		return err
	}
	if p == nil {
		return offers.Add(pc, e.Auction.ID)
	}
	pc.Emit(Suggestion{p.Name, p.City, p.State, e.Auction.ID})
	return nil
}

// Expanded is a bid with what is known of its auction.
type Expanded struct {
	Auction         int64  `json:"auction"`
	Bidder          int64  `json:"bidder"`
	Price           int64  `json:"price"`
	Channel         string `json:"channel"`
	URL             string `json:"url"`
	BidDateTime     Millis `json:"bid_dateTime"`
	BidExtra        string `json:"bid_extra"`
	ItemName        string `json:"itemName"`
	Description     string `json:"description"`
	InitialBid      int64  `json:"initialBid"`
	Reserve         int64  `json:"reserve"`
	AuctionDateTime Millis `json:"auction_dateTime"`
	Expires         Millis `json:"expires"`
	Seller          int64  `json:"seller"`
	Category        int64  `json:"category"`
	AuctionExtra    string `json:"auction_extra"`
}

var (
	expanding = state.NewValue[*Auction]("auction", keptAuction)
	ahead     = state.NewList[*Bid]("ahead", keptBid)
)

// expandBids is q20: bids for items of one category, with their auction.
//
//	SELECT auction, bidder, …, itemName, description, … FROM bid B INNER JOIN auction A ON B.auction = A.id WHERE A.category = 10
//
// As in SQL, auctions are kept for ever. A bid is kept until its auction comes.
func expandBids(outOfOrder time.Duration) (*processor.Topology, error) {
	b := processor.NewBuilder("q20")
	expanded := processor.Process(byAuction(from(b, outOfOrder)), "join", expand, processor.Uses(expanding, ahead))
	publish(expanded, "q20", codec.JSON[Expanded]())
	return b.Build()
}

func expand(pc *processor.Context[Expanded], e Event) error {
	if e.Bid != nil {
		a, err := expanding.Get(pc)
		if err != nil {
			return err
		}
		if a == nil {
			return ahead.Add(pc, e.Bid)
		}
		emitExpanded(pc, a, e.Bid)
		return nil
	}
	a := e.Auction
	if a.Category != 10 {
		// Its bids are to be dropped: of the auction this is all that must be known.
		a = &Auction{ID: a.ID, Category: a.Category}
	}
	bids, err := ahead.All(pc)
	if err != nil {
		return err
	}
	for _, b := range bids {
		emitExpanded(pc, a, b)
	}
	if err := ahead.Clear(pc); err != nil {
		return err
	}
	return expanding.Set(pc, a)
}

func emitExpanded(pc *processor.Context[Expanded], a *Auction, b *Bid) {
	if a.Category != 10 {
		return
	}
	pc.Emit(Expanded{
		b.Auction, b.Bidder, b.Price, b.Channel, b.URL, b.DateTime, b.Extra,
		a.ItemName, a.Description, a.InitialBid, a.Reserve, a.DateTime, a.Expires, a.Seller, a.Category, a.Extra,
	})
}
