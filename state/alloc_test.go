package state

import (
	"errors"
	"testing"
)

// The steady state allocates nothing per record, between checkpoints and over them.
func TestAllocations(t *testing.T) {
	keys := keysOf(500)
	b := newTestBackend(t, countState, tagState, sumState)
	tags := []string{"a", "b", "c"}
	checkpoint := uint64(0)
	records := func() {
		for i, k := range keys {
			b.SetKey(k)
			n, err := countState.Get(b)
			err = errors.Join(err, countState.Set(b, n+1), sumState.Add(b, 2), tagState.Put(b, tags[i%3], n),
				b.Timers().Set(EventTime, 5, k))
			if err != nil {
				t.Fatal(err)
			}
		}
		for {
			if _, _, ok := b.Timers().PopDue(EventTime, 10); !ok {
				break
			}
		}
	}
	cycle := func() {
		records()
		checkpoint++
		b.Freeze(checkpoint)
		records() // while it is in flight: copies
		b.Committed(checkpoint)
	}
	for range 20 {
		cycle()
	}
	// A timer's key is copied when it is set anew; everything else is used again. Freeze and Committed allocate a few times.
	perRecord := testing.AllocsPerRun(20, cycle) / float64(2*len(keys))
	if perRecord > 1.1 {
		t.Errorf("%.2f allocations per record, 1 expected (the timer's key)", perRecord)
	}
	if n := testing.AllocsPerRun(20, func() { count(t, b, b, keys[7]) }); n != 0 {
		t.Errorf("%v allocations per counted record", n)
	}
	o := NewOutput()
	data := make([]byte, 100)
	if n := testing.AllocsPerRun(20000, func() { _ = o.Append("counts.a", nil, data) }); n >= 1 {
		t.Errorf("%v allocations per staged message", n)
	}
	o.Seal()
	if n := testing.AllocsPerRun(20, func() {
		for m := range o.From(5) {
			data[0] = m.Data[0]
		}
	}); n > 2 {
		t.Errorf("%v allocations to read %d messages", n, o.Len())
	}
}
