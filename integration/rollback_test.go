//go:build unix

package integration_test

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/processor"
)

// The streams of a rollback, one for each purpose, so that each can be rolled back alone.
const (
	inputStream      = "inputs"
	outputStream     = "outputs"
	bucketStream     = "KV_" + tallyBucket
	checkpointStream = "KV_" + jetstream.CheckpointBucket
	objectStream     = "OBJ_weir_acme"
)

// TestRollback puts older bytes under a job's streams, or takes them away: always an error that names the stream and what happened
// to it, never silence, and nothing is published that was published before.
func TestRollback(t *testing.T) {
	seed := newSeed(t)
	cases := []rollbackCase{
		{name: "input", streams: []string{inputStream}, faults: []processor.StreamFault{processor.StreamTailLost, processor.StreamRewritten}},
		{name: "input refilled", streams: []string{inputStream}, refill: 1, faults: []processor.StreamFault{processor.StreamTailLost, processor.StreamRewritten}},
		{name: "input overfilled", streams: []string{inputStream}, refill: 3, faults: []processor.StreamFault{processor.StreamTailLost, processor.StreamRewritten}},
		{name: "output", streams: []string{outputStream}, faults: []processor.StreamFault{processor.MarkerOlder, processor.MarkerMissing}},
		{name: "output bucket", streams: []string{bucketStream}, faults: []processor.StreamFault{processor.MarkerOlder, processor.MarkerMissing}},
		{name: "dead letters", streams: []string{jetstream.DeadLetterStream}, faults: []processor.StreamFault{processor.MarkerOlder, processor.MarkerMissing}},
		{name: "checkpoints", streams: []string{checkpointStream}, faults: []processor.StreamFault{processor.MarkerAhead}},
		{name: "checkpoints and objects", streams: []string{checkpointStream, objectStream}, faults: []processor.StreamFault{processor.MarkerAhead}},
		{name: "all but the output", streams: []string{checkpointStream, objectStream, inputStream, bucketStream, jetstream.DeadLetterStream},
			faults: []processor.StreamFault{processor.MarkerAhead, processor.StreamTailLost, processor.MarkerOlder}},
		{name: "input deleted", change: func(r *rollback) { ok(r.t, r.js.DeleteStream(context.Background(), inputStream)) },
			faults: []processor.StreamFault{processor.StreamMissing}},
		{name: "input recreated", change: func(r *rollback) { r.recreate(inputStream) }, faults: []processor.StreamFault{processor.StreamRecreated}},
		{name: "input purged", change: func(r *rollback) { r.purgeUnread() }, faults: []processor.StreamFault{processor.StreamTrimmed}},
		{name: "output recreated", change: func(r *rollback) { r.recreate(outputStream) },
			faults: []processor.StreamFault{processor.StreamRecreated, processor.MarkerMissing}},
		{name: "output purged", change: func(r *rollback) { r.purge(outputStream) }, faults: []processor.StreamFault{processor.MarkerMissing}},
		{name: "bucket recreated", change: func(r *rollback) { r.recreate(bucketStream) },
			faults: []processor.StreamFault{processor.StreamRecreated, processor.MarkerMissing}},
	}
	rng := newRand(seed)
	for i, c := range cases {
		kinds := []bool{false, true}
		if !*allFlag {
			kinds = kinds[rng.IntN(2):][:1]
		}
		for _, live := range kinds {
			name := c.name + ", the worker is dead"
			if live {
				name = c.name + ", the worker lives"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				c.live = live
				newRollback(t, newRand(seed, uint64(i))).run(c)
			})
		}
	}
}

// TestRollbackOfEverything puts the whole store back. A dead worker finds a consistent past and goes on from there, exact; a living
// one has seen the future and must say so.
func TestRollbackOfEverything(t *testing.T) {
	seed := newSeed(t)
	t.Run("the worker is dead", func(t *testing.T) {
		r := newRollback(t, newRand(seed, 1))
		r.past()
		r.worker.kill()
		r.restore(r.everything())
		r.rebuild()
		r.publish(30)
		r.startWorker()
		r.settle()
		ok(t, r.worker.drain())
		r.exactAt(t, r.place(), r.hist)
	})
	t.Run("the worker lives", func(t *testing.T) {
		r := newRollback(t, newRand(seed, 2))
		r.past()
		r.restore(r.everything())
		r.publish(30)
		says(t, r.worker.failure("acme"), "acme/tally")
	})
}

// TestRollbackOfObjects takes the snapshots away that the head refers to.
func TestRollbackOfObjects(t *testing.T) {
	r := newRollback(t, newRand(newSeed(t)))
	r.past()
	r.worker.kill()
	r.restore([]string{objectStream})
	r.startWorker()
	err := r.worker.failure("acme")
	isError(t, err, processor.ErrObjectMissing)
	says(t, err, "acme/tally", "weir_acme")
}

// TestRollbackHarmless purges input that was read: retention is allowed to do that.
func TestRollbackHarmless(t *testing.T) {
	r := newRollback(t, newRand(newSeed(t)))
	r.past()
	r.worker.kill()
	r.purge(inputStream)
	r.publish(50)
	r.startWorker()
	r.settle()
	ok(t, r.worker.drain())
	r.exactAt(t, r.place(), r.hist)
}

type rollbackCase struct {
	name    string
	streams []string        // whose folders are put back
	refill  int             // how many times what was lost is published anew
	change  func(*rollback) // instead of putting folders back
	faults  []processor.StreamFault
	live    bool
}

// rollback is a server process with a job whose worker is in this process.
type rollback struct {
	*cluster
	world  // the same connection, for the helpers
	t      *testing.T
	js     js.JetStream
	rng    *rand.Rand
	hist   *history
	worker *worker
	copied string
}

func newRollback(t *testing.T, rng *rand.Rand) *rollback {
	c := startCluster(t, 1)
	r := &rollback{cluster: c, world: world{nc: c.nc, js: c.js}, t: t, js: c.js, rng: rng, hist: newHistory("acme"), copied: filepath.Join(t.TempDir(), "copy")}
	for name, subjects := range map[string][]string{inputStream: {"acme.in.>"}, outputStream: {"acme.out.>", "acme._weir.>"}} {
		cfg := ownStream(name, 1)
		cfg.Subjects = subjects
		r.stream(t, cfg)
	}
	return r
}

func (r *rollback) place() place {
	p := r.hist.home()
	p.output = outputStream
	return p
}

// Conn implements jetstream.Provider.
func (r *rollback) Conn(_ context.Context, p jetstream.Purpose) (*nats.Conn, error) {
	return nats.Connect(r.url, jetstream.ConnOptions(p, nil)...)
}

func (r *rollback) startWorker() {
	r.t.Helper()
	spec := r.newWorker()
	ok(r.t, r.worker.start(spec, "acme"))
}

func (r *rollback) newWorker() workerSpec {
	r.t.Helper()
	spec := workerSpec{name: "a", job: smallJob(), topo: tallyTopology(r.t)}
	spec.job.Parallelism = 1 + r.rng.IntN(2)
	r.worker = newWorker(r.t, r, spec)
	return spec
}

func (r *rollback) publish(n int) {
	r.t.Helper()
	inputs := append(r.hist.random(r.rng, n, 5), r.hist.garbage([]byte("not JSON")))
	ok(r.t, publishAll(context.Background(), r.js, "acme", inputs))
}

func (r *rollback) settle() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := r.worker.settledAt(ctx, &r.world, r.place(), r.hist); err != nil {
		r.t.Fatalf("%v\n%s", err, r.worker.log.tail())
	}
	if _, err := r.worker.job("acme").Checkpoint(ctx); err != nil { // the buckets, too
		r.t.Fatalf("%v\n%s", err, r.worker.log.tail())
	}
}

// past runs the job, copies the store of the standing server, and lets the job go on.
func (r *rollback) past() {
	r.t.Helper()
	r.startWorker()
	for range 3 {
		r.publish(40)
		r.settle()
	}
	server := r.servers[0]
	server.signal(r.t, syscall.SIGSTOP)
	ok(r.t, os.CopyFS(r.copied, os.DirFS(server.cfg.(serverConfig).Dir)))
	server.signal(r.t, syscall.SIGCONT)
	for range 5 {
		r.publish(40)
		r.settle()
	}
}

func streamsDir(store string) string { return filepath.Join(store, "jetstream", "$G", "streams") }

func (r *rollback) everything() []string {
	r.t.Helper()
	entries, err := os.ReadDir(streamsDir(r.copied))
	ok(r.t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// restore kills the server, puts the copy back under some streams, and starts it again.
func (r *rollback) restore(streams []string) {
	r.t.Helper()
	server := r.servers[0]
	server.kill()
	for _, name := range streams {
		to := filepath.Join(streamsDir(server.cfg.(serverConfig).Dir), name)
		ok(r.t, os.RemoveAll(to))
		err := os.CopyFS(to, os.DirFS(filepath.Join(streamsDir(r.copied), name)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			r.t.Fatal(err)
		}
	}
	server.start(r.t)
	r.ready()
}

// rebuild makes the history of what is in the input stream now.
func (r *rollback) rebuild() {
	r.t.Helper()
	r.hist = newHistory("acme")
	ok(r.t, readStream(context.Background(), r.js, inputStream, "acme.in.>", func(m js.Msg) error {
		if m.Headers().Get(barriers.HeaderBarrier) != "" {
			return nil
		}
		r.hist.apply(m.Data())
		return nil
	}))
}

func (r *rollback) recreate(name string) {
	r.t.Helper()
	s := r.mustStream(r.t, name)
	ok(r.t, r.js.DeleteStream(context.Background(), name))
	r.stream(r.t, s.CachedInfo().Config)
}

func (r *rollback) purge(name string) {
	r.t.Helper()
	ok(r.t, r.mustStream(r.t, name).Purge(context.Background()))
}

// purgeUnread takes input away that no worker has read.
func (r *rollback) purgeUnread() {
	r.t.Helper()
	r.worker.kill()
	r.publish(20)
	r.purge(inputStream)
}

func (r *rollback) run(c rollbackCase) {
	r.t.Helper()
	r.past()
	if !c.live {
		r.worker.kill()
	}
	lost := r.mustStream(r.t, inputStream).CachedInfo().State.LastSeq
	if c.change != nil {
		c.change(r)
	} else {
		r.restore(c.streams)
	}
	before, err := countSubjects(context.Background(), r.js, outputStream, "acme.out.>")
	ok(r.t, err)
	if c.refill > 0 {
		lost -= r.mustStream(r.t, inputStream).CachedInfo().State.LastSeq
		r.publish(int(lost)*c.refill - 1)
	}
	if c.live && !strings.HasPrefix(c.name, "input") && !slices.Contains(c.streams, inputStream) {
		r.publish(20) // an idle job has no reason to look
	}
	if r.worker.ctx.Err() != nil {
		spec := r.newWorker()
		if err := r.worker.start(spec, "acme"); err != nil {
			says(r.t, err, "acme/tally", "acme.in.>") // a deployment finds out at once that there is no stream
			return
		}
	}
	err = r.worker.failure("acme")
	var fault *processor.StreamError
	switch {
	case errors.As(err, &fault):
		if !slices.Contains(c.faults, fault.Fault) {
			r.t.Errorf("the fault is %q, want one of %q: %v", fault.Fault, c.faults, err)
		}
	case !c.live:
		r.t.Errorf("the error is %v, want a *processor.StreamError", err)
	}
	says(r.t, err, "acme/tally")
	if !c.live {
		named := false
		for _, s := range []string{inputStream, outputStream, bucketStream, jetstream.DeadLetterStream} {
			named = named || fault != nil && fault.Stream == s
		}
		if !named {
			r.t.Errorf("the error names no stream: %v", err)
		}
	}
	if testing.Verbose() {
		r.t.Log(err)
	}
	r.nothingTwice()
	others := len(c.streams) == 1 && (c.streams[0] == bucketStream || c.streams[0] == jetstream.DeadLetterStream) || c.name == "bucket recreated"
	after, err := countSubjects(context.Background(), r.js, outputStream, "acme.out.>")
	ok(r.t, err)
	if after != before && !others { // one sink's fault does not hold back what the checkpoint owes to the others
		r.t.Errorf("%d results were published after the fault", after-before)
	}
}

// nothingTwice fails if the output has a result again, or one that is out of order.
func (r *rollback) nothingTwice() {
	r.t.Helper()
	got, err := readOutcome(context.Background(), r.js, r.place())
	ok(r.t, err)
	last := map[string]uint64{}
	for _, c := range got.tallies {
		if last[c.Key] >= c.N {
			r.t.Errorf("duplicated or reordered: key %s has count %d behind %d", c.Key, c.N, last[c.Key])
		}
		last[c.Key] = c.N
	}
}
