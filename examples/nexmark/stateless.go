package nexmark

import (
	"iter"
	"strings"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state/codec"
)

// passThrough is q0: every bid as it is, decoded and encoded, as the measure of all other queries.
//
//	SELECT auction, bidder, price, channel, url, dateTime, extra FROM bid
func passThrough(outOfOrder time.Duration) (*processor.Topology, error) {
	b := processor.NewBuilder("q0")
	bids := bidsOf(from(b, outOfOrder))
	publish(processor.Map(bids, "copy", func(b *Bid) Bid { return *b }), "q0", bidCodec)
	return b.Build()
}

// Converted is a bid in another currency.
type Converted struct {
	Auction  int64  `json:"auction"`
	Bidder   int64  `json:"bidder"`
	Price    int64  `json:"price"` // thousandths of a cent: exact
	DateTime Millis `json:"dateTime"`
	Extra    string `json:"extra"`
}

// rate is thousandths of a cent for a cent.
const rate = 908

// convert is q1: every bid's price in another currency.
//
//	SELECT auction, bidder, 0.908 * price AS price, dateTime, extra FROM bid
func convert(outOfOrder time.Duration) (*processor.Topology, error) {
	b := processor.NewBuilder("q1")
	converted := processor.Map(bidsOf(from(b, outOfOrder)), "convert", func(b *Bid) Converted {
		return Converted{b.Auction, b.Bidder, rate * b.Price, b.DateTime, b.Extra}
	})
	publish(converted, "q1", codec.JSON[Converted]())
	return b.Build()
}

// Offer is what was bid for an auction.
type Offer struct {
	Auction int64 `json:"auction"`
	Price   int64 `json:"price"`
}

// selection is q2: bids for some of the auctions.
//
//	SELECT auction, price FROM bid WHERE MOD(auction, 123) = 0
func selection(outOfOrder time.Duration) (*processor.Topology, error) {
	b := processor.NewBuilder("q2")
	some := processor.Filter(bidsOf(from(b, outOfOrder)), "some", func(b *Bid) bool { return b.Auction%123 == 0 })
	offers := processor.Map(some, "offers", func(b *Bid) Offer { return Offer{b.Auction, b.Price} })
	publish(offers, "q2", codec.JSON[Offer]())
	return b.Build()
}

// Sided is a bid with a row of the side input.
type Sided struct {
	Auction  int64  `json:"auction"`
	Bidder   int64  `json:"bidder"`
	Price    int64  `json:"price"`
	DateTime Millis `json:"dateTime"`
	Value    string `json:"value"`
}

// SideBucket is the KV bucket of the side input, the same for every tenant: what SideInput says must be in it before q13 is deployed.
const SideBucket = "nexmark_side"

// sideRows is how many rows the side input has.
const sideRows = 10_000

// SideInput returns the rows of the side input: 0 to 9999.
func SideInput() iter.Seq2[string, string] {
	return func(yield func(key, value string) bool) {
		for i := range int64(sideRows) {
			if !yield(id(i), "row "+id(i*i%sideRows)) {
				return
			}
		}
	}
}

// sideInput is q13: every bid with the row of a bounded side input, a KV bucket.
//
//	SELECT B.auction, B.bidder, B.price, B.dateTime, S.value
//	FROM bid B JOIN side_input FOR SYSTEM_TIME AS OF B.p_time AS S ON MOD(B.auction, 10000) = S.key
func sideInput(outOfOrder time.Duration) (*processor.Topology, error) {
	b := processor.NewBuilder("q13")
	side := processor.TableSpec[string]{Bucket: SideBucket, Codec: codec.String(), Shared: true}
	joined := processor.Lookup(bidsOf(from(b, outOfOrder)), "side-input", side, func(b *Bid) string { return id(b.Auction % sideRows) },
		func(b *Bid, row processor.Row[string], emit func(Sided)) error {
			if row.Found {
				emit(Sided{b.Auction, b.Bidder, b.Price, b.DateTime, row.Value})
			}
			return nil
		})
	publish(joined, "q13", codec.JSON[Sided]())
	return b.Build()
}

// Timed is a bid with its time of day.
type Timed struct {
	Auction  int64  `json:"auction"`
	Bidder   int64  `json:"bidder"`
	Price    int64  `json:"price"` // thousandths of a cent
	TimeType string `json:"bidTimeType"`
	DateTime Millis `json:"dateTime"`
	Extra    string `json:"extra"`
	CCounts  int64  `json:"c_counts"`
}

// calculation is q14: bids within a range of prices, with the time of day and the number of letters c, by functions of the user's own.
//
//	SELECT auction, bidder, 0.908 * price AS price,
//	       CASE WHEN HOUR(dateTime) BETWEEN 8 AND 18 THEN 'dayTime'
//	            WHEN HOUR(dateTime) <= 6 OR HOUR(dateTime) >= 20 THEN 'nightTime' ELSE 'otherTime' END AS bidTimeType,
//	       dateTime, extra, count_char(extra, 'c') AS c_counts
//	FROM bid WHERE 0.908 * price > 1000000 AND 0.908 * price < 50000000
func calculation(outOfOrder time.Duration) (*processor.Topology, error) {
	b := processor.NewBuilder("q14")
	within := processor.Filter(bidsOf(from(b, outOfOrder)), "within", func(b *Bid) bool {
		return rate*b.Price > 1_000_000_000 && rate*b.Price < 50_000_000_000
	})
	timed := processor.Map(within, "calculate", func(b *Bid) Timed {
		return Timed{b.Auction, b.Bidder, rate * b.Price, timeType(b.DateTime), b.DateTime, b.Extra, int64(strings.Count(b.Extra, "c"))}
	})
	publish(timed, "q14", codec.JSON[Timed]())
	return b.Build()
}

func timeType(m Millis) string {
	switch hour := m.Time().Hour(); {
	case hour >= 8 && hour <= 18:
		return "dayTime"
	case hour <= 6 || hour >= 20:
		return "nightTime"
	}
	return "otherTime"
}

// Channeled is a bid with the ID of its channel.
type Channeled struct {
	Auction   int64  `json:"auction"`
	Bidder    int64  `json:"bidder"`
	Price     int64  `json:"price"`
	Channel   string `json:"channel"`
	ChannelID string `json:"channel_id"`
}

// channelID is q21: bids with the ID of their channel, which the hot ones have by name and most others in their URL.
//
//	SELECT auction, bidder, price, channel,
//	       CASE lower(channel) WHEN 'apple' THEN '0' WHEN 'google' THEN '1' WHEN 'facebook' THEN '2' WHEN 'baidu' THEN '3'
//	            ELSE REGEXP_EXTRACT(url, '(&|^)channel_id=([^&]*)', 2) END AS channel_id
//	FROM bid WHERE … IS NOT NULL
func channelID(outOfOrder time.Duration) (*processor.Topology, error) {
	b := processor.NewBuilder("q21")
	channeled := processor.FlatMap(bidsOf(from(b, outOfOrder)), "channel-id", func(b *Bid, emit func(Channeled)) error {
		if id, ok := idOfChannel(b); ok {
			emit(Channeled{b.Auction, b.Bidder, b.Price, b.Channel, id})
		}
		return nil
	})
	publish(channeled, "q21", codec.JSON[Channeled]())
	return b.Build()
}

func idOfChannel(b *Bid) (string, bool) {
	switch strings.ToLower(b.Channel) {
	case "apple":
		return "0", true
	case "google":
		return "1", true
	case "facebook":
		return "2", true
	case "baidu":
		return "3", true
	}
	_, id, ok := strings.Cut(b.URL, "&channel_id=")
	id, _, _ = strings.Cut(id, "&")
	return id, ok
}

// Located is a bid with the directories of its URL.
type Located struct {
	Auction int64  `json:"auction"`
	Bidder  int64  `json:"bidder"`
	Price   int64  `json:"price"`
	Channel string `json:"channel"`
	Dir1    string `json:"dir1"`
	Dir2    string `json:"dir2"`
	Dir3    string `json:"dir3"`
}

// directories is q22: bids with the three directories of their URL.
//
//	SELECT auction, bidder, price, channel,
//	       SPLIT_INDEX(url, '/', 3) AS dir1, SPLIT_INDEX(url, '/', 4) AS dir2, SPLIT_INDEX(url, '/', 5) AS dir3
//	FROM bid
func directories(outOfOrder time.Duration) (*processor.Topology, error) {
	b := processor.NewBuilder("q22")
	located := processor.Map(bidsOf(from(b, outOfOrder)), "split", func(b *Bid) Located {
		var dirs [3]string
		rest := b.URL
		for i := 0; i < 6; i++ {
			var part string
			part, rest, _ = strings.Cut(rest, "/")
			if i >= 3 {
				dirs[i-3] = part
			}
		}
		return Located{b.Auction, b.Bidder, b.Price, b.Channel, dirs[0], dirs[1], dirs[2]}
	})
	publish(located, "q22", codec.JSON[Located]())
	return b.Build()
}
