package processor

import "github.com/weirstream/weir/state"

// schedule knows which keys have something to do at which time. It is made anew from the panes when a task starts: nothing of it
// is in a snapshot. A key is in the bucket of its Next; it may be in others too, which pass over it.
type schedule[V any] struct {
	times   []int64 // a binary heap of the buckets' times
	buckets map[int64]*dueKeys[V]
	last    *dueKeys[V] // the one last added to
	free    []*dueKeys[V]
}

// dueKeys are the keys of one time, in the order in which they came.
type dueKeys[V any] struct {
	at   int64
	keys []*state.PaneKey[V]
	done int // of keys
}

// add makes at the time of the key, unless it is scheduled for an earlier one.
func (s *schedule[V]) add(n *state.PaneKey[V], at int64) {
	if at >= n.Next {
		return
	}
	n.Next = at
	b := s.last
	if b == nil || b.at != at {
		if b = s.buckets[at]; b == nil {
			b = s.bucket(at)
		}
		s.last = b
	}
	b.keys = append(b.keys, n)
}

func (s *schedule[V]) bucket(at int64) *dueKeys[V] {
	var b *dueKeys[V]
	if n := len(s.free); n > 0 {
		b = s.free[n-1]
		s.free = s.free[:n-1]
	} else {
		b = &dueKeys[V]{}
	}
	b.at = at
	if s.buckets == nil {
		s.buckets = make(map[int64]*dueKeys[V])
	}
	s.buckets[at] = b
	s.push(at)
	return b
}

// next returns the first key whose time is at or before done, of which it takes it out. n is nil if the key does not wait for
// this time any more.
func (s *schedule[V]) next(done int64) (n *state.PaneKey[V], at int64, ok bool) {
	for len(s.times) > 0 && s.times[0] <= done {
		b := s.buckets[s.times[0]]
		if b.done < len(b.keys) {
			n := b.keys[b.done]
			b.keys[b.done] = nil
			b.done++
			if n.Next != b.at {
				return nil, b.at, true
			}
			n.Next = state.NoTime
			return n, b.at, true
		}
		s.drop(b)
	}
	return nil, 0, false
}

// closeDue calls what closes a key's windows for every key that waits for a time that the watermark has passed, budget of them at
// most, and returns how many.
func (s *schedule[V]) closeDue(t *task, wm int64, budget int, closeKey func(n *state.PaneKey[V], at int64)) (fired int) {
	done := satAdd(wm, 1)
	for fired < budget && t.err == nil {
		n, at, ok := s.next(done)
		if !ok {
			break
		}
		fired++
		if n != nil {
			closeKey(n, at)
		}
	}
	return fired
}

func (s *schedule[V]) drop(b *dueKeys[V]) {
	delete(s.buckets, b.at)
	s.pop()
	if s.last == b {
		s.last = nil
	}
	// The buckets of the next windows will be about as large; sessions have many with one key.
	if len(s.free) < 8 && cap(b.keys) <= 1<<16 || len(s.free) < 4096 && cap(b.keys) <= 8 {
		b.keys, b.done = b.keys[:0], 0
		s.free = append(s.free, b)
	}
}

func (s *schedule[V]) push(at int64) {
	h := append(s.times, at)
	i := len(h) - 1
	for i > 0 && h[(i-1)/2] > at {
		h[i] = h[(i-1)/2]
		i = (i - 1) / 2
	}
	h[i] = at
	s.times = h
}

func (s *schedule[V]) pop() {
	h := s.times
	last := len(h) - 1
	at := h[last]
	h = h[:last]
	i := 0
	for c := 1; c < last; c = 2*i + 1 {
		if c+1 < last && h[c+1] < h[c] {
			c++
		}
		if h[c] >= at {
			break
		}
		h[i] = h[c]
		i = c
	}
	if last > 0 {
		h[i] = at
	}
	s.times = h
}
