package jetstream

import (
	"context"
	"fmt"
	"strings"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

const (
	kvStreams  = "KV_"
	kvSubjects = "$KV."
)

// table finds the bucket of a lookup's rows. Weir only reads it, so it never makes one.
func (r *resolver) table(ctx context.Context, t processor.TableNeed) (processor.TableBinding, error) {
	if !validBucket(t.Bucket) {
		return processor.TableBinding{}, processor.Terminal(fmt.Errorf("%w: %q is not a bucket name", errInvalid, tenants.Printable(t.Bucket)))
	}
	binding := processor.TableBinding{Operator: t.Operator, Bucket: t.Bucket, Shared: t.Shared}
	n := need{subject: "table of operator " + t.Operator, stream: kvStreams + t.Bucket, hint: "nats kv add " + t.Bucket}
	info, err := r.locate(ctx, n)
	if info == nil || err != nil {
		return binding, err
	}
	binding.Stream, binding.Created = info.Config.Name, info.Created.UnixNano()
	binding.Prefix = kvSubjects + ownerOf(info, t.Bucket) + "." + t.Relative(r.needs.Job.Tenant)
	c := checker{r: r, subject: n.subject, info: info}
	c.retention("rows must stay when they were read")
	if info.Config.Mirror == nil && !anyOverlaps(info.Config.Subjects, binding.Filter()) {
		c.need("subjects "+strings.Join(info.Config.Subjects, ", "), "a KV bucket, whose subjects cover "+binding.Filter(), "")
	}
	c.fine()
	return binding, nil
}

// ownerOf returns the bucket whose subjects a bucket's stream has: a mirror has those of the bucket that it mirrors.
func ownerOf(info *js.StreamInfo, bucket string) string {
	if m := info.Config.Mirror; m != nil {
		return strings.TrimPrefix(m.Name, kvStreams)
	}
	return bucket
}
