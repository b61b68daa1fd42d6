package processor

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/weirstream/weir/tenants"
)

// RuntimeConfig configures a Runtime. Broker is required; every other field's zero value has a sensible meaning.
type RuntimeConfig struct {
	// Broker is where streams, snapshots and the commit log live: a *jetstream.Broker, or processortest's.
	Broker Broker
	// Worker is this process's identity. It must be unique among live processes. A process that comes back under the ID of its
	// dead predecessor takes its jobs over at once; with a new ID it waits for TakeoverAfter. Zero: random.
	Worker string
	// Logger receives lifecycle events, nothing per record. nil discards.
	Logger *slog.Logger
	// Listener hears of checkpoints and job states. Its functions are called from the job's own goroutine and must return soon.
	Listener Listener
	// HeartbeatInterval is how often this worker says that it lives. Zero: 2 s.
	HeartbeatInterval time.Duration
	// TakeoverAfter is how long another worker's heartbeat must stand still before its jobs are taken over. It trades speed of
	// failover against needless takeovers; safety does not depend on it. Zero: 10 s. At least 2 heartbeat intervals.
	TakeoverAfter time.Duration
	// StandbyInterval is how often a standby looks at a job that another worker owns. Zero: 1 s.
	StandbyInterval time.Duration
	// MaxJobs bounds the number of jobs in this process. Zero: no bound.
	MaxJobs int
	// MaxStarting bounds how many jobs start at the same time, so that thousands that start together, or come back after the broker
	// was away, do not time each other out. Zero: 32.
	MaxStarting int
	// Topologies are what this worker runs without a deployment in code: every job of every tenant whose intent names one of them.
	// A job that only Deploy names runs on the workers that call it, since they alone know its parameters.
	Topologies []*Topology
	// JobConfig returns what a job starts from that no code deploys here: a fork, one that another program deployed. What its
	// intent says goes on top. nil: the zero JobConfig.
	JobConfig func(t *Topology, job tenants.JobID) JobConfig
}

func (c RuntimeConfig) withDefaults() RuntimeConfig {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&c.HeartbeatInterval, 2*time.Second)
	setDefault(&c.TakeoverAfter, 10*time.Second)
	setDefault(&c.StandbyInterval, time.Second)
	setDefault(&c.MaxStarting, 32)
	return c
}

func setDefault[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// Validate reports all problems at once.
func (c RuntimeConfig) Validate() error {
	var errs []error
	if c.Broker == nil {
		errs = append(errs, errors.New("RuntimeConfig.Broker is nil: pass what jetstream.New returned"))
	}
	if c.HeartbeatInterval < 0 || c.TakeoverAfter < 0 || c.StandbyInterval < 0 || c.MaxJobs < 0 || c.MaxStarting < 0 {
		errs = append(errs, errors.New("RuntimeConfig: intervals, MaxJobs and MaxStarting must not be negative"))
	}
	if c.Worker != "" {
		if err := tenants.ID(c.Worker).Validate(); err != nil {
			errs = append(errs, fmt.Errorf("RuntimeConfig.Worker: %w", err))
		}
	}
	names := map[string]bool{}
	for _, t := range c.Topologies {
		switch {
		case t == nil:
			errs = append(errs, errors.New("RuntimeConfig.Topologies holds a nil: Build returned an error that was not handled"))
		case names[t.Name()]:
			errs = append(errs, fmt.Errorf("RuntimeConfig.Topologies holds two topologies of the name %s", t.Name()))
		default:
			names[t.Name()] = true
		}
	}
	d := c.withDefaults()
	if d.TakeoverAfter < 2*d.HeartbeatInterval {
		errs = append(errs, fmt.Errorf("RuntimeConfig.TakeoverAfter is %s: use at least twice HeartbeatInterval (%s), or live workers lose their jobs", d.TakeoverAfter, d.HeartbeatInterval))
	}
	return errors.Join(errs...)
}

// BarrierMode says how barriers reach the sources.
type BarrierMode string

const (
	// BarriersDefault: in the stream where Weir created it, at the reader elsewhere.
	BarriersDefault BarrierMode = ""
	// BarriersInStream publishes barriers into every input stream of the job.
	BarriersInStream BarrierMode = "in-stream"
	// BarriersAtReader injects barriers at the reading positions and publishes none.
	BarriersAtReader BarrierMode = "at-reader"
)

// CheckpointConfig says when a job checkpoints.
type CheckpointConfig struct {
	// Interval is the time between the starts of two checkpoints; with exactly-once sinks it is also the latency of results.
	// Zero: 5 s. At least 10 ms.
	Interval time.Duration
	// Timeout aborts a checkpoint that has not been acknowledged by all tasks. Zero: 60 s.
	Timeout time.Duration
	// MinPause is the least time between the end of one checkpoint and the start of the next. Zero: none.
	MinPause time.Duration
	// TolerableFailures is how many checkpoints in a row may fail before the job restarts. Zero: 3; negative: none.
	TolerableFailures int
	// Retained is how many committed checkpoints are kept. Zero: 3.
	Retained int
	// Barriers says how barriers reach the sources.
	Barriers BarrierMode
}

func (c CheckpointConfig) withDefaults() CheckpointConfig {
	setDefault(&c.Interval, 5*time.Second)
	setDefault(&c.Timeout, 60*time.Second)
	setDefault(&c.TolerableFailures, 3)
	setDefault(&c.Retained, 3)
	c.TolerableFailures = max(c.TolerableFailures, 0)
	return c
}

func (c CheckpointConfig) validate() (errs []error) {
	if c.Interval < 10*time.Millisecond {
		errs = append(errs, fmt.Errorf("checkpoint interval is %s: use at least 10ms", c.Interval))
	}
	if c.Timeout < 100*time.Millisecond {
		errs = append(errs, fmt.Errorf("checkpoint timeout is %s: use at least 100ms", c.Timeout))
	}
	if c.MinPause < 0 {
		errs = append(errs, errors.New("checkpoint min pause is negative"))
	}
	if c.Retained < 1 || c.Retained > 100 {
		errs = append(errs, fmt.Errorf("retained checkpoints is %d: use 1 to 100", c.Retained))
	}
	switch c.Barriers {
	case BarriersDefault, BarriersInStream, BarriersAtReader:
	default:
		errs = append(errs, fmt.Errorf("barriers is %q: use %q, %q or leave it empty", c.Barriers, BarriersInStream, BarriersAtReader))
	}
	return errs
}

// RestartConfig says what happens after a failure that a restart may mend. Waiting times grow exponentially with jitter.
type RestartConfig struct {
	// First is the wait before the first restart. Zero: 200 ms.
	First time.Duration
	// Max bounds the wait. Zero: 30 s.
	Max time.Duration
	// Attempts is how many restarts in a row, without a completed checkpoint between them, park the job. Zero: 10.
	Attempts int
}

func (c RestartConfig) withDefaults() RestartConfig {
	setDefault(&c.First, 200*time.Millisecond)
	setDefault(&c.Max, 30*time.Second)
	setDefault(&c.Attempts, 10)
	return c
}

// MaxParallelism bounds a job's parallelism and key groups.
const MaxParallelism = 4096

// JobConfig is what differs between two deployments of a topology.
type JobConfig struct {
	// Name of the job. Zero: the topology's name.
	Name string
	// Parallelism is the number of subtasks of each keyed operator, inside this process. Zero: 1.
	Parallelism int
	// KeyGroups bounds the parallelism for the whole life of the job's state; it is fixed by the first checkpoint. Zero: 128.
	KeyGroups int
	// Params sets the topology's parameters for this tenant, by name.
	Params map[string]any
	// Checkpoint, Restart and Quota: see there.
	Checkpoint CheckpointConfig
	Restart    RestartConfig
	// Marks says whether messages in the input streams may ask for savepoints, see HeaderMark.
	Marks MarkConfig
	Quota tenants.Quota
	// Streams names the stream of a source or sink where subjects alone do not decide it, by operator name.
	Streams map[string]string
	// AllowDataLoss goes on where an input stream was recreated, rolled back or trimmed, from the nearest record that exists.
	// It is recorded in every manifest.
	AllowDataLoss bool
	// AllowDroppedState drops state of operators and descriptors that the topology no longer has.
	AllowDroppedState bool
	// Start is where the job starts, once; zero: where it ended. What an operator asked for since goes before it.
	Start StartPoint
	// Shadow is a relative subject prefix that everything the job's sinks publish goes under, markers too; KV sinks put it before their
	// keys. It stays for the job's life: a marker does not move.
	Shadow string
	// MergeAfter is the number of deltas after which a chain is merged into a new base, whatever their size. Zero: 20.
	MergeAfter int
}

func (c JobConfig) withDefaults(t *Topology) JobConfig {
	if c.Name == "" {
		c.Name = t.Name()
	}
	setDefault(&c.Parallelism, 1)
	setDefault(&c.KeyGroups, 128)
	setDefault(&c.MergeAfter, 20)
	c.Checkpoint = c.Checkpoint.withDefaults()
	c.Restart = c.Restart.withDefaults()
	c.Marks = c.Marks.withDefaults()
	c.Quota = c.Quota.WithDefaults()
	return c
}

func (c JobConfig) validate() error {
	errs := append(c.Checkpoint.validate(), c.Marks.validate()...)
	errs = append(errs, c.Start.validate(c.Name)...)
	if err := tenants.ValidateName("job", c.Name); err != nil {
		errs = append(errs, err)
	}
	if c.KeyGroups < 1 || c.KeyGroups > MaxParallelism {
		errs = append(errs, fmt.Errorf("key groups is %d: use 1 to %d", c.KeyGroups, MaxParallelism))
	}
	if c.Parallelism < 1 || c.Parallelism > c.KeyGroups {
		errs = append(errs, fmt.Errorf("parallelism is %d: use 1 to the number of key groups (%d)", c.Parallelism, c.KeyGroups))
	}
	if c.Restart.First < 0 || c.Restart.Max < c.Restart.First || c.Restart.Attempts < 1 {
		errs = append(errs, errors.New("restart: First must not be negative, Max at least First, Attempts at least 1"))
	}
	if c.MergeAfter < 1 {
		errs = append(errs, errors.New("merge after: at least 1"))
	}
	return errors.Join(append(errs, c.Quota.Validate())...)
}

// apply puts what the configuration says of streams and barriers into the topology's needs.
func (c JobConfig) apply(n *Needs) error {
	known := map[string]bool{}
	var errs []error
	for i := range n.Sources {
		s := &n.Sources[i]
		known[s.Source] = true
		if s.Bucket != "" {
			errs = append(errs, c.checkRules(s, n.Sinks)...)
			continue
		}
		if stream := c.Streams[s.Source]; stream != "" {
			s.Stream = stream
		}
		s.InStream = s.InStream || c.Checkpoint.Barriers == BarriersInStream
	}
	for i := range n.Sinks {
		s := &n.Sinks[i]
		known[s.Sink] = true
		if stream := c.Streams[s.Sink]; stream != "" {
			s.Stream = stream
		}
		if !s.DeadLetters {
			s.Shadow = c.Shadow
		}
	}
	if err := checkShadow(c.Shadow, n.Sources); err != nil {
		errs = append(errs, err)
	}
	for _, name := range sortedKeys(c.Streams) {
		if !known[name] {
			errs = append(errs, fmt.Errorf("JobConfig.Streams names %q, which is no source or sink of the topology", name))
		}
	}
	return errors.Join(errs...)
}

// encodeParams turns the user's values into the JSON text that the manifest keeps and the topology validates.
func encodeParams(params map[string]any) (map[string]json.RawMessage, error) {
	out := make(map[string]json.RawMessage, len(params))
	for name, v := range params {
		b, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("encoding parameter %s: %w", name, err)
		}
		out[name] = b
	}
	return out, nil
}
