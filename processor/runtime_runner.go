package processor

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirstream/weir/barriers"
)

// effects is what an operation beside the control loop may do to the world. In the runtime it blocks; the simulation hands
// every call to its scheduler.
type effects interface {
	Transport
	SnapshotStore
	CommitLog
	// Sleep waits, or returns the context's error.
	Sleep(ctx context.Context, d time.Duration) error
	// UserCode runs f, which calls code of the user's, and waits for it. An error says that the attempt has ended first: f may still
	// run, and what it was to result in must not be looked at.
	UserCode(where Where, f func()) error
}

// driver runs the parts of an attempt: goroutines in the runtime, a seeded scheduler in the simulation.
type driver interface {
	// spawn runs op beside the control loop and posts the event it returns to the attempt.
	spawn(ctx context.Context, op func(ctx context.Context, io effects) ctlEvent)
	// launch brings the tasks alive and opens the readers of their sources.
	launch(p *plan, positions map[string]barriers.Source, readers []sourceReader)
	// tell hands a task a control event.
	tell(task int, ev event)
	// pause stops or resumes reading. What is already in the inputs is still processed.
	pause(paused bool)
	now() time.Time
	// glances looks at every task from outside, see glance. It returns nothing before launch.
	glances() []glance
	// locate says where in the user's code a task is; empty: unknown.
	locate(task int) string
}

// sourceReader says which input of which task a reader feeds.
type sourceReader struct {
	task, input int
	spec        ReaderSpec
}

// runner drives one attempt with goroutines.
type runner struct {
	ctx    context.Context
	cancel context.CancelFunc
	broker Broker
	events *queue[ctlEvent]
	hosts  []*host
	live   atomic.Pointer[plan] // once its tasks were launched
	wg     sync.WaitGroup       // of everything that obeys ctx
	guard  *guard               // of what runs user code
	tables openedTables
	gate   atomic.Pointer[chan struct{}] // not nil: reading waits for it to close
	ended  chan struct{}
}

// runAttempt runs an attempt to its end and returns why it ended. It returns when every goroutine of the attempt has, but for those
// that user code keeps, see guard.
func runAttempt(ctx context.Context, broker Broker, build func(driver) *attempt, started func(*attempt, *runner)) (err error) {
	r := &runner{broker: broker, events: newQueue[ctlEvent](), ended: make(chan struct{})}
	r.ctx, r.cancel = context.WithCancel(ctx)
	defer close(r.ended)
	a := build(r)
	r.guard = newGuard(&a.progress.abandoned, &a.progress.lingering)
	defer r.tables.close() // every goroutine that may open one has ended
	defer r.wg.Wait()
	defer func() { r.guard.wait(a.log) }()
	defer r.cancel()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in the control loop: %v\n%s", p, debug.Stack())
		}
	}()
	started(a, r)
	a.begin()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if a.ended {
			return a.err
		}
		if d := a.deadline(); d.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(d))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.events.ready:
			for _, ev := range r.events.take() {
				if !a.ended {
					a.handle(ev)
				}
			}
		case <-timer.C:
			a.handle(ctlTick{})
		}
	}
}

func (r *runner) post(ev ctlEvent) { r.events.push(ev) }

func (r *runner) now() time.Time { return time.Now() }

func (r *runner) spawn(ctx context.Context, op func(context.Context, effects) ctlEvent) {
	r.wg.Go(func() {
		defer r.recovered()
		r.post(op(ctx, attemptEffects{blocking{r.broker}, r}))
	})
}

// recovered turns a panic of a goroutine of this attempt into the failure of this attempt: no job takes another one down.
func (r *runner) recovered() {
	if p := recover(); p != nil {
		r.post(ctlFailed{err: fmt.Errorf("panic in the runtime: %v\n%s", p, debug.Stack())})
	}
}

func (r *runner) launch(p *plan, positions map[string]barriers.Source, readers []sourceReader) {
	r.hosts = make([]*host, len(p.tasks))
	for i, t := range p.tasks {
		r.hosts[i] = newHost(r, i, t)
		t.bind(r.hosts[i])
		t.start(positions)
	}
	r.live.Store(p)
	for _, h := range r.hosts {
		r.guard.Go(h.where, func() {
			defer r.recovered()
			h.label()
			if err := h.loop(r.ctx); err != nil && r.ctx.Err() == nil {
				r.post(ctlFailed{err: err})
			}
		})
	}
	for _, sr := range readers {
		r.wg.Go(func() {
			defer r.recovered()
			if err := r.pump(sr); err != nil && r.ctx.Err() == nil {
				r.post(ctlFailed{err: err})
			}
		})
	}
}

// idleCommit is how long a position may move without records before it is committed.
const idleCommit = 30 * time.Second

// pump moves batches from a reader into its task's input.
func (r *runner) pump(sr sourceReader) error {
	reader, err := r.broker.OpenReader(r.ctx, sr.spec)
	if err != nil {
		return fmt.Errorf("opening the reader of source %s: %w", sr.spec.Source, err)
	}
	defer reader.Close()
	lagging := false
	var moved time.Time
	for {
		if gate := r.gate.Load(); gate != nil && !sr.spec.Compacted { // rules are not what fills the outputs, and may be waited for
			select {
			case <-*gate:
			case <-r.ctx.Done():
				return r.ctx.Err()
			}
			continue
		}
		batch, err := reader.Next(r.ctx)
		if err != nil {
			return fmt.Errorf("reading source %s: %w", sr.spec.Source, err)
		}
		if over := batch.Pending > lagThreshold; over != lagging {
			lagging = over
			r.post(ctlLag{sr.spec.Source, batch.Pending})
		}
		// An idle source's position is committed now and then, so that retention does not overtake it.
		if len(batch.Records) > 0 {
			moved = time.Time{}
		} else if now := time.Now(); moved.IsZero() {
			moved = now
		} else if now.Sub(moved) > idleCommit {
			moved = time.Time{}
			r.post(ctlMoved{})
		}
		if err := r.hosts[sr.task].deliver(r.ctx, sr.input, evBatch{input: sr.input, batch: batch}); err != nil {
			return err
		}
	}
}

func (r *runner) tell(task int, ev event) {
	if task < len(r.hosts) {
		r.hosts[task].tell(ev)
	}
}

func (r *runner) pause(paused bool) {
	old := r.gate.Load()
	switch {
	case paused && old == nil:
		gate := make(chan struct{})
		r.gate.Store(&gate)
	case !paused && old != nil:
		r.gate.Store(nil)
		close(*old)
	}
}

// blocking is the production effects: every call blocks its goroutine.
type blocking struct{ Broker }

// UserCode is for those who are no attempt: they wait for the user's code as for anything else.
func (blocking) UserCode(_ Where, f func()) error {
	f()
	return nil
}

func (blocking) Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// isCanceled reports whether an error only says that the attempt was ended.
func isCanceled(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
