package bench

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// CheckpointResult is what checkpointing a large state costs, at one share of keys that changes between two checkpoints.
type CheckpointResult struct {
	Changed        string  `json:"changed"` // of the keys, per second
	Keys           int     `json:"keys"`
	Events         int     `json:"events"`  // at most so many, each touching several keys
	Updates        int     `json:"updates"` // of all runs
	Pairs          int     `json:"pairs"`
	WithoutPerS    float64 `json:"without_per_s"` // updates per second without checkpoints
	WithPerS       float64 `json:"with_per_s"`
	Ratio          float64 `json:"ratio"`
	RatioMin       float64 `json:"ratio_min"`
	RatioMax       float64 `json:"ratio_max"`
	Checkpoints    int     `json:"checkpoints"`
	StandstillP50  float64 `json:"standstill_p50_ms"`
	StandstillP99  float64 `json:"standstill_p99_ms"`
	DurationP50    float64 `json:"duration_p50_ms"`
	BytesUploaded  float64 `json:"bytes_per_checkpoint"`
	Operations     float64 `json:"operations_per_checkpoint"` // messages Weir sent to the broker, snapshot chunks included
	RestoreBytes   int64   `json:"restore_bytes"`             // of objects, compressed
	RestoreMBPerS  float64 `json:"restore_mb_per_s"`          // from the acquired head to the running job
	RestoreKeys    float64 `json:"restore_keys_per_s"`
	RawGetMBPerS   float64 `json:"raw_get_mb_per_s"` // the same objects with nats.go's object store
	AllocsPerEvent float64 `json:"allocs_per_event"`
}

// touch asks for n keys from first on to be counted: one small event makes many updates, so that reading does not bound them.
type touch struct{ first, n uint32 }

var touches = codec.New("touch",
	func(b []byte, t touch) ([]byte, error) {
		return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, t.first), t.n), nil
	},
	func(b []byte) (touch, error) {
		if len(b) != 8 {
			return touch{}, errors.New("a touch has 8 bytes")
		}
		return touch{binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])}, nil
	})

const (
	perLoad  = 500 // keys of an event that loads
	perTouch = 200 // keys of an event of the measured part
)

// touching counts every key that an event touches. names are made before: making them is not what is measured.
func touching(names []string) (*processor.Topology, error) {
	b := processor.NewBuilder("touching")
	events := processor.From(b, "events", processor.SourceSpec[touch]{Filters: []tenants.Filter{"events"}, Codec: touches})
	keys := processor.FlatMap(events, "keys", func(t touch, emit func(string)) error {
		for i := t.first; i < t.first+t.n; i++ {
			emit(names[int(i)%len(names)])
		}
		return nil
	})
	processor.Process(processor.KeyBy(keys, func(k string) string { return k }), "count",
		func(pc *processor.Context[string], _ string) error {
			n, err := total.Get(pc)
			if err != nil {
				return err
			}
			return total.Set(pc, n+1)
		}, processor.Uses(total))
	return b.Build()
}

// Checkpoint measures what checkpoints cost while a state of cfg.Keys keys is held, for each share of keys in percent.
func Checkpoint(ctx context.Context, cfg Config, percents []int) ([]CheckpointResult, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	names := make([]string, cfg.Keys)
	for i := range names {
		names[i] = keyName(uint64(i))
	}
	topology, err := touching(names)
	if err != nil {
		return nil, err
	}
	var out []CheckpointResult
	for _, percent := range percents {
		if percent < 1 || percent > 100 {
			return nil, fmt.Errorf("--changed %d: use 1 to 100 percent", percent)
		}
		b := &checkpointBench{cfg: cfg, topology: topology, percent: percent}
		r, err := b.run(ctx)
		if err != nil {
			return nil, fmt.Errorf("%d %% changed: %w", percent, err)
		}
		out = append(out, r)
	}
	return out, nil
}

type checkpointBench struct {
	cfg      Config
	topology *processor.Topology
	percent  int
	e        *env

	with, without         []float64
	frozen, took          []time.Duration
	bytes, ops            []float64
	restore, raw, mallocs []float64
	restored              int64
	updates               int
}

// never is an interval that no run lives to see.
const never = 24 * time.Hour

func (b *checkpointBench) run(ctx context.Context) (CheckpointResult, error) {
	var err error
	if b.e, err = newEnv(); err != nil {
		return CheckpointResult{}, err
	}
	defer b.e.close()
	if err := b.e.stream(ctx, inStream, 1, inSubject); err != nil {
		return CheckpointResult{}, err
	}
	if err := b.load(ctx); err != nil {
		return CheckpointResult{}, fmt.Errorf("loading: %w", err)
	}
	hot := uint64(max(b.cfg.Keys*b.percent/100, 1))
	err = b.e.fill(ctx, inStream, inSubject, b.cfg.Events, func(p []byte, id uint64) []byte {
		return appendTouch(p, touch{uint32(id * perTouch % hot), perTouch})
	})
	if err != nil {
		return CheckpointResult{}, err
	}
	for pair := range b.cfg.Pairs {
		with := func() error { return b.measure(ctx, pair, b.cfg.Interval) }
		without := func() error { return b.measure(ctx, pair, never) }
		if err := inTurn(pair, without, with); err != nil {
			return CheckpointResult{}, err
		}
		b.cfg.step("%d %% changed, pair %d of %d: without checkpoints %.0f updates/s, with %.0f/s", b.percent, pair+1, b.cfg.Pairs, b.without[pair], b.with[pair])
	}
	return b.result(), nil
}

func appendTouch(p []byte, t touch) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(p, t.first), t.n)
}

func (b *checkpointBench) loads() int { return (b.cfg.Keys + perLoad - 1) / perLoad }

func (b *checkpointBench) jobName(pair int, interval time.Duration) string {
	if interval == never {
		return fmt.Sprintf("without-%d", pair)
	}
	return fmt.Sprintf("with-%d", pair)
}

// load gives every job of the benchmark its state and drains it, so that the measured part begins with a restore.
func (b *checkpointBench) load(ctx context.Context) error {
	b.cfg.step("%d %% changed: loading %d keys", b.percent, b.cfg.Keys)
	err := b.e.fill(ctx, inStream, inSubject, b.loads(), func(p []byte, id uint64) []byte {
		return appendTouch(p, touch{uint32(id * perLoad), uint32(min(perLoad, b.cfg.Keys-int(id)*perLoad))})
	})
	if err != nil {
		return err
	}
	for pair := range b.cfg.Pairs {
		for _, interval := range []time.Duration{b.cfg.Interval, never} {
			jc := processor.JobConfig{Name: b.jobName(pair, interval), Checkpoint: processor.CheckpointConfig{Interval: never}}
			s, err := deploy(ctx, b.cfg, b.e.url, b.topology, jc)
			if err != nil {
				return err
			}
			s.start(ctx)
			if err := errors.Join(s.await(ctx, uint64(b.loads())), s.stop(ctx)); err != nil {
				return err
			}
		}
	}
	return nil
}

// measure restores a loaded job and runs it over the measured part.
func (b *checkpointBench) measure(ctx context.Context, pair int, interval time.Duration) error {
	name := b.jobName(pair, interval)
	raw, bytes, err := b.rawGet(ctx, name)
	if err != nil {
		return err
	}
	jc := processor.JobConfig{Name: name, Checkpoint: processor.CheckpointConfig{Interval: interval}}
	s, err := deploy(ctx, b.cfg, b.e.url, b.topology, jc)
	if err != nil {
		return err
	}
	before := settle()
	s.start(ctx)
	running, err := s.awaitRunning(ctx)
	sent, err2 := s.sent(ctx)
	if err := errors.Join(err, err2); err != nil {
		return errors.Join(err, s.stop(ctx))
	}
	limited, cancel := context.WithTimeout(ctx, b.cfg.For)
	err = s.await(limited, uint64(b.cfg.Events))
	cancel()
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = nil // there was more to read than time
	}
	elapsed, done := time.Since(running), s.job.Metrics().RecordsIn
	taken := s.taken()
	sentAfter, err2 := s.sent(ctx)
	spent := before.since().mallocs
	if err := errors.Join(err, err2); err != nil {
		return errors.Join(err, s.stop(ctx))
	}
	rate := perSecond(int(done)*perTouch, elapsed)
	b.updates += int(done) * perTouch
	if interval == never {
		b.without = append(b.without, rate)
	} else {
		b.with = append(b.with, rate)
		b.checkpoints(taken, sentAfter-sent)
		b.mallocs = append(b.mallocs, float64(spent)/float64(done))
	}
	b.restored = bytes
	b.restore = append(b.restore, float64(bytes)/1e6/running.Sub(before.at).Seconds())
	b.raw = append(b.raw, raw)
	last, err := s.job.Checkpoint(ctx)
	if err == nil {
		err = b.check(ctx, s, last)
	}
	return errors.Join(err, s.stop(ctx))
}

func (b *checkpointBench) checkpoints(taken []processor.CheckpointEvent, sent uint64) {
	for _, c := range taken {
		b.frozen = append(b.frozen, c.Frozen)
		b.took = append(b.took, c.Duration)
		b.bytes = append(b.bytes, float64(c.Bytes))
	}
	if len(taken) > 0 {
		b.ops = append(b.ops, float64(sent)/float64(len(taken)))
	}
}

// check adds up what the committed state counted and compares it with the committed position.
func (b *checkpointBench) check(ctx context.Context, s *session, c processor.CheckpointEvent) error {
	snap, err := s.job.OpenState(ctx, c.Checkpoint, "count")
	if err != nil {
		return err
	}
	var sum uint64
	for i := range b.cfg.Keys {
		n, err := total.Get(snap.Key(keyName(uint64(i))))
		if err != nil {
			return err
		}
		sum += n
	}
	want := uint64(b.cfg.Keys) + (c.Positions["events"]-uint64(b.loads()))*perTouch
	if sum != want {
		return &WrongError{fmt.Sprintf("the state has %d updates, the input %d", sum, want)}
	}
	return nil
}

// rawGet reads the objects of a job's committed state with nats.go's object store, and returns MB/s and the size.
func (b *checkpointBench) rawGet(ctx context.Context, job string) (float64, int64, error) {
	kv, err := b.e.js.KeyValue(ctx, "weir_checkpoints")
	if err != nil {
		return 0, 0, err
	}
	head, err := kv.Get(ctx, tenant+"."+job)
	if err != nil {
		return 0, 0, fmt.Errorf("reading the head of job %s: %w", job, err)
	}
	var h barriers.Head
	if err := json.Unmarshal(head.Value(), &h); err != nil {
		return 0, 0, err
	}
	entry, err := kv.Get(ctx, fmt.Sprintf("%s.%s.%d", tenant, job, h.Checkpoint))
	if err != nil {
		return 0, 0, fmt.Errorf("reading manifest %d of job %s: %w", h.Checkpoint, job, err)
	}
	var m barriers.Manifest
	if err := json.Unmarshal(entry.Value(), &m); err != nil {
		return 0, 0, err
	}
	begin := time.Now()
	var bytes int64
	for _, op := range m.Operators {
		for _, o := range op.Chain {
			store, err := b.e.js.ObjectStore(ctx, o.Bucket)
			if err != nil {
				return 0, 0, err
			}
			r, err := store.Get(ctx, o.Name)
			if err != nil {
				return 0, 0, fmt.Errorf("reading object %s: %w", o.Name, err)
			}
			n, err := io.Copy(io.Discard, r)
			if err := errors.Join(err, r.Close()); err != nil {
				return 0, 0, fmt.Errorf("reading object %s: %w", o.Name, err)
			}
			bytes += n
		}
	}
	return float64(bytes) / 1e6 / time.Since(begin).Seconds(), bytes, nil
}

func (b *checkpointBench) result() CheckpointResult {
	slices.Sort(b.frozen)
	slices.Sort(b.took)
	q := statOf(ratios(b.with, b.without))
	r := CheckpointResult{
		Changed: fmt.Sprintf("%d %%", b.percent), Keys: b.cfg.Keys, Events: b.cfg.Events, Updates: b.updates, Pairs: b.cfg.Pairs,
		WithoutPerS: statOf(b.without).Median, WithPerS: statOf(b.with).Median, Ratio: q.Median, RatioMin: q.Min, RatioMax: q.Max,
		Checkpoints:   len(b.frozen),
		StandstillP50: millis(quantile(b.frozen, 0.5)), StandstillP99: millis(quantile(b.frozen, 0.99)), DurationP50: millis(quantile(b.took, 0.5)),
		RestoreBytes: b.restored, RestoreMBPerS: statOf(b.restore).Median, RestoreKeys: statOf(b.restore).Median * 1e6 / float64(b.restored) * float64(b.cfg.Keys), RawGetMBPerS: statOf(b.raw).Median, AllocsPerEvent: statOf(b.mallocs).Median,
	}
	if len(b.bytes) > 0 {
		r.BytesUploaded, r.Operations = statOf(b.bytes).Median, statOf(b.ops).Median
	}
	return r
}

// sent is the number of messages that the job's connections have sent to the server, acknowledgements of reading included.
func (s *session) sent(ctx context.Context) (uint64, error) {
	var sent uint64
	for _, p := range purposes {
		nc, err := s.broker.Conn(ctx, p)
		if err != nil {
			return 0, err
		}
		sent += nc.Stats().OutMsgs
	}
	return sent, nil
}

// awaitRunning returns when the job's attempt began to read.
func (s *session) awaitRunning(ctx context.Context) (time.Time, error) {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		s.mu.Lock()
		for _, e := range s.states {
			if e.State == processor.JobRunning {
				s.mu.Unlock()
				return e.At, nil
			}
		}
		err := s.failed
		s.mu.Unlock()
		if err != nil {
			return time.Time{}, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("waiting for the job to run: %w", ctx.Err())
		}
	}
}
