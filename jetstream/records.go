package jetstream

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// heartbeatAge is how long a worker's last heartbeat stays; workers have new names at every start.
const heartbeatAge = time.Hour

// Do implements processor.CommitLog. Each request is one operation on the server, but for the lists.
func (b *Broker) Do(ctx context.Context, job tenants.JobID, r barriers.Request) barriers.Reply {
	reply := b.do(ctx, job, r)
	if reply.Err != nil {
		reply.Err = fmt.Errorf("job %s: %w", job, reply.Err)
	}
	return reply
}

func (b *Broker) do(ctx context.Context, job tenants.JobID, r barriers.Request) barriers.Reply {
	switch r.Op {
	case barriers.OpReadRecord:
		return b.readRecord(ctx, r.Key)
	case barriers.OpWriteRecord:
		return b.writeRecord(ctx, r)
	case barriers.OpDeleteRecord:
		return b.deleteRecord(ctx, r)
	case barriers.OpListRecords:
		return b.listRecords(ctx, r.Key)
	case barriers.OpReadMarker:
		return b.readMarker(ctx, r)
	case barriers.OpWriteMarker:
		return b.writeMarker(ctx, r)
	case barriers.OpListObjects:
		return b.listObjects(ctx, job)
	case barriers.OpDeleteObject:
		return b.deleteObject(ctx, job, r.Key)
	}
	return refuse("operation %d is not the commit log's", r.Op)
}

func refuse(format string, args ...any) barriers.Reply {
	return barriers.Reply{Status: barriers.Rejected, Err: fmt.Errorf("%w: "+format, append([]any{errInvalid}, args...)...)}
}

const (
	checkpointStream = "KV_" + CheckpointBucket
	checkpointPrefix = "$KV." + CheckpointBucket + "."
)

// checkKey refuses what would reach another subject than the key's own.
func checkKey(key string) error {
	if err := tenants.ValidateSubject(key); err != nil {
		return fmt.Errorf("%w: key: %w", errInvalid, err)
	}
	return nil
}

func (b *Broker) readRecord(ctx context.Context, key string) barriers.Reply {
	if err := checkKey(key); err != nil {
		return replyOf(ctx, 0, err)
	}
	m, err := b.leaderGet(ctx, checkpointStream, getLast{checkpointPrefix + key})
	switch {
	case err != nil:
		return replyOf(ctx, 0, fmt.Errorf("read record %s: %w", key, err))
	case m == nil:
		return barriers.Reply{Status: barriers.NotFound}
	case isDeleteMarker(m.Header):
		return barriers.Reply{Status: barriers.NotFound, Seq: m.Seq}
	}
	return barriers.Reply{Status: barriers.OK, Seq: m.Seq, Value: m.Data}
}

// isDeleteMarker recognises what nats kv del and an expiry leave behind.
func isDeleteMarker(header []byte) bool {
	if len(header) == 0 {
		return false
	}
	h, err := nats.DecodeHeadersMsg(header)
	return err == nil && processor.KVRemoved(h)
}

func (b *Broker) writeRecord(ctx context.Context, r barriers.Request) barriers.Reply {
	if err := checkKey(r.Key); err != nil {
		return replyOf(ctx, 0, err)
	}
	return b.writeGuarded(ctx, checkpointStream, processor.Message{Subject: checkpointPrefix + r.Key, Data: r.Value}, r.Expected, false)
}

func (b *Broker) writeGuarded(ctx context.Context, stream string, m processor.Message, expected uint64, allowTTL bool) barriers.Reply {
	m = guarded(m, stream, expected, allowTTL)
	ack, err := b.publishOne(ctx, Control, &nats.Msg{Subject: m.Subject, Header: m.Header, Data: m.Data})
	return replyOf(ctx, ack.Seq, err)
}

// deleteRecord purges the key up to the expected sequence: a later value stays, and no delete marker is left behind.
func (b *Broker) deleteRecord(ctx context.Context, r barriers.Request) barriers.Reply {
	if err := checkKey(r.Key); err != nil {
		return replyOf(ctx, 0, err)
	}
	if r.Expected == 0 {
		return refuse("delete record %s: the expected sequence is 0", r.Key)
	}
	purged, err := b.purge(ctx, checkpointStream, checkpointPrefix+r.Key, r.Expected)
	if err != nil {
		return replyOf(ctx, 0, fmt.Errorf("delete record %s: %w", r.Key, err))
	}
	if purged > 0 {
		return barriers.Reply{Status: barriers.OK}
	}
	// Gone already, or overwritten: the broker's copy tells.
	switch now := b.readRecord(ctx, r.Key); now.Status {
	case barriers.NotFound:
		return barriers.Reply{Status: barriers.OK}
	case barriers.OK:
		return barriers.Reply{Status: barriers.Mismatch, Seq: now.Seq,
			Err: fmt.Errorf("delete record %s: its sequence is %d, not %d", r.Key, now.Seq, r.Expected)}
	default:
		return now
	}
}

// purge removes what a subject has up to a sequence, that one included; 0: everything.
func (b *Broker) purge(ctx context.Context, stream, subject string, upTo uint64) (int, error) {
	req := struct {
		Filter string `json:"filter"`
		Seq    uint64 `json:"seq,omitempty"`
	}{Filter: subject}
	if upTo > 0 {
		req.Seq = upTo + 1
	}
	var resp struct {
		Purged int `json:"purged"`
	}
	err := b.api(ctx, "STREAM.PURGE."+stream, req, &resp)
	return resp.Purged, err
}

func (b *Broker) listRecords(ctx context.Context, key string) barriers.Reply {
	filter := checkpointPrefix + ">"
	if key != "" {
		if err := checkKey(key); err != nil {
			return replyOf(ctx, 0, err)
		}
		filter = checkpointPrefix + key + ".>"
	}
	subjects, _, err := b.subjects(ctx, checkpointStream, filter)
	if err != nil {
		return replyOf(ctx, 0, fmt.Errorf("list records below %q: %w", key, err))
	}
	names := slices.Sorted(maps.Keys(subjects))
	for i := range names {
		names[i] = strings.TrimPrefix(names[i], checkpointPrefix)
	}
	return barriers.Reply{Status: barriers.OK, Names: names}
}

// maxPages bounds a list of subjects; the server hands out 100,000 a page.
const maxPages = 100

// subjects lists a stream's subjects below a filter with their message counts, and the server's time.
func (b *Broker) subjects(ctx context.Context, stream, filter string) (map[string]uint64, time.Time, error) {
	all := map[string]uint64{}
	var now time.Time
	for range maxPages {
		req := struct {
			Filter string `json:"subjects_filter"`
			Offset int    `json:"offset,omitempty"`
		}{filter, len(all)}
		var page struct {
			js.StreamInfo
			Total int `json:"total"`
		}
		if err := b.api(ctx, "STREAM.INFO."+stream, req, &page); err != nil {
			return nil, now, err
		}
		now = page.TimeStamp
		maps.Copy(all, page.State.Subjects)
		if len(page.State.Subjects) == 0 || len(all) >= page.Total {
			return all, now, nil
		}
	}
	return nil, now, fmt.Errorf("list subjects %s of stream %s: more than %d", filter, stream, len(all))
}

func (b *Broker) readMarker(ctx context.Context, r barriers.Request) barriers.Reply {
	m, err := b.leaderGet(ctx, r.Stream, getLast{r.Subject})
	switch {
	case apiCode(err) == codeStreamNotFound:
		return barriers.Reply{Status: barriers.Rejected, Err: fmt.Errorf("read marker %s: stream %s is gone: %w", r.Subject, r.Stream, err)}
	case err != nil:
		return replyOf(ctx, 0, fmt.Errorf("read marker %s of stream %s: %w", r.Subject, r.Stream, err))
	case m == nil:
		return barriers.Reply{Status: barriers.NotFound}
	case isDeleteMarker(m.Header):
		return barriers.Reply{Status: barriers.NotFound, Seq: m.Seq}
	}
	return barriers.Reply{Status: barriers.OK, Seq: m.Seq, Value: m.Data}
}

func (b *Broker) writeMarker(ctx context.Context, r barriers.Request) barriers.Reply {
	facts, err := b.facts(ctx, r.Stream)
	if err != nil {
		return unsent(ctx, fmt.Errorf("write marker %s: %w", r.Subject, err))
	}
	reply := b.writeGuarded(ctx, r.Stream, processor.Message{Subject: r.Subject, Data: r.Value}, r.Expected, facts.allowTTL)
	if apiCode(reply.Err) == codeTTLDisabled {
		b.forgetFacts(r.Stream) // the stream was edited
		reply.Status = barriers.Busy
	}
	return reply
}

// Heartbeat implements processor.CommitLog.
func (b *Broker) Heartbeat(ctx context.Context, worker string) error {
	if err := checkKey(worker); err != nil {
		return fmt.Errorf("write heartbeat: %w", err)
	}
	_, err := b.publishOne(ctx, Control, &nats.Msg{
		Subject: "$KV." + WorkersBucket + "." + worker,
		Header:  nats.Header{hdrExpectedStream: {"KV_" + WorkersBucket}},
		Data:    []byte(`{"at":` + strconv.Quote(time.Now().UTC().Format(time.RFC3339Nano)) + `}`),
	})
	if err != nil {
		return asTransient(ctx, fmt.Errorf("write heartbeat of worker %s: %w", worker, err))
	}
	return nil
}

// LastHeartbeat implements processor.CommitLog.
func (b *Broker) LastHeartbeat(ctx context.Context, worker string) (uint64, error) {
	if err := checkKey(worker); err != nil {
		return 0, fmt.Errorf("read heartbeat: %w", err)
	}
	m, err := b.leaderGet(ctx, "KV_"+WorkersBucket, getLast{"$KV." + WorkersBucket + "." + worker})
	if err != nil {
		return 0, asTransient(ctx, fmt.Errorf("read heartbeat of worker %s: %w", worker, err))
	}
	if m == nil || isDeleteMarker(m.Header) {
		return 0, nil
	}
	return m.Seq, nil
}
