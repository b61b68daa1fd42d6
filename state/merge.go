package state

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// Identity says whose state a snapshot object holds.
type Identity struct{ Tenant, Job, Operator string }

// MergeSpec says what Rewrite makes of a chain.
type MergeSpec struct {
	As        Identity // of the new objects; fields that are empty stay as they are
	Drop      []string // states that are left out; names that the chain does not have are ignored
	MaxObject int      // bytes, about; 0: one object
	// Now is the time, unix nanoseconds, by which entries of states that expire by processing time are left out. 0: none are.
	Now int64
}

// Merge turns a chain of snapshot objects of one operator, in the order in which they were committed, into base objects of about
// maxObject bytes that restore the same state. The parallelism that wrote them may differ. It works on encoded bytes and needs no
// descriptors: a chain with several schema versions of a state stays one. Beside the objects it holds one key group and one block
// of each object in memory.
//
// A *FormatError says that an object is damaged, a *ForeignError that the objects belong to several operators, a
// *CompatibilityError that they disagree about a state.
func Merge(objects [][]byte, maxObject int) ([]EncodedObject, error) {
	return Rewrite(objects, MergeSpec{MaxObject: maxObject})
}

// MergeAs is Merge for another owner: the new objects are those of id. It copies what a fork, a restore or an import takes over.
func MergeAs(objects [][]byte, id Identity, maxObject int) ([]EncodedObject, error) {
	return Rewrite(objects, MergeSpec{As: id, MaxObject: maxObject})
}

// Rewrite is Merge with a choice of owner and states.
func Rewrite(objects [][]byte, spec MergeSpec) ([]EncodedObject, error) {
	m, err := openChain(objects, spec.Drop)
	if err != nil || m == nil {
		return nil, err
	}
	m.now = spec.Now
	for _, n := range []struct {
		has *string
		is  string
	}{{&m.head.Tenant, spec.As.Tenant}, {&m.head.Job, spec.As.Job}, {&m.head.Operator, spec.As.Operator}} {
		if len(n.is) > maxIdentity {
			return nil, fmt.Errorf("merging %d objects: the name %.80q is longer than %d bytes", len(objects), n.is, maxIdentity)
		}
		if n.is != "" {
			*n.has = n.is
		}
	}
	if n := len(m.head.appendBody(nil)); n > maxHeader {
		return nil, formatErrorf(whatSnapshot, "the chain's states need a header of %d bytes, at most %d are allowed", n, maxHeader)
	}
	w := newSectionWriter(&m.head, spec.MaxObject)
	err = m.each(func(group int, entries []mergeEntry) {
		for _, e := range entries {
			w.begin(group, e.state)
			w.raw = append(w.raw, m.arena[e.from:e.to]...)
			w.end()
		}
	})
	if err != nil {
		return nil, err
	}
	return w.close(), nil
}

// openChain checks the objects' headers and unites their states; nil if there are no objects.
func openChain(objects [][]byte, drop []string) (*merger, error) {
	if len(objects) == 0 {
		return nil, nil
	}
	m := &merger{index: map[string]int{}, drop: drop}
	for i, o := range objects {
		if err := m.open(o); err != nil {
			return nil, fmt.Errorf("merging object %d of %d: %w", i+1, len(objects), err)
		}
	}
	return m, nil
}

type merger struct {
	head    Header
	drop    []string
	now     int64
	names   []string // of states, one number each
	named   []int    // by the header's states
	cursors []*mergeCursor
	index   map[string]int // of an entry's identity in entries
	entries []mergeEntry
	arena   []byte // keys and values of the group
	ident   []byte
	strings arena
}

// mergeEntry is the last version of an entry; its encoded form lies in the arena.
type mergeEntry struct {
	state, from, to int
	deleted         bool
}

// each calls fn for every key group with the entries that are left of the chain, state by state. fn must not keep them.
func (m *merger) each(fn func(group int, entries []mergeEntry)) error {
	for g := range m.head.KeyGroups {
		for i, c := range m.cursors {
			if err := c.group(g, m.put); err != nil {
				return fmt.Errorf("merging object %d of %d: %w", i+1, len(m.cursors), err)
			}
		}
		slices.SortStableFunc(m.entries, func(a, b mergeEntry) int { return a.state - b.state })
		// Below a base there is nothing to delete.
		fn(g, slices.DeleteFunc(m.entries, func(e mergeEntry) bool { return e.deleted }))
		clear(m.index)
		m.entries, m.arena = m.entries[:0], m.arena[:0]
	}
	return nil
}

// open adds an object and unites its states with those of the others. States of one name and another schema version are listed
// side by side: each entry stays in the version it was written in.
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
		if slices.Contains(m.drop, info.Name) {
			c.state[i] = -1
			continue
		}
		at := slices.Index(h.States, info)
		if at < 0 {
			problems = append(problems, m.disagrees(info)...)
			at = len(h.States)
			h.States = append(h.States, info)
			m.named = append(m.named, m.nameOf(info.Name))
		}
		c.state[i] = at
	}
	if len(problems) > 0 {
		return &CompatibilityError{s.Operator, problems}
	}
	if len(h.States) > maxStates {
		return formatErrorf(whatSnapshot, "the chain has more than %d states", maxStates)
	}
	m.cursors = append(m.cursors, c)
	return nil
}

// disagrees compares a state with those of its name that are known already.
func (m *merger) disagrees(info StateInfo) []Problem {
	for _, have := range m.head.States {
		if have.Name == info.Name && (have.Kind != info.Kind || have.Version == info.Version) {
			return checkState(info, &spec{info: have})
		}
	}
	return nil
}

// over reports whether an entry has expired.
func (m *merger) over(e *Entry) bool {
	return m.now != 0 && e.Expiry == ExpiryProcessing && e.Expires != noTime && e.Expires <= m.now
}

func (m *merger) nameOf(state string) int {
	at := slices.Index(m.names, state)
	if at < 0 {
		at = len(m.names)
		m.names = append(m.names, state)
	}
	return at
}

// put notes an entry; a later one with the same identity replaces it.
func (m *merger) put(c *mergeCursor, e *Entry) error {
	state := c.state[e.State]
	if state < 0 {
		return nil
	}
	from, name := len(m.arena), m.named[state]
	m.arena = appendEntry(m.arena, e, layoutOf(c.States[e.State]))
	m.ident = append(m.ident[:0], byte(name), byte(name>>8))
	m.ident = append(binary.AppendUvarint(m.ident, uint64(len(e.Key))), e.Key...)
	m.ident = append(m.ident, e.MapKey...)
	me := mergeEntry{state, from, len(m.arena), e.Deleted || m.over(e)}
	if i, ok := m.index[string(m.ident)]; ok {
		m.entries[i] = me
		return nil
	}
	m.index[m.strings.string(m.ident)] = len(m.entries)
	m.entries = append(m.entries, me)
	return nil
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
