package processor

import (
	"errors"
	"fmt"
	"strings"

	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// TableSpec names the rows that Lookup reads: keys of a NATS KV bucket.
//
// The tenant's rows are where ToKV puts them, under {tenant}.{key}, the key escaped with tenants.EscapeToken. With Shared the rows are
// reference data, the same for every tenant: a key is what "nats kv get" calls it, and may have dots. Nothing under the token _weir is a
// row. A lookup only reads; it needs a bucket that exists.
type TableSpec[V any] struct {
	// Bucket is the KV bucket.
	Bucket string
	// Codec decodes a row, once for each revision. It must allow calls from several goroutines.
	Codec codec.Codec[V]
	// Shared says that the keys of the whole bucket are the same for every tenant. All jobs of a process then share one copy.
	Shared bool
}

// Row is what a table has under a key. Value is shared by every task that reads the table and must not be changed.
type Row[V any] struct {
	Value    V      // zero if there is no row
	Found    bool   // there is a row
	Revision uint64 // of the row, as "nats kv get" shows it; 0 if there is none
}

// tableDecl is what the broker must know of a lookup's table.
type tableDecl struct {
	bucket string
	codec  string
	shared bool
}

// TableNeed says which rows an operator looks up.
type TableNeed struct {
	Operator string
	Bucket   string
	Shared   bool // the rows are the same for every tenant
}

// Relative is what precedes the keys of the rows in the bucket.
func (n TableNeed) Relative(tenant tenants.ID) string {
	if n.Shared {
		return ""
	}
	return string(tenant) + "."
}

// TableBinding is a lookup's table resolved against the broker.
type TableBinding struct {
	Operator string
	Bucket   string
	Stream   string
	Created  int64  // unix nanoseconds
	Prefix   string // what the subjects of the rows begin with: "$KV.prices.acme."
	Shared   bool
}

// Filter covers the subjects of the rows.
func (b TableBinding) Filter() string {
	if b.Shared {
		return b.Prefix + ">"
	}
	return b.Prefix + "*"
}

// Key returns the key by which a row is looked up. false: the subject is none of a row.
func (b TableBinding) Key(subject string) (string, bool) {
	token, ok := strings.CutPrefix(subject, b.Prefix)
	if !ok || tenants.HasReserved(token) {
		return "", false
	}
	if b.Shared {
		return token, true
	}
	if strings.Contains(token, ".") {
		return "", false
	}
	key, err := tenants.UnescapeToken(token)
	// Only one spelling of a key counts, or two rows could stand for one.
	return key, err == nil && tenants.EscapeToken(key) == token
}

// TableCopy is a user's handle on a local copy of a table that follows the bucket.
type TableCopy interface {
	// Rows are the rows. They go on changing until the last user has closed the copy.
	Rows() *TableRows
	// Failed is closed when the copy can no longer follow the bucket; Err says why: a *StreamError if the bucket is gone or another one.
	Failed() <-chan struct{}
	Err() error
	// Close gives the copy back. It is idempotent.
	Close()
}

func (b Bindings) table(operator string) (TableBinding, bool) {
	for _, t := range b.Tables {
		if t.Operator == operator {
			return t, true
		}
	}
	return TableBinding{}, false
}

// tableError says for whom a table's error ends the attempt.
func tableError(job tenants.JobID, operator string, err error) error {
	var fault *StreamError
	if errors.As(err, &fault) { // the copy is shared: each of its users has an error of its own
		own := *fault
		own.Job, own.Table = job, operator
		return &own
	}
	return fmt.Errorf("table of operator %s: %w", operator, err)
}
