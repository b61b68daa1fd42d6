package state

import (
	"math"
	"time"
)

// Expiry says by which time the entries of a state expire.
type Expiry uint8

// The kinds of expiry, as snapshots record them.
const (
	NoExpiry         Expiry = iota
	ExpiryProcessing        // by processing time
	ExpiryEvent             // by event time
	expiries
)

// TTL lets every entry (a value, a list, an accumulator, one entry of a map) expire when d of processing time has passed since it
// was last written. An expired entry is as if it were not there, at once. It leaves memory and snapshots a little later, in small
// steps beside other accesses.
//
// An entry that was restored from a snapshot of a program without a TTL begins its time with the restore. A program that takes a
// TTL away, or changes between processing and event time, keeps what has not left memory yet: entries live on, or begin anew.
func TTL(d time.Duration) Option {
	return func(o *options) { o.ttl.by, o.ttl.after, o.ttls = ExpiryProcessing, int64(d), o.ttls+1 }
}

// EventTimeTTL is TTL by event time: the time of the current element, or the operator's watermark if that is later, at the write
// and at the access. What an element sees of its key then depends on event times alone, unless the element is late. Entries leave memory
// as the watermark passes; while there is none, nothing expires.
func EventTimeTTL(d time.Duration) Option {
	return func(o *options) { o.ttl.by, o.ttl.after, o.ttls = ExpiryEvent, int64(d), o.ttls+1 }
}

// RefreshOnRead makes reads of an entry begin its time anew, as writes do. A read entry is then part of the next checkpoint.
func RefreshOnRead() Option { return func(o *options) { o.ttl.onRead = true } }

// Clock tells a backend the time that its entries expire by. It is asked once for each key that is accessed, and only by states with
// a TTL.
type Clock interface {
	// ProcessingTime is in unix nanoseconds.
	ProcessingTime() int64
	// EventTime returns the event time of what is being processed and the watermark, which is not after it. Both are unix
	// nanoseconds; math.MinInt64 says that there is none.
	EventTime() (now, watermark int64)
}

// SetClock must be called before the first access if a state has a TTL. Without a clock no time is known: nothing expires, and what
// is written gets its time when it is accessed with one.
func (b *Backend) SetClock(c Clock) { b.clock = c }

// noTime is an entry's expiry that is not known yet, and a clock's answer that there is no time.
const noTime = math.MinInt64

// ttl is a state's time to live.
type ttl struct {
	by     Expiry
	after  int64 // nanoseconds
	onRead bool
}

// expire checks the TTL options.
func (s *spec) expire(o *options) {
	switch {
	case o.ttls > 1:
		s.fail("it has more than one TTL")
	case o.ttls == 1 && o.ttl.after <= 0:
		s.fail("the TTL %s: use more than 0", time.Duration(o.ttl.after))
	case o.ttls == 0 && o.ttl.onRead:
		s.fail("RefreshOnRead without a TTL")
	}
	s.ttl, s.info.Expiry = o.ttl, o.ttl.by
}

// expires returns when what is written now expires.
func (l *ttl) expires(now int64) int64 {
	if now == noTime {
		return noTime
	}
	if now > math.MaxInt64-l.after {
		return math.MaxInt64
	}
	return now + l.after
}

// recorded returns when a restored entry expires.
func (l *ttl) recorded(e *Entry) int64 {
	if e.Expiry != l.by {
		return noTime
	}
	return e.Expires
}

// timed is a value with its expiry.
type timed[T any] struct {
	v       T
	expires int64
	heap    int32 // place in the due heap
}

// due finds the entries that expire, and knows the time of one state. Refreshing an entry does not move it: its place is by an
// expiry that it has or had, and is corrected when that comes.
type due[K, T any] struct {
	ttl
	b         *Backend
	heap      []dueItem[K, T]
	seq       uint64 // of the backend's key that now belongs to
	now       int64  // what accesses see; noTime: nothing expires
	watermark int64  // no access will see less than this
}

type dueItem[K, T any] struct {
	at int64
	it *item[K, timed[T]]
}

// dueItemBytes is what a heap entry costs.
const dueItemBytes = 16

// evictPerKey and evictPerEnd bound how many entries are looked at when a key is accessed and when a checkpoint has been committed.
const (
	evictPerKey = 2
	evictPerEnd = 1024
)

// tick takes the time for the current key, and reports whether that is new. There may be something to evict then.
func (d *due[K, T]) tick() bool {
	if d.seq == d.b.seq {
		return false
	}
	d.seq = d.b.seq
	d.read()
	return true
}

func (d *due[K, T]) read() {
	d.now, d.watermark = noTime, noTime
	switch {
	case d.b.clock == nil:
	case d.by == ExpiryEvent:
		d.now, d.watermark = d.b.clock.EventTime()
	default:
		d.now = d.b.clock.ProcessingTime()
		d.watermark = d.now
	}
}

// alive reports whether an entry is there for the current access.
func (d *due[K, T]) alive(v *timed[T]) bool {
	return v.expires > d.now || v.expires == noTime || d.now == noTime
}

// over reports whether an entry is there for no access any more.
func (d *due[K, T]) over(v *timed[T]) bool { return v.expires <= d.watermark && v.expires != noTime }

// stale reports whether an alive entry's expiry is to be set although it is only read.
func (d *due[K, T]) stale(v *timed[T]) bool {
	return (d.onRead || v.expires == noTime) && d.expires(d.now) > v.expires
}

func (d *due[K, T]) push(it *item[K, timed[T]]) {
	it.val.heap = int32(len(d.heap))
	d.heap = append(d.heap, dueItem[K, T]{it.val.expires, it})
	d.up(len(d.heap) - 1)
}

// moved says that it now stands for the entry with this place.
func (d *due[K, T]) moved(it *item[K, timed[T]]) { d.heap[it.val.heap].it = it }

func (d *due[K, T]) pull(it *item[K, timed[T]]) {
	i, last := int(it.val.heap), len(d.heap)-1
	d.set(i, d.heap[last])
	d.heap[last] = dueItem[K, T]{}
	d.heap = d.heap[:last]
	if i < last {
		d.down(d.up(i))
	}
}

// next corrects the head's place and returns it if it is over. n bounds how many it looks at, and is what is left of that.
func (d *due[K, T]) next(n *int) *item[K, timed[T]] {
	for ; *n > 0 && len(d.heap) > 0; *n-- {
		h := &d.heap[0]
		if h.at > d.watermark || d.watermark == noTime {
			return nil
		}
		switch is := h.it.val.expires; {
		case d.over(&h.it.val), is == noTime && h.at != noTime:
			*n--
			return h.it
		case is == noTime:
			// It is stamped when it is accessed. One that nobody accesses goes in the end too.
			h.at = d.expires(d.now)
		default:
			h.at = is
		}
		d.down(0)
	}
	return nil
}

func (d *due[K, T]) set(i int, x dueItem[K, T]) {
	d.heap[i] = x
	x.it.val.heap = int32(i)
}

func (d *due[K, T]) up(i int) int {
	x := d.heap[i]
	for i > 0 {
		p := (i - 1) / 2
		if x.at >= d.heap[p].at {
			break
		}
		d.set(i, d.heap[p])
		i = p
	}
	d.set(i, x)
	return i
}

func (d *due[K, T]) down(i int) {
	x := d.heap[i]
	for {
		c := 2*i + 1
		if c >= len(d.heap) {
			break
		}
		if c+1 < len(d.heap) && d.heap[c+1].at < d.heap[c].at {
			c++
		}
		if d.heap[c].at >= x.at {
			break
		}
		d.set(i, d.heap[c])
		i = c
	}
	d.set(i, x)
}
