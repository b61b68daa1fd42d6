package sqlcheck_test

import (
	"database/sql"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/examples/nexmark"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/processor/processortest"
	"github.com/weirstream/weir/tenants"
)

var seedFlag = flag.Uint64("seed", 0, "seed of every random choice; 0: a new one, which is printed")

// newSeed prints the seed that replays the test.
func newSeed(t testing.TB) uint64 {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64N(1_000_000_000) + 1
	}
	t.Logf("replay with -run '^%s$' -seed %d", t.Name(), seed)
	return seed
}

// history is a sequence of Nexmark events, as published.
type history struct {
	events   []nexmark.Event
	payloads [][]byte
	bound    time.Duration
	newest   nexmark.Millis
}

// dense events fill windows of ten seconds, sparse ones a night and a morning. The simulation's clock stands at the year 2000: events must not
// be ahead of it.
func denseEvents(seed uint64) nexmark.Config {
	return nexmark.Config{
		Seed: seed, Start: time.Date(1999, 12, 31, 12, 0, 0, 0, time.UTC), Interval: 20 * time.Millisecond, Shuffle: 50, InFlight: 20, HotSellers: 2,
	}
}

func sparseEvents(seed uint64) nexmark.Config {
	return nexmark.Config{
		Seed: seed, Start: time.Date(1999, 12, 30, 23, 30, 0, 0, time.UTC), Interval: 15 * time.Second, Shuffle: 7, InFlight: 30, HotSellers: 2,
	}
}

func newHistory(t testing.TB, cfg nexmark.Config, n int) *history {
	t.Helper()
	g, err := nexmark.NewGenerator(cfg)
	ok(t, err)
	h := &history{bound: g.OutOfOrder()}
	c := nexmark.Codec()
	for p := range uint64(n) {
		e := g.At(p)
		payload, err := c.Append(nil, e)
		ok(t, err)
		h.events, h.payloads = append(h.events, e), append(h.payloads, payload)
		h.newest = max(h.newest, nexmark.Millis(e.At().UnixMilli()))
	}
	return h
}

// watermark is how far event time has come when everything is read.
func (h *history) watermark() int64 { return int64(h.newest) - h.bound.Milliseconds() }

// database holds the events. processed says when a job read each; nil: not asked.
func (h *history) database(t testing.TB, processed []time.Time) *database {
	t.Helper()
	d := newDatabase(t, nexmarkSchema)
	d.load(t, func(exec func(string, ...any)) {
		for key, value := range nexmark.SideInput() {
			exec(`INSERT INTO side_input VALUES (?, ?)`, key, value)
		}
		for i, e := range h.events {
			exec(`INSERT INTO event VALUES (?, ?)`, i, e.At().UnixMilli())
			switch {
			case e.Person != nil:
				p := e.Person
				exec(`INSERT INTO person VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`, i, p.ID, p.Name, p.Email, p.CreditCard, p.City, p.State, int64(p.DateTime), p.Extra)
			case e.Auction != nil:
				a := e.Auction
				exec(`INSERT INTO auction VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, i, a.ID, a.ItemName, a.Description, a.InitialBid, a.Reserve,
					int64(a.DateTime), int64(a.Expires), a.Seller, a.Category, a.Extra)
			default:
				b := e.Bid
				at := int64(0)
				if processed != nil {
					at = processed[i].UnixMilli()
				}
				exec(`INSERT INTO bid VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`, i, b.Auction, b.Bidder, b.Price, b.Channel, b.URL, int64(b.DateTime), b.Extra, at)
			}
		}
	})
	return d
}

// want is what SQL says of a query.
func (d *database) want(t testing.TB, query string, wm int64) relation {
	t.Helper()
	text, known := nexmarkSQL[query]
	if !known {
		t.Fatalf("there is no SQL for %s", query)
	}
	return d.query(t, text, sql.Named("wm", wm))
}

// histories are what the topologies are checked on, by name.
func histories(seed uint64) map[string]nexmark.Config {
	return map[string]nexmark.Config{"dense": denseEvents(seed), "sparse": sparseEvents(seed)}
}

const tenant = "acme"

// TestNexmarkSimulated runs every query in the simulation, on workers that crash and stall, over a network that loses requests.
func TestNexmarkSimulated(t *testing.T) {
	seed := newSeed(t)
	for name, cfg := range histories(seed) {
		h := newHistory(t, cfg, 2500)
		db := h.database(t, nil)
		for i, q := range nexmark.Queries() {
			if skipped(name, q.Name) {
				continue
			}
			t.Run(name+"/"+q.Name, func(t *testing.T) {
				topology, err := q.Build(h.bound)
				ok(t, err)
				got := simulate(t, q, topology, h, seed+uint64(i), 1+i%3)
				equal(t, db.want(t, q.Name, h.watermark()), got)
			})
		}
	}
}

// TestNexmarkLate runs queries whose source expects less disorder than there is: events that come too late for a window do not count in
// it, whatever the parallelism and whatever crashes. SQL computes for each event how far time had come.
func TestNexmarkLate(t *testing.T) {
	seed := newSeed(t)
	cfg := denseEvents(seed)
	cfg.Shuffle = 400
	h := newHistory(t, cfg, 2500)
	h.bound = 500 * time.Millisecond
	db := h.database(t, nil)
	bound := sql.Named("bound", h.bound.Milliseconds())
	late := db.query(t, `WITH `+seen+` SELECT * FROM bid JOIN seen USING (seq) WHERE (dateTime / 10000 + 1) * 10000 <= seen.wm`, bound)
	if len(late) < 20 {
		t.Fatalf("only %d bids are late: this checks nothing", len(late))
	}
	for i, name := range []string{"q5", "q7", "q8"} {
		t.Run(name, func(t *testing.T) {
			q, _ := nexmark.Find(name)
			topology, err := q.Build(h.bound)
			ok(t, err)
			want := db.query(t, nexmarkLateSQL[name], sql.Named("wm", h.watermark()), bound)
			equal(t, want, simulate(t, q, topology, h, seed+uint64(i), 1+i))
		})
	}
}

func simulate(t *testing.T, q nexmark.Query, topology *processor.Topology, h *history, seed uint64, parallelism int) relation {
	t.Helper()
	s := processortest.Simulation{
		Topology: topology, Tenant: tenant, Seed: seed, Faults: 20,
		Job: processor.JobConfig{Parallelism: parallelism, KeyGroups: 12, MergeAfter: 3, Checkpoint: processor.CheckpointConfig{Interval: 200 * time.Millisecond}},
	}
	for i, e := range h.events {
		s.Inputs = append(s.Inputs, processortest.Input{Subject: e.Subject(), Data: h.payloads[i]})
	}
	if q.Name == "q13" {
		s.Buckets = map[string]map[string]string{nexmark.SideBucket: maps.Collect(nexmark.SideInput())}
	}
	run, err := s.Run()
	ok(t, err)
	if dead := run.DeadLetters(); len(dead) > 0 {
		t.Fatalf("%d dead letters, the first is %q: %v", len(dead), dead[0].Data, dead[0].Header)
	}
	var payloads [][]byte
	if q.Emits == nexmark.EmitsChanges {
		for _, v := range run.KV(nexmark.Bucket + "_" + q.Name) {
			payloads = append(payloads, v)
		}
	} else {
		for _, m := range run.Messages(tenants.Filter(nexmark.Results + "." + q.Name)) {
			payloads = append(payloads, m.Data)
		}
	}
	return fromJSON(t, payloads)
}

// TestNexmarkProcessingTime runs q12 on a virtual clock, so that SQL can know when each bid was read, with snapshots restored in between.
func TestNexmarkProcessingTime(t *testing.T) {
	seed := newSeed(t)
	rng := rand.New(rand.NewPCG(seed, 12))
	h := newHistory(t, denseEvents(seed), 3000)
	q, _ := nexmark.Find("q12")
	topology, err := q.Build(h.bound)
	ok(t, err)
	job := tenants.JobID{Tenant: tenant, Name: q.Name}
	bed, err := processor.NewTestbed(topology, processor.TestbedConfig{Job: job})
	ok(t, err)
	var processed []time.Time
	var payloads [][]byte
	take := func() {
		for _, m := range bed.Output("results") {
			payloads = append(payloads, m.Data)
		}
	}
	for i, e := range h.events {
		processed = append(processed, bed.Now())
		ok(t, bed.Push("events", processor.Record{Subject: tenant + "." + e.Subject(), Data: h.payloads[i]}))
		if rng.IntN(3) == 0 {
			ok(t, bed.Advance(time.Duration(rng.IntN(200))*time.Millisecond))
		}
		if rng.IntN(200) == 0 {
			take()
			s, err := bed.Snapshot()
			ok(t, err)
			bed, err = processor.NewTestbed(topology, processor.TestbedConfig{Job: job, From: s, Parallelism: 1 + rng.IntN(4)})
			ok(t, err)
		}
	}
	ok(t, bed.Advance(time.Minute))
	take()
	equal(t, h.database(t, processed).want(t, "q12", everything), fromJSON(t, payloads))
}

// TestNexmarkOnServer runs all queries at once on an embedded server, by workers that are killed while they read, and drains them.
func TestNexmarkOnServer(t *testing.T) {
	seed := newSeed(t)
	for name, cfg := range histories(seed) {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.stream(t, tenant)
			w.sideInput(t)
			h := newHistory(t, cfg, 3000)
			var jobs []job
			var messages []message
			for _, q := range nexmark.Queries() {
				topology, err := q.Build(h.bound)
				ok(t, err)
				if !skipped(name, q.Name) {
					jobs = append(jobs, job{topology: topology, tenant: tenant})
				}
			}
			for i, e := range h.events {
				messages = append(messages, message{tenant, e.Subject(), h.payloads[i]})
			}
			play(t, w, rand.New(rand.NewPCG(seed, 1)), jobs, messages)
			db := h.database(t, nil)
			for _, j := range jobs {
				q, _ := nexmark.Find(j.topology.Name())
				t.Run(q.Name, func(t *testing.T) { equal(t, db.want(t, q.Name, everything), fromJSON(t, w.results(t, q))) })
			}
		})
	}
}

// sideInput makes the bucket of q13's side input.
func (w *world) sideInput(t *testing.T) {
	t.Helper()
	_, err := w.js.CreateKeyValue(t.Context(), js.KeyValueConfig{Bucket: nexmark.SideBucket})
	ok(t, err)
	var acks []js.PubAckFuture
	for key, value := range nexmark.SideInput() {
		ack, err := w.js.PublishAsync("$KV."+nexmark.SideBucket+"."+key, []byte(value), js.WithStallWait(patience))
		ok(t, err)
		acks = append(acks, ack)
	}
	acknowledged(t, acks)
}

// results reads what a query has published.
func (w *world) results(t *testing.T, q nexmark.Query) [][]byte {
	t.Helper()
	if q.Emits == nexmark.EmitsChanges {
		bucket := nexmark.Bucket + "_" + q.Name
		return w.read(t, "KV_"+bucket, "$KV."+bucket+"."+tenant+".>", js.DeliverLastPerSubjectPolicy)
	}
	return w.read(t, tenant, tenant+"."+nexmark.Results+"."+q.Name, js.DeliverAllPolicy)
}

// skipped says what is not checked on a history: q12 has a test of its own, and no two sparse events are in one window of q8.
func skipped(history, query string) bool {
	return query == "q12" || query == "q8" && history == "sparse"
}

// A check that cannot fail checks nothing: a relation with one row changed, missing or doubled is another one.
func TestRelationsDiffer(t *testing.T) {
	base := [][]byte{[]byte(`{"a":1,"b":"x"}`), []byte(`{"b":"y","a":2.5}`)}
	for name, other := range map[string][][]byte{
		"changed": {base[0], []byte(`{"a":2.25,"b":"y"}`)},
		"missing": base[:1],
		"doubled": {base[0], base[1], base[1]},
	} {
		probe := &probe{TB: t}
		equal(probe, fromJSON(t, base), fromJSON(t, other))
		if !probe.failed {
			t.Errorf("%s: the relations are taken to be equal", name)
		}
	}
	if got := fmt.Sprint(fromJSON(t, base)); got != fmt.Sprint(relation{row(map[string]any{"b": "x", "a": int64(1)}), row(map[string]any{"a": 2.5, "b": "y"})}) {
		t.Errorf("JSON and SQL rows differ: %s", got)
	}
}

// probe notes a failure instead of having one.
type probe struct {
	testing.TB
	failed bool
}

func (p *probe) Errorf(string, ...any) { p.failed = true }
