package jetstream

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// Snapshot objects have the layout of nats.go's object store, so `nats object get` reads them: chunks on $O.{bucket}.C.{id}, and
// then the meta message on $O.{bucket}.M.{base64url(name)}, which makes them an object. Weir's own writer is there because the
// client's can store a corrupt object (NATS.md): here every chunk has its own buffer, is sent once, and the acknowledged
// sequences must rise in the order of the chunks, which leaves no room for a lost, doubled or swapped one.
//
// The id is {tenant}.{job}.{epoch-checkpoint}.{nuid}, so chunks whose meta message was never written are found, listed as an object
// named {job}/{epoch}-{checkpoint}/~{nuid}, and cleaned up like any other.

const (
	// maxObjectBytes bounds what a manifest or a meta message can make a reader allocate.
	maxObjectBytes = 1 << 30
	digestPrefix   = "SHA-256="
	// orphanPrefix begins the last part of the name under which chunks without a meta message are listed. No operator's begins so.
	orphanPrefix = "~"
	// chunksInFlight bounds the unacknowledged chunks of one object.
	chunksInFlight = 32
)

func bucketStream(bucket string) string { return "OBJ_" + bucket }

func metaSubject(bucket, name string) string {
	return "$O." + bucket + ".M." + base64.URLEncoding.EncodeToString([]byte(name))
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return digestPrefix + base64.URLEncoding.EncodeToString(sum[:])
}

// bucketOf returns a tenant's bucket and what the names of its objects begin with there.
func (b *Broker) bucketOf(id tenants.ID) (bucket, prefix string) {
	if b.cfg.SharedBuckets == 0 {
		return "weir_" + string(id), ""
	}
	h := fnv.New32a()
	h.Write([]byte(id))
	return fmt.Sprintf("weir_shared-%03d", h.Sum32()%uint32(b.cfg.SharedBuckets)), string(id) + "/"
}

// Put implements processor.SnapshotStore. processor.ErrFull says that there is no room.
func (b *Broker) Put(ctx context.Context, tenant tenants.ID, name string, data []byte) (barriers.Object, error) {
	bucket, prefix := b.bucketOf(tenant)
	job, _, _ := strings.Cut(name, "/")
	if err := errors.Join(tenants.JobID{Tenant: tenant, Name: job}.Validate(), checkObjectName(name)); err != nil {
		return barriers.Object{}, fmt.Errorf("store snapshot object %q: %w: %w", tenants.Printable(name), errInvalid, err)
	}
	ref := barriers.Object{Bucket: bucket, Name: prefix + name, Bytes: int64(len(data)), Digest: digestOf(data)}
	if len(data) > maxObjectBytes {
		return ref, fmt.Errorf("store snapshot object %s: %w: %d bytes, at most %d are possible", ref.Name, errInvalid, len(data), maxObjectBytes)
	}
	if err := b.ensureBucket(ctx, bucket); err != nil {
		return ref, asTransient(ctx, fmt.Errorf("store snapshot object %s: %w", ref.Name, err))
	}
	id := chunkID(tenant, name, nuid.Next())
	err := b.putObject(ctx, ref, id, data)
	if err == nil {
		return ref, nil
	}
	if apiCode(err) == codeStreamNotFound || errors.Is(err, nats.ErrNoResponders) {
		b.forgetBucket(bucket) // deleted under us: the next put makes it again
	}
	b.dropChunks(bucket, id)
	return ref, asTransient(ctx, fmt.Errorf("store snapshot object %s in bucket %s: %w", ref.Name, bucket, err))
}

func checkObjectName(name string) error {
	if len(name) > 300 || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("an object name has up to 300 printable ASCII characters")
	}
	if strings.HasPrefix(path.Base(name), orphanPrefix) || strings.Count(name, "/") < 2 {
		return errors.New("an object name is job/epoch-checkpoint/operator-subtask-id")
	}
	return nil
}

// chunkID is the last tokens of an object's chunk subject. name is relative to the tenant.
func chunkID(tenant tenants.ID, name, unique string) string {
	job, rest, _ := strings.Cut(name, "/")
	return string(tenant) + "." + job + "." + tenants.EscapeToken(path.Dir(rest)) + "." + unique
}

// orphanName is the name under which chunks without a meta message are listed, relative to the tenant; "" if the id is not Weir's.
func orphanName(id string) string {
	tokens := strings.Split(id, ".")
	if len(tokens) != 4 {
		return ""
	}
	dir, err := tenants.UnescapeToken(tokens[2])
	if err != nil {
		return ""
	}
	return tokens[1] + "/" + dir + "/" + orphanPrefix + tokens[3]
}

func (b *Broker) ensureBucket(ctx context.Context, bucket string) error {
	b.mu.Lock()
	known := b.buckets[bucket]
	b.mu.Unlock()
	if known {
		return nil
	}
	cfg := b.ours(bucketStream(bucket), "Weir: snapshots", "$O."+bucket+".C.>", "$O."+bucket+".M.>")
	cfg.AllowRollup = true
	cfg.AllowDirect = true
	if _, err := b.ensureStream(ctx, cfg); err != nil {
		return fmt.Errorf("create bucket %s: %w", bucket, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buckets[bucket] = true
	return nil
}

func (b *Broker) forgetBucket(bucket string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.buckets, bucket)
}

// putObject sends the chunks, waits for all of them, and then makes them an object.
func (b *Broker) putObject(ctx context.Context, ref barriers.Object, id string, data []byte) error {
	chunks, err := b.putChunks(ctx, ref.Bucket, id, data)
	if err != nil {
		return err
	}
	meta, err := json.Marshal(js.ObjectInfo{
		ObjectMeta: js.ObjectMeta{Name: ref.Name, Opts: &js.ObjectMetaOptions{ChunkSize: uint32(b.cfg.ChunkBytes)}},
		Bucket:     ref.Bucket, NUID: id, Size: uint64(len(data)), Chunks: uint32(chunks), Digest: ref.Digest,
	})
	if err != nil {
		return fmt.Errorf("encode meta message: %w", err)
	}
	m := guarded(processor.Message{Subject: metaSubject(ref.Bucket, ref.Name), Data: meta}, bucketStream(ref.Bucket), 0, false)
	_, err = b.publishOne(ctx, Control, &nats.Msg{Subject: m.Subject, Header: m.Header, Data: m.Data})
	if err == nil {
		return nil
	}
	if s := statusOf(ctx, err); s != barriers.Unknown && s != barriers.Mismatch {
		return err
	}
	// The answer got lost, or somebody has the name: ours if it has our id.
	info, readErr := b.objectInfo(ctx, ref.Bucket, ref.Name)
	if readErr == nil && info != nil && info.NUID == id {
		return nil
	}
	return errors.Join(err, readErr)
}

type chunkAck struct {
	chunk int
	seq   uint64
	err   error
}

// putChunks publishes the data, a bounded number of chunks ahead of their acknowledgements.
func (b *Broker) putChunks(ctx context.Context, bucket, id string, data []byte) (int, error) {
	c, err := b.conn(ctx, Control)
	if err != nil {
		return 0, err
	}
	acks, err := c.acks()
	if err != nil {
		return 0, err
	}
	size := b.cfg.ChunkBytes
	if limit := int(c.nc.MaxPayload()) - 1024; size > limit {
		size = limit
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	subject := "$O." + bucket + ".C." + id
	header := nats.Header{hdrExpectedStream: {bucketStream(bucket)}}
	total := (len(data) + size - 1) / size
	seqs := make([]uint64, total)
	answers := make(chan chunkAck, total) // never blocks the inbox, even when this returns early
	timer := time.NewTimer(b.cfg.Timeout)
	defer timer.Stop()
	sent, acked := 0, 0
	for acked < total {
		for sent < total && sent-acked < chunksInFlight {
			part := data[sent*size : min(len(data), (sent+1)*size)]
			if err := b.sendChunk(c, acks, subject, header, sent, part, answers); err != nil {
				return 0, err
			}
			sent++
		}
		select {
		case a := <-answers:
			if a.err != nil {
				return 0, fmt.Errorf("publish chunk %d of %d: %w", a.chunk+1, total, a.err)
			}
			seqs[a.chunk] = a.seq
			acked++
			timer.Reset(b.cfg.Timeout)
		case <-timer.C:
			return 0, fmt.Errorf("publish chunks: %d of %d were acknowledged: %w", acked, total, nats.ErrTimeout)
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	if !slices.IsSorted(seqs) {
		return 0, errors.New("publish chunks: they were stored in another order") // a change of leader between them
	}
	return total, nil
}

func (b *Broker) sendChunk(c *conn, acks *acker, subject string, header nats.Header, n int, data []byte, answers chan<- chunkAck) error {
	fault := b.intercept("chunk", subject)
	if fault == Drop {
		return errInjected
	}
	id, reply := acks.expect(func(m *nats.Msg) {
		ack, err := ackOf(m)
		if fault == LoseReply {
			err = errInjected
		}
		answers <- chunkAck{n, ack.Seq, err}
	})
	if err := c.nc.PublishMsg(&nats.Msg{Subject: subject, Reply: reply, Header: header, Data: data}); err != nil {
		acks.forget(id)
		return fmt.Errorf("publish chunk %d: %w", n+1, err)
	}
	return nil
}

// dropChunks removes the chunks of a put that failed, best effort: what stays is found as an orphan.
func (b *Broker) dropChunks(bucket, id string) {
	ctx, cancel := context.WithTimeout(b.ctx, b.cfg.Timeout)
	defer cancel()
	if _, err := b.purge(ctx, bucketStream(bucket), "$O."+bucket+".C."+id, 0); err != nil {
		b.log.Warn("chunks of a failed put stay until clean-up", "stream", bucketStream(bucket), "err", err)
	}
}

// objectInfo reads an object's meta message through the leader; nil: there is none.
func (b *Broker) objectInfo(ctx context.Context, bucket, name string) (*js.ObjectInfo, error) {
	m, err := b.leaderGet(ctx, bucketStream(bucket), getLast{metaSubject(bucket, name)})
	if apiCode(err) == codeStreamNotFound {
		return nil, nil
	}
	if err != nil || m == nil {
		return nil, err
	}
	var info js.ObjectInfo
	if err := json.Unmarshal(m.Data, &info); err != nil {
		return nil, fmt.Errorf("decode meta message: %w", err)
	}
	if info.Deleted {
		return nil, nil
	}
	info.ModTime = m.Time
	return &info, nil
}
