package processortest

import (
	"context"
	"fmt"
	"sync"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// memoryTable is a copy of the rows under a prefix of a bucket. It is shared by all who have it open, and changes with the bucket.
type memoryTable struct {
	bind   processor.TableBinding
	rows   processor.TableRows
	users  int
	failed chan struct{}
	err    error
}

type memoryTableKey struct{ stream, filter string }

// memoryCopy is one user's handle on a memoryTable.
type memoryCopy struct {
	*memoryTable
	m    *Memory
	once sync.Once
}

func (c *memoryCopy) Rows() *processor.TableRows { return &c.rows }

func (c *memoryCopy) Failed() <-chan struct{} { return c.failed }

func (c *memoryCopy) Err() error {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	return c.err
}

func (c *memoryCopy) Close() {
	c.once.Do(func() {
		c.m.mu.Lock()
		defer c.m.mu.Unlock()
		if c.users--; c.users == 0 && c.err == nil {
			delete(c.m.tables, memoryTableKey{c.bind.Stream, c.bind.Filter()})
		}
	})
}

func bucketStream(bucket string) string { return "KV_" + bucket }

// AddBucket creates a KV bucket.
func (m *Memory) AddBucket(bucket string) {
	m.AddStream(bucketStream(bucket), "$KV."+bucket+".>")
}

// PutKey sets a key of a bucket, as "nats kv put" would, and returns its revision. The key is the whole one: "acme.apples".
func (m *Memory) PutKey(bucket, key string, value []byte) (uint64, error) {
	return m.PublishTo("$KV."+bucket+"."+key, nil, value)
}

// DeleteKey deletes a key of a bucket, as "nats kv del" would.
func (m *Memory) DeleteKey(bucket, key string) (uint64, error) {
	return m.PublishTo("$KV."+bucket+"."+key, map[string][]string{"KV-Operation": {"DEL"}}, nil)
}

// RemoveBucket deletes a bucket. Copies of its rows fail.
func (m *Memory) RemoveBucket(bucket string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	stream := bucketStream(bucket)
	delete(m.streams, stream)
	for key, t := range m.tables {
		if key.stream == stream {
			t.err = &processor.StreamError{Stream: stream, Fault: processor.StreamMissing, Detail: "there is no such bucket"}
			close(t.failed)
			delete(m.tables, key)
		}
	}
}

// OpenCopies returns how many copies of tables are open; none when every job has ended.
func (m *Memory) OpenCopies() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, t := range m.tables {
		n += t.users
	}
	return n
}

func (m *Memory) bindTable(job tenants.JobID, n processor.TableNeed) (processor.TableBinding, error) {
	s := m.streams[bucketStream(n.Bucket)]
	if s == nil {
		return processor.TableBinding{}, processor.Terminal(fmt.Errorf("table of operator %s: there is no bucket %s: nats kv add %s", n.Operator, n.Bucket, n.Bucket))
	}
	return processor.TableBinding{
		Operator: n.Operator, Bucket: n.Bucket, Stream: s.name, Created: s.created, Shared: n.Shared,
		Prefix: "$KV." + n.Bucket + "." + n.Relative(job.Tenant),
	}, nil
}

// OpenTable implements processor.Transport. The copy changes at the moment the bucket does.
func (m *Memory) OpenTable(_ context.Context, job tenants.JobID, b processor.TableBinding) (processor.TableCopy, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.streams[b.Stream]
	if s == nil {
		return nil, &processor.StreamError{Job: job, Stream: b.Stream, Table: b.Operator, Fault: processor.StreamMissing, Detail: "there is no such bucket"}
	}
	key := memoryTableKey{b.Stream, b.Filter()}
	t := m.tables[key]
	if t == nil {
		t = &memoryTable{bind: b, failed: make(chan struct{})}
		for _, r := range s.messages {
			t.apply(r)
		}
		m.tables[key] = t
	}
	t.users++
	return &memoryCopy{memoryTable: t, m: m}, nil
}

func (t *memoryTable) apply(r processor.Record) {
	key, ok := t.bind.Key(r.Subject)
	switch {
	case !ok:
	case processor.KVRemoved(r.Header):
		t.rows.Delete(key, r.Seq)
	default:
		t.rows.Put(key, &processor.TableRow{Data: r.Data, Revision: r.Seq})
	}
}

// follow tells the copies of a stream's rows of a message.
func (m *Memory) follow(s *memoryStream, r processor.Record) {
	for key, t := range m.tables {
		if key.stream == s.name {
			t.apply(r)
		}
	}
}
