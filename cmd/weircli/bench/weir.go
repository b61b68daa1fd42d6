package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// Where the benchmarks read and write. Input and output are streams of their own, so that each run's output can be thrown away.
const (
	inStream   = "bench-in"
	inSubject  = tenant + ".events"
	outStream  = "bench-out"
	outSubject = tenant + ".counted"
	outSink    = "counted"
	markers    = tenant + "._weir.>"
)

var total = state.NewValue[uint64]("total")

func add(pc *processor.Context[Counted], e Event) error {
	n, err := total.Get(pc)
	if err != nil {
		return err
	}
	n++
	pc.Emit(Counted{e.ID, e.Key, n})
	return total.Set(pc, n)
}

// counting is the job of count and pipe; out adds the exactly-once sink.
func counting(in codec.Codec[Event], out bool) (*processor.Topology, error) {
	b := processor.NewBuilder("counting")
	events := processor.From(b, "events", processor.SourceSpec[Event]{Filters: []tenants.Filter{"events"}, Codec: in})
	counts := processor.Process(processor.KeyBy(events, func(e Event) string { return e.Key }), "count", add, processor.Uses(total))
	if out {
		processor.To(counts, outSink, processor.SinkSpec[Counted]{FixedSubject: "counted", Codec: codec.JSON[Counted]()})
	}
	return b.Build()
}

var purposes = []jetstream.Purpose{jetstream.Control, jetstream.Output}

// session is a runtime with one job, between start and stop.
type session struct {
	broker *jetstream.Broker // nil: from memory
	close  func()            // of the broker
	rt     *processor.Runtime
	job    *processor.Job
	ended  chan error
	cancel context.CancelFunc

	mu          sync.Mutex
	checkpoints []processor.CheckpointEvent
	states      []processor.JobEvent
	failed      error
}

// deploy prepares everything but does not start the clock: that is start's.
func deploy(ctx context.Context, cfg Config, url string, t *processor.Topology, jc processor.JobConfig) (*session, error) {
	broker, err := jetstream.New(jetstream.Config{URL: url, Logger: cfg.Log, Replicas: cfg.Replicas})
	if err != nil {
		return nil, err
	}
	if err := broker.Start(ctx); err != nil {
		broker.Close()
		return nil, err
	}
	s, err := deployOn(ctx, cfg, broker, broker.Close, t, jc)
	if err == nil {
		s.broker = broker
	}
	return s, err
}

// deployOn is deploy on a broker that is there; the session closes it.
func deployOn(ctx context.Context, cfg Config, broker processor.Broker, closeBroker func(), t *processor.Topology, jc processor.JobConfig) (*session, error) {
	s := &session{ended: make(chan error, 1), close: closeBroker}
	var err error
	s.rt, err = processor.NewRuntime(processor.RuntimeConfig{
		Broker: broker, Worker: "bench", Logger: cfg.Log,
		Listener: processor.Listener{Job: s.onJob, Checkpoint: s.onCheckpoint, CheckpointFailed: s.onFailure},
	})
	if err == nil {
		s.job, err = s.rt.Deploy(ctx, t, tenant, jc)
	}
	if err != nil {
		closeBroker()
		return nil, err
	}
	return s, nil
}

func (s *session) onJob(e processor.JobEvent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.states = append(s.states, e)
	switch e.State {
	case processor.JobRestarting, processor.JobParked, processor.JobFailed, processor.JobStandby:
		s.failed = errors.Join(s.failed, fmt.Errorf("job %s is %s: %w", e.Job, e.State, e.Err))
	}
}

func (s *session) onCheckpoint(e processor.CheckpointEvent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checkpoints = append(s.checkpoints, e)
}

func (s *session) onFailure(e processor.CheckpointFailure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = errors.Join(s.failed, fmt.Errorf("checkpoint %d: %w", e.Checkpoint, e.Err))
}

func (s *session) trouble() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

func (s *session) taken() []processor.CheckpointEvent {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]processor.CheckpointEvent(nil), s.checkpoints...)
}

func (s *session) start(ctx context.Context) {
	ctx, s.cancel = context.WithCancel(ctx)
	go func() { s.ended <- s.rt.Run(ctx) }()
}

// poll is how often the measuring side looks; it reads a counter.
const poll = time.Millisecond

// await returns when the job has read n records, or an error when it cannot.
func (s *session) await(ctx context.Context, n uint64) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for s.job.Metrics().RecordsIn < n {
		select {
		case <-tick.C:
		case err := <-s.ended:
			s.ended <- err
			return fmt.Errorf("the runtime ended: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("waiting for %d records, %d were read: %w", n, s.job.Metrics().RecordsIn, ctx.Err())
		}
		if err := s.trouble(); err != nil {
			return err
		}
	}
	return nil
}

// stop drains the job and waits for everything to end. It may be called twice.
func (s *session) stop(ctx context.Context) error {
	defer s.close()
	if s.cancel == nil {
		return nil
	}
	err := s.rt.Drain(ctx)
	if err != nil {
		s.cancel()
	}
	ended := <-s.ended
	s.ended <- nil
	s.cancel()
	return errors.Join(err, ended, s.trouble())
}

// weirRun is one timed run.
type weirRun struct {
	usage
	checkpoints []processor.CheckpointEvent
}

// timed runs a fresh job over n records to the checkpoint that holds them all, and hands the session to check before it ends.
func timed(ctx context.Context, cfg Config, url string, t *processor.Topology, jc processor.JobConfig, n int, check func(*session, uint64) error) (weirRun, error) {
	s, err := deploy(ctx, cfg, url, t, jc)
	if err != nil {
		return weirRun{}, err
	}
	return s.timed(ctx, n, check)
}

// timed times a session that was not started yet, and ends it.
func (s *session) timed(ctx context.Context, n int, check func(*session, uint64) error) (weirRun, error) {
	before := settle()
	s.start(ctx)
	err := s.await(ctx, uint64(n))
	var last processor.CheckpointEvent
	if err == nil {
		last, err = s.job.Checkpoint(ctx)
	}
	run := weirRun{usage: before.since()}
	if err == nil {
		err = check(s, last.Checkpoint)
	}
	run.checkpoints = s.taken()
	return run, errors.Join(err, s.stop(ctx))
}

// ackError reads a publish acknowledgement.
func ackError(data []byte) error {
	var ack struct {
		Error *struct {
			Code        int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(data, &ack); err != nil {
		return fmt.Errorf("reading an acknowledgement: %w", err)
	}
	if ack.Error != nil {
		return fmt.Errorf("the server refused a batch: %s (%d)", ack.Error.Description, ack.Error.Code)
	}
	return nil
}
