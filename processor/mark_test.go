package processor_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/processor/processortest"
	"github.com/weirstream/weir/tenants"
)

// tickingMemory is a broker whose messages each have a later time than the one before.
func tickingMemory(t *testing.T) *processortest.Memory {
	t.Helper()
	var ticks atomic.Int64
	m := processortest.NewMemory(tenants.DefaultNamespace, func() time.Time { return time.Now().Add(time.Duration(ticks.Add(1)) * time.Microsecond) })
	m.AddStream("acme", "acme.>")
	return m
}

// eager allows marks at any distance.
var eager = processor.MarkConfig{Allow: true, MinInterval: 1}

// checkMark verifies that a savepoint was cut exactly at a mark.
func checkMark(t *testing.T, m *processortest.Memory, topology *processor.Topology, name, source string, seq uint64) {
	t.Helper()
	ask := func(r barriers.Request) barriers.Reply { return m.Do(t.Context(), twoJob, r) }
	sp, err := barriers.ReadSavepoint(ask, "acme", "two", name)
	if err != nil {
		t.Error(err)
		return
	}
	if want := (barriers.Mark{Source: source, Stream: "acme", Seq: seq}); sp.Mark == nil || *sp.Mark != want {
		t.Errorf("savepoint %s is of mark %v, want %v", name, sp.Mark, want)
	}
	for _, s := range sp.Sources {
		if s.Name == source && s.Position != seq {
			t.Errorf("savepoint %s has source %s at %d, the mark is at %d", name, source, s.Position, seq)
		}
	}
	if err := checkSavepoint(t.Context(), m, topology, twoJob, name); err != nil {
		t.Error(err)
	}
}

// Each case is read as one batch: everything is published while no job reads.
func TestMarks(t *testing.T) {
	type mark struct {
		name, source string
		seq          uint64
	}
	for name, publish := range map[string]func(t *testing.T, m *processortest.Memory) []mark{
		"in the middle": func(t *testing.T, m *processortest.Memory) []mark {
			publish(t, m, "acme.left", "a", "b")
			publish(t, m, "acme.right.x", "a")
			seq := publishMark(t, m, "acme.left", "two")
			publish(t, m, "acme.left", "a", "b")
			return []mark{{fmt.Sprintf("mark-left-%d", seq), "left", seq}}
		},
		"at the end": func(t *testing.T, m *processortest.Memory) []mark {
			publish(t, m, "acme.left", "a", "b", "a")
			return []mark{{"named", "left", publishMark(t, m, "acme.left", "two named")}}
		},
		"at the beginning": func(t *testing.T, m *processortest.Memory) []mark {
			seq := publishMark(t, m, "acme.right.x", "other", "two first")
			publish(t, m, "acme.right.x", "a")
			return []mark{{"first", "right", seq}}
		},
		"two in one source": func(t *testing.T, m *processortest.Memory) []mark {
			publish(t, m, "acme.left", "a")
			one := publishMark(t, m, "acme.left", "two one")
			publish(t, m, "acme.left", "a")
			two := publishMark(t, m, "acme.left", "two two")
			publish(t, m, "acme.left", "a")
			return []mark{{"one", "left", one}, {"two", "left", two}}
		},
		"of both sources": func(t *testing.T, m *processortest.Memory) []mark {
			publish(t, m, "acme.left", "a")
			one := publishMark(t, m, "acme.left", "two one")
			publish(t, m, "acme.left", "b")
			publish(t, m, "acme.right.x", "a")
			two := publishMark(t, m, "acme.right.x", "two two")
			publish(t, m, "acme.right.x", "b")
			return []mark{{"one", "left", one}, {"two", "right", two}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachParallelism(t, func(t *testing.T, parallelism int) {
				m := tickingMemory(t)
				h := &heard{}
				w := startWorker(t, m, "w1", h.listener())
				topology := twoSources(t)
				w.deploy(t, topology, "acme", processor.JobConfig{Parallelism: parallelism, Marks: eager})
				marks := publish(t, m)
				w.run()
				time.Sleep(10 * time.Second)
				for _, k := range marks {
					checkMark(t, m, topology, k.name, k.source, k.seq)
				}
				_, events := h.all()
				for _, ev := range events {
					if ev.State != processor.MarkMade {
						t.Errorf("a mark has event %+v", ev)
					}
				}
				if len(events) != len(marks) {
					t.Errorf("%d marks were heard of, want %d", len(events), len(marks))
				}
				total := 0
				for _, n := range modelOf(m, map[string]processor.Position{"left": {Stream: "acme", Sequence: 1 << 62}, "right": {Stream: "acme", Sequence: 1 << 62}}) {
					total += int(n)
				}
				if n := len(m.Messages("acme", "acme.counts")); n != total {
					t.Errorf("%d results, want %d: a mark is no element, and nothing is lost or doubled", n, total)
				}
				must[processor.StopReport](t)(w.rt.Stop(t.Context(), twoJob, processor.StopRequest{}))
				w.crash(t)
				checkNothingLeft(t, m, twoJob)
			})
		})
	}
}

func TestMarksThatDoNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		h := &heard{}
		w := startWorker(t, m, "w1", h.listener())
		j := w.deploy(t, twoSources(t), "acme", processor.JobConfig{})
		w.run()
		publishMark(t, m, "acme.left", "two")         // not allowed
		publishMark(t, m, "acme.left", "another-job") // no element, and not ours
		for _, value := range []string{"", "Two", "two Bad-Name", "two a b", "two ", " two", "two\n", strings.Repeat("x", 100)} {
			must[uint64](t)(m.PublishTo("acme.left", map[string][]string{processor.HeaderMark: {value}}, []byte("an element")))
		}
		must[uint64](t)(m.PublishTo("acme.elsewhere", map[string][]string{processor.HeaderMark: {"two"}}, nil))
		time.Sleep(time.Second)
		checkCounts(t, m, "acme", map[string]int64{"an element": 8, "a mark": 0})
		if got, want := h.markText(), "left 1 ignored "+processor.MarkNotAllowed; !strings.HasPrefix(got, want) || strings.Contains(got, ";") {
			t.Errorf("the marks are %q", got)
		}
		if n := j.Metrics().IgnoredMarks; n != 1 {
			t.Errorf("%d marks were ignored", n)
		}
		w.crash(t)
	})
}

// A flood of marks makes few savepoints, few events, and does not hold the job up.
func TestAFloodOfMarksIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("acme")
		h := &heard{}
		w := startWorker(t, m, "w1", h.listener())
		topology := twoSources(t)
		j := w.deploy(t, topology, "acme", processor.JobConfig{Marks: processor.MarkConfig{Allow: true, Max: 3}})
		w.run()
		for range 60 {
			for range 100 {
				publishMark(t, m, "acme.left", "two")
			}
			publish(t, m, "acme.left", "a")
			time.Sleep(time.Second)
		}
		checkCounts(t, m, "acme", map[string]int64{"a": 60})
		made := 0
		_, events := h.all()
		for _, ev := range events {
			if ev.State == processor.MarkMade {
				made++
			}
		}
		if made != 3 || len(events) > 3+7+6 {
			t.Errorf("%d savepoints and %d events: %s", made, len(events), h.markText())
		}
		if n := j.Metrics().IgnoredMarks; n < 5900 {
			t.Errorf("%d of 6000 marks were counted as ignored", n)
		}
		// One that is deleted makes room for another, and is not made again.
		list := must[[]processor.SavepointReport](t)(w.rt.Savepoints(t.Context(), twoJob))
		if err := w.rt.DeleteSavepoint(t.Context(), twoJob, list[0].Name); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Second)
		publishMark(t, m, "acme.left", "two later")
		time.Sleep(time.Second)
		w.crash(t)
		w = startWorker(t, m, "w1", processor.Listener{})
		w.deploy(t, topology, "acme", processor.JobConfig{Marks: processor.MarkConfig{Allow: true, Max: 3}})
		w.run()
		time.Sleep(time.Second)
		after := must[[]processor.SavepointReport](t)(w.rt.Savepoints(t.Context(), twoJob))
		names := ""
		for _, s := range after {
			names += s.Name + " "
		}
		if len(after) != 3 || !strings.Contains(names, "later") || strings.Contains(names, list[0].Name+" ") {
			t.Errorf("the savepoints are %s, %s was deleted", names, list[0].Name)
		}
		w.crash(t)
	})
}

// failing refuses a number of uploads of checkpoints.
type failing struct {
	*processortest.Memory
	left atomic.Int64
	err  error
}

func (b *failing) Put(ctx context.Context, tenant tenants.ID, name string, data []byte) (barriers.Object, error) {
	if !strings.Contains(name, "/savepoint-") && b.left.Add(-1) >= 0 {
		return barriers.Object{}, b.err
	}
	return b.Memory.Put(ctx, tenant, name, data)
}

// Checkpoints that fail while a source stands at a mark are tried again at the same place.
func TestAMarkOutlivesAbortedCheckpoints(t *testing.T) {
	eachParallelism(t, func(t *testing.T, parallelism int) {
		m := tickingMemory(t)
		b := &failing{Memory: m, err: errors.New("the disk's fault")}
		b.left.Store(3)
		h := &heard{}
		w := startWorker(t, b, "w1", h.listener())
		topology := twoSources(t)
		w.deploy(t, topology, "acme", processor.JobConfig{Parallelism: parallelism, Marks: eager})
		publish(t, m, "acme.left", "a", "b", "c", "d")
		seq := publishMark(t, m, "acme.left", "two kept")
		publish(t, m, "acme.left", "a", "b", "c", "d")
		w.run()
		time.Sleep(10 * time.Second)
		checkMark(t, m, topology, "kept", "left", seq)
		checkCounts(t, m, "acme", map[string]int64{"a": 2, "b": 2, "c": 2, "d": 2})
		if b.left.Load() > 0 {
			t.Error("no checkpoint failed")
		}
		w.crash(t)
	})
}

// A mark whose savepoint cannot be made does not hold the job for ever.
func TestAMarkIsGivenUpInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := tickingMemory(t)
		b := &failing{Memory: m, err: processor.ErrFull}
		b.left.Store(1 << 40)
		h := &heard{}
		w := startWorker(t, b, "w1", h.listener())
		j := w.deploy(t, twoSources(t), "acme", processor.JobConfig{Marks: eager})
		w.run()
		publish(t, m, "acme.left", "a")
		publishMark(t, m, "acme.left", "two lost")
		publish(t, m, "acme.left", "a")
		time.Sleep(50 * time.Second)
		if n := j.Metrics().RecordsIn; n != 1 {
			t.Errorf("%d records were processed while the source stands at the mark", n)
		}
		time.Sleep(20 * time.Second)
		if n := j.Metrics().RecordsIn; n != 2 {
			t.Errorf("%d records were processed after the mark was given up", n)
		}
		if got := h.markText(); got != fmt.Sprintf("left 2 %s", processor.MarkFailed) {
			t.Errorf("the marks are %q", got)
		}
		b.left.Store(0)
		time.Sleep(10 * time.Second)
		checkCounts(t, m, "acme", map[string]int64{"a": 2})
		w.crash(t)
	})
}

// A stop while a source stands at a mark takes the mark's savepoint with its last checkpoint.
func TestAStopAtAMark(t *testing.T) {
	eachParallelism(t, func(t *testing.T, parallelism int) {
		m := tickingMemory(t)
		w := startWorker(t, m, "w1", processor.Listener{})
		topology := twoSources(t)
		w.deploy(t, topology, "acme", processor.JobConfig{Parallelism: parallelism, Marks: eager})
		w.run()
		time.Sleep(time.Second)
		publish(t, m, "acme.left", "a")
		seq := publishMark(t, m, "acme.left", "two last")
		must[processor.StopReport](t)(w.rt.Stop(t.Context(), twoJob, processor.StopRequest{Mode: processor.StopDrain}))
		checkMark(t, m, topology, "last", "left", seq)
		w.crash(t)
		checkNothingLeft(t, m, twoJob)
	})
}

// A job does not end before the savepoints that were cut are made, however it is stopped.
func TestAStopWaitsForSavepointsThatWereCut(t *testing.T) {
	for _, mode := range []processor.StopMode{"", processor.StopNow} {
		t.Run(string(mode), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newSlow(0)
				w := startWorker(t, b, "w1", processor.Listener{})
				topology := twoSources(t)
				w.deploy(t, topology, "acme", processor.JobConfig{Marks: eager})
				w.run()
				time.Sleep(time.Second)
				publish(t, b.Memory, "acme.left", "a")
				seq := publishMark(t, b.Memory, "acme.left", "two cut")
				time.Sleep(time.Second)
				stopped := make(chan processor.StopReport, 1)
				go func() {
					stopped <- must[processor.StopReport](t)(w.rt.Stop(t.Context(), twoJob, processor.StopRequest{Mode: mode}))
				}()
				time.Sleep(10 * time.Second)
				if state := headOf(t, b, twoJob).Head.State; state == barriers.StateStopped {
					t.Error("the job has stopped before its savepoint was made")
				}
				close(b.gate)
				<-stopped
				checkMark(t, b.Memory, topology, "cut", "left", seq)
				w.crash(t)
				checkNothingLeft(t, b.Memory, twoJob)
			})
		})
	}
}
