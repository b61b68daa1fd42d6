package processor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"

	"github.com/weirstream/weir/tenants"
)

// Param is a parameter of a topology that each tenant may set in its JobConfig. It is an immutable package value; the value of
// a job is fixed when the job starts and kept in its manifests.
type Param[T any] struct {
	name       string
	def        T
	validators []func(T) error
}

// NewParam declares a parameter. The default must pass the validators; Build reports it otherwise. T must be what JSON can carry.
func NewParam[T any](name string, def T, validators ...func(T) error) *Param[T] {
	return &Param[T]{name: name, def: def, validators: validators}
}

// Name returns the parameter's name.
func (p *Param[T]) Name() string { return p.name }

// Validate checks the declaration.
func (p *Param[T]) Validate() error {
	if p == nil {
		return errors.New("a parameter is nil")
	}
	if err := tenants.ValidateName("parameter", p.name); err != nil {
		return err
	}
	if _, err := json.Marshal(p.def); err != nil {
		return fmt.Errorf("parameter %s: encoding its default as JSON: %w", p.name, err)
	}
	if err := p.check(p.def); err != nil {
		return fmt.Errorf("parameter %s: its default is invalid: %w", p.name, err)
	}
	return nil
}

// Get returns the job's value. If the operator does not declare the parameter with Uses, the job fails with an error that names
// both and Get returns the default.
func (p *Param[T]) Get(pc OperatorContext) T {
	c := pc.operator()
	for i := range c.params {
		if c.params[i].param == param(p) {
			return *c.params[i].value.(*T)
		}
	}
	c.task.fail(Terminal(&UndeclaredError{Operator: c.name, Kind: "parameter", Name: p.name}))
	return p.def
}

func (p *Param[T]) check(v T) error {
	for _, ok := range p.validators {
		if err := ok(v); err != nil {
			return err
		}
	}
	return nil
}

// param is a Param of any type.
type param interface {
	Declared
	paramName() string
	info() ParamInfo
	resolve(set json.RawMessage) (any, error) // a *T
}

func (p *Param[T]) paramName() string { return p.name }

func (p *Param[T]) info() ParamInfo {
	def, err := json.Marshal(p.def)
	if err != nil { // Validate has encoded it before
		def = nil
	}
	return ParamInfo{Name: p.name, Type: reflect.TypeFor[T]().String(), Default: def}
}

func (p *Param[T]) resolve(set json.RawMessage) (any, error) {
	v := new(T)
	if set == nil {
		*v = p.def
		return v, nil
	}
	d := json.NewDecoder(bytes.NewReader(set))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return nil, fmt.Errorf("parameter %s: decoding %s as %s: %w", p.name, tenants.Printable(string(set)), reflect.TypeFor[T](), err)
	}
	if err := p.check(*v); err != nil {
		return nil, fmt.Errorf("parameter %s: value %s: %w", p.name, tenants.Printable(string(set)), err)
	}
	return v, nil
}
