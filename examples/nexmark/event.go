package nexmark

import "time"

// Millis is a moment, in milliseconds since 1970, as it stands in the events.
type Millis int64

// Time returns the moment in UTC.
func (m Millis) Time() time.Time { return time.UnixMilli(int64(m)).UTC() }

// Day returns the moment's date in UTC, as in 2015-07-15.
func (m Millis) Day() string { return m.Time().Format(time.DateOnly) }

// Person is somebody who sells or bids.
type Person struct {
	ID         int64  `json:"id"`
	Name       string `json:"name"`
	Email      string `json:"emailAddress"`
	CreditCard string `json:"creditCard"`
	City       string `json:"city"`
	State      string `json:"state"`
	DateTime   Millis `json:"dateTime"`
	Extra      string `json:"extra"`
}

// Auction is an item put up for sale. Bids count from DateTime to Expires, both included.
type Auction struct {
	ID          int64  `json:"id"`
	ItemName    string `json:"itemName"`
	Description string `json:"description"`
	InitialBid  int64  `json:"initialBid"` // cents
	Reserve     int64  `json:"reserve"`    // cents
	DateTime    Millis `json:"dateTime"`
	Expires     Millis `json:"expires"`
	Seller      int64  `json:"seller"`
	Category    int64  `json:"category"`
	Extra       string `json:"extra"`
}

// Bid is an offer for an item.
type Bid struct {
	Auction  int64  `json:"auction"`
	Bidder   int64  `json:"bidder"`
	Price    int64  `json:"price"` // cents
	Channel  string `json:"channel"`
	URL      string `json:"url"`
	DateTime Millis `json:"dateTime"`
	Extra    string `json:"extra"`
}

// Event is one of the three; the others are nil. It is not changed once it is made.
type Event struct {
	Person  *Person  `json:"person,omitempty"`
	Auction *Auction `json:"auction,omitempty"`
	Bid     *Bid     `json:"bid,omitempty"`
}

// Subjects of the events, relative to the tenant. A source reads all of them with the filter Filter, in order.
const (
	Filter         = "nexmark.>"
	PersonSubject  = "nexmark.person"
	AuctionSubject = "nexmark.auction"
	BidSubject     = "nexmark.bid"
)

// Subject is where the event is published, relative to the tenant.
func (e Event) Subject() string {
	switch {
	case e.Person != nil:
		return PersonSubject
	case e.Auction != nil:
		return AuctionSubject
	}
	return BidSubject
}

// At returns the event's time.
func (e Event) At() time.Time {
	switch {
	case e.Bid != nil:
		return e.Bid.DateTime.Time()
	case e.Auction != nil:
		return e.Auction.DateTime.Time()
	case e.Person != nil:
		return e.Person.DateTime.Time()
	}
	return time.Time{}
}
