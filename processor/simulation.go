package processor

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/weirstream/weir/tenants"
)

// SimulationConfig configures a Simulation. Broker, Clock, Topology and Tenant are required.
type SimulationConfig struct {
	// Seed decides everything that happens: the same seed, configuration and code give the same run.
	Seed uint64
	// Broker is what the workers talk to: processortest's Memory, with Clock as its clock.
	Broker   Broker
	Clock    *SimulationClock
	Topology *Topology
	Tenant   tenants.ID
	Job      JobConfig
	// Workers is how many workers contend for the job. Zero: 2.
	Workers int
	// Faults is how many crashes, pauses, takeovers, tasks stuck in user code, and lost or late requests happen at most. They stop
	// before the end, so that the run can come to rest. Zero: none.
	Faults int
	// Controls is how many savepoints, holds and stops are asked for at most. Zero: none.
	Controls int
	// Inputs are called one by one at random moments, each publishing something.
	Inputs []func() error
	// Vary draws parallelism, merging and retention anew for every attempt.
	Vary bool
	// MaxSteps bounds the run. Zero: 200,000.
	MaxSteps int

	mutant mutant
}

// mutant is a protocol error made on purpose, to show that the simulation notices it.
type mutant string

const (
	mutantDropAborted   mutant = "what an aborted checkpoint had frozen is dropped"
	mutantUnguardedHead mutant = "no compare-and-set on the head"
	mutantUnguardedPart mutant = "no guard on the marker"
	mutantReaderGap     mutant = "a gap in what a reader delivers goes unnoticed"
)

// SimulationResult says what happened.
type SimulationResult struct {
	Steps, Faults, Crashes, Attempts, Fenced, Restarts, Checkpoints, Aborted int
	Savepoints, Marks, Holds, Stops, Stuck                                   int
}

// SimulationClock is the time of a simulation.
type SimulationClock struct{ t time.Time }

// NewSimulationClock returns a clock that stands at 2000-01-01 UTC.
func NewSimulationClock() *SimulationClock {
	return &SimulationClock{time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)}
}

// Now returns the simulation's time.
func (c *SimulationClock) Now() time.Time { return c.t }

// simulation runs one job on several workers in the calling goroutine: the attempts, tasks and protocols of production, whose
// every step and every request to the broker is scheduled by a seed, and may be delayed, lost, applied late, or the last thing a
// worker does.
type simulation struct {
	cfg             SimulationConfig
	rng             *rand.Rand
	job             tenants.JobID
	needs           Needs
	workers         []*simWorker
	late            []func() // requests that the network still holds, of workers that may be gone
	inputs          []func() error
	faults          int
	controls, names int
	nonces          int
	resting         bool // everything is published and no fault is left: the run comes to its end
	drained         bool
	err             error
	result          SimulationResult
}

// Simulate runs the job until every input is processed and the job is drained. The error is one that would have stopped the job for
// good, or says that the run did not come to its end.
func Simulate(cfg SimulationConfig) (SimulationResult, error) {
	setDefault(&cfg.Workers, 2)
	setDefault(&cfg.MaxSteps, 200_000)
	cfg.Job = cfg.Job.withDefaults(cfg.Topology)
	s := &simulation{
		cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 1)), inputs: slices.Clone(cfg.Inputs),
		faults: cfg.Faults, controls: cfg.Controls, job: tenants.JobID{Tenant: cfg.Tenant, Name: cfg.Job.Name},
	}
	s.needs = cfg.Topology.Needs(s.job, cfg.Broker.Namespace())
	if err := errors.Join(cfg.Job.validate(), cfg.Job.apply(&s.needs)); err != nil {
		return s.result, err
	}
	for i := range cfg.Workers {
		s.workers = append(s.workers, &simWorker{sim: s, id: fmt.Sprintf("w%d", i+1)})
	}
	defer func() {
		for _, w := range s.workers {
			w.kill()
		}
	}()
	for !s.drained && s.err == nil {
		if s.result.Steps++; s.result.Steps > cfg.MaxSteps {
			return s.result, fmt.Errorf("seed %d: the job has not come to rest after %d steps: %s", cfg.Seed, cfg.MaxSteps, s.describe())
		}
		s.step()
	}
	return s.result, s.err
}

// step lets one thing happen.
func (s *simulation) step() {
	var choices []func()
	for _, w := range s.workers {
		choices = w.choices(choices)
	}
	for i := range s.late {
		choices = append(choices, func() {
			f := s.late[i]
			s.late = slices.Delete(s.late, i, i+1)
			f()
		})
	}
	if len(s.inputs) > 0 {
		choices = append(choices, s.publish)
	}
	if !s.resting && len(s.inputs) == 0 && s.faults == 0 {
		s.rest()
	}
	if f := s.disturb(); f != nil {
		choices = append(choices, f)
	}
	if f := s.control(); f != nil {
		choices = append(choices, f)
	}
	// Time passes when nothing else can happen, and now and then anyway.
	if len(choices) == 0 || s.rng.IntN(20) == 0 {
		s.advance(len(choices) == 0)
		return
	}
	choices[s.rng.IntN(len(choices))]()
}

func (s *simulation) publish() {
	f := s.inputs[0]
	s.inputs = s.inputs[1:]
	if err := f(); err != nil {
		s.err = err
	}
}

// disturb returns a fault, or nil when there is to be none now.
func (s *simulation) disturb() func() {
	if s.resting || s.faults == 0 || s.rng.IntN(25) != 0 {
		return nil
	}
	w := s.workers[s.rng.IntN(len(s.workers))]
	return func() {
		s.fault()
		switch {
		case w.att == nil:
			w.begin()
		case w.frozen:
			w.frozen = false
		case s.rng.IntN(2) == 0:
			w.frozen = true
		case len(w.hosts) > 0 && s.rng.IntN(4) == 0:
			w.hosts[s.rng.IntN(len(w.hosts))].stick()
		default:
			s.result.Crashes++
			w.kill()
		}
	}
}

// fault counts one.
func (s *simulation) fault() {
	s.faults--
	s.result.Faults++
}

// unlucky reports whether a request meets a fault.
func (s *simulation) unlucky() bool {
	if s.resting || s.faults == 0 || s.rng.IntN(30) != 0 {
		return false
	}
	s.fault()
	return true
}

// rest ends the faults: everybody is awake, and whoever owns the job then takes a last checkpoint once it has read everything.
func (s *simulation) rest() {
	s.resting = true
	for _, w := range s.workers {
		w.frozen = false
	}
}

// advance moves the clock: to the next moment that somebody waits for if nothing else can happen, or a little.
func (s *simulation) advance(jump bool) {
	var next time.Time
	for _, w := range s.workers {
		next = w.nextWake(next)
	}
	now := s.cfg.Clock.t
	if (jump || s.stuck()) && next.After(now) {
		s.cfg.Clock.t = next // who waits for user code that does not return has little else to do
	} else {
		s.cfg.Clock.t = now.Add(time.Duration(1 + s.rng.IntN(int(20*time.Millisecond))))
	}
	s.staff()
}

// staff starts an attempt somewhere when nobody runs one, and drains the owner at the end.
func (s *simulation) staff() {
	running := 0
	for _, w := range s.workers {
		if w.att != nil {
			running++
		}
	}
	switch {
	case running == 0:
		s.workers[s.rng.IntN(len(s.workers))].begin()
	case s.resting:
		for _, w := range s.workers {
			if w.att != nil && w.idle() && !w.att.draining {
				w.events = append(w.events, ctlDrain{})
			}
		}
	}
}

// ended hears why an attempt ended.
func (s *simulation) ended(err error) {
	switch {
	case errors.Is(err, errDrained):
		s.drained = s.resting
	case errors.Is(err, errStopped):
	case ClassOf(err) == ClassFenced:
		s.result.Fenced++
	case ClassOf(err) == ClassTerminal:
		s.err = fmt.Errorf("seed %d: %w", s.cfg.Seed, err)
	default:
		s.result.Restarts++
		if isStuck(err) {
			s.result.Stuck++
		}
	}
}

func (s *simulation) describe() string {
	text := fmt.Sprintf("%d inputs and %d faults left", len(s.inputs), s.faults)
	for _, w := range s.workers {
		text += "; " + w.describe()
	}
	return text
}
