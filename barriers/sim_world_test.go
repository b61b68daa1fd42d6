package barriers

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// The simulated broker: one checkpoint bucket, one bucket of objects, one input stream, two output streams. apply executes one
// request at once; delays and losses are the network's (sim_net_test.go).

const (
	simTenant = "acme"
	simJob    = "count"
	simSinks  = 2
)

// opPut, opGet, opRead and opIdle are the data plane's requests: they go through the same network as the protocols'.
const (
	opPut  Op = 100 + iota // write object Key
	opGet                  // read object Key
	opRead                 // read input behind Expected; Reply.Seq is the position afterwards
	opIdle                 // let time pass
)

// outMsg is one result: the count of key after input record seq.
type outMsg struct {
	seq   uint64
	key   byte
	count uint32
}

// inRec is an input record. Its generation tells records apart that had the same sequence before and after a rollback.
type inRec struct {
	seq uint64
	key byte
	gen int
}

type simRecord struct {
	seq   uint64
	value []byte // nil: deleted
	prev  *simRecord
}

type simObject struct {
	data     []byte
	modified int64
}

type outEntry struct {
	seq    uint64
	marker []byte // nil: a message, or noise
	msg    outMsg
	noise  bool
	id     string // message ID, for the mutant that trusts them
}

type outStream struct {
	last    uint64
	created int64
	entries []outEntry
}

func (s *outStream) add(e outEntry) uint64 {
	s.last++
	e.seq = s.last
	s.entries = append(s.entries, e)
	return s.last
}

// marker returns the last marker, or the one before it (a deposed leader's answer).
func (s *outStream) marker(before bool) (uint64, []byte) {
	for i := len(s.entries) - 1; i >= 0; i-- {
		if e := &s.entries[i]; e.marker != nil {
			if !before {
				return e.seq, e.marker
			}
			before = false
		}
	}
	return 0, nil
}

type world struct {
	rng     *rand.Rand
	mut     mutant
	now     int64
	seq     uint64 // of the checkpoint bucket
	records map[string]*simRecord
	objects map[string]simObject
	input   []inRec
	first   uint64 // input below it was removed by retention
	gen     int
	lastIn  uint64
	out     [simSinks]*outStream
	oracle  *oracle
	start   string // the latest start request
	// startFrom is what it starts from, desired what the job is to do: StateRunning, StateStopped, StateDeleted.
	startFrom string
	desired   HeadState
	trace     func(format string, args ...any)
	stats     *simStats
}

// simStats counts what happened, so that a simulation in which nothing does cannot pass for one.
type simStats struct {
	requests, acquires, commits, aborts, starts, late, fenced, deletions, published, named int

	savepoints, restored, stops, deletes int
}

func newWorld(rng *rand.Rand, m mutant, trace func(string, ...any)) *world {
	w := &world{rng: rng, mut: m, records: map[string]*simRecord{}, objects: map[string]simObject{}, first: 1, trace: trace, stats: &simStats{}, desired: StateRunning}
	for i := range w.out {
		w.out[i] = &outStream{created: int64(i) + 1}
	}
	w.oracle = newOracle(w)
	return w
}

func sinkName(i int) string       { return string(rune('a' + i)) }
func sinkIndex(name string) int   { return int(name[0] - 'a') }
func sinkStream(i int) string     { return "out-" + sinkName(i) }
func sinkSubject(i int) string    { return "marker." + sinkName(i) }
func streamIndex(name string) int { return sinkIndex(strings.TrimPrefix(name, "out-")) }

func (w *world) feed(n int) {
	for range n {
		w.lastIn++
		w.input = append(w.input, inRec{seq: w.lastIn, key: byte(w.rng.IntN(4)), gen: w.gen})
	}
}

func (w *world) record(key string) *simRecord {
	if r := w.records[key]; r != nil {
		return r
	}
	return &simRecord{}
}

// apply executes a request. stale answers a read as of one write ago.
func (w *world) apply(r Request, payload []outMsg, stale bool) Reply {
	w.stats.requests++
	switch r.Op {
	case OpReadRecord:
		rec := w.record(r.Key)
		if stale && rec.prev != nil {
			rec = rec.prev
		}
		if rec.value == nil {
			return Reply{Status: NotFound, Seq: rec.seq}
		}
		return Reply{Status: OK, Seq: rec.seq, Value: rec.value}
	case OpWriteRecord, OpDeleteRecord:
		return w.writeRecord(r)
	case OpReadMarker:
		seq, value := w.out[streamIndex(r.Stream)].marker(stale)
		if value == nil {
			return Reply{Status: NotFound}
		}
		return Reply{Status: OK, Seq: seq, Value: value}
	case OpWriteMarker, OpPublish:
		return w.publish(r, payload)
	case OpListRecords:
		var names []string
		for key, rec := range w.records {
			if rec.value != nil && strings.HasPrefix(key, r.Key+".") {
				names = append(names, key)
			}
		}
		slices.Sort(names)
		return Reply{Status: OK, Names: names}
	case OpListObjects:
		return w.listObjects()
	case OpDeleteObject:
		if _, ok := w.objects[r.Key]; ok {
			w.oracle.objectGone(r.Key)
			w.stats.deletions++
		}
		delete(w.objects, r.Key)
		return Reply{Status: OK}
	case opPut:
		w.objects[r.Key] = simObject{r.Value, w.now}
		return Reply{Status: OK}
	case opGet:
		if o, ok := w.objects[r.Key]; ok {
			return Reply{Status: OK, Value: o.data}
		}
		return Reply{Status: NotFound}
	}
	return Reply{Status: Rejected, Err: fmt.Errorf("no such request: %d", r.Op)}
}

func (w *world) listObjects() Reply {
	reply := Reply{Status: OK, ServerTime: w.now}
	for name, o := range w.objects {
		reply.Objects = append(reply.Objects, ObjectInfo{Name: name, Modified: o.modified})
	}
	slices.SortFunc(reply.Objects, func(a, b ObjectInfo) int { return strings.Compare(a.Name, b.Name) })
	return reply
}

func (w *world) writeRecord(r Request) Reply {
	cur := w.record(r.Key)
	head := r.Key == HeadKey(simTenant, simJob)
	if cur.seq != r.Expected && !(head && w.mut.noHeadGuard) {
		return Reply{Status: Mismatch}
	}
	next := &simRecord{prev: &simRecord{seq: cur.seq, value: cur.value}}
	if r.Op == OpWriteRecord {
		w.seq++
		next.seq, next.value = w.seq, bytes.Clone(r.Value)
	} else {
		w.oracle.recordGone(r.Key, cur.value)
	}
	w.records[r.Key] = next
	if head {
		w.oracle.headWritten(next.value)
	} else if next.value != nil {
		w.oracle.manifests[Digest(next.value)] = next.value
		w.oracle.recordGone(r.Key, cur.value)
		w.oracle.savepointWritten(next.value)
	}
	return Reply{Status: OK, Seq: next.seq}
}

func (w *world) publish(r Request, payload []outMsg) Reply {
	i := streamIndex(r.Stream)
	s := w.out[i]
	last, _ := s.marker(false)
	if last != r.Expected && !w.mut.noMarkerGuard && !w.mut.messageIDs {
		return Reply{Status: Mismatch}
	}
	for n, m := range payload {
		id := fmt.Sprintf("%d/%d", r.Checkpoint, r.From+uint64(n))
		if w.mut.messageIDs && s.recent(id) {
			continue
		}
		w.oracle.published(i, m)
		w.stats.published++
		s.add(outEntry{msg: m, id: id})
	}
	return Reply{Status: OK, Seq: s.add(outEntry{marker: bytes.Clone(r.Value)})}
}

func (s *outStream) messages() (out []outMsg) {
	for _, e := range s.entries {
		if e.marker == nil && !e.noise {
			out = append(out, e.msg)
		}
	}
	return out
}

// recent is a bounded window of message IDs.
func (s *outStream) recent(id string) bool {
	for i := len(s.entries) - 1; i >= 0 && i >= len(s.entries)-8; i-- {
		if s.entries[i].id == id {
			return true
		}
	}
	return false
}

// readInput returns up to n records behind pos, and drops one in the middle if told to: a reader's gap.
func (w *world) readInput(pos uint64, n int, gap bool) []inRec {
	var out []inRec
	for _, r := range w.input {
		if r.seq > pos && r.seq >= w.first && len(out) < n {
			out = append(out, r)
		}
	}
	if gap && len(out) > 2 {
		out = slices.Delete(out, 1, 2)
	}
	return out
}

func (w *world) inputAt(seq uint64) (inRec, bool) {
	if seq < w.first || seq == 0 {
		return inRec{}, false
	}
	i, ok := slices.BinarySearchFunc(w.input, seq, func(r inRec, s uint64) int { return int(r.seq) - int(s) })
	if !ok {
		return inRec{}, false
	}
	return w.input[i], true
}

// snapshots of a broker's store, to be put back later: a rollback.

type outSnapshot struct {
	last    uint64
	entries int
}

func (w *world) rollbackOut(i int, to outSnapshot) {
	s := w.out[i]
	s.last, s.entries = to.last, s.entries[:to.entries:to.entries]
	w.oracle.rolledBackOut(i)
}

type bucketSnapshot struct {
	seq     uint64
	records map[string]simRecord
}

func (w *world) copyBucket() bucketSnapshot {
	c := bucketSnapshot{w.seq, map[string]simRecord{}}
	for k, r := range w.records {
		c.records[k] = simRecord{seq: r.seq, value: r.value}
	}
	return c
}

func (w *world) rollbackBucket(to bucketSnapshot) {
	w.seq, w.records = to.seq, map[string]*simRecord{}
	for k, r := range to.records {
		w.records[k] = &r
	}
	w.oracle.rolledBackBucket()
}

// rollbackInput forgets the input behind seq and fills the stream up again with other records.
func (w *world) rollbackInput(to uint64, refill int) {
	for len(w.input) > 0 && w.input[len(w.input)-1].seq > to {
		w.input = w.input[:len(w.input)-1]
	}
	w.lastIn = min(w.lastIn, to)
	w.gen++
	w.feed(refill)
	w.oracle.rolledBackInput(to)
}
