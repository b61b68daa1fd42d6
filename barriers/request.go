package barriers

// Op is what a protocol asks the broker to do.
type Op uint8

// The requests a protocol makes. Every one is a single operation on the broker, so a test can crash, delay or lose each.
const (
	// OpReadRecord reads Key from the checkpoint bucket through the stream's leader. Reply: Value, Seq, or NotFound with
	// Seq the sequence to expect when creating it (0, or that of a delete marker).
	OpReadRecord Op = iota + 1
	// OpWriteRecord writes Value under Key if the key's last sequence is Expected. Reply: Seq.
	OpWriteRecord
	// OpDeleteRecord removes Key if its last sequence is Expected.
	OpDeleteRecord
	// OpReadMarker reads the last message on Subject of Stream through the leader. Reply: Value, Seq, or NotFound.
	OpReadMarker
	// OpWriteMarker publishes Value on Subject of Stream if the subject's last sequence is Expected. Reply: Seq.
	OpWriteMarker
	// OpPublish publishes messages [From, To) of Sink's pending output in checkpoint Checkpoint and then Value as the marker
	// on Subject, all of it or nothing, if Subject's last sequence is Expected. Reply: Seq of the marker.
	OpPublish
	// OpListRecords lists the keys that begin with Key and a dot, in full. Reply: Names.
	OpListRecords
	// OpListObjects lists the job's snapshot objects, names as in Object.Name. Reply: Objects, ServerTime.
	OpListObjects
	// OpDeleteObject removes the object Key.
	OpDeleteObject
	// OpWait backs off before try number Attempt (1 is the first retry). Reply: OK, or Canceled.
	OpWait
)

// Request is one thing a protocol asks for. Which fields are set depends on Op.
type Request struct {
	Op         Op
	Key        string
	Value      []byte
	Expected   uint64
	Stream     string
	Subject    string
	Sink       string
	Checkpoint uint64
	From, To   uint64
	Attempt    int
}

// Status classes a reply by what a protocol must do next.
type Status uint8

const (
	// OK: done, once.
	OK Status = iota + 1
	// NotFound: a read found nothing. After a write that was just acknowledged it may be a lagging replica's answer.
	NotFound
	// Mismatch: the guard did not hold (10071): nothing was written by this request.
	Mismatch
	// Unknown: no answer, or an error that leaves open whether the write took place.
	Unknown
	// Busy: refused for now, nothing was written: another write in flight (10164), too many open batches (10210).
	Busy
	// Full: refused because stream, bucket, account or server has no room. Nothing was written.
	Full
	// Rejected: refused for good; Err says why. Nothing was written.
	Rejected
	// Canceled: the job's context ended. Whether a write took place is open.
	Canceled
)

// Object describes a listed snapshot object.
type ObjectInfo struct {
	Name     string
	Bytes    int64
	Modified int64 // unix nanoseconds by the server's clock
}

// Reply answers a Request.
type Reply struct {
	Status     Status
	Seq        uint64
	Value      []byte
	Names      []string
	Objects    []ObjectInfo
	ServerTime int64 // unix nanoseconds
	Err        error
}

// Ask executes one request and returns its reply. It is the only way a protocol touches the world. In production it blocks on
// the broker; in the simulator it hands the request to the scheduler, which may delay, lose, repeat or never answer it.
type Ask func(Request) Reply
