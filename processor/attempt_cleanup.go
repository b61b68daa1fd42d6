package processor

import (
	"context"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/state"
)

// orphanEvery is how many checkpoints pass between two searches for orphaned objects, which must list the bucket.
const orphanEvery = 200

// startMerges folds chains that have outgrown their base into a new base, beside the job. The merged objects take the chain's
// place in the next manifest; until that is committed nothing depends on them.
func (a *attempt) startMerges() {
	for _, operator := range sortedKeys(a.chains) {
		chain := a.chains[operator]
		if a.merges[operator] != nil || a.full[operator] || !outgrown(chain, a.cfg.MergeAfter) {
			continue
		}
		mg := &merge{running: true, prefix: len(chain)}
		a.merges[operator] = mg
		names := a.objectNames(a.rec.Head.Checkpoint)
		checkpoint := a.rec.Head.Checkpoint
		now := a.drv.now().UnixNano()
		a.drv.spawn(a.ctx, func(ctx context.Context, io effects) ctlEvent {
			objects, err := a.fetch(ctx, io, chain)
			if err != nil {
				return ctlMerged{operator: operator, prefix: mg.prefix, err: err}
			}
			encoded, err := state.Rewrite(objects, state.MergeSpec{MaxObject: maxObject, Now: now})
			if err != nil {
				return ctlMerged{operator: operator, prefix: mg.prefix, err: err}
			}
			u := &upload{job: a.job, checkpoint: checkpoint, names: names, io: io, timeout: a.cfg.Checkpoint.Timeout, wait: a.onWait}
			merged, err := u.putAll(ctx, operator, 0, encoded)
			return ctlMerged{operator: operator, prefix: mg.prefix, merged: merged, err: err}
		})
	}
}

// dropMerges makes garbage of what was merged and will not be committed any more.
func (a *attempt) dropMerges() {
	for operator, mg := range a.merges {
		if !mg.running {
			a.garbage = append(a.garbage, mg.objects...)
			delete(a.merges, operator)
		}
	}
}

// outgrown reports whether the deltas of a chain outweigh its bases, or have become too many.
func outgrown(chain []barriers.Object, maxDeltas int) bool {
	var base, delta int64
	deltas := 0
	for _, o := range chain {
		if o.Base {
			base += o.Bytes
		} else {
			delta += o.Bytes
			deltas++
		}
	}
	return deltas > 1 && (deltas >= maxDeltas || deltas >= 4 && delta > base)
}

// maxManifestObjects is how many objects a manifest may name while a merge that would make them fewer is under way: at some 300
// bytes each they must fit into one message, 1 MiB on most servers.
const maxManifestObjects = 2000

// mustMerge reports whether the commit must wait for merges, lest the manifest become too large for the server.
func (a *attempt) mustMerge(cp *pendingCheckpoint) bool {
	objects := 0
	for _, chain := range a.chains {
		objects += len(chain)
	}
	for _, r := range cp.results {
		objects += len(r.allObjects())
	}
	if objects <= maxManifestObjects {
		return false
	}
	a.startMerges()
	for _, mg := range a.merges {
		if mg.running {
			return true
		}
	}
	return false
}

func (a *attempt) onMerged(ev ctlMerged) {
	mg := a.merges[ev.operator]
	if ev.err != nil {
		a.log.Warn("merging a snapshot chain", "operator", ev.operator, "err", ev.err)
		a.garbage = append(a.garbage, ev.merged...)
		delete(a.merges, ev.operator)
	} else {
		mg.running, mg.objects = false, ev.merged
	}
	for _, other := range a.merges {
		if other.running {
			return
		}
	}
	if a.held {
		a.held = false
		a.commitNow(a.current.id)
	}
}

// roomEvery is the least time between two searches for orphans in a full bucket.
const roomEvery = 30 * time.Second

// makeRoom cleans up while a snapshot waits for room: without it a bucket full of what crashes left behind would stay full.
func (a *attempt) makeRoom(now time.Time) {
	if !a.cleaning && now.Sub(a.roomMade) >= roomEvery {
		a.roomMade = now
		a.cleanUp(true)
	}
}

// startCleanup removes what the committed watermark lets go of.
func (a *attempt) startCleanup() {
	if !a.cleaning {
		a.cleanUp(a.progress.sinceStart()%orphanEvery == 1)
	}
}

func (a *attempt) cleanUp(orphans bool) {
	a.cleaning = true
	rec, garbage := a.rec, a.garbage
	a.garbage = nil
	spec := barriers.CleanupSpec{
		Record:    rec,
		Garbage:   objectNamesOf(garbage),
		OrphanAge: 2 * a.cfg.Checkpoint.Timeout,
		Orphans:   orphans,
	}
	a.drv.spawn(a.ctx, func(ctx context.Context, io effects) ctlEvent {
		return ctlCleaned{barriers.Cleanup(a.ask(ctx, io), spec)}
	})
}

func (a *attempt) onCleaned(ev ctlCleaned) {
	a.cleaning = false
	if ev.err != nil && !isCanceled(ev.err) {
		a.log.Warn("cleaning up old checkpoints", "err", ev.err)
	}
}

func objectNamesOf(objects []barriers.Object) []string {
	names := make([]string, len(objects))
	for i, o := range objects {
		names[i] = o.Name
	}
	return names
}
