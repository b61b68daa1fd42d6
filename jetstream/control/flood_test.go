package control_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/weirstream/weir/processor"
)

// TestFloodOfARunningJob: while a real job is asked 1000 times a second for ten seconds, it takes its checkpoints and its results
// come out.
func TestFloodOfARunningJob(t *testing.T) {
	for _, verb := range []string{"checkpoint", "savepoint"} {
		t.Run(verb, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				g := newGuarded(t, roles(t), false)
				stop := g.work(sums(t), "w1")
				defer stop()
				op := g.as("operator")
				events, err := op.SubscribeSync("weir.evt.acme.sums.checkpoint")
				ok(t, err)
				inbox, err := op.SubscribeSync(op.NewInbox())
				ok(t, err)
				pub := g.as("publisher")
				for i := range 10_000 {
					if i%1000 == 0 {
						g.publishNumbers(pub, 10)
					}
					body := ""
					if verb == "savepoint" {
						body = fmt.Sprintf(`{"name":"s-%d"}`, i)
					}
					ok(t, op.PublishRequest("weir.v1.acme.sums."+verb, inbox.Subject, []byte(body)))
					time.Sleep(time.Millisecond)
				}
				codes := map[int]int{}
				for range 10_000 {
					codes[read(t, next(t, inbox)).code]++
				}
				// The interval is a second; every second had input.
				checkpoints, _, err := events.Pending()
				ok(t, err)
				if checkpoints < 9 {
					t.Errorf("%d checkpoints in ten seconds, answers %v", checkpoints, codes)
				}
				if codes[429] < 8000 {
					t.Errorf("of 10,000 requests only %d were refused: %v", codes[429], codes)
				}
				time.Sleep(time.Second) // until it may ask again
				report := into[processor.JobReport](t, askWith(t, op, "weir.v1.acme.sums.status", ""))
				equal(t, "state", report.State, processor.JobRunning)
			})
		})
	}
}
