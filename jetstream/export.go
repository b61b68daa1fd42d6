package jetstream

import (
	"context"
	"fmt"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

var _ processor.ArchiveBroker = (*Broker)(nil)

// StreamFacts implements processor.ArchiveBroker.
func (b *Broker) StreamFacts(ctx context.Context, stream string) (processor.StreamFacts, bool, error) {
	info, err := b.streamInfo(ctx, stream)
	if apiCode(err) == codeStreamNotFound {
		return processor.StreamFacts{}, false, nil
	}
	if err != nil {
		return processor.StreamFacts{}, false, asTransient(ctx, fmt.Errorf("look at stream %s: %w", stream, err))
	}
	return processor.StreamFacts{Created: info.Created.UnixNano(), First: info.State.FirstSeq, Last: info.State.LastSeq}, true, nil
}

// StreamRecord implements processor.ArchiveBroker. Headers are left out.
func (b *Broker) StreamRecord(ctx context.Context, stream string, seq uint64) (processor.Record, bool, error) {
	m, err := b.leaderGet(ctx, stream, getBySeq{seq})
	if err != nil {
		return processor.Record{}, false, asTransient(ctx, fmt.Errorf("read record %d of stream %s: %w", seq, stream, err))
	}
	if m == nil {
		return processor.Record{}, false, nil
	}
	return processor.Record{Subject: m.Subject, Data: m.Data, Seq: m.Seq, Time: m.Time.UnixNano()}, true, nil
}

// FindObject implements processor.ArchiveBroker.
func (b *Broker) FindObject(ctx context.Context, tenant tenants.ID, name string) (barriers.Object, bool, error) {
	bucket, prefix := b.bucketOf(tenant)
	info, err := b.objectInfo(ctx, bucket, prefix+name)
	if err != nil {
		return barriers.Object{}, false, asTransient(ctx, fmt.Errorf("look for snapshot object %s in bucket %s: %w", prefix+name, bucket, err))
	}
	if info == nil {
		return barriers.Object{}, false, nil
	}
	return barriers.Object{Bucket: bucket, Name: prefix + name, Bytes: int64(info.Size), Digest: info.Digest}, true, nil
}
