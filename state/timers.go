package state

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"
	"unsafe"
)

// Domain says which time a timer waits for.
type Domain uint8

// The domains of timers.
const (
	ProcessingTime Domain = iota
	EventTime
	domains
)

func (d Domain) String() string {
	switch d {
	case ProcessingTime:
		return "processing time"
	case EventTime:
		return "event time"
	}
	return fmt.Sprintf("domain %d", uint8(d))
}

// timersName is the state under which timers are in snapshots. No descriptor can have it.
const timersName = "_timers"

type timerKey struct {
	key    string
	at     int64
	domain Domain
}

// Timers are an operator's timers: keyed state, in order of their time. There is at most one for a domain, key and time.
type Timers struct {
	b     *Backend
	m     map[timerKey]*timerItem
	heaps [domains][]*timerItem
	log   changelog[timerKey, struct{}]
	inFly segments[timerKey, struct{}]
}

type timerItem = item[timerKey, struct{}]

const timerFixed = int(unsafe.Sizeof(timerItem{})) + entryOverhead

func newTimers(b *Backend) *Timers {
	t := &Timers{b: b, m: make(map[timerKey]*timerItem)}
	t.log = newChangelog(func(it *timerItem) {
		delete(t.m, it.key)
		t.b.bytes -= int64(timerFixed + len(it.key.key))
	})
	return t
}

// Set sets a timer for key at a time in unix nanoseconds. One that is set already stays.
func (t *Timers) Set(domain Domain, at int64, key string) error {
	if domain >= domains {
		return fmt.Errorf("setting a timer: unknown %s", domain)
	}
	t.log.reap(reapPerKey)
	k := timerKey{key, at, domain}
	it := t.m[k]
	if it != nil && it.present {
		return nil
	}
	if it == nil {
		if err := t.b.admitKey(timersName, len(key), timerFixed+len(key)); err != nil {
			return err
		}
		k.key = strings.Clone(key)
		it = t.log.insert(k)
		t.m[k] = it
	} else {
		it = t.touch(it)
	}
	it.present = true
	t.push(it)
	return nil
}

// Delete removes a timer, if it is set.
func (t *Timers) Delete(domain Domain, at int64, key string) {
	if it := t.m[timerKey{key, at, domain}]; it != nil && it.present {
		t.remove(it)
	}
}

// Next returns the time of the earliest timer, and whether there is one.
func (t *Timers) Next(domain Domain) (at int64, ok bool) {
	if h := t.heaps[domain]; len(h) > 0 {
		return h[0].key.at, true
	}
	return 0, false
}

// PopDue removes the earliest timer with a time of now or before and returns it. Timers of one time come in the order of their keys.
func (t *Timers) PopDue(domain Domain, now int64) (key string, at int64, ok bool) {
	h := t.heaps[domain]
	if len(h) == 0 || h[0].key.at > now {
		return "", 0, false
	}
	k := h[0].key
	t.remove(h[0])
	return k.key, k.at, true
}

// Len returns the number of timers that are set.
func (t *Timers) Len(domain Domain) int { return len(t.heaps[domain]) }

func (t *Timers) touch(it *timerItem) *timerItem {
	w := t.log.touch(it)
	if w != it {
		t.m[w.key] = w
	}
	return w
}

func (t *Timers) remove(it *timerItem) {
	t.pull(it)
	t.log.removed(t.touch(it))
}

func (t *Timers) freeze(all bool) part {
	t.inFly = t.log.freeze(all)
	return &frozenTable[timerKey, struct{}]{segments: t.inFly, key: func(k *timerKey) string { return k.key },
		sub: func(dst []byte, k *timerKey) ([]byte, error) { return appendTimerKey(dst, k), nil }}
}

func (t *Timers) committed(quiet bool) {
	t.log.committed(t.inFly, quiet)
	t.inFly = segments[timerKey, struct{}]{}
}

func (t *Timers) aborted() {
	t.log.aborted(t.inFly)
	t.inFly = segments[timerKey, struct{}]{}
}

func (t *Timers) reserve(n int) {
	if len(t.m) == 0 {
		t.m = make(map[timerKey]*timerItem, n)
		t.log.reserve(n)
	}
}

func (t *Timers) eachKey(fn func(key string)) {
	for k, it := range t.m {
		if it.present {
			fn(k.key)
		}
	}
}

// clear removes the current key's timers, in a time that grows with the number of all.
func (t *Timers) clear() {
	for k, it := range t.m {
		if it.present && k.key == t.b.key {
			t.remove(it)
		}
	}
}

func (t *Timers) read() (any, bool) {
	var list []TimerInfo
	for k, it := range t.m {
		if it.present && k.key == t.b.key {
			list = append(list, TimerInfo{Domain: k.domain.String(), At: time.Unix(0, k.at).UTC()})
		}
	}
	slices.SortFunc(list, func(a, b TimerInfo) int {
		return cmp.Or(strings.Compare(a.Domain, b.Domain), a.At.Compare(b.At))
	})
	return list, len(list) > 0
}

func (t *Timers) restore(e *Entry, _ *upcast) error {
	k, err := decodeTimerKey(e)
	if err != nil {
		return err
	}
	it := t.m[k]
	switch {
	case e.Deleted && it != nil:
		t.pull(it)
		t.log.unlink(it)
		t.log.release(it)
	case !e.Deleted && it == nil:
		k.key = t.b.arena.string(e.Key)
		it = t.log.insertRestored(k)
		t.m[k] = it
		t.push(it)
		t.b.bytes += int64(timerFixed + len(k.key))
	}
	return nil
}

// timer keys: the domain, then the time so that bytes sort as times do.
const timerKeyLen = 9

func appendTimerKey(dst []byte, k *timerKey) []byte {
	dst = append(dst, timerKeyLen, byte(k.domain))
	return binary.BigEndian.AppendUint64(dst, uint64(k.at)^1<<63)
}

func decodeTimerKey(e *Entry) (timerKey, error) {
	if len(e.MapKey) != timerKeyLen || e.MapKey[0] >= byte(domains) {
		return timerKey{}, formatErrorf(whatSnapshot, "a timer has a key of %d bytes", len(e.MapKey))
	}
	return timerKey{string(e.Key), int64(binary.BigEndian.Uint64(e.MapKey[1:]) ^ 1<<63), Domain(e.MapKey[0])}, nil
}

func timerLess(a, b *timerItem) bool {
	return a.key.at < b.key.at || a.key.at == b.key.at && a.key.key < b.key.key
}

// push and pull keep a binary heap in which each item knows its place. A copy of an item in flight is only ever made for an item
// outside the heap: an item is pushed after and pulled before it is touched.
func (t *Timers) push(it *timerItem) {
	h := &t.heaps[it.key.domain]
	*h = append(*h, it)
	t.up(*h, len(*h)-1)
}

func (t *Timers) pull(it *timerItem) {
	h := t.heaps[it.key.domain]
	i, last := int(it.pos), len(h)-1
	h[i] = h[last]
	h[last] = nil
	h = h[:last]
	t.heaps[it.key.domain] = h
	if i < last {
		t.down(h, t.up(h, i))
	}
}

func (t *Timers) up(h []*timerItem, i int) int {
	it := h[i]
	for i > 0 {
		p := (i - 1) / 2
		if !timerLess(it, h[p]) {
			break
		}
		h[i] = h[p]
		h[i].pos = int32(i)
		i = p
	}
	h[i] = it
	it.pos = int32(i)
	return i
}

func (t *Timers) down(h []*timerItem, i int) {
	it := h[i]
	for {
		c := 2*i + 1
		if c >= len(h) {
			break
		}
		if c+1 < len(h) && timerLess(h[c+1], h[c]) {
			c++
		}
		if !timerLess(h[c], it) {
			break
		}
		h[i] = h[c]
		h[i].pos = int32(i)
		i = c
	}
	h[i] = it
	it.pos = int32(i)
}
