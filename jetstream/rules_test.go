package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// ruling answers every element with the rules in force.
func ruling(t testing.TB) *processor.Topology {
	t.Helper()
	b := processor.NewBuilder("ruling")
	rules := processor.Rules(b, "limits", processor.RulesSpec[int64]{Bucket: "limits", Codec: codec.JSON[int64]()})
	in := processor.From(b, "in", processor.SourceSpec[string]{Filters: []tenants.Filter{"in"}, Codec: codec.String()})
	out := processor.Broadcast(processor.KeyBy(in, func(s string) string { return s }), rules, "apply",
		func(pc *processor.Context[string], v string, rules *processor.RuleView[int64]) error {
			text := v
			for key, limit := range rules.All() {
				text += fmt.Sprintf(" %s=%d", key, limit)
			}
			pc.Emit(text)
			return nil
		})
	processor.To(out, "out", processor.SinkSpec[string]{FixedSubject: "out", Codec: codec.String()})
	topology, err := b.Build()
	ok(t, err)
	return topology
}

// rulingJob is a worker that runs the job until it is stopped as by a crash.
type rulingJob struct {
	w      *world
	t      testing.TB
	tenant tenants.ID
	job    *processor.Job
	stop   func()
	sent   int
}

func (r *rulingJob) start(parallelism int, choose ...func(*processor.JobConfig)) {
	r.t.Helper()
	cfg := processor.JobConfig{Parallelism: parallelism, Checkpoint: processor.CheckpointConfig{Interval: 20 * time.Millisecond}}
	for _, f := range choose {
		f(&cfg)
	}
	rt, err := processor.NewRuntime(processor.RuntimeConfig{Broker: r.w.b, Worker: "w1"})
	ok(r.t, err)
	r.job, err = rt.Deploy(context.Background(), ruling(r.t), r.tenant, cfg)
	ok(r.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan struct{})
	go func() {
		defer close(ran)
		_ = rt.Run(ctx) // it is cancelled
	}()
	r.stop = func() {
		cancel()
		<-ran
	}
	r.t.Cleanup(func() { r.stop() })
}

// say publishes an element and returns what comes of it.
func (r *rulingJob) say() string {
	r.t.Helper()
	r.sent++
	word := fmt.Sprint("e", r.sent)
	_, err := r.w.js.Publish(context.Background(), string(r.tenant)+".in", []byte(word))
	ok(r.t, err)
	var answer string
	until(r.t, "the answer to "+word, func() bool {
		s, err := r.w.js.Stream(context.Background(), string(r.tenant))
		ok(r.t, err)
		last, err := s.GetLastMsgForSubject(context.Background(), string(r.tenant)+".out")
		if err != nil || !strings.HasPrefix(string(last.Data)+" ", word+" ") {
			return false
		}
		answer = strings.TrimSpace(strings.TrimPrefix(string(last.Data), word))
		return true
	})
	return answer
}

// hears says something until the rules are what is wanted.
func (r *rulingJob) hears(want string) {
	r.t.Helper()
	var last string
	until(r.t, "the rules are "+want, func() bool { last = r.say(); return last == want })
}

// TestRulesOnServer takes a job through everything that happens to rules: while it runs, while it is down, and to their bucket.
func TestRulesOnServer(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	j := &rulingJob{w: w, t: t, tenant: "acme"}
	errs := processor.CheckStart(ctx, w.b, ruling(t), tenants.JobID{Tenant: "acme", Name: "ruling"}, processor.JobConfig{})
	if err := errors.Join(errs...); err == nil || !strings.Contains(err.Error(), "nats kv add limits") {
		t.Fatalf("without its bucket the job is checked with %v", err)
	}
	kv := w.kv(js.KeyValueConfig{Bucket: "limits"})
	putRow(t, kv, "acme.a", "0")
	putRow(t, kv, "acme.a", "1")
	putRow(t, kv, "acme.b", "2")
	putRow(t, kv, "globex.a", "1000")
	j.start(2)
	equal(t, "first rules", j.say(), "a=1 b=2")

	putRow(t, kv, "acme.c=2Ed", "3")
	ok(t, kv.Delete(ctx, "acme.b"))
	j.hears("a=1 c.d=3")
	putRow(t, kv, "acme.a", `"no number"`)
	until(t, "the dead letter", func() bool { return j.job.Metrics().DeadLetters == 1 })
	equal(t, "rules behind one that was refused", j.say(), "a=1 c.d=3")
	s, err := w.js.Stream(ctx, "WEIR_DLQ")
	ok(t, err)
	until(t, "it is published", func() bool {
		m, err := s.GetLastMsgForSubject(ctx, "weir.dlq.acme.ruling")
		return err == nil && strings.Contains(m.Header.Get(processor.HeaderError), `rule "a" of bucket limits`) && m.Header.Get(processor.HeaderSubject) == "$KV.limits.acme.a"
	})

	for _, parallelism := range []int{4, 3, 1} {
		j.stop()
		putRow(t, kv, "acme.a", fmt.Sprint(10*parallelism))
		putRow(t, kv, "acme.gone", "1")
		j.start(parallelism)
		j.hears(fmt.Sprintf("a=%d c.d=3 gone=1", 10*parallelism))
		j.stop()
		// It goes without a trace, and so do the revisions behind which the job has read.
		bucket, err := w.js.Stream(ctx, "KV_limits")
		ok(t, err)
		ok(t, bucket.Purge(ctx, js.WithPurgeSubject("$KV.limits.acme.gone")))
		j.start(parallelism)
		equal(t, "rules of a checkpoint, but what is gone", j.say(), fmt.Sprintf("a=%d c.d=3", 10*parallelism))
	}

	ok(t, w.js.DeleteKeyValue(ctx, "limits"))
	until(t, "the job fails", func() bool { return j.job.Status().State == processor.JobFailed })
	var fault *processor.StreamError
	if err := j.job.Status().Err; !errors.As(err, &fault) || fault.Fault != processor.StreamMissing || fault.Source != "limits" {
		t.Errorf("the job failed with %v", err)
	}
	j.stop()
	w.kv(js.KeyValueConfig{Bucket: "limits"})
	j.start(2, func(c *processor.JobConfig) { c.AllowDataLoss = true })
	j.hears("")
}

// A bucket without keys is no rules, and one whose keys all belong to others, or are gone, is too.
func TestRulesOfAnEmptyBucket(t *testing.T) {
	for name, fill := range map[string]func(t *testing.T, kv js.KeyValue){
		"empty":    func(*testing.T, js.KeyValue) {},
		"others'":  func(t *testing.T, kv js.KeyValue) { putRow(t, kv, "globex.a", "1") },
		"reserved": func(t *testing.T, kv js.KeyValue) { putRow(t, kv, "acme._weir", "1") },
		"deleted": func(t *testing.T, kv js.KeyValue) {
			putRow(t, kv, "acme.a", "1")
			ok(t, kv.Purge(context.Background(), "acme.a"))
		},
		"forgotten": func(t *testing.T, kv js.KeyValue) {
			putRow(t, kv, "acme.a", "1")
			ok(t, kv.Delete(context.Background(), "acme.a"))
			ok(t, kv.PurgeDeletes(context.Background(), js.DeleteMarkersOlderThan(-1)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			fill(t, w.kv(js.KeyValueConfig{Bucket: "limits"}))
			j := &rulingJob{w: w, t: t, tenant: "acme"}
			j.start(2)
			equal(t, "rules", j.say(), "")
		})
	}
}

func TestRulesOfAMirror(t *testing.T) {
	w := newWorld(t)
	kv := w.kv(js.KeyValueConfig{Bucket: "origin"})
	putRow(t, kv, "acme.a", "1")
	w.kv(js.KeyValueConfig{Bucket: "limits", Mirror: &js.StreamSource{Name: "origin"}})
	until(t, "the mirror has it", func() bool {
		s, err := w.js.Stream(t.Context(), "KV_limits")
		ok(t, err)
		i, err := s.Info(t.Context())
		ok(t, err)
		return i.State.Msgs == 1
	})
	j := &rulingJob{w: w, t: t, tenant: "acme"}
	j.start(1)
	equal(t, "rules", j.say(), "a=1")
}
