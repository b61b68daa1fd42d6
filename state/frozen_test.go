package state

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/weirstream/weir/state/codec"
)

func newTestBackend(t fataler, descs ...Descriptor) *Backend {
	b, err := NewBackend(testConfig(0, 1), descs...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustEncode(t fataler, f *Frozen, maxObject int) [][]byte {
	objects, err := f.Encode(maxObject)
	if err != nil {
		t.Fatal(err)
	}
	var out [][]byte
	for _, o := range objects {
		out = append(out, o.Data)
	}
	return out
}

func setAll(t fataler, b *Backend, n int, v int64) {
	for i := range n {
		b.SetKey(fmt.Sprint("k", i))
		if err := countState.Set(b, v+int64(i)); err != nil {
			t.Fatal(err)
		}
	}
}

// An encoder of an aborted checkpoint may still run when the next one commits. Nothing it reads may change.
func TestEncoderOutlivesItsCheckpoint(t *testing.T) {
	started, goOn := make(chan struct{}), make(chan struct{})
	var held atomic.Bool
	inner := codec.Int64()
	slow := codec.New("int64", func(dst []byte, v int64) ([]byte, error) {
		if held.CompareAndSwap(false, true) {
			close(started)
			<-goOn
		}
		return inner.Append(dst, v)
	}, inner.Decode)
	d := NewValue[int64]("count", Codec(slow))
	b := newTestBackend(t, d)
	const keys = 50
	write := func(v int64) {
		for i := range keys {
			b.SetKey(fmt.Sprint("k", i))
			if err := d.Set(b, v); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(1)
	first := b.Freeze(1)
	var object []byte
	done := make(chan error)
	go func() {
		objects, err := first.Encode(0)
		if err == nil {
			object = objects[0].Data
		}
		done <- err
	}()
	<-started
	if _, err := first.Encode(0); err == nil {
		t.Fatal("two encoders at once were allowed")
	}
	b.Aborted(1)
	write(2)
	second := b.Freeze(2)
	mustEncode(t, second, 0)
	b.Committed(2)
	write(3)
	for i := range keys { // new items must not take the place of old ones either
		b.SetKey(fmt.Sprint("other", i))
		if err := d.Set(b, 4); err != nil {
			t.Fatal(err)
		}
	}
	close(goOn)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	n := 0
	if _, err := Scan(object, func(_ *Header, e *Entry) error {
		n++
		if v, err := inner.Decode(e.Value); err != nil || v != 1 {
			return fmt.Errorf("key %s was encoded as %d (%v), frozen as 1", e.Key, v, err)
		}
		return nil
	}); err != nil || n != keys {
		t.Fatal(n, err)
	}
	if _, err := first.Encode(0); !errors.Is(err, ErrRetired) {
		t.Fatalf("encoding after the abort: %v", err)
	}
	mustEncode(t, b.Freeze(3), 0)
	b.Committed(3)
	if len(b.zombies) != 0 {
		t.Fatal("an encoder that has ended is still waited for")
	}
}

// Many aborted checkpoints in a row lose nothing and do not pile up.
func TestManyAborts(t *testing.T) {
	b := newTestBackend(t, countState)
	const keys = 40
	for c := range uint64(20) {
		setAll(t, b, keys-int(c), int64(c)*1000)
		b.SetKey(fmt.Sprint("gone", c))
		if err := countState.Set(b, 1); err != nil {
			t.Fatal(err)
		}
		b.Freeze(c + 1)
		if err := countState.Clear(b); err != nil {
			t.Fatal(err)
		}
		b.Aborted(c + 1)
	}
	f := b.Freeze(100)
	if f.Keys() > 5*(keys+20) {
		t.Fatalf("%d entries are frozen for %d keys", f.Keys(), keys)
	}
	chain := mustEncode(t, f, 0)
	r := newTestBackend(t, countState)
	if err := r.Restore(chain); err != nil {
		t.Fatal(err)
	}
	for i := range keys {
		r.SetKey(fmt.Sprint("k", i))
		last := min(19, keys-1-i) // the last checkpoint that wrote the key
		if v, err := countState.Get(r); err != nil || v != int64(last*1000+i) {
			t.Fatalf("k%d is %d, want %d (%v)", i, v, last*1000+i, err)
		}
	}
	for c := range 20 {
		r.SetKey(fmt.Sprint("gone", c))
		if _, ok, _ := countState.Lookup(r); ok {
			t.Fatalf("gone%d is back", c)
		}
	}
}

func TestFreezeAfterCommitIsEmpty(t *testing.T) {
	b := newTestBackend(t, countState)
	setAll(t, b, 10, 0)
	for c, freeze := range []func(uint64) *Frozen{b.Freeze, b.FreezeAll, b.FreezeAll} {
		f := freeze(uint64(c + 1))
		if objects := mustEncode(t, f, 0); len(objects) != 1 || f.Keys() != 10 || f.Checkpoint() != uint64(c+1) {
			t.Fatalf("freeze %d: %d objects, %d keys", c, len(objects), f.Keys())
		}
		b.Committed(uint64(c + 1))
	}
	f := b.Freeze(9)
	if !f.Empty() || len(mustEncode(t, f, 0)) != 0 {
		t.Fatal("nothing changed, but the snapshot is not empty")
	}
	b.Committed(9)
	b.SetKey("k1")
	if err := countState.Clear(b); err != nil {
		t.Fatal(err)
	}
	f = b.Freeze(10)
	objects, err := f.Encode(0)
	if err != nil || len(objects) != 1 || objects[0].Base || objects[0].Entries != 1 {
		t.Fatalf("one removal gave %+v, %v", objects, err)
	}
	// Commits and aborts of others do not count.
	b.Committed(9)
	b.Aborted(11)
	defer func() {
		if recover() == nil {
			t.Fatal("a second snapshot in flight was allowed")
		}
	}()
	b.Freeze(11)
}

// Removed entries give their memory back once the removal is committed.
func TestRemovedEntriesAreFreed(t *testing.T) {
	b := newTestBackend(t, countState, tagState)
	for c := range uint64(30) {
		for i := range 100 {
			b.SetKey(fmt.Sprintf("%d-%d", c, i))
			if err := errors.Join(countState.Set(b, 1), tagState.Put(b, "x", 1), b.Timers().Set(EventTime, 5, b.Key())); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 100 {
			b.SetKey(fmt.Sprintf("%d-%d", c, i))
			if err := errors.Join(countState.Clear(b), tagState.Clear(b)); err != nil {
				t.Fatal(err)
			}
			b.Timers().Delete(EventTime, 5, b.Key())
		}
		b.Freeze(c + 1)
		b.Committed(c + 1)
	}
	if n := b.Bytes(); n != 0 {
		t.Fatalf("an empty state takes %d bytes", n)
	}
	values, tags := b.slots[0].table.(*valueTable[int64]), b.slots[1].table.(*mapTable[string, int64])
	if len(values.m) != 0 || len(tags.m) != 0 || len(b.timers.m) != 0 {
		t.Fatalf("%d values, %d maps and %d timers are left", len(values.m), len(tags.m), len(b.timers.m))
	}
	if slabs := len(values.log.slabs); slabs > 6 {
		t.Fatalf("%d slabs for 100 entries at a time: they are not used again", slabs)
	}
}

// The backend copies the keys it keeps.
func TestKeyBytesAreReused(t *testing.T) {
	b := newTestBackend(t, countState, tagState)
	buf := []byte("key-0")
	for i := range 10 {
		buf[4] = byte('0' + i)
		b.SetKey(bytesAsString(buf))
		if err := errors.Join(countState.Set(b, int64(i)), tagState.Put(b, "t", int64(i)), b.Timers().Set(ProcessingTime, 7, b.Key())); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 10 {
		b.SetKey(fmt.Sprint("key-", i))
		v, _ := countState.Get(b)
		tag, _, _ := tagState.Get(b, "t")
		key, at, ok := b.Timers().PopDue(ProcessingTime, 7)
		if v != int64(i) || tag != int64(i) || key != b.Key() || at != 7 || !ok {
			t.Fatalf("key %s: value %d, tag %d, timer %s", b.Key(), v, tag, key)
		}
	}
}
