package state

import "fmt"

// Value declares a state with one value per key.
type Value[T any] struct{ *spec }

// NewValue declares a value state. Problems are reported by Validate.
func NewValue[T any](name string, opts ...Option) *Value[T] {
	return &Value[T]{declareValue[T](name, KindValue, opts)}
}

func declareValue[T any](name, kind string, opts []Option) *spec {
	s, o := declare(name, kind, opts)
	c := choose[T](s, o.codec)
	s.info.Codec = c.Name()
	migrate[T](s, o)
	s.newTable = func(b *Backend) table {
		if s.ttl.by != NoExpiry {
			return newTimedTable(b, name, s.ttl, c, upcastValue[T], sizer[T]())
		}
		return newValueTable(b, name, c, upcastValue[T], sizer[T]())
	}
	return s
}

// Get returns the key's value, or the zero value.
func (d *Value[T]) Get(c Context) (T, error) {
	v, _, err := d.Lookup(c)
	return v, err
}

// Lookup returns the key's value and whether there is one.
func (d *Value[T]) Lookup(c Context) (v T, ok bool, err error) { return lookup[T](c, d.spec) }

// lookup returns what a state has for the current key.
func lookup[T any](c Context, s *spec) (v T, ok bool, err error) {
	if s.ttl.by != NoExpiry {
		t, err := tableOf[*timedTable[T]](c, s)
		if err != nil {
			return v, false, err
		}
		v, ok = t.get()
		return v, ok, nil
	}
	t, err := tableOf[*valueTable[T]](c, s)
	if err != nil {
		return v, false, err
	}
	v, ok = t.get()
	return v, ok, nil
}

// change sets what fn makes of what a state has for the current key.
func change[T any](c Context, s *spec, fn func(old T, ok bool) T) error {
	t, err := tableOf[*timedTable[T]](c, s)
	if err != nil {
		return err
	}
	return t.set(fn(t.get()))
}

// Set sets the key's value. What v refers to must not be changed any more. A *QuotaError says that there is no room.
func (d *Value[T]) Set(c Context, v T) error {
	if d.ttl.by != NoExpiry {
		return change(c, d.spec, func(T, bool) T { return v })
	}
	t, err := tableOf[*valueTable[T]](c, d.spec)
	if err != nil {
		return err
	}
	return t.set(v)
}

// Clear removes the key's value.
func (d *Value[T]) Clear(c Context) error {
	if d.ttl.by != NoExpiry {
		t, err := tableOf[*timedTable[T]](c, d.spec)
		if err != nil {
			return err
		}
		t.clear()
		return nil
	}
	t, err := tableOf[*valueTable[T]](c, d.spec)
	if err != nil {
		return err
	}
	t.clear()
	return nil
}

// Reducing declares a state that folds what is added into one value of the same type per key.
type Reducing[T any] struct {
	*spec
	reduce func(a, b T) T
}

// NewReducing declares a reducing state. reduce gives a new value and changes neither of its arguments.
func NewReducing[T any](name string, reduce func(a, b T) T, opts ...Option) *Reducing[T] {
	d := &Reducing[T]{declareValue[T](name, KindReducing, opts), reduce}
	if reduce == nil {
		d.fail("the reduce function is nil")
	}
	return d
}

// Add folds v into the key's value; the first one is taken as it is.
func (d *Reducing[T]) Add(c Context, v T) error {
	if d.ttl.by != NoExpiry {
		return change(c, d.spec, func(old T, ok bool) T {
			if ok {
				return d.reduce(old, v)
			}
			return v
		})
	}
	t, err := tableOf[*valueTable[T]](c, d.spec)
	if err != nil {
		return err
	}
	if old, ok := t.get(); ok {
		v = d.reduce(old, v)
	}
	return t.set(v)
}

// Get returns the key's value and whether anything was added.
func (d *Reducing[T]) Get(c Context) (v T, ok bool, err error) { return lookup[T](c, d.spec) }

// Clear removes the key's value.
func (d *Reducing[T]) Clear(c Context) error { return (&Value[T]{d.spec}).Clear(c) }

// Aggregator folds inputs into an accumulator. Add gives a new accumulator, or changes only what it shares with nobody: an
// accumulator that was given to state belongs to it.
type Aggregator[In, Acc, Out any] interface {
	Init() Acc
	Add(acc Acc, in In) Acc
	Result(acc Acc) Out
}

// Aggregating declares a state that folds inputs into an accumulator per key.
type Aggregating[In, Acc, Out any] struct {
	*spec
	agg Aggregator[In, Acc, Out]
}

// NewAggregating declares an aggregating state; its codec is the accumulator's. All type arguments are inferred.
func NewAggregating[A Aggregator[In, Acc, Out], In, Acc, Out any](name string, agg A, opts ...Option) *Aggregating[In, Acc, Out] {
	d := &Aggregating[In, Acc, Out]{declareValue[Acc](name, KindAggregating, opts), agg}
	if any(agg) == nil {
		d.fail("the aggregator is nil")
	}
	return d
}

// Add folds in into the key's accumulator.
func (d *Aggregating[In, Acc, Out]) Add(c Context, in In) error {
	if d.ttl.by != NoExpiry {
		return change(c, d.spec, func(acc Acc, ok bool) Acc {
			if !ok {
				acc = d.agg.Init()
			}
			return d.agg.Add(acc, in)
		})
	}
	t, err := tableOf[*valueTable[Acc]](c, d.spec)
	if err != nil {
		return err
	}
	acc, ok := t.get()
	if !ok {
		acc = d.agg.Init()
	}
	return t.set(d.agg.Add(acc, in))
}

// Get returns the result of the key's accumulator and whether anything was added.
func (d *Aggregating[In, Acc, Out]) Get(c Context) (out Out, ok bool, err error) {
	acc, ok, err := lookup[Acc](c, d.spec)
	if err != nil || !ok {
		return out, false, err
	}
	return d.agg.Result(acc), true, nil
}

// Clear removes the key's accumulator.
func (d *Aggregating[In, Acc, Out]) Clear(c Context) error { return (&Value[Acc]{d.spec}).Clear(c) }

// tableOf finds a declared state's table.
func tableOf[T table](c Context, s *spec) (T, error) {
	b := c.StateBackend()
	if b != nil {
		for i := range b.slots {
			if b.slots[i].spec == s {
				return b.slots[i].table.(T), nil
			}
		}
	}
	var none T
	if b == nil {
		return none, fmt.Errorf("accessing state %q: %w", s.info.Name, ErrNoState)
	}
	return none, &UndeclaredError{Operator: b.cfg.Operator, State: s.info.Name}
}
