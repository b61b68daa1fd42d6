package jetstream

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// rules resolves a source that reads a KV bucket. The bucket is the user's: it must be there.
func (r *resolver) rules(ctx context.Context, s processor.SourceNeed) (processor.SourceBinding, error) {
	if !validBucket(s.Bucket) {
		return processor.SourceBinding{}, processor.Terminal(fmt.Errorf("%w: %q is not a bucket name", errInvalid, tenants.Printable(s.Bucket)))
	}
	keys := s.Keys(r.needs.Job.Tenant)
	binding := processor.SourceBinding{Source: s.Source, Filter: keys.Filter(), Prefix: keys.Prefix}
	n := need{subject: "rules " + s.Source, stream: keys.Stream, hint: "nats kv add " + s.Bucket}
	info, err := r.locate(ctx, n)
	if info == nil || err != nil {
		return binding, err
	}
	c := checker{r: r, subject: n.subject, info: info}
	c.retention("a bucket must keep its keys when they have been read")
	if !anyOverlaps(info.Config.Subjects, binding.Filter) && info.Config.Mirror == nil && len(info.Config.Sources) == 0 {
		c.need("no KV bucket, but a stream of its name", "one that captures "+binding.Filter, "")
	}
	c.fine()
	owner := s
	owner.Bucket = ownerOf(info, s.Bucket)
	keys = owner.Keys(r.needs.Job.Tenant)
	binding.Filter, binding.Prefix = keys.Filter(), keys.Prefix
	binding.Stream, binding.Created, binding.FirstSeq = info.Config.Name, info.Created.UnixNano(), info.State.FirstSeq
	if c.bad {
		return binding, nil
	}
	last, err := r.b.leaderGet(ctx, binding.Stream, getLast{binding.Filter})
	if err != nil {
		return binding, fmt.Errorf("read the last revision of bucket %s: %w", s.Bucket, err)
	}
	if last != nil {
		binding.LastSeq = last.Seq
	}
	return binding, nil
}

// Subjects implements processor.Transport.
func (b *Broker) Subjects(ctx context.Context, stream, filter string) ([]string, error) {
	if err := checkFilter(filter); err != nil {
		return nil, err
	}
	subjects, _, err := b.subjects(ctx, stream, filter)
	if err != nil {
		return nil, asTransient(ctx, fmt.Errorf("list subjects of stream %s: %w", stream, err))
	}
	return slices.Collect(maps.Keys(subjects)), nil
}
