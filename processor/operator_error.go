package processor

import (
	"fmt"

	"github.com/weirstream/weir/tenants"
)

// OperatorError says where user code failed.
type OperatorError struct {
	Where
	Err error
}

func (e *OperatorError) Error() string { return fmt.Sprintf("%s: %v", e.Where, e.Err) }
func (e *OperatorError) Unwrap() error { return e.Err }

// PanicError is a panic in user code.
type PanicError struct {
	Where
	Value any
	Stack []byte
}

func (e *PanicError) Error() string {
	return fmt.Sprintf("%s: panic: %v\n%s", e.Where, e.Value, e.Stack)
}

// Where is a place in a running job.
type Where struct {
	Job      tenants.JobID
	Operator string
	Stream   string // of the record being processed; empty in a timer
	Seq      uint64
}

func (w Where) String() string {
	s := fmt.Sprintf("job %s: operator %s", w.Job, w.Operator)
	if w.Stream != "" {
		s += fmt.Sprintf(" at sequence %d of stream %s", w.Seq, w.Stream)
	}
	return s
}

func (t *task) where(op int32) Where {
	w := Where{Job: t.job}
	if int(op) < len(t.operators) {
		w.Operator = t.operators[op]
	}
	if o := t.origin; o.source != nil {
		w.Stream, w.Seq = o.source.stream, o.seq
	}
	return w
}
