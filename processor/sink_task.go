package processor

import (
	"errors"
	"fmt"
	"net/textproto"
	"strings"

	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/tenants"
)

// releaseHeaders is what publishing as part of an atomic batch adds to a message's headers, in bytes, rounded up.
const releaseHeaders = 512

// address checks subjects, headers and sizes against a sink's stream before anything is staged: what could never be published
// must be found here, where a record can still become a dead letter, and not after the commit.
type address struct {
	bound    SinkBinding
	captures []tenants.Filter
	buf      []byte // the last absolute subject, prefix included
	ok       bool   // it was checked and is good
}

func newAddress(b SinkBinding) *address {
	a := &address{bound: b, buf: []byte(b.Prefix)}
	for _, c := range b.Captures {
		a.captures = append(a.captures, tenants.Filter(c))
	}
	return a
}

// absolute returns the subject with the tenant's prefix. It is valid until the next call.
func (a *address) absolute(relative string) (string, error) {
	if a.ok && viewString(a.buf[len(a.bound.Prefix):]) == relative {
		return viewString(a.buf), nil
	}
	a.ok = false
	if err := tenants.ValidateSubject(relative); err != nil {
		return "", err
	}
	return a.join(relative)
}

// join checks and remembers a valid relative subject.
func (a *address) join(relative string) (string, error) {
	a.buf = append(a.buf[:len(a.bound.Prefix)], relative...)
	subject := viewString(a.buf)
	if err := a.captured(subject); err != nil {
		return "", err
	}
	a.ok = true
	return subject, nil
}

var (
	errNotCaptured = errors.New("the sink's stream does not capture the subject")
	errTooLarge    = errors.New("the message is too large for the sink's stream")
	errHeader      = errors.New("the header cannot be published")
)

func (a *address) captured(subject string) error {
	if len(subject) > tenants.MaxSubjectLen {
		return fmt.Errorf("%w: %q has %d bytes, at most %d are allowed", tenants.ErrInvalidSubject, tenants.Printable(subject), len(subject), tenants.MaxSubjectLen)
	}
	if len(a.captures) == 0 {
		return nil
	}
	for _, f := range a.captures {
		if f.Matches(subject) {
			return nil
		}
	}
	return fmt.Errorf("%w: %q is outside stream %s, which captures %s", errNotCaptured, tenants.Printable(subject), a.bound.Stream, strings.Join(a.bound.Captures, ", "))
}

// fits checks headers and size.
func (a *address) fits(subject string, header map[string][]string, data []byte) error {
	size := len(data) + releaseHeaders
	if header != nil {
		n, err := checkHeader(header)
		if err != nil {
			return err
		}
		size += n
	}
	if a.bound.MaxMsg > 0 && size > a.bound.MaxMsg {
		return fmt.Errorf("%w: the message on %s has %d bytes with headers and %s takes %d", errTooLarge, tenants.Printable(subject), size, a.bound.Stream, a.bound.MaxMsg)
	}
	return nil
}

// checkHeader returns the header's size on the wire, or says why it cannot be published.
func checkHeader(header map[string][]string) (int, error) {
	size := 0
	for k, values := range header {
		if err := checkHeaderKey(k); err != nil {
			return 0, err
		}
		for _, v := range values {
			if strings.ContainsAny(v, "\r\n\x00") {
				return 0, fmt.Errorf("%w: the value of %s has a line break", errHeader, k)
			}
			size += len(k) + len(v) + 4
		}
	}
	return size, nil
}

func checkHeaderKey(k string) error {
	if k == "" {
		return fmt.Errorf("%w: a key is empty", errHeader)
	}
	for i := 0; i < len(k); i++ {
		c := k[i]
		if c <= ' ' || c >= 0x7f || c == ':' {
			return fmt.Errorf("%w: the key %q has %q", errHeader, tenants.Printable(k), c)
		}
	}
	canonical := textproto.CanonicalMIMEHeaderKey(k)
	if strings.HasPrefix(canonical, "Nats-") || strings.HasPrefix(canonical, "Weir-") || strings.HasPrefix(canonical, "Kv-") {
		return fmt.Errorf("%w: keys beginning with Nats-, KV- and Weir- are reserved, and this one is %q", errHeader, tenants.Printable(k))
	}
	return nil
}

// sinkSubtask stages one sink's output in one task.
type sinkSubtask struct {
	*address
	task    *task
	name    string
	subtask int
	current *state.Output
	frozen  *state.Output // of the checkpoint in flight
}

func newSinkSubtask(t *task, name string, subtask int, b SinkBinding, upsert bool) *sinkSubtask {
	s := &sinkSubtask{address: newAddress(b), task: t, name: name, subtask: subtask, current: state.NewOutput()}
	if upsert {
		s.current = state.NewUpsertOutput(0)
	}
	return s
}

func (s *sinkSubtask) stage(subject string, header map[string][]string, data []byte) error {
	if err := s.current.Append(subject, header, data); err != nil {
		return fmt.Errorf("%w: %w", errTooLarge, err)
	}
	s.task.counts.out++
	return nil
}

// seal hands over what was staged since the last barrier.
func (s *sinkSubtask) seal() *state.Output {
	s.frozen = s.current
	s.frozen.Seal()
	s.current = s.frozen.Fresh()
	return s.frozen
}

func (s *sinkSubtask) committed() { s.frozen = nil }

func (s *sinkSubtask) aborted() {
	s.current.Prepend(s.frozen)
	s.frozen = nil
}

// collectSink makes the function that stages or publishes an element.
func collectSink[T any](a *assembly, n *node, spec SinkSpec[T]) any {
	t, op := a.task, a.operator(n.name)
	var to *address
	var put func(subject string, header map[string][]string, data []byte) error
	if spec.AtLeastOnce {
		d := newDirectSink(a, n)
		to, put = d.address, d.publish
	} else {
		s := a.output(n, false)
		to, put = s.address, s.stage
	}
	var scratch []byte
	write := func(v T) error {
		relative := spec.FixedSubject
		if spec.Subject != nil {
			relative = spec.Subject(v)
		}
		subject, err := to.absolute(relative)
		if err != nil {
			return err
		}
		var header map[string][]string
		if spec.Header != nil {
			header = spec.Header(v)
		}
		data, err := spec.Codec.Append(scratch[:0], v)
		if err != nil {
			return fmt.Errorf("encoding as %s: %w", spec.Codec.Name(), err)
		}
		scratch = data
		if err := to.fits(subject, header, data); err != nil {
			return err
		}
		return put(subject, header, data)
	}
	return guarded(t, op, write)
}

// guarded runs a sink's write as an operator. Whatever it refuses is the element's fault.
func guarded[T any](t *task, op int32, write func(T) error) func(T) {
	return func(v T) {
		prev := t.op
		t.op = op
		if err := write(v); err != nil {
			t.poison(op, err)
		}
		t.op = prev
	}
}

// kvDelete marks a KV entry as deleted, as the KV client does.
var kvDelete = map[string][]string{"KV-Operation": {"DEL"}}

// collectKV makes the function that stages an element's write or delete.
func collectKV[T any](a *assembly, n *node, spec KVSpec[T]) any {
	s := a.output(n, true)
	var scratch []byte
	write := func(v T) error {
		key := spec.Key(v)
		if len(key) > tenants.MaxSubjectLen {
			return fmt.Errorf("%w: the key has %d bytes", tenants.ErrInvalidSubject, len(key))
		}
		subject, err := s.join(tenants.EscapeToken(key))
		if err != nil {
			return err
		}
		if spec.Delete != nil && spec.Delete(v) {
			return s.stage(subject, kvDelete, nil)
		}
		data, err := spec.Codec.Append(scratch[:0], v)
		if err != nil {
			return fmt.Errorf("encoding as %s: %w", spec.Codec.Name(), err)
		}
		scratch = data
		if err := s.fits(subject, nil, data); err != nil {
			return err
		}
		return s.stage(subject, nil, data)
	}
	return guarded(a.task, a.operator(n.name), write)
}
