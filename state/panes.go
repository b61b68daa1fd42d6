package state

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"unsafe"

	"github.com/weirstream/weir/state/codec"
)

// NoTime is PaneKey.Next of a key that waits for nothing.
const NoTime = math.MaxInt64

// Panes declares the state of a window operator: values per key and start of a slice of time. In a snapshot it is a map state
// whose keys are the starts, so that a change of one pane costs one entry.
type Panes[V any] struct{ *spec }

// NewPanes declares panes that hold accumulators. layout says how time is cut into slices: a snapshot with another layout does
// not fit, which is found out before anything runs. The options are those of the accumulators.
func NewPanes[Acc any](name, layout string, opts ...Option) *Panes[Acc] {
	s, acc := declarePanes[Acc](name, layout, opts)
	s.newTable = func(b *Backend) table {
		decode := func(e *Entry, u *upcast) (Acc, error) { return decodeValue(acc, upcastValue[Acc], e, u) }
		return newPaneTable(b, name, acc, decode, sizer[Acc]())
	}
	return &Panes[Acc]{s}
}

// Session is a pane that ends where its elements let it, and knows what has been emitted of it.
type Session[Acc any] struct {
	End     int64  `json:"end"`             // exclusive, unix nanoseconds
	Emitted uint32 `json:"emitted"`         // results so far
	Since   uint32 `json:"since"`           // elements since the last one
	Fired   bool   `json:"fired,omitempty"` // the watermark has passed End and the result was emitted
	Acc     Acc    `json:"acc"`
}

// NewSessions declares panes that are sessions, by their start.
func NewSessions[Acc any](name, layout string, opts ...Option) *Panes[Session[Acc]] {
	s, acc := declarePanes[Acc](name, layout, opts)
	var size func(Session[Acc]) int
	if of := sizer[Acc](); of != nil {
		size = func(v Session[Acc]) int { return of(v.Acc) }
	}
	s.newTable = func(b *Backend) table {
		c := &sessionCodec[Acc]{acc}
		return newPaneTable(b, name, c, c.decode, size)
	}
	return &Panes[Session[Acc]]{s}
}

// sessionCodec writes a session's end, counters and accumulator, in this order.
type sessionCodec[Acc any] struct{ acc codec.Codec[Acc] }

func (c *sessionCodec[Acc]) Name() string { return c.acc.Name() }

func (c *sessionCodec[Acc]) Append(dst []byte, v Session[Acc]) ([]byte, error) {
	dst = binary.AppendVarint(dst, v.End)
	flag := uint64(0)
	if v.Fired {
		flag = 1
	}
	dst = binary.AppendUvarint(dst, uint64(v.Emitted)<<1|flag)
	return c.acc.Append(binary.AppendUvarint(dst, uint64(v.Since)), v.Acc)
}

func (c *sessionCodec[Acc]) Decode(b []byte) (Session[Acc], error) {
	return c.decode(&Entry{Value: b}, nil)
}

func (c *sessionCodec[Acc]) decode(e *Entry, u *upcast) (v Session[Acc], err error) {
	end, n := binary.Varint(e.Value)
	if n <= 0 {
		return v, errSession
	}
	r := reader{b: e.Value[n:]}
	emitted, since := r.uvarint(), r.uvarint()
	if r.bad || emitted>>1 > math.MaxUint32 || since > math.MaxUint32 {
		return v, errSession
	}
	v = Session[Acc]{End: end, Emitted: uint32(emitted >> 1), Fired: emitted&1 != 0, Since: uint32(since)}
	rest := *e
	rest.Value = r.b
	v.Acc, err = decodeValue(c.acc, upcastValue[Acc], &rest, u)
	return v, err
}

var errSession = fmt.Errorf("decoding a session: %w: its head", codec.ErrMalformed)

func declarePanes[Acc any](name, layout string, opts []Option) (*spec, codec.Codec[Acc]) {
	s, o := declare(name, KindMap, opts)
	acc := choose[Acc](s, o.codec)
	if o.keyCodec != nil {
		s.fail("KeyCodec is for map states only")
	}
	if o.ttls > 0 {
		s.fail("panes end with their windows: a TTL is for the states that operators use")
	}
	if strings.Contains(layout, ",") {
		s.fail("the layout %q has a comma", layout)
	}
	s.info.Codec = "int64@" + layout + "," + acc.Name()
	migrate[Acc](s, o)
	return s, acc
}

// Table returns the operator's panes.
func (d *Panes[V]) Table(c Context) (*PaneTable[V], error) { return tableOf[*PaneTable[V]](c, d.spec) }

// paneID identifies a pane. The key is reached through its record: it outlives its panes in every list that has one of them.
type paneID[V any] struct {
	of    *PaneKey[V]
	start int64
}

type paneItem[V any] = item[paneID[V], V]

// PaneKey is what one key has: its panes in the order of their start. The exported fields are for the
// operator alone; they are not in snapshots.
type PaneKey[V any] struct {
	key    string
	items  []*paneItem[V] // by start, with tombstones that are not committed yet
	starts []int64        // of the items: to be searched without touching them
	live   int
	head   int // no item before it is present
	hint   int // where the last one was found
	seen   uint64

	Next  int64 // when there is something to do for the key; NoTime: never
	Fired int64 // windows up to this end were fired; math.MinInt64: none
	Early int64 // when its early results are due, in processing time; 0: not asked for
	Memo  any   // what the operator has computed of its panes
}

// Key returns the key.
func (n *PaneKey[V]) Key() string { return n.key }

// Live returns the number of panes.
func (n *PaneKey[V]) Live() int { return n.live }

// Bounds returns the range of indexes that Item takes. Items may be absent.
func (n *PaneKey[V]) Bounds() (from, to int) { return n.head, len(n.items) }

// Item returns the i-th pane in the order of start. v is nil if it was removed; it must not be written to, and is valid until the
// next change of the table.
func (n *PaneKey[V]) Item(i int) (start int64, v *V) {
	it := n.items[i]
	if !it.present {
		return it.key.start, nil
	}
	return it.key.start, &it.val
}

// Search returns the index of the first item with a start of at least start.
func (n *PaneKey[V]) Search(start int64) int { return n.head + lowerBound(n.starts[n.head:], start) }

// lowerBound returns the index of the first that is at least x.
func lowerBound(sorted []int64, x int64) int {
	lo, hi := 0, len(sorted)
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if sorted[mid] < x {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// At returns the pane with that start, or nil. It must not be written to, and is valid until the next change of the table.
func (n *PaneKey[V]) At(start int64) *V {
	if i := n.find(start); i >= 0 && n.items[i].present {
		return &n.items[i].val
	}
	return nil
}

func (n *PaneKey[V]) find(start int64) int {
	if n.hint < len(n.starts) && n.starts[n.hint] == start {
		return n.hint
	}
	last := len(n.starts) - 1
	if last < 0 || start > n.starts[last] {
		return -1 // a new pane is the latest, as a rule
	}
	i := lowerBound(n.starts, start)
	if n.starts[i] != start {
		return -1
	}
	n.hint = i
	return i
}

// insert puts an item into its place.
func (n *PaneKey[V]) insert(it *paneItem[V]) {
	i := lowerBound(n.starts, it.key.start)
	n.items = slices.Insert(n.items, i, it)
	n.starts = slices.Insert(n.starts, i, it.key.start)
	n.hint, n.head = i, min(n.head, i)
}

// PaneTable holds the panes of an operator's subtask.
type PaneTable[V any] struct {
	b      *Backend
	name   string
	codec  codec.Codec[V]
	decode func(e *Entry, u *upcast) (V, error)
	size   func(V) int // bytes behind a value; nil: none
	fixed  int
	m      map[string]*PaneKey[V]
	log    changelog[paneID[V], V]
	inFly  segments[paneID[V], V]
	walk   uint64
}

func newPaneTable[V any](b *Backend, name string, c codec.Codec[V], decode func(*Entry, *upcast) (V, error),
	size func(V) int) *PaneTable[V] {
	var it paneItem[V]
	t := &PaneTable[V]{b: b, name: name, codec: c, decode: decode, size: size,
		fixed: int(unsafe.Sizeof(it)) + entryOverhead, m: make(map[string]*PaneKey[V])}
	t.log = newChangelog(t.unlink)
	return t
}

func (t *PaneTable[V]) unlink(it *paneItem[V]) {
	n := it.key.of
	i := n.find(it.key.start)
	if i == 0 { // as a rule: the oldest goes first
		n.items[0] = nil
		n.items, n.starts = n.items[1:], n.starts[1:]
	} else {
		n.items, n.starts = slices.Delete(n.items, i, i+1), slices.Delete(n.starts, i, i+1)
	}
	if i < n.head {
		n.head--
	}
	n.hint = 0
	t.b.bytes -= int64(t.fixed)
	if len(n.items) == 0 {
		delete(t.m, n.key)
		t.b.bytes -= int64(len(n.key) + entryOverhead)
	}
}

// Key returns what a key has, or nil.
func (t *PaneTable[V]) Key(key string) *PaneKey[V] {
	if t.log.reaped < len(t.log.tombs) {
		t.log.reap(reapPerKey)
	}
	return t.m[key]
}

// Len returns the number of keys.
func (t *PaneTable[V]) Len() int { return len(t.m) }

// Keys calls fn for every key that has a pane, in an order that is the same whenever the history is.
func (t *PaneTable[V]) Keys(fn func(n *PaneKey[V])) {
	t.walk++
	for _, it := range t.log.everything() {
		if n := it.key.of; n.seen != t.walk {
			n.seen = t.walk
			fn(n)
		}
	}
}

// Put sets the pane of a key; n is what the table has of the key, nil if nothing. It returns n, or the new one. What v refers to
// must not be changed any more. A *QuotaError says that there is no room.
func (t *PaneTable[V]) Put(n *PaneKey[V], key string, start int64, v V) (*PaneKey[V], error) {
	i := -1
	if n != nil {
		i = n.find(start)
	}
	if i < 0 {
		return t.add(n, key, start, v)
	}
	it := n.items[i]
	if t.size != nil {
		grow := t.size(v)
		if it.present {
			grow -= t.size(it.val)
		}
		if err := t.b.grow(t.name, grow); err != nil {
			return n, err
		}
	}
	if it.gen != t.log.gen {
		it = t.touch(n, i, it)
	}
	if !it.present {
		n.live++
		n.head = min(n.head, i)
	}
	it.val, it.present = v, true
	return n, nil
}

// touch returns the item to write to instead of it, linked in its place.
func (t *PaneTable[V]) touch(n *PaneKey[V], i int, it *paneItem[V]) *paneItem[V] {
	w := t.log.touch(it)
	n.items[i] = w
	return w
}

func (t *PaneTable[V]) add(n *PaneKey[V], key string, start int64, v V) (*PaneKey[V], error) {
	size := t.fixed
	if t.size != nil {
		size += t.size(v)
	}
	if n == nil {
		size += len(key) + entryOverhead
	}
	if err := t.b.admitKey(t.name, len(key), size); err != nil {
		return n, err
	}
	if n == nil {
		n = t.newKey(strings.Clone(key)) // the caller may use the key's bytes again
	}
	it := t.log.insert(paneID[V]{n, start})
	it.val, it.present = v, true
	n.insert(it)
	n.live++
	return n, nil
}

func (t *PaneTable[V]) newKey(key string) *PaneKey[V] {
	n := &PaneKey[V]{key: key, Next: NoTime, Fired: math.MinInt64}
	t.m[key] = n
	return n
}

// Remove removes a pane, if there is one.
func (t *PaneTable[V]) Remove(n *PaneKey[V], start int64) {
	i := n.find(start)
	if i < 0 || !n.items[i].present {
		return
	}
	it := n.items[i]
	if t.size != nil {
		t.b.bytes -= int64(t.size(it.val))
	}
	if it.gen != t.log.gen {
		it = t.touch(n, i, it)
	}
	t.log.removed(it)
	n.live--
	for n.head < len(n.items) && !n.items[n.head].present {
		n.head++
	}
}

func (t *PaneTable[V]) freeze(all bool) part {
	t.inFly = t.log.freeze(all)
	return &frozenTable[paneID[V], V]{segments: t.inFly, key: func(k *paneID[V]) string { return k.of.key },
		sub:   func(dst []byte, k *paneID[V]) ([]byte, error) { return appendSized(dst, paneStart, k.start) },
		value: func(dst []byte, it *paneItem[V]) ([]byte, error) { return appendSized(dst, t.codec, it.val) }}
}

var paneStart = codec.Int64()

func (t *PaneTable[V]) committed(quiet bool) {
	t.log.committed(t.inFly, quiet)
	t.inFly = segments[paneID[V], V]{}
}

func (t *PaneTable[V]) aborted() {
	t.log.aborted(t.inFly)
	t.inFly = segments[paneID[V], V]{}
}

func (t *PaneTable[V]) reserve(n int) {
	if len(t.m) == 0 {
		t.log.reserve(n)
	}
}

func (t *PaneTable[V]) eachKey(fn func(key string)) {
	for k, n := range t.m {
		if n.live > 0 {
			fn(k)
		}
	}
}

func (t *PaneTable[V]) clear() {
	n := t.m[t.b.key]
	for i := 0; n != nil && i < len(n.items); i++ {
		t.Remove(n, n.starts[i])
	}
}

// read returns the key's panes by their start.
func (t *PaneTable[V]) read() (any, bool) {
	n := t.m[t.b.key]
	if n == nil || n.live == 0 {
		return nil, false
	}
	m := make(map[int64]V, n.live)
	for _, it := range n.items {
		if it.present {
			m[it.key.start] = it.val
		}
	}
	return m, true
}

func (t *PaneTable[V]) restore(e *Entry, u *upcast) error {
	start, err := paneStart.Decode(e.MapKey)
	if err != nil {
		return fmt.Errorf("start of a pane: %w", err)
	}
	n := t.m[string(e.Key)]
	i := -1
	if n != nil {
		i = n.find(start)
	}
	if i >= 0 && t.size != nil {
		t.b.bytes -= int64(t.size(n.items[i].val))
	}
	if e.Deleted {
		if i >= 0 {
			it := n.items[i]
			n.live--
			t.unlink(it)
			t.log.release(it)
		}
		return nil
	}
	v, err := t.decode(e, u)
	if err != nil {
		return err
	}
	if t.size != nil {
		t.b.bytes += int64(t.size(v))
	}
	if i >= 0 {
		n.items[i].val = v
		return nil
	}
	if n == nil {
		n = t.newKey(t.b.arena.string(e.Key))
		t.b.bytes += int64(len(n.key) + entryOverhead)
	}
	it := t.log.insertRestored(paneID[V]{n, start})
	it.val = v
	n.insert(it)
	n.live++
	t.b.bytes += int64(t.fixed)
	return nil
}
