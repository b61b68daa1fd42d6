package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state/codec"
)

// LatencyResult is the time from publishing an event to its exactly-once result in a consumer's hands.
type LatencyResult struct {
	Replicas   int           `json:"replicas"`
	Interval   time.Duration `json:"-"`
	IntervalMS float64       `json:"interval_ms"`
	Rate       int           `json:"rate_per_s"`
	Events     int           `json:"events"`
	P50        float64       `json:"p50_ms"`
	P99        float64       `json:"p99_ms"`
	Max        float64       `json:"max_ms"`
}

// LatencyConfig says what to measure.
type LatencyConfig struct {
	Rate      int             // events a second
	Intervals []time.Duration // between checkpoints
	Replicas  []int           // 1: the embedded server; 3: three servers in child processes
	For       time.Duration   // per measurement, at least; three intervals if that is more
	Keys      int
	// Self is the command that runs this binary; it is given the hidden nats-server command.
	Self []string
}

// Validate reports all problems at once.
func (c LatencyConfig) Validate() error {
	var errs []error
	if c.Rate < 1 || c.Rate > 100_000 {
		errs = append(errs, fmt.Errorf("--rate is %d: use 1 to 100000", c.Rate))
	}
	for _, r := range c.Replicas {
		if r != 1 && r != 3 {
			errs = append(errs, fmt.Errorf("--replicas %d: use 1 or 3", r))
		}
	}
	if len(c.Intervals) == 0 || len(c.Replicas) == 0 || c.For <= 0 || c.Keys < 1 {
		errs = append(errs, errors.New("intervals, replicas, duration and keys must be given"))
	}
	return errors.Join(errs...)
}

// Latency measures every interval on every number of replicas.
func Latency(ctx context.Context, cfg Config, lc LatencyConfig) ([]LatencyResult, error) {
	if err := lc.Validate(); err != nil {
		return nil, err
	}
	var out []LatencyResult
	for _, replicas := range lc.Replicas {
		results, err := latencyOn(ctx, cfg, lc, replicas)
		if err != nil {
			return nil, fmt.Errorf("latency with %d replicas: %w", replicas, err)
		}
		out = append(out, results...)
	}
	return out, nil
}

func latencyOn(ctx context.Context, cfg Config, lc LatencyConfig, replicas int) ([]LatencyResult, error) {
	var e *env
	var err error
	if replicas == 1 {
		e, err = newEnv()
	} else {
		e, err = newClusterEnv(ctx, lc.Self)
	}
	if err != nil {
		return nil, err
	}
	defer e.close()
	topology, err := counting(codec.JSON[Event](), true)
	if err != nil {
		return nil, err
	}
	var out []LatencyResult
	for i, interval := range lc.Intervals {
		cfg.step("%d replicas, a checkpoint every %s", replicas, interval)
		if err := e.stream(ctx, inStream, replicas, inSubject); err != nil {
			return nil, err
		}
		if err := e.stream(ctx, outStream, replicas, outSubject, markers); err != nil {
			return nil, err
		}
		jc := processor.JobConfig{Name: fmt.Sprintf("latency-%d", i), Checkpoint: processor.CheckpointConfig{Interval: interval}}
		cfg.Replicas = replicas
		s, err := deploy(ctx, cfg, e.url, topology, jc)
		if err != nil {
			return nil, err
		}
		s.start(ctx)
		m := &latencyRun{e: e, rate: lc.Rate, n: int(max(lc.For, 3*interval).Seconds() * float64(lc.Rate)), keys: lc.Keys}
		err = errors.Join(m.run(ctx), s.stop(ctx))
		if err != nil {
			return nil, err
		}
		r := m.result()
		r.Replicas, r.Interval, r.IntervalMS = replicas, interval, millis(interval)
		out = append(out, r)
		if err := errors.Join(e.js.DeleteStream(ctx, inStream), e.js.DeleteStream(ctx, outStream)); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// latencyRun publishes at a steady rate and notes when each event was sent and when its result came.
type latencyRun struct {
	e       *env
	rate, n int
	keys    int

	mu      sync.Mutex
	sent    []time.Time
	latency []time.Duration
}

func (m *latencyRun) run(ctx context.Context) error {
	m.sent = make([]time.Time, m.n)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	seen := make(chan error, 1)
	go func() { seen <- m.watch(ctx) }()
	err := m.publish(ctx)
	if err != nil {
		cancel()
	}
	return errors.Join(err, <-seen)
}

func (m *latencyRun) publish(ctx context.Context) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	begin := time.Now()
	for id := 0; id < m.n; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		for due := int(time.Since(begin).Seconds() * float64(m.rate)); id < min(due, m.n); id++ {
			m.mu.Lock()
			m.sent[id] = time.Now()
			m.mu.Unlock()
			if _, err := m.e.js.PublishAsync(inSubject, appendEvent(nil, uint64(id), m.keys), jetstream.WithStallWait(10*time.Second)); err != nil {
				return fmt.Errorf("publishing event %d: %w", id, err)
			}
		}
	}
	return nil
}

// watch reads the output stream with a consumer: what it is given is committed, and there exactly once. (A subscription without
// a consumer would see the messages of a batch before the batch is complete.)
func (m *latencyRun) watch(ctx context.Context) error {
	next := uint64(0)
	return m.e.consume(ctx, outStream, outSubject, m.n, func(data []byte) error {
		now := time.Now()
		var c Counted
		if err := json.Unmarshal(data, &c); err != nil {
			return err
		}
		if c.ID != next {
			return &WrongError{fmt.Sprintf("result %d is that of event %d", next, c.ID)}
		}
		next++
		m.mu.Lock()
		defer m.mu.Unlock()
		m.latency = append(m.latency, now.Sub(m.sent[c.ID]))
		return nil
	})
}

func (m *latencyRun) result() LatencyResult {
	slices.Sort(m.latency)
	return LatencyResult{
		Rate: m.rate, Events: m.n,
		P50: millis(quantile(m.latency, 0.5)), P99: millis(quantile(m.latency, 0.99)), Max: millis(quantile(m.latency, 1)),
	}
}
