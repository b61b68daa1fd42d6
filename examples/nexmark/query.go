package nexmark

import (
	"strconv"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// Emits says what a query's results are.
type Emits string

// What results are.
const (
	// EmitsRows: a result is final as soon as it is there, and comes with the event that completes it.
	EmitsRows Emits = "rows"
	// EmitsOnClose: a result comes when the watermark has passed the end of its window or auction, once.
	EmitsOnClose Emits = "on close"
	// EmitsChanges: a result replaces the one before of its key, in a KV bucket; of several between two checkpoints the last is published.
	EmitsChanges Emits = "changes"
)

// Query is one query of the benchmark.
type Query struct {
	Name  string // q0, q1, …
	Title string
	Emits Emits
	// Build makes the topology. outOfOrder is how far an event may be behind one published before it, in event time.
	Build func(outOfOrder time.Duration) (*processor.Topology, error)
}

// Queries returns all queries, in order.
func Queries() []Query {
	return []Query{
		{"q0", "Pass through", EmitsRows, passThrough},
		{"q1", "Currency conversion", EmitsRows, convert},
		{"q2", "Selection", EmitsRows, selection},
		{"q3", "Local item suggestion", EmitsRows, localItems},
		{"q4", "Average price for a category", EmitsChanges, categoryPrices},
		{"q5", "Hot items", EmitsOnClose, hotItems},
		{"q6", "Average selling price by seller", EmitsOnClose, sellerPrices},
		{"q7", "Highest bid", EmitsOnClose, highestBid},
		{"q8", "Monitor new users", EmitsOnClose, newUsers},
		{"q9", "Winning bids", EmitsOnClose, winningBids},
		{"q11", "User sessions", EmitsOnClose, userSessions},
		{"q12", "Processing time windows", EmitsOnClose, processingTime},
		{"q13", "Bounded side input join", EmitsRows, sideInput},
		{"q14", "Calculation", EmitsRows, calculation},
		{"q15", "Bidding statistics report", EmitsChanges, report},
		{"q16", "Channel statistics report", EmitsChanges, channelReport},
		{"q17", "Auction statistics report", EmitsChanges, auctionReport},
		{"q18", "Find last bid", EmitsChanges, lastBids},
		{"q19", "Auction top 10", EmitsChanges, topBids},
		{"q20", "Expand bid with auction", EmitsRows, expandBids},
		{"q21", "Add channel ID", EmitsRows, channelID},
		{"q22", "Get URL directories", EmitsRows, directories},
	}
}

// Find returns the query of a name.
func Find(name string) (Query, bool) {
	for _, q := range Queries() {
		if q.Name == name {
			return q, true
		}
	}
	return Query{}, false
}

// Where results go, relative to the tenant: {Results}.{query}, or the KV bucket {Bucket}_{query} for queries that emit changes.
const (
	Results = "results"
	Bucket  = "nexmark"
)

// from reads the events of the tenant.
func from(b *processor.Builder, outOfOrder time.Duration) processor.Stream[Event] {
	return processor.From(b, "events", processor.SourceSpec[Event]{
		Filters: []tenants.Filter{Filter}, Codec: Codec(),
		EventTime: processor.EventTime(Event.At, processor.BoundedOutOfOrderness(outOfOrder)),
	})
}

// bidsOf keeps the bids.
func bidsOf(events processor.Stream[Event]) processor.Stream[*Bid] {
	return processor.FlatMap(events, "bids", func(e Event, emit func(*Bid)) error {
		if e.Bid != nil {
			emit(e.Bid)
		}
		return nil
	})
}

// publish writes results to the subject of the query, exactly once.
func publish[T any](results processor.Stream[T], query string, c codec.Codec[T]) {
	processor.To(results, "results", processor.SinkSpec[T]{FixedSubject: Results + "." + query, Codec: c})
}

// update keeps results in the KV bucket of the query, the last of each key, exactly once.
func update[T any](results processor.Stream[T], query string, key func(T) string, c codec.Codec[T]) {
	processor.ToKV(results, "results", processor.KVSpec[T]{Bucket: Bucket + "_" + query, Key: key, Codec: c})
}

// id makes a key of a number.
func id(n int64) string { return strconv.FormatInt(n, 10) }

// ids makes a key of two numbers.
func ids(a, b int64) string {
	var buf [41]byte
	return string(strconv.AppendInt(append(strconv.AppendInt(buf[:0], a, 10), '-'), b, 10))
}
