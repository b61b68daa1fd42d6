package processor_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/processor/processortest"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// price is a row that says of which write it is.
type price struct {
	Write int `json:"write"`
}

// visit is an element that looks a row up.
type visit struct {
	ID  int    `json:"id"`
	Key string `json:"key"`
}

// priced is what comes of it.
type priced struct {
	visit
	Found    bool   `json:"found"`
	Write    int    `json:"write"`
	Revision uint64 `json:"revision"`
}

func priceOf(v visit, r processor.Row[price], emit func(priced)) error {
	emit(priced{v, r.Found, r.Value.Write, r.Revision})
	return nil
}

// pricing looks up a price for every visit. shared: in a bucket of that name too.
func pricing(t testing.TB, shared string) *processor.Topology {
	t.Helper()
	b := processor.NewBuilder("pricing")
	in := processor.From(b, "visits", processor.SourceSpec[visit]{Filters: []tenants.Filter{"visits"}, Codec: codec.JSON[visit]()})
	key := func(v visit) string { return v.Key }
	out := processor.Lookup(in, "prices", processor.TableSpec[price]{Bucket: "prices", Codec: codec.JSON[price]()}, key, priceOf)
	processor.To(out, "priced", processor.SinkSpec[priced]{FixedSubject: "priced", Codec: codec.JSON[priced]()})
	if shared != "" {
		all := processor.Lookup(in, "all", processor.TableSpec[price]{Bucket: shared, Codec: codec.JSON[price](), Shared: true}, key, priceOf)
		processor.To(all, "list", processor.SinkSpec[priced]{FixedSubject: "list", Codec: codec.JSON[priced]()})
	}
	topology, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return topology
}

// Against a map: rows come, change, are refused by the codec and go, under any key, between elements and snapshots. A second operator reads
// the same rows by another codec.
func TestLookupIsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type row struct {
			text     string
			revision uint64
		}
		model := map[string]row{}
		keys := []string{"", "a", "a.b", "*", "ü", "_weir", "a b", strings.Repeat("k", 300)}
		h, err := processortest.NewHarness(func(in processor.Stream[string]) processor.Stream[string] {
			show := func(op string) func(string, processor.Row[string], func(string)) error {
				return func(key string, r processor.Row[string], emit func(string)) error {
					emit(fmt.Sprintf("%s %q %t %s %d", op, key, r.Found, r.Value, r.Revision))
					return nil
				}
			}
			same := func(s string) string { return s }
			text := processor.Lookup(in, "text", processor.TableSpec[string]{Bucket: "rows", Codec: codec.String()}, same, show("text"))
			number := processor.Lookup(in, "number", processor.TableSpec[int]{Bucket: "rows", Codec: codec.JSON[int]()}, same,
				func(key string, r processor.Row[int], emit func(string)) error {
					return show("number")(key, processor.Row[string]{Value: strconv.Itoa(r.Value), Found: r.Found, Revision: r.Revision}, emit)
				})
			return processor.Union("both", text, number)
		}, processortest.HarnessConfig{})
		if err != nil {
			t.Fatal(err)
		}
		for step := range rapid.IntRange(1, 60).Draw(t, "steps") {
			key := rapid.SampledFrom(keys).Draw(t, "key")
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0, 1:
				model[key] = row{strconv.Itoa(step), h.PutRow("rows", key, strconv.Itoa(step))}
			case 2:
				model[key] = row{"no number", h.PutRow("rows", key, "no number")}
			case 3:
				h.DeleteRow("rows", key)
				delete(model, key)
			case 4:
				s, err := h.Snapshot()
				if err == nil {
					err = h.Restore(s, rapid.IntRange(1, 3).Draw(t, "parallelism"))
				}
				if err != nil {
					t.Fatal(err)
				}
			default:
				if err := h.Push(key); err != nil {
					t.Fatal(err)
				}
				r, found := model[key]
				want := []string{fmt.Sprintf("text %q %t %s %d", key, found, r.text, r.revision)}
				dead := h.DeadLetters()
				switch {
				case r.text == "no number":
					if len(dead) != 1 || dead[0].Element != key || dead[0].Operator != "number" {
						t.Fatalf("dead letters %+v", dead)
					}
					for _, part := range []string{"bucket rows", fmt.Sprintf("revision %d", r.revision), "as json"} {
						if !strings.Contains(dead[0].Error, part) {
							t.Fatalf("the dead letter does not name %q: %s", part, dead[0].Error)
						}
					}
					dead = nil
				case found:
					want = append(want, fmt.Sprintf("number %q true %s %d", key, r.text, r.revision))
				default:
					want = append(want, fmt.Sprintf("number %q false 0 0", key))
				}
				if got := h.Take(); fmt.Sprint(got) != fmt.Sprint(want) || len(dead) > 0 {
					t.Fatalf("key %q gives\n%q\nwant\n%q\ndead letters %+v", key, got, want, dead)
				}
			}
		}
	})
}

// Elements that the function refuses are dead letters, other errors and panics restart the job, as in every operator.
func TestLookupFunctionErrors(t *testing.T) {
	h, err := processortest.NewHarness(func(in processor.Stream[string]) processor.Stream[string] {
		return processor.Lookup(in, "judge", processor.TableSpec[string]{Bucket: "rows", Codec: codec.String()}, func(s string) string { return s },
			func(key string, r processor.Row[string], emit func(string)) error {
				switch key {
				case "poison":
					return processor.Poison(errors.New("not this one"))
				case "panic":
					panic("the user's fault")
				}
				emit(key + r.Value)
				return nil
			})
	}, processortest.HarnessConfig{Tables: map[string]map[string]string{"rows": {"a": "1"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Push("a", "poison", "b"); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(h.Take()); got != "[a1 b]" {
		t.Errorf("results %s", got)
	}
	if dead := h.DeadLetters(); len(dead) != 1 || dead[0].Element != "poison" || dead[0].Operator != "judge" {
		t.Errorf("dead letters %+v", dead)
	}
	var panicked *processor.PanicError
	if err := h.Push("panic"); !errors.As(err, &panicked) || panicked.Operator != "judge" {
		t.Errorf("a panic is %v", err)
	}
}

// writes are what a bucket's messages say: of each key the revisions, in order.
func writesOf(t testing.TB, m *processortest.Memory, bucket, prefix string) map[string]map[uint64]int {
	t.Helper()
	out := map[string]map[uint64]int{}
	for _, r := range m.Messages("KV_"+bucket, "$KV."+bucket+".>") {
		key, ok := strings.CutPrefix(r.Subject, "$KV."+bucket+"."+prefix)
		if !ok {
			continue
		}
		if out[key] == nil {
			out[key] = map[uint64]int{}
		}
		var p price
		if json.Unmarshal(r.Data, &p) != nil {
			p.Write = -1 // deleted, or refused
		}
		out[key][r.Seq] = p.Write
	}
	return out
}

// checkPriced verifies that every visit was priced once, from one revision of its row, and that revisions never go back.
func checkPriced(t testing.TB, writes map[string]map[uint64]int, published, dead []processor.Record, visits int) {
	t.Helper()
	seen := map[int]bool{}
	last := map[string]uint64{}
	once := func(id int) {
		if seen[id] {
			t.Fatalf("visit %d is there twice", id)
		}
		seen[id] = true
	}
	for _, m := range published {
		var p priced
		if err := json.Unmarshal(m.Data, &p); err != nil {
			t.Fatal(err)
		}
		once(p.ID)
		if !p.Found {
			continue
		}
		if write, ok := writes[p.Key][p.Revision]; !ok || write != p.Write {
			t.Fatalf("visit %d has write %d of revision %d of row %s, which is write %d", p.ID, p.Write, p.Revision, p.Key, write)
		}
		if p.Revision < last[p.Key] {
			t.Fatalf("visit %d has revision %d of row %s, after %d", p.ID, p.Revision, p.Key, last[p.Key])
		}
		last[p.Key] = p.Revision
	}
	for _, m := range dead {
		var v visit
		if err := json.Unmarshal(m.Data, &v); err != nil {
			t.Fatal(err)
		}
		once(v.ID)
		if text := m.Header[processor.HeaderError][0]; !strings.Contains(text, "bucket prices at revision") {
			t.Fatalf("the dead letter of visit %d says %q", v.ID, text)
		}
	}
	if len(seen) != visits {
		t.Fatalf("%d of %d visits were priced", len(seen), visits)
	}
}

// Workers crash and stall while the rows change. What is committed was computed once, of one revision.
func TestLookupSimulation(t *testing.T) {
	topology := pricing(t, "")
	crashes, found, dead := 0, 0, 0
	for seed := range uint64(150) {
		s := processortest.Simulation{
			Topology: topology, Seed: seed, Faults: 15, Controls: int(seed % 3),
			Buckets: map[string]map[string]string{"prices": {"test.k0": `{"write":1}`, "other.k1": `{"write":999}`}},
			Job: processor.JobConfig{
				Parallelism: 1 + int(seed%3), KeyGroups: 8, Checkpoint: processor.CheckpointConfig{Interval: 15 * time.Millisecond, Timeout: 400 * time.Millisecond},
			},
		}
		const visits = 80
		for i := range visits {
			s.Inputs = append(s.Inputs, processortest.Input{Subject: "visits", Data: fmt.Appendf(nil, `{"id":%d,"key":"k%d"}`, i, i%4)})
			row := processortest.Input{Bucket: "prices", Subject: fmt.Sprintf("test.k%d", i/2%4), Data: fmt.Appendf(nil, `{"write":%d}`, i+2)}
			switch {
			case i%7 == 3:
				row.Data = nil
			case i%11 == 5:
				row.Data = []byte("refused")
			}
			s.Inputs = append(s.Inputs, row)
		}
		run, err := s.Run()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("seed %d", seed)
		letters := run.DeadLetters()
		checkPriced(t, writesOf(t, run.Broker, "prices", "test."), run.Messages("priced"), letters, visits)
		if n := run.Broker.OpenCopies(); n != 0 {
			t.Fatalf("seed %d: %d copies are left open", seed, n)
		}
		crashes, found, dead = crashes+run.Crashes, found+len(run.Messages("priced")), dead+len(letters)
	}
	if crashes < 100 || found == 0 || dead == 0 {
		t.Errorf("%d crashes, %d results, %d dead letters: this checks nothing", crashes, found, dead)
	}
}

// visitAll publishes a visit of a key for each tenant.
func visitAll(t *testing.T, m *processortest.Memory, id int, key string, tenantIDs ...string) {
	t.Helper()
	for _, tenant := range tenantIDs {
		if _, err := m.PublishTo(tenant+".visits", nil, fmt.Appendf(nil, `{"id":%d,"key":%q}`, id, key)); err != nil {
			t.Fatal(err)
		}
	}
}

func lastPriced(t *testing.T, m *processortest.Memory, subject string) priced {
	t.Helper()
	tenant, _, _ := strings.Cut(subject, ".")
	msgs := m.Messages(tenant, subject)
	if len(msgs) == 0 {
		t.Fatalf("nothing on %s", subject)
	}
	var p priced
	if err := json.Unmarshal(msgs[len(msgs)-1].Data, &p); err != nil {
		t.Fatal(err)
	}
	return p
}

func put(t *testing.T, m *processortest.Memory, bucket, key string, write int) uint64 {
	t.Helper()
	rev, err := m.PutKey(bucket, key, fmt.Appendf(nil, `{"write":%d}`, write))
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

// Each tenant sees its own rows, and all of them the shared ones; a shadow fork sees what its original does.
func TestLookupTenants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme", "globex")
		m.AddBucket("prices")
		m.AddBucket("list")
		put(t, m, "prices", "acme.x", 1)
		put(t, m, "prices", "globex.x", 2)
		put(t, m, "prices", "globex.only", 3)
		put(t, m, "list", "x", 4)
		put(t, m, "list", "eu.de", 5)
		w := startWorker(t, m, "w1", processor.Listener{})
		topology := pricing(t, "list")
		jobs := []*processor.Job{
			w.deploy(t, topology, "acme", processor.JobConfig{}), w.deploy(t, topology, "globex", processor.JobConfig{}),
			w.deploy(t, topology, "acme", processor.JobConfig{Name: "copy", Shadow: "shadow.test"}),
		}
		w.run()
		time.Sleep(time.Second)
		for id, key := range []string{"x", "only", "eu.de"} {
			visitAll(t, m, id, key, "acme", "globex")
			time.Sleep(time.Second)
			want := map[string]int{
				"acme.priced x": 1, "globex.priced x": 2, "acme.list x": 4, "globex.list x": 4, "acme.shadow.test.priced x": 1,
				"globex.priced only": 3, "acme.list eu.de": 5, "globex.list eu.de": 5, "acme.shadow.test.list eu.de": 5, "acme.shadow.test.list x": 4,
			}
			for _, subject := range []string{"acme.priced", "globex.priced", "acme.list", "globex.list", "acme.shadow.test.priced", "acme.shadow.test.list"} {
				got, write := lastPriced(t, m, subject), want[subject+" "+key]
				if got.ID != id || got.Write != write || got.Found != (write > 0) {
					t.Errorf("%s of key %s: %+v, want write %d", subject, key, got, write)
				}
			}
		}
		if mt := jobs[1].Metrics(); mt.TableRows != 4 || mt.TableBytes < 100 {
			t.Errorf("metrics %+v", mt)
		}
		if n := m.OpenCopies(); n != 6 {
			t.Errorf("%d copies are open", n)
		}
		w.crash(t)
		if n := m.OpenCopies(); n != 0 {
			t.Errorf("%d copies are left open", n)
		}
	})
}

// shyTables is a broker that cannot open a copy a few times.
type shyTables struct {
	*processortest.Memory
	left atomic.Int64
}

func (b *shyTables) OpenTable(ctx context.Context, job tenants.JobID, bind processor.TableBinding) (processor.TableCopy, error) {
	if bind.Operator == "all" && b.left.Add(-1) >= 0 {
		return nil, fmt.Errorf("opening a copy: %w", processor.ErrUnavailable)
	}
	return b.Memory.OpenTable(ctx, job, bind)
}

// An attempt that cannot open all of its tables leaves none open.
func TestLookupStartFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &shyTables{Memory: newMemory("acme")}
		b.left.Store(1000)
		b.AddBucket("prices")
		b.AddBucket("list")
		put(t, b.Memory, "list", "x", 4)
		w := startWorker(t, b, "w1", processor.Listener{})
		j := w.deploy(t, pricing(t, "list"), "acme", processor.JobConfig{})
		w.run()
		visitAll(t, b.Memory, 1, "x", "acme")
		time.Sleep(time.Minute)
		if b.left.Load() > 998 || j.Status().State == processor.JobRunning || b.OpenCopies() > 1 {
			t.Errorf("%d tries left, the job is %s, %d copies", b.left.Load(), j.Status().State, b.OpenCopies())
		}
		b.left.Store(0)
		time.Sleep(time.Minute)
		if got := lastPriced(t, b.Memory, "acme.list"); got.Write != 4 || b.OpenCopies() != 2 {
			t.Errorf("result %+v, %d copies", got, b.OpenCopies())
		}
		w.crash(t)
		if n := b.OpenCopies(); n != 0 {
			t.Errorf("%d copies are left open", n)
		}
	})
}

// A bucket that does not exist is refused, with the line that makes it. One that vanishes ends its jobs and no others; started again
// they need it.
func TestLookupBucketMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		w := startWorker(t, m, "w1", processor.Listener{})
		_, err := w.rt.Deploy(t.Context(), pricing(t, ""), "acme", processor.JobConfig{})
		if err == nil || !strings.Contains(err.Error(), "nats kv add prices") {
			t.Fatalf("deployed without a bucket: %v", err)
		}
		m.AddBucket("prices")
		put(t, m, "prices", "acme.x", 1)
		j := w.deploy(t, pricing(t, ""), "acme", processor.JobConfig{})
		other := w.deploy(t, counting(t, nil), "acme", processor.JobConfig{})
		w.run()
		time.Sleep(time.Second)
		m.RemoveBucket("prices")
		time.Sleep(time.Minute)
		var fault *processor.StreamError
		if st := j.Status(); st.State != processor.JobFailed || !errors.As(st.Err, &fault) {
			t.Fatalf("the job is %s: %v", st.State, st.Err)
		}
		if fault.Fault != processor.StreamMissing || fault.Table != "prices" || fault.Job != j.ID() || fault.Stream != "KV_prices" || m.OpenCopies() != 0 {
			t.Errorf("fault %+v, %d copies", fault, m.OpenCopies())
		}
		if st := other.Status(); st.State != processor.JobRunning {
			t.Errorf("the other job is %s: %v", st.State, st.Err)
		}
		m.AddBucket("prices")
		put(t, m, "prices", "acme.x", 7)
		if _, err := w.rt.Start(t.Context(), j.ID(), processor.StartRequest{}); err != nil {
			t.Fatal(err)
		}
		visitAll(t, m, 1, "x", "acme")
		time.Sleep(10 * time.Second)
		if got := lastPriced(t, m, "acme.priced"); got.Write != 7 {
			t.Errorf("after the bucket came back: %+v", got)
		}
		w.crash(t)
	})
}
