package processor_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/processor/processortest"
)

func ExampleAsync() {
	rates := map[string]int64{"north": 2, "south": 3} // stands for a service somewhere
	rate := func(ctx context.Context, s sale) (string, error) {
		r, ok := rates[s.Shop]
		if !ok {
			return "", processor.Poison(errors.New("no such shop"))
		}
		return fmt.Sprintf("%s at %s: %d", s.Shop, midnight.Add(s.At).Format("15:04"), s.Cents*r), nil
	}
	h, err := processortest.NewHarness(func(in processor.Stream[sale]) processor.Stream[string] {
		return processor.Async(processor.KeyBy(in, sale.shop), "rates", processor.AsyncSpec[sale]{
			Concurrency: 10, Timeout: time.Second, Retry: processor.Retry{Attempts: 5},
		}, rate)
	}, processortest.HarnessConfig{Start: midnight, HoldCalls: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	sell(h, sale{"north", 10 * time.Minute, 500}, sale{"south", 20 * time.Minute, 70}, sale{"north", 30 * time.Minute, 30}, sale{"east", 40 * time.Minute, 1})
	for h.Calls() > 0 { // the last one answers first
		if err := h.Complete(h.Calls() - 1); err != nil {
			fmt.Println(err)
		}
	}
	for _, line := range h.Take() {
		fmt.Println(line)
	}
	for _, d := range h.DeadLetters() {
		fmt.Println("refused:", d.Element.Shop, d.Error)
	}
	// Output:
	// south at 00:20: 210
	// north at 00:10: 1000
	// north at 00:30: 60
	// refused: east no such shop
}
