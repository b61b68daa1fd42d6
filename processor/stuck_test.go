package processor_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/processor/processortest"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// snare is user code that does not return, at one place of a topology, for the word "stuck".
type snare struct {
	place   string
	times   int64 // how often, at most
	open    chan struct{}
	entered atomic.Int64
}

func newSnare(place string) *snare {
	return &snare{place: place, times: 1 << 30, open: make(chan struct{})}
}

func (s *snare) pass(place, word string) {
	if place == s.place && word == "stuck" && s.entered.Add(1) <= s.times {
		<-s.open
	}
}

// snared is a codec that goes through the snare.
type snared struct {
	codec.Codec[string]
	s *snare
}

func (c snared) Decode(b []byte) (string, error) {
	w, err := c.Codec.Decode(b)
	c.s.pass("words", w)
	return w, err
}

// snaredState is a state's codec that goes through the snare.
type snaredState struct {
	codec.Codec[string]
	s *snare
}

func (c snaredState) Append(dst []byte, w string) ([]byte, error) {
	c.s.pass("state", w)
	return c.Codec.Append(dst, w)
}

func (c snaredState) Decode(b []byte) (string, error) {
	w, err := c.Codec.Decode(b)
	c.s.pass("restore", w)
	return w, err
}

// perSecond counts a window's words.
type perSecond struct{ s *snare }

func (perSecond) Init() int64                  { return 0 }
func (perSecond) Add(n int64, _ counted) int64 { return n + 1 }
func (perSecond) Merge(a, b int64) int64       { return a + b }
func (t perSecond) Result(p processor.Pane, n int64) counted {
	t.s.pass("per-second", p.Key)
	return counted{p.Key, n}
}

// snareTopology has user code of every kind: what reads, maps, keys and counts words, a timer, a window, and sinks.
func snareTopology(t *testing.T, s *snare) *processor.Topology {
	t.Helper()
	b := processor.NewBuilder("snare")
	words := processor.From(b, "words", processor.SourceSpec[string]{
		Filters: []tenants.Filter{"words"}, Codec: snared{codec.String(), s},
	})
	parsed := processor.Map(words, "parse", func(w string) string { s.pass("parse", w); return w })
	byWord := processor.KeyBy(parsed, func(w string) string { s.pass("keyby of parse", w); return w })
	total := state.NewValue[int64]("total")
	last := state.NewValue[string]("last", state.Codec[string](snaredState{codec.String(), s}))
	counts := processor.Process(byWord, "count", func(pc *processor.Context[counted], w string) error {
		s.pass("count", w)
		n, err := total.Get(pc)
		if err != nil {
			return err
		}
		pc.Emit(counted{w, n + 1})
		return errors.Join(total.Set(pc, n+1), last.Set(pc, w), pc.SetTimer(pc.Now().Add(time.Second)))
	}, processor.Uses(total, last), processor.OnTimer(func(pc *processor.Context[counted], _ time.Time) error {
		s.pass("timer", pc.Key())
		return nil
	}))
	windows := processor.Window(processor.KeyBy(counts, func(c counted) string { return c.Word }), processor.Tumbling(time.Second))
	sums := processor.Aggregate(windows, "per-second", perSecond{s})
	sink := func(subject string, direct bool) processor.SinkSpec[counted] {
		return processor.SinkSpec[counted]{Subject: func(c counted) string { s.pass(subject, c.Word); return subject }, Codec: codec.JSON[counted](), AtLeastOnce: direct}
	}
	processor.To(counts, "counts", sink("counts", false))
	processor.To(counts, "direct", sink("direct", true))
	processor.To(sums, "sums", sink("sums", false))
	topology, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return topology
}

// snareRun is a worker with a job that gets stuck and a neighbour that does not.
type snareRun struct {
	*worker
	t      *testing.T
	m      *processortest.Memory
	s      *snare
	job    *processor.Job
	next   *processor.Job
	mu     sync.Mutex
	stuck  []*processor.StuckError // of the job's restarts
	failed []error                 // its checkpoints
	calm   int                     // words that the neighbour was sent
}

const snareTimeout = 2 * time.Second

func runSnare(t *testing.T, s *snare, cfg processor.JobConfig) *snareRun {
	t.Helper()
	r := &snareRun{t: t, m: newMemory("acme", "globex"), s: s}
	r.worker = startWorker(t, r.m, "w1", processor.Listener{
		Job: func(ev processor.JobEvent) {
			r.mu.Lock()
			defer r.mu.Unlock()
			var stuck *processor.StuckError
			if ev.Job.Tenant == "acme" && errors.As(ev.Err, &stuck) {
				r.stuck = append(r.stuck, stuck)
			}
		},
		CheckpointFailed: func(ev processor.CheckpointFailure) {
			time.Sleep(5 * time.Millisecond) // as printing it takes: the next checkpoint is triggered behind it
			r.mu.Lock()
			defer r.mu.Unlock()
			if ev.Job.Tenant == "acme" {
				r.failed = append(r.failed, ev.Err)
			}
		},
	})
	if cfg.Checkpoint.Timeout == 0 {
		cfg.Checkpoint.Timeout = snareTimeout
	}
	topology := snareTopology(t, s)
	r.job, r.next = r.deploy(t, topology, "acme", cfg), r.deploy(t, topology, "globex", cfg)
	r.run()
	return r
}

// live lets time pass in which the neighbour has work.
func (r *snareRun) live(d time.Duration) {
	for range d / (100 * time.Millisecond) {
		publishWords(r.t, r.m, "globex", "calm")
		r.calm++
		time.Sleep(100 * time.Millisecond)
	}
}

// end releases the snare, ends the worker and checks that the neighbour noticed nothing.
func (r *snareRun) end() {
	r.t.Helper()
	if st := r.next.Status(); st.State != processor.JobRunning || st.Epoch != 1 || st.Err != nil {
		r.t.Errorf("the neighbour is %s in epoch %d: %v", st.State, st.Epoch, st.Err)
	}
	close(r.s.open)
	time.Sleep(time.Second)
	r.crash(r.t)
	if n := r.job.Metrics().Abandoned; n != 0 {
		r.t.Errorf("%d goroutines are counted as abandoned behind their end", n)
	}
	checkCounts(r.t, r.m, "globex", map[string]int64{"calm": int64(r.calm)})
}

func (r *snareRun) found() []*processor.StuckError {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.stuck)
}

// User code that does not return is named, whatever calls it; the job restarts, meets it again, and is parked with that reason, while
// its neighbour goes on.
func TestStuckUserCodeIsNamedAndParksItsJob(t *testing.T) {
	for _, place := range []string{"words", "parse", "keyby of parse", "count", "timer", "per-second", "counts", "direct", "state"} {
		for _, parallelism := range []int{1, 4} {
			t.Run(fmt.Sprintf("%s parallelism %d", place, parallelism), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := runSnare(t, newSnare(place), processor.JobConfig{Parallelism: parallelism, Restart: processor.RestartConfig{Attempts: 2}})
					publishWords(t, r.m, "acme", "a", "b", "stuck", "c")
					time.Sleep(1500 * time.Millisecond)
					publishWords(t, r.m, "acme", "a", "b", "c", "d", "e", "f", "g", "h") // the watermark moves
					r.live(time.Minute)
					status := r.job.Status()
					if status.State != processor.JobParked || status.Err == nil || !strings.Contains(status.Err.Error(), "without returning") {
						t.Errorf("the job is %s: %v", status.State, status.Err)
					}
					if n := r.job.Metrics().Abandoned; n != 3 {
						t.Errorf("%d goroutines are abandoned behind 3 attempts", n)
					}
					found := r.found()
					if len(found) != 3 {
						t.Fatalf("it was found stuck %d times: %v", len(found), found)
					}
					for _, e := range found {
						r.checkStuck(e, place)
					}
					r.end()
				})
			})
		}
	}
}

func (r *snareRun) checkStuck(e *processor.StuckError, place string) {
	t := r.t
	t.Helper()
	operator, stream, source, seq := place, "acme", "words", r.sequence("stuck")
	switch place {
	case "timer":
		operator, stream, source, seq = "count", "", "", 0
	case "per-second":
		stream, source, seq = "", "", 0
	case "state":
		operator, stream, source, seq = "count", "", "", 0
	}
	if e.Codec != (place == "state") {
		t.Errorf("it is said to be in a state's codec: %t", e.Codec)
	}
	if e.Operator != operator || e.Stream != stream || e.Source != source || e.Seq != seq || e.Job.Tenant != "acme" {
		t.Errorf("found %+v, want operator %s, stream %q, source %q, sequence %d", e, operator, stream, source, seq)
	}
	if e.For < snareTimeout || e.For > 2*snareTimeout+10*time.Millisecond {
		t.Errorf("it is said to last for %s", e.For)
	}
	if place != "state" && !strings.HasPrefix(e.At, "github.com/weirstream/weir/processor_test.(*snare).pass (stuck_test.go:") {
		t.Errorf("it is said to be at %q", e.At)
	}
	if text := e.Error(); !strings.HasPrefix(text, "job acme/snare: operator "+operator+" has been busy with ") || !strings.Contains(text, "processor.Poison") {
		t.Errorf("the error says %q", text)
	}
}

// sequence is where the job's first such word lies: the stream has what the job publishes too.
func (r *snareRun) sequence(word string) uint64 {
	for _, m := range r.m.Messages("acme", "acme.words") {
		if string(m.Data) == word {
			return m.Seq
		}
	}
	return 0
}

// The operator that is stuck is named, not those before it that wait for room in their exchanges.
func TestWhoWaitsForAStuckOperatorIsNotNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := runSnare(t, newSnare("count"), processor.JobConfig{Parallelism: 4})
		const n = 20_000
		for range n {
			publishWords(t, r.m, "acme", "stuck")
		}
		r.live(3 * time.Second)
		if in := r.job.Metrics().RecordsIn; in >= n {
			t.Fatalf("all %d records were read: nobody waits", in)
		}
		r.live(5 * time.Second)
		found := r.found()
		if len(found) == 0 {
			t.Fatal("nothing was found stuck")
		}
		for _, e := range found {
			if e.Operator != "count" || e.Seq != r.sequence("stuck") {
				t.Errorf("found %v", e)
			}
		}
		r.end()
	})
}

// Once the user's code returns its goroutine ends, and has written nothing: what it went on with comes from the next attempt alone.
func TestAnAbandonedGoroutineWritesNothing(t *testing.T) {
	for _, place := range []string{"parse", "count", "direct"} {
		for _, parallelism := range []int{1, 4} {
			t.Run(fmt.Sprintf("%s parallelism %d", place, parallelism), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newSnare(place)
					s.times = 1
					r := runSnare(t, s, processor.JobConfig{Parallelism: parallelism})
					publishWords(t, r.m, "acme", "a", "stuck", "b", "a")
					r.live(10 * time.Second)
					if n := r.job.Metrics().Abandoned; n != 1 {
						t.Errorf("%d goroutines are abandoned", n)
					}
					r.end()
					checkCounts(t, r.m, "acme", map[string]int64{"a": 2, "stuck": 1, "b": 1})
					direct := map[string]int{}
					for _, msg := range r.m.Messages("acme", "acme.direct") {
						direct[string(msg.Data)]++
					}
					if n := direct[`{"word":"stuck","count":1}`]; n != 1 {
						t.Errorf("the word was published at once %d times: %v", n, direct)
					}
				})
			})
		}
	}
}

// Records that take long but move are no stuck record: the checkpoint fails, and says who is slow.
func TestSlowUserCodeIsToldFromStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := processor.NewBuilder("slow")
		words := processor.From(b, "words", processor.SourceSpec[string]{Filters: []tenants.Filter{"words"}, Codec: codec.String()})
		slow := processor.Map(words, "ponder", func(w string) string { time.Sleep(50 * time.Millisecond); return w })
		processor.To(slow, "out", processor.SinkSpec[string]{FixedSubject: "out", Codec: codec.String()})
		topology, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		m := newMemory("acme")
		var mu sync.Mutex
		var failures []error
		w := startWorker(t, m, "w1", processor.Listener{CheckpointFailed: func(ev processor.CheckpointFailure) {
			mu.Lock()
			defer mu.Unlock()
			failures = append(failures, ev.Err)
		}})
		for range 1000 {
			publishWords(t, m, "acme", "x")
		}
		j := w.deploy(t, topology, "acme", processor.JobConfig{Checkpoint: processor.CheckpointConfig{Timeout: snareTimeout, TolerableFailures: 1000}})
		w.run()
		time.Sleep(2 * time.Minute)
		if s := j.Status(); s.State != processor.JobRunning || s.Epoch != 1 {
			t.Errorf("the job is %s in epoch %d: %v", s.State, s.Epoch, s.Err)
		}
		w.crash(t)
		mu.Lock()
		defer mu.Unlock()
		if len(failures) == 0 || !strings.HasSuffix(failures[0].Error(), "operator ponder was busy, and its task had made 40 records in that time") {
			t.Errorf("checkpoints failed with %v", failures)
		}
		if got := len(m.Messages("acme", "acme.out")); got != 1000 {
			t.Errorf("%d results", got)
		}
	})
}

// However a job that is stuck is ended, that comes to its end.
func TestAStuckJobCanBeEnded(t *testing.T) {
	ctx := context.Background()
	ends := map[string]func(r *snareRun) error{
		"stop now": func(r *snareRun) error {
			_, err := r.rt.Stop(ctx, r.job.ID(), processor.StopRequest{Mode: processor.StopNow})
			return err
		},
		"stop": func(r *snareRun) error {
			_, err := r.rt.Stop(ctx, r.job.ID(), processor.StopRequest{})
			return ignoreStuck(err)
		},
		"delete": func(r *snareRun) error {
			return r.rt.Delete(ctx, r.job.ID(), processor.DeleteRequest{Confirm: "snare"})
		},
		"drain": func(r *snareRun) error {
			limited, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			err := r.rt.Drain(limited)
			r.done <- <-r.done // Run has returned, too
			return err
		},
		"the process": func(r *snareRun) error {
			r.cancel()
			r.done <- <-r.done
			return nil
		},
	}
	for _, place := range []string{"parse", "state", "restore"} {
		for name, end := range ends {
			if name == "drain" && place == "restore" {
				continue // it waits for a start, as long as its context lets it
			}
			t.Run(name+" "+place, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := runSnare(t, newSnare(place), processor.JobConfig{})
					publishWords(t, r.m, "acme", "a", "stuck", "b")
					r.live(time.Second)
					if place == "restore" {
						r.startAnew()
					}
					start := time.Now()
					if err := end(r); err != nil {
						t.Errorf("it ended with %v", err)
					}
					if took := time.Since(start); took > 30*time.Second {
						t.Errorf("it took %s", took)
					}
					if name == "the process" {
						if n := r.job.Metrics().Abandoned; n != 1 {
							t.Errorf("%d goroutines are abandoned", n)
						}
					}
					close(r.s.open)
					time.Sleep(time.Minute)
					r.cancel()
					<-r.done
				})
			})
		}
	}
}

// startAnew has the job begin another attempt, from a checkpoint that has everything.
func (r *snareRun) startAnew() {
	r.t.Helper()
	if _, err := r.rt.TakeCheckpoint(context.Background(), r.job.ID()); err != nil {
		r.t.Fatal(err)
	}
	limited, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	parallelism := 2
	if _, err := r.rt.Start(limited, r.job.ID(), processor.StartRequest{Config: &processor.ConfigPatch{Parallelism: &parallelism}}); err == nil {
		r.t.Fatal("the job has started although its restore is stuck")
	}
}

// ignoreStuck: a stop that waits for a last checkpoint may be refused for the very reason.
func ignoreStuck(err error) error {
	var stuck *processor.StuckError
	if errors.As(err, &stuck) {
		return nil
	}
	return err
}

// slowState is a state's codec that takes its time for every entry.
type slowState struct{ codec.Codec[string] }

func (c slowState) Append(dst []byte, w string) ([]byte, error) {
	time.Sleep(100 * time.Millisecond)
	return c.Codec.Append(dst, w)
}

// A codec that returns for entry after entry is slow, not stuck: TolerableFailures decides, though the snapshot takes longer than two timeouts.
func TestASlowCodecIsNotStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := processor.NewBuilder("slow")
		words := processor.From(b, "words", processor.SourceSpec[string]{Filters: []tenants.Filter{"words"}, Codec: codec.String()})
		last := state.NewValue[string]("last", state.Codec[string](slowState{codec.String()}))
		out := processor.Process(processor.KeyBy(words, func(w string) string { return w }), "keep", func(pc *processor.Context[string], w string) error {
			pc.Emit(w)
			return last.Set(pc, w)
		}, processor.Uses(last))
		processor.To(out, "out", processor.SinkSpec[string]{FixedSubject: "counts", Codec: codec.String()})
		topology, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		m := newMemory("acme")
		var failed atomic.Int64
		w := startWorker(t, m, "w1", processor.Listener{
			CheckpointFailed: func(processor.CheckpointFailure) { failed.Add(1) },
		})
		job := w.deploy(t, topology, "acme", processor.JobConfig{Checkpoint: processor.CheckpointConfig{Timeout: 2 * time.Second, TolerableFailures: 1000}})
		w.run()
		for i := range 60 {
			publishWords(t, m, "acme", string(rune('a'+i%26))+string(rune('a'+i/26)))
		}
		time.Sleep(30 * time.Second)
		if st := job.Status(); st.Restarts != 0 || failed.Load() == 0 {
			t.Errorf("it was restarted %d times (%v), and %d checkpoints failed", st.Restarts, st.Err, failed.Load())
		}
		w.crash(t)
	})
}
