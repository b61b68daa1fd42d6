package sqlcheck_test

import (
	"database/sql"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/integration/internal/flights"
	"github.com/weirstream/weir/processor/processortest"
	"github.com/weirstream/weir/tenants"
)

const flightsSchema = `
CREATE TABLE flight (scheduled INTEGER, origin TEXT, destination TEXT, delay INTEGER);
CREATE INDEX flight_route ON flight (destination, origin);
`

// flightsSQL is what each result must be, for every tenant: the airport that a flight leaves, or comes to.
var flightsSQL = map[string]string{
	hourlyResults: `SELECT origin AS tenant, destination, COUNT(*) AS n, CAST(SUM(delay) AS REAL) / COUNT(*) AS mean,
		scheduled / 3600 * 3600 AS start, (scheduled / 3600 + 1) * 3600 AS end
		FROM flight GROUP BY origin, destination, scheduled / 3600`,
	slidingResults: `WITH hops(back) AS (VALUES (0), (1), (2), (3), (4), (5))
		SELECT origin AS tenant, destination, COUNT(*) AS n, CAST(SUM(delay) AS REAL) / COUNT(*) AS mean,
			(scheduled / 3600 - back) * 3600 AS start, (scheduled / 3600 - back + 6) * 3600 AS end
		FROM flight, hops GROUP BY origin, destination, scheduled / 3600 - back`,
	sessionResults: `WITH marked AS (SELECT *, COALESCE(scheduled - LAG(scheduled) OVER own > 10800, 1) AS opens FROM flight
			WINDOW own AS (PARTITION BY origin ORDER BY scheduled)),
		numbered AS (SELECT *, SUM(opens) OVER (PARTITION BY origin ORDER BY scheduled) AS session FROM marked)
		SELECT origin AS tenant, COUNT(*) AS n, MIN(scheduled) AS start, MAX(scheduled) + 10800 AS end
		FROM numbered GROUP BY origin, session`,
	connectionResults: `SELECT D.origin AS tenant, D.destination AS airport, A.scheduled AS arrived, D.scheduled AS departed
		FROM flight D JOIN flight A ON A.destination = D.origin AND A.origin = D.destination
		WHERE A.scheduled BETWEEN D.scheduled - 4 * 3600 AND D.scheduled`,
}

// departures are the flights that are read.
type departures struct {
	list  []flight
	bound time.Duration // how far one is behind one that left before it, at most
}

// readFlights reads the flights in the order in which the planes left.
func readFlights(t *testing.T) *departures {
	t.Helper()
	list, which, err := flights.Load("../..")
	ok(t, err)
	t.Logf("input: %s", which)
	all := &departures{}
	var newest time.Time
	for _, f := range list {
		if f.Scheduled.After(newest) {
			newest = f.Scheduled
		}
		all.bound = max(all.bound, newest.Sub(f.Scheduled))
		all.list = append(all.list, flight(f))
	}
	return all
}

func (all *departures) database(t *testing.T) *database {
	t.Helper()
	d := newDatabase(t, flightsSchema)
	d.load(t, func(exec func(string, ...any)) {
		for _, f := range all.list {
			exec(`INSERT INTO flight VALUES (?, ?, ?, ?)`, f.Scheduled.Unix(), f.Origin, f.Destination, f.Delay)
		}
	})
	return d
}

// messages are all flights, each twice.
func (all *departures) messages(t *testing.T) []message {
	t.Helper()
	var out []message
	for _, f := range all.list {
		data, err := json.Marshal(f)
		ok(t, err)
		out = append(out, message{f.Origin, "departures", data}, message{f.Destination, "arrivals", data})
	}
	return out
}

func (all *departures) airports() []string {
	seen := map[string]bool{}
	var out []string
	for _, f := range all.list {
		for _, a := range []string{f.Origin, f.Destination} {
			if !seen[a] {
				seen[a] = true
				out = append(out, a)
			}
		}
	}
	slices.Sort(out)
	return out
}

// withTenant adds the tenant to each result, which is a JSON object with at least one member.
func withTenant(tenant string, payloads [][]byte) [][]byte {
	for i, p := range payloads {
		payloads[i] = append([]byte(`{"tenant":`+strconv.Quote(tenant)+`,`), p[1:]...)
	}
	return payloads
}

// TestFlightsOnServer runs the flights' topology for every airport, by workers that are killed while they read.
func TestFlightsOnServer(t *testing.T) {
	seed := newSeed(t)
	all := readFlights(t)
	topology, err := flightsTopology(all.bound)
	ok(t, err)
	w := newWorld(t)
	var jobs []job
	for _, airport := range all.airports() {
		w.stream(t, airport)
		jobs = append(jobs, job{topology: topology, tenant: tenants.ID(airport)})
	}
	play(t, w, rand.New(rand.NewPCG(seed, 2)), jobs, all.messages(t))
	db := all.database(t)
	for name, query := range flightsSQL {
		t.Run(name, func(t *testing.T) {
			var payloads [][]byte
			for _, j := range jobs {
				airport := string(j.tenant)
				payloads = append(payloads, withTenant(airport, w.read(t, airport, airport+".results."+name, js.DeliverAllPolicy))...)
			}
			equal(t, db.query(t, query), fromJSON(t, payloads))
		})
	}
}

// TestFlightsSimulated runs it for one airport, in the simulation: there what the watermark has not closed at the end is left out.
func TestFlightsSimulated(t *testing.T) {
	seed := newSeed(t)
	all := readFlights(t)
	const airport = "PHX"
	topology, err := flightsTopology(all.bound)
	ok(t, err)
	s := processortest.Simulation{Topology: topology, Tenant: airport, Seed: seed, Faults: 20}
	s.Job.Parallelism, s.Job.KeyGroups, s.Job.Checkpoint.Interval = 2, 12, 200*time.Millisecond
	for _, m := range all.messages(t) {
		if m.tenant == airport {
			s.Inputs = append(s.Inputs, processortest.Input{Subject: m.subject, Data: m.data})
		}
	}
	run, err := s.Run()
	ok(t, err)
	var newest time.Time
	for _, f := range all.list {
		if f.Origin == airport && f.Scheduled.After(newest) {
			newest = f.Scheduled
		}
	}
	wm := newest.Add(-all.bound).Unix()
	db := all.database(t)
	for name, query := range flightsSQL {
		t.Run(name, func(t *testing.T) {
			var payloads [][]byte
			for _, m := range run.Messages(tenants.Filter("results." + name)) {
				payloads = append(payloads, m.Data)
			}
			query = `SELECT * FROM (` + query + `) WHERE tenant = :airport`
			if name != connectionResults {
				query += ` AND "end" <= :wm`
			}
			want := db.query(t, query, sql.Named("airport", airport), sql.Named("wm", wm))
			equal(t, want, fromJSON(t, withTenant(airport, payloads)))
		})
	}
}
