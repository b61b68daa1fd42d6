package jetstream_test

import (
	"context"
	"errors"
	"testing"
	"time"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// A record that user code never returns from, on a real server: it is named, the next attempt gets past it, and what its goroutine goes
// on with when it is let go reaches no stream, also where a sink publishes at once.
func TestStuckUserCodeOnAServer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		ctx := context.Background()
		w.stream(js.StreamConfig{Name: "in", Subjects: []string{"acme.in.>"}})
		out := w.stream(js.StreamConfig{Name: "out", Subjects: []string{"acme.out.>", "acme._weir.>"}, AllowAtomicPublish: true})
		open, entered := make(chan struct{}), make(chan struct{}, 1)
		b := processor.NewBuilder("revenue")
		src := processor.From(b, "src", processor.SourceSpec[string]{Filters: []tenants.Filter{"in.>"}, Codec: codec.String()})
		held := processor.Map(src, "hold", func(s string) string {
			if s == "acme.in.x 5" {
				select {
				case entered <- struct{}{}:
					<-open
				default: // the second time
				}
			}
			return s
		})
		processor.To(held, "staged", processor.SinkSpec[string]{FixedSubject: "out.staged", Codec: codec.String()})
		processor.To(held, "direct", processor.SinkSpec[string]{FixedSubject: "out.direct", Codec: codec.String(), AtLeastOnce: true})
		top, err := b.Build()
		ok(t, err)
		found := make(chan *processor.StuckError, 10)
		rt, err := processor.NewRuntime(processor.RuntimeConfig{Broker: w.b, Worker: "w1", Listener: processor.Listener{Job: func(ev processor.JobEvent) {
			var stuck *processor.StuckError
			if errors.As(ev.Err, &stuck) && ev.State == processor.JobRestarting {
				found <- stuck
			}
		}}})
		ok(t, err)
		j, err := rt.Deploy(ctx, top, "acme", processor.JobConfig{
			Checkpoint: processor.CheckpointConfig{Interval: 300 * time.Millisecond, Timeout: 2 * time.Second},
		})
		ok(t, err)
		rctx, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- rt.Run(rctx) }()
		w.publish("acme.in.x", 10)
		stuck := <-found
		if stuck.Operator != "hold" || stuck.Stream != "in" || stuck.Seq == 0 || stuck.Source != "src" {
			t.Errorf("found %v", stuck)
		}
		time.Sleep(20 * time.Second)
		before := subjects(t, out)
		equal(t, "results", int(before["acme.out.staged"]), 10)
		equal(t, "abandoned goroutines", int(j.Metrics().Abandoned), 1)
		close(open)
		time.Sleep(20 * time.Second)
		after := subjects(t, out)
		equal(t, "abandoned goroutines behind their return", int(j.Metrics().Abandoned), 0)
		for _, subject := range []string{"acme.out.staged", "acme.out.direct"} {
			equal(t, "messages on "+subject, int(after[subject]), int(before[subject]))
		}
		cancel()
		<-done
	})
}

func subjects(t *testing.T, s js.Stream) map[string]uint64 {
	t.Helper()
	info, err := s.Info(context.Background(), js.WithSubjectFilter("acme.out.>"))
	ok(t, err)
	return info.State.Subjects
}
