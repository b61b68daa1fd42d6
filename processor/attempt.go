package processor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/tenants"
)

// lagThreshold is the backlog, in messages, above which a barrier published into the stream would come too late: the
// coordinator then cuts at the reading positions.
const lagThreshold = 10_000

// Sources that stand for reasons to inject a barrier instead of publishing it.
const (
	gatedSource = "(reading is paused)"
	idleSource  = "(nothing but positions to commit)"
)

// attempt is one run of a job between two (re)starts. It is an event loop without goroutines of its own: handle takes one event
// at a time, the driver carries out what it asks for. It keeps no record; it knows only what the protocols need.
type attempt struct {
	job    tenants.JobID
	topo   *Topology
	cfg    JobConfig
	needs  Needs
	worker string
	nonce  string
	drv    driver
	log    *slog.Logger
	listen Listener
	ctx    context.Context // of the whole attempt, for operations
	// observed is the head that the decision to take the job was based on, see barriers.AcquireSpec.
	observed *barriers.HeadRecord

	coord   *barriers.Coordinator
	rec     *barriers.HeadRecord
	plan    *plan
	bind    Bindings
	chains  map[string][]barriers.Object   // of the committed checkpoint, by operator
	markers map[string]barriers.MarkerSeen // as last seen, by sink
	full    map[string]bool                // operators whose chain the next committed snapshot replaces
	config  json.RawMessage                // what the manifests say of the configuration

	current  *pendingCheckpoint
	queue    []barriers.Action // held back while an abort waits for its uploads
	waiters  []waiter
	garbage  []barriers.Object // uploaded by this attempt for checkpoints that were aborted
	merges   map[string]*merge
	held     bool // the commit of the current checkpoint waits for merges
	cleaning bool
	roomMade time.Time // when a full bucket was last cleaned up
	paused   bool
	draining bool
	keep     bool      // draining: do not let go of the job, this worker starts it again
	pin      uint64    // draining: the retained checkpoint that it then starts from; 0: none
	finish   bool      // bring a job that is to stop to its end instead of running it
	makings  []*making // savepoints under way, in the order they were asked for
	holding  *holding  // the sources stand, or are about to
	stopping *stopping
	leaving  *leaving
	tokens   uint64        // numbers the holds
	saves    int           // numbers the tries to make a savepoint
	names    atomic.Uint64 // numbers the objects of this attempt

	now   time.Time // of the event that is handled
	ended bool
	err   error

	// progress counts completed checkpoints, for the restart policy and the status.
	progress *progress
	history  *history
}

type waiter struct {
	after uint64 // satisfied by a checkpoint above it
	done  func(CheckpointEvent, error)
}

// merge is a chain that was folded into a new base beside the job.
type merge struct {
	running bool
	prefix  int // how many objects of the committed chain it replaces
	objects []barriers.Object
}

var (
	// errDrained says that an attempt ended because it was asked to, with everything committed.
	errDrained = errors.New("drained")
	// errStopped says that an attempt ended because the job is to stop, and that its head says so.
	errStopped = errors.New("stopped")
	// errRestarted says that an attempt ended because the job is to start again on this worker with another configuration.
	errRestarted = errors.New("restarted with another configuration")
)

func (a *attempt) begin() {
	a.chains = map[string][]barriers.Object{}
	a.markers = map[string]barriers.MarkerSeen{}
	a.merges = map[string]*merge{}
	a.drv.spawn(a.ctx, a.startOp)
}

func (a *attempt) end(err error) {
	if a.ended {
		return
	}
	a.ended, a.err = true, err
	if a.current != nil {
		a.current.cancel()
	}
	for _, w := range a.waiters {
		w.done(CheckpointEvent{}, fmt.Errorf("job %s: the attempt ended before the checkpoint was complete: %w", a.job, err))
	}
	a.waiters = nil
	a.endRequests(err)
}

func (a *attempt) handle(ev ctlEvent) {
	now := a.drv.now()
	a.now = now
	switch ev := ev.(type) {
	case ctlStarted:
		a.onStarted(now, ev)
	case ctlFailed:
		a.onFailed(ev)
	case ctlTick:
		a.tick(now)
	case ctlDirty:
		a.onDirty(now)
	case ctlLag:
		a.coord.SetLag(ev.source, ev.pending)
	case ctlMoved:
		// A barrier published for it would make the position move again.
		a.coord.SetLag(idleSource, lagThreshold+1)
		a.apply(a.coord.RetentionRisk(now))
	case ctlRequest:
		a.request(now, ev.done)
	case ctlDrain:
		a.keep = a.keep || ev.keep
		a.pin = max(a.pin, ev.pin)
		a.drain(now)
	case ctlSnapshot:
		a.onSnapshot(now, ev.snapshot)
	case ctlWaits:
		a.log.Warn("a snapshot cannot be stored for now: the checkpoint waits", "err", ev.err)
		if a.coord == nil {
			return
		}
		a.coord.Extend(now)
		if errors.Is(ev.err, ErrFull) {
			a.makeRoom(now)
		}
	case ctlUploaded:
		a.onUploaded(now, ev)
	case ctlCommitted:
		a.onCommitted(now, ev)
	case ctlReleased:
		a.onReleased(now, ev)
	case ctlMerged:
		a.onMerged(ev)
	case ctlCleaned:
		a.onCleaned(ev)
	case ctlLetGo:
		a.onLetGo(ev)
	default:
		a.handleRequest(now, ev)
	}
}

// onDirty hears of the first thing that happened in a task since its last freeze, and again when the task's pending output has
// passed half of the quota: then the checkpoint starts early. At the whole quota reading stops until the output is released.
func (a *attempt) onDirty(now time.Time) {
	var pending int64
	for _, t := range a.plan.tasks {
		pending += t.pendingBytes()
	}
	if pending < a.cfg.Quota.PendingBytes/2 {
		a.apply(a.coord.Dirty(now))
		return
	}
	if pending >= a.cfg.Quota.PendingBytes && !a.paused {
		a.setPaused(true)
	}
	a.apply(a.coord.Request(now))
}

// onFailed ends the attempt. An attempt that was fenced while it stood still finds that objects were cleaned up or input was
// trimmed, as later owners may do: who owns the job is asked before a failure is taken for one that no restart can mend.
func (a *attempt) onFailed(ev ctlFailed) {
	if a.rec == nil || ev.judged || ClassOf(ev.err) != ClassTerminal {
		a.end(ev.err)
		return
	}
	a.drv.spawn(a.ctx, func(ctx context.Context, io effects) ctlEvent {
		return ctlFailed{err: a.judge(ctx, io, ev.err), judged: true}
	})
}

// judge returns err or, if another attempt owns the job by now, that.
func (a *attempt) judge(ctx context.Context, io effects, err error) error {
	rec, rerr := barriers.ReadHead(a.ask(ctx, io), string(a.job.Tenant), a.job.Name)
	if rerr == nil && rec != nil && rec.Head.Owner != a.nonce {
		return fmt.Errorf("job %s: %w: it is in epoch %d (what was found: %v)", a.job, ErrFenced, rec.Head.Epoch, err)
	}
	return err
}

func (a *attempt) setPaused(paused bool) {
	a.paused = paused
	a.gate()
}

// gate stops or resumes reading. While nothing is read no barrier is either: the coordinator is told, so that it injects them.
func (a *attempt) gate() {
	closed := a.paused || a.draining
	a.drv.pause(closed)
	lag := uint64(0)
	if closed {
		lag = lagThreshold + 1
	}
	a.coord.SetLag(gatedSource, lag)
}

func (a *attempt) tick(now time.Time) {
	if a.coord == nil {
		return
	}
	if a.checkOverdue(now); a.ended {
		return
	}
	a.expireHold(now)
	a.expireMakings(now)
	a.apply(a.coord.Tick(now))
	a.pursue(now)
}

func (a *attempt) onStarted(now time.Time, ev ctlStarted) {
	if ev.err != nil {
		a.end(ev.err)
		return
	}
	s := ev.start
	a.rec, a.plan, a.bind, a.markers, a.chains = s.rec, s.plan, s.bind, s.markers, s.chains
	a.full, a.config = s.full, s.config
	inStream := a.cfg.Checkpoint.Barriers != BarriersAtReader && !a.topo.BarriersAtReader()
	for _, b := range a.bind.Sources {
		inStream = inStream && (b.Barrier != "" || b.Prefix != "") // rules are cut where they are read
	}
	a.coord = barriers.NewCoordinator(barriers.CoordinatorConfig{
		Interval:          a.cfg.Checkpoint.Interval,
		Timeout:           a.cfg.Checkpoint.Timeout,
		MinPause:          a.cfg.Checkpoint.MinPause,
		TolerableFailures: a.cfg.Checkpoint.TolerableFailures,
		InStream:          inStream,
		Sources:           len(a.bind.Sources),
		LagThreshold:      lagThreshold,
		EchoTimeout:       min(time.Second, a.cfg.Checkpoint.Timeout/4),
	}, len(a.plan.tasks), a.rec.Head.Checkpoint, now.Add(-a.phase()))
	a.log = a.log.With("epoch", a.rec.Head.Epoch)
	a.progress.started(a.rec.Head)
	a.emitJob(JobEvent{Job: a.job, State: JobRunning, Epoch: a.rec.Head.Epoch, At: now})
	a.log.Info("job runs", "checkpoint", a.rec.Head.Checkpoint)
	a.drv.launch(a.plan, s.positions, s.readers)
	a.takeOverOwed(now, s.owed)
	if a.draining {
		a.drain(now)
	}
	if a.stopping != nil {
		a.beginStop(now)
	}
	if len(a.waiters) > 0 {
		a.apply(a.coord.Request(now))
	}
}

// phase spreads the checkpoints of jobs that start together over the interval.
func (a *attempt) phase() time.Duration {
	h := fnv.New64a()
	_, _ = h.Write([]byte(a.job.String()))
	return time.Duration(h.Sum64() % uint64(a.cfg.Checkpoint.Interval))
}

// request takes a checkpoint that holds everything read before the request.
func (a *attempt) request(now time.Time, done func(CheckpointEvent, error)) {
	w := waiter{done: done}
	if a.current != nil {
		w.after = a.current.id // that one's barrier may be past already
	} else if a.rec != nil {
		w.after = a.rec.Head.Checkpoint
	}
	if a.leaving != nil && done != nil {
		done(CheckpointEvent{}, refuse(ReasonNotRunning, "job %s is being stopped", a.job))
		return
	}
	if done != nil {
		a.waiters = append(a.waiters, w)
	}
	if a.coord != nil {
		a.apply(a.coord.Request(now))
	}
}

// drain takes a last checkpoint and then lets go of the job, so that any worker may take it at once.
func (a *attempt) drain(now time.Time) {
	a.draining = true
	if a.coord == nil {
		return
	}
	a.gate()
	a.request(now, func(_ CheckpointEvent, err error) {
		if err != nil || a.ended {
			return
		}
		if a.keep {
			a.leave("", errRestarted)
		} else {
			a.leave(barriers.StateReleased, errDrained)
		}
	})
}

// apply carries out what the coordinator decided. While an abort waits for its uploads to end nothing else starts: the tasks
// must hear of the abort before they hear of the next checkpoint.
func (a *attempt) apply(actions []barriers.Action) {
	a.queue = append(a.queue, actions...)
	for len(a.queue) > 0 && !a.ended && !a.aborting() {
		if a.leaving != nil {
			a.queue = nil
			return
		}
		act := a.queue[0]
		a.queue = a.queue[1:]
		switch act := act.(type) {
		case barriers.Trigger:
			a.trigger(act)
		case barriers.Inject:
			a.tellSources(evTrigger{checkpoint: act.Checkpoint, nonce: a.nonce, inject: true})
		case barriers.StartCommit:
			a.commit(act.Checkpoint)
		case barriers.StartRelease:
			a.release(act.Checkpoint)
		case barriers.Complete:
			a.complete(act.Checkpoint)
		case barriers.Abort:
			a.abort(act)
		case barriers.Fail:
			a.end(act.Err)
		}
	}
}

func (a *attempt) aborting() bool { return a.current != nil && a.current.aborted != nil }

func (a *attempt) tellSources(ev event) {
	for i, t := range a.plan.tasks {
		if t.readsSources() {
			a.drv.tell(i, ev)
		}
	}
}

func (a *attempt) tellAll(ev event) {
	for i := range a.plan.tasks {
		a.drv.tell(i, ev)
	}
}

func (a *attempt) trigger(t barriers.Trigger) {
	// The coordinator counts from the event's time; that of now may be later by what a listener took.
	cp := &pendingCheckpoint{id: t.Checkpoint, started: a.now, results: map[int]*uploaded{}}
	cp.ctx, cp.cancel = context.WithCancel(a.ctx)
	cp.seen, cp.cut = a.drv.glances(), make([]bool, len(a.plan.tasks))
	cp.encoding = make([]atomic.Pointer[encoding], len(a.plan.tasks))
	a.current = cp
	a.coord.SetLag(idleSource, 0)
	a.tellSources(evTrigger{checkpoint: t.Checkpoint, nonce: a.nonce, inject: !t.InStream})
	if !t.InStream {
		return
	}
	for _, b := range a.bind.Sources {
		if b.Barrier == "" {
			continue
		}
		payload := barriers.Barrier{
			Tenant: string(a.job.Tenant), Job: a.job.Name, Source: b.Source,
			Epoch: a.rec.Head.Epoch, Checkpoint: t.Checkpoint, Nonce: a.nonce,
		}.Encode()
		a.drv.spawn(cp.ctx, func(ctx context.Context, io effects) ctlEvent {
			// Best effort: without an echo the coordinator injects the barrier at the reader.
			if err := io.PublishBarrier(ctx, b.Stream, b.Barrier, payload); err != nil && !isCanceled(err) {
				a.log.Warn("publishing a barrier", "stream", b.Stream, "checkpoint", t.Checkpoint, "err", err)
			}
			return ctlDone{}
		})
	}
}

// abort begins the end of a checkpoint that will never be committed. The uploads are stopped first: they still read what was
// frozen, and the tasks may change it again as soon as they hear of the abort.
func (a *attempt) abort(act barriers.Abort) {
	cp := a.current
	if cp == nil || cp.id != act.Checkpoint {
		return
	}
	act.Err = a.diagnose(a.drv.now(), cp, act.Err)
	a.log.Warn("checkpoint aborted", "checkpoint", act.Checkpoint, "err", act.Err)
	a.recordFailed(cp, a.drv.now(), act.Err)
	if a.listen.CheckpointFailed != nil {
		a.listen.CheckpointFailed(CheckpointFailure{Job: a.job, Checkpoint: act.Checkpoint, Err: act.Err, At: a.drv.now()})
	}
	cp.aborted = act.Err
	if cp.aborted == nil {
		cp.aborted = errors.New("aborted")
	}
	cp.cancel()
	cp.overdue, cp.looked = a.drv.now().Add(a.cfg.Checkpoint.Timeout), cp.lookAtCodecs()
	if isStuck(act.Err) {
		a.end(act.Err)
		return
	}
	a.finishAbort()
}

func (a *attempt) finishAbort() {
	cp := a.current
	if cp.uploading > 0 {
		return
	}
	for _, r := range cp.results {
		a.garbage = append(a.garbage, r.allObjects()...)
	}
	a.current = nil
	if s := a.stopping; s != nil && s.finished && a.leaving == nil {
		a.end(fmt.Errorf("job %s: the last checkpoint of its drain failed: %w", a.job, cp.aborted))
		return
	}
	a.tellAll(evAborted{cp.id})
	a.apply(nil)
	a.tryLeave()
	a.pursue(a.drv.now())
}

func (a *attempt) emitJob(ev JobEvent) {
	if a.listen.Job != nil {
		a.listen.Job(ev)
	}
}
