package processor

import (
	"context"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/tenants"
)

// Record is one message as a reader delivers it. Its bytes belong to the reader until the batch is released; a record that is
// kept longer is copied.
type Record struct {
	Subject string // absolute
	Data    []byte
	Header  map[string][]string // nil without headers
	Seq     uint64              // sequence in the stream
	Time    int64               // unix nanoseconds, set by the server
}

// Batch is what a reader hands over at once: records in stream order, without a gap.
type Batch struct {
	Records []Record
	// Position is the stream sequence up to which the reader has looked: at least the last record's, more when it knows that
	// nothing after it matches.
	Position uint64
	// Pending is the number of matching messages behind this batch when its last record was delivered.
	Pending uint64
	// Reset says that the stream is not the one that was read before, or lost its end, and that the job goes on (AllowDataLoss):
	// sequences may begin again below what was delivered.
	Reset bool
}

// Reader reads one source's stream in order. It reopens itself after gaps, reconnects and leader changes, and returns an error
// only when the job must stop or restart (a *StreamError, or the context's error).
type Reader interface {
	// Next blocks until there is something to hand over: at least one record, or a position that moved.
	Next(ctx context.Context) (Batch, error)
	// Close releases the reader. It is idempotent.
	Close()
}

// ReaderSpec says where a reader starts.
type ReaderSpec struct {
	Job     tenants.JobID
	Source  string
	Stream  string
	Created int64  // the stream's creation time; 0: not known yet
	Filter  string // absolute, one subject
	// After is the position: the first record delivered is the first match behind it.
	After uint64
	// Fresh says that nothing was read before: what retention removes before the first record is delivered is not missed.
	Fresh bool
	// Tail holds fingerprints of the last records read, to recognise a stream that was rolled back and refilled.
	Tail []barriers.Fingerprint
	// AllowDataLoss goes on where the stream was recreated, rolled back or trimmed, from the nearest existing record.
	AllowDataLoss bool
	// Compacted says that records may be removed before they are read, as a bucket's are: that is no loss.
	Compacted bool
	// BatchRecords and BatchBytes bound one batch.
	BatchRecords int
	BatchBytes   int
}

// Message is one message that a sink will publish.
type Message struct {
	Subject string // absolute
	Header  map[string][]string
	Data    []byte
}

// SourceBinding is a source resolved against the broker.
type SourceBinding struct {
	Source   string
	Stream   string
	Created  int64  // unix nanoseconds
	Filter   string // absolute, one subject
	FirstSeq uint64
	LastSeq  uint64 // of a bucket: the last record that is the source's
	// Barrier is the subject for in-stream barriers; empty when the stream was not created by Weir and the job did not choose them.
	Barrier string
	// Prefix is what the subjects of a bucket's keys begin with: "$KV.rules.acme."; empty: it is no bucket.
	Prefix string
}

// SinkBinding is a sink resolved against the broker.
type SinkBinding struct {
	Sink     string
	Stream   string
	Created  int64
	Marker   string   // the marker's subject; empty for an at-least-once sink
	Captures []string // the stream's subjects
	Prefix   string   // what the sink's relative subjects are appended to: "acme.", "$KV.counts.acme."
	MaxMsg   int      // largest message with headers, bytes
	// MaxPart bounds one atomic batch in messages, marker included.
	MaxPart int
}

// SourceNeed and SinkNeed say what a topology needs of the broker for one tenant.
type SourceNeed struct {
	Source   string
	Stream   string // empty: find it by the filter
	Filter   tenants.Filter
	Filters  []tenants.Filter // what it passes on of what Filter covers
	InStream bool             // barriers are to be published into it even if Weir did not create it
	Bucket   string           // of rules: the KV bucket that it reads, see Keys; then all of the above but Source are empty
	Shared   bool             // all of the bucket
}

// SinkNeed says what a sink needs.
type SinkNeed struct {
	Sink            string
	Stream          string           // empty: find it by the subjects
	Subjects        []tenants.Filter // relative filters that cover what it will publish; may be empty
	Bucket          string           // KV sink: the bucket
	DeadLetters     bool             // the implicit _dlq sink
	AtLeastOnce     bool
	Marker          string // absolute; empty: the default
	AllowMarkerLoss bool
	// Shadow goes between the tenant's prefix and everything the sink publishes, its marker too; in a bucket before the key. See Prefix,
	// MarkerSubject and BucketPrefix. Dead letters have none.
	Shadow string
}

// Needs is everything one job needs of the broker.
type Needs struct {
	Job     tenants.JobID
	Sources []SourceNeed
	Sinks   []SinkNeed
	Tables  []TableNeed
}

// Bindings is the answer to Needs.
type Bindings struct {
	Sources []SourceBinding
	Sinks   []SinkBinding
	Tables  []TableBinding
}

// Finding is one line of a dry run: what is there, what is needed, and how to get it.
type Finding struct {
	Subject string // "source lines", "sink counts"
	Stream  string
	Has     string // what is there
	Needs   string // what is missing; empty: all is well
	Fix     string // the exact command, when there is one
	Created bool   // Weir would create it
}

// Transport is what a job needs of the broker for its data.
type Transport interface {
	// Namespace says how tenants' relative subjects become absolute.
	Namespace() tenants.Namespace
	// Check resolves the needs without changing anything. The error, if any, is terminal and names every problem.
	Check(ctx context.Context, needs Needs) ([]Finding, error)
	// Bind creates what Weir owns and is missing, checks the rest and returns where everything is.
	Bind(ctx context.Context, needs Needs) (Bindings, error)
	// OpenReader validates the stream against the spec (a *StreamError says what is wrong) and starts reading.
	OpenReader(ctx context.Context, spec ReaderSpec) (Reader, error)
	// OpenTable returns a copy of the rows that holds, at least, everything up to the bucket's last revision at the time of the call.
	OpenTable(ctx context.Context, job tenants.JobID, table TableBinding) (TableCopy, error)
	// Subjects lists the subjects under a filter of which a stream has messages.
	Subjects(ctx context.Context, stream, filter string) ([]string, error)
	// PublishBarrier publishes a barrier on subject of the stream; the expected stream is set. Best effort.
	PublishBarrier(ctx context.Context, stream, subject string, payload []byte) error
	// PublishPart publishes messages and their marker as one atomic batch, see barriers.OpPublish. It may put several jobs' parts
	// into one batch.
	PublishPart(ctx context.Context, part Part) barriers.Reply
	// Publish sends one message without waiting; done is called once, from any goroutine, when the stream has it or has refused
	// it for good. It blocks while too many are under way.
	Publish(ctx context.Context, stream string, m Message, done func(error)) error
}

// Part is a piece of a sink's pending output with the marker that fences it.
type Part struct {
	Job      tenants.JobID
	Sink     string
	Stream   string
	Messages []Message
	Marker   Message
	Expected uint64 // last sequence of the marker's subject
	// Next is what will most likely follow if this part succeeds: a publisher may prepare it. Its marker is guarded by this
	// part's. nil: nothing follows.
	Next *Part
}

// SnapshotStore keeps snapshot objects.
type SnapshotStore interface {
	// Put writes an object that must not exist yet and returns when it is durable and readable. name is job/epoch-checkpoint/…
	// It takes ownership of data. barriers.Object's Bucket, Name, Bytes and Digest are set in the result.
	Put(ctx context.Context, tenant tenants.ID, name string, data []byte) (barriers.Object, error)
	// Get reads an object and verifies size and digest: a *CorruptError if they differ, ErrObjectMissing if it is not there.
	Get(ctx context.Context, tenant tenants.ID, ref barriers.Object) ([]byte, error)
}

// CommitLog executes the requests of the protocols, but for OpPublish and OpWait, which the attempt carries out itself.
type CommitLog interface {
	Do(ctx context.Context, job tenants.JobID, r barriers.Request) barriers.Reply
	// Heartbeat writes the heartbeat of a worker's process; id is {worker}.{process}. It may forget one that is a day old.
	Heartbeat(ctx context.Context, id string) error
	// LastHeartbeat returns the revision of a heartbeat, 0 if there is none. A revision that does not move on the caller's own
	// clock means that the process is gone.
	LastHeartbeat(ctx context.Context, id string) (uint64, error)
}

// Broker is all of it.
type Broker interface {
	Transport
	SnapshotStore
	CommitLog
	Intents
}

// Clock tells time, so that a simulation can.
type Clock interface {
	Now() time.Time
}

func (b Bindings) source(name string) SourceBinding {
	for _, s := range b.Sources {
		if s.Source == name {
			return s
		}
	}
	return SourceBinding{}
}

func (b Bindings) sink(name string) SinkBinding {
	for _, s := range b.Sinks {
		if s.Sink == name {
			return s
		}
	}
	return SinkBinding{}
}
