package state

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Header is what a snapshot object says of itself.
type Header struct {
	Tenant, Job, Operator string
	Checkpoint            uint64
	KeyGroups             int
	Base                  bool
	States                []StateInfo
	Counts                []uint64 // entries of each state in this object
}

// Entry is one entry of a snapshot object. Its bytes are valid during the call that got it.
type Entry struct {
	State   int // index into Header.States
	Group   int
	Key     []byte
	MapKey  []byte // of map states the encoded key of the entry; of timers domain and time
	Value   []byte
	Deleted bool
	// Expiry and Expires say when an entry expires, math.MinInt64: its time has not begun. Of states with an expiry.
	Expiry  Expiry
	Expires int64
}

func (h *Header) appendBody(dst []byte) []byte {
	for _, s := range []string{h.Tenant, h.Job, h.Operator} {
		dst = appendString(dst, s)
	}
	dst = binary.AppendUvarint(dst, h.Checkpoint)
	dst = binary.AppendUvarint(dst, uint64(h.KeyGroups))
	dst = binary.AppendUvarint(dst, uint64(len(h.States)))
	for _, s := range h.States {
		dst = appendString(dst, s.Name)
		dst = appendString(dst, s.Kind)
		dst = appendString(dst, s.Codec)
		dst = binary.AppendUvarint(dst, uint64(s.Version))
		if h.format() >= formatExpiry {
			dst = binary.AppendUvarint(dst, uint64(s.Expiry))
		}
	}
	return dst
}

// format is the version that the snapshot needs: the oldest one, so that older programs read what they can.
func (h *Header) format() uint16 {
	for _, s := range h.States {
		if s.Expiry != NoExpiry {
			return formatExpiry
		}
	}
	return formatFirst
}

// snapshot is a checked snapshot object.
type snapshot struct {
	*container
	Header
}

func openSnapshot(data []byte) (*snapshot, error) {
	c, err := openContainer(whatSnapshot, magicSnapshot, data)
	if err != nil {
		return nil, err
	}
	if c.kind != kindBase && c.kind != kindDelta {
		return nil, formatErrorf(whatSnapshot, "unknown kind %d", c.kind)
	}
	s := &snapshot{container: c}
	s.Base = c.kind == kindBase
	r := reader{b: c.body}
	s.Tenant, s.Job, s.Operator = r.string(), r.string(), r.string()
	s.Checkpoint = r.uvarint()
	groups := r.uvarint()
	n := r.count(4)
	if r.bad || groups < 1 || groups > MaxKeyGroups || n > maxStates {
		return nil, formatErrorf(whatSnapshot, "the header is malformed")
	}
	s.KeyGroups = int(groups)
	if last := len(s.blocks) - 1; last >= 0 && int(s.blocks[last].last) >= s.KeyGroups {
		return nil, formatErrorf(whatSnapshot, "block %d has key groups that do not exist", last)
	}
	s.States = make([]StateInfo, n)
	for i := range s.States {
		info := StateInfo{Name: r.string(), Kind: r.string(), Codec: r.string()}
		version := r.uvarint()
		if version > math.MaxInt32 || layoutOf(info) == 0 {
			return nil, formatErrorf(whatSnapshot, "the header describes state %d in a way that is malformed", i)
		}
		if c.version >= formatExpiry {
			by := r.uvarint()
			if by >= uint64(expiries) || by > 0 && layoutOf(info)&hasValue == 0 {
				return nil, formatErrorf(whatSnapshot, "the header describes state %d in a way that is malformed", i)
			}
			info.Expiry = Expiry(by)
		}
		info.Version = int(version)
		s.States[i] = info
	}
	t := reader{b: c.trailer}
	s.Counts = make([]uint64, n)
	for i := range s.Counts {
		s.Counts[i] = t.uvarint()
	}
	if r.bad || t.bad || len(r.b) > 0 || len(t.b) > 0 {
		return nil, formatErrorf(whatSnapshot, "the header or the counts are malformed")
	}
	return s, nil
}

// layout says which fields the entries of a kind have beside the key.
type layout uint8

const (
	hasValue layout = 1 << iota
	hasSub
	hasExpiry
)

func layoutOf(info StateInfo) layout {
	expiry := layout(0)
	if info.Expiry != NoExpiry {
		expiry = hasExpiry
	}
	switch info.Kind {
	case KindValue, KindList, KindReducing, KindAggregating:
		return hasValue | expiry
	case KindMap:
		return hasValue | hasSub | expiry
	case KindTimers:
		return hasSub
	}
	return 0
}

// blockScan is how far a block has been read.
type blockScan struct {
	block int
	r     reader
	left  uint32 // entries
	group uint64
}

func (s *snapshot) begin(block int, raw []byte) blockScan {
	b := &s.blocks[block]
	return blockScan{block: block, r: reader{b: raw}, left: b.entries, group: uint64(b.first)}
}

// scan goes on to the end of key group last and calls fn for the entries of groups from first on.
func (s *snapshot) scan(b *blockScan, first, last int, fn func(*Entry) error) error {
	var e Entry
	for len(b.r.b) > 0 {
		r := b.r
		g, state := r.uvarint(), r.uvarint()
		n, size := r.uint32(), r.uint32()
		section := reader{b: r.take(uint64(size))}
		if r.bad || g < b.group || g > uint64(s.blocks[b.block].last) || state >= uint64(len(s.States)) || n > b.left {
			return formatErrorf(s.what, "block %d has a malformed section", b.block)
		}
		if int(g) > last {
			return nil
		}
		b.r, b.group = r, g
		b.left -= n
		if int(g) < first {
			continue
		}
		e.Group, e.State = int(g), int(state)
		l := layoutOf(s.States[state])
		e.Expiry = s.States[state].Expiry
		for ; n > 0; n-- {
			section.entry(&e, l)
			if section.bad {
				return formatErrorf(s.what, "block %d has a malformed entry of state %q", b.block, s.States[state].Name)
			}
			if err := fn(&e); err != nil {
				return err
			}
		}
		if len(section.b) > 0 {
			return formatErrorf(s.what, "block %d has %d bytes behind the entries of state %q", b.block, len(section.b), s.States[state].Name)
		}
	}
	if b.left != 0 {
		return formatErrorf(s.what, "block %d has fewer entries than the index says", b.block)
	}
	return nil
}

func (r *reader) entry(e *Entry, l layout) {
	k := r.uvarint()
	e.Deleted = k&1 != 0
	e.Key = r.take(k >> 1)
	e.MapKey, e.Value = nil, nil
	if l&hasSub != 0 {
		e.MapKey = r.bytes()
	}
	if l&hasExpiry != 0 && !e.Deleted {
		e.Expires = r.varint()
	}
	if l&hasValue != 0 && !e.Deleted {
		e.Value = r.bytes()
	}
}

// Scan calls fn for every entry of a snapshot object, in the order of key groups, and returns the object's header. A *FormatError
// says that the bytes are not a whole snapshot object.
func Scan(object []byte, fn func(h *Header, e *Entry) error) (Header, error) {
	s, err := openSnapshot(object)
	if err != nil {
		return Header{}, err
	}
	var buf []byte
	for i := range s.blocks {
		if buf, err = s.block(i, buf); err != nil {
			return s.Header, err
		}
		b := s.begin(i, buf)
		if err := s.scan(&b, 0, s.KeyGroups, func(e *Entry) error { return fn(&s.Header, e) }); err != nil {
			return s.Header, err
		}
	}
	return s.Header, nil
}

// ReadHeader reads and checks a snapshot object's header, index and footer, but not its blocks.
func ReadHeader(object []byte) (Header, error) {
	s, err := openSnapshot(object)
	if err != nil {
		return Header{}, err
	}
	return s.Header, nil
}

// sectionWriter cuts entries into sections and blocks. Entries come in the order of their groups.
type sectionWriter struct {
	*containerWriter
	raw         []byte
	entries     int // of the block
	first, last int
	section     int // where the current section's counters are; 0: none
	group       int
	state       int
	inSection   int
	counts      []uint64
}

func newSectionWriter(h *Header, maxObject int) *sectionWriter {
	kind := kindDelta
	if h.Base {
		kind = kindBase
	}
	w := &sectionWriter{containerWriter: newContainerWriter(magicSnapshot, h.format(), kind, h.appendBody(nil), maxObject),
		counts: make([]uint64, len(h.States))}
	w.trailer = func(dst []byte) []byte {
		for i, n := range w.counts {
			dst = binary.AppendUvarint(dst, n)
			w.counts[i] = 0
		}
		return dst
	}
	return w
}

// begin prepares for an entry of a group and state; the caller appends it to w.raw and calls end.
func (w *sectionWriter) begin(group, state int) {
	if w.section > 0 && w.group == group && w.state == state {
		return
	}
	w.closeSection()
	if len(w.raw) == 0 {
		w.first = group
	}
	w.group, w.state, w.last = group, state, group
	w.raw = binary.AppendUvarint(w.raw, uint64(group))
	w.raw = binary.AppendUvarint(w.raw, uint64(state))
	w.raw = append(w.raw, 0, 0, 0, 0, 0, 0, 0, 0)
	w.section = len(w.raw)
}

func (w *sectionWriter) end() {
	w.inSection++
	w.entries++
	w.counts[w.state]++
	if len(w.raw) >= blockTarget {
		w.closeBlock()
	}
}

func (w *sectionWriter) closeSection() {
	if w.section > 0 {
		binary.LittleEndian.PutUint32(w.raw[w.section-8:], uint32(w.inSection))
		binary.LittleEndian.PutUint32(w.raw[w.section-4:], uint32(len(w.raw)-w.section))
	}
	w.section, w.inSection = 0, 0
}

func (w *sectionWriter) closeBlock() {
	w.closeSection()
	if w.entries > 0 {
		w.add(w.raw, w.entries, w.first, w.last)
	}
	w.raw, w.entries = w.raw[:0], 0
}

func (w *sectionWriter) close() []EncodedObject {
	w.closeBlock()
	w.finish()
	return w.out
}

// encode writes the parts group by group.
func (f *Frozen) encode(maxObject int) ([]EncodedObject, error) {
	h := Header{Tenant: f.cfg.Tenant, Job: f.cfg.Job, Operator: f.cfg.Operator, Checkpoint: f.checkpoint,
		KeyGroups: f.cfg.KeyGroups, Base: f.base, States: f.infos}
	w := newSectionWriter(&h, maxObject)
	for _, p := range f.parts {
		p.sort(h.KeyGroups, f.base)
		defer p.done()
	}
	for g := range h.KeyGroups {
		for i, p := range f.parts {
			for n := range p.count(g) {
				w.begin(g, i)
				at := len(w.raw)
				raw, err := p.write(w.raw, g, n)
				if err == nil && len(raw)-at > MaxEntryBytes {
					err = fmt.Errorf("it has %d bytes, at most %d are allowed: split it, for example into a map state", len(raw)-at, MaxEntryBytes)
				}
				if err != nil {
					return nil, fmt.Errorf("encoding an entry of state %q of operator %s: %w", f.infos[i].Name, f.cfg.Operator, err)
				}
				w.raw = raw
				w.end()
				f.written.Add(1)
			}
		}
	}
	return w.close(), nil
}

// frozenTable is one state's dirty lists with what is needed to encode them.
type frozenTable[K comparable, V any] struct {
	segments[K, V]
	key   func(*K) string
	sub   func(dst []byte, k *K) ([]byte, error)           // nil: entries have none
	value func(dst []byte, it *item[K, V]) ([]byte, error) // nil: entries have none
	skip  func(it *item[K, V]) bool                        // what a base need not have; nil: nothing

	order  []*item[K, V] // by group
	starts []int         // of each group in order, and the end
}

func (t *frozenTable[K, V]) sort(groups int, base bool) {
	items := make([]*item[K, V], 0, t.len())
	var seen map[K]struct{}
	if len(t.lists) > 1 {
		seen = make(map[K]struct{}, t.len())
	}
	for i := len(t.lists) - 1; i >= 0; i-- {
		for _, it := range t.lists[i] {
			if seen != nil {
				if _, newer := seen[it.key]; newer {
					continue
				}
				seen[it.key] = struct{}{}
			}
			// What came and went between two checkpoints was never in one.
			if t.skip != nil && base && it.present && t.skip(it) {
				continue
			}
			if it.present || !base && it.born != it.gen {
				items = append(items, it)
			}
		}
	}
	group := make([]uint16, len(items))
	t.starts = make([]int, groups+1)
	for i, it := range items {
		g := KeyGroup(t.key(&it.key), groups)
		group[i] = uint16(g)
		t.starts[g+1]++
	}
	for g := range groups {
		t.starts[g+1] += t.starts[g]
	}
	next := append([]int(nil), t.starts[:groups]...)
	t.order = make([]*item[K, V], len(items))
	for i, it := range items {
		t.order[next[group[i]]] = it
		next[group[i]]++
	}
}

func (t *frozenTable[K, V]) count(group int) int { return t.starts[group+1] - t.starts[group] }

func (t *frozenTable[K, V]) write(dst []byte, group, i int) ([]byte, error) {
	it := t.order[t.starts[group]+i]
	key := t.key(&it.key)
	head := uint64(len(key)) << 1
	if !it.present {
		head |= 1
	}
	dst = append(binary.AppendUvarint(dst, head), key...)
	var err error
	if t.sub != nil {
		if dst, err = t.sub(dst, &it.key); err != nil {
			return nil, err
		}
	}
	if t.value != nil && it.present {
		return t.value(dst, it)
	}
	return dst, nil
}

func (t *frozenTable[K, V]) done() { t.order, t.starts = nil, nil }

// appendEntry writes an entry as frozenTable.write does.
func appendEntry(dst []byte, e *Entry, l layout) []byte {
	head := uint64(len(e.Key)) << 1
	if e.Deleted {
		head |= 1
	}
	dst = append(binary.AppendUvarint(dst, head), e.Key...)
	if l&hasSub != 0 {
		dst = append(binary.AppendUvarint(dst, uint64(len(e.MapKey))), e.MapKey...)
	}
	if l&hasExpiry != 0 && !e.Deleted {
		dst = binary.AppendVarint(dst, e.Expires)
	}
	if l&hasValue != 0 && !e.Deleted {
		dst = append(binary.AppendUvarint(dst, uint64(len(e.Value))), e.Value...)
	}
	return dst
}
