package processortest_test

import (
	"fmt"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/processor/processortest"
	"github.com/weirstream/weir/state"
)

type order struct {
	ID    string
	Cents int
}

var (
	total   = state.NewValue[int64]("total")
	refunds = processor.NewOutputTag[order]("refunds")
)

// sum emits a customer's total a minute after the first order.
func sum(pc *processor.Context[string], o order) error {
	if o.Cents < 0 {
		refunds.Emit(pc, o)
		return nil
	}
	n, err := total.Get(pc)
	if err != nil {
		return err
	}
	if n == 0 {
		if err := pc.SetTimer(pc.Now().Add(time.Minute)); err != nil {
			return err
		}
	}
	return total.Set(pc, n+int64(o.Cents))
}

func report(pc *processor.Context[string], _ time.Time) error {
	n, err := total.Get(pc)
	if err != nil {
		return err
	}
	pc.Emit(fmt.Sprintf("%s: %d", pc.Key(), n))
	return total.Clear(pc)
}

func Example() {
	var refunded *processortest.Collected[order]
	h, err := processortest.NewHarness(func(in processor.Stream[order]) processor.Stream[string] {
		keyed := processor.KeyBy(in, func(o order) string { return o.ID })
		sums := processor.Process(keyed, "sum", sum, processor.Uses(total, refunds), processor.OnTimer(report))
		refunded = processortest.Collect(processor.SideOutput(sums, refunds), "refunds")
		return sums
	}, processortest.HarnessConfig{})
	if err != nil {
		panic(err)
	}
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	must(h.Push(order{"ann", 100}, order{"bob", 5}, order{"ann", 50}, order{"bob", -5}))
	snapshot, err := h.Snapshot()
	must(err)
	must(h.Push(order{"ann", 1}))
	must(h.Advance(time.Minute))
	fmt.Println(h.Take(), refunded.Take())

	// The same minute again from the snapshot, on four subtasks, without the last order.
	must(h.Restore(snapshot, 4))
	must(h.Advance(time.Minute))
	fmt.Println(len(h.Take()), "customers")
	// Output:
	// [ann: 151 bob: 5] [{bob -5}]
	// 2 customers
}
