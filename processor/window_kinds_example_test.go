package processor_test

import (
	"fmt"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/processor/processortest"
)

// sums is the revenue of windows without a time of their own.
type sums struct{ revenue }

func (sums) Result(p processor.Pane, acc int64) string {
	return fmt.Sprintf("%s %s %d: %d", p.Key, p.Timing, p.Index, acc)
}

func ExampleCountTumbling() {
	printed(func(in processor.KeyedStream[sale]) processor.Stream[string] {
		return processor.Aggregate(processor.Window(in, processor.CountTumbling(2)), "pairs", sums{})
	},
		sale{"north", 0, 1}, sale{"south", 0, 10}, sale{"north", 0, 2}, sale{"north", 0, 4}, sale{"north", 0, 8}, sale{"north", 0, 16})
	// Output:
	// north on time 0: 3
	// north on time 0: 12
}

func ExampleCountSliding() {
	printed(func(in processor.KeyedStream[sale]) processor.Stream[string] {
		return processor.Aggregate(processor.Window(in, processor.CountSliding(3, 2)), "last-three", sums{})
	},
		sale{"north", 0, 1}, sale{"north", 0, 2}, sale{"north", 0, 4}, sale{"north", 0, 8}, sale{"north", 0, 16})
	// Output:
	// north on time 0: 3
	// north on time 0: 14
}

// A global window never ends by itself: its results are early ones, and a drain's.
func ExampleGlobal() {
	printed(func(in processor.KeyedStream[sale]) processor.Stream[string] {
		return processor.Aggregate(processor.Window(in, processor.Global(), processor.EarlyEvery(2)), "running-total", sums{})
	},
		sale{"north", 0, 1}, sale{"north", time.Hour, 2}, sale{"north", 48 * time.Hour, 4})
	// Output:
	// north early 0: 3
	// north on time 1: 7
}

// A large sale keeps its shop's session open for longer.
func ExampleSessionBy() {
	printed(func(in processor.KeyedStream[sale]) processor.Stream[string] {
		gap := func(s sale) time.Duration { return time.Duration(s.Cents) * time.Minute }
		return processor.Aggregate(processor.Window(in, processor.SessionBy(gap)), "visits", revenue{})
	},
		sale{"north", 0, 5}, sale{"north", 10 * time.Minute, 30}, sale{"north", 35 * time.Minute, 1})
	// Output:
	// north 00:00-00:05 on time: 5
	// north 00:10-00:40 on time: 31
}

// The shops of a tenant together, a window for all of them.
func ExampleWindowAll() {
	h, err := processortest.NewHarness(func(in processor.Stream[sale]) processor.Stream[string] {
		return processor.Aggregate(processor.WindowAll(in, processor.Tumbling(time.Hour)), "revenue", revenue{})
	}, processortest.HarnessConfig{Start: midnight, Parallelism: 4})
	if err != nil {
		panic(err)
	}
	sell(h, sale{"north", 10 * time.Minute, 500}, sale{"south", 20 * time.Minute, 70}, sale{"west", 70 * time.Minute, 1})
	fmt.Println(h.Take())
	// Output:
	// [ 00:00-01:00 on time: 570]
}

// A business day that begins at 22:00.
func ExampleOffset() {
	printed(func(in processor.KeyedStream[sale]) processor.Stream[string] {
		return processor.Aggregate(processor.Window(in, processor.Tumbling(24*time.Hour), processor.Offset(-2*time.Hour)), "revenue", revenue{})
	},
		sale{"north", 21 * time.Hour, 1}, sale{"north", 23 * time.Hour, 2}, sale{"north", 26 * time.Hour, 4})
	// Output:
	// north 22:00-22:00 on time: 1
	// north 22:00-22:00 on time: 6
}

// Every minute of processing time the open windows that have new elements say how far they are.
func ExampleEarlyInterval() {
	h, err := processortest.NewHarness(func(in processor.Stream[sale]) processor.Stream[string] {
		w := processor.Window(processor.KeyBy(in, sale.shop), processor.Tumbling(time.Hour), processor.EarlyInterval(time.Minute))
		return processor.Aggregate(w, "revenue", revenue{})
	}, processortest.HarnessConfig{Start: midnight})
	if err != nil {
		panic(err)
	}
	for _, cents := range []int64{1, 2, 0} { // in the last minute nothing is sold
		if cents > 0 {
			sell(h, sale{"north", 10 * time.Minute, cents})
		}
		if err := h.Advance(time.Minute); err != nil {
			panic(err)
		}
		fmt.Println(h.Take())
	}
	if err := h.AdvanceWatermark(midnight.Add(time.Hour)); err != nil {
		panic(err)
	}
	fmt.Println(h.Take())
	// Output:
	// [north 00:00-01:00 early: 1]
	// [north 00:00-01:00 early: 3]
	// []
	// [north 00:00-01:00 on time: 3]
}
