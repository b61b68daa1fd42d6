package processor

import (
	"sync"
	"sync/atomic"
)

// TableRow is one row of a copy. It does not change: a new revision is a new row.
type TableRow struct {
	Data     []byte
	Revision uint64
	Expires  int64 // unix nanoseconds; 0: never

	decoded atomic.Pointer[decodedRow]
}

// decodedRow is what an operator's codec made of a row, with what others' codecs made of it.
type decodedRow struct {
	by    *node
	value any // *V
	err   error
	next  *decodedRow
}

// rowOverhead is what a row costs beside its key and its bytes, roughly.
const rowOverhead = 160

// TableRows are the rows of one copy. One goroutine writes. Reading takes no lock: any number of tasks read at once, while it is written to.
type TableRows struct {
	rows  sync.Map // of *TableRow by key
	count atomic.Int64
	bytes atomic.Int64
}

// Get returns the row of a key, nil if there is none.
func (t *TableRows) Get(key string) *TableRow {
	if v, ok := t.rows.Load(key); ok {
		return v.(*TableRow)
	}
	return nil
}

// Put sets the row of a key, unless the one that is there is of the same or a later revision.
func (t *TableRows) Put(key string, row *TableRow) {
	old := t.Get(key)
	if old != nil && old.Revision >= row.Revision {
		return
	}
	t.rows.Store(key, row)
	t.resize(key, old, row)
}

// Delete removes the row of a key, unless it is of a later revision than the deletion.
func (t *TableRows) Delete(key string, revision uint64) {
	old := t.Get(key)
	if old == nil || old.Revision > revision {
		return
	}
	t.rows.Delete(key)
	t.resize(key, old, nil)
}

func (t *TableRows) resize(key string, old, now *TableRow) {
	if old != nil {
		t.count.Add(-1)
		t.bytes.Add(-int64(len(key) + len(old.Data) + rowOverhead))
	}
	if now != nil {
		t.count.Add(1)
		t.bytes.Add(int64(len(key) + len(now.Data) + rowOverhead))
	}
}

// Each calls fn with every row; fn may delete rows.
func (t *TableRows) Each(fn func(key string, row *TableRow)) {
	t.rows.Range(func(k, v any) bool {
		fn(k.(string), v.(*TableRow))
		return true
	})
}

// Size returns the number of rows, and about how many bytes they take, without what codecs make of them.
func (t *TableRows) Size() (rows int, bytes int64) { return int(t.count.Load()), t.bytes.Load() }

// KVRemoved reports whether the headers of a KV bucket's message say that its key was deleted, purged or has expired.
func KVRemoved(header map[string][]string) bool {
	return len(header["KV-Operation"]) > 0 || len(header["Nats-Marker-Reason"]) > 0
}
