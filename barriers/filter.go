package barriers

// BarrierVerdict says what a source does with a barrier it has read.
type BarrierVerdict uint8

const (
	// BarrierEmit: cut here and pass the barrier on.
	BarrierEmit BarrierVerdict = iota
	// BarrierForeign: another job's or another source's.
	BarrierForeign
	// BarrierForged: names this attempt but not with its nonce, or an epoch that does not exist yet.
	BarrierForged
	// BarrierStale: of an earlier attempt or an earlier checkpoint.
	BarrierStale
	// BarrierDuplicate: this checkpoint was cut already.
	BarrierDuplicate
	// BarrierNotPending: nobody triggered this checkpoint, or it was aborted.
	BarrierNotPending
)

func (v BarrierVerdict) String() string {
	switch v {
	case BarrierEmit:
		return "emit"
	case BarrierForeign:
		return "foreign"
	case BarrierForged:
		return "forged"
	case BarrierStale:
		return "stale"
	case BarrierDuplicate:
		return "duplicate"
	case BarrierNotPending:
		return "not pending"
	}
	return "unknown verdict"
}

// BarrierFilter decides for one source which barriers count: the pending checkpoint of its own attempt, each ID at most once,
// whether the barrier is read from the stream or injected. It is not safe for concurrent use.
type BarrierFilter struct {
	self    Barrier // identity; Checkpoint unused
	pending uint64  // 0: none
	last    uint64  // highest ID that was emitted or aborted: IDs never go back
	emitted uint64  // highest ID that was emitted
}

// NewBarrierFilter returns the filter of the source named by self's Tenant, Job, Source, Epoch and Nonce.
func NewBarrierFilter(self Barrier) *BarrierFilter { return &BarrierFilter{self: self} }

// Pending says that the coordinator triggered the checkpoint. A newer one replaces an older that was not emitted.
func (f *BarrierFilter) Pending(checkpoint uint64) {
	if checkpoint > f.last && checkpoint > f.pending {
		f.pending = checkpoint
	}
}

// Read judges a barrier read from the stream.
func (f *BarrierFilter) Read(b Barrier) BarrierVerdict {
	switch {
	case b.Tenant != f.self.Tenant || b.Job != f.self.Job || b.Source != f.self.Source:
		return BarrierForeign
	case b.Epoch < f.self.Epoch:
		return BarrierStale
	case b.Epoch > f.self.Epoch || b.Nonce != f.self.Nonce:
		return BarrierForged
	case b.Checkpoint == f.emitted:
		return BarrierDuplicate
	case b.Checkpoint <= f.last || b.Checkpoint < f.pending:
		return BarrierStale
	case b.Checkpoint != f.pending:
		return BarrierNotPending
	}
	f.emit()
	return BarrierEmit
}

// Inject reports whether the source must cut the checkpoint at its reading position now, and takes it as emitted if so.
func (f *BarrierFilter) Inject(checkpoint uint64) bool {
	f.Pending(checkpoint)
	if checkpoint == 0 || f.pending != checkpoint {
		return false
	}
	f.emit()
	return true
}

// Abort gives the checkpoint, and any older one, up.
func (f *BarrierFilter) Abort(checkpoint uint64) {
	f.last = max(f.last, checkpoint)
	if f.pending <= checkpoint {
		f.pending = 0
	}
}

func (f *BarrierFilter) emit() {
	f.emitted, f.last, f.pending = f.pending, f.pending, 0
}
