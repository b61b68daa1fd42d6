// Multitenant: one counting job for several tenants in one process; a listener prints, per tenant and checkpoint, its ID and the
// value of the state. Each tenant's job has its own state, position and checkpoints.
//
// Run it beside a server (nats-server -js), and publish:
//
//	go run ./examples/multitenant
//	nats pub acme.events hello
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

var total = state.NewValue[uint64]("total")

func count(pc *processor.Context[uint64], _ []byte) error {
	n, err := total.Get(pc)
	if err != nil {
		return err
	}
	pc.Emit(n + 1)
	return total.Set(pc, n+1)
}

func topology() (*processor.Topology, error) {
	b := processor.NewBuilder("counting")
	events := processor.From(b, "events", processor.SourceSpec[[]byte]{Filters: []tenants.Filter{"events"}, Codec: codec.Bytes()})
	one := processor.KeyBy(events, func([]byte) string { return "all" })
	processor.Process(one, "count", count, processor.Uses(total))
	return b.Build()
}

func run(ctx context.Context, url string, out io.Writer) error {
	t, err := topology()
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
	// A listener must return soon: reading the state of a checkpoint is done beside it.
	done := make(chan processor.CheckpointEvent, 64)
	rt, err := processor.NewRuntime(processor.RuntimeConfig{Broker: broker, Listener: processor.Listener{
		Checkpoint: func(e processor.CheckpointEvent) {
			select {
			case done <- e:
			default: // the printer is behind: a line less
			}
		},
	}})
	if err != nil {
		return err
	}
	jobs := make(map[tenants.JobID]*processor.Job)
	for _, tenant := range []tenants.ID{"acme", "globex", "initech"} {
		j, err := rt.Deploy(ctx, t, tenant, processor.JobConfig{Checkpoint: processor.CheckpointConfig{Interval: 200 * time.Millisecond}})
		if err != nil {
			return err
		}
		jobs[j.ID()] = j
	}
	var printer sync.WaitGroup
	printer.Go(func() {
		for e := range done {
			if err := report(ctx, out, jobs[e.Job], e); err != nil {
				fmt.Fprintln(out, err)
			}
		}
	})
	err = rt.Run(ctx)
	close(done)
	printer.Wait()
	return err
}

// report reads the state as the checkpoint holds it, not as it is now.
func report(ctx context.Context, out io.Writer, j *processor.Job, e processor.CheckpointEvent) error {
	snap, err := j.OpenState(ctx, e.Checkpoint, "count")
	if err != nil {
		return err
	}
	n, err := total.Get(snap.Key("all"))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s checkpoint=%d total=%d\n", e.Job.Tenant, e.Checkpoint, n)
	return err
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, "nats://127.0.0.1:4222", os.Stdout); err != nil && !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
}
