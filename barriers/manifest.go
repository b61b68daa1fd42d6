package barriers

import "encoding/json"

// ManifestVersion is the version of the manifest format this package writes. Version 2 added what savepoints and event time need.
const ManifestVersion = 2

// Kind says why a manifest exists.
type Kind string

const (
	KindCheckpoint Kind = "checkpoint"
	KindSavepoint  Kind = "savepoint"
	// KindStart is the manifest a start from somewhere else than the latest checkpoint commits before the job runs.
	KindStart Kind = "start"
)

// Manifest describes one checkpoint: all a job needs to go on from it. It is JSON in the checkpoint bucket.
type Manifest struct {
	Version      int               `json:"version"`
	Kind         Kind              `json:"kind"`
	Tenant       string            `json:"tenant"`
	Job          string            `json:"job"`
	Checkpoint   uint64            `json:"checkpoint"`
	Epoch        uint64            `json:"epoch"`
	Owner        string            `json:"owner"`      // nonce of the attempt that wrote it
	CreatedAt    int64             `json:"created_at"` // unix nanoseconds, the worker's clock: information only
	Weir         string            `json:"weir"`       // version of the library
	Topology     string            `json:"topology"`   // fingerprint of the graph
	Parallelism  int               `json:"parallelism"`
	KeyGroups    int               `json:"key_groups"`
	Params       map[string]string `json:"params,omitempty"` // JSON text of each per-tenant parameter
	Sources      []Source          `json:"sources"`
	Operators    []Operator        `json:"operators,omitempty"`
	Sinks        []Sink            `json:"sinks,omitempty"`
	RestoredFrom string            `json:"restored_from,omitempty"`
	Request      string            `json:"request,omitempty"` // start request that this manifest applied
	Choices      []string          `json:"choices,omitempty"` // guarantees the user gave up, in words
	TopologyName string            `json:"topology_name,omitempty"`
	Config       json.RawMessage   `json:"config,omitempty"` // the job's configuration, the writer's own JSON

	// Of a savepoint: its name, the mark that asked for it, and where it came from when it was imported.
	Savepoint string `json:"savepoint,omitempty"`
	Mark      *Mark  `json:"mark,omitempty"`
	Origin    string `json:"origin,omitempty"`

	// Owed are the savepoints that marks have asked for and that are not made yet: whoever takes the job over makes them, of this
	// checkpoint or of a retained one.
	Owed []OwedSavepoint `json:"owed_savepoints,omitempty"`
}

// OwedSavepoint is a savepoint that is still to be made of a committed checkpoint.
type OwedSavepoint struct {
	Savepoint  string `json:"savepoint"`
	Checkpoint uint64 `json:"checkpoint"`
	Mark       Mark   `json:"mark"`
}

// Mark names the message in an input stream that asked for a savepoint.
type Mark struct {
	Source string `json:"source"`
	Stream string `json:"stream"`
	Seq    uint64 `json:"seq"`
}

// Source is a source's position.
type Source struct {
	Name     string        `json:"name"`
	Stream   string        `json:"stream"`
	Created  int64         `json:"stream_created"` // unix nanoseconds: the stream's identity
	Filter   string        `json:"filter"`         // absolute
	Position uint64        `json:"position"`       // the reader has looked at everything up to here
	Tail     []Fingerprint `json:"tail,omitempty"` // up to the last eight records read, oldest first
	// Watermark is the source's event time, unix nanoseconds; nil: none yet. Idle says that it does not hold others back.
	Watermark *int64 `json:"watermark,omitempty"`
	Idle      bool   `json:"idle,omitempty"`
}

// Fingerprint identifies a record that was read.
type Fingerprint struct {
	Seq  uint64 `json:"seq"`
	Time int64  `json:"time"` // unix nanoseconds, the server's
	Hash string `json:"hash"` // of subject and payload, see FingerprintHash
}

// Operator is the keyed state of one operator, as the chain of objects that restores it: bases and deltas, to be applied in order.
type Operator struct {
	Name   string      `json:"name"`
	States []StateInfo `json:"states,omitempty"`
	Chain  []Object    `json:"chain,omitempty"`
	// Watermark is the operator's event time, unix nanoseconds; nil: none yet.
	Watermark *int64 `json:"watermark,omitempty"`
}

// StateInfo is what must be known of a state before it is read.
type StateInfo struct {
	Name    string `json:"name"`
	Kind    string `json:"kind"` // value, map, list, reducing, aggregating, timers
	Codec   string `json:"codec"`
	Version int    `json:"version"` // schema version
}

// Object names one immutable snapshot object.
type Object struct {
	Bucket     string `json:"bucket"`
	Name       string `json:"name"`
	Bytes      int64  `json:"bytes"`
	Digest     string `json:"digest"` // SHA-256=base64url, as the object store writes it
	Base       bool   `json:"base,omitempty"`
	Subtask    int    `json:"subtask"`
	Checkpoint uint64 `json:"checkpoint"`
	FirstGroup int    `json:"first_group"`
	LastGroup  int    `json:"last_group"`         // inclusive
	Messages   uint64 `json:"messages,omitempty"` // of pending output
}

// Sink is a sink's pending output in this checkpoint.
type Sink struct {
	Name    string     `json:"name"`
	Stream  string     `json:"stream"`
	Created int64      `json:"stream_created"`
	Subject string     `json:"marker_subject"`
	Total   uint64     `json:"total"`             // messages to release
	Pending []Object   `json:"pending,omitempty"` // in publishing order: by subtask, then as written
	Seen    MarkerSeen `json:"marker"`            // as last seen when the manifest was written
}

// MarkerSeen is a marker's place and content.
type MarkerSeen struct {
	Seq        uint64 `json:"seq"` // 0: there was none
	Epoch      uint64 `json:"epoch,omitempty"`
	Checkpoint uint64 `json:"checkpoint,omitempty"`
	Released   uint64 `json:"released,omitempty"`
	Total      uint64 `json:"total,omitempty"`
}

// HeadVersion is the version of the head format this package writes.
const HeadVersion = 1

// State of a job as its head records it.
type HeadState string

const (
	StateRunning  HeadState = "running"
	StateStopping HeadState = "stopping"
	StateStopped  HeadState = "stopped"
	StateReleased HeadState = "released" // the owner let go of it: anybody may take it at once
	StateDeleted  HeadState = "deleted"  // tombstone: keeps epoch and last ID
)

// Head is the one record per job that says which manifest is committed. Writing it is the commit.
type Head struct {
	Version     int           `json:"version"`
	Tenant      string        `json:"tenant"`
	Job         string        `json:"job"`
	State       HeadState     `json:"state"`
	Epoch       uint64        `json:"epoch"`
	Worker      string        `json:"worker"`     // the owner's worker ID, for heartbeats and people
	Owner       string        `json:"owner"`      // nonce of the owning attempt
	Checkpoint  uint64        `json:"checkpoint"` // the committed one; 0: none yet
	ManifestSeq uint64        `json:"manifest_seq"`
	Digest      string        `json:"manifest_digest"`    // SHA-256=base64url of the manifest's bytes
	Retained    []ManifestRef `json:"retained,omitempty"` // older committed manifests still kept, oldest first
	Watermark   uint64        `json:"gc_watermark"`       // manifests below it and what only they refer to may be removed
	Request     string        `json:"applied_request,omitempty"`
}

// ManifestRef finds and proves a manifest.
type ManifestRef struct {
	Checkpoint uint64 `json:"checkpoint"`
	Seq        uint64 `json:"seq"`
	Digest     string `json:"digest"`
}

// MarkerVersion is the version of the marker format this package writes.
const MarkerVersion = 1

// Marker is the record in an output stream that says how far a checkpoint's release has come. It is JSON.
type Marker struct {
	Version    int    `json:"version"`
	Tenant     string `json:"tenant"`
	Job        string `json:"job"`
	Sink       string `json:"sink"`
	Epoch      uint64 `json:"epoch"`
	Owner      string `json:"owner"`
	Checkpoint uint64 `json:"checkpoint"`
	Released   uint64 `json:"released"` // messages of this checkpoint published so far
	Total      uint64 `json:"total"`
}

// HeadKey is the key of a job's head in the checkpoint bucket.
func HeadKey(tenant, job string) string { return tenant + "." + job }
