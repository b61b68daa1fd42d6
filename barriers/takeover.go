package barriers

import (
	"errors"
	"fmt"
)

// takeoverTries bounds how often an acquire or a fence starts over because the attempt before is still writing.
const takeoverTries = 100

// AcquireSpec says who takes which job.
type AcquireSpec struct {
	Tenant, Job string
	Worker      string // for heartbeats and people
	Owner       string // nonce of the attempt: nobody ever used it before
	// State is what to record. Empty: running, except that a job found stopping stays so and is to be brought to its end.
	State HeadState
	// Observed is the head that the decision to take the job was based on, as from ReadHead: if epoch or state are others by now,
	// Acquire returns ErrHeadChanged. One with Seq 0 says that there was no head. nil: take the job whatever it is.
	Observed *HeadRecord
}

// overtakenBy reports whether the head has changed hands or state since it was observed.
func (o *HeadRecord) overtakenBy(cur *HeadRecord) bool {
	if o.Seq == 0 || cur == nil {
		return (o.Seq == 0) != (cur == nil)
	}
	return cur.Head.Epoch != o.Head.Epoch || cur.Head.State != o.Head.State
}

// ReadHead reads a job's head; nil without an error if there is none.
func ReadHead(ask Ask, tenant, job string) (*HeadRecord, error) {
	rec, _, err := readHead(ask, tenant, job)
	return rec, err
}

// readHead returns also the sequence that the key has when there is no head.
func readHead(ask Ask, tenant, job string) (*HeadRecord, uint64, error) {
	key := HeadKey(tenant, job)
	r, err := read(ask, Request{Op: OpReadRecord, Key: key}, readTries)
	if err != nil {
		return nil, 0, fmt.Errorf("read head %s: %w", key, err)
	}
	if r.Status == NotFound {
		return nil, r.Seq, nil
	}
	h, err := DecodeHead(r.Value)
	if err == nil && (h.Tenant != tenant || h.Job != job) {
		err = fmt.Errorf("it is the head of job %s/%s", h.Tenant, h.Job)
	}
	if err != nil {
		return nil, 0, &RecordError{Record: "record " + key, Err: err}
	}
	return &HeadRecord{Head: *h, Seq: r.Seq}, r.Seq, nil
}

// ReadManifest reads a committed manifest and checks its digest and identity. It may still be missing on the replica that
// answers: that is retried before it is an error.
func ReadManifest(ask Ask, tenant, job string, ref ManifestRef) (*Manifest, error) {
	key := ManifestKey(tenant, job, ref.Checkpoint)
	var fault error
	for n := 1; n <= staleTries; n++ {
		r, err := read(ask, Request{Op: OpReadRecord, Key: key}, readTries)
		if err != nil {
			return nil, fmt.Errorf("read manifest %s: %w", key, err)
		}
		switch {
		case r.Status == NotFound:
			fault = errors.New("the head names it, but it is missing: the checkpoint bucket was purged or rolled back")
		case Digest(r.Value) != ref.Digest:
			fault = fmt.Errorf("digest is %s, the head says %s", Digest(r.Value), ref.Digest)
		default:
			m, err := DecodeManifest(r.Value)
			if err == nil && (m.Tenant != tenant || m.Job != job || m.Checkpoint != ref.Checkpoint) {
				err = fmt.Errorf("it describes checkpoint %d of job %s/%s", m.Checkpoint, m.Tenant, m.Job)
			}
			if err != nil {
				return nil, &RecordError{Record: "record " + key, Err: err}
			}
			return m, nil
		}
		if err := wait(ask, n); err != nil {
			return nil, fmt.Errorf("read manifest %s: %w", key, err)
		}
	}
	return nil, &RecordError{Record: "record " + key, Err: fault}
}

// Inspect reads a job's head and its manifest without changing anything. Either may be nil: no head, nothing committed. The owner may
// commit and clean up meanwhile; then Inspect reads again.
func Inspect(ask Ask, tenant, job string) (*HeadRecord, *Manifest, error) {
	for n := 1; ; n++ {
		rec, err := ReadHead(ask, tenant, job)
		if err != nil || rec == nil || rec.Head.ManifestSeq == 0 {
			return rec, nil, err
		}
		m, err := ReadManifest(ask, tenant, job, currentRef(&rec.Head))
		if err == nil {
			return rec, m, nil
		}
		again, rerr := ReadHead(ask, tenant, job)
		if rerr != nil {
			return nil, nil, rerr
		}
		if again != nil && again.Seq == rec.Seq || n == readTries {
			return nil, nil, err
		}
	}
}

// ReadCheckpoint reads the manifest of a checkpoint that the head names or retains; 0 means the current one. The owner may clean an
// older one up at any time: whoever reads its objects pins it or starts again with a newer one. A *NoCheckpointError says that it is not
// kept.
func ReadCheckpoint(ask Ask, tenant, job string, checkpoint uint64) (*Manifest, error) {
	rec, m, err := Inspect(ask, tenant, job)
	switch {
	case err != nil:
		return nil, err
	case m == nil:
		return nil, &NoCheckpointError{Tenant: tenant, Job: job, Checkpoint: checkpoint}
	case checkpoint == 0 || checkpoint == m.Checkpoint:
		return m, nil
	}
	kept := committed(&rec.Head)
	for _, ref := range kept {
		if ref.Checkpoint == checkpoint {
			return ReadManifest(ask, tenant, job, ref)
		}
	}
	return nil, &NoCheckpointError{Tenant: tenant, Job: job, Checkpoint: checkpoint, Kept: kept}
}

// Acquire takes the job: the head with epoch+1 and the caller's nonce, by compare-and-set, so that any number of contenders is
// safe. It returns the new head and the committed manifest, nil if nothing is committed. The first start of a job writes its
// head with checkpoint 0. After ErrFenced another contender was faster.
func Acquire(ask Ask, spec AcquireSpec) (*HeadRecord, *Manifest, error) {
	for range takeoverTries {
		cur, expected, err := readHead(ask, spec.Tenant, spec.Job)
		if err != nil {
			return nil, nil, fmt.Errorf("acquire job %s/%s: %w", spec.Tenant, spec.Job, err)
		}
		if o := spec.Observed; o != nil && o.overtakenBy(cur) {
			return nil, nil, fmt.Errorf("acquire job %s/%s: %w since epoch %d", spec.Tenant, spec.Job, ErrHeadChanged, o.Head.Epoch)
		}
		next := acquired(cur, spec)
		value, err := next.Encode()
		if err != nil {
			return nil, nil, fmt.Errorf("acquire job %s/%s: %w", spec.Tenant, spec.Job, err)
		}
		seq, err := CompareAndSet(ask, Write{
			Key: HeadKey(spec.Tenant, spec.Job), Value: value, Expected: expected,
			Epoch: next.Epoch, Owner: next.Owner, Holder: headHolder,
		})
		if conflict(err) != nil {
			continue // the owner of a lower epoch committed in between
		}
		if err != nil {
			return nil, nil, fmt.Errorf("acquire job %s/%s: %w", spec.Tenant, spec.Job, err)
		}
		rec := &HeadRecord{Head: next, Seq: seq, trash: newTrash()}
		if next.ManifestSeq == 0 {
			return rec, nil, nil
		}
		m, err := ReadManifest(ask, spec.Tenant, spec.Job, currentRef(&next))
		var fault *RecordError
		if errors.As(err, &fault) {
			// A later owner may have moved on and cleaned up while this attempt stood still.
			if owner := CheckOwner(ask, rec); owner != nil {
				err = owner
			}
		}
		if err != nil {
			return nil, nil, fmt.Errorf("acquire job %s/%s: %w", spec.Tenant, spec.Job, err)
		}
		rec.trash.learn(m)
		return rec, m, nil
	}
	return nil, nil, fmt.Errorf("acquire job %s/%s: %w", spec.Tenant, spec.Job, &UnresolvedError{Record: HeadKey(spec.Tenant, spec.Job), Tries: takeoverTries})
}

// CheckOwner returns nil if rec's attempt owns the job still, and ErrFenced if it does not. Whoever misses something that the committed
// checkpoint needs asks before calling it lost: it may have been cleaned up behind a fenced attempt's back.
func CheckOwner(ask Ask, rec *HeadRecord) error {
	for n := 1; n <= staleTries; n++ {
		cur, err := ReadHead(ask, rec.Head.Tenant, rec.Head.Job)
		if err != nil {
			return err
		}
		if cur == nil || cur.Head.Epoch != rec.Head.Epoch || cur.Head.Owner != rec.Head.Owner {
			return fmt.Errorf("%w: this attempt is epoch %d", ErrFenced, rec.Head.Epoch)
		}
		// A leader that was just deposed may still name this attempt.
		if err := wait(ask, n); err != nil {
			return err
		}
	}
	return nil
}

func acquired(cur *HeadRecord, spec AcquireSpec) Head {
	next := Head{Version: HeadVersion, Tenant: spec.Tenant, Job: spec.Job}
	if cur != nil {
		next = cur.Head
	}
	next.Epoch++
	next.Worker, next.Owner = spec.Worker, spec.Owner
	switch {
	case spec.State != "":
		next.State = spec.State
	case next.State != StateStopping:
		next.State = StateRunning
	}
	return next
}

func currentRef(h *Head) ManifestRef {
	return ManifestRef{Checkpoint: h.Checkpoint, Seq: h.ManifestSeq, Digest: h.Digest}
}

// LetGo records another state of a job that the caller owns: released or stopped at the end of an attempt, stopping before it.
// Everything committed must be released before stopped or released is written.
func LetGo(ask Ask, rec *HeadRecord, state HeadState) (*HeadRecord, error) {
	next := rec.Head
	next.State = state
	return rewrite(ask, rec, next, "record state "+string(state))
}

// Delete leaves a tombstone: no checkpoint of the job is kept, but epoch and last ID are, so that a later start is above both, and the last
// start request, so that a program that asks for the same start whenever it deploys does not bring the job back.
func Delete(ask Ask, rec *HeadRecord) (*HeadRecord, error) {
	next := rec.Head
	next.State = StateDeleted
	next.ManifestSeq, next.Digest, next.Retained = 0, "", nil
	next.Watermark = next.Checkpoint + 1
	if hooks.forgetID {
		next.Checkpoint = 0
	}
	out, err := rewrite(ask, rec, next, "delete the job")
	if err == nil {
		out.trash.committed(&rec.Head, &out.Head, nil)
	}
	return out, err
}

func rewrite(ask Ask, rec *HeadRecord, next Head, doing string) (*HeadRecord, error) {
	value, err := next.Encode()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	seq, err := CompareAndSet(ask, Write{
		Key: HeadKey(next.Tenant, next.Job), Value: value, Expected: rec.Seq,
		Epoch: next.Epoch, Owner: next.Owner, Holder: headHolder,
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	return &HeadRecord{Head: next, Seq: seq, trash: rec.trash}, nil
}
