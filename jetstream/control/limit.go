package control

import (
	"sync"
	"time"

	"github.com/weirstream/weir/processor"
)

// maxKnown bounds the tenants that have an allowance of their own; those beyond share the strangers'.
const maxKnown = 1 << 16

// limiter decides which requests may begin. One tenant's flood uses up that tenant's allowance; what is addressed to names that no
// job was ever found under uses up one that they all share, so that inventing names gains nothing.
type limiter struct {
	rate         float64
	burst        float64
	reads, works int // in all

	mu        sync.Mutex
	known     map[string]*allowance
	strangers allowance
	all       running
}

// running counts requests under way.
type running struct{ reads, works int }

// allowance is a token bucket and what is under way of one tenant.
type allowance struct {
	tokens float64
	filled time.Time // zero: never used, the bucket is full
	running
}

func newLimiter(l Limits) *limiter {
	return &limiter{rate: l.Rate, burst: float64(l.Burst), reads: l.Reads, works: l.Works, known: map[string]*allowance{none: {}}}
}

// learn gives a tenant that exists an allowance of its own.
func (l *limiter) learn(tenant string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known[tenant] == nil && len(l.known) < maxKnown {
		l.known[tenant] = &allowance{}
	}
}

// workCost is how many requests that only look one counts for that changes something.
const workCost = 5

// admit takes a token, or several for work, or refuses.
func (l *limiter) admit(tenant string, work bool, now time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	cost := 1.0
	if work {
		cost = min(workCost, l.burst)
	}
	if l.of(tenant).take(cost, l.rate, l.burst, now) {
		return nil
	}
	return refuse(processor.ReasonLimit, "too many requests for tenant %s: this worker takes %g a second; wait a moment", tenant, l.rate)
}

// enter takes a place among the requests under way, which leave gives back; or refuses.
func (l *limiter) enter(tenant string, work bool) (leave func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.of(tenant)
	total, mine, limit := &l.all.reads, &a.reads, l.reads
	if work {
		total, mine, limit = &l.all.works, &a.works, l.works
	}
	share := max(1, limit/4)
	switch {
	case *mine >= share:
		return nil, refuse(processor.ReasonLimit, "%d requests of tenant %s are under way on this worker: wait for one to end", *mine, tenant)
	case *total >= limit:
		return nil, refuse(processor.ReasonLimit, "%d requests are under way on this worker: wait a moment", *total)
	}
	*total++
	*mine++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		*total--
		*mine--
	}, nil
}

func (l *limiter) of(tenant string) *allowance {
	if a := l.known[tenant]; a != nil {
		return a
	}
	return &l.strangers
}

func (a *allowance) take(cost, rate, burst float64, now time.Time) bool {
	if a.filled.IsZero() {
		a.tokens = burst
	} else if d := now.Sub(a.filled); d > 0 {
		a.tokens = min(burst, a.tokens+rate*d.Seconds())
	}
	a.filled = now
	if a.tokens < cost {
		return false
	}
	a.tokens -= cost
	return true
}
