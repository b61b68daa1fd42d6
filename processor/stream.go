package processor

import (
	"errors"
)

// Stream is the output of an operator, in a topology under construction.
type Stream[T any] struct{ n *node }

// KeyedStream is a stream whose elements have a key. Only it reaches keyed state and timers.
type KeyedStream[T any] struct{ n *node }

// node returns the operator behind the handle. A zero handle has no builder that could collect the mistake, and what is built on
// it would silently be in no topology: that is a bug, and panics.
func (s Stream[T]) node(at string) *node {
	if s.n == nil {
		panic(at + ": the input is a zero Stream: use what processor.From or an operator returned")
	}
	return s.n
}

// Builder returns the builder of the topology that the stream is in.
func (s Stream[T]) Builder() *Builder { return s.node("Stream.Builder").b }

func (s KeyedStream[T]) node(at string) *node { return Stream[T](s).node(at) }

// Map applies fn to every element. It gets no context; a function that may refuse an element is a FlatMap.
func Map[In, Out any](s Stream[In], name string, fn func(In) Out) Stream[Out] {
	in := s.node(callerLine(2))
	n := in.b.add(&node{kind: KindMap, name: name, at: callerLine(2), inputs: []*node{in}}, true)
	n.require(fn == nil, "its function is nil")
	n.collect = func(a *assembly, n *node) any {
		out, t, op := fan[Out](a, n), a.task, a.operator(n.name)
		return func(v In) {
			prev := t.op
			t.op = op
			u := fn(v)
			t.op = prev
			out(u)
		}
	}
	return Stream[Out]{n}
}

// FlatMap applies fn, which emits any number of elements and may return an error; see Poison.
func FlatMap[In, Out any](s Stream[In], name string, fn func(v In, emit func(Out)) error) Stream[Out] {
	in := s.node(callerLine(2))
	n := in.b.add(&node{kind: KindFlatMap, name: name, at: callerLine(2), inputs: []*node{in}}, true)
	n.require(fn == nil, "its function is nil")
	n.collect = func(a *assembly, n *node) any {
		out, t, op := fan[Out](a, n), a.task, a.operator(n.name)
		return func(v In) {
			prev := t.op
			t.op = op
			if err := fn(v, out); err != nil {
				t.userError(op, err)
			}
			t.op = prev
		}
	}
	return Stream[Out]{n}
}

// Filter keeps the elements for which keep returns true.
func Filter[T any](s Stream[T], name string, keep func(T) bool) Stream[T] {
	in := s.node(callerLine(2))
	n := in.b.add(&node{kind: KindFilter, name: name, at: callerLine(2), inputs: []*node{in}}, true)
	n.require(keep == nil, "its function is nil")
	n.collect = func(a *assembly, n *node) any {
		out, t, op := fan[T](a, n), a.task, a.operator(n.name)
		return func(v T) {
			prev := t.op
			t.op = op
			ok := keep(v)
			t.op = prev
			if ok {
				out(v)
			}
		}
	}
	return Stream[T]{n}
}

// Union merges streams. Elements of one input keep their order; between inputs there is none.
func Union[T any](name string, first Stream[T], rest ...Stream[T]) Stream[T] {
	at := callerLine(2)
	inputs := []*node{first.node(at)}
	for _, s := range rest {
		inputs = append(inputs, s.node(at))
	}
	n := inputs[0].b.add(&node{kind: KindUnion, name: name, at: at, inputs: inputs}, true)
	n.collect = func(a *assembly, n *node) any { return fan[T](a, n) }
	return Stream[T]{n}
}

// KeyBy gives every element a key. All elements of a key are processed by one subtask, in order. Keys made of several parts go
// through CompositeKey.
func KeyBy[T any](s Stream[T], key func(T) string) KeyedStream[T] {
	at := callerLine(2)
	return KeyedStream[T]{keyBy(s.node(at), at, key)}
}

func keyBy[T any](in *node, at string, key func(T) string) *node {
	n := in.b.add(&node{kind: KindKeyBy, at: at, inputs: []*node{in}, keyOf: key}, false)
	n.require(key == nil, "its key function is nil")
	n.collect = func(a *assembly, n *node) any {
		if a.cuts(n) {
			return newExchange(a, n, key).push
		}
		out, t, op := fanKeyed[T](a, n), a.task, a.operator(n.label())
		return func(v T) {
			prev := t.op
			t.op = op
			k := key(v)
			t.op = prev
			out(k, v)
		}
	}
	n.receive = func(a *assembly, n *node) receiver { return newReceiver(a, n, fanKeyed[T](a, n)) }
	return n
}

// SideOutput is the stream of elements that the operator behind s emits to the tag. The operator must declare the tag with Uses.
func SideOutput[Main, T any](s Stream[Main], tag *OutputTag[T]) Stream[T] {
	at := callerLine(2)
	in := s.node(at)
	if tag == nil {
		tag = NewOutputTag[T]("nil")
		in.b.fail(in.label(), at, errors.New("SideOutput with a nil tag"))
	}
	n := in.b.add(&node{kind: KindSideOutput, at: at, inputs: []*node{in}, tag: tag}, false)
	n.require(in.process == nil || !in.process.declares(tag), "operator "+in.label()+" does not declare the tag "+tag.name+": add it to its Uses")
	n.collect = func(a *assembly, n *node) any { return fan[T](a, n) }
	return Stream[T]{n}
}

// require records a mistake of the node's declaration.
func (n *node) require(wrong bool, problem string) {
	if wrong {
		n.b.fail(n.label(), n.at, errors.New(problem))
	}
}

// fan returns the function that hands an element of n to all its consumers in this task.
func fan[T any](a *assembly, n *node) func(T) {
	var outs []func(T)
	for _, c := range a.consumers(n) {
		outs = append(outs, c.(func(T)))
	}
	switch len(outs) {
	case 0:
		return func(T) {}
	case 1:
		return outs[0]
	}
	return func(v T) {
		for _, out := range outs {
			out(v)
		}
	}
}

// fanKeyed is fan behind a KeyBy.
func fanKeyed[T any](a *assembly, n *node) func(string, T) {
	var outs []func(string, T)
	for _, c := range a.consumers(n) {
		outs = append(outs, c.(func(string, T)))
	}
	if len(outs) == 1 {
		return outs[0]
	}
	return func(key string, v T) {
		for _, out := range outs {
			out(key, v)
		}
	}
}
