package processor_test

import (
	"fmt"
	"strings"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/processor/processortest"
	"github.com/weirstream/weir/state/codec"
)

// The rules of a shop are {shop}.limit in the bucket "limits": more than so many cents at once are worth a look.
func ExampleBroadcast() {
	h, err := processortest.NewHarness(func(in processor.Stream[sale]) processor.Stream[string] {
		limits := processor.Rules(in.Builder(), "limits", processor.RulesSpec[int64]{
			Bucket: "limits", Shared: true, Codec: codec.JSON[int64](),
		})
		return processor.Broadcast(processor.KeyBy(in, sale.shop), limits, "large-sales",
			func(pc *processor.Context[string], s sale, limits *processor.RuleView[int64]) error {
				for key, limit := range limits.All() {
					shop, _ := strings.CutSuffix(key, ".limit")
					if (shop == "all" || shop == s.Shop) && s.Cents > limit {
						pc.Emit(fmt.Sprintf("%s: %d is over %s", s.Shop, s.Cents, key))
					}
				}
				return nil
			})
	}, processortest.HarnessConfig{Start: midnight, Parallelism: 2})
	if err != nil {
		fmt.Println(err)
		return
	}
	steps := []error{
		h.PutRule("limits", "all.limit", "500"),
		h.Push(sale{"north", time.Minute, 400}, sale{"south", time.Minute, 900}),
		h.PutRule("limits", "north.limit", "300"),
		h.DeleteRule("limits", "all.limit"),
		h.Push(sale{"north", time.Hour, 400}, sale{"south", time.Hour, 900}),
	}
	for _, err := range steps {
		if err != nil {
			fmt.Println(err)
		}
	}
	for _, line := range h.Take() {
		fmt.Println(line)
	}
	// Output:
	// south: 900 is over all.limit
	// north: 400 is over north.limit
}
