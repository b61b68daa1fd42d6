package processortest_test

import (
	"fmt"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/processor/processortest"
)

// In a harness elements have the time that they are pushed with, and the watermark moves when the test says so.
func ExampleHarness_AdvanceWatermark() {
	start := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	h, err := processortest.NewHarness(func(in processor.Stream[order]) processor.Stream[string] {
		keyed := processor.KeyBy(in, func(o order) string { return o.ID })
		return processor.Process(keyed, "due", func(pc *processor.Context[string], o order) error {
			return pc.SetEventTimer(pc.Timestamp().Add(time.Hour))
		}, processor.OnEventTimer(func(pc *processor.Context[string], at time.Time) error {
			pc.Emit(pc.Key() + " is due at " + at.Format(time.TimeOnly))
			return nil
		}))
	}, processortest.HarnessConfig{})
	if err != nil {
		panic(err)
	}
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	must(h.PushAt(start.Add(time.Minute), order{"bob", 5}))
	must(h.PushAt(start, order{"ann", 100}))
	must(h.AdvanceWatermark(start.Add(time.Hour)))
	fmt.Println(h.Take())
	must(h.PushAt(start.Add(-time.Minute), order{"cem", 7})) // late: its hour is over already
	fmt.Println(h.Take())
	must(h.Finish()) // as a drain does
	fmt.Println(h.Take())
	// Output:
	// [ann is due at 13:00:00]
	// [cem is due at 12:59:00]
	// [bob is due at 13:01:00]
}
