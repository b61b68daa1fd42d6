package processortest_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/processor/processortest"
	"github.com/weirstream/weir/state"
)

var seen = state.NewValue[int64]("seen")

func count(pc *processor.Context[int64], v string) error {
	switch {
	case v == "bad":
		return processor.Poison(errors.New("bad word"))
	case v == "panic":
		panic("no such word")
	}
	n, err := seen.Get(pc)
	if err != nil {
		return err
	}
	pc.Emit(n + 1)
	return seen.Set(pc, n+1)
}

func identity(s string) string { return s }

func newCount(t *testing.T, parallelism int) *processortest.Harness[string, int64] {
	t.Helper()
	h, err := processortest.NewHarness(func(in processor.Stream[string]) processor.Stream[int64] {
		return processor.Process(processor.KeyBy(in, identity), "count", count, processor.Uses(seen))
	}, processortest.HarnessConfig{Parallelism: parallelism})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func push(t *testing.T, h *processortest.Harness[string, int64], words ...string) {
	t.Helper()
	if err := h.Push(words...); err != nil {
		t.Fatal(err)
	}
}

func TestHarnessRestoresAtAnotherParallelism(t *testing.T) {
	h := newCount(t, 3)
	push(t, h, "a", "b", "a")
	first, err := h.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	push(t, h, "a", "c")
	second, err := h.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	push(t, h, "c")
	h.Take()
	for _, c := range []struct {
		from        processortest.Snapshot
		parallelism int
		want        []int64
	}{
		{second, 1, []int64{4, 2, 2}},
		{first, 7, []int64{3, 2, 1}},
		{second, 128, []int64{4, 2, 2}},
	} {
		if err := h.Restore(c.from, c.parallelism); err != nil {
			t.Fatal(err)
		}
		push(t, h, "a", "b", "c")
		if got := h.Take(); !slices.Equal(got, c.want) {
			t.Errorf("at parallelism %d: got %v, want %v", c.parallelism, got, c.want)
		}
	}
}

func TestHarnessDeadLettersAndPanics(t *testing.T) {
	for _, parallelism := range []int{1, 4} {
		h := newCount(t, parallelism)
		push(t, h, "a", "bad", "a")
		if got := h.Take(); !slices.Equal(got, []int64{1, 2}) {
			t.Errorf("got %v", got)
		}
		dead := h.DeadLetters()
		if len(dead) != 1 || dead[0].Element != "bad" || dead[0].Operator != "count" || !strings.Contains(dead[0].Error, "bad word") {
			t.Errorf("dead letters: %+v", dead)
		}
		err := h.Push("panic")
		var p *processor.PanicError
		if !errors.As(err, &p) || p.Operator != "count" || p.Value != "no such word" || p.Seq != 4 {
			t.Errorf("push after a panic: %v", err)
		}
		if processor.ClassOf(err) != processor.ClassRestart {
			t.Errorf("a panic has class %v, want restart", processor.ClassOf(err))
		}
	}
}

// A timer function that sets a timer for the past must not keep the harness, nor a task, busy for ever.
func TestTimerForThePast(t *testing.T) {
	fired := 0
	h, err := processortest.NewHarness(func(in processor.Stream[string]) processor.Stream[int64] {
		return processor.Process(processor.KeyBy(in, identity), "loop", func(pc *processor.Context[int64], _ string) error {
			return pc.SetTimer(pc.Now().Add(time.Second))
		}, processor.OnTimer(func(pc *processor.Context[int64], at time.Time) error {
			if fired++; fired < 5 {
				return pc.SetTimer(at.Add(-time.Hour))
			}
			return nil
		}))
	}, processortest.HarnessConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Push("a"); err != nil {
		t.Fatal(err)
	}
	if err := h.Advance(time.Minute); err != nil {
		t.Fatal(err)
	}
	if fired != 5 {
		t.Errorf("fired %d times, want 5", fired)
	}
}
