package processor

import (
	"errors"
	"fmt"
	"strings"

	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// SinkSpec says where a sink publishes. An element that can never be published (a subject that is invalid or outside the sink's
// stream, a message too large, a bad header) goes to the dead letters.
type SinkSpec[T any] struct {
	// Subject computes an element's subject, relative to the tenant. Tokens made of user data go through tenants.EscapeToken.
	Subject func(T) string
	// FixedSubject is the subject of every element, instead of Subject.
	FixedSubject string
	// Subjects are relative filters that cover what Subject returns; they find the stream. Zero: FixedSubject, or Stream decides.
	Subjects []tenants.Filter
	// Stream names the output stream. Zero: the one that captures the subjects.
	Stream string
	// Codec encodes an element.
	Codec codec.Codec[T]
	// Header returns an element's headers, nil for none. Keys beginning with Nats- or Weir- are refused.
	Header func(T) map[string][]string
	// AtLeastOnce publishes at once instead of with the checkpoint: lower latency, but a restart publishes again what came after
	// the last checkpoint, and retried messages may change places.
	AtLeastOnce bool
	// MarkerSubject is where the sink's marker goes when the stream does not capture the default. It is relative to the tenant, may
	// have the token _weir and must have the token {job}, which the job's name replaces: "counts._weir.{job}".
	MarkerSubject string
	// AllowMarkerLoss accepts a stream whose size limits may drop the marker. After such a loss the job stops with an error.
	AllowMarkerLoss bool
}

// sinkDecl is what the broker must know of a sink.
type sinkDecl struct {
	stream          string
	subjects        []tenants.Filter
	bucket          string
	atLeastOnce     bool
	marker          string
	allowMarkerLoss bool
}

func (d *sinkDecl) need(name string, job tenants.JobID, ns tenants.Namespace) SinkNeed {
	need := SinkNeed{
		Sink: name, Stream: d.stream, Subjects: d.subjects, Bucket: d.bucket,
		AtLeastOnce: d.atLeastOnce, AllowMarkerLoss: d.allowMarkerLoss,
	}
	if d.marker != "" {
		need.Marker = ns.Absolute(job.Tenant, strings.ReplaceAll(d.marker, jobPlaceholder, job.Name))
	}
	return need
}

const jobPlaceholder = "{job}"

// To publishes a stream's elements, by default exactly once: they are staged, committed with the checkpoint and released in
// order.
func To[T any](s Stream[T], name string, spec SinkSpec[T]) {
	at := callerLine(2)
	in := s.node(at)
	decl := &sinkDecl{
		stream: spec.Stream, subjects: append([]tenants.Filter(nil), spec.Subjects...), atLeastOnce: spec.AtLeastOnce,
		marker: spec.MarkerSubject, allowMarkerLoss: spec.AllowMarkerLoss,
	}
	n := in.b.add(&node{kind: KindSink, name: name, at: at, inputs: []*node{in}, sink: decl}, true)
	n.require(spec.Codec == nil, "SinkSpec.Codec is nil: use one of package codec, for example codec.JSON")
	n.require((spec.Subject == nil) == (spec.FixedSubject == ""), "set one of SinkSpec.Subject and SinkSpec.FixedSubject")
	if spec.FixedSubject != "" {
		if err := tenants.ValidateSubject(spec.FixedSubject); err != nil {
			n.b.fail(n.label(), at, fmt.Errorf("SinkSpec.FixedSubject: %w", err))
		}
		if len(decl.subjects) == 0 {
			decl.subjects = []tenants.Filter{tenants.Filter(spec.FixedSubject)}
		}
	}
	for _, f := range spec.Subjects {
		if err := f.Validate(); err != nil {
			n.b.fail(n.label(), at, fmt.Errorf("SinkSpec.Subjects: %w", err))
		}
	}
	if err := checkStreamName(spec.Stream); err != nil {
		n.b.fail(n.label(), at, fmt.Errorf("SinkSpec.Stream: %w", err))
	}
	n.require(spec.AtLeastOnce && (spec.MarkerSubject != "" || spec.AllowMarkerLoss), "an at-least-once sink has no marker: leave MarkerSubject and AllowMarkerLoss empty")
	if err := checkMarker(spec.MarkerSubject); err != nil {
		n.b.fail(n.label(), at, fmt.Errorf("SinkSpec.MarkerSubject: %w", err))
	}
	n.collect = func(a *assembly, n *node) any { return collectSink(a, n, spec) }
}

// checkMarker validates a marker subject as if _weir and {job} were plain tokens.
func checkMarker(subject string) error {
	if subject == "" {
		return nil
	}
	tokens := strings.Split(subject, ".")
	jobs := 0
	for i, t := range tokens {
		switch t {
		case tenants.Reserved:
			tokens[i] = "weir"
		case jobPlaceholder:
			tokens[i] = "job"
			jobs++
		}
	}
	if jobs != 1 {
		return fmt.Errorf("%q must have %s as one token, or two jobs would fence each other", subject, jobPlaceholder)
	}
	return tenants.ValidateSubject(strings.Join(tokens, "."))
}

// KVSpec says how a KV sink writes.
type KVSpec[T any] struct {
	// Bucket is the KV bucket, shared by tenants: the key is {tenant}.{escaped Key}.
	Bucket string
	// Key returns the element's key within the tenant; any bytes, escaped by the sink.
	Key func(T) string
	// Codec encodes the value.
	Codec codec.Codec[T]
	// Delete says which elements delete their key instead of writing it. nil: none.
	Delete func(T) bool
}

// ToKV writes a stream's elements into a KV bucket, exactly once. Of several writes to a key between two checkpoints only the
// last is published.
func ToKV[T any](s Stream[T], name string, spec KVSpec[T]) {
	at := callerLine(2)
	in := s.node(at)
	n := in.b.add(&node{kind: KindKVSink, name: name, at: at, inputs: []*node{in}, sink: &sinkDecl{bucket: spec.Bucket}}, true)
	n.require(spec.Key == nil, "KVSpec.Key is nil")
	n.require(spec.Codec == nil, "KVSpec.Codec is nil: use one of package codec, for example codec.JSON")
	if err := checkBucketName(spec.Bucket); err != nil {
		n.b.fail(n.label(), at, fmt.Errorf("KVSpec.Bucket: %w", err))
	}
	n.collect = func(a *assembly, n *node) any { return collectKV(a, n, spec) }
}

// checkBucketName applies the rules of NATS KV, and keeps Weir's own buckets out of reach.
func checkBucketName(s string) error {
	if s == "" {
		return errors.New("it is empty")
	}
	if strings.HasPrefix(s, "weir_") {
		return fmt.Errorf("%q: buckets beginning with weir_ are Weir's own", s)
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' {
			continue
		}
		return fmt.Errorf("%q: a bucket's name has only A-Z, a-z, 0-9, - and _", tenants.Printable(s))
	}
	return nil
}
