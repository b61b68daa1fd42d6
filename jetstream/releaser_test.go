package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// part makes n messages of a job with a marker.
func part(name string, first, n int, expected uint64) processor.Part {
	p := processor.Part{Job: tenants.JobID{Tenant: "acme", Name: name}, Sink: "out", Stream: "acme", Expected: expected,
		Marker: processor.Message{Subject: "acme._weir." + name + ".sink.out", Data: fmt.Appendf(nil, `{"released":%d}`, first+n)}}
	for i := range n {
		p.Messages = append(p.Messages, processor.Message{Subject: "acme.out." + name, Data: strconv.AppendInt(nil, int64(first+i), 10),
			Header: map[string][]string{"N": {strconv.Itoa(first + i)}}})
	}
	return p
}

// contents returns the payloads on a subject in order.
func (w *world) contents(subject string) string {
	w.t.Helper()
	s, err := w.js.Stream(context.Background(), "acme")
	ok(w.t, err)
	info, err := s.Info(context.Background())
	ok(w.t, err)
	var out []string
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq; seq++ {
		m, err := s.GetMsg(context.Background(), seq)
		if errors.Is(err, js.ErrMsgNotFound) {
			continue
		}
		ok(w.t, err)
		if m.Subject == subject {
			out = append(out, string(m.Data))
		}
	}
	return strings.Join(out, " ")
}

func (w *world) last(subject string) (uint64, string) {
	w.t.Helper()
	s, err := w.js.Stream(context.Background(), "acme")
	ok(w.t, err)
	m, err := s.GetLastMsgForSubject(context.Background(), subject)
	if errors.Is(err, js.ErrMsgNotFound) {
		return 0, ""
	}
	ok(w.t, err)
	return m.Sequence, string(m.Data)
}

func TestPartIsGuardedByItsMarker(t *testing.T) {
	w := newWorld(t)
	w.stream(acmeStream())
	first := w.b.PublishPart(context.Background(), part("a", 0, 5, 0))
	equal(t, "status", first.Status, barriers.OK)
	seq, value := w.last("acme._weir.a.sink.out")
	equal(t, "sequence", first.Seq, seq)
	equal(t, "marker", value, `{"released":5}`)
	for _, expected := range []uint64{0, 1, first.Seq + 1} {
		reply := w.b.PublishPart(context.Background(), part("a", 5, 5, expected))
		equal(t, "status of a stale part", reply.Status, barriers.Mismatch)
	}
	second := w.b.PublishPart(context.Background(), part("a", 5, 2, first.Seq))
	equal(t, "status", second.Status, barriers.OK)
	equal(t, "output", w.contents("acme.out.a"), "0 1 2 3 4 5 6")
	only := w.b.PublishPart(context.Background(), part("a", 7, 0, second.Seq))
	equal(t, "status of a part without messages", only.Status, barriers.OK)
	equal(t, "sequence", only.Seq, second.Seq+1)
}

// TestPartsShareABatch holds the first commit back, so that what comes in meanwhile is grouped.
func TestPartsShareABatch(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var mu sync.Mutex
		commits := 0
		gate, started := make(chan struct{}), make(chan struct{})
		w := newWorld(t, func(c *jetstream.Config) {
			c.Intercept = func(op, subject string) jetstream.Fault {
				if op != "batch.commit" {
					return jetstream.Pass
				}
				mu.Lock()
				commits++
				first := commits == 1
				mu.Unlock()
				if first {
					close(started)
					<-gate
				}
				return jetstream.Pass
			}
		})
		w.stream(acmeStream())
		names := []string{"a", "b", "c", "d", "e", "big"}
		replies := make([]barriers.Reply, len(names))
		var wg sync.WaitGroup
		publish := func(i int, p processor.Part) {
			wg.Go(func() { replies[i] = w.b.PublishPart(context.Background(), p) })
		}
		publish(0, part("a", 0, 3, 0))
		<-started
		publish(1, part("b", 0, 3, 0))
		publish(2, part("c", 0, 3, 99)) // stale
		publish(3, part("d", 0, 3, 0))
		publish(4, part("e", 0, 0, 0))
		tooBig := part("big", 0, 3, 0)
		tooBig.Messages[1].Data = make([]byte, 2<<20)
		publish(5, tooBig)
		synctest.Wait() // all wait in the queue
		close(gate)
		wg.Wait()
		for i, want := range []barriers.Status{barriers.OK, barriers.OK, barriers.Mismatch, barriers.OK, barriers.OK, barriers.Rejected} {
			equal(t, "status of "+names[i], replies[i].Status, want)
			seq, _ := w.last("acme._weir." + names[i] + ".sink.out")
			if want == barriers.OK {
				equal(t, "sequence of "+names[i], replies[i].Seq, seq)
				if i < 4 {
					equal(t, "output of "+names[i], w.contents("acme.out."+names[i]), "0 1 2")
				}
			} else {
				equal(t, "marker of "+names[i], seq, 0)
				equal(t, "output of "+names[i], w.contents("acme.out."+names[i]), "")
			}
		}
	})
}

func TestGroupIsOneBatch(t *testing.T) {
	bubble(t, func(t *testing.T) {
		gate, started := make(chan struct{}), make(chan struct{})
		var once sync.Once
		var mu sync.Mutex
		var commits []string
		w := newWorld(t, func(c *jetstream.Config) {
			c.Intercept = func(op, subject string) jetstream.Fault {
				if op == "batch.commit" {
					mu.Lock()
					commits = append(commits, subject)
					mu.Unlock()
					once.Do(func() { close(started); <-gate })
				}
				return jetstream.Pass
			}
		})
		w.stream(acmeStream())
		var wg sync.WaitGroup
		replies := make([]barriers.Reply, 30)
		for i := range replies {
			wg.Go(func() { replies[i] = w.b.PublishPart(context.Background(), part("j"+strconv.Itoa(i), 0, 2, 0)) })
		}
		<-started
		synctest.Wait() // all wait in the queue
		close(gate)
		wg.Wait()
		equal(t, "batches", len(commits), 2)
		for i, reply := range replies {
			equal(t, "status", reply.Status, barriers.OK)
			seq, _ := w.last("acme._weir.j" + strconv.Itoa(i) + ".sink.out")
			equal(t, "sequence", reply.Seq, seq)
		}
	})
}

// TestPreparedParts publishes a chain where each part names the next, with breaks in the chain.
func TestPreparedParts(t *testing.T) {
	w := newWorld(t)
	w.stream(acmeStream())
	const n = 12
	parts := make([]processor.Part, n)
	for i := range parts {
		parts[i] = part("a", 10*i, 10, 0)
		if i > 0 {
			parts[i-1].Next = &parts[i]
		}
	}
	unused := part("a", 1000, 10, 0)
	parts[4].Next = &unused   // never comes
	parts[n-1].Next = &unused // nor at the end
	seq, want := uint64(0), []string{}
	for i := range parts {
		if i == 7 {
			// A stale try of what was prepared is refused and leaves nothing behind.
			stale := parts[i]
			stale.Expected = seq - 1
			equal(t, "status", w.b.PublishPart(context.Background(), stale).Status, barriers.Mismatch)
		}
		parts[i].Expected = seq
		reply := w.b.PublishPart(context.Background(), parts[i])
		equal(t, "status", reply.Status, barriers.OK)
		seq = reply.Seq
		for k := range 10 {
			want = append(want, strconv.Itoa(10*i+k))
		}
	}
	equal(t, "output", w.contents("acme.out.a"), strings.Join(want, " "))
	// Another stream's worth of open batches would be refused: none was left open.
	for i := range 60 {
		p := part("b"+strconv.Itoa(i), 0, 1, 0)
		p.Next = &unused
		equal(t, "status", w.b.PublishPart(context.Background(), p).Status, barriers.OK)
	}
}

func TestPartFaults(t *testing.T) {
	for _, c := range []struct {
		op    string
		fault jetstream.Fault
		want  barriers.Status
		there bool
	}{
		{"batch.body", jetstream.Drop, barriers.Busy, false},
		{"batch.commit", jetstream.Drop, barriers.Unknown, false},
		{"batch.commit", jetstream.LoseReply, barriers.Unknown, true},
	} {
		t.Run(fmt.Sprint(c.op, c.fault), func(t *testing.T) {
			fault := c.fault
			w := newWorld(t, func(cfg *jetstream.Config) {
				cfg.Intercept = func(op, subject string) jetstream.Fault {
					if op == c.op {
						defer func() { fault = jetstream.Pass }()
						return fault
					}
					return jetstream.Pass
				}
			})
			w.stream(acmeStream())
			equal(t, "status", w.b.PublishPart(context.Background(), part("a", 0, 3, 0)).Status, c.want)
			seq, _ := w.last("acme._weir.a.sink.out")
			equal(t, "the part is there", seq != 0, c.there)
			equal(t, "status of the next", w.b.PublishPart(context.Background(), part("a", 3, 3, seq)).Status, barriers.OK)
		})
	}
}

func TestPartIntoFullAndMissingStreams(t *testing.T) {
	w := newWorld(t)
	cfg := acmeStream()
	cfg.MaxBytes, cfg.Discard = 4096, js.DiscardNew
	w.stream(cfg)
	big := part("a", 0, 20, 0)
	for i := range big.Messages {
		big.Messages[i].Data = make([]byte, 1000)
	}
	equal(t, "status", w.b.PublishPart(context.Background(), big).Status, barriers.Full)
	seq, _ := w.last("acme._weir.a.sink.out")
	equal(t, "marker", seq, 0)
	equal(t, "status of one that fits", w.b.PublishPart(context.Background(), part("a", 0, 2, 0)).Status, barriers.OK)
	other := part("a", 0, 1, 0)
	other.Stream = "nosuch"
	equal(t, "status without a stream", w.b.PublishPart(context.Background(), other).Status, barriers.Rejected)
}

func TestMarkerOutlivesTheAgeLimit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		cfg := acmeStream()
		cfg.MaxAge = time.Hour
		w.stream(cfg)
		equal(t, "status", w.b.PublishPart(context.Background(), part("a", 0, 3, 0)).Status, barriers.OK)
		time.Sleep(3 * time.Hour)
		equal(t, "output", w.contents("acme.out.a"), "")
		seq, value := w.last("acme._weir.a.sink.out")
		equal(t, "marker", value, `{"released":3}`)
		equal(t, "status", w.b.PublishPart(context.Background(), part("a", 3, 3, seq)).Status, barriers.OK)
	})
}

func TestCanceledPart(t *testing.T) {
	w := newWorld(t)
	w.stream(acmeStream())
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	equal(t, "status", w.b.PublishPart(ctx, part("a", 0, 1, 0)).Status, barriers.Canceled)
}
