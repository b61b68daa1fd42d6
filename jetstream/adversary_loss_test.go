package jetstream_test

import (
	"context"
	"testing"
	"time"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// AllowDataLoss must let the job go on, not only the reader: a stream that was recreated begins with sequence 1 again.
func TestJobGoesOnOnARecreatedStreamWhereDataLossIsAllowed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		ctx := context.Background()
		in := js.StreamConfig{Name: "in", Subjects: []string{"acme.in.>"}}
		w.stream(in)
		w.stream(js.StreamConfig{Name: "out", Subjects: []string{"acme.out.>", "acme._weir.>"}, AllowAtomicPublish: true})
		topology := func() *processor.Topology {
			b := processor.NewBuilder("revenue")
			src := processor.From(b, "src", processor.SourceSpec[string]{Filters: []tenants.Filter{"in.>"}, Codec: codec.String()})
			processor.To(src, "out", processor.SinkSpec[string]{Subject: func(string) string { return "out.x" }, Codec: codec.String()})
			top, err := b.Build()
			ok(t, err)
			return top
		}
		run := func(loss bool) *processor.Job {
			rt, err := processor.NewRuntime(processor.RuntimeConfig{Broker: w.b, Worker: "w1"})
			ok(t, err)
			j, err := rt.Deploy(ctx, topology(), "acme", processor.JobConfig{AllowDataLoss: loss, Checkpoint: processor.CheckpointConfig{Interval: 200 * time.Millisecond}})
			ok(t, err)
			rctx, cancel := context.WithCancel(ctx)
			done := make(chan error, 1)
			go func() { done <- rt.Run(rctx) }()
			time.Sleep(30 * time.Second)
			cancel()
			<-done
			return j
		}
		count := func() int {
			s, err := w.js.Stream(ctx, "out")
			ok(t, err)
			info, err := s.Info(ctx, js.WithSubjectFilter("acme.out.>"))
			ok(t, err)
			return int(info.State.Subjects["acme.out.x"])
		}
		w.publish("acme.in.a", 50)
		run(false)
		equal(t, "output", count(), 50)
		ok(t, w.js.DeleteStream(ctx, "in"))
		w.stream(in)
		w.publish("acme.in.a", 10)
		run(true)
		equal(t, "output", count(), 60)
		w.publish("acme.in.a", 10)
		run(false)
		equal(t, "output", count(), 70)
	})
}
