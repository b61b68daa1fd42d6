package state

import (
	"errors"
	"fmt"
)

// ErrNoState says that state was accessed where there is none: outside of a keyed operator's call.
var ErrNoState = errors.New("no keyed state here: only operators on a keyed stream have state")

// BackendConfig says whose state a backend holds.
type BackendConfig struct {
	Tenant, Job, Operator string
	Subtask, Parallelism  int
	KeyGroups             int   // of the job; the same for its whole life
	MaxKeyBytes           int   // longest key; 0: no limit
	MaxBytes              int64 // approximate memory of this backend: entries, keys, strings, byte slices; 0: no limit
	// Origin is whose snapshots Restore accepts: set it to restore a savepoint of another job. Zero: this job's.
	Origin Origin
	// AllowDropped lets Restore pass over states that the snapshot has and the operator does not declare. They are lost.
	AllowDropped bool
}

// Origin names the job that wrote a snapshot.
type Origin struct{ Tenant, Job string }

// Backend is the state of one subtask of one operator. It is used from one goroutine.
type Backend struct {
	cfg    BackendConfig
	slots  []slot // declared states, then the timers
	timers *Timers
	key    string
	seq    uint64 // counts SetKey: tables know by it whether what they remember is the current key's
	bytes  int64
	arena  arena
	clock  Clock // nil: no state has a TTL, or no time is known

	inFlight *Frozen
	zombies  []*Frozen // aborted, but still being encoded
	fresh    bool      // nothing was committed or restored: what is dirty is everything there is
	full     bool      // the next snapshot must hold everything
	upcasted bool
	dropped  []string // states that Restore passed over
}

type slot struct {
	spec  *spec
	table table
	info  StateInfo
}

// Expires reports by which times entries of the declared states expire: what the owner's Clock must know.
func (b *Backend) Expires() (processing, event bool) {
	for i := range b.slots {
		processing = processing || b.slots[i].info.Expiry == ExpiryProcessing
		event = event || b.slots[i].info.Expiry == ExpiryEvent
	}
	return processing, event
}

// Upcasted reports whether Restore read objects with an older schema version of a state. The next committed snapshot must then
// be a full one, see FreezeAll.
func (b *Backend) Upcasted() bool { return b.upcasted }

// Dropped returns the states that Restore passed over because the operator no longer declares them. With any, the next committed
// snapshot must be a full one too: else they stay in the chain.
func (b *Backend) Dropped() []string { return b.dropped }

var timersInfo = StateInfo{Name: timersName, Kind: KindTimers, Codec: "timer", Version: 1}

// NewBackend makes an empty backend with the declared states. Its error lists all problems of configuration and descriptors.
func NewBackend(cfg BackendConfig, descs ...Descriptor) (*Backend, error) {
	if cfg.Origin == (Origin{}) {
		cfg.Origin = Origin{cfg.Tenant, cfg.Job}
	}
	b := &Backend{cfg: cfg, fresh: true}
	err := cfg.validate()
	seen := map[string]bool{}
	for _, d := range descs {
		s := d.declaration()
		err = errors.Join(err, s.Validate())
		if seen[s.info.Name] {
			err = errors.Join(err, fmt.Errorf("%w: state %q is declared twice", ErrInvalidDescriptor, s.info.Name))
		}
		seen[s.info.Name] = true
		b.slots = append(b.slots, slot{spec: s, table: s.newTable(b), info: s.info})
	}
	if err != nil {
		return nil, fmt.Errorf("creating the state of operator %s: %w", cfg.Operator, err)
	}
	b.timers = newTimers(b)
	b.slots = append(b.slots, slot{table: b.timers, info: timersInfo})
	b.seq = 1
	return b, nil
}

func (c *BackendConfig) validate() error {
	var errs []error
	for _, n := range []struct{ what, name string }{{"tenant", c.Tenant}, {"job", c.Job}, {"operator", c.Operator}} {
		if n.name == "" || len(n.name) > maxIdentity {
			errs = append(errs, fmt.Errorf("the %s name %q must have 1 to %d bytes", n.what, n.name, maxIdentity))
		}
	}
	if c.KeyGroups < 1 || c.KeyGroups > MaxKeyGroups {
		errs = append(errs, fmt.Errorf("%d key groups: use 1 to %d", c.KeyGroups, MaxKeyGroups))
	}
	if c.Parallelism < 1 || c.Subtask < 0 || c.Subtask >= c.Parallelism {
		errs = append(errs, fmt.Errorf("subtask %d of %d does not exist", c.Subtask, c.Parallelism))
	} else if c.Parallelism > c.KeyGroups {
		errs = append(errs, fmt.Errorf("parallelism %d exceeds the %d key groups", c.Parallelism, c.KeyGroups))
	}
	return errors.Join(errs...)
}

// SetKey sets the key that state accesses are for. The backend copies what it keeps of it: the bytes may be used again after the
// next SetKey.
func (b *Backend) SetKey(key string) {
	b.key = key
	b.seq++
}

// Key returns the current key.
func (b *Backend) Key() string { return b.key }

// KeyGroup returns the current key's group.
func (b *Backend) KeyGroup() int { return KeyGroup(b.key, b.cfg.KeyGroups) }

// Timers returns the operator's timers.
func (b *Backend) Timers() *Timers { return b.timers }

// Bytes returns the approximate memory of the state, as MaxBytes counts it.
func (b *Backend) Bytes() int64 { return b.bytes }

// Infos describes the states as snapshots and manifests record them.
func (b *Backend) Infos() []StateInfo {
	infos := make([]StateInfo, len(b.slots))
	for i := range b.slots {
		infos[i] = b.slots[i].info
	}
	return infos
}

// StateBackend makes a Backend a Context of its own, for tests and tools.
func (b *Backend) StateBackend() *Backend { return b }

// grow accounts for n more bytes, or refuses.
func (b *Backend) grow(state string, n int) error {
	if n > 0 && b.cfg.MaxBytes > 0 && b.bytes+int64(n) > b.cfg.MaxBytes {
		return b.quota(state, "state bytes", b.cfg.MaxBytes, b.bytes+int64(n))
	}
	b.bytes += int64(n)
	return nil
}

// admit accounts for a new entry of the current key.
func (b *Backend) admit(state string, n int) error { return b.admitKey(state, len(b.key), n) }

func (b *Backend) admitKey(state string, key, n int) error {
	if b.cfg.MaxKeyBytes > 0 && key > b.cfg.MaxKeyBytes {
		return b.quota(state, "key bytes", int64(b.cfg.MaxKeyBytes), int64(key))
	}
	return b.grow(state, n)
}

func (b *Backend) quota(state, what string, limit, need int64) error {
	return &QuotaError{b.cfg.Tenant, b.cfg.Job, b.cfg.Operator, state, what, limit, need}
}

// Freeze hands over what changed since the last committed checkpoint, in a time that does not depend on how much that is. It
// panics while another snapshot is in flight.
func (b *Backend) Freeze(checkpoint uint64) *Frozen {
	return b.freeze(checkpoint, b.full)
}

// FreezeAll hands over everything, as a base that needs no older object: for the first checkpoint after restoring objects that
// the job does not own. If it is aborted, the next Freeze is full too.
func (b *Backend) FreezeAll(checkpoint uint64) *Frozen {
	b.full = true
	return b.freeze(checkpoint, !b.fresh)
}

func (b *Backend) freeze(checkpoint uint64, all bool) *Frozen {
	if b.inFlight != nil {
		panic(fmt.Sprintf("state: operator %s: freezing checkpoint %d while %d is in flight", b.cfg.Operator, checkpoint, b.inFlight.checkpoint))
	}
	f := &Frozen{checkpoint: checkpoint, cfg: &b.cfg, infos: b.Infos(), base: all || b.fresh, parts: make([]part, len(b.slots))}
	for i := range b.slots {
		f.parts[i] = b.slots[i].table.freeze(all)
		f.keys += f.parts[i].len()
	}
	b.seq++
	b.inFlight = f
	return f
}

// Committed says that the checkpoint is committed: what it had frozen is not needed any more. Other checkpoints than the one in
// flight are ignored.
func (b *Backend) Committed(checkpoint uint64) {
	f := b.inFlight
	if f == nil || f.checkpoint != checkpoint {
		return
	}
	b.retire(f)
	b.fresh, b.full = false, false
	for i := range b.slots {
		b.slots[i].table.committed(len(b.zombies) == 0)
	}
	b.seq++
}

// Aborted says that the checkpoint will never be committed: what it had frozen goes back under the newer changes. Other
// checkpoints than the one in flight are ignored.
func (b *Backend) Aborted(checkpoint uint64) {
	f := b.inFlight
	if f == nil || f.checkpoint != checkpoint {
		return
	}
	b.retire(f)
	for i := range b.slots {
		b.slots[i].table.aborted()
	}
	b.seq++
}

// retire ends the snapshot in flight. While its encoder runs on, nothing it may read is changed in place.
func (b *Backend) retire(f *Frozen) {
	b.inFlight = nil
	live := b.zombies[:0]
	for _, z := range append(b.zombies, f) {
		if z.retire() {
			live = append(live, z)
		}
	}
	clear(live[len(live):cap(live)])
	b.zombies = live
}
