package state

import (
	"fmt"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/weirstream/weir/state/codec"
)

// Upcast declares how a value that was written in schema version from becomes one of version from+1: old decodes it (nil: the
// default codec of Old), fn turns it into the next version's type. Upcasters chain, so a state in version 3 that may meet
// snapshots of version 1 has one from 1 and one from 2.
//
// It migrates values: a list's elements, an accumulator, a map's values. Keys, and the keys of a map, keep type and codec. fn must
// depend on its argument alone; it runs once per entry when a snapshot is restored, and never on the hot path.
func Upcast[Old, New any](from int, old codec.Codec[Old], fn func(Old) (New, error)) Option {
	if old == nil {
		old = codec.Default[Old]()
	}
	u := &upcaster{from: from, codec: old.Name(), in: reflect.TypeFor[Old](), out: reflect.TypeFor[New]()}
	u.decode = func(b []byte) (any, error) { return old.Decode(b) }
	if fn != nil {
		u.step = func(v any) (any, error) {
			o, _ := v.(Old) // a nil interface value is Old's zero
			return fn(o)
		}
	}
	return func(o *options) { o.upcasters = append(o.upcasters, u) }
}

// upcaster turns values of version from into those of from+1.
type upcaster struct {
	from    int
	codec   string
	in, out reflect.Type
	decode  func([]byte) (any, error)
	step    func(any) (any, error)
}

// migrate checks the upcasters of a state whose values are of type T.
func migrate[T any](s *spec, o *options) {
	slices.SortStableFunc(o.upcasters, func(a, b *upcaster) int { return a.from - b.from })
	for i, u := range o.upcasters {
		switch {
		case u.from < 1 || u.from >= s.info.Version:
			s.fail("an upcaster from version %d: the state is in version %d, and versions begin with 1", u.from, s.info.Version)
		case u.step == nil:
			s.fail("the upcaster from version %d has no function", u.from)
		case i > 0 && o.upcasters[i-1].from == u.from:
			s.fail("there are two upcasters from version %d", u.from)
		}
		next, what := reflect.TypeFor[T](), fmt.Sprintf("the state's values are %s", reflect.TypeFor[T]())
		if i+1 < len(o.upcasters) && u.from+1 < s.info.Version {
			next, what = o.upcasters[i+1].in, fmt.Sprintf("the upcaster from %d takes %s", o.upcasters[i+1].from, o.upcasters[i+1].in)
			if o.upcasters[i+1].from != u.from+1 {
				continue // a gap: versions before it cannot be read, which is for the compatibility check to say
			}
		} else if u.from+1 != s.info.Version {
			continue
		}
		if u.out != next {
			s.fail("the upcaster from version %d makes %s, and %s", u.from, u.out, what)
		}
	}
	s.upcasters = o.upcasters
}

// upcastProblem says why a snapshot's older version cannot be read; empty if it can.
func (s *spec) upcastProblem(info StateInfo) string {
	have := map[int]*upcaster{}
	for _, u := range s.upcasters {
		have[u.from] = u
	}
	var missing []string
	for v := max(info.Version, 0); v < s.info.Version && len(missing) < 10; v++ {
		if have[v] == nil {
			missing = append(missing, fmt.Sprint(v))
		}
	}
	if len(missing) > 0 {
		return fmt.Sprintf("version %d is recorded, version %d is declared, and there is no upcaster from %s",
			info.Version, s.info.Version, strings.Join(missing, ", "))
	}
	key, value := splitCodec(info)
	if myKey, _ := splitCodec(s.info); key != myKey {
		return fmt.Sprintf("the snapshot has its keys encoded as %s, the operator uses %s: upcasters migrate values only", key, myKey)
	}
	if first := have[info.Version]; first.codec != value {
		return fmt.Sprintf("version %d is recorded encoded as %s, and the upcaster from it reads %s", info.Version, value, first.codec)
	}
	return ""
}

// splitCodec returns the codecs of a map's keys and values; other kinds have no keys. Codec names are the user's: a comma in one
// belongs to the values.
func splitCodec(info StateInfo) (key, value string) {
	if info.Kind != KindMap {
		return "", info.Codec
	}
	key, value, _ = strings.Cut(info.Codec, ",")
	return key, value
}

// upcast is how entries of one older version are read.
type upcast struct {
	operator, state string
	from, to        int
	decode          func([]byte) (any, error)
	steps           []*upcaster
	group           int // of the entry that is being read, for errors
}

// path returns how entries of an older version are read, nil for the declared one. The version must have passed the check.
func (s *spec) path(operator string, version int) *upcast {
	if s == nil || version == s.info.Version {
		return nil
	}
	at := slices.IndexFunc(s.upcasters, func(u *upcaster) bool { return u.from == version })
	return &upcast{operator: operator, state: s.info.Name, from: version, to: s.info.Version, decode: s.upcasters[at].decode, steps: s.upcasters[at:]}
}

// UpcastError says that a value of an older schema version could not be migrated: its upcaster returned an error or panicked.
type UpcastError struct {
	Operator, State string
	KeyGroup        int
	From, To        int // versions of the step
	Err             error
}

func (e *UpcastError) Error() string {
	return fmt.Sprintf("operator %s: migrating an entry of state %q in key group %d from version %d to %d: %v: correct the upcaster, or the entry in a copy of the savepoint",
		e.Operator, e.State, e.KeyGroup, e.From, e.To, e.Err)
}

func (e *UpcastError) Unwrap() error { return e.Err }

// run decodes a value and takes it through every step.
func (u *upcast) run(b []byte) (any, error) {
	v, err := u.decode(b)
	if err != nil {
		return nil, err
	}
	for _, step := range u.steps {
		if v, err = call(step, v); err != nil {
			return nil, &UpcastError{Operator: u.operator, State: u.state, KeyGroup: u.group, From: step.from, To: step.from + 1, Err: err}
		}
	}
	return v, nil
}

// call runs the user's function; a panic in it is an error.
func call(u *upcaster, v any) (out any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the upcaster panicked: %v\n%s", p, debug.Stack())
		}
	}()
	return u.step(v)
}

// upcastValue reads a value of an older version.
func upcastValue[T any](b []byte, u *upcast) (T, error) {
	v, err := u.run(b)
	t, _ := v.(T)
	return t, err
}
