package barriers

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// oracle watches what takes effect on the simulated broker and says what is wrong, naming verdicts as Jepsen does. It knows the truth: the
// commits that took place, the input they cover, and hence the exact output.
type oracle struct {
	w         *world
	verdict   string // the first violation
	head      *Head
	tl        timeline            // of the committed head
	saved     map[uint64]timeline // by committed checkpoint
	refs      map[string]bool     // objects that the head's manifests refer to
	records   map[string]bool     // manifests the head names or retains
	objects   map[uint64][]string // by committed checkpoint
	want      [simSinks][]outMsg  // committed output
	have      [simSinks]int       // published
	gens      map[int][]inRec     // input by generation, as it was before the rollback
	manifests map[string][]byte   // every manifest written, by digest
	forked    uint64              // input behind it was replaced after it was committed; 0: no
	// lenient: the checkpoint bucket went back while workers live. Nothing can tell them before they write to it next, so until then
	// they release and remove as the commits that are gone allowed, and attempts of before and after may share an epoch. What is
	// right is a named error in the end, or exactly the output of one pass over the input.
	lenient bool
	named   error // a job ended with one

	points   map[string]timeline // of every savepoint that was ever complete, see pointOf
	complete map[string]bool     // those that are
	promised map[string]string   // objects of complete savepoints, and whose they are
	applied  map[string]bool     // start requests
	rolledTo uint64              // input behind it was replaced; 0: no
	// rolledOut says that an output stream went back. A job that stops then may not notice, and behind a tombstone nobody knows any more
	// what was published: that ends a run.
	rolledOut bool
}

// timeline is what a committed checkpoint means.
type timeline struct {
	pos   uint64
	gen   int // of the input
	state [4]uint32
	want  [simSinks]int
}

func newOracle(w *world) *oracle {
	return &oracle{
		w: w, points: map[string]timeline{}, complete: map[string]bool{}, promised: map[string]string{}, applied: map[string]bool{},
		saved: map[uint64]timeline{}, objects: map[uint64][]string{}, gens: map[int][]inRec{}, manifests: map[string][]byte{},
	}
}

func (o *oracle) fail(format string, args ...any) {
	if o.verdict == "" {
		o.verdict = fmt.Sprintf(format, args...)
		o.w.trace("VIOLATION %s", o.verdict)
	}
}

// published checks a message the moment it is in the output stream.
func (o *oracle) published(sink int, m outMsg) {
	i := o.have[sink]
	o.have[sink]++
	if o.lenient {
		return // exact compares everything at the end
	}
	want := o.want[sink]
	switch {
	case i >= len(want):
		if len(want) > 0 && m.seq <= want[len(want)-1].seq {
			o.fail("duplicated: sink %d message %d is %v again", sink, i, m)
		} else {
			o.fail("unexpected: sink %d message %d is %v, which is not committed", sink, i, m)
		}
	case want[i] == m:
	case m.seq < want[i].seq:
		o.fail("duplicated: sink %d message %d is %v, expected %v", sink, i, m, want[i])
	case m.seq > want[i].seq:
		o.fail("lost: sink %d message %d is %v, expected %v", sink, i, m, want[i])
	default:
		o.fail("wrong state: sink %d message %d is %v, expected %v", sink, i, m, want[i])
	}
}

// headWritten follows a head write: monotone, and if it commits, right.
func (o *oracle) headWritten(value []byte) {
	h, err := DecodeHead(value)
	if err != nil {
		o.fail("head: %v", err)
		return
	}
	prev := o.head
	o.head = h
	if prev != nil && !o.w.mut.outputOnly && !o.lenient {
		switch {
		case h.Epoch < prev.Epoch, h.Epoch == prev.Epoch && h.Owner != prev.Owner:
			o.fail("head: epoch %d of %s after epoch %d of %s", h.Epoch, h.Owner, prev.Epoch, prev.Owner)
		case h.Checkpoint < prev.Checkpoint:
			o.fail("head: checkpoint %d after %d", h.Checkpoint, prev.Checkpoint)
		case h.Watermark < prev.Watermark:
			o.fail("head: watermark %d after %d", h.Watermark, prev.Watermark)
		}
	}
	if (prev == nil || h.ManifestSeq != prev.ManifestSeq) && h.ManifestSeq != 0 {
		o.committed(h)
	}
	if h.ManifestSeq == 0 && h.Checkpoint > 0 && o.rolledOut {
		o.named = errNothingLeft
	}
	if h.State == StateStopped && !o.lenient && !o.rolledOut {
		for i, n := range o.tl.want {
			if o.have[i] < n {
				o.fail("stopped: %d of %d messages of sink %d are published", o.have[i], n, i)
			}
		}
	}
	o.index()
}

// index notes what the head needs, so that every deletion can be checked.
func (o *oracle) index() {
	o.refs, o.records = map[string]bool{}, map[string]bool{}
	for _, ref := range committed(o.head) {
		o.records[ManifestKey(simTenant, simJob, ref.Checkpoint)] = true
		for _, name := range o.objects[ref.Checkpoint] {
			o.refs[name] = true
		}
	}
}

func (o *oracle) committed(h *Head) {
	m, err := DecodeManifest(o.manifests[h.Digest])
	if err != nil {
		o.fail("manifest: %v", err)
		return
	}
	if o.lenient {
		o.tl.pos = m.Sources[0].Position
		return
	}
	if rec := o.w.record(ManifestKey(simTenant, simJob, h.Checkpoint)); rec.seq != h.ManifestSeq || Digest(rec.value) != h.Digest {
		o.fail("head: checkpoint %d is not the manifest it names", h.Checkpoint)
		return
	}
	o.objects[h.Checkpoint] = nil
	eachObject(m, func(obj *Object) {
		o.objects[h.Checkpoint] = append(o.objects[h.Checkpoint], obj.Name)
		if _, ok := o.w.objects[obj.Name]; !ok {
			o.fail("missing: checkpoint %d was committed without its object %s", h.Checkpoint, obj.Name)
		}
	})
	if o.verdict != "" {
		return
	}
	if m.Kind == KindStart {
		o.started(m)
	} else {
		o.advance(m)
	}
	if got := restoreState(o.w.objects, m); got != o.tl.state {
		o.fail("wrong state: checkpoint %d at position %d restores %v, right is %v", h.Checkpoint, o.tl.pos, got, o.tl.state)
	}
	for i := range simSinks {
		o.tl.want[i] = len(o.want[i])
	}
	o.saved[h.Checkpoint] = o.tl
}

// started follows a start from elsewhere.
func (o *oracle) started(m *Manifest) {
	if o.applied[m.Request] {
		o.fail("start request %s was applied twice", m.Request)
	}
	o.applied[m.Request] = true
	back, ok := o.points[m.RestoredFrom]
	if m.RestoredFrom == startFresh {
		back, ok = timeline{pos: m.Sources[0].Position, gen: o.w.gen}, true
	}
	if from, err := strconv.ParseUint(m.RestoredFrom, 10, 64); err == nil {
		back, ok = o.saved[from]
	}
	if !ok {
		o.fail("start from %s, which never was", m.RestoredFrom)
	}
	o.tl.pos, o.tl.state, o.tl.gen = back.pos, back.state, back.gen
	o.forked = 0 // a start from before the rollback reads the new records
	if back.gen < o.w.gen && back.pos > o.rolledTo {
		o.forked = o.rolledTo
	}
}

// savepointWritten follows a write under a savepoint's key.
func (o *oracle) savepointWritten(value []byte) {
	m, err := DecodeManifest(value)
	if err != nil || m.Kind != KindSavepoint || o.lenient {
		return
	}
	point := pointOf(m)
	o.complete[point], o.points[point] = true, o.saved[m.Checkpoint]
	eachObject(m, func(obj *Object) {
		o.promised[obj.Name] = point
		if _, ok := o.w.objects[obj.Name]; !ok {
			o.fail("missing: %s was completed without its object %s", point, obj.Name)
		}
	})
	if got := restoreState(o.w.objects, m); got != o.points[point].state || m.Sources[0].Position != o.points[point].pos {
		o.fail("wrong state: %s restores %v, right is %v", point, got, o.points[point].state)
	}
}

// answered checks that a savepoint whose maker was told so was complete.
func (o *oracle) answered(point string) {
	if _, ok := o.points[point]; !ok && !o.lenient {
		o.fail("lost: %s was answered and is not there", point)
	}
}

// advance computes what the checkpoint must hold and owe.
func (o *oracle) advance(m *Manifest) {
	pos := m.Sources[0].Position
	gen, _ := strconv.Atoi(m.Weir)
	input := o.w.input
	if gen < o.w.gen {
		input = o.gens[gen]
	}
	if o.forked != 0 && o.tl.pos > o.forked && gen == o.w.gen {
		o.fail("lost: the job went on at position %d of an input that was rolled back to %d and refilled", o.tl.pos, o.forked)
	}
	// In order from the last commit on: also what retention has removed since.
	for _, r := range input {
		if r.seq <= o.tl.pos || r.seq > pos {
			continue
		}
		o.tl.state[r.key]++
		i := int(r.seq % simSinks)
		o.want[i] = append(o.want[i], outMsg{r.seq, r.key, o.tl.state[r.key]})
	}
	o.tl.pos, o.tl.gen = pos, gen
}

func (o *oracle) objectGone(name string) {
	if o.refs[name] && !o.lenient {
		o.fail("missing: object %s was removed, but the head needs it", name)
	}
	if point := o.promised[name]; point != "" && !o.lenient {
		o.fail("missing: object %s was removed, but %s needs it", name, point)
	}
}

func (o *oracle) recordGone(key string, was []byte) {
	if m, err := DecodeManifest(was); err == nil && m.Kind == KindSavepoint {
		delete(o.complete, pointOf(m))
		eachObject(m, func(obj *Object) { delete(o.promised, obj.Name) })
		return
	}
	if o.records[key] && o.w.record(key).value == nil && !o.lenient {
		o.fail("missing: record %s was removed, but the head needs it", key)
	}
}

var errNothingLeft = errors.New("the output of a deleted job was rolled back")

func (o *oracle) rolledBackOut(sink int) {
	if o.rolledOut = true; o.head != nil && o.head.ManifestSeq == 0 && o.head.Checkpoint > 0 {
		o.named = errNothingLeft
	}
	o.have[sink] = len(o.w.out[sink].messages())
}

func (o *oracle) rolledBackBucket() {
	o.lenient = true
	rec := o.w.record(HeadKey(simTenant, simJob))
	if rec.value == nil {
		o.head, o.tl = nil, timeline{}
		clear(o.refs)
	} else {
		o.head, _ = DecodeHead(rec.value)
		o.tl = o.saved[o.head.Checkpoint]
		o.index()
	}
}

func (o *oracle) rolledBackInput(to uint64) {
	o.rolledTo = to
	if o.tl.pos > to {
		o.forked = to
	}
}

// exact reports whether everything that was put in has come out.
func (o *oracle) exact() bool {
	if o.tl.pos != o.w.lastIn || o.head == nil || o.head.ManifestSeq == 0 && o.w.lastIn > 0 {
		return false
	}
	want := o.want
	if o.lenient {
		want = onePass(o.w.input)
	}
	for i := range want {
		if o.have[i] != len(want[i]) || o.lenient && !slices.Equal(o.w.out[i].messages(), want[i]) {
			return false
		}
	}
	return true
}

// onePass is the naive job.
func onePass(input []inRec) (out [simSinks][]outMsg) {
	var state [4]uint32
	for _, r := range input {
		state[r.key]++
		i := r.seq % simSinks
		out[i] = append(out[i], outMsg{r.seq, r.key, state[r.key]})
	}
	return out
}

// restoreState applies a manifest's chain of objects.
func restoreState(objects map[string]simObject, m *Manifest) (state [4]uint32) {
	for _, op := range m.Operators {
		for _, obj := range op.Chain {
			applyState(&state, objects[obj.Name].data)
		}
	}
	return state
}

func applyState(state *[4]uint32, data []byte) {
	for ; len(data) >= 5; data = data[5:] {
		state[data[0]] = binary.BigEndian.Uint32(data[1:])
	}
}

func encodeState(changed map[byte]uint32) []byte {
	var data []byte
	for k := range byte(4) {
		if n, ok := changed[k]; ok {
			data = binary.BigEndian.AppendUint32(append(data, k), n)
		}
	}
	return data
}

func encodeOutput(out []outMsg) []byte {
	var data []byte
	for _, m := range out {
		data = binary.BigEndian.AppendUint64(data, m.seq)
		data = binary.BigEndian.AppendUint32(append(data, m.key), m.count)
	}
	return data
}

func decodeOutput(data []byte) (out []outMsg) {
	for ; len(data) >= 13; data = data[13:] {
		out = append(out, outMsg{binary.BigEndian.Uint64(data), data[8], binary.BigEndian.Uint32(data[9:])})
	}
	return out
}

// keepInput remembers the input of a generation that ends.
func (o *oracle) keepInput() { o.gens[o.w.gen] = append([]inRec(nil), o.w.input...) }

func cloneDirty(m map[byte]bool) map[byte]bool { return maps.Clone(m) }
