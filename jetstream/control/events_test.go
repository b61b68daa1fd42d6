package control_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/jetstream/control"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// TestEvents fixes the form of each event.
func TestEvents(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 0)
		sub, err := w.nc.SubscribeSync("weir.evt.>")
		ok(t, err)
		ok(t, w.nc.Flush())
		e := control.NewEvents(w.connect(), "w1", nil)
		defer e.Close()
		l := e.Listener()
		job, at, boom := tenants.JobID{Tenant: "acme", Name: "revenue"}, time.Unix(100, 0).UTC(), errors.New("boom")
		l.Job(processor.JobEvent{Job: job, State: processor.JobRestarting, Epoch: 3, Err: boom, At: at, Retry: at.Add(time.Second)})
		l.Checkpoint(processor.CheckpointEvent{Job: job, Checkpoint: 7, Epoch: 3, At: at, Duration: time.Second, Bytes: 10, Objects: 2, Messages: 5, Positions: map[string]uint64{"orders": 9}})
		l.CheckpointFailed(processor.CheckpointFailure{Job: job, Checkpoint: 8, Err: boom, At: at})
		l.Savepoint(processor.SavepointEvent{Job: job, Savepoint: "one", Request: "r", State: processor.SavepointMoved, Checkpoint: 9, Bytes: 1, Total: 2, At: at})
		l.Mark(processor.MarkEvent{Job: job, Mark: barriers.Mark{Source: "orders", Stream: "acme", Seq: 4}, State: processor.MarkIgnored, Savepoint: "m", Reason: "why", At: at})
		head := `"tenant":"acme","job":"revenue","worker":"w1","at":"1970-01-01T00:01:40Z"`
		for _, want := range []string{
			`weir.evt.acme.revenue.state {"version":1,"what":"state",` + head + `,"epoch":3,"error":"boom","state":"restarting","retry":"1970-01-01T00:01:41Z"}`,
			`weir.evt.acme.revenue.checkpoint {"version":1,"what":"checkpoint",` + head + `,"epoch":3,"checkpoint":7,"duration":"1s","bytes":10,"objects":2,"messages":5,"positions":{"orders":9}}`,
			`weir.evt.acme.revenue.checkpoint-failed {"version":1,"what":"checkpoint-failed",` + head + `,"error":"boom","checkpoint":8}`,
			`weir.evt.acme.revenue.savepoint {"version":1,"what":"savepoint",` + head + `,"state":"moved","checkpoint":9,"bytes":1,"total":2,"savepoint":"one","request":"r"}`,
			`weir.evt.acme.revenue.mark {"version":1,"what":"mark",` + head + `,"state":"ignored","savepoint":"m","mark":{"source":"orders","stream":"acme","seq":4},"reason":"why"}`,
		} {
			m := next(t, sub)
			equal(t, "event", m.Subject+" "+string(m.Data), want)
		}
		// One that is too large for a message is told without its details.
		l.Job(processor.JobEvent{Job: job, State: processor.JobFailed, Err: errors.New(strings.Repeat("x", 2<<20)), At: at})
		var ev control.Event
		ok(t, json.Unmarshal(next(t, sub).Data, &ev))
		equal(t, "shortened", fmt.Sprint(ev.Shortened, ev.State), "truefailed")
	})
}

// TestEventsNeverBlock: a connection that takes nothing costs events, not time.
func TestEventsNeverBlock(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 0)
		sub, err := w.nc.SubscribeSync("weir.evt.>")
		ok(t, err)
		ok(t, sub.SetPendingLimits(-1, -1))
		ok(t, w.nc.Flush())
		nc := w.connect()
		e := control.NewEvents(nc, "w1", nil)
		l := e.Listener()
		job := tenants.JobID{Tenant: "acme", Name: "revenue"}
		begun := time.Now()
		for i := range 100_000 {
			l.Checkpoint(processor.CheckpointEvent{Job: job, Checkpoint: uint64(i)})
		}
		equal(t, "time spent", time.Since(begun), time.Duration(0))
		e.Close()
		e.Close()
		l.Checkpoint(processor.CheckpointEvent{Job: job}) // after Close: not told
		ok(t, nc.Flush())
		w.settle()
		told, dropped, last := 0, uint64(0), -1
		for {
			n, _, err := sub.Pending()
			ok(t, err)
			if n == 0 {
				break
			}
			var ev control.Event
			ok(t, json.Unmarshal(next(t, sub).Data, &ev))
			if int(ev.Checkpoint) <= last {
				t.Fatalf("checkpoint %d follows %d", ev.Checkpoint, last)
			}
			last = int(ev.Checkpoint)
			told, dropped = told+1, dropped+ev.Dropped
		}
		if told == 0 || uint64(told)+dropped > 100_000 {
			t.Fatalf("%d events were told, %d dropped", told, dropped)
		}
		if told < 100_000 && dropped == 0 {
			t.Fatalf("%d of 100,000 events were told, and none was said to be dropped", told)
		}
	})
}
