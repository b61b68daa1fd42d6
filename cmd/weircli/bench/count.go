package bench

import (
	"context"
	"fmt"
	"os"
	"runtime/pprof"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state/codec"
)

// Result is what count and pipe measured.
type Result struct {
	Bench                  string  `json:"bench"`
	Events                 int     `json:"events"`
	Keys                   int     `json:"keys"`
	Pairs                  int     `json:"pairs"`
	Decoder                string  `json:"decoder"`
	BaselinePerS           float64 `json:"baseline_per_s"`
	WeirPerS               float64 `json:"weir_per_s"`
	Ratio                  float64 `json:"ratio"` // median of the pairs' ratios
	RatioMin               float64 `json:"ratio_min"`
	RatioMax               float64 `json:"ratio_max"`
	BatchPerS              float64 `json:"batch_baseline_per_s,omitempty"` // pipe: consume + atomic batches
	RatioBatch             float64 `json:"ratio_batch,omitempty"`
	RatioBatchMin          float64 `json:"ratio_batch_min,omitempty"`
	RatioBatchMax          float64 `json:"ratio_batch_max,omitempty"`
	Checkpoints            int     `json:"checkpoints"` // of all of Weir's runs
	AllocsPerEvent         float64 `json:"allocs_per_event"`
	BaselineAllocsPerEvent float64 `json:"baseline_allocs_per_event"`
	CPUMicros              float64 `json:"cpu_us_per_event"` // of the process, embedded server included
	BaselineCPUMicros      float64 `json:"baseline_cpu_us_per_event"`
	BaselineRates          Stat    `json:"baseline_rates"`
	WeirRates              Stat    `json:"weir_rates"`
	BatchRates             *Stat   `json:"batch_baseline_rates,omitempty"`
}

// samples collects the pairs.
type samples struct {
	base, batch, weir      []float64 // events per second
	baseAllocs, weirAllocs []float64 // per event
	baseCPU, weirCPU       []float64 // microseconds per event
	checkpoints            int
}

func (s *samples) result(cfg Config, name string) Result {
	r := Result{Bench: name, Events: cfg.Events, Keys: cfg.Keys, Pairs: cfg.Pairs, Decoder: cfg.Decoder, Checkpoints: s.checkpoints}
	r.BaselineRates, r.WeirRates = statOf(s.base), statOf(s.weir)
	r.BaselinePerS, r.WeirPerS = r.BaselineRates.Median, r.WeirRates.Median
	q := statOf(ratios(s.weir, s.base))
	r.Ratio, r.RatioMin, r.RatioMax = q.Median, q.Min, q.Max
	if len(s.batch) > 0 {
		b, q := statOf(s.batch), statOf(ratios(s.weir, s.batch))
		r.BatchRates, r.BatchPerS = &b, b.Median
		r.RatioBatch, r.RatioBatchMin, r.RatioBatchMax = q.Median, q.Min, q.Max
	}
	r.AllocsPerEvent, r.BaselineAllocsPerEvent = statOf(s.weirAllocs).Median, statOf(s.baseAllocs).Median
	r.CPUMicros, r.BaselineCPUMicros = statOf(s.weirCPU).Median, statOf(s.baseCPU).Median
	return r
}

// byHand times one baseline run.
func (s *samples) byHand(cfg Config, rates *[]float64, run func() error) error {
	before := settle()
	if err := run(); err != nil {
		return err
	}
	spent := before.since()
	*rates = append(*rates, perSecond(cfg.Events, spent.elapsed))
	if rates == &s.base {
		s.baseAllocs = append(s.baseAllocs, float64(spent.mallocs)/float64(cfg.Events))
		s.baseCPU = append(s.baseCPU, float64(spent.cpu.Microseconds())/float64(cfg.Events))
	}
	return nil
}

func (s *samples) weirRun(cfg Config, run weirRun) {
	s.weir = append(s.weir, perSecond(cfg.Events, run.elapsed))
	s.weirAllocs = append(s.weirAllocs, float64(run.mallocs)/float64(cfg.Events))
	s.weirCPU = append(s.weirCPU, float64(run.cpu.Microseconds())/float64(cfg.Events))
	s.checkpoints += len(run.checkpoints)
}

// Count measures a running count per key without output.
func Count(ctx context.Context, cfg Config) (Result, error) {
	e, in, err := prepare(ctx, cfg)
	if err != nil {
		return Result{}, err
	}
	defer e.close()
	topology, err := counting(in, false)
	if err != nil {
		return Result{}, err
	}
	expected := expectedCounts(cfg.Events, cfg.Keys)
	var s samples
	hand := func() error {
		var counts map[string]uint64
		err := s.byHand(cfg, &s.base, func() (err error) {
			counts, err = e.countByHand(ctx, in, cfg.Events)
			return err
		})
		if err == nil {
			err = sameCounts(expected, func(k string) (uint64, error) { return counts[k], nil })
		}
		return explain("baseline", err)
	}
	for pair := range cfg.Pairs {
		weir := func() error {
			jc := processor.JobConfig{Name: fmt.Sprintf("count-%d", pair), Checkpoint: processor.CheckpointConfig{Interval: cfg.Interval}}
			return cfg.profiled(pair, func() error {
				run, err := timed(ctx, cfg, e.url, topology, jc, cfg.Events, func(w *session, checkpoint uint64) error {
					return w.checkCounts(ctx, checkpoint, expected)
				})
				s.weirRun(cfg, run)
				return explain("weir", err)
			})
		}
		if err := inTurn(pair, hand, weir); err != nil {
			return Result{}, err
		}
		cfg.step("pair %d of %d: by hand %.0f/s, weir %.0f/s", pair+1, cfg.Pairs, s.base[pair], s.weir[pair])
	}
	return s.result(cfg, "count"), nil
}

// prepare starts the server and fills the input stream.
func prepare(ctx context.Context, cfg Config) (*env, codec.Codec[Event], error) {
	if err := cfg.Validate(); err != nil {
		return nil, nil, err
	}
	in, err := decoder(cfg.Decoder)
	if err != nil {
		return nil, nil, err
	}
	e, err := newEnv()
	if err != nil {
		return nil, nil, err
	}
	cfg.step("filling a stream with %d events of %d bytes, %d keys", cfg.Events, eventBytes, cfg.Keys)
	err = e.stream(ctx, inStream, 1, inSubject)
	if err == nil {
		err = e.fill(ctx, inStream, inSubject, cfg.Events, func(b []byte, id uint64) []byte { return appendEvent(b, id, cfg.Keys) })
	}
	if err != nil {
		e.close()
		return nil, nil, err
	}
	return e, in, nil
}

// inTurn lets the sides of a pair take turns in going first.
func inTurn(pair int, sides ...func() error) error {
	for i := range sides {
		if err := sides[(i+pair)%len(sides)](); err != nil {
			return err
		}
	}
	return nil
}

// profiled profiles the run of the last pair where a profile is wanted.
func (c Config) profiled(pair int, run func() error) (err error) {
	if c.Profile == "" || pair != c.Pairs-1 {
		return run()
	}
	f, err := os.Create(c.Profile)
	if err != nil {
		return fmt.Errorf("writing the CPU profile: %w", err)
	}
	defer f.Close()
	if err := pprof.StartCPUProfile(f); err != nil {
		return fmt.Errorf("writing the CPU profile: %w", err)
	}
	defer pprof.StopCPUProfile()
	return run()
}

// checkCounts reads the committed checkpoint's state.
func (s *session) checkCounts(ctx context.Context, checkpoint uint64, expected map[string]uint64) error {
	snap, err := s.job.OpenState(ctx, checkpoint, "count")
	if err != nil {
		return err
	}
	return sameCounts(expected, func(key string) (uint64, error) { return total.Get(snap.Key(key)) })
}

func sameCounts(expected map[string]uint64, got func(string) (uint64, error)) error {
	for key, want := range expected {
		n, err := got(key)
		if err != nil {
			return err
		}
		if n != want {
			return &WrongError{fmt.Sprintf("key %s was counted %d times instead of %d", key, n, want)}
		}
	}
	return nil
}

// WrongError says that a side of the benchmark computed something wrong: its speed means nothing.
type WrongError struct{ Detail string }

func (e *WrongError) Error() string { return "the result is wrong: " + e.Detail }

func explain(side string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", side, err)
	}
	return nil
}
