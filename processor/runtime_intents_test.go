package processor_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/processor/processortest"
	"github.com/weirstream/weir/tenants"
)

// A worker without a single deployment runs what should run, and leaves alone what it cannot run, or not read.
func TestAWorkerRunsWhatShouldRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme", "globex")
		m.PutIntent(tenants.JobID{Tenant: "acme", Name: "broken"}, []byte(`{"version":9}`))
		m.PutIntent(tenants.JobID{Tenant: "globex", Name: "odd"}, []byte(`no JSON`))
		write := func(tenant, job, topology, desired string) {
			must[uint64](t)(m.WriteIntent(t.Context(), &processor.Intent{Tenant: tenant, Job: job, Topology: topology, Desired: desired}, 0))
		}
		write("acme", "counting", "counting", processor.DesiredRunning)
		write("acme", "halted", "counting", processor.DesiredStopped)
		write("acme", "elsewhere", "unheard-of", processor.DesiredRunning)
		w := fleetWorker(t, m, "w1", counting(t, nil))
		w.run()
		time.Sleep(time.Second)
		write("globex", "counting", "counting", processor.DesiredRunning)
		m.PutIntent(tenants.JobID{Tenant: "globex", Name: "odd"}, []byte(`{"version":1,"tenant":"acme"}`))
		publishWords(t, m, "acme", "a")
		publishWords(t, m, "globex", "b")
		time.Sleep(time.Second)
		if n := len(w.rt.Hosted()); n != 3 {
			t.Errorf("%d jobs are hosted, want 3", n)
		}
		states := map[string]processor.JobState{}
		for _, rep := range must[[]processor.JobReport](t)(w.rt.Jobs(t.Context(), "")) {
			states[rep.Tenant+"/"+rep.Job] = rep.State
			if (rep.Job == "broken" || rep.Job == "odd") && rep.Reason == "" {
				t.Errorf("nothing says why %s does not run: %+v", rep.Job, rep)
			}
		}
		want := map[string]processor.JobState{
			"acme/broken": processor.JobStarting, "globex/odd": processor.JobStarting, "acme/counting": processor.JobRunning,
			"acme/halted": processor.JobStopped, "acme/elsewhere": processor.JobStarting, "globex/counting": processor.JobRunning,
		}
		if fmt.Sprint(states) != fmt.Sprint(want) {
			t.Errorf("the jobs are %v, want %v", states, want)
		}
		if list := must[[]processor.JobReport](t)(w.rt.Jobs(t.Context(), "globex")); len(list) != 2 {
			t.Errorf("globex has %+v", list)
		}
		_, err := w.rt.Stop(t.Context(), tenants.JobID{Tenant: "acme", Name: "broken"}, processor.StopRequest{})
		wantReason(t, err, processor.ReasonIncompatible)
		_, err = w.rt.Start(t.Context(), tenants.JobID{Tenant: "acme", Name: "elsewhere"}, processor.StartRequest{})
		wantReason(t, err, processor.ReasonNotFound)
		// Repaired, they run.
		in := &processor.Intent{Tenant: "acme", Job: "broken", Topology: "counting", Desired: processor.DesiredRunning}
		_, rev, _ := m.ReadIntent(t.Context(), in.ID())
		must[uint64](t)(m.WriteIntent(t.Context(), in, rev))
		time.Sleep(time.Second)
		wantState(t, w.job(t, in.ID()), processor.JobRunning)
		w.crash(t)
		checkCounts(t, m, "globex", map[string]int64{"b": 1})
	})
}

// An intent that becomes unreadable, or is removed by hand, changes nothing of a job that runs.
func TestALostIntentStopsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		w, j := startCounting(t, m)
		time.Sleep(time.Second)
		for _, value := range []string{`{"version":9}`, ""} {
			if value == "" {
				m.PutIntent(countingJob, nil)
			} else {
				m.PutIntent(countingJob, []byte(value))
			}
			publishWords(t, m, "acme", "a")
			time.Sleep(5 * time.Second)
			if s := j.Status(); s.State != processor.JobRunning || s.Epoch != 1 {
				t.Fatalf("the job is %s in epoch %d", s.State, s.Epoch)
			}
		}
		must[processor.StopReport](t)(w.rt.Stop(t.Context(), countingJob, processor.StopRequest{}))
		if in, _ := intentOf(t, m, countingJob); in.Desired != processor.DesiredStopped {
			t.Errorf("the intent is %+v", in)
		}
		w.crash(t)
		checkCounts(t, m, "acme", map[string]int64{"a": 2})
	})
}

func TestMaxJobsHoldsForIntents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		for i := range 5 {
			in := &processor.Intent{Tenant: "acme", Job: fmt.Sprintf("job%d", i), Topology: "counting", Desired: processor.DesiredRunning}
			must[uint64](t)(m.WriteIntent(t.Context(), in, 0))
		}
		rt, err := processor.NewRuntime(processor.RuntimeConfig{Broker: m, Worker: "w1", MaxJobs: 3, Topologies: []*processor.Topology{counting(t, nil)}})
		if err != nil {
			t.Fatal(err)
		}
		w := &worker{rt: rt, done: make(chan error, 1)}
		w.run()
		time.Sleep(time.Second)
		if n := len(rt.Hosted()); n != 3 {
			t.Errorf("%d jobs are hosted", n)
		}
		w.crash(t)
	})
}

// tally counts what a worker asks of intents.
type tally struct {
	*processortest.Memory
	watches, reads, writes atomic.Int64
}

func (c *tally) WatchIntents(ctx context.Context, each func(processor.IntentRecord), ready func()) error {
	c.watches.Add(1)
	return c.Memory.WatchIntents(ctx, each, ready)
}

func (c *tally) ReadIntent(ctx context.Context, job tenants.JobID) (*processor.Intent, uint64, error) {
	c.reads.Add(1)
	return c.Memory.ReadIntent(ctx, job)
}

func (c *tally) WriteIntent(ctx context.Context, in *processor.Intent, expected uint64) (uint64, error) {
	c.writes.Add(1)
	return c.Memory.WriteIntent(ctx, in, expected)
}

// A thousand jobs are one watch: nothing is asked for each job while nothing changes.
func TestAThousandIntents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const jobs = 1000
		m := &tally{Memory: newMemory("acme")}
		for i := range jobs {
			in := &processor.Intent{Tenant: "acme", Job: fmt.Sprintf("job%d", i), Topology: "counting", Desired: processor.DesiredStopped}
			if i%100 == 0 {
				in.Desired = processor.DesiredRunning
			}
			must[uint64](t)(m.Memory.WriteIntent(t.Context(), in, 0))
		}
		w := fleetWorker(t, m, "w1", counting(t, nil))
		w.run()
		time.Sleep(time.Minute)
		count := map[processor.JobState]int{}
		for _, j := range w.rt.Hosted() {
			count[j.Status().State]++
		}
		if count[processor.JobRunning] != jobs/100 || count[processor.JobStopped] != jobs-jobs/100 {
			t.Errorf("the jobs are %v", count)
		}
		if m.watches.Load() != 1 || m.reads.Load() != 0 || m.writes.Load() != 0 {
			t.Errorf("%d watches, %d reads and %d writes of intents", m.watches.Load(), m.reads.Load(), m.writes.Load())
		}
		if list := must[[]processor.JobReport](t)(w.rt.Jobs(t.Context(), "acme")); len(list) != jobs {
			t.Errorf("%d jobs are listed", len(list))
		}
		w.crash(t)
	})
}

// meddler lets somebody else change the intent right before each write.
type meddler struct {
	*processortest.Memory
	t *testing.T
}

func (b *meddler) WriteIntent(ctx context.Context, in *processor.Intent, expected uint64) (uint64, error) {
	if old, rev, err := b.Memory.ReadIntent(ctx, in.ID()); err == nil && old != nil {
		if _, err := b.Memory.WriteIntent(ctx, old, rev); err != nil {
			b.t.Error(err)
		}
	}
	return b.Memory.WriteIntent(ctx, in, expected)
}

func TestTheLoserOfTwoRequestsIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		w := startWorker(t, &meddler{m, t}, "w1", processor.Listener{})
		j := w.deploy(t, counting(t, nil), "acme", processor.JobConfig{})
		w.run()
		time.Sleep(time.Second)
		two := 2
		_, err := w.rt.Stop(t.Context(), countingJob, processor.StopRequest{})
		wantReason(t, err, processor.ReasonConflict)
		_, err = w.rt.Start(t.Context(), countingJob, processor.StartRequest{Config: &processor.ConfigPatch{Parallelism: &two}})
		wantReason(t, err, processor.ReasonConflict)
		wantReason(t, w.rt.Delete(t.Context(), countingJob, processor.DeleteRequest{Confirm: "counting"}), processor.ReasonConflict)
		time.Sleep(time.Second)
		if s := j.Status(); s.State != processor.JobRunning || s.Epoch != 1 {
			t.Errorf("the job is %s in epoch %d", s.State, s.Epoch)
		}
		w.crash(t)
	})
}

// Stops, starts and rescales of one job from many sides at once: each is carried out or refused, and the job ends as it was asked last.
func TestManyRequestsForOneJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		w, _ := startCounting(t, m)
		time.Sleep(time.Second)
		want := map[string]int64{}
		for i := range 20 {
			done := make(chan error, 8)
			for k := range 8 {
				go func() {
					var err error
					switch n := 1 + (i+k)%4; k % 3 {
					case 0:
						_, err = w.rt.Stop(t.Context(), countingJob, processor.StopRequest{})
					case 1:
						_, err = w.rt.Start(t.Context(), countingJob, processor.StartRequest{})
					default:
						_, err = w.rt.Start(t.Context(), countingJob, processor.StartRequest{Config: &processor.ConfigPatch{Parallelism: &n}})
					}
					done <- err
				}()
			}
			word := fmt.Sprintf("w%d", i%5)
			want[word]++
			publishWords(t, m, "acme", word)
			for range 8 {
				var refused *processor.ControlError
				if err := <-done; err != nil && (!errors.As(err, &refused) || refused.Reason != processor.ReasonConflict && refused.Reason != processor.ReasonNotRunning) {
					t.Errorf("round %d: %v", i, err)
				}
			}
		}
		must[processor.JobReport](t)(w.rt.Start(t.Context(), countingJob, processor.StartRequest{}))
		time.Sleep(2 * time.Second)
		wantState(t, w.job(t, countingJob), processor.JobRunning)
		w.crash(t)
		checkCounts(t, m, "acme", want)
	})
}

// What code deploys for one tenant makes a worker run neither other tenants' jobs nor other jobs of the topology, since their parameters are
// unknown here; but forks of what it deploys, also those heard of before the deployment.
func TestAWorkerThatDeploysLeavesOtherJobsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme", "globex")
		for _, in := range []*processor.Intent{
			{Tenant: "globex", Job: "counting", Topology: "counting", Desired: processor.DesiredRunning},
			{Tenant: "acme", Job: "other", Topology: "counting", Desired: processor.DesiredRunning},
			{Tenant: "globex", Job: "copy", Topology: "counting", Desired: processor.DesiredRunning, ForkOf: "counting"},
			{Tenant: "acme", Job: "copy", Topology: "counting", Desired: processor.DesiredRunning, ForkOf: "counting"},
			{Tenant: "acme", Job: "second", Topology: "counting", Desired: processor.DesiredRunning, ForkOf: "copy"},
		} {
			must[uint64](t)(m.WriteIntent(t.Context(), in, 0))
		}
		w := startWorker(t, m, "w1", processor.Listener{})
		w.run()
		time.Sleep(time.Second)
		if n := len(w.rt.Hosted()); n != 0 {
			t.Errorf("%d jobs are hosted", n)
		}
		w.deploy(t, counting(t, nil), "acme", processor.JobConfig{})
		time.Sleep(time.Second)
		var got []string
		for _, j := range w.rt.Hosted() {
			wantState(t, j, processor.JobRunning)
			got = append(got, j.ID().String())
		}
		if fmt.Sprint(got) != "[acme/copy acme/counting acme/second]" {
			t.Errorf("hosted are %v", got)
		}
		w.crash(t)
	})
}

// A job that runs by its intent becomes the program's when that deploys it, with the program's configuration under the intent's.
func TestADeploymentAdoptsAHostedJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		must[uint64](t)(m.WriteIntent(t.Context(), &processor.Intent{Tenant: "acme", Job: "counting", Topology: "counting", Desired: processor.DesiredRunning}, 0))
		w := fleetWorker(t, m, "w1", counting(t, nil))
		w.run()
		publishWords(t, m, "acme", "a")
		time.Sleep(time.Second)
		hosted := w.job(t, countingJob)
		wantState(t, hosted, processor.JobRunning)
		j := w.deploy(t, counting(t, nil), "acme", processor.JobConfig{Parallelism: 3})
		if j != hosted {
			t.Error("the job is hosted twice")
		}
		publishWords(t, m, "acme", "a")
		time.Sleep(2 * time.Second)
		if s := j.Status(); s.State != processor.JobRunning || s.Parallelism != 3 {
			t.Errorf("the job is %s at parallelism %d", s.State, s.Parallelism)
		}
		if _, err := w.rt.Deploy(t.Context(), counting(t, nil), "acme", processor.JobConfig{}); err == nil {
			t.Error("the job was deployed twice")
		}
		w.crash(t)
		checkCounts(t, m, "acme", map[string]int64{"a": 2})
	})
}
