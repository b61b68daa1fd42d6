package jetstream

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/weirstream/weir/processor"
)

// TestSessionStopsAtAGap feeds a session deliveries by hand.
func TestSessionStopsAtAGap(t *testing.T) {
	type step struct{ streamSeq, consumerSeq int }
	for name, c := range map[string]struct {
		steps  []step
		passed int
		broken bool
	}{
		"contiguous":           {[]step{{3, 1}, {4, 2}, {9, 3}}, 3, false},
		"one lost":             {[]step{{3, 1}, {4, 2}, {6, 4}, {7, 5}}, 2, true},
		"the first lost":       {[]step{{4, 2}, {5, 3}}, 0, true},
		"one twice":            {[]step{{3, 1}, {3, 1}, {4, 2}}, 1, true},
		"starting over":        {[]step{{3, 1}, {4, 2}, {3, 1}, {4, 2}, {5, 3}}, 2, true},
		"nothing after a gap":  {[]step{{3, 1}, {5, 3}, {4, 2}, {5, 3}}, 1, true},
		"the sequence is zero": {[]step{{3, 0}}, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := &reader{spec: processor.ReaderSpec{BatchRecords: 100, BatchBytes: 1 << 20},
				ready: make(chan struct{}, 1), room: make(chan struct{}, 1), closed: make(chan struct{})}
			s := &session{r: r, stop: make(chan struct{})}
			r.sess = s
			for _, step := range c.steps {
				s.receive(&nats.Msg{Subject: "acme.orders.a", Reply: fmt.Sprintf("$JS.ACK.acme.weir-1.1.%d.%d.1700.0", step.streamSeq, step.consumerSeq)})
			}
			if len(r.buf) != c.passed || (r.broken != nil) != c.broken {
				t.Fatalf("%d records were passed on, error %v", len(r.buf), r.broken)
			}
			for i, rec := range r.buf {
				if rec.Seq != uint64(c.steps[i].streamSeq) {
					t.Fatalf("record %d has sequence %d", i, rec.Seq)
				}
			}
		})
	}
}

// TestSupersededSessionIsMute delivers to a session that was replaced.
func TestSupersededSessionIsMute(t *testing.T) {
	r := &reader{spec: processor.ReaderSpec{BatchRecords: 100, BatchBytes: 1 << 20}, ready: make(chan struct{}, 1), room: make(chan struct{}, 1)}
	s := &session{r: r, stop: make(chan struct{})}
	r.sess = &session{r: r}
	s.receive(&nats.Msg{Subject: "acme.orders.a", Reply: "$JS.ACK.acme.weir-1.1.1.1.1700.0"})
	s.receive(&nats.Msg{Subject: "acme.orders.a", Reply: "$JS.ACK.acme.weir-1.1.9.9.1700.0"})
	if len(r.buf) != 0 || r.position != 0 || r.broken != nil {
		t.Fatalf("%d records, position %d, error %v", len(r.buf), r.position, r.broken)
	}
}
