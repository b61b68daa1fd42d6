package processor

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// hotPrice is a row that takes the codec's memory.
type hotPrice struct {
	Cents int64
	Name  string
}

// lookupTask is source → Lookup. rows of the keys have a price.
func lookupTask(t testing.TB, rows *TableRows) *task {
	t.Helper()
	in := codec.New("event8", func(dst []byte, _ event8) ([]byte, error) { return dst, nil }, func(b []byte) (event8, error) {
		return event8{key: (uint16(b[0]) | uint16(b[1])<<8) % uint16(len(hotKeys))}, nil
	})
	b := NewBuilder("lookup")
	s := From(b, "in", SourceSpec[event8]{Filters: []tenants.Filter{"in.>"}, Codec: in})
	sum := int64(0)
	Lookup(s, "price", TableSpec[hotPrice]{Bucket: "prices", Codec: codec.JSON[hotPrice]()}, func(e event8) string { return hotKeys[e.key] },
		func(e event8, r Row[hotPrice], emit func(int64)) error {
			sum += r.Value.Cents
			emit(sum)
			return nil
		})
	topo := mustBuild(t, b)
	p, err := newPlan(topo, planConfig{
		Job: testJob, Prefix: "acme.", Parallelism: 1, KeyGroups: 128, Epoch: 1, Nonce: testNonce, Tables: map[string]*TableRows{"price": rows},
		Bindings: bedBindings(topo.Needs(testJob, tenants.DefaultNamespace)), MaxPendingBytes: 1 << 40,
	})
	if err != nil {
		t.Fatal(err)
	}
	p.tasks[0].bind(idleHost{})
	p.tasks[0].start(map[string]barriers.Source{})
	return p.tasks[0]
}

func hotRows() *TableRows {
	rows := &TableRows{}
	for i, k := range hotKeys {
		rows.Put(k, &TableRow{Data: fmt.Appendf(nil, `{"Cents":%d,"Name":%q}`, i, k), Revision: uint64(i + 1)})
	}
	return rows
}

// A row is decoded once, whoever looks it up; from then on an element costs no memory.
func TestLookupAllocatesNothing(t *testing.T) {
	rows := hotRows()
	for _, rows := range []*TableRows{rows, rows, {}} { // a second task of the same rows, and one that finds none
		task, records, seq := lookupTask(t, rows), hotInput(), uint64(0)
		run := func() {
			if err := task.step(hotRecords(records, &seq)); err != nil {
				t.Fatal(err)
			}
		}
		run()
		if allocs := testing.AllocsPerRun(100, run); allocs > 3 {
			t.Errorf("%v allocations per %d records", allocs, hotBatch)
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	for _, c := range []struct {
		name string
		rows *TableRows
	}{{"found", hotRows()}, {"not-found", &TableRows{}}} {
		b.Run(c.name, func(b *testing.B) {
			task, records, seq := lookupTask(b, c.rows), hotInput(), uint64(0)
			b.ReportAllocs()
			for b.Loop() {
				if err := task.step(hotRecords(records, &seq)); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/hotBatch, "ns/record")
		})
	}
}

// Rows are read while they are written: what a reader sees of a key never goes back, and what it decodes is of that revision.
func TestTableRowsReadWhileWritten(t *testing.T) {
	const readers, rounds = 4, 2000
	rows := &TableRows{}
	node := &node{table: &tableDecl{bucket: "b"}}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range readers {
		wg.Go(func() {
			l := &lookup[uint64]{by: node, rows: rows, codec: codec.JSON[uint64]()}
			last := map[string]uint64{}
			for {
				select {
				case <-stop:
					return
				default:
				}
				for i := range 7 {
					key := fmt.Sprint(i)
					r, err := l.row(key)
					if err != nil || r.Found && (r.Value != r.Revision || r.Revision < last[key]) {
						t.Errorf("row %+v behind revision %d: %v", r, last[key], err)
						return
					}
					if r.Found {
						last[key] = r.Revision
					}
				}
			}
		})
	}
	for rev := uint64(1); rev <= rounds; rev++ {
		key := fmt.Sprint(rev % 7)
		if rev%5 == 0 {
			rows.Delete(key, rev)
		} else {
			rows.Put(key, &TableRow{Data: fmt.Append(nil, rev), Revision: rev})
		}
		if rev%5 > 0 { // what is older comes again
			rows.Put(key, &TableRow{Data: []byte("older"), Revision: rev - 1})
			rows.Put(key, &TableRow{Data: []byte("same"), Revision: rev})
			rows.Delete(key, rev-1)
		}
	}
	close(stop)
	wg.Wait()
	n, bytes := rows.Size()
	count, sum := 0, int64(0)
	rows.Each(func(key string, r *TableRow) {
		count++
		sum += int64(len(key) + len(r.Data) + rowOverhead)
	})
	if n != count || bytes != sum || count < 5 {
		t.Errorf("the size is %d rows and %d bytes, there are %d and %d", n, bytes, count, sum)
	}
}

// A tenant's table has what KV sinks write for the tenant, and nothing else; a shared one everything but what is Weir's own.
func TestTableKeys(t *testing.T) {
	own := TableBinding{Prefix: "$KV.b.acme."}
	shared := TableBinding{Prefix: "$KV.b.", Shared: true}
	for _, c := range []struct {
		subject     string
		own, shared string // "-": none
	}{
		{"$KV.b.acme.k", "k", "acme.k"},
		{"$KV.b.acme.=", "", "acme.="},
		{"$KV.b.acme.a=2Eb=20=00", "a.b \x00", "acme.a=2Eb=20=00"},
		{"$KV.b.acme.a=2eb", "-", "acme.a=2eb"}, // another spelling
		{"$KV.b.acme.=61", "-", "acme.=61"},
		{"$KV.b.acme.x=", "-", "acme.x="},
		{"$KV.b.acme.a/b", "-", "acme.a/b"},
		{"$KV.b.acme.shadow.k", "-", "acme.shadow.k"},
		{"$KV.b.acme", "-", "acme"},
		{"$KV.b.acmes.k", "-", "acmes.k"},
		{"$KV.b.globex.k", "-", "globex.k"},
		{"$KV.b._weir.acme.job.sink.s", "-", "-"},
		{"$KV.b.acme._weir", "-", "-"},
		{"$KV.b.acme.=5Fweir", "_weir", "acme.=5Fweir"},
		{"$KV.bb.acme.k", "-", "-"},
	} {
		for _, side := range []struct {
			b    TableBinding
			want string
		}{{own, c.own}, {shared, c.shared}} {
			got, ok := side.b.Key(c.subject)
			if !ok {
				got = "-"
			}
			if got != side.want {
				t.Errorf("%s in %s is the row %q, want %q", c.subject, side.b.Filter(), got, side.want)
			}
			if ok && !tenants.Filter(side.b.Filter()).Matches(c.subject) {
				t.Errorf("%s is a row that %s does not cover", c.subject, side.b.Filter())
			}
		}
	}
}

func TestLookupBuildErrors(t *testing.T) {
	b := NewBuilder("wrong")
	in := From(b, "in", SourceSpec[string]{Filters: []tenants.Filter{"in"}, Codec: codec.String()})
	key := func(s string) string { return s }
	fn := func(string, Row[string], func(string)) error { return nil }
	Lookup(in, "none", TableSpec[string]{Codec: codec.String()}, key, fn)
	Lookup(in, "dotted", TableSpec[string]{Bucket: "a.b", Codec: codec.String()}, key, fn)
	Lookup(in, "own", TableSpec[string]{Bucket: "weir_jobs", Codec: codec.String()}, key, fn)
	Lookup(in, "codec", TableSpec[string]{Bucket: "b"}, key, fn)
	Lookup(in, "functions", TableSpec[string]{Bucket: "b", Codec: codec.String()}, nil, (func(string, Row[string], func(string)) error)(nil))
	Lookup(in, "none", TableSpec[string]{Bucket: "b", Codec: codec.String()}, key, fn)
	_, err := b.Build()
	if err == nil {
		t.Fatal("it was built")
	}
	for _, want := range []string{
		"operator none: TableSpec.Bucket: it is empty", `operator dotted: TableSpec.Bucket: "a.b"`, "operator own: TableSpec.Bucket: \"weir_jobs\": buckets beginning with weir_",
		"operator codec: TableSpec.Codec is nil", "operator functions: its key function is nil", "operator functions: its function is nil",
		"operator none: the name is taken by the lookup", "processor/lookup_hot_test.go:",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in\n%v", want, err)
		}
	}
}

// The table is part of what a topology is.
func TestLookupInTopology(t *testing.T) {
	build := func(spec TableSpec[string]) *Topology {
		b := NewBuilder("described")
		in := From(b, "in", SourceSpec[string]{Filters: []tenants.Filter{"in"}, Codec: codec.String()})
		Lookup(in, "names", spec, func(s string) string { return s }, func(_ string, _ Row[string], _ func(string)) error { return nil })
		return mustBuild(t, b)
	}
	a := build(TableSpec[string]{Bucket: "a", Codec: codec.String()})
	o := a.Operators()[1]
	if o.Name != "names" || o.Kind != KindLookup || o.Table != "a" || fmt.Sprint(o.Inputs) != "[in]" {
		t.Errorf("operator %+v", o)
	}
	for _, spec := range []TableSpec[string]{
		{Bucket: "b", Codec: codec.String()}, {Bucket: "a", Codec: codec.JSON[string]()}, {Bucket: "a", Codec: codec.String(), Shared: true},
	} {
		other := build(spec)
		if a.Fingerprint() == other.Fingerprint() {
			t.Errorf("%+v has the same fingerprint", spec)
		}
		if n := other.Needs(testJob, tenants.DefaultNamespace).Tables; len(n) != 1 || n[0] != (TableNeed{Operator: "names", Bucket: spec.Bucket, Shared: spec.Shared}) {
			t.Errorf("needs %+v", n)
		}
	}
}

// A process that builds its topologies again and again does not keep what each made of a row.
func TestDecodedRowsAreBounded(t *testing.T) {
	var rows TableRows
	rows.Put("k", &TableRow{Data: []byte("v"), Revision: 1})
	for range 100 {
		l := &lookup[string]{by: &node{table: &tableDecl{bucket: "b"}}, rows: &rows, codec: codec.String()}
		for range 2 {
			if row, err := l.row("k"); err != nil || row.Value != "v" {
				t.Fatalf("%+v, %v", row, err)
			}
		}
	}
	kept := 0
	for d := rows.Get("k").decoded.Load(); d != nil; d = d.next {
		kept++
	}
	if kept > maxDecoded+1 {
		t.Errorf("%d values are kept with one row", kept)
	}
}
