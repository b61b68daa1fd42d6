package sqlcheck_test

import (
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// flight is published twice, in the order in which planes left: as {origin}.departures and as {destination}.arrivals.
type flight struct {
	Scheduled   time.Time `json:"scheduled"`
	Origin      string    `json:"origin"`
	Destination string    `json:"destination"`
	Delay       int64     `json:"delay_minutes"`
}

func (f flight) at() time.Time       { return f.Scheduled }
func (f flight) destination() string { return f.Destination }
func (f flight) origin() string      { return f.Origin }

// Results of the job, on results.{sink}. Times are unix seconds.
const (
	hourlyResults     = "hourly"
	slidingResults    = "sliding"
	sessionResults    = "sessions"
	connectionResults = "connections"
)

// delays says how many flights to a destination there were in a window, and how late they left.
type delays struct {
	Destination string  `json:"destination"`
	N           int64   `json:"n"`
	Mean        float64 `json:"mean"`
	Start       int64   `json:"start"`
	End         int64   `json:"end"`
}

type delaySum struct {
	Destination string
	N, Sum      int64
}

type meanDelay struct{}

func (meanDelay) Init() delaySum { return delaySum{} }
func (meanDelay) Add(s delaySum, f flight) delaySum {
	return delaySum{f.Destination, s.N + 1, s.Sum + f.Delay}
}
func (meanDelay) Merge(a, b delaySum) delaySum {
	return delaySum{a.Destination, a.N + b.N, a.Sum + b.Sum}
}
func (meanDelay) Result(p processor.Pane, s delaySum) delays {
	return delays{s.Destination, s.N, float64(s.Sum) / float64(s.N), p.Start.Unix(), p.End.Unix()}
}

// session is a time without a pause of three hours between departures.
type session struct {
	N     int64 `json:"n"`
	Start int64 `json:"start"`
	End   int64 `json:"end"`
}

type countFlights struct{}

func (countFlights) Init() session                   { return session{} }
func (countFlights) Add(s session, _ flight) session { return session{N: s.N + 1} }
func (countFlights) Merge(a, b session) session      { return session{N: a.N + b.N} }
func (countFlights) Result(p processor.Pane, s session) session {
	return session{s.N, p.Start.Unix(), p.End.Unix()}
}

// connection is a departure and an arrival from where it goes, scheduled within four hours before.
type connection struct {
	Airport  string `json:"airport"` // the other one
	Arrived  int64  `json:"arrived"`
	Departed int64  `json:"departed"`
}

const connectionTime = 4 * time.Hour

// flightsTopology computes all four. outOfOrder is how far a flight can be behind one that left before it.
func flightsTopology(outOfOrder time.Duration) (*processor.Topology, error) {
	b := processor.NewBuilder("flights")
	read := func(name string) processor.Stream[flight] {
		return processor.From(b, name, processor.SourceSpec[flight]{
			Filters: []tenants.Filter{tenants.Filter(name)}, Codec: codec.JSON[flight](),
			// The flights are of 2001, the simulation's clock stands at 2000.
			EventTime: processor.EventTime(flight.at, processor.BoundedOutOfOrderness(outOfOrder), processor.MaxAhead(10*365*24*time.Hour)),
		})
	}
	departures, arrivals := read("departures"), read("arrivals")

	byDestination := processor.KeyBy(departures, flight.destination)
	hourly := processor.Aggregate(processor.Window(byDestination, processor.Tumbling(time.Hour)), "per-hour", meanDelay{})
	sliding := processor.Aggregate(processor.Window(byDestination, processor.Sliding(6*time.Hour, time.Hour)), "per-six-hours", meanDelay{})
	sessions := processor.Aggregate(processor.WindowAll(departures, processor.Session(3*time.Hour)), "per-session", countFlights{})
	connections := processor.IntervalJoin(byDestination, processor.KeyBy(arrivals, flight.origin), "connect", processor.Within(connectionTime, 0),
		func(pc *processor.Context[connection], d, a flight) error {
			pc.Emit(connection{d.Destination, a.Scheduled.Unix(), d.Scheduled.Unix()})
			return nil
		})

	publishResults(hourly, hourlyResults)
	publishResults(sliding, slidingResults)
	publishResults(sessions, sessionResults)
	publishResults(connections, connectionResults)
	return b.Build()
}

func publishResults[T any](s processor.Stream[T], name string) {
	processor.To(s, name, processor.SinkSpec[T]{FixedSubject: "results." + name, Codec: codec.JSON[T]()})
}
