package state

// item is one entry of a state: what is encoded as one entry of a snapshot. An encoder in another goroutine reads key, val,
// present, gen and born of items that are in flight; the task does not write these until no encoder can be reading.
type item[K, V any] struct {
	key     K
	val     V
	gen     uint32 // generation whose dirty list has the item
	born    uint32 // generation in which it came to be
	pos     int32  // place in the owner's list or heap
	present bool   // false: a tombstone
	life    uint8
}

const (
	itemFree    uint8 = iota
	itemLive          // the current one of its key
	itemRetired       // replaced by a copy while in flight
)

const (
	restoredGen  = 1
	firstLiveGen = 2
	minSlab      = 8
	maxSlab      = 1024
	reapPerKey   = 2
	reapPerEnd   = 1024
	maxCarried   = 4
)

// changelog knows which items changed since the last committed checkpoint. A generation lasts from one freeze to the next, so
// freezing is handing over the dirty list and counting up.
type changelog[K, V any] struct {
	gen     uint32
	safe    uint32 // items up to this generation are read by no encoder
	dirty   []*item[K, V]
	carried [][]*item[K, V] // dirty lists of aborted checkpoints, oldest first
	spare   []*item[K, V]
	tombs   []*item[K, V] // removed, to be unlinked once the removal is committed, oldest first
	reaped  int           // of tombs
	retired []*item[K, V]
	free    []*item[K, V]
	slabs   [][]item[K, V]
	used    int // of the last slab
	unlink  func(*item[K, V])
}

func newChangelog[K, V any](unlink func(*item[K, V])) changelog[K, V] {
	return changelog[K, V]{gen: firstLiveGen, safe: restoredGen, unlink: unlink}
}

// insert makes a new item of this generation.
func (l *changelog[K, V]) insert(key K) *item[K, V] {
	it := l.alloc()
	*it = item[K, V]{key: key, gen: l.gen, born: l.gen, life: itemLive}
	l.dirty = append(l.dirty, it)
	return it
}

// insertRestored makes an item that is part of the committed state already.
func (l *changelog[K, V]) insertRestored(key K) *item[K, V] {
	it := l.alloc()
	*it = item[K, V]{key: key, gen: restoredGen, born: restoredGen, present: true, life: itemLive}
	return it
}

// touch returns the item to write to instead of it: itself, or a copy if an encoder may be reading it. The caller links the copy.
func (l *changelog[K, V]) touch(it *item[K, V]) *item[K, V] {
	if it.gen == l.gen {
		return it
	}
	if it.gen > l.safe {
		c := l.alloc()
		*c = *it
		it.life = itemRetired
		l.retired = append(l.retired, it)
		it = c
	}
	it.gen = l.gen
	l.dirty = append(l.dirty, it)
	return it
}

// removed notes that an item became a tombstone.
func (l *changelog[K, V]) removed(it *item[K, V]) {
	var zero V
	it.val, it.present = zero, false
	l.tombs = append(l.tombs, it)
}

// reap unlinks up to n tombstones whose removal is committed, oldest first. It must not run while the caller holds an item.
func (l *changelog[K, V]) reap(n int) {
	for ; n > 0 && l.reaped < len(l.tombs); n-- {
		it := l.tombs[l.reaped]
		// An item may have come back since, or may be another one by now: what counts is what it is.
		if it.life == itemLive && !it.present {
			if it.gen > l.safe {
				break
			}
			l.unlink(it)
			l.release(it)
		}
		l.tombs[l.reaped] = nil
		l.reaped++
	}
	if l.reaped == len(l.tombs) || l.reaped > maxSlab && 2*l.reaped > len(l.tombs) {
		l.tombs = l.tombs[:copy(l.tombs, l.tombs[l.reaped:])]
		l.reaped = 0
	}
}

func (l *changelog[K, V]) release(it *item[K, V]) {
	*it = item[K, V]{}
	l.free = append(l.free, it)
}

func (l *changelog[K, V]) alloc() *item[K, V] {
	if n := len(l.free); n > 0 {
		it := l.free[n-1]
		l.free = l.free[:n-1]
		return it
	}
	if len(l.slabs) == 0 || l.used == len(l.slabs[len(l.slabs)-1]) {
		size := minSlab
		if n := len(l.slabs); n > 0 {
			size = min(2*len(l.slabs[n-1]), maxSlab)
		}
		l.slabs = append(l.slabs, make([]item[K, V], size))
		l.used = 0
	}
	it := &l.slabs[len(l.slabs)-1][l.used]
	l.used++
	return it
}

// reserve makes room for n items that are about to be restored.
func (l *changelog[K, V]) reserve(n int) {
	if n > minSlab {
		l.slabs = append(l.slabs, make([]item[K, V], n))
		l.used = 0
	}
}

// freeze hands over what changed since the last committed checkpoint; with all set, everything there is.
func (l *changelog[K, V]) freeze(all bool) segments[K, V] {
	var s segments[K, V]
	if all {
		s.lists = [][]*item[K, V]{l.everything()}
		l.safe = 0
		l.dirty = l.dirty[:0]
	} else {
		s.lists = l.carried
		if len(l.dirty) > 0 {
			s.lists = append(s.lists, l.dirty)
			s.newest = l.dirty
			l.dirty, l.spare = l.spare, nil
		}
	}
	l.carried = nil
	l.gen++
	return s
}

// everything lists all present items in the order of their slabs, which is the same whenever the history is.
func (l *changelog[K, V]) everything() []*item[K, V] {
	var out []*item[K, V]
	for i := range l.slabs {
		for j := range l.slabs[i] {
			if it := &l.slabs[i][j]; it.life == itemLive && it.present {
				out = append(out, it)
			}
		}
	}
	return out
}

// committed drops what was frozen. quiet says that no encoder is reading anything that was ever frozen.
func (l *changelog[K, V]) committed(s segments[K, V], quiet bool) {
	if !quiet {
		return
	}
	l.safe = l.gen - 1
	for _, it := range l.retired {
		l.release(it)
	}
	l.retired = l.retired[:0]
	if l.spare == nil && s.newest != nil {
		l.spare = s.newest[:0] // what it points to lies in slabs that stay
	}
	l.reap(reapPerEnd)
}

// aborted puts what was frozen back under the newer changes.
func (l *changelog[K, V]) aborted(s segments[K, V]) {
	l.carried = s.lists
	if len(l.carried) <= maxCarried {
		return
	}
	// Many checkpoints failed in a row: keep only the items that no later one replaced.
	var live []*item[K, V]
	for _, list := range l.carried {
		for _, it := range list {
			if it.life == itemLive {
				live = append(live, it)
			}
		}
	}
	l.carried = [][]*item[K, V]{live}
}

// segments are dirty lists, oldest first. An item of a later list replaces one of an earlier list that has the same key.
type segments[K, V any] struct {
	lists  [][]*item[K, V]
	newest []*item[K, V] // the list that may be used again after the commit
}

func (s *segments[K, V]) len() int {
	n := 0
	for _, l := range s.lists {
		n += len(l)
	}
	return n
}
