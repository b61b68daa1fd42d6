package weircli

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/tenants"
)

// sampler publishes sample messages for one tenant at a steady rate, each acknowledged before the next is counted as sent.
type sampler struct {
	js      jetstream.JetStream
	sample  Sample
	tenant  tenants.ID
	subject string // absolute
	rate    float64
	log     *slog.Logger
}

// maxBurst bounds what is made up for after a pause.
const maxBurst = 1000

func newSampler(nc *nats.Conn, s Sample, id tenants.ID, ns tenants.Namespace, rate float64, log *slog.Logger) (*sampler, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	if err := tenants.ValidateSubject(s.Subject); err != nil {
		return nil, fmt.Errorf("sample of topology %s: %w", s.Topology, err)
	}
	return &sampler{js: js, sample: s, tenant: id, subject: ns.Absolute(id, s.Subject), rate: rate, log: log}, nil
}

// run publishes until ctx ends. A message that was refused is sent again later: whether an unanswered one is in the stream does
// not matter, since input is whatever the stream says it is.
func (s *sampler) run(ctx context.Context) {
	every := time.Duration(float64(time.Second) / s.rate)
	tick := time.NewTicker(max(every, 10*time.Millisecond))
	defer tick.Stop()
	var n uint64
	due, last := 0.0, time.Now()
	healthy := true
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			due = min(due+s.rate*now.Sub(last).Seconds(), max(maxBurst, s.rate/10))
			last = now
		}
		sent, err := s.publish(ctx, n, int(due+0.001))
		n += uint64(sent)
		due -= float64(sent)
		if err != nil && ctx.Err() == nil && healthy {
			s.log.Warn("sample input is not accepted, trying again", "tenant", string(s.tenant), "err", err)
		}
		healthy = err == nil
	}
}

// publish sends count messages side by side and returns how many were acknowledged before the first that was not.
func (s *sampler) publish(ctx context.Context, n uint64, count int) (int, error) {
	acks := make([]jetstream.PubAckFuture, 0, count)
	var failed error
	for i := range count {
		ack, err := s.js.PublishAsync(s.subject, s.sample.Message(string(s.tenant), n+uint64(i)), jetstream.WithStallWait(5*time.Second))
		if err != nil {
			failed = err
			break
		}
		acks = append(acks, ack)
	}
	for i, ack := range acks {
		select {
		case <-ack.Ok():
		case err := <-ack.Err():
			return i, err
		case <-ctx.Done():
			return i, ctx.Err()
		}
	}
	return len(acks), failed
}
