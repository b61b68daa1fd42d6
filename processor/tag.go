package processor

import (
	"errors"

	"github.com/weirstream/weir/tenants"
)

// OutputTag names a side output of elements of type T. It is an immutable package value.
type OutputTag[T any] struct{ name string }

// NewOutputTag declares a side output. An operator that emits to it lists it in Uses; SideOutput reads it.
func NewOutputTag[T any](name string) *OutputTag[T] { return &OutputTag[T]{name: name} }

// Name returns the tag's name.
func (t *OutputTag[T]) Name() string { return t.name }

// Validate checks the declaration.
func (t *OutputTag[T]) Validate() error {
	if t == nil {
		return errors.New("an output tag is nil")
	}
	return tenants.ValidateName("output tag", t.name)
}

// Emit sends v to the side output. Without a SideOutput that reads it, v is dropped. If the operator does not declare the tag
// with Uses, the job fails with an error that names both.
func (t *OutputTag[T]) Emit(pc OperatorContext, v T) {
	c := pc.operator()
	for i := range c.tags {
		if c.tags[i].tag == outputTag(t) {
			c.tags[i].emit.(func(T))(v)
			return
		}
	}
	c.task.fail(Terminal(&UndeclaredError{Operator: c.name, Kind: "output tag", Name: t.name}))
}

// outputTag is an OutputTag of any type.
type outputTag interface {
	Declared
	tagName() string
	sideFan(a *assembly, n *node) any // func(T): to every SideOutput of this tag on n
}

func (t *OutputTag[T]) tagName() string { return t.name }

func (t *OutputTag[T]) sideFan(a *assembly, n *node) any {
	var outs []func(T)
	for _, side := range a.sideOutputs(n, t) {
		outs = append(outs, a.collector(side).(func(T)))
	}
	return func(v T) {
		for _, out := range outs {
			out(v)
		}
	}
}
