package processor_test

import (
	"fmt"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

type heartbeat struct {
	Sensor string    `json:"sensor"`
	At     time.Time `json:"at"`
}

var lastBeat = state.NewValue[int64]("last-beat") // unix nanoseconds

const silence = 10 * time.Second

// beat asks to be called when the sensor has been silent for ten seconds of its own time.
func beat(pc *processor.Context[string], h heartbeat) error {
	last, err := lastBeat.Get(pc)
	if err != nil || h.At.UnixNano() <= last {
		return err // an older one, out of order
	}
	if err := pc.DeleteEventTimer(time.Unix(0, last).Add(silence)); err != nil {
		return err
	}
	if err := pc.SetEventTimer(h.At.Add(silence)); err != nil {
		return err
	}
	return lastBeat.Set(pc, h.At.UnixNano())
}

func silent(pc *processor.Context[string], at time.Time) error {
	pc.Emit(fmt.Sprintf("%s is silent since %s", pc.Key(), at.Add(-silence).Format(time.TimeOnly)))
	return nil
}

// Heartbeats come up to five seconds out of order. Event timers find the sensors that fell silent, by the time in the heartbeats,
// so that reading them a year later gives the same result.
func ExampleEventTime() {
	b := processor.NewBuilder("silence")
	beats := processor.From(b, "beats", processor.SourceSpec[heartbeat]{
		Filters: []tenants.Filter{"beats"}, Codec: codec.JSON[heartbeat](),
		EventTime: processor.EventTime(func(h heartbeat) time.Time { return h.At }, processor.BoundedOutOfOrderness(5*time.Second)),
	})
	alarms := processor.Process(processor.KeyBy(beats, func(h heartbeat) string { return h.Sensor }), "watch", beat,
		processor.Uses(lastBeat), processor.OnEventTimer(silent))
	processor.To(alarms, "alarms", processor.SinkSpec[string]{FixedSubject: "alarms", Codec: codec.String()})
	topology, err := b.Build()
	if err != nil {
		panic(err)
	}
	bed, err := processor.NewTestbed(topology, processor.TestbedConfig{Start: time.Date(2026, 1, 1, 13, 0, 0, 0, time.UTC)})
	if err != nil {
		panic(err)
	}
	for _, h := range []struct{ sensor, at string }{
		{"door", "12:00:00"}, {"roof", "12:00:03"}, {"door", "12:00:09"}, {"door", "12:00:06"}, {"door", "12:00:17"}, {"door", "12:00:18"},
	} {
		payload := fmt.Sprintf(`{"sensor":%q,"at":"2026-01-01T%sZ"}`, h.sensor, h.at)
		if err := bed.Push("beats", processor.Record{Subject: "test.beats", Data: []byte(payload)}); err != nil {
			panic(err)
		}
		for _, m := range bed.Output("alarms") {
			fmt.Printf("%s: %s\n", h.at, m.Data)
		}
	}
	watermark, err := bed.Watermark("watch")
	if err != nil {
		panic(err)
	}
	fmt.Println("everything before", watermark.Add(time.Nanosecond).Format(time.TimeOnly), "is in")
	if err := bed.Push("beats", processor.Record{Subject: "test.beats", Data: []byte(`{"sensor":"door","at":"2026-01-01T12:00:18.001Z"}`)}); err != nil {
		panic(err)
	}
	for _, m := range bed.Output("alarms") {
		fmt.Printf("12:00:18.001: %s\n", m.Data)
	}
	// Output:
	// everything before 12:00:13 is in
	// 12:00:18.001: roof is silent since 12:00:03
}
