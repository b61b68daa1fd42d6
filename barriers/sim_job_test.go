package barriers

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
)

// simAttempt is one run of the toy job, written as straight-line code over the real protocols: it counts input records per key and
// sends each count to one of two sinks.
type simAttempt struct {
	w     *world
	rng   *rand.Rand
	ask   Ask
	pay   func([]outMsg) // messages of the OpPublish that comes next
	nonce string
	sleep func(func(Ask) error) // run clean-up beside the job

	rec     *HeadRecord
	markers [simSinks]MarkerSeen
	maxPart uint64
	id      uint64
	pos     uint64
	tail    []inRec
	state   [4]uint32
	dirty   map[byte]bool
	out     [simSinks][]outMsg
	chain   []Object
	objects int
	garbage []string
	gen     int
}

// streamFault stands for processor.StreamError: the input is not what the checkpoint left behind.
type streamFault string

func (e streamFault) Error() string { return string(e) }

var errLetGo = errors.New("let go")

func (a *simAttempt) run(worker string) error {
	if a.w.desired != StateRunning {
		return a.finish(worker)
	}
	m, err := a.takeOver(worker, StateRunning)
	if err != nil {
		return err
	}
	if m, err = a.startPoint(m); err != nil {
		return err
	}
	if err := a.load(m); err != nil {
		return err
	}
	a.cleanup(true)
	for {
		if err := a.live(); err != nil {
			return err
		}
		if a.rng.IntN(60) == 0 {
			if _, err := LetGo(a.ask, a.rec, StateReleased); err != nil {
				return err
			}
			return errLetGo
		}
		if err := a.read(); err != nil {
			return err
		}
		if len(a.dirty) == 0 {
			if a.ask(Request{Op: opIdle}).Status == Canceled {
				return ErrCanceled
			}
			continue
		}
		if err := a.checkpoint(); err != nil {
			return err
		}
	}
}

func (a *simAttempt) targets() []SinkTarget {
	var ts []SinkTarget
	for i := range simSinks {
		ts = append(ts, SinkTarget{Name: sinkName(i), Stream: sinkStream(i), Created: a.w.out[i].created, Subject: sinkSubject(i)})
	}
	return ts
}

func (a *simAttempt) takeOver(worker string, as HeadState) (*Manifest, error) {
	rec, m, err := Acquire(a.ask, AcquireSpec{Tenant: simTenant, Job: simJob, Worker: worker, Owner: a.nonce, State: as})
	if err != nil {
		return nil, err
	}
	a.rec, a.id = rec, rec.Head.Checkpoint
	a.w.stats.acquires++
	a.w.trace("%s acquired epoch %d at checkpoint %d", a.nonce, rec.Head.Epoch, rec.Head.Checkpoint)
	markers, err := Fence(a.ask, rec, a.targets())
	if err != nil {
		return nil, err
	}
	if !a.w.mut.noVerify {
		if err := Verify(rec, m, a.targets(), markers); err != nil {
			return nil, err
		}
	}
	for i := range a.markers {
		a.markers[i] = markers[sinkName(i)].Now
	}
	if m == nil {
		return nil, nil
	}
	for _, s := range m.Sinks {
		if a.w.mut.forgetOwed {
			break
		}
		var out []outMsg
		for _, o := range s.Pending {
			data, err := a.get(o.Name)
			if err != nil {
				return nil, err
			}
			out = append(out, decodeOutput(data)...)
		}
		if err := a.release(m, sinkIndex(s.Name), out); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (a *simAttempt) sinks() []Sink {
	var ss []Sink
	for i := range simSinks {
		ss = append(ss, Sink{Name: sinkName(i), Stream: sinkStream(i), Created: a.w.out[i].created, Subject: sinkSubject(i), Seen: a.markers[i]})
	}
	return ss
}

func (a *simAttempt) load(m *Manifest) error {
	a.dirty, a.gen = map[byte]bool{}, a.w.gen
	if m == nil {
		return nil
	}
	a.pos = m.Sources[0].Position
	for _, f := range m.Sources[0].Tail {
		gen, _ := strconv.Atoi(f.Hash)
		a.tail = append(a.tail, inRec{seq: f.Seq, key: byte(f.Time), gen: gen})
	}
	for _, op := range m.Operators {
		a.chain = append(a.chain, op.Chain...)
		for _, o := range op.Chain {
			data, err := a.get(o.Name)
			if err != nil {
				return err
			}
			applyState(&a.state, data)
		}
	}
	return nil
}

func (a *simAttempt) get(name string) ([]byte, error) {
	for n := 1; n < 30; n++ {
		r := a.ask(Request{Op: opGet, Key: name})
		switch r.Status {
		case OK:
			return r.Value, nil
		case Canceled:
			return nil, ErrCanceled
		case NotFound:
			if err := CheckOwner(a.ask, a.rec); err != nil {
				return nil, err
			}
			return nil, &RecordError{Record: name, Err: errors.New("object is missing")}
		}
	}
	return nil, errors.New("no answer")
}

// read takes a batch of input. It does what jetstream's readers do: it validates the stream and lets no gap pass.
func (a *simAttempt) read() error {
	r := a.ask(Request{Op: opRead, Expected: a.pos})
	if r.Status == Canceled {
		return ErrCanceled
	}
	if r.Status != OK {
		return nil
	}
	if !a.w.mut.blindReader {
		if a.w.first > a.pos+1 {
			return streamFault("trimmed")
		}
		if a.w.lastIn < a.pos {
			return streamFault("tail lost")
		}
		for i := len(a.tail) - 1; i >= 0; i-- {
			if now, ok := a.w.inputAt(a.tail[i].seq); ok {
				if now != a.tail[i] {
					return streamFault("rewritten")
				}
				break
			}
		}
	}
	for _, rec := range a.w.readInput(a.pos, 1+a.rng.IntN(6), r.Seq == 1) {
		if rec.seq != a.pos+1 && !a.w.mut.blindReader {
			break // a gap: the consumer is dropped, the rest read again
		}
		a.pos = rec.seq
		a.tail = append(a.tail, rec)
		if len(a.tail) > maxTail {
			a.tail = a.tail[1:]
		}
		a.state[rec.key]++
		a.dirty[rec.key] = true
		i := int(rec.seq % simSinks)
		a.out[i] = append(a.out[i], outMsg{rec.seq, rec.key, a.state[rec.key]})
	}
	return nil
}

// put uploads an object under a name of its own; a try without an answer may leave garbage.
func (a *simAttempt) put(data []byte, messages int) (Object, error) {
	return a.putAs(ObjectPrefix(simJob, a.rec.Head.Epoch, a.id), data, messages)
}

func (a *simAttempt) putAs(prefix string, data []byte, messages int) (Object, error) {
	for n := 1; n < 30; n++ {
		a.objects++
		name := fmt.Sprintf("%sx-0-%s%d", prefix, a.nonce, a.objects)
		r := a.ask(Request{Op: opPut, Key: name, Value: data})
		switch r.Status {
		case OK:
			return Object{Bucket: "weir_acme", Name: name, Bytes: int64(len(data)), Digest: "d", Checkpoint: a.id, Messages: uint64(messages)}, nil
		case Canceled:
			return Object{}, ErrCanceled
		}
		a.garbage = append(a.garbage, name)
	}
	return Object{}, errors.New("no answer")
}

func (a *simAttempt) checkpoint() error {
	a.id++
	frozen := cloneDirty(a.dirty)
	pos, pending := a.pos, a.out
	m := &Manifest{
		Kind: KindCheckpoint, Tenant: simTenant, Job: simJob, Checkpoint: a.id, Epoch: a.rec.Head.Epoch, Owner: a.nonce,
		Weir: strconv.Itoa(a.gen), Parallelism: 1, KeyGroups: 1, Sinks: a.sinks(),
	}
	src := Source{Name: "in", Stream: "in", Position: pos}
	for _, r := range a.tail {
		src.Tail = append(src.Tail, Fingerprint{Seq: r.seq, Time: int64(r.key), Hash: strconv.Itoa(r.gen)})
	}
	m.Sources = []Source{src}
	chain := a.chain
	changed := map[byte]uint32{}
	if len(chain) >= 3 { // a new base
		chain = nil
		for k, n := range a.state {
			changed[byte(k)] = n
		}
	}
	for k := range frozen {
		changed[k] = a.state[k]
	}
	obj, err := a.put(encodeState(changed), 0)
	if err != nil {
		return err
	}
	obj.Base = chain == nil
	uploaded := []string{obj.Name}
	m.Operators = []Operator{{Name: "count", Chain: append(append([]Object(nil), chain...), obj)}}
	for i, out := range pending {
		if len(out) == 0 {
			continue
		}
		o, err := a.put(encodeOutput(out), len(out))
		if err != nil {
			return err
		}
		uploaded = append(uploaded, o.Name)
		m.Sinks[i].Total, m.Sinks[i].Pending = uint64(len(out)), []Object{o}
	}
	// The job goes on while its snapshot is on its way, and some checkpoints are aborted before they commit.
	a.dirty, a.out = map[byte]bool{}, [simSinks][]outMsg{}
	if err := a.read(); err != nil {
		return err
	}
	if a.rng.IntN(6) == 0 {
		a.abort(frozen, pending, uploaded)
		return nil
	}
	return a.commit(m, frozen, pending, uploaded)
}

// abort puts what was frozen back under the newer changes and in front of the newer output.
func (a *simAttempt) abort(frozen map[byte]bool, pending [simSinks][]outMsg, uploaded []string) {
	a.w.stats.aborts++
	a.w.trace("%s aborts checkpoint %d", a.nonce, a.id)
	a.garbage = append(a.garbage, uploaded...)
	if a.w.mut.dropDelta {
		return
	}
	for k := range frozen {
		a.dirty[k] = true
	}
	for i := range pending {
		a.out[i] = append(append([]outMsg(nil), pending[i]...), a.out[i]...)
	}
}

func (a *simAttempt) commit(m *Manifest, frozen map[byte]bool, pending [simSinks][]outMsg, uploaded []string) error {
	ask := a.ask
	if a.w.mut.abortSent || a.w.mut.optimistic {
		ask = impatient(ask)
	}
	rec, err := Commit(ask, a.rec, m, 3)
	if a.w.mut.optimistic && errors.Is(err, ErrCommitUnresolved) {
		rec, err = &HeadRecord{Head: a.rec.Head, Seq: a.rec.Seq + 2, trash: a.rec.trash}, nil
		rec.Head.Checkpoint = m.Checkpoint
	}
	if err != nil {
		if a.w.mut.abortSent && errors.Is(err, ErrCommitUnresolved) {
			a.abort(frozen, pending, uploaded)
			a.cleanup(false)
			return nil
		}
		return err
	}
	a.w.stats.commits++
	a.w.trace("%s committed checkpoint %d at position %d", a.nonce, m.Checkpoint, m.Sources[0].Position)
	a.rec, a.chain = rec, m.Operators[0].Chain
	if a.w.mut.lateRelease && a.rng.IntN(2) == 0 {
		return nil // it commits the next one first
	}
	for i, out := range pending {
		if err := a.release(m, i, out); err != nil {
			return err
		}
	}
	if a.rng.IntN(2) == 0 {
		a.cleanup(a.rng.IntN(4) == 0)
	}
	if a.rng.IntN(4) == 0 {
		return a.savepoint(m)
	}
	return nil
}

// impatient gives up as soon as a head write goes unanswered.
func impatient(ask Ask) Ask {
	sent := false
	return func(r Request) Reply {
		if r.Op == OpWait && sent {
			return Reply{Status: Canceled}
		}
		reply := ask(r)
		if r.Key == HeadKey(simTenant, simJob) && r.Op == OpWriteRecord && reply.Status == Unknown {
			sent = true
		}
		return reply
	}
}

func (a *simAttempt) release(m *Manifest, sink int, out []outMsg) error {
	seen, err := Release(func(r Request) Reply {
		if r.Op == OpPublish {
			a.pay(out[r.From:r.To])
		}
		return a.ask(r)
	}, ReleaseSpec{
		Record: a.rec, Manifest: m, Sink: sinkName(sink), Marker: a.markers[sink],
		Cut: func(from uint64) uint64 { return from + a.maxPart },
	})
	if err == nil {
		a.markers[sink] = seen
	}
	return err
}

// cleanup runs beside the job, as it does in production.
func (a *simAttempt) cleanup(orphans bool) {
	spec := CleanupSpec{Record: a.rec, Garbage: a.garbage, Orphans: orphans, OrphanAge: 20}
	a.garbage = nil
	if a.w.mut.earlyClean {
		early := *a.rec
		early.Head.Retained, early.Head.Watermark = nil, early.Head.Checkpoint
		spec.Record, spec.Orphans = &early, true
	}
	a.sleep(func(ask Ask) error { return Cleanup(ask, spec) })
}
