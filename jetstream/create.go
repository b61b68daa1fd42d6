package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strings"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/tenants"
)

const (
	// CheckpointBucket holds heads, manifests and savepoints.
	CheckpointBucket = "weir_checkpoints"
	// WorkersBucket holds the workers' heartbeats.
	WorkersBucket = "weir_workers"
	// DeadLetterStream holds the dead letters of all jobs.
	DeadLetterStream = "WEIR_DLQ"

	deadLetterPrefix = "weir.dlq."
	// ownerKey is the metadata key of every stream that Weir created. Weir alters no other.
	ownerKey   = "weir.owner"
	ownerValue = "weir"
)

// streamFacts is what publishing into a stream must know of it.
type streamFacts struct {
	allowTTL    bool
	allowRollup bool
	maxPart     int // messages of an atomic batch
}

// facts returns what is known of a stream, asking the server the first time.
func (b *Broker) facts(ctx context.Context, stream string) (streamFacts, error) {
	b.mu.Lock()
	f, ok := b.streams[stream]
	b.mu.Unlock()
	if ok {
		return f, nil
	}
	info, err := b.streamInfo(ctx, stream)
	if err != nil {
		return streamFacts{}, err
	}
	return b.learn(info, 0), nil
}

// learn keeps the facts of a stream; maxPart is 0 where it was not asked for.
func (b *Broker) learn(info *js.StreamInfo, maxPart int) streamFacts {
	f := streamFacts{allowTTL: info.Config.AllowMsgTTL, allowRollup: info.Config.AllowRollup, maxPart: maxPart}
	set(&f.maxPart, min(b.cfg.MaxPart, serverMaxPart))
	b.mu.Lock()
	defer b.mu.Unlock()
	b.streams[info.Config.Name] = f
	return f
}

func (b *Broker) forgetFacts(stream string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.streams, stream)
}

// streamInfo asks the stream's leader.
func (b *Broker) streamInfo(ctx context.Context, stream string) (*js.StreamInfo, error) {
	if stream == "" || strings.ContainsAny(stream, " .*>\t\r\n/\\") {
		return nil, fmt.Errorf("%w: %q is not a stream name", errInvalid, tenants.Printable(stream))
	}
	var info js.StreamInfo
	if err := b.api(ctx, "STREAM.INFO."+stream, nil, &info); err != nil {
		return nil, err
	}
	return &info, nil
}

// ensureStream creates a stream of Weir's own if it is missing, and returns the one that is there.
func (b *Broker) ensureStream(ctx context.Context, cfg js.StreamConfig) (*js.StreamInfo, error) {
	info, err := b.streamInfo(ctx, cfg.Name)
	if err == nil || apiCode(err) != codeStreamNotFound {
		return info, err
	}
	return b.createStream(ctx, cfg)
}

func (b *Broker) createStream(ctx context.Context, cfg js.StreamConfig) (*js.StreamInfo, error) {
	var info js.StreamInfo
	err := b.api(ctx, "STREAM.CREATE."+cfg.Name, cfg, &info)
	if apiCode(err) == codeNameInUse {
		return b.streamInfo(ctx, cfg.Name) // another worker was faster, with other settings
	}
	if err != nil {
		return nil, asTransient(ctx, fmt.Errorf("create stream %s: %w", cfg.Name, err))
	}
	return &info, nil
}

// owned reports whether Weir created the stream.
func owned(info *js.StreamInfo) bool { return info.Config.Metadata[ownerKey] != "" }

// ours is what all streams that Weir creates have in common.
func (b *Broker) ours(name, description string, subjects ...string) js.StreamConfig {
	maxBytes := b.cfg.MaxBytes
	if maxBytes == 0 {
		maxBytes = -1
	}
	return js.StreamConfig{
		Name: name, Description: description, Subjects: subjects, Metadata: map[string]string{ownerKey: ownerValue},
		Retention: js.LimitsPolicy, Storage: b.cfg.Storage, Replicas: b.cfg.Replicas, Discard: js.DiscardNew,
		MaxBytes: maxBytes, MaxMsgs: -1, MaxMsgsPerSubject: -1, MaxConsumers: -1, MaxMsgSize: -1,
		AllowMsgTTL: true,
	}
}

// bucket is a key-value bucket as nats.go makes it.
func (b *Broker) bucket(name, description string) js.StreamConfig {
	cfg := b.ours("KV_"+name, description, "$KV."+name+".>")
	cfg.MaxMsgsPerSubject = 1
	cfg.AllowRollup = true
	cfg.DenyDelete = true
	return cfg
}

// checkpointBucket holds what must be read current: no direct gets, which a follower may answer.
func (b *Broker) checkpointBucket() js.StreamConfig {
	return b.bucket(CheckpointBucket, "Weir: heads, manifests and savepoints of all jobs")
}

func (b *Broker) workersBucket() js.StreamConfig {
	cfg := b.bucket(WorkersBucket, "Weir: heartbeats of the workers")
	cfg.MaxAge = heartbeatAge
	return cfg
}

// outputBucket is a bucket that a KV sink writes to.
func (b *Broker) outputBucket(name string) js.StreamConfig {
	cfg := b.bucket(name, "Weir: results")
	cfg.AllowDirect = true
	cfg.AllowAtomicPublish = true
	return cfg
}

func (b *Broker) deadLetterStream() js.StreamConfig {
	cfg := b.ours(DeadLetterStream, "Weir: records that could not be processed", deadLetterPrefix+">")
	cfg.AllowDirect = true
	cfg.AllowAtomicPublish = true
	return cfg
}

// tenantStream is the stream that is made where none captures a tenant's subjects: one for the tenant, or one for all of them where
// the namespace begins with a fixed token. Nothing is discarded from it while it is full, so no marker gets lost.
func (b *Broker) tenantStream(id tenants.ID) js.StreamConfig {
	prefix := b.cfg.Namespace.Prefix(id)
	name, first := string(id), prefix
	if !strings.HasPrefix(b.cfg.Namespace.String(), "{") {
		name, _, _ = strings.Cut(prefix, ".")
		first = name + "."
	}
	cfg := b.ours(name, "Weir: input and output of "+first+">", first+">")
	cfg.AllowDirect = true
	cfg.AllowAtomicPublish = true
	return cfg
}

// complete adds to a stream of Weir's own what an older version did not give it.
func (b *Broker) complete(ctx context.Context, info *js.StreamInfo, change func(*js.StreamConfig)) (*js.StreamInfo, error) {
	if !owned(info) {
		return nil, errors.New("alter a stream that is not Weir's")
	}
	cfg := info.Config
	change(&cfg)
	var updated js.StreamInfo
	if err := b.api(ctx, "STREAM.UPDATE."+cfg.Name, cfg, &updated); err != nil {
		return nil, fmt.Errorf("update stream %s: %w", cfg.Name, err)
	}
	return &updated, nil
}
