package processor

import (
	"errors"
	"fmt"
	"iter"

	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
)

// WindowJoin calls fn for every pair of a left and a right element of one key in one window, when the watermark has passed the
// window's end: left elements in the order in which they came, for each the right ones. The assigner is Tumbling, Sliding, Session or
// a count. Late elements are counted and go to LateLeft or LateRight. All elements of a window are kept until it closes.
func WindowJoin[L, R, Out any](left KeyedStream[L], right KeyedStream[R], name string, assigner Assigner, fn func(pc *Context[Out], pane Pane, l L, r R) error, opts ...JoinOption) Stream[Out] {
	at := callerLine(2)
	in := meet(left, right, at)
	d := joinOptions[L, R](opts)
	if assigner.gapOf != nil {
		d.fail("SessionBy does not go with WindowJoin: the sides have different elements: use Session")
		assigner.gapOf = nil
		assigner.gap = 1
	}
	for _, err := range d.errs {
		in.b.fail(name, at, err)
	}
	leftCodec, rightCodec := codecsOf[L, R](d)
	window := []WindowOption{WindowState(state.Codec[[]either[L, R]](&eitherCodec[L, R]{leftCodec, rightCodec}))}
	if d.lateLeft != nil || d.lateRight != nil {
		late := &eitherTag[L, R]{lateOf[L, R](d)}
		window = append(window, func(w *windowDecl) { w.late = late })
	}
	w := windowOf[either[L, R]](in, at, assigner, window)
	n := windowNode(w, at, name, fn == nil, "its function is nil", func(pc *Context[Out]) windowEmit[[]either[L, R]] {
		return func(p *Pane, acc []either[L, R]) error {
			pc.key = p.Key
			pc.backend.SetKey(p.Key)
			for l := range side(acc, false) {
				for r := range side(acc, true) {
					if err := fn(pc, *p, l.L, r.R); err != nil {
						return err
					}
				}
			}
			return nil
		}
	}, func() folder[either[L, R], []either[L, R]] { return listFolder[either[L, R]]{} }, Uses(d.uses...))
	return Stream[Out]{n}
}

// side yields the elements of one side.
func side[L, R any](acc []either[L, R], right bool) iter.Seq[*either[L, R]] {
	return func(yield func(*either[L, R]) bool) {
		for i := range acc {
			if acc[i].Right == right && !yield(&acc[i]) {
				return
			}
		}
	}
}

// eitherTag stands for the late outputs of both sides where a window has one.
type eitherTag[L, R any] struct{ sides *lateSides[L, R] }

// joinTag is an eitherTag of any types.
type joinTag interface{ ofJoin() }

func (*eitherTag[L, R]) ofJoin() {}

// Validate: the tags behind it are declared by themselves.
func (*eitherTag[L, R]) Validate() error { return nil }

func (*eitherTag[L, R]) tagName() string { return "late elements" }

func (t *eitherTag[L, R]) sideFan(a *assembly, n *node) any { return t.sides.emit(a, n) }

// eitherCodec writes, for each element, the side (0 left, 1 right), the length in four bytes, little endian, and its bytes.
type eitherCodec[L, R any] struct {
	left  codec.Codec[L]
	right codec.Codec[R]
}

func (c *eitherCodec[L, R]) Name() string { return "either " + c.left.Name() + " " + c.right.Name() }

func (c *eitherCodec[L, R]) Append(dst []byte, list []either[L, R]) ([]byte, error) {
	for i := range list {
		e := &list[i]
		kind := byte(0)
		if e.Right {
			kind = 1
		}
		at := len(dst)
		dst = append(dst, kind, 0, 0, 0, 0)
		var err error
		if e.Right {
			dst, err = c.right.Append(dst, e.R)
		} else {
			dst, err = c.left.Append(dst, e.L)
		}
		if err != nil {
			return dst, err
		}
		n := len(dst) - at - 5
		dst[at+1], dst[at+2], dst[at+3], dst[at+4] = byte(n), byte(n>>8), byte(n>>16), byte(n>>24)
	}
	return dst, nil
}

var errEither = errors.New("the list of elements of a window join is malformed")

func (c *eitherCodec[L, R]) Decode(b []byte) ([]either[L, R], error) {
	var list []either[L, R]
	for len(b) > 0 {
		if len(b) < 5 || b[0] > 1 {
			return nil, fmt.Errorf("%w: %w", codec.ErrMalformed, errEither)
		}
		n := int(b[1]) | int(b[2])<<8 | int(b[3])<<16 | int(b[4])<<24
		if n > len(b)-5 {
			return nil, fmt.Errorf("%w: %w", codec.ErrMalformed, errEither)
		}
		e, data := either[L, R]{Right: b[0] == 1}, b[5:5+n]
		var err error
		if e.Right {
			e.R, err = c.right.Decode(data)
		} else {
			e.L, err = c.left.Decode(data)
		}
		if err != nil {
			return nil, err
		}
		list = append(list, e)
		b = b[5+n:]
	}
	return list, nil
}
