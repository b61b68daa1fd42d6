package barriers

import (
	"errors"
	"fmt"
	"slices"
)

// HeadRecord is a head with its sequence in the checkpoint bucket. It is never changed: every write of the head makes a new one.
type HeadRecord struct {
	Head Head
	Seq  uint64

	trash *trash // shared by the records of one attempt
}

// Commit makes m the job's committed checkpoint and returns the new head. m must be of cur's attempt and have a higher ID than
// cur's checkpoint. retain is how many committed checkpoints are kept in all, at least 1; pinned ones are kept besides.
//
// The manifest goes under its own key first. It may overwrite what is there: only a lower epoch's orphan can be, since a committed
// manifest has an ID that the head has passed. Then the head, by compare-and-set: the commit point. From the moment it is
// sent the same bytes are tried until they are done or fenced.
//
// An error means that m is not committed and never will be, except that ErrCommitUnresolved leaves it open, and that ErrFenced
// leaves it to the new owner, who may have found it committed.
func Commit(ask Ask, cur *HeadRecord, m *Manifest, retain int, pinned ...uint64) (*HeadRecord, error) {
	h := &cur.Head
	switch {
	case m.Tenant != h.Tenant || m.Job != h.Job:
		return nil, fmt.Errorf("commit checkpoint %d: the manifest is of job %s/%s, the head of %s/%s", m.Checkpoint, m.Tenant, m.Job, h.Tenant, h.Job)
	case m.Epoch != h.Epoch || m.Owner != h.Owner:
		return nil, fmt.Errorf("commit checkpoint %d: the manifest is of epoch %d, the head of %d, or of another owner", m.Checkpoint, m.Epoch, h.Epoch)
	case m.Checkpoint <= h.Checkpoint && !hooks.idsGoBack:
		return nil, fmt.Errorf("commit checkpoint %d: checkpoint %d is committed: IDs never go back", m.Checkpoint, h.Checkpoint)
	}
	data, digest, err := m.Encode()
	if err != nil {
		return nil, fmt.Errorf("commit checkpoint %d: %w", m.Checkpoint, err)
	}
	seq, err := writeManifest(ask, m, data)
	if err != nil {
		return nil, fmt.Errorf("commit checkpoint %d: %w", m.Checkpoint, err)
	}
	next := nextHead(h, m, seq, digest, retain, pinned)
	value, err := next.Encode()
	if err != nil {
		return nil, fmt.Errorf("commit checkpoint %d: %w", m.Checkpoint, err)
	}
	headSeq, err := CompareAndSet(ask, Write{
		Key: HeadKey(h.Tenant, h.Job), Value: value, Expected: cur.Seq,
		Epoch: h.Epoch, Owner: h.Owner, Holder: headHolder, Final: true,
	})
	if err != nil {
		var rejected *RejectedError
		if !errors.Is(err, ErrFenced) && !errors.As(err, &rejected) {
			err = fmt.Errorf("%w: %w", ErrCommitUnresolved, err)
		}
		return nil, fmt.Errorf("commit checkpoint %d: %w", m.Checkpoint, err)
	}
	if headSeq <= seq {
		// The bucket went back between the two writes and took the manifest with it, while the old head fitted the guard.
		return nil, fmt.Errorf("commit checkpoint %d: %w: %w", m.Checkpoint, ErrCommitUnresolved,
			&RolledBackError{Record: "record " + HeadKey(h.Tenant, h.Job), Known: seq, Seq: headSeq})
	}
	rec := &HeadRecord{Head: *next, Seq: headSeq, trash: cur.trash}
	rec.trash.committed(h, &rec.Head, m)
	return rec, nil
}

func writeManifest(ask Ask, m *Manifest, data []byte) (uint64, error) {
	w := Write{
		Key: ManifestKey(m.Tenant, m.Job, m.Checkpoint), Value: data,
		Epoch: m.Epoch, Owner: m.Owner, Holder: manifestHolder,
	}
	for range casTries {
		seq, err := CompareAndSet(ask, w)
		c := conflict(err)
		if c == nil {
			return seq, err
		}
		w.Expected = c.Seq // an orphan, or the trace of one that was removed
	}
	return 0, &UnresolvedError{Record: w.name(), Tries: casTries}
}

// nextHead returns the head that commits m.
func nextHead(h *Head, m *Manifest, seq uint64, digest string, retain int, pinned []uint64) *Head {
	next := *h
	next.Checkpoint, next.ManifestSeq, next.Digest = m.Checkpoint, seq, digest
	if m.Request != "" {
		next.Request = m.Request
	}
	next.Retained = nil
	kept := committed(h)
	if hooks.idsGoBack {
		kept = slices.DeleteFunc(kept, func(r ManifestRef) bool { return r.Checkpoint >= m.Checkpoint })
	}
	for i, ref := range kept {
		if len(kept)-i < retain || slices.Contains(pinned, ref.Checkpoint) {
			next.Retained = append(next.Retained, ref)
		}
	}
	next.Watermark = m.Checkpoint
	if len(next.Retained) > 0 {
		next.Watermark = next.Retained[0].Checkpoint
	}
	return &next
}

// committed returns every manifest that a head keeps, the current one last.
func committed(h *Head) []ManifestRef {
	refs := append([]ManifestRef(nil), h.Retained...)
	if h.ManifestSeq != 0 {
		refs = append(refs, ManifestRef{Checkpoint: h.Checkpoint, Seq: h.ManifestSeq, Digest: h.Digest})
	}
	return refs
}
