package processor

import (
	"fmt"
	"sync"
	"time"

	"github.com/weirstream/weir/barriers"
)

// maxHistory bounds the checkpoints that a job remembers in memory.
const maxHistory = 64

// history is what became of a job's last checkpoints in this process, failed ones too. It may be used from any goroutine.
type history struct {
	mu   sync.Mutex
	list []CheckpointReport // oldest first
}

func (h *history) add(r CheckpointReport) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.list) == maxHistory {
		h.list = append(h.list[:0], h.list[1:]...)
	}
	h.list = append(h.list, r)
}

// newestFirst returns a copy.
func (h *history) newestFirst() []CheckpointReport {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]CheckpointReport, 0, len(h.list))
	for i := len(h.list) - 1; i >= 0; i-- {
		out = append(out, h.list[i])
	}
	return out
}

// States of a CheckpointReport.
const (
	CheckpointCompleted = "completed"
	CheckpointFailed    = "failed"
)

// recordCompleted notes a checkpoint whose output is released.
func (a *attempt) recordCompleted(cp *pendingCheckpoint, ev CheckpointEvent) {
	r := a.checkpointReport(cp)
	r.State, r.Duration, r.Committed, r.Released = CheckpointCompleted, Duration(ev.Duration), Duration(ev.Committed), Duration(ev.Released)
	r.Messages = ev.Messages
	r.Positions = map[string]uint64{}
	for _, s := range cp.manifest.Sources {
		r.Positions[s.Stream] = max(r.Positions[s.Stream], s.Position)
	}
	for _, op := range cp.manifest.Operators {
		for _, o := range op.Chain {
			r.Bytes += o.Bytes
			r.Objects++
		}
	}
	for _, s := range cp.manifest.Sinks {
		for _, o := range s.Pending {
			r.Bytes += o.Bytes
			r.Objects++
		}
	}
	a.history.add(r)
}

// recordFailed notes a checkpoint that was aborted.
func (a *attempt) recordFailed(cp *pendingCheckpoint, at time.Time, err error) {
	r := a.checkpointReport(cp)
	r.State, r.Duration = CheckpointFailed, Duration(at.Sub(cp.started))
	if err != nil {
		r.Error = err.Error()
	}
	a.history.add(r)
}

func (a *attempt) checkpointReport(cp *pendingCheckpoint) CheckpointReport {
	r := CheckpointReport{
		Checkpoint: cp.id, Epoch: a.rec.Head.Epoch, Kind: barriers.KindCheckpoint, Started: cp.started,
		Acks:    fmt.Sprintf("%d/%d", len(cp.results), len(a.plan.tasks)),
		Aligned: Duration(cp.event.Aligned), Frozen: Duration(cp.event.Frozen), Uploaded: Duration(cp.event.Uploaded),
		DeltaBytes: cp.event.Bytes,
	}
	if cp.savepoint {
		r.Kind = barriers.KindSavepoint
	}
	return r
}
