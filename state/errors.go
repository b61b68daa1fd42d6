package state

import (
	"fmt"
	"strings"
)

// UndeclaredError says that an operator accessed a state it did not declare.
type UndeclaredError struct {
	Operator, State string
}

func (e *UndeclaredError) Error() string {
	return fmt.Sprintf("operator %s accesses state %q that it does not declare: add the descriptor to the operator's declaration",
		e.Operator, e.State)
}

// QuotaError says that a write would exceed a limit of the job. Nothing was written.
type QuotaError struct {
	Tenant, Job, Operator, State string
	What                         string // "key bytes", "state bytes"
	Limit, Need                  int64
}

func (e *QuotaError) Error() string {
	return fmt.Sprintf("job %s/%s: operator %s: state %q needs %d %s, the limit is %d: raise the quota or keep less",
		e.Tenant, e.Job, e.Operator, e.State, e.Need, e.What, e.Limit)
}

// FormatError says that bytes are not what an encoder of this package wrote: truncated, changed or forged.
type FormatError struct {
	What   string // "snapshot", "pending output"
	Detail string
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("reading a %s object: %s: it was changed or cut off after it was written", e.What, e.Detail)
}

func formatErrorf(what, format string, args ...any) error {
	return &FormatError{what, fmt.Sprintf(format, args...)}
}

// ForeignError says that an object is whole, but belongs to somebody else.
type ForeignError struct {
	What      string
	Has, Want string
}

func (e *ForeignError) Error() string {
	return fmt.Sprintf("reading a %s object: it belongs to %s, expected %s", e.What, e.Has, e.Want)
}

// Problem is one reason why a snapshot does not fit the operator.
type Problem struct {
	State      string
	Detail     string
	Undeclared bool // the operator does not declare the state: it may be dropped if the user allows it
}

// CompatibilityError lists every reason why a snapshot does not fit the operator.
type CompatibilityError struct {
	Operator string
	Problems []Problem
}

func (e *CompatibilityError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "operator %s cannot use the snapshot:", e.Operator)
	for i, p := range e.Problems {
		if i > 0 {
			b.WriteByte(';')
		}
		fmt.Fprintf(&b, " state %q: %s", p.State, p.Detail)
	}
	return b.String()
}
