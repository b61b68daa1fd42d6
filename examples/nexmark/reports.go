package nexmark

import (
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
)

// Report is what was bid on a day, in all and in three ranks of price. Q16 has one per channel.
type Report struct {
	Channel       string `json:"channel,omitempty"`
	Day           string `json:"day"`
	Minute        string `json:"minute,omitempty"` // q16: of the last bid
	TotalBids     int64  `json:"total_bids"`
	Rank1Bids     int64  `json:"rank1_bids"`
	Rank2Bids     int64  `json:"rank2_bids"`
	Rank3Bids     int64  `json:"rank3_bids"`
	TotalBidders  int64  `json:"total_bidders"`
	Rank1Bidders  int64  `json:"rank1_bidders"`
	Rank2Bidders  int64  `json:"rank2_bidders"`
	Rank3Bidders  int64  `json:"rank3_bidders"`
	TotalAuctions int64  `json:"total_auctions"`
	Rank1Auctions int64  `json:"rank1_auctions"`
	Rank2Auctions int64  `json:"rank2_auctions"`
	Rank3Auctions int64  `json:"rank3_auctions"`
}

// Of a report's key. seen has a bit for each rank in which a bidder or an auction was counted.
var (
	reported     = state.NewValue[Report]("report")
	seenBidders  = state.NewMap[int64, uint8]("bidders")
	seenAuctions = state.NewMap[int64, uint8]("auctions")
)

// rankOf is 0, 1 or 2: below 100, below 10,000, and above.
func rankOf(b *Bid) int {
	switch {
	case b.Price < 10_000:
		return 0
	case b.Price < 1_000_000:
		return 1
	}
	return 2
}

func count(rank int, total, rank1, rank2, rank3 *int64) {
	*total++
	*[...]*int64{rank1, rank2, rank3}[rank]++
}

// countDistinct counts who was not counted yet, in all and in the rank.
func countDistinct(pc *processor.Context[Report], seen *state.Map[int64, uint8], who int64, rank int, total, rank1, rank2, rank3 *int64) error {
	mask, _, err := seen.Get(pc, who)
	if err != nil || mask&(1<<rank) != 0 {
		return err
	}
	if mask == 0 {
		*total++
	}
	*[...]*int64{rank1, rank2, rank3}[rank]++
	return seen.Put(pc, who, mask|1<<rank)
}

func addToReport(pc *processor.Context[Report], b *Bid, channel, minute string) error {
	r, err := reported.Get(pc)
	if err != nil {
		return err
	}
	rank := rankOf(b)
	r.Channel, r.Day, r.Minute = channel, b.DateTime.Day(), max(r.Minute, minute)
	count(rank, &r.TotalBids, &r.Rank1Bids, &r.Rank2Bids, &r.Rank3Bids)
	if err := countDistinct(pc, seenBidders, b.Bidder, rank, &r.TotalBidders, &r.Rank1Bidders, &r.Rank2Bidders, &r.Rank3Bidders); err != nil {
		return err
	}
	if err := countDistinct(pc, seenAuctions, b.Auction, rank, &r.TotalAuctions, &r.Rank1Auctions, &r.Rank2Auctions, &r.Rank3Auctions); err != nil {
		return err
	}
	pc.Emit(r)
	return reported.Set(pc, r)
}

// report is q15: bids, bidders and auctions of a day, in all and by rank of price. There is one key a day.
//
//	SELECT day, count(*) AS total_bids, count(*) FILTER (WHERE price < 10000) AS rank1_bids, …,
//	       count(DISTINCT bidder) AS total_bidders, count(DISTINCT bidder) FILTER (WHERE price < 10000) AS rank1_bidders, …
//	FROM bid GROUP BY DATE_FORMAT(dateTime, 'yyyy-MM-dd') AS day
func report(outOfOrder time.Duration) (*processor.Topology, error) {
	b := processor.NewBuilder("q15")
	byDay := processor.KeyBy(bidsOf(from(b, outOfOrder)), func(b *Bid) string { return b.DateTime.Day() })
	reports := processor.Process(byDay, "report", func(pc *processor.Context[Report], b *Bid) error {
		return addToReport(pc, b, "", "")
	}, processor.Uses(reported, seenBidders, seenAuctions))
	update(reports, "q15", func(r Report) string { return r.Day }, codec.JSON[Report]())
	return b.Build()
}

// channelReport is q16: q15 for each channel, with the minute of its last bid.
//
//	SELECT channel, day, max(DATE_FORMAT(dateTime, 'HH:mm')) AS minute, … FROM bid GROUP BY channel, day
func channelReport(outOfOrder time.Duration) (*processor.Topology, error) {
	b := processor.NewBuilder("q16")
	byChannel := processor.KeyBy(bidsOf(from(b, outOfOrder)), func(b *Bid) string { return processor.CompositeKey(b.Channel, b.DateTime.Day()) })
	reports := processor.Process(byChannel, "report", func(pc *processor.Context[Report], b *Bid) error {
		return addToReport(pc, b, b.Channel, b.DateTime.Time().Format("15:04"))
	}, processor.Uses(reported, seenBidders, seenAuctions))
	update(reports, "q16", func(r Report) string { return r.Channel + " " + r.Day }, codec.JSON[Report]())
	return b.Build()
}

// AuctionReport is what was bid for an item on a day.
type AuctionReport struct {
	Auction   int64  `json:"auction"`
	Day       string `json:"day"`
	TotalBids int64  `json:"total_bids"`
	Rank1Bids int64  `json:"rank1_bids"`
	Rank2Bids int64  `json:"rank2_bids"`
	Rank3Bids int64  `json:"rank3_bids"`
	MinPrice  int64  `json:"min_price"`
	MaxPrice  int64  `json:"max_price"`
	AvgPrice  int64  `json:"avg_price"` // rounded down as SQL does with integers
	SumPrice  int64  `json:"sum_price"`
}

var auctionReported = state.NewValue[AuctionReport]("report")

// auctionReport is q17: bids of an auction on a day.
//
//	SELECT auction, day, count(*) AS total_bids, …, min(price), max(price), avg(price), sum(price) FROM bid GROUP BY auction, day
func auctionReport(outOfOrder time.Duration) (*processor.Topology, error) {
	b := processor.NewBuilder("q17")
	byAuction := processor.KeyBy(bidsOf(from(b, outOfOrder)), func(b *Bid) string { return ids(b.Auction, int64(b.DateTime)/86_400_000) })
	reports := processor.Process(byAuction, "report", func(pc *processor.Context[AuctionReport], b *Bid) error {
		r, ok, err := auctionReported.Lookup(pc)
		if err != nil {
			return err
		}
		if !ok {
			r = AuctionReport{Auction: b.Auction, Day: b.DateTime.Day(), MinPrice: b.Price}
		}
		count(rankOf(b), &r.TotalBids, &r.Rank1Bids, &r.Rank2Bids, &r.Rank3Bids)
		r.MinPrice, r.MaxPrice, r.SumPrice = min(r.MinPrice, b.Price), max(r.MaxPrice, b.Price), r.SumPrice+b.Price
		r.AvgPrice = r.SumPrice / r.TotalBids
		pc.Emit(r)
		return auctionReported.Set(pc, r)
	}, processor.Uses(auctionReported))
	update(reports, "q17", func(r AuctionReport) string { return id(r.Auction) + " " + r.Day }, codec.JSON[AuctionReport]())
	return b.Build()
}

var last = state.NewValue[*Bid]("last", keptBid)

// lastBids is q18: the last bid of every bidder for every auction; of two at the same time, the one published later.
//
//	SELECT … FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY bidder, auction ORDER BY dateTime DESC) AS rank_number FROM bid) WHERE rank_number <= 1
func lastBids(outOfOrder time.Duration) (*processor.Topology, error) {
	b := processor.NewBuilder("q18")
	byBoth := processor.KeyBy(bidsOf(from(b, outOfOrder)), func(b *Bid) string { return ids(b.Bidder, b.Auction) })
	bids := processor.Process(byBoth, "last", func(pc *processor.Context[Bid], b *Bid) error {
		before, err := last.Get(pc)
		if err != nil || before != nil && before.DateTime > b.DateTime {
			return err
		}
		pc.Emit(*b)
		return last.Set(pc, b)
	}, processor.Uses(last))
	update(bids, "q18", func(b Bid) string { return ids(b.Bidder, b.Auction) }, bidCodec)
	return b.Build()
}

// Ranked is a bid among the highest of its auction.
type Ranked struct {
	Auction  int64  `json:"auction"`
	Bidder   int64  `json:"bidder"`
	Price    int64  `json:"price"`
	Channel  string `json:"channel"`
	URL      string `json:"url"`
	DateTime Millis `json:"dateTime"`
	Extra    string `json:"extra"`
	Rank     int64  `json:"rank_number"`
}

const ranks = 10

var top = state.NewValue[[]*Bid]("top", state.Codec(bidsCodec))

// topBids is q19: the ten highest bids of every auction; of equal ones the one published first is higher.
//
//	SELECT * FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY auction ORDER BY price DESC) AS rank_number FROM bid) WHERE rank_number <= 10
func topBids(outOfOrder time.Duration) (*processor.Topology, error) {
	b := processor.NewBuilder("q19")
	byAuction := processor.KeyBy(bidsOf(from(b, outOfOrder)), func(b *Bid) string { return id(b.Auction) })
	ranked := processor.Process(byAuction, "top", func(pc *processor.Context[Ranked], b *Bid) error {
		list, err := top.Get(pc)
		if err != nil {
			return err
		}
		at := len(list)
		for at > 0 && list[at-1].Price < b.Price {
			at--
		}
		if at == ranks {
			return nil
		}
		longer := make([]*Bid, min(len(list)+1, ranks)) // a snapshot may be reading the old one
		copy(longer, list[:at])
		longer[at] = b
		copy(longer[at+1:], list[at:])
		for i := at; i < len(longer); i++ {
			b := longer[i]
			pc.Emit(Ranked{b.Auction, b.Bidder, b.Price, b.Channel, b.URL, b.DateTime, b.Extra, int64(i + 1)})
		}
		return top.Set(pc, longer)
	}, processor.Uses(top))
	update(ranked, "q19", func(r Ranked) string { return ids(r.Auction, r.Rank) }, rankedCodec)
	return b.Build()
}
