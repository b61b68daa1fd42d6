package processor

import (
	"errors"
	"fmt"
	"time"

	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// SourceSpec says what a source reads.
type SourceSpec[T any] struct {
	// Filters are relative to the tenant: "orders.>". A record that any of them matches is passed on. At least one. Several are
	// read through the narrowest single filter that covers them; the rest is dropped.
	Filters []tenants.Filter
	// Codec decodes a record's payload. A record that it refuses goes to the dead letters. It must not keep the bytes.
	Codec codec.Codec[T]
	// Stream names the stream, where the filters alone do not say which. Zero: the one that captures the filter.
	Stream string
	// Barriers says how this source wants barriers. The carrier is the same for all sources of a job, and the job's configuration
	// has the last word. Zero: in the stream where Weir created it, else at the reader.
	Barriers BarrierMode
	// EventTime says where the elements' times come from and how the watermark follows. Zero: the time at which the server stored
	// the record, in order.
	EventTime Timestamps[T]
}

type sourceDecl struct {
	stream   string
	filters  []tenants.Filter
	cover    tenants.Filter
	codec    string
	barriers BarrierMode
	bucket   string // of rules; then the fields above but codec are empty
	shared   bool
}

// From reads a stream of the tenant.
func From[T any](b *Builder, name string, spec SourceSpec[T]) Stream[T] {
	decl := &sourceDecl{stream: spec.Stream, filters: append([]tenants.Filter(nil), spec.Filters...), barriers: spec.Barriers}
	n := b.add(&node{kind: KindSource, name: name, at: callerLine(2), source: decl}, true)
	n.require(len(spec.Filters) == 0, "SourceSpec.Filters is empty: name at least one subject filter, relative to the tenant")
	for _, f := range spec.Filters {
		if err := f.Validate(); err != nil {
			b.fail(n.label(), n.at, fmt.Errorf("SourceSpec.Filters: %w", err))
		}
	}
	decl.cover = tenants.Cover(decl.filters)
	if spec.Codec == nil {
		n.require(true, "SourceSpec.Codec is nil: use one of package codec, for example codec.JSON")
	} else {
		decl.codec = spec.Codec.Name()
	}
	switch spec.Barriers {
	case BarriersDefault, BarriersInStream, BarriersAtReader:
	default:
		n.require(true, fmt.Sprintf("SourceSpec.Barriers is %q: use %q, %q or leave it empty", spec.Barriers, BarriersInStream, BarriersAtReader))
	}
	if err := checkStreamName(spec.Stream); err != nil {
		b.fail(n.label(), n.at, fmt.Errorf("SourceSpec.Stream: %w", err))
	}
	spec.EventTime.validate(n)
	n.collect = func(a *assembly, n *node) any { return collectSource(a, n, spec) }
	return Stream[T]{n}
}

// collectSource makes the function that decodes a record and runs it through the task, and then moves the source's watermark.
func collectSource[T any](a *assembly, n *node, spec SourceSpec[T]) any {
	out, t, decode := fan[T](a, n), a.task, spec.Codec.Decode
	c, extract := a.clock(n, &spec.EventTime.opts), spec.EventTime.extract
	watermark, _ := spec.EventTime.opts.watermark.(func(T, time.Time, time.Time) time.Time)
	return func(data []byte) {
		v, err := decode(data)
		if err != nil {
			t.poison(t.op, fmt.Errorf("decoding the record as %s: %w", n.source.codec, err))
			return
		}
		at := t.origin.time
		if extract != nil {
			var ok bool
			if at, ok = c.stamp(extract(v)); !ok {
				return
			}
		}
		t.at = at
		out(v)
		switch {
		case watermark != nil:
			c.propose(watermark(v, fromNanos(at), fromNanos(c.line.watermark)))
		case at >= c.next:
			c.saw(at)
		}
	}
}

var errStreamName = errors.New("a stream's name has no spaces, dots, wildcards or slashes")

// checkStreamName applies the server's rules for stream and bucket names.
func checkStreamName(s string) error {
	for _, c := range s {
		switch {
		case c <= ' ', c == 0x7f, c == '.', c == '*', c == '>', c == '/', c == '\\':
			return fmt.Errorf("%q: %w", tenants.Printable(s), errStreamName)
		}
	}
	if len(s) > 255 {
		return fmt.Errorf("%q: it is longer than 255 bytes", tenants.Printable(s))
	}
	return nil
}
