// KV: the latest state of every device in a KV bucket, exactly once; a device that leaves is deleted there. The bucket is shared
// by tenants: keys are {tenant}.{device}, and a tenant's job can write no other.
//
// Run it beside a server (nats-server -js), publish, and look:
//
//	go run ./examples/kv
//	nats pub acme.devices.d1 '{"id":"d1","status":"on"}'
//	nats kv get devices acme.d1
package main

import (
	"context"
	"errors"
	"io"
	"log"
	"os"
	"os/signal"
	"time"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// Device is a device's last word.
type Device struct {
	ID     string `json:"id"`
	Status string `json:"status"` // "gone" deletes it
}

func topology() (*processor.Topology, error) {
	b := processor.NewBuilder("devices")
	devices := processor.From(b, "devices", processor.SourceSpec[Device]{Filters: []tenants.Filter{"devices.*"}, Codec: codec.JSON[Device]()})
	processor.ToKV(devices, "table", processor.KVSpec[Device]{
		Bucket: "devices",
		Key:    func(d Device) string { return d.ID }, // any bytes: the sink escapes them
		Codec:  codec.JSON[Device](),
		Delete: func(d Device) bool { return d.Status == "gone" },
	})
	return b.Build()
}

func run(ctx context.Context, url string, _ io.Writer) error {
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
	rt, err := processor.NewRuntime(processor.RuntimeConfig{Broker: broker})
	if err != nil {
		return err
	}
	for _, tenant := range []tenants.ID{"acme", "globex"} {
		cfg := processor.JobConfig{Checkpoint: processor.CheckpointConfig{Interval: 200 * time.Millisecond}}
		if _, err := rt.Deploy(ctx, t, tenant, cfg); err != nil {
			return err
		}
	}
	return rt.Run(ctx)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, "nats://127.0.0.1:4222", os.Stdout); err != nil && !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
}
