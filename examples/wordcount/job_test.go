package wordcount_test

import (
	"context"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/weirstream/weir/examples/internal/exampletest"
	"github.com/weirstream/weir/examples/wordcount"
	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/processor"
)

func TestWordcount(t *testing.T) {
	r := exampletest.Start(t, func(ctx context.Context, url string, _ io.Writer) error {
		topology, err := wordcount.Topology()
		if err != nil {
			return err
		}
		broker, err := jetstream.New(jetstream.Config{URL: url, CreateStreams: true})
		if err != nil {
			return err
		}
		defer broker.Close()
		if err := broker.Start(ctx); err != nil {
			return err
		}
		rt, err := processor.NewRuntime(processor.RuntimeConfig{Broker: broker})
		if err != nil {
			return err
		}
		cfg := processor.JobConfig{Checkpoint: processor.CheckpointConfig{Interval: 100 * time.Millisecond}}
		if _, err := rt.Deploy(ctx, topology, "acme", cfg); err != nil {
			return err
		}
		return rt.Run(ctx)
	})
	r.Publish("acme.lines", "The fox", "the dog and the fox")
	want := []string{
		`{"word":"the","count":1}`, `{"word":"fox","count":1}`,
		`{"word":"the","count":2}`, `{"word":"dog","count":1}`, `{"word":"and","count":1}`, `{"word":"the","count":3}`, `{"word":"fox","count":2}`,
	}
	if got := r.Read("acme", "acme.counts", len(want)); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	r.AwaitKey("counts", "acme.the", "3")
}
