package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// getWindow bounds the bytes of chunks that are asked for at once; below nats.go's limit for a subscription.
const getWindow = 16 << 20

// missingFor is how long a chunk may be missing on the replica that answers before it is an error. The meta message comes from
// the leader, so what it names was acknowledged.
const (
	missingFor  = 2 * time.Second
	missingWait = 50 * time.Millisecond
)

// Get implements processor.SnapshotStore. It never waits longer than the context and a few request timeouts.
func (b *Broker) Get(ctx context.Context, tenant tenants.ID, ref barriers.Object) ([]byte, error) {
	bucket, prefix := b.bucketOf(tenant)
	name, own := strings.CutPrefix(ref.Name, prefix)
	job, _, _ := strings.Cut(name, "/")
	corrupt := func(format string, args ...any) error {
		return &processor.CorruptError{Job: tenants.JobID{Tenant: tenant, Name: job}, Bucket: ref.Bucket, Object: ref.Name,
			Detail: fmt.Sprintf(format, args...)}
	}
	if ref.Bucket != bucket || !own {
		return nil, corrupt("it is not of tenant %s, whose bucket is %s with names %s…", tenant, bucket, prefix)
	}
	if ref.Bytes < 0 || ref.Bytes > maxObjectBytes || !strings.HasPrefix(ref.Digest, digestPrefix) || checkObjectName(ref.Name) != nil {
		return nil, corrupt("the manifest's reference is damaged: %d bytes, digest %.60q", ref.Bytes, ref.Digest)
	}
	info, err := b.objectInfo(ctx, bucket, ref.Name)
	if err != nil {
		return nil, asTransient(ctx, fmt.Errorf("read snapshot object %s: %w", ref.Name, err))
	}
	if info == nil {
		return nil, fmt.Errorf("read snapshot object %s of bucket %s: %w", ref.Name, bucket, processor.ErrObjectMissing)
	}
	if info.Size != uint64(ref.Bytes) || info.Digest != ref.Digest {
		return nil, corrupt("the bucket says %d bytes, %s; the manifest %d bytes, %s", info.Size, info.Digest, ref.Bytes, ref.Digest)
	}
	if tenants.ValidateSubject(info.NUID) != nil || uint64(info.Chunks) > info.Size {
		return nil, corrupt("its meta message is damaged: %d chunks under %.100q", info.Chunks, info.NUID)
	}
	data, err := b.getChunks(ctx, info)
	var short *shortError
	if errors.As(err, &short) {
		return nil, corrupt("%v", short)
	}
	if err != nil {
		return nil, asTransient(ctx, fmt.Errorf("read snapshot object %s of bucket %s: %w", ref.Name, bucket, err))
	}
	if digest := digestOf(data); digest != ref.Digest {
		return nil, corrupt("%d of %d bytes are there, their digest is %s, not %s", len(data), ref.Bytes, digest, ref.Digest)
	}
	return data, nil
}

// shortError says that an object has fewer or more bytes than it should.
type shortError struct {
	chunks uint32
	got    int
	bytes  int
	size   uint64
}

func (e *shortError) Error() string {
	return fmt.Sprintf("it should have %d chunks with %d bytes, there are %d with %d", e.chunks, e.size, e.got, e.bytes)
}

// getChunks reads all chunks in order. Chunks that are missing may only be late on the replica that answered.
func (b *Broker) getChunks(ctx context.Context, info *js.ObjectInfo) ([]byte, error) {
	c, err := b.conn(ctx, Control)
	if err != nil {
		return nil, err
	}
	sub, err := c.nc.SubscribeSync(c.nc.NewInbox())
	if err != nil {
		return nil, fmt.Errorf("subscribe for chunks: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return nil, fmt.Errorf("set limits for chunks: %w", err)
	}
	g := &chunkGetter{b: b, c: c, sub: sub, info: info, data: make([]byte, 0, info.Size)}
	late := time.Now().Add(missingFor)
	for g.got < int(info.Chunks) {
		n, err := g.window(ctx)
		if err != nil {
			return nil, err
		}
		if uint64(len(g.data)) > info.Size {
			break
		}
		if n > 0 {
			continue
		}
		if time.Now().After(late) {
			break
		}
		if err := sleep(ctx, missingWait); err != nil {
			return nil, err
		}
	}
	if g.got != int(info.Chunks) || uint64(len(g.data)) != info.Size {
		return nil, &shortError{info.Chunks, g.got, len(g.data), info.Size}
	}
	return g.data, nil
}

// sleep waits, unless the context ends first.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

type chunkGetter struct {
	b    *Broker
	c    *conn
	sub  *nats.Subscription
	info *js.ObjectInfo
	data []byte
	got  int
	last uint64 // sequence of the last chunk
}

// window asks for the next chunks and returns how many came.
func (g *chunkGetter) window(ctx context.Context) (int, error) {
	stream := bucketStream(g.info.Bucket)
	verb := "DIRECT.GET." + stream
	size := max(1, int(g.info.Size)/max(1, int(g.info.Chunks)))
	want := min(int(g.info.Chunks)-g.got, max(1, getWindow/size))
	body := fmt.Appendf(nil, `{"batch":%d,"next_by_subj":%q,"seq":%d}`, want, "$O."+g.info.Bucket+".C."+g.info.NUID, g.last+1)
	fault := g.b.intercept("api", apiPrefix+verb)
	if fault != Pass {
		return 0, errInjected
	}
	if err := g.c.nc.PublishRequest(apiPrefix+verb, g.sub.Subject, body); err != nil {
		return 0, fmt.Errorf("ask %s: %w", verb, err)
	}
	came := 0
	for {
		mctx, cancel := context.WithTimeout(ctx, g.b.cfg.Timeout)
		m, err := g.sub.NextMsgWithContext(mctx)
		cancel()
		if err != nil {
			return came, fmt.Errorf("wait for chunk %d of %d: %w", g.got+1, g.info.Chunks, ownTimeout(ctx, err))
		}
		switch m.Header.Get("Status") {
		case "":
		case "204", "404":
			return came, nil // end of the batch; nothing (more) there
		default:
			return came, fmt.Errorf("ask %s: %s %s", verb, m.Header.Get("Status"), m.Header.Get("Description"))
		}
		seq, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
		if err != nil || seq <= g.last {
			return came, fmt.Errorf("ask %s: a chunk has sequence %q", verb, m.Header.Get("Nats-Sequence"))
		}
		g.last = seq
		g.got++
		came++
		if uint64(len(g.data)+len(m.Data)) > g.info.Size {
			return came, &shortError{g.info.Chunks, g.got, len(g.data) + len(m.Data), g.info.Size}
		}
		g.data = append(g.data, m.Data...)
	}
}
