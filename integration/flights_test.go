package integration_test

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// flightsPath is where the real flights are, from this folder. They are no part of the project.
const flightsPath = "../../shared/data/flights.csv.gz"

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
	flights := processor.From(b, "flights", processor.SourceSpec[flight]{Filters: []tenants.Filter{"in.>"}, Codec: codec.JSON[flight]()})
	keyed := processor.KeyBy(flights, func(f flight) string { return f.Destination })
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

// realFlights reads the flights in the order in which the planes left. Without the file the test is skipped, and says so.
func realFlights(t *testing.T) []addressed {
	t.Helper()
	f, err := os.Open(flightsPath)
	if errors.Is(err, fs.ErrNotExist) {
		t.Skipf("the real flights are not at %s: this test needs them, they are not part of the project", flightsPath)
	}
	ok(t, err)
	defer func() { ok(t, f.Close()) }()
	z, err := gzip.NewReader(f)
	ok(t, err)
	var out []addressed
	lines := bufio.NewScanner(z)
	lines.Scan() // the header
	for lines.Scan() {
		col := strings.Split(lines.Text(), ",")
		delay, err := strconv.ParseInt(col[5], 10, 64)
		ok(t, err)
		data, err := json.Marshal(flight{Origin: col[2], Destination: col[3], Delay: delay})
		ok(t, err)
		out = append(out, addressed{col[2], input{"in." + col[3], data}})
	}
	ok(t, lines.Err())
	if len(out) < 10_000 {
		t.Fatalf("only %d flights in %s", len(out), flightsPath)
	}
	return out
}
