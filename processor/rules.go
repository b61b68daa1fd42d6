package processor

import (
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// RulesSpec says which rules a job reads: keys of a NATS KV bucket.
//
// The tenant's rules are where ToKV puts them, under {tenant}.{key}, the key escaped with tenants.EscapeToken. With Shared the rules are
// the same for every tenant: a key is what "nats kv get" calls it, and may have dots. Nothing under the token _weir is a rule. The job
// only reads; it needs a bucket that exists.
type RulesSpec[R any] struct {
	// Bucket is the KV bucket.
	Bucket string
	// Codec decodes a rule. A rule that it refuses goes to the dead letters, and what its key had before stays in force.
	Codec codec.Codec[R]
	// Shared says that the keys of the whole bucket are rules, the same for every tenant.
	Shared bool
}

// RuleStream is the rules of a topology under construction, as they change. Only Broadcast takes it.
type RuleStream[R any] struct {
	n     *node
	codec codec.Codec[R]
}

func (s RuleStream[R]) node(at string) *node {
	if s.n == nil {
		panic(at + ": the rules are a zero RuleStream: use what processor.Rules returned")
	}
	return s.n
}

// View returns the rules in force, for functions of a Broadcast that do not get them: those of its timers. It is an error in any other
// operator.
func (s RuleStream[R]) View(c OperatorContext) (*RuleView[R], error) {
	op := c.operator()
	if t, ok := op.rules.(*ruleTable[R]); ok && t.from == s.n {
		return &t.view, nil
	}
	return nil, Terminal(&UndeclaredError{Operator: op.name, Kind: "rules", Name: s.node(op.name).name})
}

// Rules reads a KV bucket as rules that change while the job runs. The rules in force are part of every checkpoint, once for all
// operators that read them: a job that is restored, rescaled or forked goes on with the rules of its checkpoint and then hears what
// has changed since. No element is processed before the rules are there: those of the checkpoint, or at the first start all that the
// bucket had when the job was bound to it. An empty bucket is no rules.
//
// A bucket keeps only the last revisions of a key; those that were replaced before they were read are not missed. A key that
// vanishes without leaving a mark (a purge, an age limit, a TTL without markers) stays in force until the job starts again.
//
// The bucket's key is one token for a tenant's rule: what "nats kv put" gets as {tenant}.{a}.{b} is none.
//
// A bucket that is deleted, replaced or rolled back ends the job with a *StreamError. With AllowDataLoss it is read anew instead: the rules
// stay in force until that is done, and then what it does not have is removed.
func Rules[R any](b *Builder, name string, spec RulesSpec[R]) RuleStream[R] {
	at := callerLine(2)
	decl := &sourceDecl{bucket: spec.Bucket, shared: spec.Shared}
	n := b.add(&node{kind: KindRules, name: name, at: at, source: decl}, true)
	if spec.Codec == nil {
		n.require(true, "RulesSpec.Codec is nil: use one of package codec, for example codec.JSON")
	} else {
		decl.codec = spec.Codec.Name()
	}
	if err := checkBucketName(spec.Bucket); err != nil {
		b.fail(n.label(), at, fmt.Errorf("RulesSpec.Bucket: %w", err))
	}
	kept := newRuleState(decl.codec)
	n.process = &processDecl{states: []state.Descriptor{kept}}
	n.collect = func(a *assembly, n *node) any { return collectRules(a, n, kept, spec.Codec) }
	return RuleStream[R]{n, spec.Codec}
}

// ruleText is a rule as the bucket has it.
type ruleText []byte

// MarshalJSON writes a rule that is JSON as it is, any other as a string: "weir state" shows it to people.
func (r ruleText) MarshalJSON() ([]byte, error) {
	if json.Valid(r) {
		return r, nil
	}
	return json.Marshal(string(r))
}

// newRuleState declares the state of the rules: encoded rules by key. The name of its codec has that of the rules in it, so that a
// topology that would read them with another codec is refused at deployment.
func newRuleState(rules string) *state.Value[ruleText] {
	return state.NewValue[ruleText]("rule", state.Codec(codec.New("rule as "+rules,
		func(dst []byte, r ruleText) ([]byte, error) { return append(dst, r...), nil },
		func(b []byte) (ruleText, error) { return slices.Clone(ruleText(b)), nil })))
}

// RuleView is the rules in force while an element is processed or a timer fires. It is valid during the call only, and a rule's value
// must not be changed.
type RuleView[R any] struct {
	rules    map[string]R
	keys     []string // in order, where sorted
	sorted   bool
	revision uint64
}

// Get returns the rule under a key.
func (v *RuleView[R]) Get(key string) (R, bool) {
	r, ok := v.rules[key]
	return r, ok
}

// All returns the rules in the order of their keys.
func (v *RuleView[R]) All() iter.Seq2[string, R] {
	if !v.sorted {
		v.keys = slices.AppendSeq(v.keys[:0], maps.Keys(v.rules))
		slices.Sort(v.keys)
		v.sorted = true
	}
	return func(yield func(string, R) bool) {
		for _, k := range v.keys {
			if !yield(k, v.rules[k]) {
				return
			}
		}
	}
}

// Len returns the number of rules.
func (v *RuleView[R]) Len() int { return len(v.rules) }

// Revision is a revision of the bucket, as "nats kv get" shows it: the rules in force are those that the bucket had then. It does not
// go back, also not when the job starts again. 0: the bucket had nothing yet.
//
// While a job catches up with a bucket that has lost revisions in between, a key may still have what it had before the lost ones: such rules
// were never in the bucket together. A bucket with enough history ("nats kv add --history") has no such moments.
func (v *RuleView[R]) Revision() uint64 { return v.revision }

func (v *RuleView[R]) set(key string, r R) {
	if _, ok := v.rules[key]; !ok {
		v.sorted = false
	}
	v.rules[key] = r
}

func (v *RuleView[R]) remove(key string) {
	if _, ok := v.rules[key]; ok {
		delete(v.rules, key)
		v.sorted = false
	}
}

// rulesNeed is what the broker must know of the rules.
func (d *sourceDecl) rulesNeed(name string) SourceNeed {
	return SourceNeed{Source: name, Bucket: d.bucket, Shared: d.shared}
}

// Keys says which keys of a bucket are the source's.
func (n SourceNeed) Keys(tenant tenants.ID) TableBinding {
	prefix := TableNeed{Bucket: n.Bucket, Shared: n.Shared}.Relative(tenant)
	return TableBinding{Operator: n.Source, Bucket: n.Bucket, Stream: "KV_" + n.Bucket, Prefix: "$KV." + n.Bucket + "." + prefix, Shared: n.Shared}
}

// checkRules refuses what the configuration cannot mean for rules.
func (c JobConfig) checkRules(rules *SourceNeed, sinks []SinkNeed) []error {
	var errs []error
	if c.Streams[rules.Source] != "" {
		errs = append(errs, fmt.Errorf("JobConfig.Streams names %q, which reads the KV bucket %s: the topology alone names it", rules.Source, rules.Bucket))
	}
	for _, s := range sinks {
		if c.Shadow != "" && rules.Shared && s.Bucket == rules.Bucket {
			errs = append(errs, fmt.Errorf("JobConfig.Shadow: the rules %s read all of bucket %s, and so would read what sink %s writes there under the prefix", rules.Source, rules.Bucket, s.Sink))
		}
	}
	return errs
}
