package processor_test

import (
	"fmt"
	"strings"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/processor/processortest"
	"github.com/weirstream/weir/state"
)

// A word is passed on once an hour: what it was remembered by expires.
func ExampleProcess() {
	seen := state.NewValue[bool]("seen", state.TTL(time.Hour))
	h, err := processortest.NewHarness(func(in processor.Stream[string]) processor.Stream[string] {
		return processor.Process(processor.KeyBy(in, strings.ToLower), "dedupe", func(pc *processor.Context[string], word string) error {
			if dup, err := seen.Get(pc); err != nil || dup {
				return err
			}
			pc.Emit(word)
			return seen.Set(pc, true)
		}, processor.Uses(seen))
	}, processortest.HarnessConfig{})
	if err != nil {
		panic(err)
	}
	for _, words := range []string{"weir water Weir", "water", "weir"} {
		if err := h.Push(strings.Fields(words)...); err != nil {
			panic(err)
		}
		fmt.Println(h.Take())
		if err := h.Advance(40 * time.Minute); err != nil {
			panic(err)
		}
	}
	// Output:
	// [weir water]
	// []
	// [weir]
}

// Timers of processing time, a reminder for each order that is not paid within a minute.
func ExampleOnTimer() {
	open := state.NewValue[bool]("open")
	h, err := processortest.NewHarness(func(in processor.Stream[string]) processor.Stream[string] {
		order := func(event string) string { return strings.TrimPrefix(event, "paid ") }
		return processor.Process(processor.KeyBy(in, order), "remind", func(pc *processor.Context[string], event string) error {
			if event != pc.Key() {
				return open.Clear(pc)
			}
			if err := pc.SetTimer(pc.Now().Add(time.Minute)); err != nil {
				return err
			}
			return open.Set(pc, true)
		}, processor.Uses(open), processor.OnTimer(func(pc *processor.Context[string], _ time.Time) error {
			waiting, err := open.Get(pc)
			if waiting {
				pc.Emit("pay order " + pc.Key())
			}
			return err
		}))
	}, processortest.HarnessConfig{})
	if err != nil {
		panic(err)
	}
	if err := h.Push("1", "2", "paid 1"); err != nil {
		panic(err)
	}
	if err := h.Advance(time.Minute); err != nil {
		panic(err)
	}
	fmt.Println(h.Take())
	// Output:
	// [pay order 2]
}

// Operators without state need no key.
func ExampleUnion() {
	h, err := processortest.NewHarness(func(in processor.Stream[string]) processor.Stream[string] {
		words := processor.FlatMap(in, "split", func(line string, emit func(string)) error {
			for _, w := range strings.Fields(line) {
				emit(w)
			}
			return nil
		})
		long := processor.Filter(words, "long", func(w string) bool { return len(w) > 4 })
		return processor.Union("all", words, processor.Map(long, "shout", strings.ToUpper))
	}, processortest.HarnessConfig{})
	if err != nil {
		panic(err)
	}
	if err := h.Push("a weir across", "the stream"); err != nil {
		panic(err)
	}
	fmt.Println(h.Take())
	// Output:
	// [a weir ACROSS across the STREAM stream]
}
