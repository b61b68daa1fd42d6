package integration_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/processor"
)

// TestControlMark publishes 1000 elements, a mark and 1000 more at full speed, as nats pub does: the savepoint holds exactly the first
// 1000, whatever the parallelism and wherever the job just was.
func TestControlMark(t *testing.T) {
	rng := newRand(newSeed(t))
	s := oneSite(t)
	for _, parallelism := range []int{1, 4} {
		t.Run(fmt.Sprint(parallelism), func(t *testing.T) {
			f := newFeed(fmt.Sprintf("mark%d", parallelism))
			s.layout(t, f.tenant, parallelism == 1)
			w := s.controlWorker(t, controlConfig{Name: f.tenant, Tenants: []string{f.tenant}, Interval: 20 * time.Millisecond, Retained: 3, Timeout: patience, Takeover: time.Second})
			defer w.kill()
			done[processor.CheckpointReport](t, s, f.tenant, tallyName, "checkpoint", nil) // it runs
			done[processor.JobReport](t, s, f.tenant, tallyName, "rescale", body{"parallelism": parallelism})
			first, second := f.hist.random(rng, 1000, 13), f.hist.random(rng, 1000, 13)
			for _, in := range first {
				ok(t, s.nc.Publish(f.tenant+"."+in.subject, in.data))
			}
			ok(t, s.nc.PublishMsg(&nats.Msg{Subject: f.tenant + ".in.mark", Header: nats.Header{processor.HeaderMark: {tallyName + " here"}}}))
			for _, in := range second {
				ok(t, s.nc.Publish(f.tenant+"."+in.subject, in.data))
			}
			ok(t, s.nc.Flush())
			var rep processor.SavepointReport
			eventually(t, "the savepoint of the mark is there", func() bool {
				page := done[struct {
					Savepoints []processor.SavepointReport
					Next       string
				}](t, s, f.tenant, tallyName, "savepoints", nil)
				at := slices.IndexFunc(page.Savepoints, func(r processor.SavepointReport) bool { return r.Name == "here" })
				if at >= 0 {
					rep = page.Savepoints[at]
				}
				return at >= 0
			})
			model := map[string]tally{}
			for _, in := range first {
				if next, good := stepTally(model, in.data); good {
					model[next.Key] = next
				}
			}
			for k := range 13 {
				key := keyName(k)
				got := done[processor.StateReport](t, s, f.tenant, tallyName, "state", body{"operator": "count", "state": "times", "key": key, "savepoint": "here"})
				if want := model[key].N; string(got.Value) != fmt.Sprint(want) {
					t.Fatalf("key %s was seen %s times before the mark, the input says %d; the savepoint: %+v", key, got.Value, want, rep)
				}
			}
			markAt := s.sequenceOf(t, f.tenant, f.tenant+".in.mark")
			before := 0
			ok(t, readStream(context.Background(), s.js, inputOf(f.tenant), f.tenant+".in.>", func(m js.Msg) error {
				meta, err := m.Metadata()
				if err == nil && meta.Sequence.Stream < markAt && len(m.Headers()["Weir-Barrier"]) == 0 {
					before++
				}
				return err
			}))
			if before != len(first) || rep.Positions["events"].Sequence > markAt {
				t.Fatalf("the mark is at %d behind %d elements, the savepoint: %+v", markAt, before, rep)
			}
		})
	}
}

func (s *site) sequenceOf(t testing.TB, tenant, subject string) uint64 {
	t.Helper()
	stream, err := s.js.Stream(context.Background(), inputOf(tenant))
	ok(t, err)
	m, err := stream.GetLastMsgForSubject(context.Background(), subject)
	ok(t, err)
	return m.Sequence
}
