package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state/codec"
)

// Pipe measures one exactly-once output per event against two loops without any recovery.
func Pipe(ctx context.Context, cfg Config) (Result, error) {
	e, in, err := prepare(ctx, cfg)
	if err != nil {
		return Result{}, err
	}
	defer e.close()
	topology, err := counting(in, true)
	if err != nil {
		return Result{}, err
	}
	var s samples
	hand := func(rates *[]float64, run func(context.Context, codec.Codec[Event], int) error) func() error {
		return func() error {
			return explain("baseline", e.withOutput(ctx, cfg, func() error {
				return s.byHand(cfg, rates, func() error { return run(ctx, in, cfg.Events) })
			}))
		}
	}
	for pair := range cfg.Pairs {
		weir := func() error {
			jc := processor.JobConfig{Name: fmt.Sprintf("pipe-%d", pair), Checkpoint: processor.CheckpointConfig{Interval: cfg.Interval}}
			return explain("weir", e.withOutput(ctx, cfg, func() error {
				return cfg.profiled(pair, func() error {
					run, err := timed(ctx, cfg, e.url, topology, jc, cfg.Events, func(*session, uint64) error { return nil })
					s.weirRun(cfg, run)
					return err
				})
			}))
		}
		if err := inTurn(pair, hand(&s.base, e.asyncPipe), weir, hand(&s.batch, e.batchPipe)); err != nil {
			return Result{}, err
		}
		cfg.step("pair %d of %d: PublishAsync %.0f/s, atomic batches %.0f/s, weir %.0f/s", pair+1, cfg.Pairs, s.base[pair], s.batch[pair], s.weir[pair])
	}
	return s.result(cfg, "pipe"), nil
}

// withOutput gives run an output stream of its own and checks what it wrote there: one result per event, in order, each count
// one more than the last of its key.
func (e *env) withOutput(ctx context.Context, cfg Config, run func() error) error {
	if err := e.stream(ctx, outStream, 1, outSubject, markers); err != nil {
		return err
	}
	if err := run(); err != nil {
		return err
	}
	counts := make(map[string]uint64, cfg.Keys)
	next := uint64(0)
	out := codec.JSON[Counted]()
	limited, cancel := context.WithTimeout(ctx, time.Minute+time.Duration(cfg.Events)*50*time.Microsecond)
	defer cancel()
	err := e.consume(limited, outStream, outSubject, cfg.Events, func(data []byte) error {
		c, err := out.Decode(data)
		if err != nil {
			return err
		}
		counts[c.Key]++
		if c.ID != next || c.Key != keyOf(next, cfg.Keys) || c.Count != counts[c.Key] {
			return &WrongError{fmt.Sprintf("result %d is %+v", next, c)}
		}
		next++
		return nil
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return &WrongError{fmt.Sprintf("%d of %d results are there", next, cfg.Events)}
	}
	if err != nil {
		return err
	}
	s, err := e.js.Stream(ctx, outStream)
	if err != nil {
		return fmt.Errorf("reading stream %s: %w", outStream, err)
	}
	last, err := s.GetLastMsgForSubject(ctx, outSubject)
	if err != nil {
		return fmt.Errorf("reading the last result: %w", err)
	}
	if c, err := out.Decode(last.Data); err != nil || c.ID != next-1 {
		return &WrongError{fmt.Sprintf("there are results behind the last event: %q", last.Data)}
	}
	if err := e.js.DeleteStream(ctx, outStream); err != nil {
		return fmt.Errorf("deleting stream %s: %w", outStream, err)
	}
	return nil
}
