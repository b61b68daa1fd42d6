package control_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/micro"

	"github.com/weirstream/weir/jetstream/control"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// requests is one good request for every verb of a job.
var requests = map[string]string{
	"status": ``, "checkpoint": ``, "checkpoints": `{"limit":3}`, "savepoint": `{"name":"one"}`, "savepoints": ``,
	"savepoint-delete": `{"name":"old"}`, "stop": `{"mode":"now"}`, "start": `{"from":"fresh","request":"r1"}`, "rescale": `{"parallelism":4}`,
	"fork": `{"as":"copy"}`, "delete": `{"confirm":"revenue"}`, "state": `{"operator":"count","state":"total","key":"k"}`,
}

func TestEveryVerb(t *testing.T) {
	for verb, body := range requests {
		t.Run(verb, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, 1)
				w.with("acme/revenue", func(j *fakeJob) { j.savepoints["old"] = fakeSavepoint{request: "old"} })
				got := into[map[string]any](t, w.ask("weir.v1.acme.revenue."+verb, body))
				want := map[string]string{
					"status": "tenant:acme state:running elements:42", "checkpoint": "checkpoint:7", "checkpoints": "next:8:completed",
					"savepoint": "name:one", "savepoints": "savepoints:[", "savepoint-delete": "done:true", "stop": "published:true", "start": "state:running",
					"rescale": "parallelism:4", "fork": "job:copy", "delete": "done:true", "state": "found:true key:k",
				}[verb]
				text := strings.ReplaceAll(fmt.Sprint(got), "map[", " ")
				for _, part := range strings.Fields(want) {
					if !strings.Contains(text, part) {
						t.Fatalf("%s is missing in %s", part, text)
					}
				}
			})
		})
	}
}

func TestTenantAndGlobalVerbs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.add("p1", "acme", "alerts")
		w.add("p1", "globex", "revenue")
		w.with("globex/revenue", func(j *fakeJob) { j.running = false })
		page := into[control.JobPage](t, w.ask("weir.v1.acme._.jobs", ""))
		equal(t, "acme's jobs", fmt.Sprint(names(page.Jobs)), "[acme/alerts acme/revenue]")
		page = into[control.JobPage](t, w.ask("weir.v1._._.jobs", ""))
		equal(t, "all jobs", fmt.Sprint(names(page.Jobs)), "[acme/alerts acme/revenue globex/revenue]")
		all := into[control.TenantPage](t, w.ask("weir.v1._._.tenants", "{}"))
		equal(t, "tenants", fmt.Sprint(all.Tenants), "[{acme 2 2} {globex 1 0}]")
		equal(t, "unknown tenant", w.ask("weir.v1.hooli._.jobs", "").Reason, processor.ReasonUnknownTenant)
	})
}

func names(jobs []processor.JobReport) []string {
	var out []string
	for _, j := range jobs {
		out = append(out, j.Tenant+"/"+j.Job)
	}
	return out
}

func TestPages(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 1)
		for i := range 250 {
			w.add("p1", "acme", fmt.Sprintf("job-%03d", i))
		}
		var got []string
		after, pages := "", 0
		for {
			page := into[control.JobPage](t, w.ask("weir.v1.acme._.jobs", fmt.Sprintf(`{"limit":100,"after":%q}`, after)))
			got, pages = append(got, names(page.Jobs)...), pages+1
			if after = page.Next; after == "" {
				break
			}
		}
		equal(t, "pages", pages, 3)
		equal(t, "jobs", len(slices.Compact(got)), 251)

		var ids []string
		for after := ""; ; {
			page := into[control.CheckpointPage](t, w.ask("weir.v1.acme.revenue.checkpoints", fmt.Sprintf(`{"limit":4,"after":%q}`, after)))
			for _, c := range page.Checkpoints {
				ids = append(ids, fmt.Sprint(c.Checkpoint, c.State[:1]))
			}
			if after = page.Next; after == "" {
				break
			}
		}
		equal(t, "checkpoints", fmt.Sprint(ids), "[10c 9c 8c 7c 6c 5c 5f 4c 3c 2c 1c]")

		w.with("acme/revenue", func(j *fakeJob) {
			for i, name := range []string{"b", "a", "c", "new"} {
				j.savepoints[name] = fakeSavepoint{SavepointReport: processor.SavepointReport{Name: name, Created: time.Unix(5+int64(i)/3, 0)}}
			}
		})
		var saved []string
		for after := ""; ; {
			page := into[control.SavepointPage](t, w.ask("weir.v1.acme.revenue.savepoints", fmt.Sprintf(`{"limit":1,"after":%q}`, after)))
			saved = append(saved, page.Savepoints[0].Name)
			if after = page.Next; after == "" {
				break
			}
		}
		equal(t, "savepoints", fmt.Sprint(saved), "[new a b c]")
		equal(t, "a made-up cursor", w.ask("weir.v1.acme.revenue.savepoints", `{"after":"x"}`).Reason, processor.ReasonBadRequest)
	})
}

// TestLargeList keeps pages under the server's largest message, whatever limit says.
func TestLargeList(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.with("acme/revenue", func(j *fakeJob) {
			for i := range 30 {
				name := fmt.Sprintf("s-%02d", i)
				j.savepoints[name] = fakeSavepoint{SavepointReport: processor.SavepointReport{Name: name, Origin: strings.Repeat("x", 100_000)}}
			}
		})
		count := 0
		for after := ""; ; {
			a := w.ask("weir.v1.acme.revenue.savepoints", fmt.Sprintf(`{"limit":1000,"after":%q}`, after))
			if len(a.Data) > int(w.nc.MaxPayload()) {
				t.Fatalf("an answer has %d bytes", len(a.Data))
			}
			page := into[control.SavepointPage](t, a)
			count += len(page.Savepoints)
			if after = page.Next; after == "" {
				break
			}
		}
		equal(t, "savepoints", count, 30)
	})
}

// TestMicro is what nats micro info, stats and ping see.
func TestMicro(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 1)
		m, err := request(w.nc, "$SRV.INFO.weir", "")
		ok(t, err)
		var info micro.Info
		ok(t, json.Unmarshal(m.Data, &info))
		var verbs []string
		for _, e := range info.Endpoints {
			verbs = append(verbs, e.Name)
			for _, key := range []string{"request_schema", "response_schema"} {
				var schema map[string]any
				ok(t, json.Unmarshal([]byte(e.Metadata[key]), &schema))
				equal(t, e.Name+"'s "+key, fmt.Sprintf("%v %v", schema["type"], schema["additionalProperties"]), "object false")
			}
			if e.Metadata["description"] == "" || e.QueueGroup != control.QueueGroup {
				t.Fatalf("endpoint %s has description %q, queue group %q", e.Name, e.Metadata["description"], e.QueueGroup)
			}
		}
		slices.Sort(verbs)
		equal(t, "endpoints", strings.Join(verbs, " "), "checkpoint checkpoints delete fork jobs rescale savepoint savepoint-delete savepoints start state status stop tenants")
		w.ask("weir.v1.acme.revenue.status", "")
		w.ask("weir.v1.acme.revenue.status", "[]")
		w.ask("weir.v1.acme.other.status", "")
		synctest.Wait() // an answer goes out before its request is over
		m, err = request(w.nc, "$SRV.STATS.weir", "")
		ok(t, err)
		var stats micro.Stats
		ok(t, json.Unmarshal(m.Data, &stats))
		for _, e := range stats.Endpoints {
			if e.Name == "status" {
				equal(t, "status", string(e.Data), `{"requests":3,"ignored":0,"refused":1,"failed":1,"running":0}`)
			}
		}
	})
}

// TestWithoutWaiting is answered at once, and told the outcome as an event.
func TestWithoutWaiting(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var events *control.Events
		w := newWorld(t, 1, func(c *control.Config) {
			events = control.NewEvents(c.Conn, c.Worker, nil)
			c.Events = events
		})
		t.Cleanup(func() { events.Close() })
		sub, err := w.nc.SubscribeSync("weir.evt.acme.>")
		ok(t, err)
		begun := time.Now()
		accepted := into[control.Accepted](t, w.ask("weir.v1.acme.revenue.savepoint", `{"name":"one","wait":false}`))
		if d := time.Since(begun); d > 500*time.Millisecond || !accepted.Accepted {
			t.Fatalf("answered %+v after %s", accepted, d)
		}
		equal(t, "subject", accepted.Events, "weir.evt.acme.revenue.request")
		m := next(t, sub)
		var ev control.Event
		ok(t, json.Unmarshal(m.Data, &ev))
		equal(t, "event", fmt.Sprint(m.Subject, ev.Verb, ev.Request == accepted.Request, ev.Reason), "weir.evt.acme.revenue.requestsavepointtrue")
		var report processor.SavepointReport
		ok(t, json.Unmarshal(ev.Answer, &report))
		equal(t, "savepoint", report.Name, "one")
		// What is refused at once is answered so.
		equal(t, "conflict", w.ask("weir.v1.acme.revenue.savepoint", `{"name":"one","request":"x","wait":false}`).Reason, processor.ReasonConflict)
	})
}

func TestPanic(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.intercept(func(_, verb string, _ tenants.JobID) error {
			if verb == "stop" {
				panic("boom")
			}
			return nil
		}, nil)
		a := w.ask("weir.v1.acme.revenue.stop", "")
		equal(t, "reason", a.Reason, processor.ReasonFailed)
		if strings.Contains(a.Message, "boom") {
			t.Fatalf("the panic's value was told: %s", a.Message)
		}
		into[processor.JobReport](t, w.ask("weir.v1.acme.revenue.status", ""))
	})
}

// TestClose tells those who wait, and leaves no goroutine (goleak).
func TestClose(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 1)
		got := make(chan answer, 1)
		go func() {
			m, err := request(w.nc, "weir.v1.acme.revenue.savepoint", `{"name":"one"}`)
			if err == nil {
				got <- answer{Msg: m}
			}
			close(got)
		}()
		time.Sleep(100 * time.Millisecond)
		w.services["p1"].Close()
		w.services["p1"].Close()
		a, answered := <-got
		if !answered || a.Header.Get(micro.ErrorCodeHeader) != "503" {
			t.Fatalf("the caller was told %+v", a.Msg)
		}
		if err := w.services["p1"].Start(t.Context()); err == nil {
			t.Fatal("a closed service started")
		}
	})
}

func TestConfig(t *testing.T) {
	_, err := control.New(control.Config{Process: "a.b", InboxPrefixes: []string{"_INBOX", "*."}, Limits: control.Limits{Rate: -1, HoldTimeout: time.Hour}})
	for _, field := range []string{"Conn", "Control", "Worker", "Process", `"_INBOX"`, `"*."`, "negative", "HoldTimeout"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s is not reported in: %v", field, err)
		}
	}
}
