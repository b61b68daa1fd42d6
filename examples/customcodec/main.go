// Customcodec: a codec of your own. This one reads and writes protobuf's wire format by hand, for
//
//	message Reading { string sensor = 1; sint64 milli = 2; }
//
// With generated types the two functions are proto.MarshalOptions{}.MarshalAppend and proto.Unmarshal. What decode refuses goes
// to the dead letters.
//
// Run it beside a server (nats-server -js):
//
//	go run ./examples/customcodec
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"time"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// Reading is a sensor's value in thousandths.
type Reading struct {
	Sensor string
	Milli  int64
}

const sensorTag, milliTag = 0x0a, 0x10 // field number times 8, plus the wire type: 1 is bytes (2), 2 a varint (0)

var readings = codec.New("reading-proto", appendReading, decodeReading)

func appendReading(b []byte, r Reading) ([]byte, error) {
	b = append(binary.AppendUvarint(append(b, sensorTag), uint64(len(r.Sensor))), r.Sensor...)
	return binary.AppendVarint(append(b, milliTag), r.Milli), nil
}

// decodeReading does not keep b: the bytes are the reader's. Lengths from outside are checked before they are used.
func decodeReading(b []byte) (Reading, error) {
	var r Reading
	for len(b) > 0 {
		tag, rest := b[0], b[1:]
		switch tag {
		case sensorTag:
			n, used := binary.Uvarint(rest)
			if used <= 0 || n > uint64(len(rest)-used) {
				return r, errors.New("sensor: bad length")
			}
			r.Sensor, b = string(rest[used:used+int(n)]), rest[used+int(n):]
		case milliTag:
			v, used := binary.Varint(rest)
			if used <= 0 {
				return r, errors.New("milli: bad number")
			}
			r.Milli, b = v, rest[used:]
		default:
			return r, fmt.Errorf("unknown field tag %#x", tag)
		}
	}
	return r, nil
}

// highest is kept with the same codec: state and messages need not differ.
var highest = state.NewReducing("highest", func(a, b Reading) Reading {
	if b.Milli > a.Milli {
		return b
	}
	return a
}, state.Codec(readings))

func record(pc *processor.Context[Reading], r Reading) error {
	before, ok, err := highest.Get(pc)
	if err != nil || ok && r.Milli <= before.Milli {
		return err
	}
	pc.Emit(r)
	return highest.Add(pc, r)
}

func topology() (*processor.Topology, error) {
	b := processor.NewBuilder("records")
	in := processor.From(b, "readings", processor.SourceSpec[Reading]{Filters: []tenants.Filter{"readings"}, Codec: readings})
	records := processor.Process(processor.KeyBy(in, func(r Reading) string { return r.Sensor }), "record", record, processor.Uses(highest))
	processor.To(records, "records", processor.SinkSpec[Reading]{FixedSubject: "records", Codec: readings})
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
	cfg := processor.JobConfig{Checkpoint: processor.CheckpointConfig{Interval: 200 * time.Millisecond}}
	if _, err := rt.Deploy(ctx, t, "acme", cfg); err != nil {
		return err
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
