package processor

import (
	"fmt"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/state"
)

// trigger says that a checkpoint is pending. Sources cut when they read its barrier, or now.
func (t *task) trigger(ev evTrigger) {
	if !t.readsSources() || ev.nonce != t.inputs[0].source.nonce {
		return // of another attempt
	}
	if t.inFlight != 0 && ev.checkpoint > t.inFlight {
		t.fail(fmt.Errorf("bug: checkpoint %d was triggered while %d is not resolved", ev.checkpoint, t.inFlight))
		return
	}
	if t.finished && ev.inject && (t.busy() || t.calls() > 0) {
		t.deferred = &ev
		return
	}
	if t.loading > 0 {
		t.deferred = &ev
	}
	for i, in := range t.inputs {
		inject := ev.inject || in.source.rules != nil // no barrier is published into a bucket
		if !inject {
			in.source.filter.Pending(ev.checkpoint)
		} else if t.loading == 0 && in.source.filter.Inject(ev.checkpoint) {
			t.cut(i, ev.checkpoint)
		}
		if t.err != nil {
			return
		}
	}
}

// cut says that the barrier of a checkpoint has come on an input: nothing behind it is processed until the others' have come.
// It reports whether the input is blocked now.
func (t *task) cut(input int, checkpoint uint64) bool {
	if t.aligner.Current() == 0 {
		t.aligning = t.now()
	}
	r := t.aligner.Barrier(input, checkpoint)
	if r.Aligned != 0 {
		t.freeze(r.Aligned)
	}
	t.unblock(r.Unblock)
	t.inputs[input].blocked = r.Block
	return r.Block
}

func (t *task) unblock(inputs []int) {
	for _, i := range inputs {
		t.inputs[i].blocked = false
	}
}

// freeze makes the task's part of the checkpoint: O(changed). Then it forwards the barrier and goes on.
func (t *task) freeze(checkpoint uint64) {
	if t.inFlight != 0 {
		t.fail(fmt.Errorf("bug: checkpoint %d is cut while %d is not resolved", checkpoint, t.inFlight))
		return
	}
	start := time.Now()
	s := &taskSnapshot{checkpoint: checkpoint, task: t.index, aligned: t.now().Sub(t.aligning)}
	for _, in := range t.inputs {
		if in.source != nil {
			s.sources = append(s.sources, in.source.snapshot())
		}
	}
	for _, o := range t.subtasks {
		s.states = append(s.states, frozenState{operator: o.operator, subtask: o.subtask, frozen: o.freeze(checkpoint), watermark: o.time.snapshot()})
	}
	for _, k := range t.sinks {
		s.outputs = append(s.outputs, stagedOutput{sink: k.name, subtask: k.subtask, output: k.seal()})
	}
	s.flushed = t.sealDirect(checkpoint)
	t.inFlight, t.dirty, t.over = checkpoint, false, 0
	s.frozeIn = time.Since(start)
	for _, e := range t.exchanges {
		e.barrier(checkpoint)
		if t.err != nil {
			return
		}
	}
	t.host.snapshot(s)
}

func (o *operatorSubtask) freeze(checkpoint uint64) *state.Frozen {
	if o.full {
		o.full = false
		return o.backend.FreezeAll(checkpoint)
	}
	return o.backend.Freeze(checkpoint)
}

// committed lets go of what was frozen.
func (t *task) committed(checkpoint uint64) {
	if t.inFlight != checkpoint {
		return
	}
	for _, o := range t.subtasks {
		o.backend.Committed(checkpoint)
	}
	for _, k := range t.sinks {
		k.committed()
	}
	for _, d := range t.direct {
		d.committed(checkpoint)
	}
	t.resolved()
}

// aborted puts back what was frozen, and stops waiting for the checkpoint's barriers.
func (t *task) aborted(checkpoint uint64) {
	for _, in := range t.inputs {
		if in.source != nil {
			in.source.filter.Abort(checkpoint)
		}
	}
	t.unblock(t.aligner.Abort(checkpoint))
	if t.deferred != nil && t.deferred.checkpoint == checkpoint {
		t.deferred = nil
	}
	if t.inFlight != checkpoint {
		return
	}
	for _, o := range t.subtasks {
		o.backend.Aborted(checkpoint)
	}
	for _, k := range t.sinks {
		k.aborted()
	}
	t.resolved()
	t.touch()
}

// resolved lets barriers in that overtook the news of the checkpoint's end.
func (t *task) resolved() {
	t.inFlight = 0
	for i, in := range t.inputs {
		in.blocked = t.aligner.Blocked(i)
	}
}

// frame handles elements or a barrier from another task.
func (t *task) frame(input int, in *taskInput, ev evFrame) {
	f := ev.frame
	if f.barrier == 0 {
		if f.count > 0 {
			t.touch()
		}
		if !in.recv.receive(in, f) {
			in.putBack(ev)
			return
		}
		t.done(input)
		return
	}
	if t.inFlight != 0 && f.barrier > t.inFlight {
		// The next checkpoint's barrier overtook the news that this one is resolved: control and data come by different ways.
		in.blocked = true
		in.putBack(ev)
		return
	}
	t.cut(input, f.barrier)
	t.done(input)
}

// streamBarrier judges a barrier that a source read, and reports whether to cut there.
func (t *task) streamBarrier(s *sourceInput, r *Record) (checkpoint uint64, ok bool) {
	b, err := barriers.DecodeBarrier(r.Data)
	if err != nil {
		t.counts.late(lateMalformed)
		return 0, false
	}
	v := s.filter.Read(b)
	if v != barriers.BarrierEmit {
		t.counts.late(int(v))
		return 0, false
	}
	return b.Checkpoint, true
}
