package main

import (
	"strings"

	"github.com/weirstream/weir/cmd/weircli"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

type Order struct {
	ID, Customer string
	Cents        int64
}

func (o Order) Key() string { return o.Customer }

type Total struct {
	Customer string
	Cents    int64
}

var spent = state.NewValue[int64]("spent") // one per key, per tenant

func add(pc *processor.Context[Total], o Order) error {
	sum, err := spent.Get(pc)
	if err != nil {
		return err
	}
	pc.Emit(Total{o.Customer, sum + o.Cents})
	return spent.Set(pc, sum+o.Cents)
}

func Revenue() (*processor.Topology, error) {
	b := processor.NewBuilder("revenue")
	orders := processor.From(b, "orders", processor.SourceSpec[Order]{
		Filters: []tenants.Filter{"orders.>"}, Codec: codec.JSON[Order](), // relative to the tenant: acme.orders.>
	})
	totals := processor.Process(processor.KeyBy(orders, Order.Key), "add", add, processor.Uses(spent))
	processor.To(totals, "totals", processor.SinkSpec[Total]{
		Subject: func(t Total) string { return "totals." + tenants.EscapeToken(strings.ToLower(t.Customer)) },
		Codec:   codec.JSON[Total](),
	})
	return b.Build()
}

var app = weircli.App{Name: "revenue", Topologies: []func() (*processor.Topology, error){Revenue}}

func main() { weircli.Main(app) }
