// Union: two sources of different types become one stream, a filter keeps what matters, and an at-least-once sink with a computed
// subject publishes it at once instead of with the next checkpoint: lower latency, but a restart may publish again.
//
// Run it beside a server (nats-server -js), and publish:
//
//	go run ./examples/union
//	nats pub acme.web.orders '{"customer":"ann","euros":120}'
//	nats pub acme.shop.orders 'bob;50000'
package main

import (
	"context"
	"errors"
	"io"
	"log"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

type webOrder struct {
	Customer string `json:"customer"`
	Euros    int64  `json:"euros"`
}

// Sale is what both sources become.
type Sale struct {
	Customer string `json:"customer"`
	Cents    int64  `json:"cents"`
	Channel  string `json:"channel"`
}

// fromShop reads "customer;cents". A function that may refuse an element is a FlatMap.
func fromShop(line string, emit func(Sale)) error {
	customer, cents, _ := strings.Cut(line, ";")
	n, err := strconv.ParseInt(cents, 10, 64)
	if err != nil {
		return processor.Poison(err)
	}
	emit(Sale{customer, n, "shop"})
	return nil
}

func topology() (*processor.Topology, error) {
	b := processor.NewBuilder("alerts")
	web := processor.From(b, "web", processor.SourceSpec[webOrder]{Filters: []tenants.Filter{"web.orders"}, Codec: codec.JSON[webOrder]()})
	shop := processor.From(b, "shop", processor.SourceSpec[string]{Filters: []tenants.Filter{"shop.orders"}, Codec: codec.String()})
	sales := processor.Union("sales",
		processor.Map(web, "from-web", func(o webOrder) Sale { return Sale{o.Customer, o.Euros * 100, "web"} }),
		processor.FlatMap(shop, "from-shop", fromShop))
	large := processor.Filter(sales, "large", func(s Sale) bool { return s.Cents >= 10_000 })
	processor.To(large, "alerts", processor.SinkSpec[Sale]{
		Subject:     func(s Sale) string { return "alerts." + s.Channel + "." + tenants.EscapeToken(s.Customer) },
		Subjects:    []tenants.Filter{"alerts.>"},
		Codec:       codec.JSON[Sale](),
		AtLeastOnce: true,
	})
	return b.Build()
}

func run(ctx context.Context, url string, _ io.Writer) error {
	t, err := topology()
	if err != nil {
		return err
	}
	broker, err := jetstream.New(jetstream.Config{URL: url, CreateStreams: true})
	if err != nil {
		return err
	}
	defer broker.Close()
	if err := broker.Start(ctx); err != nil {
		return err
	}
	rt, err := processor.NewRuntime(processor.RuntimeConfig{Broker: broker})
	if err != nil {
		return err
	}
	if _, err := rt.Deploy(ctx, t, "acme", processor.JobConfig{Checkpoint: processor.CheckpointConfig{Interval: time.Second}}); err != nil {
		return err
	}
	return rt.Run(ctx)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, "nats://127.0.0.1:4222", os.Stdout); err != nil && !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
}
