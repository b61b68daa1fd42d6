package processor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/weirstream/weir/state/codec"
)

// A join is made of two keyed streams. Their elements are put into one stream of either, which is keyed once, so that both sides of
// a key meet in one subtask and in one order; the operator behind it has the state of both.

// either is an element of the left or of the right side. The fields are exported for the default codec.
type either[L, R any] struct {
	Right bool `msgpack:"r,omitempty"`
	L     L    `msgpack:"a"`
	R     R    `msgpack:"b"`
}

// JoinOption is an option of IntervalJoin, IntervalLeftJoin and WindowJoin.
type JoinOption func(*joinDecl)

type joinDecl struct {
	uses      []Declared
	lateLeft  outputTag
	lateRight outputTag
	left      any // codec.Codec[L]
	right     any // codec.Codec[R]
	errs      []error
}

// JoinUses declares what the join's function uses, as Uses does for Process.
func JoinUses(declared ...Declared) JoinOption {
	return func(d *joinDecl) { d.uses = append(d.uses, declared...) }
}

// LateLeft sends late elements of the left side to a side output, to be read with SideOutput. Without it they are only counted
// (TaskMetrics.LateElements). L must be the left side's element.
func LateLeft[L any](tag *OutputTag[L]) JoinOption {
	return func(d *joinDecl) {
		if tag == nil {
			d.fail("the tag of LateLeft is nil")
			return
		}
		d.lateLeft = tag
	}
}

// LateRight is LateLeft of the right side.
func LateRight[R any](tag *OutputTag[R]) JoinOption {
	return func(d *joinDecl) {
		if tag == nil {
			d.fail("the tag of LateRight is nil")
			return
		}
		d.lateRight = tag
	}
}

// JoinState sets how the elements that wait for others are kept. Without it each side has the default codec of its type.
func JoinState[L, R any](left codec.Codec[L], right codec.Codec[R]) JoinOption {
	return func(d *joinDecl) {
		if left == nil || right == nil {
			d.fail("a codec of JoinState is nil")
			return
		}
		d.left, d.right = left, right
	}
}

func (d *joinDecl) fail(format string, args ...any) {
	d.errs = append(d.errs, fmt.Errorf(format, args...))
}

// joinOptions applies options and checks their types against the join's sides.
func joinOptions[L, R any](opts []JoinOption) *joinDecl {
	d := &joinDecl{}
	for i, opt := range opts {
		if opt == nil {
			d.fail("option %d of the join is nil", i+1)
			continue
		}
		opt(d)
	}
	if d.lateLeft != nil {
		if _, ok := d.lateLeft.(*OutputTag[L]); !ok {
			d.fail("LateLeft has a %T: it must be a tag of the left side's element, %T", d.lateLeft, (*OutputTag[L])(nil))
		}
		d.uses = append(d.uses, d.lateLeft)
	}
	if d.lateRight != nil {
		if _, ok := d.lateRight.(*OutputTag[R]); !ok {
			d.fail("LateRight has a %T: it must be a tag of the right side's element, %T", d.lateRight, (*OutputTag[R])(nil))
		}
		d.uses = append(d.uses, d.lateRight)
	}
	if d.left != nil {
		_, left := d.left.(codec.Codec[L])
		_, right := d.right.(codec.Codec[R])
		if !left || !right {
			d.fail("JoinState has codecs of other types than the join's sides, %T and %T", *new(L), *new(R))
		}
	}
	return d
}

// codecs are those of the sides.
func codecsOf[L, R any](d *joinDecl) (codec.Codec[L], codec.Codec[R]) {
	left, lok := d.left.(codec.Codec[L])
	right, rok := d.right.(codec.Codec[R])
	if !lok || !rok {
		return codec.Default[L](), codec.Default[R]()
	}
	return left, right
}

// meet puts both sides into one keyed stream.
func meet[L, R any](left KeyedStream[L], right KeyedStream[R], at string) *node {
	l, r := left.node(at), right.node(at)
	keyL, okL := l.keyOf.(func(L) string)
	keyR, okR := r.keyOf.(func(R) string)
	if !okL || !okR {
		panic(at + ": an input of the join is no KeyBy: use what processor.KeyBy returned")
	}
	l.joined, r.joined = true, true
	b := l.b
	leftIn := b.add(&node{kind: KindJoinInput, at: at, inputs: l.inputs}, false)
	leftIn.collect = func(a *assembly, n *node) any {
		out := fan[either[L, R]](a, n)
		return func(v L) { out(either[L, R]{L: v}) }
	}
	rightIn := b.add(&node{kind: KindJoinInput, at: at, inputs: r.inputs}, false)
	rightIn.collect = func(a *assembly, n *node) any {
		out := fan[either[L, R]](a, n)
		return func(v R) { out(either[L, R]{Right: true, R: v}) }
	}
	both := b.add(&node{kind: KindUnion, at: at, inputs: []*node{leftIn, rightIn}}, false)
	both.collect = func(a *assembly, n *node) any { return fan[either[L, R]](a, n) }
	if keyL == nil || keyR == nil { // reported by KeyBy
		keyL, keyR = func(L) string { return "" }, func(R) string { return "" }
	}
	return keyBy(both, at, func(e either[L, R]) string {
		if e.Right {
			return keyR(e.R)
		}
		return keyL(e.L)
	})
}

// lateSides hands late elements of either side to its tag.
type lateSides[L, R any] struct {
	left  *OutputTag[L]
	right *OutputTag[R]
}

func (l *lateSides[L, R]) emit(a *assembly, n *node) func(either[L, R]) {
	left, right := func(L) {}, func(R) {}
	if l.left != nil {
		left = l.left.sideFan(a, n).(func(L))
	}
	if l.right != nil {
		right = l.right.sideFan(a, n).(func(R))
	}
	return func(e either[L, R]) {
		if e.Right {
			right(e.R)
		} else {
			left(e.L)
		}
	}
}

func lateOf[L, R any](d *joinDecl) *lateSides[L, R] {
	l := &lateSides[L, R]{}
	l.left, _ = d.lateLeft.(*OutputTag[L])
	l.right, _ = d.lateRight.(*OutputTag[R])
	return l
}

// waiting is an element that waits for others of the other side.
type waiting[T any] struct {
	V T
	// Matched says that there was one, for left joins.
	Matched bool
}

// waitingCodec writes, for each element, its length shifted left by one with the flag in the lowest bit, and its bytes.
type waitingCodec[T any] struct{ elem codec.Codec[T] }

func (c *waitingCodec[T]) Name() string { return "waiting " + c.elem.Name() }

func (c *waitingCodec[T]) Append(dst []byte, list []waiting[T]) ([]byte, error) {
	var buf []byte
	for i := range list {
		var err error
		if buf, err = c.elem.Append(buf[:0], list[i].V); err != nil {
			return dst, err
		}
		head := uint64(len(buf)) << 1
		if list[i].Matched {
			head |= 1
		}
		dst = append(binary.AppendUvarint(dst, head), buf...)
	}
	return dst, nil
}

var errWaiting = errors.New("the list of elements of a join is malformed")

func (c *waitingCodec[T]) Decode(b []byte) ([]waiting[T], error) {
	var list []waiting[T]
	for len(b) > 0 {
		head, n := binary.Uvarint(b)
		if n <= 0 || head>>1 > uint64(len(b)-n) {
			return nil, fmt.Errorf("%w: %w", codec.ErrMalformed, errWaiting)
		}
		end := n + int(head>>1)
		v, err := c.elem.Decode(b[n:end])
		if err != nil {
			return nil, err
		}
		list = append(list, waiting[T]{V: v, Matched: head&1 != 0})
		b = b[end:]
	}
	return list, nil
}

// Interval says which elements of the right side an element of the left side meets.
type Interval struct{ before, after time.Duration }

// Within is the interval from before the left element's time to after it, both ends included: a right element at r meets a left
// one at l when l-before <= r <= l+after. Either may be negative: Within(-time.Hour, 2*time.Hour) is from one to two hours later.
func Within(before, after time.Duration) Interval { return Interval{before, after} }

func (i Interval) validate() error {
	const most = maxWindow
	switch {
	case i.before < -most || i.before > most || i.after < -most || i.after > most:
		return fmt.Errorf("Within(%v, %v): at most %v in either direction", i.before, i.after, most)
	case i.after < -i.before:
		return fmt.Errorf("Within(%v, %v): the interval ends before it begins", i.before, i.after)
	}
	return nil
}
