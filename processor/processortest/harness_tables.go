package processortest

import (
	"maps"
	"slices"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// tables are the rows of a harness's buckets.
type tables struct {
	rows     map[string]*processor.TableRows
	revision uint64
}

func newTables(buckets map[string]map[string]string) *tables {
	t := &tables{rows: map[string]*processor.TableRows{}}
	for _, bucket := range slices.Sorted(maps.Keys(buckets)) {
		for _, key := range slices.Sorted(maps.Keys(buckets[bucket])) {
			t.put(bucket, key, buckets[bucket][key])
		}
	}
	return t
}

func (t *tables) bucket(name string) *processor.TableRows {
	if t.rows[name] == nil {
		t.rows[name] = &processor.TableRows{}
	}
	return t.rows[name]
}

// cover makes a bucket of everything that a topology looks up.
func (t *tables) cover(topology *processor.Topology) {
	for _, n := range topology.Needs(tenants.JobID{}, tenants.DefaultNamespace).Tables {
		t.bucket(n.Bucket)
	}
}

func (t *tables) put(bucket, key, value string) uint64 {
	t.revision++
	t.bucket(bucket).Put(key, &processor.TableRow{Data: []byte(value), Revision: t.revision})
	return t.revision
}

// PutRow sets a row that operators look up and returns its revision. Elements pushed from now on see it.
func (h *Harness[In, Out]) PutRow(bucket, key, value string) uint64 {
	return h.tables.put(bucket, key, value)
}

// DeleteRow removes a row.
func (h *Harness[In, Out]) DeleteRow(bucket, key string) {
	h.tables.revision++
	h.tables.bucket(bucket).Delete(key, h.tables.revision)
}
