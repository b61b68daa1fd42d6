package jetstream

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// tableKey says which rows a copy has. A bucket that was created anew is another one.
type tableKey struct {
	stream, filter string
	created        int64
}

// table is the one copy of some rows of a bucket in this process, which all jobs and tasks share that have it open. A goroutine of its own
// follows the bucket until the last user has closed the copy.
//
// Invariant: rows holds, of every key, the last revision at or before the sequence reached, and nothing that was removed by then; the
// revision of a key never goes back, and a key that was removed does not come back with a revision from before.
type table struct {
	b      *Broker
	bind   processor.TableBinding
	key    tableKey
	rows   processor.TableRows
	cancel context.CancelFunc
	failed chan struct{}
	users  int // guarded by Broker.mu

	mu      sync.Mutex
	err     error
	reached uint64
	moved   chan struct{} // closed and replaced when reached grows; nil: nobody waits
}

// tableCopy is one user's handle on a table.
type tableCopy struct {
	*table
	once sync.Once
}

// Rows implements processor.TableCopy.
func (c *tableCopy) Rows() *processor.TableRows { return &c.rows }

// Failed implements processor.TableCopy.
func (c *tableCopy) Failed() <-chan struct{} { return c.failed }

// Err implements processor.TableCopy.
func (c *tableCopy) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close implements processor.TableCopy. It does not wait for the server.
func (c *tableCopy) Close() { c.once.Do(c.release) }

// OpenTable implements processor.Transport.
func (b *Broker) OpenTable(ctx context.Context, job tenants.JobID, bind processor.TableBinding) (processor.TableCopy, error) {
	last, err := b.lastRow(ctx, bind)
	if err != nil {
		return nil, asTransient(ctx, fmt.Errorf("opening a copy of bucket %s for job %s: %w", bind.Bucket, job, err))
	}
	t, err := b.useTable(bind)
	if err != nil {
		return nil, err
	}
	c := &tableCopy{table: t}
	if err := t.reach(ctx, last); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// lastRow asks the leader for the last sequence of a row, 0 if there was none.
func (b *Broker) lastRow(ctx context.Context, bind processor.TableBinding) (uint64, error) {
	m, err := b.leaderGet(ctx, bind.Stream, getLast{bind.Filter()})
	switch {
	case apiCode(err) == codeStreamNotFound:
		return 0, bucketMissing(bind)
	case err != nil || m == nil:
		return 0, err
	}
	return m.Seq, nil
}

func bucketMissing(bind processor.TableBinding) error {
	return &processor.StreamError{
		Stream: bind.Stream, Table: bind.Operator, Fault: processor.StreamMissing, Detail: "there is no such bucket",
		Advice: "Make it and start the job again: nats kv add " + bind.Bucket,
	}
}

// useTable returns the copy of some rows and makes it if there is none. Each call is answered by one release.
func (b *Broker) useTable(bind processor.TableBinding) (*table, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || !b.started {
		return nil, ErrClosed
	}
	key := tableKey{bind.Stream, bind.Filter(), bind.Created}
	t := b.tables[key]
	if t == nil {
		t = &table{b: b, bind: bind, key: key, failed: make(chan struct{})}
		ctx, cancel := context.WithCancel(b.ctx)
		t.cancel = cancel
		b.tables[key] = t
		b.wg.Go(func() { t.run(ctx) })
	}
	t.users++
	return t, nil
}

func (t *table) release() {
	t.b.mu.Lock()
	defer t.b.mu.Unlock()
	if t.users--; t.users == 0 {
		t.forget()
		t.cancel()
	}
}

// forget makes the next user begin with a new copy. Broker.mu is held.
func (t *table) forget() {
	if t.b.tables[t.key] == t {
		delete(t.b.tables, t.key)
	}
}

// reach waits until the copy holds everything up to a sequence.
func (t *table) reach(ctx context.Context, seq uint64) error {
	for {
		t.mu.Lock()
		err, done := t.err, t.reached >= seq
		if t.moved == nil {
			t.moved = make(chan struct{})
		}
		moved := t.moved
		t.mu.Unlock()
		if err != nil || done {
			return err
		}
		select {
		case <-moved:
		case <-t.failed:
		case <-ctx.Done():
			return ctx.Err()
		case <-t.b.ctx.Done():
			return ErrClosed
		}
	}
}

// advance says that the copy holds everything up to a sequence.
func (t *table) advance(seq uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if seq <= t.reached {
		return
	}
	t.reached = seq
	if t.moved != nil {
		close(t.moved)
		t.moved = nil
	}
}

// fail ends the copy for all its users.
func (t *table) fail(err error) {
	t.b.mu.Lock()
	t.forget()
	t.b.mu.Unlock()
	t.mu.Lock()
	t.err = err
	t.mu.Unlock()
	close(t.failed)
}

// run follows the bucket, by one watch after the other.
func (t *table) run(ctx context.Context) {
	for n := 1; ; n++ {
		err := newTablePass(t).run(ctx, func() { n = 0 })
		switch {
		case ctx.Err() != nil, errors.Is(err, ErrClosed):
			return
		case processor.ClassOf(err) == processor.ClassTerminal:
			t.b.log.Error("a copy of a bucket's rows cannot go on", "stream", t.bind.Stream, "err", err)
			t.fail(err)
			return
		}
		t.b.log.Info("a copy of a bucket's rows reads it again", "stream", t.bind.Stream, "err", err)
		if sleep(ctx, watchPause(n)) != nil {
			return
		}
	}
}
