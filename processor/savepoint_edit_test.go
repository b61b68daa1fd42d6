package processor_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/processor/processortest"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

var editJob = tenants.JobID{Tenant: "acme", Name: "counting"}

// tallyTopology is counting with its operator under another name, and a deadline per word.
func tallyTopology(t *testing.T, operator string) *processor.Topology {
	t.Helper()
	b := processor.NewBuilder("counting")
	words := processor.From(b, "words", processor.SourceSpec[string]{Filters: []tenants.Filter{"words"}, Codec: codec.String()})
	counts := processor.Process(processor.KeyBy(words, func(w string) string { return w }), operator,
		countWord, processor.Uses(wordTotal), processor.OnTimer(func(pc *processor.Context[counted], _ time.Time) error {
			pc.Emit(counted{pc.Key() + "!", 1})
			return wordTotal.Clear(pc)
		}))
	processor.To(counts, "counts", processor.SinkSpec[counted]{
		Subject: func(counted) string { return "counts" }, Codec: codec.JSON[counted](),
	})
	return built(t, b)
}

func tried[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// counts reads the last count of every word that was published.
func publishedCounts(t *testing.T, m *processortest.Memory) string {
	t.Helper()
	var out []string
	for _, r := range m.Messages("acme", "acme.counts") {
		out = append(out, string(r.Data))
	}
	return strings.Join(out, "")
}

func sendWords(t *testing.T, m *processortest.Memory, words ...string) {
	t.Helper()
	for _, w := range words {
		if _, err := m.PublishTo("acme.words", nil, []byte(w)); err != nil {
			t.Fatal(err)
		}
	}
}

// runAndCrash runs the job until it has read everything and checkpointed, then crashes it.
func runAndCrash(t *testing.T, m *processortest.Memory, topology *processor.Topology, cfg processor.JobConfig) *processor.Job {
	t.Helper()
	w := startWorker(t, m, "w", processor.Listener{})
	j := w.deploy(t, topology, "acme", cfg)
	w.run()
	time.Sleep(5 * time.Second) // of the bubble
	synctest.Wait()
	w.crash(t)
	return j
}

// A job's state is made from history, the job goes on from it at parallelism 3, its checkpoint is repaired and it goes on from that.
func TestSavepointBootstrapAndEdit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		m := processortest.NewMemory(tenants.Namespace{}, nil)
		m.AddStream("acme", "acme.>")
		sendWords(t, m, "old", "old") // part of the history
		topology := tallyTopology(t, "count")
		sp := tried[*processor.Savepoint](t)(processor.NewSavepoint(m, topology, editJob, processor.BootstrapSpec{KeyGroups: 16}))
		op := tried[*processor.SavepointOperator](t)(sp.Operator(ctx, "count"))
		for word, n := range map[string]int64{"old": 2, "a": 10, "bad": 666} {
			if err := wordTotal.Set(op.Key(word), n); err != nil {
				t.Fatal(err)
			}
		}
		if err := op.Timers().Set(state.ProcessingTime, time.Now().Add(time.Second).UnixNano(), "old"); err != nil {
			t.Fatal(err)
		}
		if err := sp.SetPosition("words", processor.Position{Stream: "acme", Sequence: 2}); err != nil {
			t.Fatal(err)
		}
		history := tried[*barriers.Manifest](t)(sp.SaveAs(ctx, "history"))
		if history.KeyGroups != 16 || history.Savepoint != "history" || len(history.Operators) != 1 || len(history.Operators[0].Chain) == 0 {
			t.Fatalf("%+v", history)
		}
		start := processor.StartPoint{From: processor.FromSavepoint, Savepoint: "history"}
		sendWords(t, m, "a", "b")
		runAndCrash(t, m, topology, processor.JobConfig{Parallelism: 3, Start: start})
		if got, want := publishedCounts(t, m), `{"word":"a","count":11}{"word":"b","count":1}{"word":"old!","count":1}`; got != want {
			t.Fatalf("the job published %s, want %s", got, want)
		}

		sp = tried[*processor.Savepoint](t)(processor.OpenCheckpoint(ctx, m, topology, editJob, 0))
		op = tried[*processor.SavepointOperator](t)(sp.Operator(ctx, "count"))
		if keys := tried[[]string](t)(op.Keys(wordTotal)); !reflect.DeepEqual(keys, []string{"a", "b", "bad"}) {
			t.Fatalf("keys %q", keys)
		}
		op.Clear("bad")
		err := op.Each(wordTotal, func(c state.Context, key string) error {
			n, err := wordTotal.Get(c)
			return errors.Join(err, wordTotal.Set(c, n*10))
		})
		if err != nil {
			t.Fatal(err)
		}
		tried[*barriers.Manifest](t)(sp.SaveAs(ctx, "repaired"))
		if _, err := sp.SaveAs(ctx, "repaired"); !errors.As(err, new(*barriers.SavepointExistsError)) {
			t.Fatalf("a name that is taken: %v", err)
		}
		tried[*barriers.Manifest](t)(sp.SaveAs(ctx, "again")) // the same once more

		// What it was opened from is as it was.
		sp = tried[*processor.Savepoint](t)(processor.OpenCheckpoint(ctx, m, topology, editJob, 0))
		op = tried[*processor.SavepointOperator](t)(sp.Operator(ctx, "count"))
		if v, ok, err := op.JSON("total", "bad"); string(v) != "666" || !ok || err != nil {
			t.Fatal(string(v), ok, err)
		}
		sendWords(t, m, "a", "bad")
		start.Savepoint = "again"
		runAndCrash(t, m, topology, processor.JobConfig{Parallelism: 2, Start: start})
		if got := publishedCounts(t, m); !strings.HasSuffix(got, `{"word":"a","count":111}{"word":"bad","count":1}`) && !strings.HasSuffix(got, `{"word":"bad","count":1}{"word":"a","count":111}`) {
			t.Fatalf("the job published %s", got)
		}
	})
}

// A program whose operator has another name takes the state over after a rename.
func TestSavepointRename(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		m := processortest.NewMemory(tenants.Namespace{}, nil)
		m.AddStream("acme", "acme.>")
		sendWords(t, m, "a", "a", "b")
		runAndCrash(t, m, tallyTopology(t, "count"), processor.JobConfig{Parallelism: 3})
		renamed := tallyTopology(t, "tally")
		sp := tried[*processor.Savepoint](t)(processor.OpenCheckpoint(ctx, m, renamed, editJob, 0))
		if _, err := sp.Operator(ctx, "count"); err == nil || !strings.Contains(err.Error(), "rename") {
			t.Fatalf("reading an operator that the topology has not: %v", err)
		}
		for _, err := range []error{sp.Rename("nobody", "x"), sp.Rename("count", "No!"), sp.Drop("nobody"), sp.Drop("count", "nothing"),
			sp.SetPosition("nobody", processor.Position{Stream: "acme"}), sp.SetPosition("words", processor.Position{})} {
			if err == nil {
				t.Error("a mistake was accepted")
			}
		}
		if err := sp.Rename("count", "tally"); err != nil {
			t.Fatal(err)
		}
		if got := sp.Operators(); !reflect.DeepEqual(got, []string{"tally"}) {
			t.Fatal(got)
		}
		tried[*barriers.Manifest](t)(sp.SaveAs(ctx, "renamed")) // copied without being read
		op := tried[*processor.SavepointOperator](t)(sp.Operator(ctx, "tally"))
		if n, err := wordTotal.Get(op.Key("a")); n != 2 || err != nil {
			t.Fatal(n, err)
		}
		if err := sp.Rename("tally", "late"); err == nil {
			t.Error("an operator that was read was renamed")
		}
		sendWords(t, m, "a")
		runAndCrash(t, m, renamed, processor.JobConfig{Start: processor.StartPoint{From: processor.FromSavepoint, Savepoint: "renamed"}})
		if got := publishedCounts(t, m); !strings.HasSuffix(got, `{"word":"a","count":3}`) {
			t.Fatalf("the job published %s", got)
		}
		again := tried[*processor.Savepoint](t)(processor.OpenSavepoint(ctx, m, renamed, editJob, "renamed"))
		if err := again.Drop("tally"); err != nil {
			t.Fatal(err)
		}
		if empty := tried[*barriers.Manifest](t)(again.SaveAs(ctx, "empty")); len(empty.Operators) != 0 || empty.Sources[0].Position < 3 {
			t.Fatalf("%+v", empty)
		}
		if _, err := processor.OpenSavepoint(ctx, m, renamed, editJob, "nothing"); !errors.As(err, new(*barriers.NoSavepointError)) {
			t.Fatal(err)
		}
	})
}

// failingStore fails every upload from the n-th on.
type failingStore struct {
	*processortest.Memory
	left int
}

func (f *failingStore) Put(ctx context.Context, tenant tenants.ID, name string, data []byte) (barriers.Object, error) {
	if f.left--; f.left < 0 {
		return barriers.Object{}, fmt.Errorf("storing %s: %w", name, processor.ErrFull)
	}
	return f.Memory.Put(ctx, tenant, name, data)
}

// A savepoint that fails leaves nothing behind, and its name can be used.
func TestSavepointFails(t *testing.T) {
	ctx := t.Context()
	m := &failingStore{Memory: processortest.NewMemory(tenants.Namespace{}, nil), left: 1}
	b := processor.NewBuilder("two")
	words := processor.From(b, "words", processor.SourceSpec[string]{Filters: []tenants.Filter{"words"}, Codec: codec.String()})
	for _, name := range []string{"first", "second"} {
		out := processor.Process(processor.KeyBy(words, strings.ToLower), name,
			func(pc *processor.Context[string], w string) error { return wordTotal.Set(pc, 1) }, processor.Uses(wordTotal))
		processor.To(out, name+"-out", processor.SinkSpec[string]{Subject: func(string) string { return name }, Codec: codec.String()})
	}
	topology := tried[*processor.Topology](t)(b.Build())
	sp := tried[*processor.Savepoint](t)(processor.NewSavepoint(m, topology, editJob, processor.BootstrapSpec{}))
	for _, name := range sp.Operators() {
		op := tried[*processor.SavepointOperator](t)(sp.Operator(ctx, name))
		if err := wordTotal.Set(op.Key("k"), 1); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := sp.SaveAs(ctx, "sp"); !errors.Is(err, processor.ErrFull) {
		t.Fatal(err)
	}
	if list := m.Do(ctx, editJob, barriers.Request{Op: barriers.OpListObjects}); len(list.Objects) != 0 {
		t.Fatalf("objects are left: %v", list.Objects)
	}
	if list := m.Do(ctx, editJob, barriers.Request{Op: barriers.OpListRecords, Key: "acme.counting"}); len(list.Names) != 0 {
		t.Fatalf("records are left: %v", list.Names)
	}
	m.left = 10
	if saved, err := sp.SaveAs(ctx, "sp"); err != nil || len(saved.Operators) != 2 {
		t.Fatal(saved, err)
	}
}
