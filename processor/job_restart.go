package processor

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirstream/weir/barriers"
)

// restartPolicy says how long to wait before the next attempt: exponential backoff with jitter, and an end to it.
type restartPolicy struct {
	cfg    RestartConfig
	random func() float64 // in [0, 1)
	count  int            // failures in a row
	away   int            // times in a row that the broker was not there
}

func newRestartPolicy(cfg RestartConfig, random func() float64) *restartPolicy {
	return &restartPolicy{cfg: cfg, random: random}
}

// next returns the wait before the next attempt, or false when the job is to be parked.
func (p *restartPolicy) next() (time.Duration, bool) {
	p.away = 0
	p.count++
	if p.count > p.cfg.Attempts {
		return 0, false
	}
	return p.wait(p.count), true
}

// unavailable returns the wait before the next look at a broker that does not answer.
func (p *restartPolicy) unavailable() time.Duration {
	p.away++
	return p.wait(p.away)
}

// reset forgets the failures: a checkpoint was completed.
func (p *restartPolicy) reset() { p.count, p.away = 0, 0 }

// wait is First doubled n-1 times up to Max, of which between half and all is waited: jobs that failed together spread out.
func (p *restartPolicy) wait(n int) time.Duration {
	d := p.cfg.Max
	if n <= 30 {
		d = min(p.cfg.First<<(n-1), p.cfg.Max)
	}
	return d/2 + time.Duration(p.random()*float64(d/2))
}

// progress is what an attempt reports of itself, for the restart policy, the status and the metrics.
type progress struct {
	mu    sync.Mutex
	total int
	since int // checkpoints completed by the running attempt
	last  uint64
	event CheckpointEvent
	// abandoned is how many goroutines of ended attempts user code still keeps.
	abandoned atomic.Int64
	// lingering is of how many attempts they are.
	lingering atomic.Int64
}

func (p *progress) newAttempt() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.since = 0
}

func (p *progress) started(h barriers.Head) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = h.Checkpoint
}

func (p *progress) completed(ev CheckpointEvent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total++
	p.since++
	p.last, p.event = ev.Checkpoint, ev
}

func (p *progress) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.total
}

func (p *progress) sinceStart() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.since
}

func (p *progress) lastCheckpoint() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}
