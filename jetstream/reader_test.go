package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/processor"
)

func acmeStream() js.StreamConfig {
	return js.StreamConfig{Name: "acme", Subjects: []string{"acme.>"}, AllowAtomicPublish: true, AllowMsgTTL: true}
}

func orders(after uint64) processor.ReaderSpec {
	return processor.ReaderSpec{Stream: "acme", Filter: "acme.orders.>", After: after}
}

func TestReaderDeliversMatchesInOrder(t *testing.T) {
	w := newWorld(t)
	w.stream(acmeStream())
	for i := range 200 {
		_, err := w.js.PublishMsg(context.Background(), &nats.Msg{Subject: "acme.orders." + strconv.Itoa(i%7), Data: fmt.Append(nil, i),
			Header: nats.Header{"N": {strconv.Itoa(i)}}})
		ok(t, err)
		w.publish("acme.out", 1)
	}
	spec := orders(0)
	spec.BatchRecords = 16
	got := read(t, w.open(spec), 200)
	for i, rec := range got {
		equal(t, "payload", string(rec.Data), strconv.Itoa(i))
		equal(t, "subject", rec.Subject, "acme.orders."+strconv.Itoa(i%7))
		equal(t, "sequence", rec.Seq, uint64(2*i+1))
		equal(t, "header", rec.Header["N"][0], strconv.Itoa(i))
		if age := time.Since(time.Unix(0, rec.Time)); age < 0 || age > time.Minute {
			t.Fatalf("time is %s ago", age)
		}
	}
	equal(t, "first record behind a position", read(t, w.open(orders(got[99].Seq)), 100)[0].Seq, got[100].Seq)
}

// TestReaderIsNotFooledByRecords delivers records that look like the server's own messages.
func TestReaderIsNotFooledByRecords(t *testing.T) {
	w := newWorld(t)
	w.stream(acmeStream())
	for _, h := range []nats.Header{
		{"Status": {"100"}, "Description": {"Idle Heartbeat"}, "Nats-Last-Consumer": {"77"}, "Nats-Last-Stream": {"99"}},
		{"Status": {"409"}, "Description": {"Consumer Deleted"}},
		{"Nats-Consumer-Stalled": {"acme.orders.evil"}},
		{"Weir-Barrier": {"1"}},
	} {
		_, err := w.js.PublishMsg(context.Background(), &nats.Msg{Subject: "acme.orders.a", Header: h})
		ok(t, err)
	}
	w.publish("acme.orders._weir.revenue.orders", 1)
	got := read(t, w.open(orders(0)), 5)
	equal(t, "last subject", got[4].Subject, "acme.orders._weir.revenue.orders")
}

func TestIdleReaderMovesItsPosition(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.stream(acmeStream())
		w.publish("acme.orders.a", 1)
		r := w.open(orders(0))
		read(t, r, 1)
		w.publish("acme.out", 20)
		start := time.Now()
		batch, err := r.Next(context.Background())
		ok(t, err)
		equal(t, "records", len(batch.Records), 0)
		equal(t, "position", batch.Position, 21)
		if waited := time.Since(start); waited > 11*time.Second {
			t.Fatalf("the position moved after %s; the server sends a heartbeat after 5 to 10 idle seconds", waited)
		}
	})
}

func TestReaderSurvives(t *testing.T) {
	consumers := func(w *world) []string {
		s, err := w.js.Stream(context.Background(), "acme")
		ok(t, err)
		var names []string
		for name := range s.ConsumerNames(context.Background()).Name() {
			names = append(names, name)
		}
		return names
	}
	for name, harm := range map[string]func(w *world){
		"a deleted consumer": func(w *world) {
			for _, c := range consumers(w) {
				ok(t, w.js.DeleteConsumer(context.Background(), "acme", c))
			}
		},
		"a reconnect": func(w *world) {
			nc, err := w.b.Conn(context.Background(), jetstream.Read)
			ok(t, err)
			ok(t, nc.ForceReconnect())
		},
		"a closed connection": func(w *world) {
			nc, err := w.b.Conn(context.Background(), jetstream.Read)
			ok(t, err)
			nc.Close()
		},
		"a removed record that was read": func(w *world) {
			s, err := w.js.Stream(context.Background(), "acme")
			ok(t, err)
			ok(t, s.DeleteMsg(context.Background(), 50))
			nc, err := w.b.Conn(context.Background(), jetstream.Read)
			ok(t, err)
			ok(t, nc.ForceReconnect())
		},
	} {
		t.Run(name, func(t *testing.T) {
			// Not in a bubble: nats.go takes the timer of a reconnect from a pool that all bubbles share.
			w := newWorld(t, func(c *jetstream.Config) { c.Heartbeat = 100 * time.Millisecond })
			w.stream(acmeStream())
			w.publish("acme.orders.a", 50)
			r := w.open(orders(0))
			got := read(t, r, 50)
			for round := range 3 {
				harm(w)
				w.publish("acme.orders.a", 20)
				more := read(t, r, 20)
				equal(t, "next sequence", more[0].Seq, got[len(got)-1].Seq+1)
				got = append(got, more...)
				if round == 0 {
					harm = func(w *world) {
						for _, c := range consumers(w) {
							ok(t, w.js.DeleteConsumer(context.Background(), "acme", c))
						}
					}
				}
			}
		})
	}
}

// TestReaderNoticesSilentLoss sends what a reader sees when the last messages to it were lost: a heartbeat that says more was sent
// than came, and the end of its consumer. (Gaps between records: TestSessionStopsAtAGap; the server lets nobody forge those.)
func TestReaderNoticesSilentLoss(t *testing.T) {
	for name, header := range map[string]nats.Header{
		"a heartbeat": {"Status": {"100"}, "Nats-Last-Consumer": {"57"}, "Nats-Last-Stream": {"900"}},
		"the end":     {"Status": {"409"}, "Description": {"Consumer Deleted"}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				s := w.stream(acmeStream())
				w.publish("acme.orders.a", 20)
				r := w.open(orders(0))
				read(t, r, 20)
				var first string
				for c := range s.ListConsumers(context.Background()).Info() {
					first = c.Name
					ok(t, w.nc.PublishMsg(&nats.Msg{Subject: c.Config.DeliverSubject, Header: header}))
				}
				w.publish("acme.orders.a", 20)
				for i, rec := range read(t, r, 20) {
					equal(t, "sequence", rec.Seq, uint64(21+i))
				}
				synctest.Wait()
				for c := range s.ListConsumers(context.Background()).Info() {
					if c.Name == first {
						t.Fatal("the reader kept the consumer that lost something")
					}
				}
			})
		})
	}
}

// TestStuckReaderHoldsTheServerBack leaves a batch untaken: what piles up in the process is bounded, and nothing gets lost.
func TestStuckReaderHoldsTheServerBack(t *testing.T) {
	w := newWorld(t)
	s := w.stream(acmeStream())
	const n, size = 6000, 2048
	for range n {
		w.publishAsync("acme.orders.a", make([]byte, size))
	}
	<-w.js.PublishAsyncComplete()
	spec := orders(0)
	spec.BatchRecords = 100
	r := w.open(spec)
	// The server sends until it waits for an answer to its flow control request: the count stands still.
	delivered := func() uint64 {
		for c := range s.ListConsumers(context.Background()).Info() {
			return c.Delivered.Stream
		}
		return 0
	}
	last, same := uint64(0), 0
	for same < 50 {
		if d := delivered(); d == last && d > 0 {
			same++
		} else {
			last, same = d, 0
		}
	}
	if last*size > 5<<20 {
		t.Fatalf("%d records of %d bytes were delivered to a job that takes none", last, size)
	}
	read(t, r, n)
}

// TestWideReader reads a backlog with many subjects, where the reader drops the filter, then goes on at the tail.
func TestWideReader(t *testing.T) {
	w := newWorld(t)
	s := w.stream(acmeStream())
	const n = 24_000
	var want []uint64
	for i := range n {
		subject := "acme.orders." + strconv.Itoa(i%200)
		if i%3 == 2 {
			subject = "acme.out." + strconv.Itoa(i)
		} else {
			want = append(want, uint64(i+1))
		}
		w.publishAsync(subject, nil)
	}
	<-w.js.PublishAsyncComplete()
	r := w.open(orders(0))
	wide := false // the narrow one it began with may still be on its way out
	for c := range s.ListConsumers(context.Background()).Info() {
		wide = wide || c.Config.FilterSubject == ""
	}
	equal(t, "a consumer without a filter", wide, true)
	got := read(t, r, len(want))
	for i := range got {
		equal(t, "sequence", got[i].Seq, want[i])
	}
	// Behind a foreign record only the position moves.
	w.publish("acme.out.x", 1)
	for position := got[len(got)-1].Seq; position < n+1; {
		batch, err := r.Next(context.Background())
		ok(t, err)
		equal(t, "records", len(batch.Records), 0)
		position = batch.Position
	}
	w.publish("acme.orders.a", 1)
	equal(t, "sequence", read(t, r, 1)[0].Seq, uint64(n+2))
}

func TestReaderCloseAndContext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.stream(acmeStream())
		r := w.open(orders(0))
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		for {
			batch, err := r.Next(ctx)
			if errors.Is(err, context.DeadlineExceeded) {
				break
			}
			ok(t, err)
			equal(t, "records", len(batch.Records), 0)
		}
		r.Close()
		r.Close()
		_, err := r.Next(context.Background())
		wantErr(t, err, jetstream.ErrReaderClosed)
		synctest.Wait()
		info, err := s.Info(context.Background())
		ok(t, err)
		equal(t, "consumers left", info.State.Consumers, 0)
	})
}

func fingerprints(records []processor.Record) []barriers.Fingerprint {
	var out []barriers.Fingerprint
	for _, r := range records[max(0, len(records)-8):] {
		out = append(out, barriers.Fingerprint{Seq: r.Seq, Time: r.Time, Hash: barriers.FingerprintHash(r.Subject, r.Data)})
	}
	return out
}

func wantFault(t *testing.T, err error, want processor.StreamFault) {
	t.Helper()
	var fault *processor.StreamError
	if !errors.As(err, &fault) || fault.Fault != want {
		t.Fatalf("error is %v, want the fault %q", err, want)
	}
	equal(t, "class", processor.ClassOf(err), processor.ClassTerminal)
	if fault.Detail == "" || fault.Advice == "" || fault.Job != job || fault.Stream != "acme" {
		t.Fatalf("the error does not say enough: %v", err)
	}
}

// TestStreamFaults opens readers on streams that are not what the position was taken from.
func TestStreamFaults(t *testing.T) {
	for _, c := range []struct {
		name  string
		harm  func(w *world, s js.Stream)
		fault processor.StreamFault
		// lossy is the sequence of the first record when data loss is allowed; 0: it stays an error.
		lossy uint64
	}{
		{"deleted", func(w *world, s js.Stream) { ok(t, w.js.DeleteStream(context.Background(), "acme")) }, processor.StreamMissing, 0},
		{"recreated", func(w *world, s js.Stream) {
			ok(t, w.js.DeleteStream(context.Background(), "acme"))
			w.stream(acmeStream())
			w.publish("acme.orders.a", 80)
		}, processor.StreamRecreated, 1},
		{"purged beyond the position", func(w *world, s js.Stream) {
			w.publish("acme.orders.a", 20)
			ok(t, s.Purge(context.Background(), js.WithPurgeSequence(61)))
			w.publish("acme.orders.a", 1)
		}, processor.StreamTrimmed, 61},
		{"purged whole", func(w *world, s js.Stream) {
			w.publish("acme.orders.a", 20)
			ok(t, s.Purge(context.Background()))
			w.publish("acme.orders.a", 1)
		}, processor.StreamTrimmed, 71},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			s := w.stream(acmeStream())
			w.publish("acme.orders.a", 50)
			got := read(t, w.open(orders(0)), 50)
			info, err := s.Info(context.Background())
			ok(t, err)
			spec := orders(50)
			spec.Job, spec.Source = job, "orders"
			spec.Created, spec.Tail = info.Created.UnixNano(), fingerprints(got)
			w.open(spec).Close()
			c.harm(w, s)
			_, err = w.b.OpenReader(context.Background(), spec)
			wantFault(t, err, c.fault)
			spec.AllowDataLoss = true
			r, err := w.b.OpenReader(context.Background(), spec)
			if c.lossy == 0 {
				wantFault(t, err, c.fault)
				return
			}
			ok(t, err)
			defer r.Close()
			batch, err := r.Next(context.Background())
			ok(t, err)
			equal(t, "first record", batch.Records[0].Seq, c.lossy)
		})
	}
}

// TestLiveReaderNoticesAnotherStream recreates the stream under a reader.
func TestLiveReaderNoticesAnotherStream(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.stream(acmeStream())
		info, err := s.Info(context.Background())
		ok(t, err)
		w.publish("acme.orders.a", 10)
		spec := orders(0)
		spec.Created = info.Created.UnixNano()
		r := w.open(spec)
		read(t, r, 10)
		time.Sleep(time.Second) // or it would be created at the same instant
		ok(t, w.js.DeleteStream(context.Background(), "acme"))
		w.stream(acmeStream())
		w.publish("acme.orders.a", 30)
		for err == nil {
			var batch processor.Batch
			batch, err = r.Next(context.Background())
			equal(t, "records", len(batch.Records), 0)
		}
		wantFault(t, err, processor.StreamRecreated)
	})
}

func TestTailComparison(t *testing.T) {
	w := newWorld(t)
	s := w.stream(acmeStream())
	w.publish("acme.orders.a", 20)
	tail := fingerprints(read(t, w.open(orders(0)), 20))
	open := func(tail []barriers.Fingerprint) error {
		spec := orders(20)
		spec.Job, spec.Source, spec.Tail = job, "orders", tail
		r, err := w.b.OpenReader(context.Background(), spec)
		if err == nil {
			r.Close()
		}
		return err
	}
	ok(t, open(tail))
	for i, change := range []func(f *barriers.Fingerprint){
		func(f *barriers.Fingerprint) { f.Time++ },
		func(f *barriers.Fingerprint) {
			f.Hash = barriers.FingerprintHash("acme.orders.b", []byte("acme.orders.a 19"))
		},
		func(f *barriers.Fingerprint) { f.Hash = barriers.FingerprintHash("acme.orders.a", []byte("other")) },
	} {
		other := slices.Clone(tail)
		change(&other[7])
		if err := open(other); err == nil {
			t.Fatalf("change %d passed", i)
		} else {
			wantFault(t, err, processor.StreamRewritten)
		}
	}
	// The newest that still exists counts.
	other := slices.Clone(tail)
	other[7].Time++
	ok(t, s.DeleteMsg(context.Background(), 20))
	ok(t, open(other))
	other[6].Time++
	wantFault(t, open(other), processor.StreamRewritten)
	for seq := uint64(13); seq < 20; seq++ {
		ok(t, s.DeleteMsg(context.Background(), seq))
	}
	ok(t, open(other)) // none is left to compare: a warning
}
