package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/examples/nexmark"
	"github.com/weirstream/weir/processor"
)

// NexmarkResult is what was measured of one query. Rates are events per second, of all events of the stream, also those that the
// query is not about.
type NexmarkResult struct {
	Query       string  `json:"query"`
	Title       string  `json:"title"`
	Events      int     `json:"events"`
	Results     int     `json:"results"`      // messages, of a run from memory
	PerS        float64 `json:"events_per_s"` // from JetStream
	CoreS       float64 `json:"core_s_per_million_events"`
	MemoryPerS  float64 `json:"memory_events_per_s"`
	MemoryCoreS float64 `json:"memory_core_s_per_million_events"`
	Ratio       float64 `json:"ratio_to_q0"`        // from JetStream
	MemoryRatio float64 `json:"memory_ratio_to_q0"` // from memory
	BrokerShare float64 `json:"broker_share"`       // of the core seconds
	Rates       Stat    `json:"rates"`
	MemoryRates Stat    `json:"memory_rates"`
	Allocs      float64 `json:"memory_allocs_per_event"`
	Checkpoints int     `json:"checkpoints"` // of all runs
}

// nexmarkWindow is the window of q12 in a benchmark: about as long as it takes to process ten seconds of the events' own time.
const nexmarkWindow = 200 * time.Millisecond

// nexmarkRun collects one query's runs.
type nexmarkRun struct {
	query       nexmark.Query
	topology    *processor.Topology
	stream, mem samples
	checkpoints int
	results     int
}

// Nexmark measures queries of the Nexmark benchmark, by name; none means all. Each is run cfg.Pairs times from JetStream and from
// memory. q0 is run in any case: it is the measure.
func Nexmark(ctx context.Context, cfg Config, names []string) ([]NexmarkResult, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	log, err := newAuctionLog(cfg.Events)
	if err != nil {
		return nil, err
	}
	runs, err := nexmarkRuns(names, log.bound)
	if err != nil {
		return nil, err
	}
	e, err := newEnv()
	if err != nil {
		return nil, err
	}
	defer e.close()
	cfg.step("filling a stream with %d events, %d MB", cfg.Events, len(log.data)>>20)
	if err := e.fillNexmark(ctx, log); err != nil {
		return nil, err
	}
	if slices.ContainsFunc(runs, (*nexmarkRun).looksUp) {
		if err := e.fillSideInput(ctx); err != nil {
			return nil, err
		}
	}
	for pair := range cfg.Pairs {
		for _, r := range runs {
			if err := r.pair(ctx, cfg, e, log, pair); err != nil {
				return nil, explain(r.query.Name, err)
			}
			cfg.step("pair %d of %d: %s: JetStream %.0f/s, memory %.0f/s", pair+1, cfg.Pairs, r.query.Name, r.stream.weir[pair], r.mem.weir[pair])
		}
	}
	var out []NexmarkResult
	for _, r := range runs {
		out = append(out, r.result(cfg, runs[0]))
	}
	return out, nil
}

func nexmarkRuns(names []string, bound time.Duration) ([]*nexmarkRun, error) {
	wanted := map[string]bool{"q0": true}
	for _, name := range names {
		if _, ok := nexmark.Find(name); !ok {
			var all []string
			for _, q := range nexmark.Queries() {
				all = append(all, q.Name)
			}
			return nil, fmt.Errorf("there is no query %q: use one of %s", name, strings.Join(all, ", "))
		}
		wanted[name] = true
	}
	var runs []*nexmarkRun
	for _, q := range nexmark.Queries() {
		if len(names) > 0 && !wanted[q.Name] {
			continue
		}
		t, err := q.Build(bound)
		if err != nil {
			return nil, explain(q.Name, err)
		}
		runs = append(runs, &nexmarkRun{query: q, topology: t})
	}
	return runs, nil
}

// looksUp reports whether the query reads the side input.
func (r *nexmarkRun) looksUp() bool { return r.query.Name == "q13" }

func (r *nexmarkRun) pair(ctx context.Context, cfg Config, e *env, log *auctionLog, pair int) error {
	jc := processor.JobConfig{
		Name: fmt.Sprintf("%s-%d", r.query.Name, pair), Checkpoint: processor.CheckpointConfig{Interval: cfg.Interval, Barriers: processor.BarriersAtReader},
	}
	if r.query.Name == "q12" {
		jc.Params = map[string]any{nexmark.ClockWindow.Name(): nexmarkWindow}
	}
	published, kept := newResultSum(r.query), newResultSum(r.query)
	fromStream := func() error {
		run, err := e.nexmarkStream(ctx, cfg, r, jc, published)
		r.checkpoints += len(run.checkpoints)
		if err == nil {
			r.stream.weirRun(cfg, run)
		}
		return explain("from JetStream", err)
	}
	fromMemory := func() error {
		return cfg.profiled(pair, func() error {
			broker := newMemoryBroker(log, kept)
			if r.looksUp() {
				if err := broker.fillSideInput(); err != nil {
					return err
				}
			}
			s, err := deployOn(ctx, cfg, broker, func() {}, r.topology, jc)
			if err != nil {
				return err
			}
			run, err := s.timed(ctx, cfg.Events, noDeadLetters)
			r.checkpoints += len(run.checkpoints)
			r.results = len(kept.hashes)
			if err == nil {
				r.mem.weirRun(cfg, run)
			}
			return explain("from memory", err)
		})
	}
	if err := inTurn(pair, fromStream, fromMemory); err != nil {
		return err
	}
	// Of q12, what is published depends on the time at which it ran.
	if r.query.Name != "q12" && !published.same(kept) {
		return &WrongError{fmt.Sprintf("%d results from JetStream and %d from memory are not the same", len(published.hashes), len(kept.hashes))}
	}
	return nil
}

func noDeadLetters(s *session, _ uint64) error {
	if n := s.job.Metrics().DeadLetters; n > 0 {
		return &WrongError{fmt.Sprintf("%d events were dead-lettered", n)}
	}
	return nil
}

// nexmarkStream runs a query from the input stream into one of its own, and reads what it wrote.
func (e *env) nexmarkStream(ctx context.Context, cfg Config, r *nexmarkRun, jc processor.JobConfig, results *resultSum) (weirRun, error) {
	stream, subject := outStream, tenant+"."+nexmark.Results+"."+r.query.Name
	if r.query.Emits == nexmark.EmitsChanges {
		bucket := nexmark.Bucket + "_" + r.query.Name
		stream, subject = "KV_"+bucket, "$KV."+bucket+"."+tenant+".>"
	} else if err := e.stream(ctx, outStream, 1, tenant+"."+nexmark.Results+".>", markers); err != nil {
		return weirRun{}, err
	}
	s, err := deploy(ctx, cfg, e.url, r.topology, jc)
	if err != nil {
		return weirRun{}, err
	}
	run, err := s.timed(ctx, cfg.Events, noDeadLetters)
	if err != nil {
		return run, err
	}
	if err := e.readAll(ctx, stream, subject, results.add); err != nil {
		return run, err
	}
	return run, e.js.DeleteStream(ctx, stream)
}

// fillSideInput makes the bucket that q13 reads.
func (e *env) fillSideInput(ctx context.Context) error {
	kv, err := e.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: nexmark.SideBucket})
	if err != nil {
		return fmt.Errorf("making bucket %s: %w", nexmark.SideBucket, err)
	}
	for key, value := range nexmark.SideInput() {
		if _, err := kv.PutString(ctx, key, value); err != nil {
			return fmt.Errorf("filling bucket %s: %w", nexmark.SideBucket, err)
		}
	}
	return nil
}

// fillNexmark publishes the events, in order.
func (e *env) fillNexmark(ctx context.Context, log *auctionLog) error {
	if err := e.stream(ctx, inStream, 1, tenant+"."+nexmark.Filter); err != nil {
		return err
	}
	for i := range log.ends {
		subject, data := log.event(i)
		if _, err := e.js.PublishAsync(subject, data, jetstream.WithStallWait(time.Minute)); err != nil {
			return fmt.Errorf("filling stream %s: %w", inStream, err)
		}
	}
	select {
	case <-e.js.PublishAsyncComplete():
	case <-ctx.Done():
		return ctx.Err()
	}
	s, err := e.js.Stream(ctx, inStream)
	if err != nil {
		return fmt.Errorf("reading stream %s: %w", inStream, err)
	}
	if n := s.CachedInfo().State.Msgs; n != uint64(len(log.ends)) {
		return fmt.Errorf("filling stream %s: it took %d of %d messages: was the disk full?", inStream, n, len(log.ends))
	}
	return nil
}

// readAll hands everything that a stream has under a subject to fn.
func (e *env) readAll(ctx context.Context, stream, subject string, fn func(subject string, data []byte)) error {
	c, err := e.js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{FilterSubjects: []string{subject}})
	if err != nil {
		return fmt.Errorf("consuming %s: %w", stream, err)
	}
	info, err := c.Info(ctx)
	if err != nil || info.NumPending == 0 {
		return err
	}
	msgs, err := c.Messages(jetstream.PullMaxMessages(maxPull))
	if err != nil {
		return fmt.Errorf("consuming %s: %w", stream, err)
	}
	defer msgs.Stop()
	limited, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	for n := range info.NumPending {
		m, err := msgs.Next(jetstream.NextContext(limited))
		if err != nil {
			return errors.Join(err, fmt.Errorf("consuming %s: %d of %d messages came", stream, n, info.NumPending))
		}
		fn(m.Subject(), m.Data())
	}
	return nil
}

func (r *nexmarkRun) result(cfg Config, q0 *nexmarkRun) NexmarkResult {
	const million = 1e6
	out := NexmarkResult{
		Query: r.query.Name, Title: r.query.Title, Events: cfg.Events, Results: r.results, Checkpoints: r.checkpoints,
		Rates: statOf(r.stream.weir), MemoryRates: statOf(r.mem.weir),
		CoreS: statOf(r.stream.weirCPU).Median * million / 1e6, MemoryCoreS: statOf(r.mem.weirCPU).Median * million / 1e6,
		Allocs: statOf(r.mem.weirAllocs).Median,
		Ratio:  statOf(ratios(r.stream.weir, q0.stream.weir)).Median, MemoryRatio: statOf(ratios(r.mem.weir, q0.mem.weir)).Median,
	}
	out.PerS, out.MemoryPerS = out.Rates.Median, out.MemoryRates.Median
	if out.CoreS > 0 {
		out.BrokerShare = max(0, 1-out.MemoryCoreS/out.CoreS)
	}
	return out
}
