package jetstream_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// TestAsyncOverKills has a worker that is gone every few seconds while calls are under way. Each answer is published once, in the order of
// its key.
func TestAsyncOverKills(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		ctx := context.Background()
		w.stream(js.StreamConfig{Name: "in", Subjects: []string{"acme.in.>"}})
		w.stream(js.StreamConfig{Name: "out", Subjects: []string{"acme.out.>", "acme._weir.>"}, AllowAtomicPublish: true})
		b := processor.NewBuilder("revenue")
		src := processor.From(b, "src", processor.SourceSpec[string]{Filters: []tenants.Filter{"in.>"}, Codec: codec.String()})
		key := func(s string) string { return s[:len("acme.in.x")] }
		answers := processor.Async(processor.KeyBy(src, key), "ask", processor.AsyncSpec[string]{Concurrency: 20}, func(ctx context.Context, s string) (string, error) {
			select {
			case <-time.After(time.Duration(100+len(s)*len(s)%7*100) * time.Millisecond):
				return s, nil
			case <-ctx.Done():
				return "", ctx.Err()
			}
		})
		processor.To(answers, "out", processor.SinkSpec[string]{Subject: func(s string) string { return "out." + s[len("acme.in."):len("acme.in.x")] }, Codec: codec.String()})
		top, err := b.Build()
		ok(t, err)
		for i := range 5 {
			rt, err := processor.NewRuntime(processor.RuntimeConfig{Broker: w.b, Worker: "w1"})
			ok(t, err)
			j, err := rt.Deploy(ctx, top, "acme", processor.JobConfig{Parallelism: 1 + i%2*2, Checkpoint: processor.CheckpointConfig{Interval: 300 * time.Millisecond}})
			ok(t, err)
			rctx, cancel := context.WithCancel(ctx)
			done := make(chan error, 1)
			go func() { done <- rt.Run(rctx) }()
			if i < 4 {
				w.publish(fmt.Sprint("acme.in.", string(rune('a'+i%2))), 100)
				time.Sleep(2 * time.Second)
				if m := j.Metrics(); m.AsyncInFlight == 0 {
					t.Errorf("round %d: nothing was in flight at the kill: %+v", i, m)
				}
			} else {
				time.Sleep(5 * time.Second)
				_, err := rt.Stop(ctx, job, processor.StopRequest{Mode: processor.StopDrain})
				ok(t, err)
			}
			cancel()
			<-done
		}
		out, err := w.js.Stream(ctx, "out")
		ok(t, err)
		for _, k := range []string{"a", "b"} {
			cons, err := out.OrderedConsumer(ctx, js.OrderedConsumerConfig{FilterSubjects: []string{"acme.out." + k}})
			ok(t, err)
			for i := range 200 {
				m, err := cons.Next()
				ok(t, err)
				equal(t, "the answer", string(m.Data()), fmt.Sprintf("acme.in.%s %d", k, i%100))
			}
			info, err := out.Info(ctx, js.WithSubjectFilter("acme.out."+k))
			ok(t, err)
			equal(t, "the number of answers", info.State.Subjects["acme.out."+k], 200)
		}
	})
}
