package jetstream

import (
	"fmt"
	"strconv"
	"sync"

	"github.com/nats-io/nats.go"
)

// acker receives the answers to many publishes on one inbox.
type acker struct {
	nc     *nats.Conn
	prefix string

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]func(*nats.Msg)
}

// acker returns the connection's, made when first asked for.
func (c *conn) acks() (*acker, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ack != nil {
		return c.ack, nil
	}
	a := &acker{nc: c.nc, prefix: c.nc.NewInbox() + ".", waiting: map[uint64]func(*nats.Msg){}}
	sub, err := c.nc.Subscribe(a.prefix+"*", a.receive)
	if err != nil {
		return nil, fmt.Errorf("subscribe for acknowledgements: %w", err)
	}
	// What is under way is bounded by those who publish.
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return nil, fmt.Errorf("set limits for acknowledgements: %w", err)
	}
	c.ack = a
	return a, nil
}

// expect returns the reply subject for one publish; fn gets its answer, once, on the subscription's goroutine.
func (a *acker) expect(fn func(*nats.Msg)) (id uint64, reply string) {
	a.mu.Lock()
	a.next++
	id = a.next
	a.waiting[id] = fn
	a.mu.Unlock()
	buf := make([]byte, 0, len(a.prefix)+13)
	return id, string(strconv.AppendUint(append(buf, a.prefix...), id, 36))
}

// forget reports whether the answer was still outstanding; after it fn is not called any more.
func (a *acker) forget(id uint64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := a.waiting[id]
	delete(a.waiting, id)
	return ok
}

func (a *acker) receive(m *nats.Msg) {
	id, err := strconv.ParseUint(m.Subject[len(a.prefix):], 36, 64)
	if err != nil {
		return
	}
	a.mu.Lock()
	fn := a.waiting[id]
	delete(a.waiting, id)
	a.mu.Unlock()
	if fn != nil {
		fn(m)
	}
}

// ackOf decodes an answer that came to an acker's inbox.
func ackOf(m *nats.Msg) (pubAck, error) {
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		return pubAck{}, nats.ErrNoResponders
	}
	return decodeAck(m.Data)
}
