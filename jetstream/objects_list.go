package jetstream

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/tenants"
)

// listObjects lists the job's objects, and with them the chunks that a crash left without a meta message, see orphanName.
func (b *Broker) listObjects(ctx context.Context, job tenants.JobID) barriers.Reply {
	if err := job.Validate(); err != nil {
		return replyOf(ctx, 0, fmt.Errorf("%w: %w", errInvalid, err))
	}
	bucket, prefix := b.bucketOf(job.Tenant)
	stream := bucketStream(bucket)
	chunkPrefix := "$O." + bucket + ".C."
	chunks, _, err := b.subjects(ctx, stream, chunkPrefix+string(job.Tenant)+"."+job.Name+".>")
	if apiCode(err) == codeStreamNotFound {
		return b.noObjects(ctx)
	}
	if err != nil {
		return replyOf(ctx, 0, fmt.Errorf("list chunks in bucket %s: %w", bucket, err))
	}
	// The meta messages come second: an object that is being written now has its chunks in the first list and is in the second one.
	metas, now, err := b.subjects(ctx, stream, "$O."+bucket+".M.>")
	if err != nil {
		return replyOf(ctx, 0, fmt.Errorf("list objects in bucket %s: %w", bucket, err))
	}
	reply := barriers.Reply{Status: barriers.OK, ServerTime: now.UnixNano()}
	for subject := range metas {
		name := decodeMetaSubject(bucket, subject)
		if !strings.HasPrefix(name, prefix+job.Name+"/") {
			continue
		}
		info, err := b.objectInfo(ctx, bucket, name)
		if err != nil {
			return replyOf(ctx, 0, fmt.Errorf("list object %s in bucket %s: %w", name, bucket, err))
		}
		if info != nil {
			delete(chunks, chunkPrefix+info.NUID)
			reply.Objects = append(reply.Objects, barriers.ObjectInfo{Name: name, Bytes: int64(info.Size), Modified: info.ModTime.UnixNano()})
		}
	}
	for subject := range chunks {
		m, err := b.leaderGet(ctx, stream, getLast{subject})
		if err != nil {
			return replyOf(ctx, 0, fmt.Errorf("list chunks %s in bucket %s: %w", subject, bucket, err))
		}
		name := orphanName(strings.TrimPrefix(subject, chunkPrefix))
		if m != nil && name != "" {
			reply.Objects = append(reply.Objects, barriers.ObjectInfo{
				Name: prefix + name, Bytes: int64(len(m.Data)), Modified: m.Time.UnixNano()})
		}
	}
	sortObjects(reply.Objects)
	return reply
}

// noObjects answers for a bucket that does not exist yet.
func (b *Broker) noObjects(ctx context.Context) barriers.Reply {
	info, err := b.streamInfo(ctx, checkpointStream)
	if err != nil {
		return replyOf(ctx, 0, err)
	}
	return barriers.Reply{Status: barriers.OK, ServerTime: info.TimeStamp.UnixNano()}
}

// deleteObject removes an object, or orphaned chunks, for good. The chunks go first: as long as the meta message is there the
// object is still listed, and a crash in between is mended by the next clean-up.
func (b *Broker) deleteObject(ctx context.Context, job tenants.JobID, name string) barriers.Reply {
	bucket, prefix := b.bucketOf(job.Tenant)
	stream := bucketStream(bucket)
	relative, own := strings.CutPrefix(name, prefix)
	if job.Validate() != nil || !own || !strings.HasPrefix(relative, job.Name+"/") || len(name) > 300 {
		return refuse("delete object %q: it is not one of job %s", tenants.Printable(name), tenants.Printable(job.String()))
	}
	var id string
	unique, orphan := strings.CutPrefix(path.Base(relative), orphanPrefix)
	if orphan {
		id = chunkID(job.Tenant, relative, unique)
	}
	if !orphan {
		info, err := b.objectInfo(ctx, bucket, name)
		if err != nil {
			return replyOf(ctx, 0, fmt.Errorf("delete object %s: %w", name, err))
		}
		if info == nil {
			return barriers.Reply{Status: barriers.OK}
		}
		id = info.NUID
	}
	if tenants.ValidateSubject(id) == nil {
		if _, err := b.purge(ctx, stream, "$O."+bucket+".C."+id, 0); err != nil {
			return replyOf(ctx, 0, fmt.Errorf("delete chunks of %s: %w", name, err))
		}
	}
	if !orphan {
		if _, err := b.purge(ctx, stream, metaSubject(bucket, name), 0); err != nil {
			return replyOf(ctx, 0, fmt.Errorf("delete object %s: %w", name, err))
		}
	}
	return barriers.Reply{Status: barriers.OK}
}

// decodeMetaSubject returns the name in a meta message's subject, "" if there is none.
func decodeMetaSubject(bucket, subject string) string {
	name, err := base64.URLEncoding.DecodeString(strings.TrimPrefix(subject, "$O."+bucket+".M."))
	if err != nil {
		return ""
	}
	return string(name)
}

func sortObjects(objects []barriers.ObjectInfo) {
	slices.SortFunc(objects, func(a, b barriers.ObjectInfo) int { return cmp.Compare(a.Name, b.Name) })
}
