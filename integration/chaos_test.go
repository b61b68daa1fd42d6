//go:build unix

package integration_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/tenants"
)

var (
	chaosDuration = flag.Duration("chaos.duration", 10*time.Second, "TestChaos: how long each of its runs is disturbed")
	chaosSeed     = flag.Uint64("chaos.seed", 0, "TestChaos: seed of the disturbances; 0: as -seed")
)

// chaosRecords is how many records a run has at least.
const chaosRecords = 30_000

// chaosNamespace is the shared layout: one stream holds all tenants.
const chaosNamespace = "events.{tenant}"

// TestChaos runs jobs in two worker processes on three server processes (R3) and disturbs all of them. The verdict per tenant says
// what was lost (prefix, middle, tail), duplicated, reordered, leaked or in a wrong state: nothing.
func TestChaos(t *testing.T) {
	t.Run("generated", func(t *testing.T) {
		run := newChaosRun(t)
		run.generate([]string{"acme", "globex", "initech", "umbrella"}, chaosRecords)
		run.run()
	})
	t.Run("flights", func(t *testing.T) {
		flights := realFlights(t)
		run := newChaosRun(t)
		for _, f := range flights {
			if run.hist[f.tenant] == nil {
				run.add(newFlightHistory(f.tenant))
			}
		}
		run.generate([]string{"acme", "globex"}, max(0, chaosRecords-len(flights)))
		// In turns, so that all tenants have input to the end.
		generated := run.todo
		run.todo = nil
		for len(flights)+len(generated) > 0 {
			n, m := min(20, len(flights)), min(10, len(generated))
			run.todo = append(append(run.todo, flights[:n]...), generated[:m]...)
			flights, generated = flights[n:], generated[m:]
		}
		run.run()
	})
}

type chaosRun struct {
	*cluster
	seed    uint64
	rng     *rand.Rand
	ns      tenants.Namespace
	hist    map[string]*history
	todo    []addressed
	workers []*process
	faults  int // that may make a worker's heartbeat stand still
	began   time.Time
}

func newChaosRun(t *testing.T) *chaosRun {
	seed := *chaosSeed
	if seed == 0 {
		seed = newSeed(t)
	}
	t.Logf("chaos seed %d", seed)
	ns, err := tenants.NewNamespace(chaosNamespace)
	ok(t, err)
	return &chaosRun{cluster: startCluster(t, 3), seed: seed, rng: newRand(seed), ns: ns, hist: map[string]*history{}, began: time.Now()}
}

func (r *chaosRun) add(h *history) { r.hist[h.tenant] = h }

func (r *chaosRun) generate(names []string, records int) {
	for _, name := range names {
		r.add(newHistory(name))
	}
	for range records {
		name := names[r.rng.IntN(len(names))]
		in := newEvent(name, keyName(r.rng.IntN(200)), uint64(r.rng.IntN(1_000_000)))
		if r.rng.IntN(500) == 0 {
			in = input{"in.garbage", fmt.Appendf(nil, "garbage %d", r.rng.Uint64())}
		}
		r.todo = append(r.todo, addressed{name, in})
	}
}

func (r *chaosRun) run() {
	r.create(js.StreamConfig{
		Name: "events", Subjects: []string{"events.>"}, Metadata: map[string]string{"weir.owner": "weir"}, Replicas: 3,
		AllowAtomicPublish: true, AllowMsgTTL: true, AllowDirect: true, Discard: js.DiscardNew,
	})
	for i := range 2 {
		p := newProcess(r.t, r.dir, fmt.Sprintf("w%d", i+1), "worker", r.workerConfig(i))
		p.start(r.t)
		r.workers = append(r.workers, p)
	}
	published := make(chan error, 1)
	go func() { published <- r.publish() }()
	r.disturb()
	r.heal()
	ok(r.t, <-published)
	r.model()
	r.settle()
	r.drain()
	r.verdict()
}

func (r *chaosRun) workerConfig(i int) workerConfig {
	jobs := map[string][]string{}
	for name, h := range r.hist {
		jobs[h.job] = append(jobs[h.job], name)
	}
	for _, names := range jobs {
		slices.Sort(names)
	}
	return workerConfig{
		Name: fmt.Sprintf("w%d", i+1), URL: r.url, Namespace: chaosNamespace, Replicas: 3, Buckets: 4, Jobs: jobs,
		Interval: time.Duration(1+len(r.hist)/20) * time.Second, // so that 60 jobs on three servers leave the machine some air
	}
}

// publish spreads the input over the time of the disturbances. What was not acknowledged is sent again; the stream tells what came
// of it.
func (r *chaosRun) publish() error {
	const together = 50
	start := time.Now()
	for i := 0; i < len(r.todo); i += together {
		due := start.Add(time.Duration(float64(*chaosDuration) * float64(i) / float64(len(r.todo))))
		for time.Now().Before(due) {
			breathe(context.Background())
		}
		left := r.todo[i:min(i+together, len(r.todo))]
		for try := 0; len(left) > 0; try++ {
			if try == 100 {
				return fmt.Errorf("the input cannot be published: %d records are never acknowledged", len(left))
			}
			left = r.publishOnce(left)
		}
	}
	return nil
}

// publishOnce returns what was not acknowledged.
func (r *chaosRun) publishOnce(records []addressed) []addressed {
	futures := make([]js.PubAckFuture, len(records))
	for i, a := range records {
		futures[i], _ = r.js.PublishAsync(r.ns.Absolute(tenants.ID(a.tenant), a.subject), a.data, js.WithStallWait(10*time.Second))
	}
	var left []addressed
	late := time.After(5 * time.Second)
	for i, f := range futures {
		if f == nil {
			left = append(left, records[i])
			continue
		}
		select {
		case <-f.Ok():
		case <-f.Err():
			left = append(left, records[i])
		case <-late:
			return append(left, records[i:]...)
		}
	}
	return left
}

// model makes the histories of what is really in the stream: a publish whose answer got lost may be there or not.
func (r *chaosRun) model() {
	total := 0
	r.must("reading the input", func(ctx context.Context) error {
		total = 0
		for name, h := range r.hist {
			fresh := newHistory(name)
			if h.job == delaysName {
				fresh = newFlightHistory(name)
			}
			r.hist[name] = fresh
		}
		return readStream(context.Background(), r.js, "events", "events.*.in.>", func(m js.Msg) error {
			if len(m.Headers()["Weir-Barrier"]) > 0 {
				return nil
			}
			total++
			r.hist[strings.Split(m.Subject(), ".")[1]].apply(m.Data())
			return nil
		})
	})
	r.t.Logf("%d of %d published records are in the stream", total, len(r.todo))
	if total < len(r.todo) {
		r.t.Fatal("the server acknowledged input that is not there")
	}
}

// disturb does something bad every second or so, and everything at least once.
func (r *chaosRun) disturb() {
	kinds := []struct {
		name string
		do   func() string
	}{
		{"kill a worker", r.killWorker}, {"kill a worker at a request", r.failWorker}, {"stop a worker", r.stopWorker},
		{"leader step-down", r.stepDown}, {"leader step-down", r.stepDown}, {"kill a server", r.killServer}, {"stop a server", r.stopServer},
	}
	r.rng.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
	end := time.Now().Add(*chaosDuration)
	counts := map[string]int{}
	for i := 0; i < len(kinds) || time.Now().Before(end); i++ {
		r.sleep(300 + r.rng.IntN(900))
		k := kinds[i%len(kinds)]
		if i >= len(kinds) {
			k = kinds[r.rng.IntN(len(kinds))]
		}
		detail := k.do()
		counts[k.name]++
		if testing.Verbose() {
			r.t.Logf("%5.1fs %s %s", time.Since(r.began).Seconds(), k.name, detail)
		}
	}
	r.t.Logf("disturbances: %v", counts)
}

func (r *chaosRun) sleep(ms int) {
	<-time.After(time.Duration(ms) * time.Millisecond)
}

// victim is a worker: mostly the one that owns the jobs.
func (r *chaosRun) victim() *process {
	p := r.workers[r.rng.IntN(len(r.workers))]
	kv, err := r.js.KeyValue(context.Background(), "weir_checkpoints")
	if err != nil || r.rng.IntN(4) == 0 {
		return p
	}
	entry, err := kv.Get(context.Background(), barriers.HeadKey("acme", tallyName))
	if err != nil {
		return p
	}
	for i := range r.workers {
		if head, err := barriers.DecodeHead(entry.Value()); err == nil && head.Worker == fmt.Sprintf("w%d", i+1) {
			return r.workers[i]
		}
	}
	return p
}

func (r *chaosRun) killWorker() string {
	p := r.victim()
	r.faults++
	p.kill()
	r.sleep(r.rng.IntN(1500))
	p.cfg = r.workerConfig(slices.Index(r.workers, p))
	p.start(r.t)
	return p.cfg.(workerConfig).Name
}

// failWorker restarts a worker so that it dies at a protocol's boundary, and brings it back.
func (r *chaosRun) failWorker() string {
	p := r.victim()
	cfg := r.workerConfig(slices.Index(r.workers, p))
	healthy := cfg
	cfg.FailOp = []string{"batch.commit", "batch.body", "chunk", "publish", "api", "consumer"}[r.rng.IntN(6)]
	cfg.FailAt, cfg.FailAfter = int64(1+r.rng.IntN(60)), r.rng.IntN(2) == 0
	r.faults += 2
	p.kill()
	p.cfg = cfg
	p.start(r.t)
	select {
	case <-p.done:
	case <-time.After(2 * time.Second): // it may stand by, and never get there
		p.kill()
	}
	p.cfg = healthy
	p.start(r.t)
	return fmt.Sprintf("number %d of %s, after %t", cfg.FailAt, cfg.FailOp, cfg.FailAfter)
}

func (r *chaosRun) stopWorker() string {
	p := r.victim()
	r.faults++
	p.signal(r.t, syscall.SIGSTOP)
	ms := 500 + r.rng.IntN(4500)
	r.sleep(ms)
	p.signal(r.t, syscall.SIGCONT)
	return fmt.Sprintf("%s for %d ms", p.cfg.(workerConfig).Name, ms)
}

func (r *chaosRun) stepDown() string {
	streams := []string{"events", "KV_weir_checkpoints", "KV_weir_workers", "KV_" + tallyBucket, "WEIR_DLQ"}
	for i := range 4 {
		streams = append(streams, fmt.Sprintf("OBJ_weir_shared-%03d", i))
	}
	s := streams[r.rng.IntN(len(streams))]
	m, err := r.nc.Request("$JS.API.STREAM.LEADER.STEPDOWN."+s, nil, 2*time.Second)
	if err != nil {
		return fmt.Sprintf("of %s: %v", s, err)
	}
	return fmt.Sprintf("of %s: %.60s", s, m.Data)
}

func (r *chaosRun) killServer() string {
	p := r.servers[r.rng.IntN(len(r.servers))]
	r.faults++
	p.kill()
	r.sleep(r.rng.IntN(2500))
	p.start(r.t)
	r.ready()
	return p.cfg.(serverConfig).Name
}

func (r *chaosRun) stopServer() string {
	p := r.servers[r.rng.IntN(len(r.servers))]
	r.faults++
	p.signal(r.t, syscall.SIGSTOP)
	r.sleep(200 + r.rng.IntN(2000))
	p.signal(r.t, syscall.SIGCONT)
	return p.cfg.(serverConfig).Name
}

// heal brings everything back.
func (r *chaosRun) heal() {
	for _, p := range append(r.servers, r.workers...) {
		if !p.alive() {
			p.start(r.t)
		}
	}
	r.ready()
}

// settle waits until every result is out.
func (r *chaosRun) settle() {
	want, dead := 0, 0
	for _, h := range r.hist {
		want += h.total
		dead += len(h.dead)
	}
	deadline := time.Now().Add(2 * patience)
	for {
		var out, letters int
		r.must("counting results", func(ctx context.Context) (err error) {
			if out, err = countSubjects(ctx, r.js, "events", "events.*.out.>"); err != nil {
				return err
			}
			letters, err = countSubjects(ctx, r.js, "WEIR_DLQ", "weir.dlq.*.*")
			return err
		})
		if out >= want && letters >= dead {
			r.t.Logf("%d results and %d dead letters are out", out, letters)
			return
		}
		if time.Now().After(deadline) {
			r.t.Errorf("%d of %d results and %d of %d dead letters are out, it takes too long\nw1:\n%s\nw2:\n%s", out, want, letters, dead,
				r.workers[0].logTail(), r.workers[1].logTail())
			return
		}
		r.sleep(200)
	}
}

func (r *chaosRun) drain() {
	for _, p := range r.workers {
		p.signal(r.t, syscall.SIGTERM)
	}
	for i, p := range r.workers {
		select {
		case <-p.done:
			if code := p.cmd.ProcessState.ExitCode(); code != 0 {
				r.t.Errorf("worker %d ended with %d when it was drained:\n%s", i+1, code, p.logTail())
			}
		case <-time.After(patience):
			r.t.Errorf("worker %d does not drain:\n%s", i+1, p.logTail())
		}
	}
}

func (r *chaosRun) verdict() {
	names := make([]string, 0, len(r.hist))
	for name := range r.hist {
		names = append(names, name)
	}
	slices.Sort(names)
	results := 0
	for _, name := range names {
		h := r.hist[name]
		p := h.home()
		p.output, p.ns = "events", r.ns
		var got outcome
		r.must("reading the results of "+name, func(ctx context.Context) (err error) {
			got, err = readOutcome(ctx, r.js, p)
			return err
		})
		results += len(got.tallies)
		if wrong := h.judge(got); len(wrong) > 0 {
			r.t.Errorf("tenant %s: not exact (%d results of %d):\n%s", name, len(got.tallies), h.total, firstLines(wrong, 10))
		}
	}
	r.t.Logf("verdict over %d tenants and %d results, %s after the start", len(names), results, time.Since(r.began).Round(time.Second))
	r.takeovers()
}

var tookOver = regexp.MustCompile(`heartbeat stands still.* tenant=(\S+)`)

// takeovers counts them per job: those that no fault explains are at most one a minute.
func (r *chaosRun) takeovers() {
	counts := map[string]int{}
	for _, p := range r.workers {
		data, err := os.ReadFile(p.log)
		ok(r.t, err)
		for _, m := range tookOver.FindAllStringSubmatch(string(data), -1) {
			counts[m[1]]++
		}
	}
	most := 0
	for _, n := range counts {
		most = max(most, n)
	}
	allowed := r.faults + 1 + int(time.Since(r.began)/time.Minute)
	r.t.Logf("takeovers of one job: at most %d, with %d faults that stop a heartbeat", most, r.faults)
	if most > allowed {
		r.t.Errorf("a job was taken over %d times, %d are explained: %v", most, allowed, counts)
	}
}
