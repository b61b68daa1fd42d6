package processor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// directSink publishes at once: at least once. Its part of a checkpoint is that everything before the barrier has been stored.
type directSink struct {
	*address
	task    *task
	name    string
	current *acks   // since the last barrier
	sealed  []*acks // before it, of checkpoints that are not committed
}

// acks counts messages that are under way.
type acks struct {
	checkpoint uint64
	mu         sync.Mutex
	open       int
	sealed     bool
	err        error         // the first refusal
	done       chan struct{} // closed when sealed and none is open
}

func newDirectSink(a *assembly, n *node) *directSink {
	d := &directSink{address: newAddress(a.plan.sinks[n.name]), task: a.task, name: n.name, current: newAcks()}
	a.task.direct = append(a.task.direct, d)
	return d
}

func newAcks() *acks { return &acks{done: make(chan struct{})} }

func (d *directSink) publish(subject string, header map[string][]string, data []byte) error {
	group := d.current
	group.add()
	// The publisher keeps the bytes until the stream has them.
	m := Message{Subject: strings.Clone(subject), Header: header, Data: append(make([]byte, 0, len(data)), data...)}
	if err := d.task.host.publish(context.Background(), d.bound.Stream, m, group.acked); err != nil {
		d.task.fail(fmt.Errorf("publishing for sink %s: %w", d.name, err))
		return nil
	}
	d.task.counts.out++
	return nil
}

func (a *acks) add() {
	a.mu.Lock()
	a.open++
	a.mu.Unlock()
}

func (a *acks) acked(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open--
	if a.err == nil {
		a.err = err
	}
	a.finish()
}

func (a *acks) seal(checkpoint uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.checkpoint, a.sealed = checkpoint, true
	a.finish()
}

func (a *acks) finish() {
	if a.sealed && a.open == 0 {
		close(a.done)
	}
}

func (a *acks) wait(ctx context.Context) error {
	select {
	case <-a.done:
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// committed forgets what the checkpoint, or one aborted before it, waited for.
func (d *directSink) committed(checkpoint uint64) {
	d.sealed = slices.DeleteFunc(d.sealed, func(a *acks) bool { return a.checkpoint <= checkpoint })
}

// sealDirect returns what waits for the acks of everything published before the barrier; nil: nothing was.
func (t *task) sealDirect(checkpoint uint64) func(context.Context) error {
	var groups []*acks
	var names []string
	for _, d := range t.direct {
		d.current.seal(checkpoint)
		d.sealed = append(d.sealed, d.current)
		d.current = newAcks()
		for _, g := range d.sealed {
			groups, names = append(groups, g), append(names, d.name)
		}
	}
	if len(groups) == 0 {
		return nil
	}
	return func(ctx context.Context) error {
		for i, g := range groups {
			if err := g.wait(ctx); err != nil {
				return fmt.Errorf("waiting for the stream to store the output of sink %s: %w", names[i], err)
			}
		}
		return nil
	}
}
