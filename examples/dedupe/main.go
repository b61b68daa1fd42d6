// Dedupe: keyed state, processing-time timers, a side output and parameters that differ by tenant. Orders that come twice within
// a while are dropped; refunds go to an output of their own.
//
// Run it beside a server (nats-server -js), and publish:
//
//	go run ./examples/dedupe
//	nats pub acme.orders.eu '{"id":"o1","cents":500}'
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"time"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// Order is what a shop sends, sometimes twice.
type Order struct {
	ID    string `json:"id"`
	Cents int64  `json:"cents"`
}

var (
	seen    = state.NewValue[bool]("seen")
	refunds = processor.NewOutputTag[Order]("refunds")
	forget  = processor.NewParam("forget-after-ms", 60_000, func(ms int) error {
		if ms < 1 {
			return fmt.Errorf("%d is not a positive number of milliseconds", ms)
		}
		return nil
	})
)

func dedupe(pc *processor.Context[Order], o Order) error {
	if o.ID == "" {
		return processor.Poison(errors.New("an order has no id")) // to the dead letters; the job goes on
	}
	dup, err := seen.Get(pc)
	if err != nil || dup {
		return err
	}
	if o.Cents < 0 {
		refunds.Emit(pc, o)
	} else {
		pc.Emit(o)
	}
	if err := seen.Set(pc, true); err != nil {
		return err
	}
	return pc.SetTimer(pc.Now().Add(time.Duration(forget.Get(pc)) * time.Millisecond))
}

// expire is called with the order's key when its timer is due: the state does not grow for ever.
func expire(pc *processor.Context[Order], _ time.Time) error { return seen.Clear(pc) }

func topology() (*processor.Topology, error) {
	b := processor.NewBuilder("dedupe")
	orders := processor.From(b, "orders", processor.SourceSpec[Order]{Filters: []tenants.Filter{"orders.>"}, Codec: codec.JSON[Order]()})
	byID := processor.KeyBy(orders, func(o Order) string { return o.ID })
	unique := processor.Process(byID, "dedupe", dedupe, processor.Uses(seen, refunds, forget), processor.OnTimer(expire))
	processor.To(unique, "unique", processor.SinkSpec[Order]{FixedSubject: "unique", Codec: codec.JSON[Order]()})
	processor.To(processor.SideOutput(unique, refunds), "refunds", processor.SinkSpec[Order]{FixedSubject: "refunds", Codec: codec.JSON[Order]()})
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
	params := map[tenants.ID]map[string]any{"acme": nil, "globex": {"forget-after-ms": 1}}
	for tenant, p := range params {
		cfg := processor.JobConfig{Params: p, Checkpoint: processor.CheckpointConfig{Interval: 200 * time.Millisecond}}
		if _, err := rt.Deploy(ctx, t, tenant, cfg); err != nil {
			return err
		}
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
