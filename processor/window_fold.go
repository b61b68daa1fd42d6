package processor

import (
	"slices"
)

// Aggregator folds a window's elements into an accumulator as they come. Accumulators belong to the state, and a snapshot may be
// reading them: no method changes what an accumulator refers to (a map, a slice's elements); Add may append to a slice.
type Aggregator[In, Acc, Out any] interface {
	// Init returns an empty accumulator.
	Init() Acc
	Add(acc Acc, in In) Acc
	// Merge joins two accumulators, the earlier first: slices of a sliding window, sessions that become one. It changes neither.
	Merge(a, b Acc) Acc
	// Result makes what is emitted for a pane. The accumulator goes on being used.
	Result(pane Pane, acc Acc) Out
}

// folder is how a window operator keeps elements of type T.
type folder[T, Acc any] interface {
	first(v T) Acc
	add(acc Acc, v T) Acc
	merge(a, b Acc) Acc
	// mergeAll joins at least one accumulator, earliest first.
	mergeAll(parts []Acc) Acc
}

type aggregateFolder[In, Acc, Out any] struct{ agg Aggregator[In, Acc, Out] }

func (f *aggregateFolder[In, Acc, Out]) first(v In) Acc        { return f.agg.Add(f.agg.Init(), v) }
func (f *aggregateFolder[In, Acc, Out]) add(acc Acc, v In) Acc { return f.agg.Add(acc, v) }
func (f *aggregateFolder[In, Acc, Out]) merge(a, b Acc) Acc    { return f.agg.Merge(a, b) }
func (f *aggregateFolder[In, Acc, Out]) mergeAll(parts []Acc) Acc {
	acc := parts[0]
	for _, p := range parts[1:] {
		acc = f.agg.Merge(acc, p)
	}
	return acc
}

type reduceFolder[T any] struct{ fn func(a, b T) T }

func (f *reduceFolder[T]) first(v T) T    { return v }
func (f *reduceFolder[T]) add(acc, v T) T { return f.fn(acc, v) }
func (f *reduceFolder[T]) merge(a, b T) T { return f.fn(a, b) }

func (f *reduceFolder[T]) mergeAll(parts []T) T {
	acc := parts[0]
	for _, p := range parts[1:] {
		acc = f.fn(acc, p)
	}
	return acc
}

// listFolder keeps all elements.
type listFolder[T any] struct{}

func (listFolder[T]) first(v T) []T { return []T{v} }

// A frozen list keeps its length: appending behind it, in the same array or another, does not change it.
func (listFolder[T]) add(acc []T, v T) []T { return append(acc, v) }

func (listFolder[T]) merge(a, b []T) []T { return slices.Concat(a, b) }

func (listFolder[T]) mergeAll(parts [][]T) []T {
	if len(parts) == 1 {
		return parts[0]
	}
	return slices.Concat(parts...)
}
