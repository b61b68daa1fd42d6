package integration_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

var historiesFlag = flag.Int("control.histories", 2, "TestControlHistories: how many random histories")

// controlSteps is how many requests a history has for each tenant, beside input and kills.
const controlSteps = 14

// TestControlHistories gives tenants' jobs random histories of savepoints, marks, stops, starts from older points, rescales, forks,
// deletions and kills, all by raw requests. Each job's results are those of the spans of input that its commits tell of, in which a
// start from a point begins a span exactly there; each savepoint is the state of exactly its positions; and the last one goes on in
// another cluster that mirrors the input.
func TestControlHistories(t *testing.T) {
	seed := newSeed(t)
	for n := range *historiesFlag {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			runControlHistory(t, seed, n, false)
		})
	}
}

// TestControlHistoryOfProcesses is one such history whose workers are processes, and whose kills are kill -9.
func TestControlHistoryOfProcesses(t *testing.T) {
	runControlHistory(t, newSeed(t), 1<<20, true)
}

// controlHistory is one history of a few tenants.
type controlHistory struct {
	t       *testing.T
	site    *site
	rng     *rand.Rand
	feeds   []*feed
	jobs    []*modelJob
	port    int // of leaf nodes
	kill    func()
	workers int
	process bool
	dir     string
	names   int
	steps   []string
}

// modelJob is what the test knows of a job.
type modelJob struct {
	feed       *feed
	name       string
	shadow     string // of a fork
	stopped    bool
	savepoints map[string]uint64 // position
	starts     []uint64          // the positions it was sent to
}

func runControlHistory(t *testing.T, seed uint64, n int, process bool) {
	h := &controlHistory{t: t, rng: newRand(seed, uint64(n)), process: process, dir: t.TempDir()}
	defer func() {
		if t.Failed() {
			t.Logf("the history:\n%s", firstLines(h.steps, 500))
		}
	}()
	h.site = startSite(t, "hub", server.LeafNodeOpts{Host: "127.0.0.1", Port: -1})
	varz, err := h.site.srv.Varz(nil)
	ok(t, err)
	h.port = varz.LeafNode.Port
	for i := range 2 + h.rng.IntN(2) {
		f := newFeed(fmt.Sprintf("hist%d", i))
		h.site.layout(t, f.tenant, h.rng.IntN(2) == 0)
		h.feeds = append(h.feeds, f)
		h.jobs = append(h.jobs, &modelJob{feed: f, name: tallyName, savepoints: map[string]uint64{}})
	}
	h.startWorker()
	for range controlSteps * len(h.feeds) {
		h.step()
	}
	h.finish()
}

func (h *controlHistory) note(format string, args ...any) {
	h.steps = append(h.steps, fmt.Sprintf("%s ", time.Now().Format("05.000"))+fmt.Sprintf(format, args...))
}

func (h *controlHistory) newName(kind string) string {
	h.names++
	return fmt.Sprintf("%s-%d", kind, h.names)
}

// startWorker starts a worker, at times under the identity of the one before.
func (h *controlHistory) startWorker() {
	h.workers += h.rng.IntN(2)
	cfg := controlConfig{
		Name: fmt.Sprintf("w%d", h.workers), Interval: time.Duration(10+h.rng.IntN(60)) * time.Millisecond, Retained: 3 + h.rng.IntN(4),
		Timeout: patience, Takeover: 300 * time.Millisecond,
	}
	for _, f := range h.feeds {
		cfg.Tenants = append(cfg.Tenants, f.tenant)
	}
	h.note("worker %s starts, a checkpoint every %s", cfg.Name, cfg.Interval)
	if !h.process {
		w := h.site.controlWorker(h.t, cfg)
		h.kill = w.kill
		h.t.Cleanup(func() {
			if h.t.Failed() {
				h.t.Logf("worker %s:\n%s", cfg.Name, w.log.tail())
			}
		})
		return
	}
	cfg.URL = h.site.srv.ClientURL()
	p := newProcess(h.t, h.dir, fmt.Sprintf("worker-%d", len(h.steps)), "control", cfg)
	p.start(h.t)
	h.kill = p.kill
	h.t.Cleanup(func() {
		if h.t.Failed() {
			h.t.Logf("process of worker %s:\n%s", cfg.Name, p.logTail())
		}
	})
}

// step publishes some input and, beside it, does one thing.
func (h *controlHistory) step() {
	inputs := map[*feed][]input{}
	for _, f := range h.feeds {
		inputs[f] = f.hist.random(h.rng, h.rng.IntN(60), 9)
	}
	fed := make(chan error, 1)
	go func() {
		for f, in := range inputs {
			if err := f.publish(context.Background(), h.site, in); err != nil {
				fed <- err
				return
			}
		}
		fed <- nil
	}()
	j := h.jobs[h.rng.IntN(len(h.jobs))]
	if j.stopped {
		h.restart(j)
	} else {
		h.act(j)
	}
	ok(h.t, <-fed)
}

func (h *controlHistory) act(j *modelJob) {
	switch n := h.rng.IntN(20); {
	case n < 4:
		h.savepoint(j)
	case n < 6:
		h.mark(j)
	case n < 7:
		h.savepointAll(j)
	case n < 10:
		h.stop(j)
	case n < 12:
		h.start(j)
	case n < 14:
		p := 1 + h.rng.IntN(4)
		h.request(j, "rescale", body{"parallelism": p, "request": h.newName("req")})
	case n < 16:
		h.fork(j)
	case n < 17:
		h.deleteSavepoint(j)
	case n < 18:
		h.deleteFork(j)
	default:
		h.note("the worker is killed")
		h.kill()
		h.startWorker()
	}
}

// request asks for something that must work. At times the worker is killed on the way, and the same is asked of the next.
func (h *controlHistory) request(j *modelJob, verb string, b body) answer {
	h.t.Helper()
	h.note("%s/%s %s %v", j.feed.tenant, j.name, verb, b)
	if h.rng.IntN(6) == 0 {
		h.killDuring(j, verb, b)
	}
	a, err := h.site.persist(context.Background(), j.feed.tenant, j.name, verb, b)
	ok(h.t, err)
	if verb == "stop" && strings.Contains(a.message, "without savepoint") {
		// The worker died before it made the savepoint, and the next one has ended the job.
		done[processor.JobReport](h.t, h.site, j.feed.tenant, j.name, "start", nil)
		a, err = h.site.persist(context.Background(), j.feed.tenant, j.name, verb, b)
		ok(h.t, err)
	}
	if a.reason != "" {
		h.t.Fatalf("%s/%s: %s %v is refused: %s", j.feed.tenant, j.name, verb, b, a.Error())
	}
	return a
}

// killDuring asks, and kills the worker when it has published some messages more, wherever it is then.
func (h *controlHistory) killDuring(j *modelJob, verb string, b body) {
	after := int64(h.rng.IntN(60))
	var seen atomic.Int64
	due := make(chan struct{}, 1)
	sub, err := h.site.nc.Subscribe("$KV."+jetstream.CheckpointBucket+".>", func(*nats.Msg) {
		if seen.Add(1) == after {
			due <- struct{}{}
		}
	})
	ok(h.t, err)
	defer func() { ok(h.t, sub.Unsubscribe()) }()
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(1+h.rng.IntN(200))*time.Millisecond)
	defer cancel()
	answered := make(chan error, 1)
	go func() {
		_, err := h.site.ask(ctx, j.feed.tenant, j.name, verb, b)
		answered <- err
	}()
	select {
	case <-due:
	case <-ctx.Done():
	}
	h.note("the worker is killed on the way")
	h.kill()
	cancel()
	<-answered
	h.startWorker()
}

// judge compares what a job has published with what it should have. It must be caught up.
func (h *controlHistory) judge(j *modelJob) {
	h.t.Helper()
	if !j.stopped { // what is published meanwhile counts at the next time
		rep := decoded[processor.StopReport](h.t, h.request(j, "stop", body{}))
		j.stopped = true
		if !rep.Published {
			h.t.Fatalf("the stop of %s/%s says that not all is published: %+v", j.feed.tenant, j.name, rep)
		}
	}
	spans := h.site.rec.spans(h.t, h.site, j.feed.tenant, j.name)
	h.note("%s/%s has committed %v", j.feed.tenant, j.name, spans)
	// The first span of a job is not always one that the test asked for: of a fork of the latest, or from the beginning.
	from := spans[max(0, len(spans)-len(j.starts)):]
	if len(from) != len(j.starts) || len(spans) > len(j.starts)+1 {
		h.t.Fatalf("job %s/%s was started from elsewhere %d times, its commits say %v", j.feed.tenant, j.name, len(j.starts), spans)
	}
	for i, to := range j.starts {
		if from[i].from != to {
			h.t.Fatalf("job %s/%s was sent to %d, and went to %d: %v", j.feed.tenant, j.name, to, from[i].from, spans)
		}
	}
	h.site.exactSpans(h.t, j.feed, j.name, j.shadow, spans)
}

// finish lets every job read to the end, compares all of them, and moves the first tenant's to another cluster.
func (h *controlHistory) finish() {
	for _, j := range h.jobs {
		if j.stopped {
			h.request(j, "start", body{"request": h.newName("req")})
			j.stopped = false
		}
		h.site.settle(h.t, j.feed, j.name)
	}
	for _, j := range h.jobs {
		list := done[struct {
			Savepoints []processor.SavepointReport
			Next       string
		}](h.t, h.site, j.feed.tenant, j.name, "savepoints", body{"limit": 1000})
		for _, rep := range list.Savepoints {
			if p, known := j.savepoints[rep.Name]; known && p != rep.Positions["events"].Sequence {
				h.t.Fatalf("savepoint %s of %s/%s was cut at %d, now it says %v", rep.Name, j.feed.tenant, j.name, p, rep.Positions)
			}
		}
	}
	first := h.jobs[0]
	h.savepoint(first)
	names := sortedNames(first.savepoints)
	name := names[h.rng.IntN(len(names))]
	for _, j := range h.jobs {
		h.judge(j)
		spans := h.site.rec.spans(h.t, h.site, j.feed.tenant, j.name)
		if end := spans[len(spans)-1].to; end < j.feed.last() {
			h.t.Fatalf("job %s/%s has committed up to %d of %d", j.feed.tenant, j.name, end, j.feed.last())
		}
	}
	h.move(first, name)
}

// move exports a savepoint, imports it where the input is mirrored, and runs the job there to the end.
func (h *controlHistory) move(j *modelJob, name string) {
	h.note("%s/%s moves with savepoint %s", j.feed.tenant, j.name, name)
	ctx := context.Background()
	id := tenants.JobID{Tenant: tenants.ID(j.feed.tenant), Name: j.name}
	var file bytes.Buffer
	h.withBroker(h.site, func(b *jetstream.Broker) error {
		_, err := processor.ExportSavepoint(ctx, b, id, name, &file, nil)
		return err
	})
	var names []string
	for _, f := range h.feeds {
		names = append(names, f.tenant)
	}
	edge := mirrorSite(h.t, h.site, h.port, names...)
	in := inputOf(j.feed.tenant)
	mirror := edge.stream(h.t, js.StreamConfig{Name: in, AllowDirect: true, Mirror: &js.StreamSource{Name: in, Domain: h.site.domain}})
	edge.outputs(h.t, j.feed.tenant)
	eventually(h.t, "the mirror is complete", func() bool {
		info, err := mirror.Info(ctx)
		return err == nil && info.State.LastSeq >= j.feed.last()
	})
	archive, err := processor.OpenArchive(bytes.NewReader(file.Bytes()), nil)
	ok(h.t, err)
	h.withBroker(edge, func(b *jetstream.Broker) error {
		_, err := processor.ImportSavepoint(ctx, b, archive, processor.ImportSpec{})
		return err
	})
	// Nothing deploys it there: the request that starts it says what it is.
	w := edge.controlWorker(h.t, controlConfig{Name: "there", Interval: 20 * time.Millisecond, Retained: 3, Timeout: patience, Takeover: time.Second})
	defer w.kill()
	done[processor.JobReport](h.t, edge, j.feed.tenant, j.name, "start",
		body{"from": "savepoint", "savepoint": name, "topology": tallyName, "config": body{"streams": body{"events": in}, "parallelism": 1 + h.rng.IntN(4)}})
	edge.settle(h.t, j.feed, j.name)
	done[processor.StopReport](h.t, edge, j.feed.tenant, j.name, "stop", nil)
	spans := edge.rec.spans(h.t, edge, j.feed.tenant, j.name)
	if p := j.savepoints[name]; len(spans) != 1 || spans[0].from != p || spans[0].to < j.feed.last() {
		h.t.Fatalf("job %s/%s moved at %d of %d, its commits there say %v", j.feed.tenant, j.name, p, j.feed.last(), spans)
	}
	edge.exactSpans(h.t, j.feed, j.name, "", spans)
}

func (h *controlHistory) withBroker(s *site, f func(*jetstream.Broker) error) {
	h.t.Helper()
	b, err := jetstream.New(jetstream.Config{Provider: s})
	ok(h.t, err)
	defer b.Close()
	ok(h.t, b.Start(context.Background()))
	ok(h.t, f(b))
}

func sortedNames[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
