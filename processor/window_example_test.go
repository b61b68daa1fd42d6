package processor_test

import (
	"fmt"
	"iter"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/processor/processortest"
)

// sale is an element of the examples.
type sale struct {
	Shop  string
	At    time.Duration // since midnight
	Cents int64
}

func (s sale) shop() string { return s.Shop }

var midnight = time.Date(2024, 5, 1, 0, 0, 0, 0, time.UTC)

// sell pushes sales one by one; the watermark follows their times.
func sell(h *processortest.Harness[sale, string], sales ...sale) {
	for _, s := range sales {
		at := midnight.Add(s.At)
		if err := h.PushAt(at, s); err != nil {
			fmt.Println(err)
		}
		if err := h.AdvanceWatermark(at.Add(-1)); err != nil {
			fmt.Println(err)
		}
	}
}

// revenue sums up cents.
type revenue struct{}

func (revenue) Init() int64                 { return 0 }
func (revenue) Add(acc int64, s sale) int64 { return acc + s.Cents }
func (revenue) Merge(a, b int64) int64      { return a + b }
func (revenue) Result(p processor.Pane, acc int64) string {
	return fmt.Sprintf("%s %s-%s %s: %d", p.Key, p.Start.Format("15:04"), p.End.Format("15:04"), p.Timing, acc)
}

// printed runs one windowed stream over the sales and prints what comes out, at the end too.
func printed(build func(in processor.KeyedStream[sale]) processor.Stream[string], sales ...sale) {
	h, err := processortest.NewHarness(func(in processor.Stream[sale]) processor.Stream[string] {
		return build(processor.KeyBy(in, sale.shop))
	}, processortest.HarnessConfig{Start: midnight})
	if err != nil {
		fmt.Println(err)
		return
	}
	sell(h, sales...)
	if err := h.Finish(); err != nil {
		fmt.Println(err)
	}
	for _, line := range h.Take() {
		fmt.Println(line)
	}
}

func ExampleAggregate() {
	printed(func(in processor.KeyedStream[sale]) processor.Stream[string] {
		return processor.Aggregate(processor.Window(in, processor.Tumbling(time.Hour)), "revenue", revenue{})
	},
		sale{"north", 10 * time.Minute, 500}, sale{"south", 20 * time.Minute, 70}, sale{"north", 50 * time.Minute, 300},
		sale{"north", 70 * time.Minute, 100})
	// Output:
	// north 00:00-01:00 on time: 800
	// south 00:00-01:00 on time: 70
	// north 01:00-02:00 on time: 100
}

func ExampleSliding() {
	printed(func(in processor.KeyedStream[sale]) processor.Stream[string] {
		return processor.Aggregate(processor.Window(in, processor.Sliding(time.Hour, 30*time.Minute)), "revenue", revenue{})
	},
		sale{"north", 40 * time.Minute, 500}, sale{"north", 70 * time.Minute, 100})
	// Output:
	// north 00:00-01:00 on time: 500
	// north 00:30-01:30 on time: 600
	// north 01:00-02:00 on time: 100
}

func ExampleSession() {
	printed(func(in processor.KeyedStream[sale]) processor.Stream[string] {
		return processor.Aggregate(processor.Window(in, processor.Session(15*time.Minute)), "visits", revenue{})
	},
		sale{"north", 0, 1}, sale{"north", 10 * time.Minute, 2}, sale{"north", 20 * time.Minute, 3}, sale{"north", time.Hour, 4})
	// Output:
	// north 00:00-00:35 on time: 6
	// north 01:00-01:15 on time: 4
}

func ExampleReduce() {
	printed(func(in processor.KeyedStream[sale]) processor.Stream[string] {
		largest := processor.Reduce(processor.Window(in, processor.Tumbling(time.Hour)), "largest", func(a, b sale) sale {
			if b.Cents > a.Cents {
				return b
			}
			return a
		})
		return processor.Map(largest, "text", func(s sale) string { return fmt.Sprint(s.Shop, " ", s.At, " ", s.Cents) })
	},
		sale{"north", 10 * time.Minute, 500}, sale{"north", 20 * time.Minute, 900}, sale{"north", 30 * time.Minute, 100})
	// Output:
	// north 20m0s 900
}

func ExampleProcessWindow() {
	printed(func(in processor.KeyedStream[sale]) processor.Stream[string] {
		w := processor.Window(in, processor.CountTumbling(3))
		return processor.ProcessWindow(w, "triples", func(pc *processor.Context[string], pane processor.Pane, sales iter.Seq[sale]) error {
			text := pane.Key
			for s := range sales {
				text += fmt.Sprint(" ", s.Cents)
			}
			pc.Emit(text)
			return nil
		})
	},
		sale{"north", 0, 1}, sale{"north", 0, 2}, sale{"south", 0, 3}, sale{"north", 0, 4}, sale{"north", 0, 5})
	// Output:
	// north 1 2 4
}

// A sale that comes late, but within the allowed lateness, gives the hour's revenue anew; one that comes later is refused.
func ExampleAllowedLateness() {
	refused := processor.NewOutputTag[sale]("refused")
	printed(func(in processor.KeyedStream[sale]) processor.Stream[string] {
		w := processor.Window(in, processor.Tumbling(time.Hour), processor.AllowedLateness(30*time.Minute), processor.LateOutput(refused))
		sums := processor.Aggregate(w, "revenue", revenue{})
		late := processor.Map(processor.SideOutput(sums, refused), "text", func(s sale) string { return fmt.Sprint("refused: ", s.Cents) })
		return processor.Union("both", sums, late)
	},
		sale{"north", 10 * time.Minute, 500}, sale{"north", 70 * time.Minute, 100}, sale{"north", 50 * time.Minute, 25},
		sale{"north", 95 * time.Minute, 10}, sale{"north", 55 * time.Minute, 7})
	// Output:
	// north 00:00-01:00 on time: 500
	// north 00:00-01:00 late: 525
	// refused: 7
	// north 01:00-02:00 on time: 110
}

func ExampleEarlyEvery() {
	printed(func(in processor.KeyedStream[sale]) processor.Stream[string] {
		return processor.Aggregate(processor.Window(in, processor.Tumbling(time.Hour), processor.EarlyEvery(2)), "revenue", revenue{})
	},
		sale{"north", 10 * time.Minute, 1}, sale{"north", 20 * time.Minute, 2}, sale{"north", 30 * time.Minute, 4})
	// Output:
	// north 00:00-01:00 early: 3
	// north 00:00-01:00 on time: 7
}
