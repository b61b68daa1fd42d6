package processor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/weirstream/weir/state/codec"
	"pgregory.net/rapid"
)

var lateAnswers = NewOutputTag[tick]("late-answers")

// Of the elements some are refused, some fail a few times first, and every fifth comes twice.
func refusedTick(id int) bool { return id%7 == 3 }
func failingTick(id int) int  { return max(0, id%6-3) }

// askTopology counts the answers per key and ten milliseconds. Without a spec the answers are there at once: it is the model.
func askTopology(t require, bound time.Duration, spec *AsyncSpec[tick]) *Topology {
	b := NewBuilder("ask")
	in := FlatMap(ticks(b, "in", bound), "twice", func(e tick, emit func(tick)) error {
		emit(e)
		if e.ID%5 == 0 {
			e.ID += 10_000
			emit(e)
		}
		return nil
	})
	key := func(e tick) string { return e.Key }
	var answers Stream[tick]
	if spec == nil {
		answers = FlatMap(in, "ask", func(e tick, emit func(tick)) error {
			if refusedTick(e.ID) {
				return Poison(errors.New("refused"))
			}
			emit(e)
			return nil
		})
	} else {
		tries := map[int]int{}
		answers = Async(KeyBy(in, key), "ask", *spec, func(_ context.Context, e tick) (tick, error) {
			if tries[e.ID]++; tries[e.ID] <= failingTick(e.ID) {
				return tick{}, errors.New("try again")
			}
			if refusedTick(e.ID) {
				return tick{}, Poison(errors.New("refused"))
			}
			return e, nil
		})
	}
	sink := SinkSpec[tick]{FixedSubject: "answers", Codec: codec.JSON[tick]()}
	To(answers, "out-answers", sink)
	w := Window(KeyBy(answers, key), Tumbling(10*time.Millisecond), LateOutput(lateAnswers))
	rows := Aggregate(w, "sums", sumTicks{})
	to(rows, "out-sums")
	To(SideOutput(rows, lateAnswers), "out-late", sink)
	topology, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return topology
}

var askSinks = []string{"out-answers", "out-sums", "out-late", deadLetterSink}

// askRun drives a testbed whose calls return in any order, and keeps what was committed.
type askRun struct {
	t           require
	topology    *Topology
	bed         *Testbed
	snap        *TestSnapshot
	pushed      []tick
	kept, fresh map[string][]string
}

func (r *askRun) begin(parallelism int) {
	var err error
	r.bed, err = NewTestbed(r.topology, TestbedConfig{From: r.snap, Parallelism: parallelism, HoldCalls: true})
	r.must(err)
	r.fresh = map[string][]string{}
	if r.snap != nil {
		for i := r.snap.positions["in"].Position; i < uint64(len(r.pushed)); i++ {
			r.push(i)
		}
	}
}

// push hands in an element by its place. It may wait in the task, so its sequence is not what was read last.
func (r *askRun) push(i uint64) {
	data, err := codec.JSON[tick]().Append(nil, r.pushed[i])
	r.must(err)
	r.must(r.bed.Push("in", Record{Subject: "test.in", Data: data, Time: 1e18, Seq: i + 1}))
}

func (r *askRun) must(err error) {
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *askRun) snapshot() {
	r.settle(true) // a barrier behind data waits
	s, err := r.bed.Snapshot()
	r.must(err)
	r.snap = s
	for _, sink := range askSinks {
		r.kept[sink] = append(r.kept[sink], payloads(r.bed.Output(sink))...)
	}
}

// settle lets calls return until nothing is in flight, or only until everything is read.
func (r *askRun) settle(read bool) {
	for {
		left := 0
		for _, task := range r.bed.plan.tasks {
			for _, in := range task.inputs {
				left += len(in.held)
			}
			if !read {
				left += task.calls()
			}
		}
		switch {
		case left == 0:
			return
		case r.bed.Calls() > 0:
			r.must(r.bed.Complete(0))
		default:
			r.must(r.bed.Advance(time.Second))
		}
	}
}

// Whatever the order in which calls return and fail, the concurrency, the parallelism, the snapshots and the crashes: every element has
// its answer or dead letter once, ordered per key if asked for, and windows behind it are those of answers that are there at once. With one task
// even what is late is the same.
func TestAsyncEqualsTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spec := &AsyncSpec[tick]{
			Unordered: rapid.Bool().Draw(t, "unordered"), Concurrency: rapid.IntRange(1, 6).Draw(t, "concurrency"),
			Timeout: 24 * time.Hour, Retry: Retry{Attempts: 5, Backoff: time.Millisecond},
		}
		most := rapid.SampledFrom([]int{1, 4}).Draw(t, "most tasks")
		bound := time.Duration(rapid.IntRange(0, 20).Draw(t, "bound")) * time.Millisecond
		if most > 1 {
			bound = time.Second
		}
		parallelism := func() int { return rapid.IntRange(1, most).Draw(t, "parallelism") }
		run := &askRun{t: t, topology: askTopology(t, bound, spec), kept: map[string][]string{}}
		run.begin(parallelism())
		run.snapshot()
		base := int64(100)
		for i := range rapid.IntRange(1, 50).Draw(t, "elements") {
			for range rapid.IntRange(0, 3).Draw(t, "events") {
				switch what := rapid.IntRange(0, 15).Draw(t, "what"); {
				case what == 0:
					run.snapshot()
				case what == 1:
					run.begin(parallelism())
				case what < 4:
					run.must(run.bed.Advance(time.Millisecond))
				case run.bed.Calls() > 0:
					run.must(run.bed.Complete(rapid.IntRange(0, run.bed.Calls()-1).Draw(t, "call")))
				}
			}
			base += int64(rapid.SampledFrom([]int{0, 0, 1, 3, 12}).Draw(t, "step"))
			e := tick{
				Key: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "key"), ID: i + 1,
				At: base - int64(rapid.SampledFrom([]int{0, 0, 1, 5, 20, 60}).Draw(t, "behind")),
			}
			run.pushed = append(run.pushed, e)
			run.push(uint64(i))
		}
		run.settle(rapid.Bool().Draw(t, "drain with calls in flight"))
		run.must(run.bed.Finish())
		run.settle(false)
		run.snapshot()

		model := &askRun{t: t, topology: askTopology(t, bound, nil), pushed: run.pushed, kept: map[string][]string{}}
		model.begin(1)
		for i := range run.pushed {
			model.push(uint64(i))
		}
		model.must(model.bed.Finish())
		model.snapshot()
		for _, sink := range askSinks {
			same(t, sink, run.kept[sink], model.kept[sink])
		}
		if !spec.Unordered {
			got, want := byTickKey(t, run.kept["out-answers"]), byTickKey(t, model.kept["out-answers"])
			for key := range want {
				if !slices.Equal(got[key], want[key]) {
					t.Fatalf("key %s: %v, want %v", key, got[key], want[key])
				}
			}
		}
		for _, task := range run.bed.plan.tasks {
			for _, o := range task.subtasks {
				if keys, err := o.backend.Keys(""); err != nil || len(keys) > 0 {
					t.Fatalf("operator %s keeps state of %q behind the end (%v)", o.operator, keys, err)
				}
			}
		}
	})
}

// byTickKey returns the elements of each key in their order.
func byTickKey(t require, rows []string) map[string][]int {
	out := map[string][]int{}
	for _, s := range rows {
		e, err := codec.JSON[tick]().Decode([]byte(s))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Key] = append(out[e.Key], e.ID)
	}
	return out
}

// Two operators in a row, timers above them, and little room: nothing waits for itself.
func TestAsyncBehindTimersAndAsync(t *testing.T) {
	b := NewBuilder("chain")
	key := func(e tick) string { return e.Key }
	in := Process(KeyBy(ticks(b, "in", 0), key), "wait", func(pc *Context[tick], e tick) error {
		for i := range 5 {
			if err := pc.SetEventTimer(e.time().Add(time.Duration(i) * time.Millisecond)); err != nil {
				return err
			}
		}
		return pc.SetTimer(pc.Now().Add(time.Duration(e.At) * time.Millisecond))
	}, OnEventTimer(func(pc *Context[tick], at time.Time) error {
		pc.Emit(tick{Key: pc.Key(), At: at.UnixMilli(), ID: 1})
		return nil
	}), OnTimer(func(pc *Context[tick], at time.Time) error {
		pc.Emit(tick{Key: pc.Key(), At: 1, ID: 2})
		return nil
	}))
	same := func(_ context.Context, e tick) (tick, error) { return e, nil }
	first := Async(KeyBy(in, key), "first", AsyncSpec[tick]{Concurrency: 2, Timeout: time.Hour}, same)
	second := Async(KeyBy(first, key), "second", AsyncSpec[tick]{Concurrency: 1, Unordered: true, Timeout: time.Hour}, same)
	To(second, "out", SinkSpec[tick]{FixedSubject: "out", Codec: codec.JSON[tick]()})
	bed, err := NewTestbed(mustBuild(t, b), TestbedConfig{HoldCalls: true})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		data := fmt.Appendf(nil, `{"k":"k%d","at":%d}`, i%3, 100+i)
		if err := bed.Push("in", Record{Subject: "test.in", Data: data, Time: 1e18, Seq: uint64(i + 1)}); err != nil {
			t.Fatal(err)
		}
		if i == 10 {
			if err := bed.Advance(2 * time.Minute); err != nil {
				t.Fatal(err)
			}
		}
	}
	if task := bed.plan.tasks[0]; task.full == 0 || task.unfinished() {
		t.Fatalf("full %d, unfinished %t: a task that waits for calls has nothing to do", task.full, task.unfinished())
	}
	if _, err := bed.Snapshot(); err != nil {
		t.Fatal(err)
	}
	run := &askRun{t: t, bed: bed}
	run.settle(true)
	for range 2 { // what is due while it is full waits, and is looked at again behind
		if err := bed.Advance(time.Minute); err != nil {
			t.Fatal(err)
		}
		run.settle(false)
	}
	if err := bed.Finish(); err != nil {
		t.Fatal(err)
	}
	run.settle(false)
	// Of each key's timers those for the same time are one; the timers of the processing time are twenty.
	got := map[int]int{}
	for _, m := range bed.Output("out") {
		e, err := codec.JSON[tick]().Decode(m.Data)
		if err != nil {
			t.Fatal(err)
		}
		got[e.ID]++
	}
	if got[1] != 23+23+20 || got[2] != 20 {
		t.Errorf("%d results of event timers, %d of others", got[1], got[2])
	}
}

// A result that is there while what a watermark has made due below is still firing, slice by slice, waits until it has.
func TestAsyncResultsComeBehindWhatIsDue(t *testing.T) {
	b := NewBuilder("behind")
	key := func(e tick) string { return e.Key }
	answers := Async(KeyBy(ticks(b, "in", 0), key), "ask", AsyncSpec[tick]{Concurrency: 10_000}, func(_ context.Context, e tick) (tick, error) { return e, nil })
	to(Process(KeyBy(answers, key), "timers", func(pc *Context[string], e tick) error {
		pc.Emit(e.Key)
		return pc.SetEventTimer(e.time().Add(50 * time.Millisecond))
	}, OnEventTimer(func(pc *Context[string], at time.Time) error {
		pc.Emit("timer")
		return nil
	})), "out")
	bed, err := NewTestbed(mustBuild(t, b), TestbedConfig{HoldCalls: true})
	if err != nil {
		t.Fatal(err)
	}
	const due = 3*fireBudget + 1
	for i := range due {
		pushTick(t, bed, tick{Key: fmt.Sprint("k", i), At: 100})
	}
	if err := answerAll(t, bed); err != nil {
		t.Fatal(err)
	}
	bed.Output("out")
	pushTick(t, bed, tick{Key: "before", At: 300}) // the watermark follows it
	pushTick(t, bed, tick{Key: "behind", At: 300})
	for _, c := range bed.calls {
		bed.queue = append(bed.queue, bedEvent{c.task, c.made(bed.now)})
	}
	bed.calls = nil
	if err := bed.settle(); err != nil {
		t.Fatal(err)
	}
	got := payloads(bed.Output("out"))
	if len(got) != due+2 || got[0] != "before" || got[len(got)-1] != "behind" {
		t.Errorf("%d results, the element behind the watermark at %d", len(got), slices.Index(got, "behind"))
	}
}
