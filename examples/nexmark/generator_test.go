package nexmark_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/weirstream/weir/examples/nexmark"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

func generator(t testing.TB, cfg nexmark.Config) *nexmark.Generator {
	t.Helper()
	g, err := nexmark.NewGenerator(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func encode(t testing.TB, e nexmark.Event) []byte {
	t.Helper()
	b, err := nexmark.Codec().Append(nil, e)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Events never change: results that were published with figures can be repeated.
func TestEventsAreStable(t *testing.T) {
	g := generator(t, nexmark.Config{Seed: 42})
	h := sha256.New()
	for id := range uint64(5000) {
		h.Write(encode(t, g.Event(id)))
	}
	const want = "cb853eee0eafd9bc7968c4dc6670ae9414802dc237c2d4a66a5f5502d81f12ae"
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		t.Errorf("the first 5000 events have the hash %s, they had %s; the first four are\n%s\n%s\n%s\n%s", got, want,
			encode(t, g.Event(0)), encode(t, g.Event(1)), encode(t, g.Event(2)), encode(t, g.Event(4)))
	}
}

func TestProportionsAndReferences(t *testing.T) {
	const n = 100_000
	g := generator(t, nexmark.Config{Seed: 7})
	var persons, auctions, bids, hotAuction, hotBidder, hotSeller, cheap int64
	for id := range uint64(n) {
		e := g.Event(id)
		switch {
		case e.Person != nil:
			if e.Person.ID != 1000+persons {
				t.Fatalf("person %d has the ID %d", persons, e.Person.ID)
			}
			persons++
		case e.Auction != nil:
			a := e.Auction
			if a.ID != 1000+auctions || a.Category < 10 || a.Category > 14 || a.Expires <= a.DateTime || a.Reserve < a.InitialBid {
				t.Fatalf("auction %d is %+v", auctions, a)
			}
			if a.Seller < 1000 || a.Seller >= 1000+persons+10 {
				t.Fatalf("auction %d is sold by %d, there are %d persons", a.ID, a.Seller, persons)
			}
			auctions++
			if (a.Seller-1000)%100 == 0 {
				hotSeller++
			}
		default:
			b := e.Bid
			if b.Auction < 1000 || b.Auction >= 1000+auctions+10 || b.Bidder < 1000 || b.Bidder >= 1000+persons+10 {
				t.Fatalf("bid %+v refers to what does not exist, there are %d auctions and %d persons", b, auctions, persons)
			}
			if b.Price < 100 || b.Price > 100_000_000 {
				t.Fatalf("a price of %d", b.Price)
			}
			bids++
			if (b.Auction-1000)%100 == 0 {
				hotAuction++
			}
			if (b.Bidder-1000)%100 == 1 {
				hotBidder++
			}
			if b.Price < 100_000 { // half of the decades
				cheap++
			}
		}
	}
	if persons != n/50 || auctions != 3*n/50 || bids != 46*n/50 {
		t.Errorf("%d persons, %d auctions, %d bids", persons, auctions, bids)
	}
	for what, share := range map[string][2]float64{
		"bids for the hot auction":    {float64(hotAuction) / float64(bids), 0.5},
		"bids by the hot bidder":      {float64(hotBidder) / float64(bids), 0.75},
		"auctions of the hot seller":  {float64(hotSeller) / float64(auctions), 0.75},
		"prices in the lower decades": {float64(cheap) / float64(bids), 0.5},
	} {
		if share[0] < share[1]-0.01 || share[0] > share[1]+0.03 {
			t.Errorf("%s: a share of %.3f, want about %.2f", what, share[0], share[1])
		}
	}
}

// Positions visit each ID once, and no event is further behind than OutOfOrder says; for groups that are large enough some is that
// far behind, so the figure is not larger than it must be.
func TestOutOfOrder(t *testing.T) {
	for _, shuffle := range []int{1, 2, 10, 100, 954, 2000} {
		g := generator(t, nexmark.Config{Shuffle: shuffle, Interval: 10 * time.Millisecond})
		seen := map[uint64]bool{}
		var newest, behind time.Duration
		for p := range uint64(shuffle * 5) {
			seen[g.ID(p)] = true
			at := g.At(p).At().Sub(g.Event(0).At())
			newest = max(newest, at)
			behind = max(behind, newest-at)
		}
		if len(seen) != shuffle*5 || !seen[0] || !seen[uint64(shuffle*5-1)] {
			t.Errorf("shuffle %d: %d of %d events are published", shuffle, len(seen), shuffle*5)
		}
		if behind > g.OutOfOrder() || behind*2 < g.OutOfOrder() && shuffle > 2 {
			t.Errorf("shuffle %d: an event is %s behind, OutOfOrder says %s", shuffle, behind, g.OutOfOrder())
		}
	}
}

func TestBadConfig(t *testing.T) {
	_, err := nexmark.NewGenerator(nexmark.Config{
		Interval: time.Nanosecond, Shuffle: 953 * 2, HotBidders: -1, InFlight: 1e7, Start: time.Date(1066, 1, 1, 0, 0, 0, 0, time.UTC),
	})
	for _, field := range []string{"Interval", "Shuffle", "HotBidders", "InFlight", "Start"} {
		if err == nil || !strings.Contains(err.Error(), "Config."+field) {
			t.Errorf("the error does not name %s: %v", field, err)
		}
	}
}

func TestCodec(t *testing.T) {
	fast, slow := nexmark.Codec(), codec.JSON[nexmark.Event]()
	g := generator(t, nexmark.Config{Seed: 3, Shuffle: 7})
	check := func(e nexmark.Event) {
		t.Helper()
		b := encode(t, e)
		want, err := slow.Append(nil, e)
		if err != nil {
			t.Fatal(err)
		}
		if string(b) != string(want) {
			t.Fatalf("got %s, encoding/json writes %s", b, want)
		}
		got, err := fast.Decode(b)
		if err != nil || !reflect.DeepEqual(got, e) {
			t.Fatalf("%s came back as %s: %v", b, encode(t, got), err)
		}
	}
	for id := range uint64(500) {
		check(g.Event(id))
	}
	check(nexmark.Event{Person: &nexmark.Person{ID: -1, Name: "quo\"te", Email: "back\\slash", City: "naïve\n", Extra: "\x7f\x00"}})
	check(nexmark.Event{Bid: &nexmark.Bid{Auction: 1 << 62, URL: "a&b<c>"}})
	if _, err := fast.Append(nil, nexmark.Event{}); err == nil {
		t.Error("an event of no kind was encoded")
	}
	for _, bad := range []string{
		"", "{}", `{"bid":null}`, `{"bid":{},"person":{}}`, `{"bid":{"auction":01}}`, `{"bid":{"auction":1`, `[1]`, `{"bid":{"auction":"x"}}`,
		string(encode(t, g.Event(10))) + "x",
	} {
		if e, err := fast.Decode([]byte(bad)); !errors.Is(err, codec.ErrMalformed) {
			t.Errorf("%q became %+v: %v", bad, e, err)
		}
	}
}

// Whatever the bytes are, the scanner says what encoding/json says.
func FuzzCodec(f *testing.F) {
	fast, slow := nexmark.Codec(), codec.JSON[nexmark.Event]()
	g := generator(f, nexmark.Config{})
	for id := range uint64(6) {
		f.Add(encode(f, g.Event(id)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := fast.Decode(b)
		if err != nil {
			return
		}
		want, err := slow.Decode(b)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%q became %+v, encoding/json says %+v, %v", b, got, want, err)
		}
	})
}

func TestSubjectsAreCovered(t *testing.T) {
	for _, e := range []nexmark.Event{{Person: &nexmark.Person{}}, {Auction: &nexmark.Auction{}}, {Bid: &nexmark.Bid{}}} {
		if !tenants.Filter(nexmark.Filter).Matches(e.Subject()) || e.At().UnixMilli() != 0 {
			t.Errorf("%+v: subject %s, time %s", e, e.Subject(), e.At())
		}
	}
}

func TestEveryQueryBuilds(t *testing.T) {
	for _, q := range nexmark.Queries() {
		topology, err := q.Build(time.Second)
		if err != nil {
			t.Errorf("%s: %v", q.Name, err)
			continue
		}
		if found, ok := nexmark.Find(q.Name); topology.Name() != q.Name || q.Title == "" || !ok || found.Title != q.Title {
			t.Errorf("query %s builds topology %s", q.Name, topology.Name())
		}
	}
	if _, ok := nexmark.Find("q10"); ok {
		t.Error("there is a q10")
	}
}

func BenchmarkDecode(b *testing.B) {
	g := generator(b, nexmark.Config{})
	var records [][]byte
	for id := range uint64(1000) {
		records = append(records, encode(b, g.Event(id)))
	}
	for name, c := range map[string]codec.Codec[nexmark.Event]{"scan": nexmark.Codec(), "encoding-json": codec.JSON[nexmark.Event]()} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := c.Decode(records[i%len(records)]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkGenerate(b *testing.B) {
	g := generator(b, nexmark.Config{})
	for id := uint64(0); b.Loop(); id++ {
		g.Event(id)
	}
}

func ExampleGenerator() {
	g, err := nexmark.NewGenerator(nexmark.Config{Seed: 1, Shuffle: 5, Interval: time.Second})
	if err != nil {
		panic(err)
	}
	for position := range uint64(5) {
		e := g.At(position)
		fmt.Println(e.Subject(), e.At().Format("15:04:05.000"))
	}
	// Output:
	// nexmark.person 00:00:00.000
	// nexmark.auction 00:00:03.000
	// nexmark.auction 00:00:01.000
	// nexmark.bid 00:00:04.000
	// nexmark.auction 00:00:02.000
}

// Events in state have the bytes of the stream; those of another kind are refused, not taken for none.
func TestKeptEvents(t *testing.T) {
	g := generator(t, nexmark.Config{})
	bid, auction := g.Event(10), g.Event(1)
	b, err := nexmark.KeptBid.Append(nil, bid.Bid)
	if err != nil || string(b) != string(encode(t, bid)) {
		t.Fatalf("a bid is kept as %s: %v", b, err)
	}
	if got, err := nexmark.KeptBid.Decode(b); err != nil || *got != *bid.Bid {
		t.Errorf("the bid came back as %+v: %v", got, err)
	}
	if got, err := nexmark.KeptBid.Decode(encode(t, auction)); !errors.Is(err, codec.ErrMalformed) {
		t.Errorf("an auction became the bid %+v: %v", got, err)
	}
}
