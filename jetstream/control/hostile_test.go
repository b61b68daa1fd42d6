package control_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/weirstream/weir/jetstream/control"
	"github.com/weirstream/weir/processor"
)

// TestHostileRequests makes each kind of bad request to each verb: the answer has a stable code, and nothing was done.
func TestHostileRequests(t *testing.T) {
	big := strings.Repeat(" ", control.MaxPayload) + "{}"
	deep := strings.Repeat(`{"a":`, 5000) + "1" + strings.Repeat("}", 5000)
	for verb, body := range requests {
		t.Run(verb, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, 1)
				subject := "weir.v1.acme.revenue." + verb
				for name, c := range map[string]struct{ subject, body string }{
					"wrong JSON":         {subject, `{"name":`},
					"no object":          {subject, `["a"]`},
					"a string":           {subject, `"one"`},
					"trailing bytes":     {subject, `{} {}`},
					"unknown field":      {subject, `{"unheard_of":1}`},
					"another case":       {subject, `{"NAME":"one","WAIT":true,"LIMIT":1}`},
					"a field twice":      {subject, `{"limit":1,"limit":2,"name":"a","name":"b"}`},
					"wrong type":         {subject, `{"name":[],"limit":"x","mode":{},"from":4,"as":true,"confirm":1,"operator":2,"parallelism":"x","wait":"x"}`},
					"too large":          {subject, big},
					"too deep":           {subject, deep},
					"no UTF-8":           {subject, "{\"name\":\"\xff\"}"},
					"a NUL":              {subject, "{}\x00"},
					"no tenant's name":   {"weir.v1.-acme.revenue." + verb, body},
					"Weir's own name":    {"weir.v1.weir_x.revenue." + verb, body},
					"no job's name":      {"weir.v1.acme.Revenue." + verb, body},
					"too long a tenant":  {"weir.v1." + strings.Repeat("a", 65) + ".revenue." + verb, body},
					"a tenant's slot":    {"weir.v1._.revenue." + verb, body},
					"a wildcard job":     {"weir.v1.acme.%2A." + verb, body},
					"an unprintable job": {"weir.v1.acme.\x01." + verb, body},
				} {
					a := w.ask(c.subject, c.body)
					if a.code != 400 || a.Reason != processor.ReasonBadRequest {
						t.Errorf("%s: %d %s", name, a.code, a.Data)
					}
				}
				// Publishing to a subject with a wildcard in it is up to the server; the service never sees it as a name.
				equal(t, "calls", len(w.called()), 0)
				equal(t, "unknown tenant", w.ask("weir.v1.hooli.revenue."+verb, body).Reason, processor.ReasonUnknownTenant)
				if verb != "delete" { // whose confirmation is of another name
					equal(t, "unknown job", w.ask("weir.v1.acme.other."+verb, body).Reason, processor.ReasonUnknownJob)
				}
			})
		})
	}
}

func TestWrongRequests(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 1)
		for _, c := range []struct{ verb, body, says string }{
			{"savepoint", ``, "savepoint is empty"},
			{"savepoint", `{"name":"../x"}`, "invalid name"},
			{"savepoint", `{"name":"a","jobs":["b"]}`, "tenant-wide"},
			{"savepoint", `{"name":"a","hold":"h","cut":{"orders":1}}`, `no field "hold"`}, // only workers may cut
			{"savepoint", `{"name":"a","request":"a\nb"}`, "ID"},
			{"stop", `{"mode":"soon"}`, "mode"},
			{"stop", `{"mode":"savepoint"}`, "needs its name"},
			{"start", `{"checkpoint":3}`, "from"},
			{"start", `{"from":"checkpoint"}`, "needs its ID"},
			{"start", `{"from":"savepoint","savepoint":"a","checkpoint":1}`, "no checkpoint"},
			{"start", `{"from":"yesterday"}`, "yesterday"},
			{"start", `{"config":{"speed":1}}`, `field "config" has no field "speed"`},
			{"start", `{"config":{"checkpoint_interval":"soon"}}`, "soon"},
			{"rescale", `{}`, "parallelism is 0"},
			{"rescale", `{"parallelism":1.5}`, "integer"},
			{"rescale", `{"parallelism":99999999999999999999}`, "integer"},
			{"fork", `{}`, "fork is empty"},
			{"fork", `{"as":"a","checkpoint":1,"savepoint":"b"}`, "both"},
			{"fork", `{"as":"a","shadow":"_weir.x"}`, "reserved"},
			{"delete", `{}`, `"confirm": "revenue"`},
			{"delete", `{"confirm":"other"}`, `"confirm": "revenue"`},
			{"state", `{"key":"k"}`, "operator"},
			{"state", `{"checkpoint":1,"savepoint":"b"}`, "both"},
			{"checkpoints", `{"limit":-1}`, "limit"},
			{"checkpoints", `{"limit":1001}`, "limit"},
			{"checkpoints", `{"after":"first"}`, "next"},
		} {
			a := w.ask("weir.v1.acme.revenue."+c.verb, c.body)
			if a.code != 400 || !strings.Contains(a.Message, c.says) {
				t.Errorf("%s %s: %d %s, want a sentence with %q", c.verb, c.body, a.code, a.Data, c.says)
			}
		}
		equal(t, "calls", len(w.called()), 0)
		equal(t, "a tenant's savepoint with a request ID", w.ask("weir.v1.acme._.savepoint", `{"name":"a","request":"r"}`).code, 400)
	})
}

// TestConflicts are refusals by what the jobs are.
func TestConflicts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 1)
		first := make(chan answer, 1)
		go func() {
			m, err := request(w.connect(), "weir.v1.acme.revenue.savepoint", `{"name":"one"}`)
			if err == nil {
				first <- answer{Msg: m}
			}
			close(first)
		}()
		time.Sleep(100 * time.Millisecond)
		equal(t, "a second savepoint while one runs", w.ask("weir.v1.acme.revenue.savepoint", `{"name":"two"}`).code, 409)
		if a := <-first; a.Msg == nil || a.Header.Get(micro.ErrorCodeHeader) != "" {
			t.Fatalf("the first savepoint: %+v", a.Msg)
		}
		equal(t, "the same again", w.ask("weir.v1.acme.revenue.savepoint", `{"name":"one"}`).code, 0)
		equal(t, "a name that exists", w.ask("weir.v1.acme.revenue.savepoint", `{"name":"one","request":"other"}`).code, 409)
		equal(t, "a savepoint that does not", w.ask("weir.v1.acme.revenue.savepoint-delete", `{"name":"none"}`).code, 404)
		equal(t, "a fork under a name that exists", w.ask("weir.v1.acme.revenue.fork", `{"as":"revenue"}`).code, 409)
		w.with("acme/revenue", func(j *fakeJob) { j.running = false })
		equal(t, "a checkpoint of a stopped job", w.ask("weir.v1.acme.revenue.checkpoint", ``).Reason, processor.ReasonNotRunning)
		w.with("acme/revenue", func(j *fakeJob) { j.running, j.owner = true, "" })
		equal(t, "nobody's job", w.ask("weir.v1.acme.revenue.stop", ``).Reason, processor.ReasonNoOwner)
	})
}

// TestNoInbox: a reply subject that is no inbox gets no answer, and no work is done: else whoever may send requests could have the
// service write into any stream.
func TestNoInbox(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 1)
		all, err := w.nc.SubscribeSync("acme.>")
		ok(t, err)
		for verb, body := range requests {
			for _, reply := range []string{
				"", "acme.orders.new", "acme._weir.revenue.sink.out", "$KV.weir_jobs.acme.revenue", "weir.v1.acme.revenue.stop", "weir.worker.p1.acme.revenue.stop",
				"_INBOX", "_INBOXES.a", "_inbox.a", "acme._INBOX.a", "_INBOX." + strings.Repeat("a", 600), "_R_.abc.def", "$JS.ACK.acme.c.1.1.1.1.0",
			} {
				ok(t, w.nc.PublishMsg(&nats.Msg{Subject: "weir.v1.acme.revenue." + verb, Reply: reply, Data: []byte(body)}))
			}
		}
		ok(t, w.nc.PublishMsg(&nats.Msg{Subject: "weir.worker.p1.acme.revenue.stop", Reply: "acme.orders.new"}))
		w.settle()
		equal(t, "calls", fmt.Sprint(w.called()), "[]")
		if n, _, _ := all.Pending(); n != 0 {
			t.Fatalf("%d answers were published as records", n)
		}
		ignored := uint64(0)
		for _, s := range w.services["p1"].Stats() {
			ignored += s.Ignored
		}
		// The server itself drops what has a reply subject that only it may make (_R_, $JS.ACK).
		equal(t, "ignored", ignored, uint64(len(requests)*11))
		into[processor.JobReport](t, w.ask("weir.v1.acme.revenue.status", ""))
	})
}

// settle waits until everything that was published has been worked on.
func (w *world) settle() {
	w.t.Helper()
	time.Sleep(time.Second)
	synctest.Wait()
}

// TestOtherSubjects: messages that reach the endpoint's subscription without having been sent to its subject.
func TestOtherSubjects(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 1)
		api := func(verb string, req any) {
			t.Helper()
			body, err := json.Marshal(req)
			ok(t, err)
			m, err := request(w.nc, "$JS.API."+verb, string(body))
			ok(t, err)
			if strings.Contains(string(m.Data), `"error"`) {
				t.Fatalf("%s: %s", verb, m.Data)
			}
		}
		api("STREAM.CREATE.acme", map[string]any{"name": "acme", "subjects": []string{"acme.>"}, "storage": "memory"})
		// A push consumer delivers records to whatever subject it is told, once somebody listens to exactly that, and the server
		// answers publishers wherever they like.
		bait, err := w.nc.SubscribeSync("weir.v1.acme.revenue.stop")
		ok(t, err)
		ok(t, w.nc.PublishRequest("acme.orders", "weir.v1.acme.revenue.stop", []byte(`{"mode":"now"}`)))
		api("CONSUMER.CREATE.acme.c", map[string]any{"stream_name": "acme", "config": map[string]any{
			"name": "c", "deliver_subject": "weir.v1.acme.revenue.stop", "deliver_policy": "all", "ack_policy": "none",
		}})
		w.settle()
		equal(t, "the acknowledgement", next(t, bait).Subject, "weir.v1.acme.revenue.stop")
		equal(t, "the delivery", next(t, bait).Subject, "acme.orders")
		equal(t, "calls", fmt.Sprint(w.called()), "[]")
		equal(t, "ignored", w.services["p1"].Stats()["stop"].Ignored, uint64(2))
	})
}

// TestFuzzedRequests: every request that has an inbox gets an answer of the right form, whatever it holds.
func TestFuzzedRequests(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	verbs := slices.Sorted(func(yield func(string) bool) {
		for v := range requests {
			if !yield(v) {
				return
			}
		}
	})
	alphabet := []string{
		`{`, `}`, `[`, `]`, `:`, `,`, `"`, `"name"`, `"wait"`, `"from"`, `"config"`, `"params"`, `"mode"`, `"limit"`, `"key"`, `"as"`, `"one"`, `true`, `null`,
		`-1`, `1e309`, `18446744073709551615`, `0.1`, ` `, "\x00", "\xff", `\u0000`, `"\ud800"`, `{"name":`, `{"config":{"params":{"a":`, "é",
	}
	tokens := []string{"acme", "revenue", "globex", "_", "a.b", "x", "Ä", "ACME", "-", strings.Repeat("y", 300)}
	one := func() (subject, body string) {
		pick := func(from []string) string { return from[rng.IntN(len(from))] }
		subject = "weir.v1." + pick(tokens) + "." + pick(tokens) + "." + pick(verbs)
		if rng.IntN(2) == 0 {
			subject = "weir.v1.acme.revenue." + pick(verbs)
		}
		if b := []byte(requests[pick(verbs)]); rng.IntN(2) == 0 && len(b) > 0 { // a good one with a byte changed
			b[rng.IntN(len(b))] = byte(rng.IntN(256))
			return subject, string(b)
		}
		for range rng.IntN(12) {
			body += pick(alphabet)
		}
		return subject, body
	}
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 1, func(c *control.Config) { c.Limits.Rate, c.Limits.Burst = 1e6, 1e6 })
		codes := map[int]int{}
		for range 10_000 {
			subject, body := one()
			m, err := request(w.nc, subject, body)
			if err != nil {
				if strings.Contains(subject, "a.b") { // four tokens: nobody's
					continue
				}
				t.Fatalf("%q %q: %v", subject, body, err)
			}
			codes[read(t, m).code]++
		}
		for code := range codes {
			if !slices.Contains([]int{0, 400, 404, 409}, code) {
				t.Errorf("%d requests were answered with %d", codes[code], code)
			}
		}
		if codes[0] == 0 || codes[400] == 0 || codes[404] == 0 {
			t.Errorf("the requests reached too little: %v", codes)
		}
		w.add("p1", "acme", "revenue")
		into[processor.JobReport](t, w.ask("weir.v1.acme.revenue.status", ""))
	})
}

// TestFlood: 1000 requests a second for ten seconds. Other tenants and the flooded tenant's work go on.
func TestFlood(t *testing.T) {
	for name, subject := range map[string]func(i int) string{
		"of a tenant":       func(int) string { return "weir.v1.acme.revenue.status" },
		"of work":           func(int) string { return "weir.v1.acme.revenue.savepoint" },
		"of invented names": func(i int) string { return fmt.Sprintf("weir.v1.t%d.revenue.status", i) },
		"of bad names":      func(i int) string { return fmt.Sprintf("weir.v1.acme.-%d.status", i) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, 1)
				w.add("p1", "globex", "revenue", "orders@globex:1")
				into[processor.JobReport](t, w.ask("weir.v1.globex.revenue.status", "")) // known from here
				flooder := w.connect()
				sub, err := flooder.SubscribeSync(flooder.NewInbox())
				ok(t, err)
				answered := make(chan map[int]int, 1)
				go func() {
					codes := map[int]int{}
					for i := range 10_000 {
						body := ""
						if strings.HasSuffix(subject(i), ".savepoint") {
							body = fmt.Sprintf(`{"name":"s-%d"}`, i)
						}
						if err := flooder.PublishRequest(subject(i), sub.Subject, []byte(body)); err != nil {
							break
						}
						time.Sleep(time.Millisecond)
					}
					for range 10_000 {
						codes[read(t, next(t, sub)).code]++
					}
					answered <- codes
				}()
				served := 0
				for range 100 { // ten a second
					into[processor.CheckpointReport](t, w.ask("weir.v1.globex.revenue.checkpoint", ""))
					served++
					time.Sleep(100 * time.Millisecond)
				}
				equal(t, "checkpoints", served, 100)
				codes := <-answered
				if codes[429] < 8000 {
					t.Errorf("of 10,000 requests only %d were refused: %v", codes[429], codes)
				}
				if got := len(w.called()); got > 1500 {
					t.Errorf("%d requests reached the runtime", got)
				}
			})
		})
	}
}
