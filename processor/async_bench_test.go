package processor

import (
	"context"
	"testing"
	"time"
)

// callingHost makes calls in goroutines.
type callingHost struct {
	idleHost
	results chan event
}

func (h callingHost) call(timeout time.Duration, _ func() Where, run func(context.Context) event) time.Time {
	go func() { h.results <- run(context.Background()) }()
	return time.Now().Add(timeout)
}

// Calls of a millisecond, 64 at a time: one element takes the 64th part of it, and what the engine adds.
func BenchmarkAsync(b *testing.B) {
	const concurrency = 64
	for name, latency := range map[string]time.Duration{"1ms": time.Millisecond, "at once": 0} {
		for order, unordered := range map[string]bool{"ordered": false, "unordered": true} {
			b.Run(name+"/"+order, func(b *testing.B) {
				task := windowTask(b, func(s Stream[event8]) Stream[event8] {
					return Async(KeyBy(s, sumEvents{}.key), "ask", AsyncSpec[event8]{Concurrency: concurrency, Unordered: unordered}, func(ctx context.Context, e event8) (event8, error) {
						return e, blocking{}.Sleep(ctx, latency)
					})
				})
				host := callingHost{results: make(chan event, concurrency)}
				task.bind(host)
				seq := uint64(0)
				records := []Record{{Subject: "acme.in.x", Data: []byte{1, 0, 1}}}
				b.ReportAllocs()
				checkpoint := uint64(0)
				for b.Loop() {
					records[0].Data[0]++
					stepAll(b, task, timedRecords(records, &seq))
					for task.full != 0 {
						stepAll(b, task, <-host.results)
					}
					if seq%10_000 == 0 {
						checkpoint++
						stepAll(b, task, evTrigger{checkpoint: checkpoint, nonce: testNonce, inject: true})
						stepAll(b, task, evCommitted{checkpoint})
					}
				}
				for task.calls() > 0 {
					stepAll(b, task, <-host.results)
				}
			})
		}
	}
}
