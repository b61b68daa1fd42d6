package processor_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/processor/processortest"
	"github.com/weirstream/weir/tenants"
)

// noOutput is a broker whose output streams do not answer.
type noOutput struct{ *processortest.Memory }

func (b *noOutput) PublishPart(context.Context, processor.Part) barriers.Reply {
	return barriers.Reply{Status: barriers.Unknown}
}

// refuseUploads is a broker that refuses so many snapshot objects.
type refuseUploads struct {
	*processortest.Memory
	left atomic.Int64
}

func (b *refuseUploads) Put(ctx context.Context, tenant tenants.ID, name string, data []byte) (barriers.Object, error) {
	if b.left.Add(-1) >= 0 {
		return barriers.Object{}, fmt.Errorf("object %s: refused", name)
	}
	b.left.Store(0)
	return b.Memory.Put(ctx, tenant, name, data)
}

// crashBroker is a broker whose worker dies at its n-th request: before it is sent, or when it was carried out and before the answer.
type crashBroker struct {
	*processortest.Memory
	at     int64
	after  bool
	asked  atomic.Int64
	struck chan struct{}
	what   atomic.Pointer[string]
}

func newCrashBroker(m *processortest.Memory, at int64, after bool) *crashBroker {
	return &crashBroker{Memory: m, at: at, after: after, struck: make(chan struct{})}
}

// dead says whether the worker is dead before, and behind, a request. A dead worker asks for nothing any more.
func (b *crashBroker) dead(what string) (before, behind bool) {
	n := b.asked.Add(1)
	if n == b.at {
		b.what.Store(&what)
		close(b.struck)
	}
	return n > b.at || n == b.at && !b.after, n >= b.at
}

func (b *crashBroker) Do(ctx context.Context, job tenants.JobID, r barriers.Request) barriers.Reply {
	before, behind := b.dead(fmt.Sprintf("operation %d %s", r.Op, r.Key+r.Subject))
	if before {
		return b.hang(ctx)
	}
	reply := b.Memory.Do(ctx, job, r)
	if behind {
		return b.hang(ctx)
	}
	return reply
}

func (b *crashBroker) hang(ctx context.Context) barriers.Reply {
	<-ctx.Done()
	return barriers.Reply{Status: barriers.Canceled, Err: ctx.Err()}
}

func (b *crashBroker) PublishPart(ctx context.Context, p processor.Part) barriers.Reply {
	before, behind := b.dead("publish")
	if before {
		return b.hang(ctx)
	}
	reply := b.Memory.PublishPart(ctx, p)
	if behind {
		return b.hang(ctx)
	}
	return reply
}

func (b *crashBroker) Put(ctx context.Context, tenant tenants.ID, name string, data []byte) (barriers.Object, error) {
	before, behind := b.dead("put " + name)
	if before {
		return barriers.Object{}, b.hang(ctx).Err
	}
	obj, err := b.Memory.Put(ctx, tenant, name, data)
	if behind {
		return barriers.Object{}, b.hang(ctx).Err
	}
	return obj, err
}

func (b *crashBroker) Get(ctx context.Context, tenant tenants.ID, ref barriers.Object) ([]byte, error) {
	before, behind := b.dead("get " + ref.Name)
	if before {
		return nil, b.hang(ctx).Err
	}
	data, err := b.Memory.Get(ctx, tenant, ref)
	if behind {
		return nil, b.hang(ctx).Err
	}
	return data, err
}

// cleanedUp is a broker where somebody removes what a start reads, as it is read.
type cleanedUp struct {
	*processortest.Memory
	prefix string // of the objects whose reading triggers it
	remove func()
	times  int
}

func (b *cleanedUp) Get(ctx context.Context, tenant tenants.ID, ref barriers.Object) ([]byte, error) {
	if strings.HasPrefix(ref.Name, b.prefix) && b.times > 0 {
		b.times--
		b.remove()
	}
	return b.Memory.Get(ctx, tenant, ref)
}
