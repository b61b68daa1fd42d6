package jetstream_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// A mark that a plain client publishes, an exact cut behind messages that no source matches, and a drain, on a real server: in a
// stream that is Weir's, with barriers in it, and in one that is not.
func TestMarksCutsAndDrainsOnAServer(t *testing.T) {
	for _, mode := range []processor.BarrierMode{processor.BarriersInStream, processor.BarriersAtReader} {
		t.Run(string(mode), func(t *testing.T) {
			bubble(t, func(t *testing.T) { marksCutsAndDrains(t, mode) })
		})
	}
}

func marksCutsAndDrains(t *testing.T, mode processor.BarrierMode) {
	w := newWorld(t)
	ctx := context.Background()
	w.stream(js.StreamConfig{Name: "in", Subjects: []string{"acme.in.>", "acme.noise.>"}})
	w.stream(js.StreamConfig{Name: "out", Subjects: []string{"acme.out.>", "acme._weir.>"}, AllowAtomicPublish: true})
	total := state.NewValue[int]("total")
	b := processor.NewBuilder("revenue")
	src := processor.From(b, "src", processor.SourceSpec[string]{Filters: []tenants.Filter{"in.>"}, Codec: codec.String()})
	counts := processor.Process(processor.KeyBy(src, func(string) string { return "all" }), "count", func(pc *processor.Context[string], _ string) error {
		n, err := total.Get(pc)
		if err != nil {
			return err
		}
		pc.Emit(fmt.Sprint(n + 1))
		return total.Set(pc, n+1)
	}, processor.Uses(total))
	processor.To(counts, "out", processor.SinkSpec[string]{Subject: func(string) string { return "out.x" }, Codec: codec.String()})
	top, err := b.Build()
	ok(t, err)
	rt, err := processor.NewRuntime(processor.RuntimeConfig{Broker: w.b, Worker: "w1"})
	ok(t, err)
	_, err = rt.Deploy(ctx, top, "acme", processor.JobConfig{
		Parallelism: 2, Marks: processor.MarkConfig{Allow: true, MinInterval: time.Nanosecond},
		Checkpoint: processor.CheckpointConfig{Interval: 300 * time.Millisecond, Barriers: mode},
	})
	ok(t, err)
	rctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- rt.Run(rctx) }()
	defer func() {
		cancel()
		<-done
	}()
	counted := func(savepoint string) (n int, at uint64) {
		sp, err := processor.OpenSavepoint(ctx, w.b, top, job, savepoint)
		ok(t, err)
		op, err := sp.Operator(ctx, "count")
		ok(t, err)
		n, err = total.Get(op.Key("all"))
		ok(t, err)
		return n, sp.Positions()["src"].Sequence
	}
	w.publish("acme.in.a", 100)
	m := nats.NewMsg("acme.in.a")
	m.Header.Set(processor.HeaderMark, "revenue before")
	ack, err := w.js.PublishMsg(ctx, m)
	ok(t, err)
	w.publish("acme.in.b", 50)
	time.Sleep(10 * time.Second)
	n, at := counted("before")
	equal(t, "elements before the mark", n, 100)
	equal(t, "position of the mark", at, ack.Sequence)

	held, err := rt.Hold(ctx, job, "h", time.Minute)
	ok(t, err)
	w.publish("acme.in.a", 10)
	w.publish("acme.noise.x", 7)
	info, err := w.js.Stream(ctx, "in")
	ok(t, err)
	cut := info.CachedInfo().State.LastSeq
	if cut <= held["src"].Sequence {
		t.Fatalf("the job is held at %d, the stream ends at %d", held["src"].Sequence, cut)
	}
	_, err = rt.TakeSavepoint(ctx, job, processor.SavepointRequest{Name: "exact", Hold: "h", Cut: map[string]uint64{"src": cut}})
	ok(t, err)
	n, at = counted("exact")
	equal(t, "elements before the cut", n, 160)
	equal(t, "position of the cut", at, cut)

	w.publish("acme.in.a", 1000)
	w.publish("acme.noise.x", 3)
	rep, err := rt.Stop(ctx, job, processor.StopRequest{Mode: processor.StopDrain, Savepoint: "last"})
	ok(t, err)
	if !rep.Published {
		t.Errorf("the stop says %+v", rep)
	}
	n, _ = counted("last")
	equal(t, "elements drained", n, 1160)
	out, err := w.js.Stream(ctx, "out")
	ok(t, err)
	all, err := out.Info(ctx, js.WithSubjectFilter("acme.out.>"))
	ok(t, err)
	equal(t, "results", int(all.State.Subjects["acme.out.x"]), 1160)
}
