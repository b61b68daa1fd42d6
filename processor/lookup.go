package processor

import (
	"fmt"

	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// Lookup joins every element with the row that a KV bucket has under its key, by a copy of the rows in this process that follows the
// bucket. fn gets the element and the row, Found or not, and emits any number of elements; an error is as in FlatMap.
//
// How consistent the rows are: when the job starts, or starts again, the copy holds everything up to the bucket's last revision. From then
// on every change appears soon, in the bucket's order; within a process the revision of a key never goes back. There is no order between
// changes and elements: of two elements in a row, the bucket's change may come before, between or behind. A replay after a crash may see
// later rows than the first try did; since what the first try made of them was not committed, each committed result was still made once, of
// one revision, which Row.Revision tells. Where rows must be part of the checkpoint, use a broadcast.
//
// A row that its codec refuses makes poison of the elements that look it up, and of no others; the dead letters name bucket, key and
// revision. A bucket that does not exist is refused at deployment; one that is deleted, replaced or rolled back while the job runs ends the
// job with a *StreamError. Started again, it reads the bucket that is there then.
//
// A lookup has no state. A copy takes memory for all of its rows (jetstream.Config.MaxTableBytes), once in a process for a shared table
// and once per tenant for another, however many jobs and tasks read it.
func Lookup[In, V, Out any](s Stream[In], name string, table TableSpec[V], key func(In) string, fn func(v In, row Row[V], emit func(Out)) error) Stream[Out] {
	at := callerLine(2)
	in := s.node(at)
	decl := &tableDecl{bucket: table.Bucket, shared: table.Shared}
	n := in.b.add(&node{kind: KindLookup, name: name, at: at, inputs: []*node{in}, table: decl}, true)
	n.require(key == nil, "its key function is nil")
	n.require(fn == nil, "its function is nil")
	if table.Codec == nil {
		n.require(true, "TableSpec.Codec is nil: use one of package codec, for example codec.JSON")
	} else {
		decl.codec = table.Codec.Name()
	}
	if err := checkBucketName(table.Bucket); err != nil {
		n.b.fail(n.label(), at, fmt.Errorf("TableSpec.Bucket: %w", err))
	}
	n.collect = func(a *assembly, n *node) any {
		out, t, op := fan[Out](a, n), a.task, a.operator(n.name)
		l := &lookup[V]{by: n, rows: a.table(n), codec: table.Codec}
		return func(v In) {
			prev := t.op
			t.op = op
			row, err := l.row(key(v))
			if err != nil {
				t.poison(op, err)
			} else if err := fn(v, row, out); err != nil {
				t.userError(op, err)
			}
			t.op = prev
		}
	}
	return Stream[Out]{n}
}

// table returns the rows of a lookup's table.
func (a *assembly) table(n *node) *TableRows {
	rows := a.plan.cfg.Tables[n.name]
	if rows == nil {
		if a.err == nil {
			a.err = Terminal(fmt.Errorf("operator %s: %w", n.name, errNoTable))
		}
		return &TableRows{}
	}
	return rows
}

// lookup reads rows for one operator in one task.
type lookup[V any] struct {
	by    *node // whose codec it is: the same in every task and job of the topology
	rows  *TableRows
	codec codec.Codec[V]
}

// row decodes a row when it is looked up for the first time.
func (l *lookup[V]) row(key string) (Row[V], error) {
	r := l.rows.Get(key)
	if r == nil {
		return Row[V]{}, nil
	}
	for d := r.decoded.Load(); d != nil; d = d.next {
		if d.by == l.by {
			return rowOf[V](r, d)
		}
	}
	return rowOf[V](r, l.decode(key, r))
}

func rowOf[V any](r *TableRow, d *decodedRow) (Row[V], error) {
	if d.err != nil {
		return Row[V]{}, d.err
	}
	return Row[V]{Value: *d.value.(*V), Found: true, Revision: r.Revision}, nil
}

// decode keeps what the codec makes of a row with the row. Of two tasks that do so at once the first one's is kept.
func (l *lookup[V]) decode(key string, r *TableRow) *decodedRow {
	d := &decodedRow{by: l.by}
	v, err := l.codec.Decode(r.Data)
	if err != nil {
		d.err = fmt.Errorf("decoding the row %q of bucket %s at revision %d as %s: %w",
			tenants.Printable(key), l.by.table.bucket, r.Revision, l.codec.Name(), err)
	} else {
		d.value = &v
	}
	for {
		first, others := r.decoded.Load(), 0
		for o := first; o != nil; o = o.next {
			if o.by == l.by {
				return o
			}
			others++
		}
		if d.next = first; others >= maxDecoded {
			d.next = nil // most likely of topologies that are gone
		}
		if r.decoded.CompareAndSwap(first, d) {
			return d
		}
	}
}

// maxDecoded bounds what is kept with a row, by operators: a process may build its topologies again and again.
const maxDecoded = 8
