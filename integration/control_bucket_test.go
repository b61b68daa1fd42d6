package integration_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/processor"
)

// held is what the buckets hold of one tenant, and what of it is referred to.
type held struct {
	objects    map[string]bool
	referenced map[string]string // by whom
	records    []string          // keys in the checkpoint bucket that nothing asks for
	chunks     map[string]bool   // of no object
}

// look reads the buckets as a person would, with nothing of Weir's but the form of its records.
func (s *site) look(ctx context.Context, tenant string) (held, error) {
	h := held{objects: map[string]bool{}, referenced: map[string]string{}, chunks: map[string]bool{}}
	kv, err := s.js.KeyValue(ctx, jetstream.CheckpointBucket)
	if err != nil {
		return h, err
	}
	records := map[string][]byte{}
	prefix := "$KV." + jetstream.CheckpointBucket + "."
	err = readStream(ctx, s.js, "KV_"+kv.Bucket(), prefix+tenant+".>", func(m js.Msg) error {
		if len(m.Data()) > 0 {
			records[strings.TrimPrefix(m.Subject(), prefix)] = m.Data()
		}
		return nil
	})
	if err != nil {
		return h, err
	}
	wanted := map[string]bool{}
	for key, data := range records {
		if strings.Count(key, ".") != 1 {
			continue
		}
		head, err := barriers.DecodeHead(data)
		if err != nil {
			return h, err
		}
		for _, ref := range head.Retained {
			wanted[fmt.Sprintf("%s.%d", key, ref.Checkpoint)] = true
		}
		wanted[fmt.Sprintf("%s.%d", key, head.Checkpoint)] = true
	}
	for key, data := range records {
		if strings.Count(key, ".") == 1 {
			continue
		}
		if !wanted[key] && !strings.Contains(key, ".savepoint.") {
			h.records = append(h.records, key)
			continue
		}
		m, err := barriers.DecodeManifest(data)
		if err != nil {
			h.records = append(h.records, fmt.Sprintf("%s: %v", key, err))
			continue
		}
		for _, o := range objectsOf(m) {
			h.referenced[o] = key
		}
	}
	slices.Sort(h.records)
	return h, s.lookAtObjects(ctx, tenant, &h)
}

func objectsOf(m *barriers.Manifest) (names []string) {
	for _, op := range m.Operators {
		for _, o := range op.Chain {
			names = append(names, o.Name)
		}
	}
	for _, sink := range m.Sinks {
		for _, o := range sink.Pending {
			names = append(names, o.Name)
		}
	}
	return names
}

func (s *site) lookAtObjects(ctx context.Context, tenant string, h *held) error {
	bucket := "weir_" + tenant
	stream, err := s.js.Stream(ctx, "OBJ_"+bucket)
	if err != nil {
		return err
	}
	info, err := stream.Info(ctx, js.WithSubjectFilter("$O."+bucket+".C.>"))
	if err != nil {
		return err
	}
	for subject := range info.State.Subjects {
		h.chunks[strings.TrimPrefix(subject, "$O."+bucket+".C.")] = true
	}
	return readStream(ctx, s.js, "OBJ_"+bucket, "$O."+bucket+".M.>", func(m js.Msg) error {
		var o struct {
			Name, NUID string
			Deleted    bool
		}
		if err := json.Unmarshal(m.Data(), &o); err != nil {
			return err
		}
		delete(h.chunks, o.NUID)
		if !o.Deleted {
			h.objects[o.Name] = true
		}
		return nil
	})
}

// wrong names what is held and not referred to, and the other way round.
func (h held) wrong() (out []string) {
	for name := range h.objects {
		if h.referenced[name] == "" {
			out = append(out, "left behind: object "+name)
		}
	}
	for name, by := range h.referenced {
		if !h.objects[name] {
			out = append(out, fmt.Sprintf("lost: object %s of %s", name, by))
		}
	}
	for name := range h.chunks {
		out = append(out, "left behind: chunks "+name)
	}
	for _, key := range h.records {
		out = append(out, "left behind: record "+key)
	}
	slices.Sort(out)
	return out
}

// exactBuckets waits until clean-up, which runs beside the job, has come to its end, and fails unless it does. What was merged for the
// next checkpoint is referred to when that is there: nudge takes it.
func (s *site) exactBuckets(t testing.TB, tenant string, nudge func()) {
	t.Helper()
	var h held
	var wrong []string
	deadline := time.Now().Add(20 * time.Second)
	for n := 1; ; n++ {
		if n%100 == 0 {
			nudge()
		}
		var err error
		if h, err = s.look(context.Background(), tenant); err != nil {
			t.Fatal(err)
		}
		if wrong = h.wrong(); len(wrong) == 0 || time.Now().After(deadline) {
			break
		}
		breathe(context.Background())
	}
	if len(wrong) > 0 {
		t.Fatalf("the buckets of %s hold %d objects, %d are referred to:\n%s", tenant, len(h.objects), len(h.referenced), firstLines(wrong, 20))
	}
}

// TestControlBuckets: after 200 checkpoints and 20 savepoints the buckets hold exactly what is referred to, also when half of the
// savepoints are deleted, when the job was started from one of them, and when it is deleted with all of them.
func TestControlBuckets(t *testing.T) {
	rng := newRand(newSeed(t))
	s := oneSite(t)
	f := newFeed("bucket")
	s.layout(t, f.tenant, true)
	s.controlWorker(t, controlConfig{Name: "w", Tenants: []string{f.tenant}, Interval: time.Hour, Retained: 3, Timeout: patience, Takeover: time.Second})
	next := func() { done[processor.CheckpointReport](t, s, f.tenant, tallyName, "checkpoint", nil) }
	kept := map[string]uint64{}
	for n := range 200 {
		ok(t, f.publish(context.Background(), s, f.hist.random(rng, 3, 9)))
		if n%10 == 5 {
			name := fmt.Sprintf("sp-%d", n)
			kept[name] = done[processor.SavepointReport](t, s, f.tenant, tallyName, "savepoint", body{"name": name}).Positions["events"].Sequence
			continue
		}
		next()
	}
	s.exactBuckets(t, f.tenant, next)
	deleted := 0
	for _, name := range sortedNames(kept) {
		if deleted < 10 && rng.IntN(2) == 0 || len(kept) == 10 {
			done[struct{ Done bool }](t, s, f.tenant, tallyName, "savepoint-delete", body{"name": name})
			delete(kept, name)
			deleted++
		}
	}
	s.exactBuckets(t, f.tenant, next)
	names := sortedNames(kept)
	for n := range 3 {
		s.beside(t, f, n, rng)
		s.startedWhileDeleted(t, f, fmt.Sprintf("gone-%d", n))
	}
	done[processor.JobReport](t, s, f.tenant, tallyName, "start", body{"from": "savepoint", "savepoint": names[rng.IntN(len(names))]})
	s.settle(t, f, tallyName)
	s.exactBuckets(t, f.tenant, next)
	for _, name := range names {
		st := done[processor.StateReport](t, s, f.tenant, tallyName, "state", body{"operator": "count", "state": "times", "key": keyName(1), "savepoint": name})
		if want := f.times(keyName(1), kept[name]); st.Found != (want > 0) || st.Found && string(st.Value) != fmt.Sprint(want) {
			t.Fatalf("savepoint %s at %d: key %s was seen %s times, the input says %d", name, kept[name], keyName(1), st.Value, want)
		}
	}
	s.exactSpans(t, f, tallyName, "", s.rec.spans(t, s, f.tenant, tallyName))
	done[struct{ Done bool }](t, s, f.tenant, tallyName, "delete", body{"confirm": tallyName, "savepoints": true})
	h, err := s.look(context.Background(), f.tenant)
	ok(t, err)
	if len(h.objects)+len(h.chunks) > 0 || len(h.referenced) > 0 {
		t.Fatalf("the job is deleted, and there are %d objects, %d of them referred to, and %d chunks of none", len(h.objects), len(h.referenced), len(h.chunks))
	}
}

// beside forks the job from its oldest checkpoint while the clean-up is about to remove that one: the fork starts there, or is
// refused at once.
func (s *site) beside(t testing.TB, f *feed, n int, rng *rand.Rand) {
	t.Helper()
	page := done[struct {
		Checkpoints []processor.CheckpointReport
		Next        string
	}](t, s, f.tenant, tallyName, "checkpoints", nil)
	oldest := page.Checkpoints[len(page.Checkpoints)-1]
	as := fmt.Sprintf("fork-%d", n)
	cleaned := make(chan error, 1)
	go func() {
		for range 4 {
			if err := f.publish(context.Background(), s, f.hist.random(rng, 2, 9)); err != nil {
				cleaned <- err
				return
			}
			if _, err := s.persist(context.Background(), f.tenant, tallyName, "checkpoint", nil); err != nil {
				cleaned <- err
				return
			}
		}
		cleaned <- nil
	}()
	a, err := s.persist(context.Background(), f.tenant, tallyName, "fork", body{"as": as, "checkpoint": oldest.Checkpoint})
	ok(t, err)
	ok(t, <-cleaned)
	switch a.reason {
	case "":
		s.settle(t, f, as)
		spans := s.rec.spans(t, s, f.tenant, as)
		if want := oldest.Positions[inputOf(f.tenant)]; spans[0].from != want {
			t.Fatalf("fork %s was to start at %d: %v", as, want, spans)
		}
		s.exactSpans(t, f, as, "shadow."+as, spans)
	case processor.ReasonNotFound, processor.ReasonFailed: // removed before the request, or since
	default:
		t.Fatalf("forking from checkpoint %d, which is being removed: %s", oldest.Checkpoint, a.Error())
	}
	if a, err = s.persist(context.Background(), f.tenant, as, "delete", body{"confirm": as}); err != nil || a.reason != "" && a.reason != processor.ReasonUnknownJob {
		t.Fatal(a.Error(), err)
	}
}

// startedWhileDeleted starts the job from a savepoint that is deleted at the same moment: it starts there, or is refused and runs on.
func (s *site) startedWhileDeleted(t testing.TB, f *feed, name string) {
	t.Helper()
	before := s.rec.spans(t, s, f.tenant, tallyName)
	at := done[processor.SavepointReport](t, s, f.tenant, tallyName, "savepoint", body{"name": name}).Positions["events"].Sequence
	gone := make(chan error, 1)
	go func() {
		_, err := s.persist(context.Background(), f.tenant, tallyName, "savepoint-delete", body{"name": name})
		gone <- err
	}()
	a, err := s.persist(context.Background(), f.tenant, tallyName, "start", body{"from": "savepoint", "savepoint": name})
	ok(t, err)
	ok(t, <-gone)
	s.settle(t, f, tallyName)
	after := s.rec.spans(t, s, f.tenant, tallyName)
	switch {
	case a.reason == "" && len(after) == len(before)+1 && after[len(after)-1].from == at:
	case a.reason != "" && len(after) == len(before):
	default:
		t.Fatalf("starting from savepoint %s at %d, which is being deleted, answers %q; the commits before were %v, after it %v", name, at, a.Error(), before, after)
	}
}
