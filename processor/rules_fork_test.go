package processor_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/processor/processortest"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// rulingTopology answers every word with the rules that it met and their revision.
func rulingTopology(t *testing.T, name string) *processor.Topology {
	t.Helper()
	b := processor.NewBuilder(name)
	limits := processor.Rules(b, "limits", processor.RulesSpec[string]{Bucket: "limits", Codec: codec.String()})
	words := processor.From(b, "words", processor.SourceSpec[string]{Filters: []tenants.Filter{"words"}, Codec: codec.String()})
	met := processor.Broadcast(processor.KeyBy(words, func(w string) string { return w }), limits, "meet",
		func(pc *processor.Context[string], w string, limits *processor.RuleView[string]) error {
			text := fmt.Sprintf("%s@%d", w, limits.Revision())
			for key, limit := range limits.All() {
				text += " " + key + "=" + limit
			}
			pc.Emit(text)
			return nil
		})
	processor.To(met, "met", processor.SinkSpec[string]{FixedSubject: "met", Codec: codec.String()})
	return built(t, b)
}

// silentRules is a broker from which nobody hears of the rules, as long as the bucket's readers are slow.
type silentRules struct{ *processortest.Memory }

func (b silentRules) OpenReader(ctx context.Context, spec processor.ReaderSpec) (processor.Reader, error) {
	r, err := b.Memory.OpenReader(ctx, spec)
	if err == nil && spec.Source == "limits" {
		r = silentReader{r}
	}
	return r, err
}

type silentReader struct{ processor.Reader }

func (silentReader) Next(ctx context.Context) (processor.Batch, error) {
	<-ctx.Done()
	return processor.Batch{}, ctx.Err()
}

func metOn(m *processortest.Memory, subject string) string {
	var out []string
	for _, r := range m.Messages("acme", subject) {
		out = append(out, string(r.Data))
	}
	slices.Sort(out) // words of several subtasks have no order
	return strings.Join(out, ", ")
}

func putLimits(t *testing.T, m *processortest.Memory, pairs ...string) {
	t.Helper()
	for _, p := range pairs {
		key, value, set := strings.Cut(p, "=")
		var err error
		if set {
			_, err = m.PutKey("limits", key, []byte(value))
		} else {
			_, err = m.DeleteKey("limits", key)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestForkOfRules: what starts from a savepoint has the rules of the savepoint, whatever the bucket has become since and as long as nothing
// is heard of it, and over a crash; then it hears what has changed, and loses what is gone without a trace.
func TestForkOfRules(t *testing.T) {
	const early, late = "@4 a=1 b=2 d=9", "@7 a=5 c=3"
	fromSavepoint := processor.StartPoint{From: processor.FromSavepoint, Savepoint: "early", Job: "ruling"}
	for name, c := range map[string]struct {
		topology string
		job      processor.JobConfig
		subject  string
		before   string // published by the job itself, after the savepoint
	}{
		"fork":                 {topology: "copied", job: fork(fromSavepoint), subject: "acme.shadow.test.met"},
		"fork of a checkpoint": {topology: "copied", job: fork(processor.StartPoint{From: processor.FromCheckpoint, Job: "ruling"}), subject: "acme.shadow.test.met"},
		"the job itself": {
			topology: "ruling", job: processor.JobConfig{Start: processor.StartPoint{From: processor.FromSavepoint, Savepoint: "early"}}, subject: "acme.met",
			before: "x@4 a=1 b=2 d=9, y" + late + ", ",
		},
	} {
		for _, parallelism := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s at %d", name, parallelism), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := newMemory("acme")
					m.AddBucket("limits")
					original := rulingTopology(t, "ruling")
					putLimits(t, m, "acme.a=1", "acme.b=2", "acme.d=9", "globex.a=7")
					stint(t, m, original, processor.JobConfig{Parallelism: 2}, "x")
					savepoint(t, m, original, "early")
					change := func() {
						putLimits(t, m, "acme.a=5", "acme.b", "acme.c=3")
						m.Purge("KV_limits", "$KV.limits.acme.d")
					}
					last := c.job.Start.From == processor.FromCheckpoint
					if !last { // else the last checkpoint would have the change
						change()
						stint(t, m, original, processor.JobConfig{}) // what is restored comes before what is heard
						stint(t, m, original, processor.JobConfig{}, "y")
					}

					// Two lives that hear nothing of the bucket: the second has the rules of the first one's checkpoint.
					topology := rulingTopology(t, c.topology)
					c.job.Parallelism = parallelism
					for _, word := range []string{"z1", "z2"} {
						w := startWorker(t, silentRules{m}, "w1", processor.Listener{})
						j := w.deploy(t, topology, "acme", c.job)
						w.run()
						publishWords(t, m, "acme", word)
						time.Sleep(time.Second)
						if s := j.Status(); s.State != processor.JobRunning {
							t.Errorf("the job is %s: %v", s.State, s.Err)
						}
						w.crash(t)
						c.job.Parallelism = 4 - parallelism
					}
					if last {
						change()
						publishWords(t, m, "acme", "y")
					}
					stint(t, m, topology, c.job)
					stint(t, m, topology, c.job, "z3")
					want := c.before + "y" + early + ", z1" + early + ", z2" + early + ", z3" + late
					got := metOn(m, c.subject)
					if last { // it reads y with the old rules or with the new ones
						want = "z1" + early + ", z2" + early + ", z3" + late
						if _, got, _ = strings.Cut(got, ", "); !strings.HasPrefix(metOn(m, c.subject), "y@") {
							t.Errorf("y was not read")
						}
					}
					parts := strings.Split(want, ", ")
					slices.Sort(parts)
					if want = strings.Join(parts, ", "); got != want {
						t.Errorf("published %s\nwant      %s", got, want)
					}
				})
			})
		}
	}
}
