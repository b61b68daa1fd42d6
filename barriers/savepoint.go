package barriers

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// How a savepoint comes to be, and goes:
//
//	reserve   the name, by compare-and-set, before the first object is uploaded      ReserveSavepoint
//	upload    objects under SavepointPrefix, names never used twice
//	write     the manifest over the reservation, guarded by its sequence              WriteSavepoint
//
// Invariant: every object of a savepoint was uploaded while its reservation stood, and the manifest takes the reservation's place. So
// whoever lists objects first and then replaces the record that stood there before, by compare-and-set, has proved that what was
// listed belongs to no savepoint and never will. Neither a clock nor an epoch is needed for it, and a late or stale answer does no
// harm: a write that comes late finds another sequence.
//
// A deletion goes the other way round: list, record, objects. A crash in between leaves objects without a record, which the next
// deletion or search for orphans buries; the other order would leave a record that promises objects that are gone.

// SavepointExistsError says that a savepoint of this name exists, or is being made.
type SavepointExistsError struct {
	Tenant, Job, Name string
	Making            bool // reserved, not complete
}

func (e *SavepointExistsError) Error() string {
	if e.Making {
		return fmt.Sprintf("savepoint %s of job %s/%s is being made: wait for it, or delete it if its maker is gone", e.Name, e.Tenant, e.Job)
	}
	return fmt.Sprintf("savepoint %s of job %s/%s exists: choose another name or delete it", e.Name, e.Tenant, e.Job)
}

// NoSavepointError says that there is no complete savepoint of this name.
type NoSavepointError struct {
	Tenant, Job, Name string
	Making            bool
}

func (e *NoSavepointError) Error() string {
	if e.Making {
		return fmt.Sprintf("savepoint %s of job %s/%s is not complete: it is being made, or its maker ended", e.Name, e.Tenant, e.Job)
	}
	return fmt.Sprintf("job %s/%s has no savepoint %s", e.Tenant, e.Job, e.Name)
}

// SavepointLostError says that the reservation of a savepoint is gone: it was deleted, or a later attempt of the job cleaned up. What
// was uploaded for it may be removed.
type SavepointLostError struct{ Tenant, Job, Name string }

func (e *SavepointLostError) Error() string {
	return fmt.Sprintf("savepoint %s of job %s/%s: its reservation is gone: it was deleted meanwhile, or another worker took the job over", e.Name, e.Tenant, e.Job)
}

// ReserveSavepoint takes the name before anything is uploaded under it. It returns the savepoint if one of the same name and (not
// empty) Request is complete already, and a *SavepointExistsError if the name is another's.
//
// A reservation of an earlier epoch is taken over: its maker can no longer complete it. So is one that no attempt made (Epoch 0) by
// another maker with the same Request, who may then go on with what was uploaded.
func ReserveSavepoint(ask Ask, r Reservation) (*Manifest, error) {
	return reserveSavepoint(ask, r, func(*Reservation) string { return r.Owner })
}

// ResumeSavepoint is ReserveSavepoint for a maker that can use what another maker with the same Request has uploaded. owner makes the
// maker's Owner; it is given the reservation that will be replaced, nil if that is not one to go on with. It may be called several
// times. What was uploaded while that reservation stood, and while those stood that it had replaced in this way, is nobody else's
// and not being removed: a burial would have replaced the record in between.
func ResumeSavepoint(ask Ask, r Reservation, owner func(before *Reservation) string) (*Manifest, error) {
	return reserveSavepoint(ask, r, owner)
}

func reserveSavepoint(ask Ask, r Reservation, owner func(before *Reservation) string) (*Manifest, error) {
	r.Kind = KindReserved
	key := SavepointKey(r.Tenant, r.Job, r.Savepoint)
	fail := func(err error) (*Manifest, error) {
		return nil, fmt.Errorf("reserve savepoint %s: %w", r.Savepoint, err)
	}
	for range casTries {
		rec, err := readSavepoint(ask, r.Tenant, r.Job, r.Savepoint)
		if err != nil {
			return fail(err)
		}
		old := rec.reserved
		resumed := old != nil && old.Kind == KindReserved && old.Epoch == 0 && r.Epoch == 0 && old.Request == r.Request && r.Request != ""
		if resumed {
			r.Owner = owner(old)
		} else {
			r.Owner = owner(nil)
		}
		value, err := r.Encode()
		if err != nil {
			return fail(err)
		}
		exists := &SavepointExistsError{Tenant: r.Tenant, Job: r.Job, Name: r.Savepoint}
		switch {
		case rec.manifest != nil && rec.manifest.Request == r.Request && r.Request != "":
			return rec.manifest, nil
		case rec.manifest != nil:
			return nil, exists
		case old == nil || old.Kind == KindBuried:
		case bytes.Equal(rec.value, value):
			return nil, nil
		case old.Epoch > 0 && old.Epoch < r.Epoch, resumed:
		default:
			exists.Making = true
			return nil, exists
		}
		_, err = CompareAndSet(ask, Write{Key: key, Value: value, Expected: rec.seq, Holder: noHolder})
		switch {
		case err == nil:
			return nil, nil
		case !movedOn(err):
			return fail(err)
		}
	}
	return fail(&UnresolvedError{Record: "record " + key, Tries: casTries})
}

// WriteSavepoint completes a savepoint that was reserved with m's Owner. All its objects are durable by then, and all output of its
// checkpoint is released. It returns the savepoint as it stands: m, or what an earlier try wrote.
//
// A *SavepointLostError says that it is not written and never will be. Any other error leaves that open: the objects must stay, and
// AbandonSavepoint finds out.
func WriteSavepoint(ask Ask, m *Manifest) (*Manifest, error) {
	fail := func(err error) (*Manifest, error) { return nil, fmt.Errorf("write savepoint %s: %w", m.Savepoint, err) }
	if m.Kind != KindSavepoint {
		return fail(fmt.Errorf("the manifest is a %s", m.Kind))
	}
	var foreign error
	eachObject(m, func(o *Object) {
		if name, ok := savepointOf(m.Tenant, m.Job, o.Name); !ok || name != m.Savepoint {
			foreign = fmt.Errorf("object %.80q is not named as the savepoint's own", o.Name)
		}
	})
	if foreign != nil {
		return fail(foreign)
	}
	value, _, err := m.Encode()
	if err != nil {
		return fail(err)
	}
	key := SavepointKey(m.Tenant, m.Job, m.Savepoint)
	held := uint64(0) // the reservation's sequence
	for range casTries {
		rec, err := readSavepoint(ask, m.Tenant, m.Job, m.Savepoint)
		own := err == nil && rec.reserved != nil && rec.reserved.Kind == KindReserved && rec.reserved.Owner == m.Owner
		if own && held == 0 {
			held = rec.seq
		}
		switch {
		case err != nil:
			return fail(err)
		case own && rec.seq > held:
			// A repeated delivery of the reservation, behind a deletion that has taken the objects.
			return fail(&SavepointLostError{m.Tenant, m.Job, m.Savepoint})
		case rec.manifest != nil && rec.manifest.Owner == m.Owner && rec.manifest.Request == m.Request:
			return rec.manifest, nil
		case !own:
			// A deposed leader may answer with what was there before the reservation.
			if err := stays(ask, rec); errors.Is(err, errMoved) {
				continue
			} else if err != nil {
				return fail(err)
			}
			return fail(&SavepointLostError{m.Tenant, m.Job, m.Savepoint})
		}
		_, err = CompareAndSet(ask, Write{Key: key, Value: value, Expected: rec.seq, Holder: noHolder})
		if err == nil {
			return m, nil
		}
		if !movedOn(err) {
			return fail(err)
		}
	}
	return fail(&UnresolvedError{Record: "record " + key, Tries: casTries})
}

// AbandonSavepoint gives a reservation up, after which what was uploaded under it may be removed. It returns the savepoint if that is
// complete after all: then nothing may be removed.
func AbandonSavepoint(ask Ask, r Reservation) (*Manifest, error) {
	for range casTries {
		rec, err := readSavepoint(ask, r.Tenant, r.Job, r.Savepoint)
		if err != nil {
			return nil, fmt.Errorf("abandon savepoint %s: %w", r.Savepoint, err)
		}
		if rec.reserved != nil && rec.reserved.Kind == KindReserved && rec.reserved.Owner == r.Owner {
			if q := ask(Request{Op: OpDeleteRecord, Key: rec.key, Expected: rec.seq}); q.Status == OK {
				return nil, nil
			}
			if err := wait(ask, 1); err != nil {
				return nil, fmt.Errorf("abandon savepoint %s: %w", r.Savepoint, err)
			}
			continue
		}
		if err := stays(ask, rec); err == nil {
			if rec.manifest != nil && rec.manifest.Owner == r.Owner {
				return rec.manifest, nil
			}
			return nil, nil
		} else if !errors.Is(err, errMoved) {
			return nil, fmt.Errorf("abandon savepoint %s: %w", r.Savepoint, err)
		}
	}
	return nil, fmt.Errorf("abandon savepoint %s: %w", r.Savepoint, &UnresolvedError{Record: SavepointKey(r.Tenant, r.Job, r.Savepoint), Tries: casTries})
}

var errMoved = errors.New("the record changed while it was looked at")

// stays reads a record again until it is sure that the answer was not a deposed leader's.
func stays(ask Ask, rec savepointRecord) error {
	for n := 1; n < staleTries; n++ {
		if err := wait(ask, n); err != nil {
			return err
		}
		r, err := read(ask, Request{Op: OpReadRecord, Key: rec.key}, readTries)
		if err != nil {
			return err
		}
		if r.Seq != rec.seq || !bytes.Equal(r.Value, rec.value) {
			return errMoved
		}
	}
	return nil
}

// ReadSavepoint reads a complete savepoint; a *NoSavepointError if there is none, a *RecordError if its record is broken. It may be
// deleted at any time: an object that is missing then is no damage.
func ReadSavepoint(ask Ask, tenant, job, name string) (*Manifest, error) {
	rec, err := readSavepoint(ask, tenant, job, name)
	if err != nil {
		return nil, fmt.Errorf("read savepoint %s: %w", name, err)
	}
	if rec.manifest == nil {
		making := rec.reserved != nil && rec.reserved.Kind == KindReserved
		return nil, &NoSavepointError{Tenant: tenant, Job: job, Name: name, Making: making}
	}
	return rec.manifest, nil
}

// ListSavepoints returns the complete savepoints of a job, by name. A broken record is a *RecordError; the others are
// returned with it.
func ListSavepoints(ask Ask, tenant, job string) ([]*Manifest, error) {
	names, err := savepointNames(ask, tenant, job)
	if err != nil {
		return nil, fmt.Errorf("list savepoints of job %s/%s: %w", tenant, job, err)
	}
	var out []*Manifest
	var broken error
	for _, name := range names {
		rec, err := readSavepoint(ask, tenant, job, name)
		switch {
		case errors.As(err, new(*RecordError)):
			broken = errors.Join(broken, err)
		case err != nil:
			return out, fmt.Errorf("list savepoints of job %s/%s: %w", tenant, job, err)
		case rec.manifest != nil:
			out = append(out, rec.manifest)
		}
	}
	return out, broken
}

func savepointNames(ask Ask, tenant, job string) ([]string, error) {
	head := HeadKey(tenant, job)
	list, err := read(ask, Request{Op: OpListRecords, Key: head}, readTries)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, key := range list.Names {
		if name, ok := strings.CutPrefix(key, head+".savepoint."); ok && checkSavepointName(name) == nil {
			names = append(names, name)
		}
	}
	return names, nil
}

// DeleteSavepoint removes a savepoint, also one that is being made or whose record is broken, and all objects under its name. It may be
// called again after any error. A *NoSavepointError says that there was nothing.
func DeleteSavepoint(ask Ask, tenant, job, name string) error {
	if err := deleteSavepoint(ask, tenant, job, name); err != nil {
		return fmt.Errorf("delete savepoint %s of job %s/%s: %w", name, tenant, job, err)
	}
	return nil
}

// DeleteSavepoints removes all savepoints of a job as DeleteSavepoint does.
func DeleteSavepoints(ask Ask, tenant, job string) error {
	names, err := savepointNames(ask, tenant, job)
	if err != nil {
		return fmt.Errorf("delete the savepoints of job %s/%s: %w", tenant, job, err)
	}
	for _, name := range names {
		if err := DeleteSavepoint(ask, tenant, job, name); err != nil && !errors.As(err, new(*NoSavepointError)) {
			return err
		}
	}
	return nil
}

func deleteSavepoint(ask Ask, tenant, job, name string) error {
	if err := checkSavepointName(name); err != nil {
		return err
	}
	// The list comes first: what is uploaded after the record is gone belongs to a later savepoint of the name.
	list, err := read(ask, Request{Op: OpListObjects}, readTries)
	if err != nil {
		return err
	}
	var objects []string
	for _, o := range list.Objects {
		if n, ok := savepointOf(tenant, job, o.Name); ok && n == name {
			objects = append(objects, o.Name)
		}
	}
	g := grave{ask: ask, tenant: tenant, job: job, name: name, remove: func(q Request) error { return remove(ask, q) }}
	if hooks.purgeFirst {
		return errors.Join(g.objects(objects), g.record())
	}
	for range casTries {
		rec, err := readSavepoint(ask, tenant, job, name)
		if err != nil && !errors.As(err, new(*RecordError)) {
			return err
		}
		if rec.value == nil && len(objects) == 0 {
			return &NoSavepointError{Tenant: tenant, Job: job, Name: name}
		}
		buried, err := g.bury(rec, objects)
		if err != nil || buried {
			return err
		}
	}
	return &UnresolvedError{Record: "record " + SavepointKey(tenant, job, name), Tries: casTries}
}

// grave removes what lies under a savepoint's name.
type grave struct {
	ask               Ask
	tenant, job, name string
	remove            func(Request) error
}

// bury replaces the record by one that says that nothing is there, which proves that the objects, listed before, are nobody's; then it
// removes them and the record. false: somebody else has written the record meanwhile.
func (g *grave) bury(rec savepointRecord, objects []string) (bool, error) {
	stone := Reservation{Kind: KindBuried, Tenant: g.tenant, Job: g.job, Savepoint: g.name, Owner: "clean-up"}
	value, err := stone.Encode()
	if err != nil {
		return false, err
	}
	seq, err := CompareAndSet(g.ask, Write{Key: rec.key, Value: value, Expected: rec.seq, Holder: noHolder})
	if movedOn(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := g.objects(objects); err != nil {
		return false, err
	}
	return true, g.remove(Request{Op: OpDeleteRecord, Key: rec.key, Expected: seq})
}

func (g *grave) objects(names []string) error {
	for _, name := range names {
		if err := g.remove(Request{Op: OpDeleteObject, Key: name}); err != nil {
			return err
		}
	}
	return nil
}

// record removes whatever record there is.
func (g *grave) record() error {
	rec, err := readSavepoint(g.ask, g.tenant, g.job, g.name)
	if err != nil || rec.value == nil {
		return err
	}
	return g.remove(Request{Op: OpDeleteRecord, Key: rec.key, Expected: rec.seq})
}

// savepointRecord is what lies under a savepoint's key: nothing, a reservation or the savepoint.
type savepointRecord struct {
	key      string
	seq      uint64
	value    []byte // nil: nothing
	manifest *Manifest
	reserved *Reservation
}

// readSavepoint returns key, sequence and value also with a *RecordError.
func readSavepoint(ask Ask, tenant, job, name string) (savepointRecord, error) {
	rec := savepointRecord{key: SavepointKey(tenant, job, name)}
	if err := checkSavepointName(name); err != nil {
		return rec, err
	}
	r, err := read(ask, Request{Op: OpReadRecord, Key: rec.key}, readTries)
	if err != nil {
		return rec, err
	}
	rec.seq = r.Seq
	if r.Status == NotFound {
		return rec, nil
	}
	rec.value = r.Value
	has := [3]string{}
	if res, rerr := DecodeReservation(r.Value); rerr == nil {
		rec.reserved = res
		has = [3]string{res.Tenant, res.Job, res.Savepoint}
	} else if m, merr := DecodeManifest(r.Value); merr == nil {
		rec.manifest = m
		has = [3]string{m.Tenant, m.Job, m.Savepoint}
	} else {
		err = merr
	}
	if err == nil && has != [3]string{tenant, job, name} {
		err = fmt.Errorf("it describes savepoint %.64q of job %.64s/%.64s", has[2], has[0], has[1])
	}
	if err != nil {
		rec.manifest, rec.reserved = nil, nil
		return rec, &RecordError{Record: "record " + rec.key, Err: err}
	}
	return rec, nil
}

// savepointOf returns the savepoint in the name of an object of the job.
func savepointOf(tenant, job, object string) (string, bool) {
	rest, ok := strings.CutPrefix(object, tenant+"/"+job+"/")
	if !ok {
		rest, ok = strings.CutPrefix(object, job+"/")
	}
	dir, file, cut := strings.Cut(rest, "/")
	name, prefixed := strings.CutPrefix(dir, "savepoint-")
	return name, ok && cut && prefixed && file != "" && checkSavepointName(name) == nil
}

// movedOn reports whether a guarded write found another record than the one that was read, or none.
func movedOn(err error) bool { return conflict(err) != nil || errors.As(err, new(*RolledBackError)) }

// noHolder is for records that belong to no epoch: one that was written by somebody else is a conflict.
func noHolder([]byte) (uint64, string, error) { return 0, "", nil }
