package processor_test

import (
	"fmt"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/processor/processortest"
)

// joined runs a join of sales with refunds, which are sales of negative cents, and prints what comes out.
func joined(build func(sales, refunds processor.KeyedStream[sale]) processor.Stream[string], sales ...sale) {
	h, err := processortest.NewHarness(func(in processor.Stream[sale]) processor.Stream[string] {
		sold := processor.Filter(in, "sold", func(s sale) bool { return s.Cents >= 0 })
		refunded := processor.Filter(in, "refunded", func(s sale) bool { return s.Cents < 0 })
		return build(processor.KeyBy(sold, sale.shop), processor.KeyBy(refunded, sale.shop))
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

func ExampleIntervalJoin() {
	joined(func(sales, refunds processor.KeyedStream[sale]) processor.Stream[string] {
		return processor.IntervalJoin(sales, refunds, "refunds-within-the-hour", processor.Within(0, time.Hour),
			func(pc *processor.Context[string], s, r sale) error {
				pc.Emit(fmt.Sprintf("%s at %s: %d, then %d", pc.Key(), pc.Timestamp().Format("15:04"), s.Cents, r.Cents))
				return nil
			})
	},
		sale{"north", 10 * time.Minute, 500}, sale{"south", 20 * time.Minute, 70}, sale{"north", 40 * time.Minute, -500},
		sale{"south", 90 * time.Minute, -70})
	// Output:
	// north at 00:40: 500, then -500
}

func ExampleIntervalLeftJoin() {
	joined(func(sales, refunds processor.KeyedStream[sale]) processor.Stream[string] {
		return processor.IntervalLeftJoin(sales, refunds, "kept", processor.Within(0, time.Hour),
			func(pc *processor.Context[string], s sale, r *sale) error {
				if r == nil {
					pc.Emit(fmt.Sprintf("%s at %s: %d is kept", pc.Key(), pc.Timestamp().Format("15:04"), s.Cents))
				}
				return nil
			})
	},
		sale{"north", 10 * time.Minute, 500}, sale{"south", 20 * time.Minute, 70}, sale{"north", 40 * time.Minute, -500})
	// Output:
	// south at 01:20: 70 is kept
}

func ExampleWindowJoin() {
	joined(func(sales, refunds processor.KeyedStream[sale]) processor.Stream[string] {
		return processor.WindowJoin(sales, refunds, "pairs", processor.Tumbling(time.Hour),
			func(pc *processor.Context[string], p processor.Pane, s, r sale) error {
				pc.Emit(fmt.Sprintf("%s from %s: %d with %d", p.Key, p.Start.Format("15:04"), s.Cents, r.Cents))
				return nil
			})
	},
		sale{"north", 10 * time.Minute, 500}, sale{"north", 20 * time.Minute, -200}, sale{"north", 50 * time.Minute, -300},
		sale{"north", 70 * time.Minute, 100})
	// Output:
	// north from 00:00: 500 with -200
	// north from 00:00: 500 with -300
}
