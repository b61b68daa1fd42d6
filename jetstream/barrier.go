package jetstream

import (
	"context"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/tenants"
)

// barrierTTL is how long a barrier stays in a stream that allows TTLs: it is of no use once its checkpoint is over.
const barrierTTL = "10m"

// PublishBarrier implements processor.Transport. The payload is an encoded barriers.Barrier.
func (b *Broker) PublishBarrier(ctx context.Context, stream, subject string, payload []byte) error {
	barrier, err := barriers.DecodeBarrier(payload)
	if err != nil {
		return fmt.Errorf("publish barrier into stream %s: %w", stream, err)
	}
	facts, err := b.facts(ctx, stream)
	if err != nil {
		return asTransient(ctx, fmt.Errorf("publish barrier: %w", err))
	}
	h := nats.Header{
		hdrExpectedStream:      {stream},
		barriers.HeaderBarrier: {strconv.FormatUint(barrier.Checkpoint, 10)},
	}
	switch {
	case facts.allowTTL:
		h[hdrTTL] = []string{barrierTTL}
	case facts.allowRollup && tenants.HasReserved(subject):
		// A rollup removes what the subject had before. Only on a subject that is Weir's own: a literal filter's barriers share
		// the subject with the user's records.
		h[hdrRollup] = []string{"sub"}
	}
	if _, err := b.publishOne(ctx, Control, &nats.Msg{Subject: subject, Header: h, Data: payload}); err != nil {
		return asTransient(ctx, fmt.Errorf("publish barrier of job %s/%s into stream %s: %w", barrier.Tenant, barrier.Job, stream, err))
	}
	return nil
}
