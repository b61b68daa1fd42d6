package processor_test

import (
	"fmt"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/processor/processortest"
	"github.com/weirstream/weir/state/codec"
)

func ExampleLookup() {
	h, err := processortest.NewHarness(func(sales processor.Stream[sale]) processor.Stream[string] {
		return processor.Lookup(sales, "region", processor.TableSpec[string]{Bucket: "shops", Codec: codec.String()}, sale.shop,
			func(s sale, region processor.Row[string], emit func(string)) error {
				if !region.Found {
					region.Value = "nowhere"
				}
				emit(fmt.Sprintf("%d in %s (revision %d)", s.Cents, region.Value, region.Revision))
				return nil
			})
	}, processortest.HarnessConfig{Tables: map[string]map[string]string{"shops": {"north": "Hamburg"}}})
	if err != nil {
		fmt.Println(err)
		return
	}
	sell(h, sale{Shop: "north", Cents: 500}, sale{Shop: "south", Cents: 70})
	h.PutRow("shops", "north", "Kiel")
	h.PutRow("shops", "south", "Ulm")
	sell(h, sale{Shop: "north", Cents: 30}, sale{Shop: "south", Cents: 20})
	h.DeleteRow("shops", "south")
	sell(h, sale{Shop: "south", Cents: 10})
	for _, line := range h.Take() {
		fmt.Println(line)
	}
	// Output:
	// 500 in Hamburg (revision 1)
	// 70 in nowhere (revision 0)
	// 30 in Kiel (revision 2)
	// 20 in Ulm (revision 3)
	// 10 in nowhere (revision 0)
}
