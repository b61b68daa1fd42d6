package jetstream_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/processor"
)

// blocked is a reader that has taken its first records and then nothing for a while, with more behind it than is sent ahead.
func blocked(t *testing.T, w *world, filter string, loss bool) (processor.Reader, uint64) {
	t.Helper()
	data := make([]byte, 2048)
	for i := range 6000 {
		w.publishAsync([]string{"acme.orders.a", "acme.other"}[i%2], data)
	}
	<-w.js.PublishAsyncComplete()
	r := w.open(processor.ReaderSpec{Stream: "acme", Filter: filter, BatchRecords: 16, AllowDataLoss: loss})
	batch, err := r.Next(context.Background())
	ok(t, err)
	synctest.Wait()
	time.Sleep(5 * time.Second)
	return r, batch.Position
}

// rest reads until n records came or an error, and checks that nothing is missing between the records.
func rest(t *testing.T, r processor.Reader, from, step uint64, until uint64) (uint64, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for from < until {
		batch, err := r.Next(ctx)
		if err != nil {
			return from, err
		}
		for _, rec := range batch.Records {
			if rec.Seq != from+step && from > 1 {
				t.Fatalf("sequence %d follows %d", rec.Seq, from)
			}
			from = rec.Seq
		}
	}
	return from, nil
}

func TestInputRemovedUnderABlockedReader(t *testing.T) {
	purge := func(w *world, opts ...js.StreamPurgeOpt) {
		s, err := w.js.Stream(context.Background(), "acme")
		ok(w.t, err)
		ok(w.t, s.Purge(context.Background(), opts...))
	}
	refill := func(w *world, n int) {
		for i := range n {
			w.publishAsync([]string{"acme.orders.a", "acme.other"}[i%2], make([]byte, 2048))
		}
		<-w.js.PublishAsyncComplete()
	}
	for name, c := range map[string]struct {
		limit  func(*js.StreamConfig)
		remove func(w *world)
	}{
		"purged": {nil, func(w *world) { purge(w) }},
		"purged in part": {nil, func(w *world) {
			purge(w, js.WithPurgeKeep(100))
			refill(w, 50)
		}},
		"purged and refilled": {nil, func(w *world) {
			purge(w)
			refill(w, 8000)
		}},
		"a limit of messages": {func(c *js.StreamConfig) { c.MaxMsgs, c.Discard = 6000, js.DiscardOld }, func(w *world) { refill(w, 5900) }},
		"an age limit":        {func(c *js.StreamConfig) { c.MaxAge = time.Minute }, func(*world) { time.Sleep(2 * time.Minute) }},
	} {
		for filter, step := range map[string]uint64{"acme.orders.>": 2, "acme.>": 1} {
			t.Run(name+"/"+filter, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					w := newWorld(t)
					w.t = t
					cfg := acmeStream()
					if c.limit != nil {
						c.limit(&cfg)
					}
					w.stream(cfg)
					r, position := blocked(t, w, filter, false)
					c.remove(w)
					end, err := rest(t, r, position, step, 1<<62)
					wantFault(t, err, processor.StreamTrimmed)
					_, again := r.Next(context.Background())
					wantFault(t, again, processor.StreamTrimmed)
					if end > 6000 {
						t.Fatalf("sequence %d was handed over, behind what was removed", end)
					}
				})
			})
		}
	}
}

// TestRemovalIsAllowed goes on where the user chose that, and says so.
func TestRemovalIsAllowed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var log bytes.Buffer
		w := newWorld(t, func(c *jetstream.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		w.t = t
		s := w.stream(acmeStream())
		r, _ := blocked(t, w, "acme.orders.>", true)
		ok(t, s.Purge(context.Background()))
		w.publish("acme.orders.b", 3)
		for last := uint64(0); last < 6003; {
			batch, err := r.Next(context.Background())
			ok(t, err)
			last = batch.Position
		}
		w.b.Close()
		if !strings.Contains(log.String(), "input was removed before it was read") {
			t.Fatalf("nothing was said: %s", log.String())
		}
	})
}

// TestNoFalseAlarm reads everything of streams that keep next to nothing, or from which messages vanish one by one.
func TestNoFalseAlarm(t *testing.T) {
	for name, filter := range map[string]string{"filtered": "acme.orders.>", "all": "acme.>"} {
		t.Run("tiny retention, "+name, func(t *testing.T) {
			w := newWorld(t)
			cfg := acmeStream()
			cfg.MaxMsgs, cfg.Discard = 10, js.DiscardOld
			w.stream(cfg)
			r := w.open(processor.ReaderSpec{Stream: "acme", Filter: filter})
			for range 1500 {
				for i := range 5 {
					w.publishAsync([]string{"acme.orders.a", "acme.other"}[i%2], nil)
				}
				n := 5
				if filter == "acme.orders.>" {
					n = 3
				}
				read(t, r, n)
			}
		})
	}
	t.Run("an alarm tells the truth", func(t *testing.T) {
		w := newWorld(t)
		cfg := acmeStream()
		cfg.MaxMsgs, cfg.Discard, cfg.Storage = 10, js.DiscardOld, js.MemoryStorage
		w.stream(cfg)
		r := w.open(processor.ReaderSpec{Stream: "acme", Filter: "acme.>"})
		const n = 20_000
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		go func() {
			for range n {
				_ = w.nc.Publish("acme.orders.a", nil)
			}
		}()
		seen, first, last := 0, uint64(1), uint64(0)
		for last < n {
			batch, err := r.Next(ctx)
			if err != nil {
				wantFault(t, err, processor.StreamTrimmed)
				break
			}
			for _, rec := range batch.Records {
				if seen == 0 {
					first = rec.Seq
				}
				seen++
			}
			last = batch.Position
		}
		equal(t, "records up to the alarm or the end", seen, int(last-first+1))
	})
	t.Run("erased one by one", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			w := newWorld(t)
			w.t = t
			s := w.stream(acmeStream())
			r, position := blocked(t, w, "acme.>", false)
			for seq := uint64(4000); seq < 6000; seq += 10 {
				ok(t, s.DeleteMsg(context.Background(), seq))
			}
			n := 0
			for position < 6000 {
				batch, err := r.Next(context.Background())
				ok(t, err)
				n += len(batch.Records)
				position = batch.Position
			}
			if n < 5700 {
				t.Fatalf("%d records came", n)
			}
		})
	})
}

// TestCaughtUpReaderAsksNothing counts what readers ask the server while input flows and while none comes.
func TestCaughtUpReaderAsksNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var asked atomic.Int64
		w := newWorld(t, func(c *jetstream.Config) {
			c.Intercept = func(string, string) jetstream.Fault {
				asked.Add(1)
				return jetstream.Pass
			}
		})
		w.t = t
		w.stream(acmeStream())
		r := w.open(orders(0))
		before := asked.Load()
		for range 300 {
			w.publish("acme.orders.a", 2)
			w.publish("acme.other", 1)
			read(t, r, 2)
			time.Sleep(time.Second)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
		defer cancel()
		for {
			if _, err := r.Next(ctx); err != nil {
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Fatal(err)
				}
				break
			}
		}
		equal(t, "requests", asked.Load()-before, 0)
	})
}
