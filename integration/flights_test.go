package integration_test

import (
	"encoding/json"
	"testing"

	"github.com/weirstream/weir/integration/internal/flights"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// flight is one departure, as published on {origin}.in.{destination}.
type flight struct {
	Origin      string `json:"origin"`
	Destination string `json:"destination"`
	Delay       int64  `json:"delay_minutes"`
}

const delaysName = "delays"

// delaySum is the state of a destination.
type delaySum struct {
	N, Sum int64
}

var delayState = state.NewValue[delaySum]("delay")

func mean(f flight, d delaySum) (tally, delaySum) {
	d.N++
	d.Sum += f.Delay
	return tally{Key: f.Destination, N: uint64(d.N), Tenant: f.Origin, Mean: float64(d.Sum) / float64(d.N)}, d
}

// buildDelays counts a tenant's flights per destination and keeps their mean delay.
func buildDelays() (*processor.Topology, error) {
	b := processor.NewBuilder(delaysName)
	departures := processor.From(b, "flights", processor.SourceSpec[flight]{Filters: []tenants.Filter{"in.>"}, Codec: codec.JSON[flight]()})
	keyed := processor.KeyBy(departures, func(f flight) string { return f.Destination })
	publishTallies(processor.Process(keyed, "mean", func(pc *processor.Context[tally], f flight) error {
		d, err := delayState.Get(pc)
		if err != nil {
			return err
		}
		out, d := mean(f, d)
		pc.Emit(out)
		return delayState.Set(pc, d)
	}, processor.Uses(delayState)))
	return b.Build()
}

// newFlightHistory models the job delays.
func newFlightHistory(tenant string) *history {
	h := newHistory(tenant)
	sums := map[string]delaySum{}
	h.job = delaysName
	h.step = func(_ map[string]tally, data []byte) (tally, bool) {
		var f flight
		if json.Unmarshal(data, &f) != nil {
			return tally{}, false
		}
		out, d := mean(f, sums[f.Destination])
		sums[f.Destination] = d
		return out, true
	}
	return h
}

// addressed is an input with its tenant.
type addressed struct {
	tenant string
	input
}

// realFlights returns the flights in the order in which the planes left, to the tenants of their origins.
func realFlights(t *testing.T) []addressed {
	t.Helper()
	list, which, err := flights.Load("..")
	ok(t, err)
	t.Logf("input: %s", which)
	var out []addressed
	for _, f := range list {
		data, err := json.Marshal(flight{Origin: f.Origin, Destination: f.Destination, Delay: f.Delay})
		ok(t, err)
		out = append(out, addressed{f.Origin, input{"in." + f.Destination, data}})
	}
	return out
}
