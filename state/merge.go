package state

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// Merge turns a chain of snapshot objects of one operator, in the order in which they were committed, into base objects of about
// maxObject bytes that restore the same state. The parallelism that wrote them may differ. It works on encoded bytes and needs no
// descriptors. Beside the objects it holds one key group and one block of each object in memory.
//
// A *FormatError says that an object is damaged, a *ForeignError that the objects belong to several operators, a
// *CompatibilityError that they disagree about a state.
func Merge(objects [][]byte, maxObject int) ([]EncodedObject, error) {
	if len(objects) == 0 {
		return nil, nil
	}
	m := merger{index: map[string]int{}}
	for i, o := range objects {
		if err := m.open(o); err != nil {
			return nil, fmt.Errorf("merging object %d of %d: %w", i+1, len(objects), err)
		}
	}
	w := newSectionWriter(&m.head, maxObject)
	for g := range m.head.KeyGroups {
		for i, c := range m.cursors {
			if err := c.group(g, m.put); err != nil {
				return nil, fmt.Errorf("merging object %d of %d: %w", i+1, len(objects), err)
			}
		}
		m.flush(w, g)
	}
	return w.close(), nil
}

type merger struct {
	head    Header
	cursors []*mergeCursor
	index   map[string]int // of an entry's identity in entries
	entries []mergeEntry
	arena   []byte // keys and values of the group
	ident   []byte
	names   arena
}

// mergeEntry is the last version of an entry; its encoded form lies in the arena.
type mergeEntry struct {
	state, from, to int
	deleted         bool
}

// open adds an object and unites its states with those of the others.
func (m *merger) open(object []byte) error {
	s, err := openSnapshot(object)
	if err != nil {
		return err
	}
	h := &m.head
	if len(m.cursors) == 0 {
		*h = Header{Tenant: s.Tenant, Job: s.Job, Operator: s.Operator, KeyGroups: s.KeyGroups, Base: true}
	}
	if s.Tenant != h.Tenant || s.Job != h.Job || s.Operator != h.Operator || s.KeyGroups != h.KeyGroups {
		return &ForeignError{whatSnapshot, fmt.Sprintf("job %s/%s, operator %s (%d key groups)", s.Tenant, s.Job, s.Operator, s.KeyGroups),
			fmt.Sprintf("job %s/%s, operator %s (%d key groups)", h.Tenant, h.Job, h.Operator, h.KeyGroups)}
	}
	h.Checkpoint = max(h.Checkpoint, s.Checkpoint)
	c := &mergeCursor{snapshot: s, state: make([]int, len(s.States))}
	var problems []Problem
	for i, info := range s.States {
		at := slices.IndexFunc(h.States, func(have StateInfo) bool { return have.Name == info.Name })
		if at < 0 {
			at = len(h.States)
			h.States = append(h.States, info)
		}
		problems = append(problems, checkCompatible([]StateInfo{info}, h.States[at:at+1])...)
		c.state[i] = at
	}
	if len(problems) > 0 {
		return &CompatibilityError{s.Operator, problems}
	}
	m.cursors = append(m.cursors, c)
	return nil
}

// put notes an entry; a later one with the same identity replaces it.
func (m *merger) put(c *mergeCursor, e *Entry) error {
	info := &c.States[e.State]
	state := c.state[e.State]
	from := len(m.arena)
	m.arena = appendEntry(m.arena, e, layoutOf(info.Kind))
	m.ident = append(m.ident[:0], byte(state), byte(state>>8))
	m.ident = append(binary.AppendUvarint(m.ident, uint64(len(e.Key))), e.Key...)
	m.ident = append(m.ident, e.MapKey...)
	me := mergeEntry{state, from, len(m.arena), e.Deleted}
	if i, ok := m.index[string(m.ident)]; ok {
		m.entries[i] = me
		return nil
	}
	m.index[m.names.string(m.ident)] = len(m.entries)
	m.entries = append(m.entries, me)
	return nil
}

// flush writes the group's entries, state by state, and forgets them.
func (m *merger) flush(w *sectionWriter, group int) {
	slices.SortStableFunc(m.entries, func(a, b mergeEntry) int { return a.state - b.state })
	for _, e := range m.entries {
		if e.deleted {
			continue // below a base there is nothing to delete
		}
		w.begin(group, e.state)
		w.raw = append(w.raw, m.arena[e.from:e.to]...)
		w.end()
	}
	clear(m.index)
	m.entries, m.arena = m.entries[:0], m.arena[:0]
}

// mergeCursor walks one object group by group.
type mergeCursor struct {
	*snapshot
	state []int // of the object's states in the merged header
	next  int   // block
	raw   []byte
	open  bool // raw is the block, read up to at
	at    blockScan
}

// group calls put for every entry of key group g. Groups are asked for in ascending order.
func (c *mergeCursor) group(g int, put func(*mergeCursor, *Entry) error) error {
	for ; c.next < len(c.blocks); c.next++ {
		b := &c.blocks[c.next]
		if int(b.first) > g {
			return nil
		}
		if !c.open {
			raw, err := c.block(c.next, c.raw)
			if err != nil {
				return err
			}
			c.raw, c.open = raw, true
			c.at = c.begin(c.next, raw)
		}
		if err := c.scan(&c.at, g, g, func(e *Entry) error { return put(c, e) }); err != nil {
			return err
		}
		if int(b.last) > g {
			return nil // the block goes on with the next group
		}
		c.open = false
	}
	return nil
}
