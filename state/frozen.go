package state

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
)

// ErrRetired says that a snapshot was encoded after its checkpoint was committed or aborted.
var ErrRetired = errors.New("the checkpoint has ended")

// EncodedObject is one object to be uploaded.
type EncodedObject struct {
	Data                  []byte
	FirstGroup, LastGroup int // key groups of a snapshot object, inclusive
	Base                  bool
	Entries               uint64 // of a snapshot object
	Messages              uint64 // of a pending output object
}

// Frozen is what a backend held, or what had changed in it, at a barrier.
type Frozen struct {
	checkpoint uint64
	cfg        *BackendConfig
	infos      []StateInfo
	base       bool
	keys       int
	parts      []part

	written atomic.Int64 // entries, by all encoders

	mu      sync.Mutex
	readers int
	retired bool
}

// part is one state's share of a Frozen. Its methods are called from one goroutine at a time.
type part interface {
	len() int
	// sort puts the entries in the order of their key groups.
	sort(groups int, base bool)
	// count returns the entries of a group after sort.
	count(group int) int
	// write appends the i-th entry of the group to dst.
	write(dst []byte, group, i int) ([]byte, error)
	// done lets go of what sort made.
	done()
}

// Checkpoint returns the checkpoint's ID.
func (f *Frozen) Checkpoint() uint64 { return f.checkpoint }

// Empty reports whether there is nothing to encode.
func (f *Frozen) Empty() bool { return f.keys == 0 }

// Keys returns the number of entries, an upper bound of what Encode writes.
func (f *Frozen) Keys() int { return f.keys }

// Written returns how many entries were encoded so far. It may be called beside Encode.
func (f *Frozen) Written() int64 { return f.written.Load() }

// Encode writes the snapshot as objects of about maxObject bytes at most: it ends one at the first block that goes beyond. There may
// be none. It may run in any goroutine, beside the backend's, and again; after Committed or Aborted it returns ErrRetired.
func (f *Frozen) Encode(maxObject int) (objects []EncodedObject, err error) {
	f.mu.Lock()
	if f.retired {
		f.mu.Unlock()
		return nil, fmt.Errorf("encoding the state of operator %s at checkpoint %d: %w", f.cfg.Operator, f.checkpoint, ErrRetired)
	}
	if f.readers > 0 {
		f.mu.Unlock()
		return nil, fmt.Errorf("encoding the state of operator %s at checkpoint %d: it is being encoded", f.cfg.Operator, f.checkpoint)
	}
	f.readers++
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.readers--
		f.mu.Unlock()
	}()
	return f.encode(maxObject)
}

// retire forbids further encoding and reports whether an encoder still runs.
func (f *Frozen) retire() (running bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.retired = true
	return f.readers > 0
}
