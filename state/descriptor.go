package state

import (
	"errors"
	"fmt"

	"github.com/weirstream/weir/state/codec"
)

// Kinds of state, as stored in snapshots and manifests.
const (
	KindValue       = "value"
	KindMap         = "map"
	KindList        = "list"
	KindReducing    = "reducing"
	KindAggregating = "aggregating"
	KindTimers      = "timers"
)

// MaxNameLen bounds a state's name, in bytes.
const MaxNameLen = 48

// ErrInvalidDescriptor is wrapped by the errors of Descriptor.Validate.
var ErrInvalidDescriptor = errors.New("invalid state descriptor")

// StateInfo is what must be known of a state before it is read.
type StateInfo struct {
	Name    string
	Kind    string
	Codec   string // of a map: "key codec,value codec"
	Version int    // schema version
	Expiry  Expiry // whether entries expire; states with and without fit each other
}

// Context gives access to the state of the operator that is running.
type Context interface {
	StateBackend() *Backend
}

// Descriptor declares a state. The types of this package that implement it are immutable and hold no state: they are package
// variables of the user, shared by all jobs.
type Descriptor interface {
	Info() StateInfo
	// Validate reports everything that is wrong with the declaration.
	Validate() error
	declaration() *spec
}

// spec is a descriptor's identity and declaration.
type spec struct {
	info      StateInfo
	problem   error
	newTable  func(b *Backend) table
	upcasters []*upcaster // by version
	ttl       ttl
}

// Info returns name, kind, codec and schema version.
func (s *spec) Info() StateInfo { return s.info }

// Validate reports everything that is wrong with the declaration.
func (s *spec) Validate() error { return s.problem }

func (s *spec) declaration() *spec { return s }

type options struct {
	codec, keyCodec any
	version         int
	upcasters       []*upcaster
	ttl             ttl
	ttls            int // how many were given
}

// Option changes a descriptor's defaults.
type Option func(*options)

// Codec sets the codec of the values (of the elements of a list, of the accumulator of an aggregating state).
// The default is codec.Default.
func Codec[T any](c codec.Codec[T]) Option { return func(o *options) { o.codec = c } }

// KeyCodec sets the codec of a map state's keys. Equal keys must have equal bytes. The default is codec.Default.
func KeyCodec[K any](c codec.Codec[K]) Option { return func(o *options) { o.keyCodec = c } }

// SchemaVersion sets the version of the values' schema: 1 or more, by default 1.
func SchemaVersion(v int) Option { return func(o *options) { o.version = v } }

// declare collects the options and what is wrong with them.
func declare(name, kind string, opts []Option) (*spec, *options) {
	o := &options{version: 1}
	for _, opt := range opts {
		opt(o)
	}
	s := &spec{info: StateInfo{Name: name, Kind: kind, Version: o.version}}
	s.problem = checkName(name)
	if o.version < 1 || o.version > 1<<30 {
		s.fail("schema version %d: use 1 or more", o.version)
	}
	if o.keyCodec != nil && kind != KindMap {
		s.fail("KeyCodec is for map states only")
	}
	s.expire(o)
	return s, o
}

func (s *spec) fail(format string, args ...any) {
	s.problem = errors.Join(s.problem, fmt.Errorf("%w: state %q: %s", ErrInvalidDescriptor, s.info.Name, fmt.Sprintf(format, args...)))
}

// choose returns the codec that was set, or the default.
func choose[T any](s *spec, set any) codec.Codec[T] {
	if set == nil {
		return codec.Default[T]()
	}
	c, ok := set.(codec.Codec[T])
	if !ok {
		var zero [0]T
		s.fail("the codec %T is not one for the element of %T", set, zero)
		return codec.Default[T]()
	}
	if c.Name() == "" || len(c.Name()) > MaxNameLen {
		s.fail("the codec's name %q must have 1 to %d bytes", c.Name(), MaxNameLen)
	}
	return c
}

func checkName(name string) error {
	if name == "" || len(name) > MaxNameLen {
		return fmt.Errorf("%w: state %q: the name must have 1 to %d bytes", ErrInvalidDescriptor, name, MaxNameLen)
	}
	for i := 0; i < len(name); i++ {
		c := name[i]
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || i > 0 && (c == '_' || c == '-') {
			continue
		}
		return fmt.Errorf("%w: state %q has %q at byte %d: use a-z, 0-9, _ and -, beginning with a letter or digit",
			ErrInvalidDescriptor, name, c, i)
	}
	return nil
}
