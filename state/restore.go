package state

import (
	"fmt"
	"slices"
	"unsafe"
)

// Restore applies a chain of snapshot objects of the operator, in the order in which they were committed, to an empty backend. It
// takes the key groups of the backend's subtask only; which parallelism wrote the objects does not matter. The objects' bytes
// are not kept. After an error the backend is not to be used.
//
// A *FormatError says that an object is damaged, a *ForeignError that it belongs to another tenant, job or operator, a
// *CompatibilityError that the operator's states differ from the snapshot's.
func (b *Backend) Restore(objects [][]byte) error {
	if !b.fresh || b.inFlight != nil || b.bytes != 0 {
		return fmt.Errorf("restoring operator %s: the backend is not empty", b.cfg.Operator)
	}
	snaps := make([]*snapshot, len(objects))
	var problems []Problem
	known := map[StateInfo]bool{}
	for i, o := range objects {
		s, err := openSnapshot(o)
		if err != nil {
			return fmt.Errorf("restoring operator %s: object %d of %d: %w", b.cfg.Operator, i+1, len(objects), err)
		}
		if err := b.own(s); err != nil {
			return fmt.Errorf("restoring operator %s: object %d of %d: %w", b.cfg.Operator, i+1, len(objects), err)
		}
		if s.KeyGroups != b.cfg.KeyGroups && len(problems) == 0 {
			problems = append(problems, Problem{Detail: fmt.Sprintf("the snapshot has %d key groups, the job %d: they are fixed for a job's life",
				s.KeyGroups, b.cfg.KeyGroups)})
		}
		for _, info := range s.States {
			if !known[info] {
				known[info] = true
				problems = append(problems, b.compare(info)...)
			}
		}
		snaps[i] = s
	}
	if len(problems) > 0 {
		return &CompatibilityError{b.cfg.Operator, problems}
	}
	b.reserve(snaps)
	for i, s := range snaps {
		if err := b.apply(s); err != nil {
			return fmt.Errorf("restoring operator %s: object %d of %d: %w", b.cfg.Operator, i+1, len(objects), err)
		}
	}
	b.fresh = len(objects) == 0
	b.arena = arena{}
	b.seq++
	return nil
}

func (b *Backend) own(s *snapshot) error {
	if s.Tenant == b.cfg.Origin.Tenant && s.Job == b.cfg.Origin.Job && s.Operator == b.cfg.Operator {
		return nil
	}
	return &ForeignError{whatSnapshot, fmt.Sprintf("job %s/%s, operator %s", s.Tenant, s.Job, s.Operator),
		fmt.Sprintf("job %s/%s, operator %s", b.cfg.Origin.Tenant, b.cfg.Origin.Job, b.cfg.Operator)}
}

func (b *Backend) compare(info StateInfo) []Problem {
	p := checkCompatible(info, b.specs())
	if len(p) > 0 && p[0].Undeclared && b.cfg.AllowDropped {
		if !slices.Contains(b.dropped, info.Name) {
			b.dropped = append(b.dropped, info.Name)
		}
		return nil
	}
	return p
}

func (b *Backend) specs() []*spec {
	specs := make([]*spec, len(b.slots))
	for i := range b.slots {
		if specs[i] = b.slots[i].spec; specs[i] == nil {
			specs[i] = &spec{info: b.slots[i].info}
		}
	}
	return specs
}

// reserve makes room for what the objects say they hold, but for no more entries than there are bytes.
func (b *Backend) reserve(snaps []*snapshot) {
	most := make([]uint64, len(b.slots))
	first, last := GroupRange(b.cfg.Subtask, b.cfg.Parallelism, b.cfg.KeyGroups)
	for _, s := range snaps {
		for i, slot := range b.route(s) {
			if slot >= 0 && s.Base {
				most[slot] += min(s.Counts[i], uint64(len(s.data)))
			}
		}
	}
	for i, n := range most {
		b.slots[i].table.reserve(int(n * uint64(last-first+1) / uint64(b.cfg.KeyGroups)))
	}
}

// route maps the object's states to slots; -1: dropped.
func (b *Backend) route(s *snapshot) []int {
	to := make([]int, len(s.States))
	for i, info := range s.States {
		to[i] = -1
		for j := range b.slots {
			if b.slots[j].info.Name == info.Name {
				to[i] = j
			}
		}
	}
	return to
}

func (b *Backend) apply(s *snapshot) error {
	first, last := GroupRange(b.cfg.Subtask, b.cfg.Parallelism, b.cfg.KeyGroups)
	to := b.route(s)
	upcasts := make([]*upcast, len(to))
	for i, slot := range to {
		if slot >= 0 {
			upcasts[i] = b.slots[slot].spec.path(b.cfg.Operator, s.States[i].Version)
			b.upcasted = b.upcasted || upcasts[i] != nil
		}
	}
	put := func(e *Entry) error {
		slot := to[e.State]
		if slot < 0 {
			return nil
		}
		if err := b.slots[slot].table.restore(e, upcasts[e.State]); err != nil {
			return fmt.Errorf("decoding an entry of state %q: %w", s.States[e.State].Name, err)
		}
		return nil
	}
	var buf []byte
	var err error
	for i := range s.blocks {
		if int(s.blocks[i].last) < first || int(s.blocks[i].first) > last {
			continue
		}
		if buf, err = s.block(i, buf); err != nil {
			return err
		}
		b := s.begin(i, buf)
		if err := s.scan(&b, first, last, put); err != nil {
			return err
		}
	}
	return nil
}

// arena makes strings that share a few large allocations.
type arena struct {
	free []byte
	size int // of the last allocation
}

const (
	minArena = 512
	maxArena = 32 << 10
)

func (a *arena) string(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	if len(b) > minArena {
		return string(b)
	}
	if len(a.free) < len(b) {
		a.size = min(max(2*a.size, minArena), maxArena)
		a.free = make([]byte, a.size)
	}
	n := copy(a.free, b)
	s := unsafe.String(&a.free[0], n) // these bytes are never written again
	a.free = a.free[n:]
	return s
}
