package processortest

import (
	"fmt"
	"maps"
	"slices"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// Input is a message that a publisher sends while the simulation runs.
type Input struct {
	Subject string // relative to the tenant
	Header  map[string][]string
	Data    []byte
	// Bucket is the KV bucket that the message goes to instead of the tenant's stream. Subject is then the key, as Simulation.Buckets has it,
	// and without Data it is deleted.
	Bucket string
}

// Simulation runs a whole topology for one tenant on a broker in memory, on several workers that crash, stall and take the job
// over from each other, over a network that delays and loses requests and answers. It is deterministic: a seed replays.
// Everything happens in the calling goroutine, in simulated time.
//
// Exactly once means: whatever the seed, the results are those of an undisturbed run (Faults: 0).
type Simulation struct {
	Topology *processor.Topology
	Tenant   tenants.ID // zero: "test"
	Job      processor.JobConfig
	Inputs   []Input
	// Buckets are the KV buckets that exist, with what they hold at the beginning. Keys are whole ones: "test.apples" for a tenant's row.
	Buckets map[string]map[string]string
	// Seed decides everything. Print it when a check fails.
	Seed uint64
	// Workers that contend for the job. Zero: 2.
	Workers int
	// Faults at most. Zero: none.
	Faults int
	// Controls is how many savepoints, holds and stops are asked for at most while it runs. Zero: none.
	Controls int
}

// SimulationRun is a finished simulation.
type SimulationRun struct {
	processor.SimulationResult
	Broker *Memory
	tenant tenants.ID
}

// Run runs the simulation until every input is processed, every result published and the job drained. The error names the seed.
func (s Simulation) Run() (*SimulationRun, error) {
	if s.Tenant == "" {
		s.Tenant = "test"
	}
	clock := processor.NewSimulationClock()
	run := &SimulationRun{Broker: NewMemory(tenants.DefaultNamespace, clock.Now), tenant: s.Tenant}
	run.Broker.AddStream(string(s.Tenant), string(s.Tenant)+".>")
	for _, bucket := range slices.Sorted(maps.Keys(s.Buckets)) {
		run.Broker.AddBucket(bucket)
		for _, key := range slices.Sorted(maps.Keys(s.Buckets[bucket])) {
			if _, err := run.Broker.PutKey(bucket, key, []byte(s.Buckets[bucket][key])); err != nil {
				return run, err
			}
		}
	}
	cfg := processor.SimulationConfig{
		Seed: s.Seed, Broker: run.Broker, Clock: clock, Topology: s.Topology, Tenant: s.Tenant, Job: s.Job,
		Workers: s.Workers, Faults: s.Faults, Controls: s.Controls,
	}
	for _, in := range s.Inputs {
		cfg.Inputs = append(cfg.Inputs, func() (err error) {
			switch {
			case in.Bucket != "" && in.Data == nil:
				_, err = run.Broker.DeleteKey(in.Bucket, in.Subject)
				return err
			case in.Bucket != "":
				_, err = run.Broker.PutKey(in.Bucket, in.Subject, in.Data)
				return err
			}
			_, err = run.Broker.PublishTo(tenants.DefaultNamespace.Absolute(s.Tenant, in.Subject), in.Header, in.Data)
			return err
		})
	}
	var err error
	if run.SimulationResult, err = processor.Simulate(cfg); err != nil {
		return run, fmt.Errorf("simulating topology %s: %w", s.Topology.Name(), err)
	}
	return run, nil
}

// Messages returns what was published under a relative subject filter, in order; barriers and markers are left out.
func (r *SimulationRun) Messages(filter tenants.Filter) []processor.Record {
	var out []processor.Record
	prefix := tenants.DefaultNamespace.Prefix(r.tenant)
	for _, m := range r.Broker.Messages(string(r.tenant), prefix+string(filter)) {
		if !isOwn(m) {
			out = append(out, m)
		}
	}
	return out
}

// KV returns the current entries of a KV bucket under this tenant, by key.
func (r *SimulationRun) KV(bucket string) map[string][]byte {
	out := map[string][]byte{}
	prefix := "$KV." + bucket + "." + string(r.tenant) + "."
	for _, m := range r.Broker.Messages("KV_"+bucket, prefix+">") {
		key := m.Subject[len(prefix):]
		if len(m.Header["KV-Operation"]) > 0 {
			delete(out, key)
			continue
		}
		out[key] = m.Data
	}
	return out
}

// DeadLetters returns what was dead-lettered.
func (r *SimulationRun) DeadLetters() []processor.Record {
	var out []processor.Record
	for _, m := range r.Broker.Messages("WEIR_DLQ", "weir.dlq."+string(r.tenant)+".>") {
		if !isOwn(m) {
			out = append(out, m)
		}
	}
	return out
}
