package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// kv creates a bucket as a user would.
func (w *world) kv(cfg js.KeyValueConfig) js.KeyValue {
	w.t.Helper()
	kv, err := w.js.CreateKeyValue(context.Background(), cfg)
	ok(w.t, err)
	return kv
}

func putRow(t testing.TB, kv js.KeyValue, key, value string) uint64 {
	t.Helper()
	rev, err := kv.Put(context.Background(), key, []byte(value))
	ok(t, err)
	return rev
}

// tableNeeds are those of a lookup of the tenant's rows.
func tableNeeds(tenant tenants.ID, bucket string, shared bool) processor.Needs {
	return processor.Needs{
		Job: tenants.JobID{Tenant: tenant, Name: "revenue"}, Tables: []processor.TableNeed{{Operator: "prices", Bucket: bucket, Shared: shared}},
	}
}

func (w *world) bindTable(tenant tenants.ID, bucket string, shared bool) processor.TableBinding {
	w.t.Helper()
	b, err := w.b.Bind(context.Background(), tableNeeds(tenant, bucket, shared))
	ok(w.t, err)
	return b.Tables[0]
}

func (w *world) openTable(tenant tenants.ID, bucket string, shared bool) processor.TableCopy {
	w.t.Helper()
	c, err := w.b.OpenTable(context.Background(), tenants.JobID{Tenant: tenant, Name: "revenue"}, w.bindTable(tenant, bucket, shared))
	ok(w.t, err)
	w.t.Cleanup(c.Close)
	return c
}

// rowsOf lists the rows of a copy as "key=value@revision".
func rowsOf(c processor.TableCopy) string {
	var out []string
	c.Rows().Each(func(key string, r *processor.TableRow) {
		out = append(out, fmt.Sprintf("%s=%.20s@%d", key, r.Data, r.Revision))
	})
	slices.Sort(out)
	return strings.Join(out, " ")
}

func (w *world) consumers(bucket string) int {
	w.t.Helper()
	s, err := w.js.Stream(context.Background(), "KV_"+bucket)
	ok(w.t, err)
	return s.CachedInfo().State.Consumers
}

// A copy has the rows when it is opened and follows the bucket: of its tenant alone, or of all where they are shared. All who have the same rows
// open share one consumer, which goes with the last of them.
func TestTableFollowsItsBucket(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		ctx := context.Background()
		kv := w.kv(js.KeyValueConfig{Bucket: "prices", History: 5})
		putRow(t, kv, "acme.x", "1")
		putRow(t, kv, "acme.x", "2")
		putRow(t, kv, "acme.gone", "3")
		ok(t, kv.Delete(ctx, "acme.gone"))
		putRow(t, kv, "acme.purged", "5")
		ok(t, kv.Purge(ctx, "acme.purged"))
		putRow(t, kv, "acme."+tenants.EscapeToken("a.b c"), "7")
		putRow(t, kv, "globex.x", "8")
		putRow(t, kv, "eu.de.x", "9")
		putRow(t, kv, "_weir.acme.job.sink.out", "marker")

		acme, again, globex, all := w.openTable("acme", "prices", false), w.openTable("acme", "prices", false), w.openTable("globex", "prices", false), w.openTable("acme", "prices", true)
		equal(t, "rows of acme", rowsOf(acme), "a.b c=7@7 x=2@2")
		equal(t, "rows of globex", rowsOf(globex), "x=8@8")
		equal(t, "all rows", rowsOf(all), "acme.a=2Eb=20c=7@7 acme.x=2@2 eu.de.x=9@9 globex.x=8@8")
		equal(t, "consumers", w.consumers("prices"), 3)

		putRow(t, kv, "acme.x", "11")
		putRow(t, kv, "acme.gone", "12")
		ok(t, kv.Delete(ctx, "globex.x"))
		ok(t, kv.Purge(ctx, "eu.de.x"))
		huge := strings.Repeat("h", 900<<10)
		putRow(t, kv, "globex.huge", huge)
		time.Sleep(time.Second)
		equal(t, "rows of acme", rowsOf(acme), "a.b c=7@7 gone=12@12 x=11@11")
		equal(t, "rows of the other copy of acme", rowsOf(again), rowsOf(acme))
		equal(t, "rows of globex", rowsOf(globex), "huge=hhhhhhhhhhhhhhhhhhhh@15")
		equal(t, "the huge row", string(globex.Rows().Get("huge").Data), huge)
		equal(t, "all rows", rowsOf(all), "acme.a=2Eb=20c=7@7 acme.gone=12@12 acme.x=11@11 globex.huge=hhhhhhhhhhhhhhhhhhhh@15")
		if n, size := acme.Rows().Size(); n != 3 || size < 300 {
			t.Errorf("the size is %d rows, %d bytes", n, size)
		}

		acme.Close()
		acme.Close()
		globex.Close()
		all.Close()
		time.Sleep(time.Second)
		equal(t, "consumers", w.consumers("prices"), 1)
		putRow(t, kv, "acme.x", "16")
		time.Sleep(time.Second)
		equal(t, "a row", string(again.Rows().Get("x").Data), "16")
		again.Close()
		time.Sleep(time.Second)
		equal(t, "consumers", w.consumers("prices"), 0)
	})
}

// Whoever opens a copy that others have open already finds what is in the bucket by then.
func TestTableHoldsWhatWasThereWhenItWasOpened(t *testing.T) {
	w := newWorld(t)
	kv := w.kv(js.KeyValueConfig{Bucket: "prices"})
	rng := rand.New(rand.NewPCG(1, 1))
	stop := make(chan struct{})
	written := make(chan error, 1)
	go func() { // changes rows all the time, so that lists and changes overlap
		for i := 0; ; i++ {
			select {
			case <-stop:
				written <- nil
				return
			default:
			}
			if _, err := kv.PutString(context.Background(), fmt.Sprintf("acme.k%d", i%300), "v"); err != nil {
				written <- err
				return
			}
		}
	}()
	for i := range 60 {
		key := fmt.Sprintf("k%d", rng.IntN(300))
		rev := putRow(t, kv, "acme."+key, "mine")
		c, err := w.b.OpenTable(context.Background(), job, w.bindTable("acme", "prices", false))
		ok(t, err)
		if row := c.Rows().Get(key); row == nil || row.Revision < rev {
			t.Fatalf("round %d: row %s is %+v, revision %d was there", i, key, row, rev)
		}
		if i%3 > 0 { // now and then another one is still open
			c.Close()
		} else {
			t.Cleanup(c.Close)
		}
	}
	close(stop)
	ok(t, <-written)
}

// A key that changes while a new copy still lists what there was may be skipped in the list: its new revision lies behind everything listed.
// So whoever waits for the copy waits for what there is when the list has come.
func TestTableWaitsForWhatChangedWhileItWasListed(t *testing.T) {
	var asked atomic.Int32
	var change func()
	w := newWorld(t, func(c *jetstream.Config) {
		c.Intercept = func(_, subject string) jetstream.Fault {
			// For the last row asks the opener, the pass when it begins, and again when the list has come.
			if subject == "$JS.API.STREAM.MSG.GET.KV_prices" && asked.Add(1) == 3 {
				change()
			}
			return jetstream.Pass
		}
	})
	kv := w.kv(js.KeyValueConfig{Bucket: "prices"})
	for i := range 50 {
		putRow(t, kv, fmt.Sprintf("acme.k%d", i), "listed")
	}
	changed := uint64(0)
	change = func() { changed = putRow(t, kv, "acme.k7", "changed") }
	c := w.openTable("acme", "prices", false)
	if row := c.Rows().Get("k7"); changed == 0 || row == nil || row.Revision != changed {
		t.Errorf("row %+v, revision %d was there before it was opened", row, changed)
	}
}

// A thousand users at once have one watch.
func TestTableIsSharedByAll(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		kv := w.kv(js.KeyValueConfig{Bucket: "prices"})
		putRow(t, kv, "x", "1")
		bind := w.bindTable("acme", "prices", true)
		copies := make([]processor.TableCopy, 1000)
		var wg sync.WaitGroup
		for i := range copies {
			wg.Go(func() {
				tenant := tenants.JobID{Tenant: tenants.ID(fmt.Sprint("t", i)), Name: "revenue"}
				var err error
				if copies[i], err = w.b.OpenTable(context.Background(), tenant, bind); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		equal(t, "consumers", w.consumers("prices"), 1)
		for _, c := range copies {
			if c.Rows() != copies[0].Rows() {
				t.Fatal("two copies of one table")
			}
			c.Close()
		}
		time.Sleep(time.Second)
		equal(t, "consumers", w.consumers("prices"), 0)
	})
}

func TestTableRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		ctx := context.Background()
		findings, err := w.b.Check(ctx, tableNeeds("acme", "prices", false))
		if err == nil || processor.ClassOf(err) != processor.ClassTerminal || !strings.Contains(err.Error(), "nats kv add prices") || len(findings) != 1 || findings[0].Fix != "nats kv add prices" {
			t.Fatalf("without a bucket: %+v, %v", findings, err)
		}
		_, err = w.b.Bind(ctx, tableNeeds("acme", "a.b", false))
		if err == nil || !strings.Contains(err.Error(), "not a bucket name") {
			t.Fatalf("a bad name: %v", err)
		}
		w.stream(js.StreamConfig{Name: "KV_queue", Subjects: []string{"$KV.queue.>"}, Retention: js.WorkQueuePolicy})
		w.stream(js.StreamConfig{Name: "KV_other", Subjects: []string{"other.>"}})
		for bucket, want := range map[string]string{"queue": "work-queue retention", "other": "whose subjects cover $KV.other.acme.*"} {
			if _, err = w.b.Bind(ctx, tableNeeds("acme", bucket, false)); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("bucket %s: %v", bucket, err)
			}
		}
		w.kv(js.KeyValueConfig{Bucket: "prices"})
		bind := w.bindTable("acme", "prices", false)
		ok(t, w.js.DeleteKeyValue(ctx, "prices"))
		_, err = w.b.OpenTable(ctx, job, bind)
		var fault *processor.StreamError
		if !errors.As(err, &fault) || fault.Fault != processor.StreamMissing {
			t.Errorf("opening what was deleted: %v", err)
		}
		time.Sleep(time.Second)
		w.kv(js.KeyValueConfig{Bucket: "prices"})
		limited, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		kv, err := w.js.KeyValue(ctx, "prices")
		ok(t, err)
		putRow(t, kv, "acme.x", "1")
		if _, err = w.b.OpenTable(limited, job, bind); !errors.As(err, &fault) || fault.Fault != processor.StreamRecreated {
			t.Errorf("opening what was created anew: %v", err)
		}
		equal(t, "rows of the new bucket", rowsOf(w.openTable("acme", "prices", false)), "x=1@1")
	})
}

// A mirror of a bucket has the origin's subjects.
func TestTableOfAMirror(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		kv := w.kv(js.KeyValueConfig{Bucket: "prices"})
		putRow(t, kv, "acme.x", "1")
		w.kv(js.KeyValueConfig{Bucket: "near", Mirror: &js.StreamSource{Name: "prices"}})
		time.Sleep(time.Minute)
		c := w.openTable("acme", "near", false)
		putRow(t, kv, "acme.y", "2")
		time.Sleep(time.Minute)
		equal(t, "rows", rowsOf(c), "x=1@1 y=2@2")
	})
}

// What fails a copy fails it for all who have it open; who opens it then begins anew.
func TestTableBucketReplaced(t *testing.T) {
	for name, c := range map[string]struct {
		again bool
		fault processor.StreamFault
	}{"deleted": {false, processor.StreamMissing}, "created anew": {true, processor.StreamRecreated}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				putRow(t, w.kv(js.KeyValueConfig{Bucket: "prices"}), "acme.x", "1")
				copies := []processor.TableCopy{w.openTable("acme", "prices", false), w.openTable("acme", "prices", false)}
				ok(t, w.js.DeleteKeyValue(context.Background(), "prices"))
				if c.again {
					time.Sleep(time.Second)
					putRow(t, w.kv(js.KeyValueConfig{Bucket: "prices"}), "acme.x", "2")
				}
				time.Sleep(time.Minute)
				for _, table := range copies {
					select {
					case <-table.Failed():
					default:
						t.Fatal("the copy goes on")
					}
					var fault *processor.StreamError
					if err := table.Err(); !errors.As(err, &fault) || fault.Fault != c.fault || processor.ClassOf(err) != processor.ClassTerminal {
						t.Errorf("the fault is %v", err)
					}
				}
				if c.again {
					equal(t, "rows of the new bucket", rowsOf(w.openTable("acme", "prices", false)), "x=2@1")
				}
			})
		})
	}
}

// Rows expire as they do in the bucket: with a marker, and where the bucket leaves none.
func TestTableRowsExpire(t *testing.T) {
	for name, cfg := range map[string]js.KeyValueConfig{
		"age limit":              {Bucket: "prices", TTL: 2 * time.Minute},
		"age limit with markers": {Bucket: "prices", TTL: 2 * time.Minute, LimitMarkerTTL: time.Minute},
		"TTL of a key":           {Bucket: "prices", LimitMarkerTTL: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				ctx := context.Background()
				kv := w.kv(cfg)
				var opts []js.KVCreateOpt
				if cfg.TTL == 0 {
					opts = append(opts, js.KeyTTL(2*time.Minute))
				}
				_, err := kv.Create(ctx, "acme.old", []byte("1"), opts...)
				ok(t, err)
				c := w.openTable("acme", "prices", false)
				time.Sleep(90 * time.Second)
				equal(t, "rows", rowsOf(c), "old=1@1")
				time.Sleep(45 * time.Second)
				equal(t, "rows", rowsOf(c), "")
				putRow(t, kv, "acme.old", "3")
				time.Sleep(time.Second)
				if row := c.Rows().Get("old"); row == nil || string(row.Data) != "3" {
					t.Errorf("the row that came again is %+v", row)
				}
			})
		})
	}
}

func TestTableTooLarge(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, func(c *jetstream.Config) { c.MaxTableBytes = 10_000 })
		kv := w.kv(js.KeyValueConfig{Bucket: "prices"})
		putRow(t, kv, "acme.a", strings.Repeat("x", 5000))
		c := w.openTable("acme", "prices", false)
		for range 10 { // of one row, the last counts
			putRow(t, kv, "acme.a", strings.Repeat("y", 5000))
		}
		time.Sleep(time.Second)
		ok(t, c.Err())
		putRow(t, kv, "acme.b", strings.Repeat("z", 5000))
		time.Sleep(time.Second)
		if err := c.Err(); err == nil || processor.ClassOf(err) != processor.ClassTerminal || !strings.Contains(err.Error(), "MaxTableBytes") {
			t.Errorf("the error is %v", err)
		}
		if _, err := w.b.OpenTable(context.Background(), job, w.bindTable("acme", "prices", false)); err == nil || !strings.Contains(err.Error(), "MaxTableBytes") {
			t.Errorf("opened again: %v", err)
		}
	})
}

// Against the bucket itself: rows come, change, go with and without a trace, while connections break and copies are opened and closed. In between
// no revision goes back; when all is quiet the copy is what the bucket says.
func TestTableIsItsBucket(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			w := newWorld(t, func(c *jetstream.Config) { c.Heartbeat = 100 * time.Millisecond })
			rng := rand.New(rand.NewPCG(seed, 7))
			kv := w.kv(js.KeyValueConfig{Bucket: "prices", History: uint8(1 + rng.IntN(3))})
			first := w.openTable("acme", "prices", false)
			last := map[string]uint64{}
			for round := range 8 {
				for range rng.IntN(30) {
					w.disturbRow(kv, rng, fmt.Sprint(round))
					first.Rows().Each(func(key string, r *processor.TableRow) {
						if r.Revision < last[key] {
							t.Fatalf("row %s has revision %d after %d", key, r.Revision, last[key])
						}
						last[key] = r.Revision
					})
				}
				w.reconnect() // what left no trace shows when it is read again
				want := bucketRows(t, kv)
				until(t, fmt.Sprintf("round %d: the rows are %s, not %s", round, rowsOf(first), want), func() bool { return rowsOf(first) == want })
				ok(t, first.Err())
				second := w.openTable("acme", "prices", false)
				equal(t, fmt.Sprintf("round %d: rows of another user", round), rowsOf(second), want)
				second.Close()
			}
		})
	}
}

func (w *world) reconnect() {
	w.t.Helper()
	nc, err := w.b.Conn(context.Background(), jetstream.Read)
	ok(w.t, err)
	ok(w.t, nc.ForceReconnect())
}

// disturbRow does something to a row, or to the connection.
func (w *world) disturbRow(kv js.KeyValue, rng *rand.Rand, value string) {
	w.t.Helper()
	ctx := context.Background()
	key := fmt.Sprintf("acme.k%d", rng.IntN(8))
	switch rng.IntN(8) {
	case 0:
		ok(w.t, kv.Delete(ctx, key))
	case 1:
		ok(w.t, kv.Purge(ctx, key))
	case 2:
		stream, err := w.js.Stream(ctx, "KV_prices")
		ok(w.t, err)
		ok(w.t, stream.Purge(ctx, js.WithPurgeSubject("$KV.prices."+key))) // leaves no trace
	case 3:
		w.reconnect()
	default:
		putRow(w.t, kv, key, value)
	}
}

// bucketRows lists what a bucket has for acme, as rowsOf does.
func bucketRows(t *testing.T, kv js.KeyValue) string {
	t.Helper()
	out := map[string]string{}
	keys, err := kv.Keys(context.Background())
	if errors.Is(err, js.ErrNoKeysFound) {
		return ""
	}
	ok(t, err)
	for _, key := range keys {
		e, err := kv.Get(context.Background(), key)
		ok(t, err)
		out[key] = fmt.Sprintf("%s=%s@%d", strings.TrimPrefix(key, "acme."), e.Value(), e.Revision())
	}
	return strings.Join(slices.Sorted(maps.Values(out)), " ")
}
