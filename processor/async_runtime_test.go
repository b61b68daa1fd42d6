package processor_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/processor/processortest"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// asking calls for every word, keyed by its first letter.
func asking(t *testing.T, spec processor.AsyncSpec[string], call func(context.Context, string) (string, error)) *processor.Topology {
	t.Helper()
	b := processor.NewBuilder("asking")
	words := processor.From(b, "words", processor.SourceSpec[string]{Filters: []tenants.Filter{"words"}, Codec: codec.String()})
	answers := processor.Async(processor.KeyBy(words, func(w string) string { return w[:1] }), "ask", spec, call)
	processor.To(answers, "answers", processor.SinkSpec[string]{FixedSubject: "answers", Codec: codec.String()})
	return built(t, b)
}

var askingJob = tenants.JobID{Tenant: "acme", Name: "asking"}

func answers(m *processortest.Memory) []string {
	var out []string
	for _, r := range m.Messages("acme", "acme.answers") {
		out = append(out, string(r.Data))
	}
	return out
}

// Calls that are under way at a crash, and at a stop with a savepoint, are made again; a drain waits for them. Each answer is published
// once, in the order of the words, and no barrier waits for a call.
func TestRuntimeCallsExactlyOnce(t *testing.T) {
	for _, parallelism := range []int{1, 3} {
		synctest.Test(t, func(t *testing.T) {
			var calls atomic.Int64
			topology := asking(t, processor.AsyncSpec[string]{}, func(ctx context.Context, w string) (string, error) {
				calls.Add(1)
				select {
				case <-time.After(10 * time.Second):
					return w + "!", nil
				case <-ctx.Done():
					return "", ctx.Err()
				}
			})
			m := newMemory("acme")
			var want []string
			publish := func() {
				for range 5 {
					w := fmt.Sprint("w", len(want))
					publishWords(t, m, "acme", w)
					want = append(want, w+"!")
				}
			}
			start := func() (*worker, *processor.Job) {
				w := startWorker(t, m, "w1", processor.Listener{})
				j := w.deploy(t, topology, "acme", processor.JobConfig{Parallelism: parallelism})
				w.run()
				time.Sleep(2 * time.Second)
				return w, j
			}
			publish()
			w, j := start()
			if m := j.Metrics(); m.AsyncInFlight != 5 || j.Status().Checkpoint == 0 {
				t.Errorf("%+v, %+v: want five in flight, and checkpoints in spite of them", m, j.Status())
			}
			w.crash(t)
			w, _ = start()
			publish()
			time.Sleep(2 * time.Second)
			rep, err := w.rt.Stop(t.Context(), askingJob, processor.StopRequest{Mode: processor.StopSavepoint, Savepoint: "asked"})
			if err != nil || rep.Savepoint == nil || len(answers(m)) != 0 {
				t.Fatalf("the stop ended with %+v, %v, and answers %q", rep, err, answers(m))
			}
			two := 2
			if _, err := w.rt.Start(t.Context(), askingJob, processor.StartRequest{Config: &processor.ConfigPatch{Parallelism: &two}}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(15 * time.Second)
			if got := answers(m); !slices.Equal(got, want) || calls.Load() != 5+10+10 {
				t.Errorf("answers %q, want %q; %d calls", got, want, calls.Load())
			}
			publish()
			time.Sleep(time.Second)
			if rep, err := w.rt.Stop(t.Context(), askingJob, processor.StopRequest{Mode: processor.StopDrain}); err != nil || !rep.Published {
				t.Fatalf("the drain ended with %+v, %v", rep, err)
			}
			if got := answers(m); !slices.Equal(got, want) {
				t.Errorf("drained: answers %q, want %q", got, want)
			}
			w.crash(t)
		})
	}
}

// A call that ignores its context keeps neither the end of the attempt nor the next one; it is waited for, a little.
func TestRuntimeAbandonsCallsThatIgnoreTheirContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		var calls atomic.Int64
		topology := asking(t, processor.AsyncSpec[string]{Concurrency: 2, Timeout: time.Second, Retry: processor.Retry{Attempts: 2}}, func(_ context.Context, w string) (string, error) {
			if calls.Add(1) <= 4 {
				<-free
			}
			return w + "!", nil
		})
		m := newMemory("acme")
		w := startWorker(t, m, "w1", processor.Listener{})
		w.deploy(t, topology, "acme", processor.JobConfig{})
		w.run()
		publishWords(t, m, "acme", "a", "b")
		time.Sleep(time.Minute) // both calls of the first two attempts are abandoned, which restarts the job
		if got := answers(m); !slices.Equal(slices.Sorted(slices.Values(got)), []string{"a!", "b!"}) {
			t.Errorf("answers %q", got)
		}
		w.crash(t)
		close(free)
	})
}

// Calls that end with their contexts are failed tries, however many end at once: nothing is abandoned.
func TestAsyncCallsThatObeyAreNotAbandoned(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			spec := processor.AsyncSpec[string]{Concurrency: 4, Timeout: time.Second, Retry: processor.Retry{Attempts: 2, Backoff: 10 * time.Millisecond}}
			m := newMemory("acme")
			w := startWorker(t, m, "w1", processor.Listener{})
			job := w.deploy(t, asking(t, spec, func(ctx context.Context, _ string) (string, error) {
				<-ctx.Done()
				return "", ctx.Err()
			}), "acme", processor.JobConfig{})
			w.run()
			publishWords(t, m, "acme", "a", "b", "c", "d")
			time.Sleep(20 * time.Second)
			if st, m := job.Status(), job.Metrics(); st.Restarts != 0 || m.DeadLetters != 4 {
				t.Errorf("%d restarts, %d dead letters, want 0 and 4: %s", st.Restarts, m.DeadLetters, st.Err)
			}
			w.crash(t)
		})
	}
}

// One restart while calls go on that ignore their contexts does not park the job, whatever their number.
func TestAsyncRestartsBesideItsOldCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		w := startWorker(t, m, "w1", processor.Listener{})
		var failed atomic.Bool
		j := w.deploy(t, asking(t, processor.AsyncSpec[string]{Exhausted: processor.AsyncRestart, Retry: processor.Retry{Attempts: 1}}, func(_ context.Context, s string) (string, error) {
			if s == "w63" && failed.CompareAndSwap(false, true) {
				return "", errors.New("refused")
			}
			time.Sleep(20 * time.Second)
			return s + "!", nil
		}), "acme", processor.JobConfig{})
		w.run()
		for i := range 64 {
			publishWords(t, m, "acme", fmt.Sprint("w", i))
		}
		time.Sleep(5 * time.Minute)
		wantState(t, j, processor.JobRunning)
		if n := len(answers(m)); n != 64 {
			t.Errorf("%d answers", n)
		}
		w.crash(t)
	})
}

// Long calls under a backlog, behind exchanges: barriers wait behind what was sent, which must not be more than the calls that may be in
// flight.
func TestAsyncUnderABacklogTakesCheckpoints(t *testing.T) {
	for _, stages := range []int{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			b := processor.NewBuilder("asking")
			words := processor.From(b, "words", processor.SourceSpec[string]{Filters: []tenants.Filter{"words"}, Codec: codec.String()})
			self := func(w string) string { return w }
			if stages == 2 {
				words = processor.Process(processor.KeyBy(words, func(w string) string { return w + "x" }), "first", func(pc *processor.Context[string], w string) error {
					pc.Emit(w)
					return nil
				})
			}
			spec := processor.AsyncSpec[string]{Concurrency: 4 * stages * stages * stages * stages, Unordered: true}
			processor.To(processor.Async(processor.KeyBy(words, self), "ask", spec, func(ctx context.Context, w string) (string, error) {
				select {
				case <-time.After(20 * time.Second):
				case <-ctx.Done():
				}
				return w + "!", ctx.Err()
			}), "answers", processor.SinkSpec[string]{FixedSubject: "answers", Codec: codec.String()})
			m := newMemory("acme")
			w := startWorker(t, m, "w1", processor.Listener{})
			j := w.deploy(t, built(t, b), "acme", processor.JobConfig{Parallelism: 4, Checkpoint: processor.CheckpointConfig{Interval: time.Second}})
			for i := range 6000 {
				publishWords(t, m, "acme", fmt.Sprint("w", i))
			}
			w.run()
			time.Sleep(10 * time.Minute)
			if st := j.Status(); st.Restarts != 0 || st.Checkpoint == 0 || len(answers(m)) == 0 {
				t.Errorf("%d stages: %d answers, checkpoint %d, %d restarts", stages, len(answers(m)), st.Checkpoint, st.Restarts)
			}
			w.crash(t)
		})
	}
}
