package processor

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// patience is how long the end of an attempt waits for user code that runs in it.
const patience = 5 * time.Second

// maxLingering is how many ended attempts of a job user code may keep goroutines of before no further attempt is made: they keep their
// tasks' state in memory. How many goroutines each has left is no matter: one Async alone may have thousands of calls under way.
const maxLingering = 8

// guard keeps account of the goroutines of an attempt that run user code: its tasks, calls that operators make beside them, and codecs in
// uploads and restores. User code may never return, and Go cannot end it: the end of an attempt waits for it for a while, and then
// abandons what is left. All other goroutines of an attempt obey its context and are waited for without limit.
//
// Invariant: behind the end of its attempt a goroutine of the guard changes nothing that anything else reads. What it still reaches is
// the dead attempt's alone: its task, with the state and the output staged in it, of which uploads had their own frozen part and have
// ended, but for a codec that only reads it; its inputs, whose batches and frames nobody takes back before the task gives them; its
// runner's queues, whose consumer is gone. Everything else goes through the host: send and publish refuse once the context has ended (a
// message of an at-least-once sink that was being sent then counts as sent before), and no other call leaves the attempt. The next
// attempt is made of snapshots and has a task, readers and frames of its own; the topology is shared, but that runs for many tenants at
// once anyway.
//
// Its goroutine ends when the user's code returns: a task looks for the end every few records and behind each step.
type guard struct {
	abandoned *atomic.Int64 // of the job: how many have not returned yet
	lingering *atomic.Int64 // of the job: ended attempts that have such

	mu    sync.Mutex
	calls map[*guardedCall]struct{}
	ended bool
	idle  chan struct{} // ended: closed when the last has returned
}

type guardedCall struct {
	where     func() Where
	abandoned bool
}

func newGuard(abandoned, lingering *atomic.Int64) *guard {
	return &guard{abandoned: abandoned, lingering: lingering, calls: map[*guardedCall]struct{}{}}
}

// Go runs f in a goroutine. where says what it is busy with; it is called from another goroutine, while f runs or right after. It
// reports false, and starts nothing, when the attempt has ended.
func (g *guard) Go(where func() Where, f func()) bool {
	c := &guardedCall{where: where}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ended {
		return false
	}
	g.calls[c] = struct{}{}
	go func() {
		defer g.returned(c)
		f()
	}()
	return true
}

func (g *guard) returned(c *guardedCall) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.calls, c)
	if c.abandoned {
		g.abandoned.Add(-1)
	}
	if g.ended && len(g.calls) == 0 {
		close(g.idle)
		if c.abandoned {
			g.lingering.Add(-1)
		}
	}
}

// wait ends the guard: it returns when all of its goroutines have returned, or the patience with them has.
func (g *guard) wait(log *slog.Logger) {
	g.mu.Lock()
	g.ended, g.idle = true, make(chan struct{})
	if len(g.calls) == 0 {
		close(g.idle)
	}
	g.mu.Unlock()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-g.idle:
		return
	case <-timer.C:
	}
	for _, c := range g.abandon() {
		w := c.where()
		log.Error("user code has not returned although its attempt has ended: its goroutine is abandoned", "operator", w.Operator, "stream", w.Stream, "seq", w.Seq, "wait", patience)
	}
}

func (g *guard) abandon() []*guardedCall {
	g.mu.Lock()
	defer g.mu.Unlock()
	var left []*guardedCall
	for c := range g.calls {
		c.abandoned = true
		g.abandoned.Add(1)
		left = append(left, c)
	}
	if len(left) > 0 {
		g.lingering.Add(1)
	}
	return left
}
