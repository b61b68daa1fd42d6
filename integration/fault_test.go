package integration_test

import (
	"sync"
	"testing"
	"time"

	"github.com/weirstream/weir/jetstream"
)

// faultKind is what happens to a worker at its k-th request.
type faultKind int

const (
	crashBefore faultKind = iota // it dies before the request is sent
	crashAfter                   // the request is applied, and the worker dies before it sees the reply
	pauseAt                      // it stands still while another worker takes over, then goes on
	dropOne                      // only this request gets lost
	loseOne                      // only this reply gets lost
	numFaults
)

func (k faultKind) String() string {
	return [...]string{"crash before", "crash after", "pause", "request lost", "reply lost"}[k]
}

// failpoint counts a broker's requests and strikes at one of them.
type failpoint struct {
	at   int // 1 is the first request; 0: never
	kind faultKind

	mu     sync.Mutex
	ops    []string // of every request so far
	dead   bool
	struck chan struct{} // closed when it has struck
	resume chan struct{} // closed to end a pause
	onKill func()
}

func newFailpoint(at int, kind faultKind) *failpoint {
	return &failpoint{at: at, kind: kind, struck: make(chan struct{}), resume: make(chan struct{})}
}

// intercept is a jetstream.Config.Intercept.
func (f *failpoint) intercept(op, subject string) jetstream.Fault {
	f.mu.Lock()
	f.ops = append(f.ops, op)
	hit := len(f.ops) == f.at
	past := f.at > 0 && len(f.ops) > f.at
	if hit {
		close(f.struck)
	}
	if hit && (f.kind == crashBefore || f.kind == crashAfter) {
		f.dead = true
		if f.onKill != nil {
			f.onKill()
		}
	}
	dead := f.dead
	f.mu.Unlock()
	switch {
	case hit && (f.kind == crashAfter || f.kind == loseOne):
		return jetstream.LoseReply
	case dead, hit && f.kind == dropOne:
		return jetstream.Drop
	case f.kind == pauseAt && (hit || past):
		<-f.resume // a process that stands still sends nothing at all
	}
	return jetstream.Pass
}

func (f *failpoint) requests() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.ops...)
}

func (f *failpoint) hasStruck() bool {
	select {
	case <-f.struck:
		return true
	default:
		return false
	}
}

// attach makes a worker die of the failpoint.
func (f *failpoint) attach(w *worker) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onKill = w.cancel
}

// goOn ends a pause.
func (f *failpoint) goOn() {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.resume:
	default:
		close(f.resume)
	}
}

// slowTakeover keeps a worker from ever taking a job from a living owner.
const slowTakeover = time.Hour

// pausable ends the pause before the worker's own clean-up waits for it.
func (f *failpoint) pausable(t testing.TB) { t.Cleanup(f.goOn) }
