package processor

import "sync"

// bell wakes everybody who waits for a change. Take the channel before looking at what may have changed.
type bell struct {
	mu sync.Mutex
	ch chan struct{}
}

// heard returns a channel that is closed by the next ring.
func (b *bell) heard() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}
