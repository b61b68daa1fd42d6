package barriers

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ErrMoreToClean says that a clean-up has done its share, and that there is more to do for the next one.
var ErrMoreToClean = errors.New("there is more to clean up")

// maxDeletes bounds the deletions of one Cleanup. What is left is found again by the next.
const maxDeletes = 2000

// CleanupSpec says what to clean up.
type CleanupSpec struct {
	// Record is a head that this attempt has written: the newest is best, an older one is safe.
	Record *HeadRecord
	// Garbage names objects that this attempt uploaded for checkpoints or merges that were given up.
	Garbage []string
	// Orphans also looks for what crashes left behind. It lists the job's records and objects, which is expensive: ask for it after
	// a takeover and once in many checkpoints.
	Orphans bool
	// OrphanAge is the least age of an orphan by the server's clock: two checkpoint timeouts.
	OrphanAge time.Duration
}

// Cleanup removes the manifests below the head's committed watermark that the head does not retain, the snapshot objects that
// only they refer to, garbage, and orphans. It may be called again after any error, and by an attempt that was fenced and does not
// know it. Savepoints and their objects, and other names than ObjectPrefix and SavepointPrefix make, behind "{tenant}/" in a
// shared bucket, are never touched; the search for orphans removes what savepoints that failed have left (savepoint.go).
//
// Why a fenced attempt does no harm: let H be the head in Record, which was committed once. A later head's checkpoints refer to
// objects of (1) a manifest that H retains or names, since chains grow from the committed one and a start takes over a
// retained one's; (2) objects uploaded after H for a checkpoint of the same epoch or a later one; (3) a savepoint. Cleanup
// never removes (1): it reads all those manifests and stops if one is unreadable. Objects of (2) are in no manifest that H has dropped, are not
// this attempt's garbage, and are no orphans, whose epoch is below H's: such an attempt cannot commit any more. (3) has other
// names. IDs never go back, so no manifest is ever written again under a key below H's watermark; and its removal is
// guarded by its sequence. So H's facts stay true for ever, and no ownership needs to be checked.
func Cleanup(ask Ask, spec CleanupSpec) error {
	c := cleaner{ask: ask, spec: spec, head: &spec.Record.Head, budget: maxDeletes}
	if err := c.run(); err != nil {
		return fmt.Errorf("clean up below checkpoint %d: %w", c.head.Watermark, err)
	}
	return nil
}

type cleaner struct {
	ask    Ask
	spec   CleanupSpec
	head   *Head
	kept   map[string]bool // objects that must stay
	budget int
}

func (c *cleaner) run() error {
	tr := c.spec.Record.trash
	dropped := tr.below(c.head)
	if len(dropped) == 0 && len(c.spec.Garbage) == 0 && !c.spec.Orphans {
		return nil
	}
	c.kept = map[string]bool{}
	for _, ref := range committed(c.head) {
		m := tr.manifest(ref.Checkpoint)
		if m == nil {
			var err error
			if m, err = ReadManifest(c.ask, c.head.Tenant, c.head.Job, ref); err != nil {
				return err
			}
			tr.learn(m)
		}
		eachObject(m, func(o *Object) { c.kept[o.Name] = true })
	}
	for _, name := range c.spec.Garbage {
		if err := c.object(name); err != nil {
			return err
		}
	}
	for _, ref := range dropped {
		if err := c.manifest(ref); err != nil {
			return err
		}
		tr.forget(ref.Checkpoint)
	}
	if c.spec.Orphans {
		return c.orphans()
	}
	return nil
}

// manifest removes the objects that only a dropped manifest refers to, then the manifest: until that is gone they are found again.
func (c *cleaner) manifest(ref ManifestRef) error {
	m := c.spec.Record.trash.manifest(ref.Checkpoint)
	key := ManifestKey(c.head.Tenant, c.head.Job, ref.Checkpoint)
	if m == nil {
		r, err := read(c.ask, Request{Op: OpReadRecord, Key: key}, readTries)
		if err != nil {
			return err
		}
		if r.Status == NotFound {
			return nil
		}
		ref.Seq = r.Seq
		// One that cannot be read is dropped all the same; its objects are found as orphans.
		m, _ = DecodeManifest(r.Value)
	}
	if m != nil {
		var err error
		eachObject(m, func(o *Object) {
			if err == nil {
				err = c.object(o.Name)
			}
		})
		if err != nil {
			return err
		}
	}
	return c.remove(Request{Op: OpDeleteRecord, Key: key, Expected: ref.Seq})
}

// object removes an object unless it must stay or is not a checkpoint's of this job.
func (c *cleaner) object(name string) error {
	if _, ok := c.epochOf(name); !ok || c.kept[name] {
		return nil
	}
	return c.remove(Request{Op: OpDeleteObject, Key: name})
}

func (c *cleaner) remove(q Request) error {
	if c.budget--; c.budget < 0 {
		return fmt.Errorf("%w: %d deletions at once are enough, the rest follows", ErrMoreToClean, maxDeletes)
	}
	return remove(c.ask, q)
}

// remove deletes a record or an object; one that is gone, or another one by now, is none of its business.
func remove(ask Ask, q Request) error {
	for n := 1; ; n++ {
		r := ask(q)
		switch r.Status {
		case OK, NotFound, Mismatch:
			return nil
		case Canceled:
			return ErrCanceled
		case Rejected:
			return &RejectedError{Record: q.Key, Err: r.Err}
		}
		if n == readTries {
			return &UnresolvedError{Record: q.Key, Tries: n, Err: r.Err}
		}
		if err := wait(ask, n); err != nil {
			return err
		}
	}
}

// orphans removes what no attempt remembers: manifests below the watermark, and objects of past epochs that no manifest in use
// refers to. The listings need not be current: what they lack is found the next time.
func (c *cleaner) orphans() error {
	head := HeadKey(c.head.Tenant, c.head.Job)
	list, err := read(c.ask, Request{Op: OpListRecords, Key: head}, readTries)
	if err != nil {
		return err
	}
	inUse := committed(c.head)
	for _, key := range list.Names {
		id, err := strconv.ParseUint(strings.TrimPrefix(key, head+"."), 10, 64)
		if err != nil || id >= c.head.Watermark || slices.ContainsFunc(inUse, func(r ManifestRef) bool { return r.Checkpoint == id }) {
			continue // a savepoint, or in use
		}
		if err := c.manifest(ManifestRef{Checkpoint: id}); err != nil {
			return err
		}
	}
	objects, err := read(c.ask, Request{Op: OpListObjects}, readTries)
	if err != nil {
		return err
	}
	for _, o := range objects.Objects {
		epoch, ok := c.epochOf(o.Name)
		past := epoch < c.head.Epoch || hooks.zombieClean && epoch != c.head.Epoch || c.head.State == StateDeleted && epoch == c.head.Epoch
		old := o.Modified+int64(c.spec.OrphanAge) < objects.ServerTime
		if !ok || !past || !old {
			continue
		}
		if err := c.object(o.Name); err != nil {
			return err
		}
	}
	return c.savepoints(list.Names, objects)
}

// savepoints removes what savepoints that were never completed have left behind. The objects were listed before any record is read
// here: see grave.
func (c *cleaner) savepoints(keys []string, listed Reply) error {
	dirs := map[string][]ObjectInfo{}
	for _, key := range keys {
		if name, ok := strings.CutPrefix(key, HeadKey(c.head.Tenant, c.head.Job)+".savepoint."); ok && checkSavepointName(name) == nil {
			dirs[name] = nil
		}
	}
	for _, o := range listed.Objects {
		if name, ok := savepointOf(c.head.Tenant, c.head.Job, o.Name); ok {
			dirs[name] = append(dirs[name], o)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(dirs)) {
		if err := c.savepoint(name, dirs[name], listed.ServerTime); err != nil {
			return err
		}
	}
	return nil
}

// offlineAge is how long, by the server's clock, nothing was uploaded for a savepoint that no attempt makes before its maker is taken
// for dead: an import may be resumed the next day.
const offlineAge = 24 * time.Hour

func (c *cleaner) savepoint(name string, objects []ObjectInfo, now int64) error {
	rec, err := readSavepoint(c.ask, c.head.Tenant, c.head.Job, name)
	if errors.As(err, new(*RecordError)) {
		return nil // a person may want to look at it
	}
	if err != nil {
		return err
	}
	g := grave{ask: c.ask, tenant: c.head.Tenant, job: c.head.Job, name: name, remove: c.remove}
	var stray []string
	youngest := int64(0)
	for _, o := range objects {
		stray, youngest = append(stray, o.Name), max(youngest, o.Modified)
	}
	switch r := rec.reserved; {
	case rec.manifest != nil:
		return c.strays(rec, stray)
	case hooks.blindBurial:
		return g.objects(stray)
	case r == nil && len(stray) == 0:
		return nil
	case r == nil || r.Kind == KindBuried:
	case r.Epoch == 0 && (len(stray) == 0 || now-youngest < int64(offlineAge)):
		return nil
	case r.Epoch > c.head.Epoch, r.Epoch == c.head.Epoch && c.head.State != StateDeleted:
		return nil
	}
	_, err = g.bury(rec, stray)
	return err
}

// strays removes objects under a complete savepoint's name that it does not refer to: an earlier maker's. To prove that the record is
// the one that stands there now, it is written again as it is.
func (c *cleaner) strays(rec savepointRecord, objects []string) error {
	own := map[string]bool{}
	eachObject(rec.manifest, func(o *Object) { own[o.Name] = true })
	objects = slices.DeleteFunc(objects, func(name string) bool { return own[name] })
	if len(objects) == 0 {
		return nil
	}
	_, err := CompareAndSet(c.ask, Write{Key: rec.key, Value: rec.value, Expected: rec.seq, Holder: noHolder})
	if movedOn(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range objects {
		if err := c.remove(Request{Op: OpDeleteObject, Key: name}); err != nil {
			return err
		}
	}
	return nil
}

// epochOf returns the epoch in the name of a checkpoint's object.
func (c *cleaner) epochOf(name string) (uint64, bool) {
	rest, ok := strings.CutPrefix(name, c.head.Tenant+"/"+c.head.Job+"/")
	if !ok {
		rest, ok = strings.CutPrefix(name, c.head.Job+"/")
	}
	if !ok {
		return 0, false
	}
	dir, _, ok := strings.Cut(rest, "/")
	if !ok {
		return 0, false
	}
	e, n, ok := strings.Cut(dir, "-")
	epoch, err := strconv.ParseUint(e, 10, 64)
	_, err2 := strconv.ParseUint(n, 10, 64)
	return epoch, ok && errors.Join(err, err2) == nil
}

func eachObject(m *Manifest, visit func(*Object)) {
	for i := range m.Operators {
		for j := range m.Operators[i].Chain {
			visit(&m.Operators[i].Chain[j])
		}
	}
	for i := range m.Sinks {
		for j := range m.Sinks[i].Pending {
			visit(&m.Sinks[i].Pending[j])
		}
	}
}

// trash remembers for one attempt which manifests it has dropped and what is in those it has seen, so that the usual clean-up needs
// no listing and no reads. Clean-up runs beside the next commit: it is safe for concurrent use.
type trash struct {
	mu        sync.Mutex
	manifests map[uint64]*Manifest
	dropped   map[uint64]ManifestRef
}

func newTrash() *trash {
	return &trash{manifests: map[uint64]*Manifest{}, dropped: map[uint64]ManifestRef{}}
}

// committed notes that the head went from old to next, by committing m (nil: by a deletion).
func (t *trash) committed(old, next *Head, m *Manifest) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if m != nil {
		t.manifests[m.Checkpoint] = m
	}
	now := committed(next)
	for _, ref := range committed(old) {
		if !slices.Contains(now, ref) {
			t.dropped[ref.Checkpoint] = ref
		}
	}
}

func (t *trash) learn(m *Manifest) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.manifests[m.Checkpoint] = m
}

func (t *trash) manifest(checkpoint uint64) *Manifest {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.manifests[checkpoint]
}

// below returns what was dropped and is dropped in head too, oldest first.
func (t *trash) below(head *Head) []ManifestRef {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	inUse := committed(head)
	var out []ManifestRef
	for id, ref := range t.dropped {
		if id < head.Watermark && !slices.Contains(inUse, ref) {
			out = append(out, ref)
		}
	}
	slices.SortFunc(out, func(a, b ManifestRef) int { return int(a.Checkpoint) - int(b.Checkpoint) })
	return out
}

func (t *trash) forget(checkpoint uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.dropped, checkpoint)
	delete(t.manifests, checkpoint)
}
