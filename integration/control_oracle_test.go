package integration_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// feed is a tenant's input as it lies in the stream, and what a job makes of each record. State at a position is the replay of all
// before it, however often a job was sent back: so the result of a record is always the same.
type feed struct {
	tenant string
	hist   *history

	mu      sync.Mutex
	records []fedRecord // only appended to
	model   map[string]tally
}

type fedRecord struct {
	seq    uint64
	data   []byte
	result tally
	dead   bool
}

func newFeed(tenant string) *feed {
	return &feed{tenant: tenant, hist: newHistory(tenant), model: map[string]tally{}}
}

// publish sends inputs and notes where they lie.
func (f *feed) publish(ctx context.Context, s *site, inputs []input) error {
	for _, in := range inputs {
		ack, err := s.js.Publish(ctx, f.tenant+"."+in.subject, in.data)
		if err != nil {
			return fmt.Errorf("publish input of tenant %s: %w", f.tenant, err)
		}
		f.mu.Lock()
		r := fedRecord{seq: ack.Sequence, data: in.data}
		var good bool
		if r.result, good = stepTally(f.model, in.data); good {
			f.model[r.result.Key] = r.result
		}
		r.dead = !good
		f.records = append(f.records, r)
		f.mu.Unlock()
	}
	return nil
}

func (f *feed) last() uint64 {
	if all := f.all(); len(all) > 0 {
		return all[len(all)-1].seq
	}
	return 0
}

func (f *feed) all() []fedRecord {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.records
}

// part is the records behind from, up to to.
func (f *feed) part(from, to uint64) []fedRecord {
	all := f.all()
	behind := func(p uint64) int {
		n, found := slices.BinarySearchFunc(all, p, func(r fedRecord, p uint64) int { return cmp.Compare(r.seq, p) })
		if found {
			n++
		}
		return n
	}
	return all[behind(from):behind(to)]
}

// times is a key's count at a position.
func (f *feed) times(key string, position uint64) uint64 {
	n := uint64(0)
	for _, r := range f.part(0, position) {
		if !r.dead && r.result.Key == key {
			n++
		}
	}
	return n
}

// recorder keeps every manifest and every head that was ever written, also those that were cleaned up since.
type recorder struct {
	mu        sync.Mutex
	at        uint64
	manifests map[uint64]*barriers.Manifest // by sequence
	heads     map[string]*barriers.Head     // the last, by tenant.job
	committed map[string]map[uint64]uint64  // by tenant.job: checkpoint, sequence
	wrong     []string
}

func record(t testing.TB, s js.JetStream) *recorder {
	t.Helper()
	r := &recorder{manifests: map[uint64]*barriers.Manifest{}, heads: map[string]*barriers.Head{}, committed: map[string]map[uint64]uint64{}}
	cons, err := s.OrderedConsumer(context.Background(), "KV_"+jetstream.CheckpointBucket, js.OrderedConsumerConfig{})
	ok(t, err)
	cc, err := cons.Consume(func(m js.Msg) {
		r.mu.Lock()
		defer r.mu.Unlock()
		meta, err := m.Metadata()
		if err == nil {
			err = r.note(meta.Sequence.Stream, strings.TrimPrefix(m.Subject(), "$KV."+jetstream.CheckpointBucket+"."), m.Data())
		}
		if err != nil {
			r.wrong = append(r.wrong, fmt.Sprintf("%s: %v", m.Subject(), err))
		}
	})
	ok(t, err)
	t.Cleanup(func() { cc.Stop(); <-cc.Closed() })
	return r
}

func (r *recorder) note(seq uint64, key string, data []byte) error {
	r.at = seq
	tokens := strings.Split(key, ".")
	if len(data) == 0 || len(tokens) > 3 || len(tokens) == 1 || tokens[0] == "_weir" {
		return nil // removed, a savepoint, or a heartbeat
	}
	if len(tokens) == 3 {
		if _, err := strconv.ParseUint(tokens[2], 10, 64); err != nil {
			return nil
		}
		m, err := barriers.DecodeManifest(data)
		r.manifests[seq] = m
		return err
	}
	h, err := barriers.DecodeHead(data)
	if err != nil {
		return err
	}
	r.heads[key] = h
	if r.committed[key] == nil {
		r.committed[key] = map[uint64]uint64{}
	}
	for _, ref := range h.Retained {
		r.committed[key][ref.Checkpoint] = ref.Seq
	}
	if h.Checkpoint > 0 && h.ManifestSeq > 0 {
		r.committed[key][h.Checkpoint] = h.ManifestSeq
	}
	return nil
}

// span is a part of the input that a job read in one go: behind from, up to to.
type span struct{ from, to uint64 }

// spans says what a job has committed: one span, and one more for each time it was started from elsewhere.
func (r *recorder) spans(t testing.TB, s *site, tenant, job string) []span {
	t.Helper()
	info, err := s.js.Stream(context.Background(), "KV_"+jetstream.CheckpointBucket)
	ok(t, err)
	last := info.CachedInfo().State.LastSeq
	eventually(t, "the recorder has seen every commit", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.at >= last || len(r.wrong) > 0
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.wrong) > 0 {
		t.Fatalf("records that cannot be read:\n%s", firstLines(r.wrong, 10))
	}
	refs := r.committed[tenant+"."+job]
	ids := make([]uint64, 0, len(refs))
	for id := range refs {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	var all []span
	var now span
	begun := false
	for _, id := range ids {
		m := r.manifests[refs[id]]
		if m == nil {
			t.Fatalf("job %s/%s: checkpoint %d was committed with a manifest at %d that was never there", tenant, job, id, refs[id])
		}
		p := uint64(0)
		if len(m.Sources) > 0 { // a fresh start names none
			p = m.Sources[0].Position
		}
		if m.Kind == barriers.KindStart {
			if begun {
				all = append(all, now)
			}
			now = span{p, p}
		} else if p < now.to {
			t.Fatalf("job %s/%s: checkpoint %d goes back from %d to %d without a start", tenant, job, id, now.to, p)
		}
		now.to, begun = p, true
	}
	return append(all, now)
}

// exactSpans fails the test unless a job has published exactly what the spans of its input say, and its bucket holds the last of each
// key. A shadow is where a fork writes.
func (s *site) exactSpans(t testing.TB, f *feed, job, shadow string, spans []span) {
	t.Helper()
	want := map[string][]tally{}
	last := map[string]tally{}
	dead := map[string]int{}
	for _, sp := range spans {
		for _, r := range f.part(sp.from, sp.to) {
			if r.dead {
				dead[string(r.data)]++
				continue
			}
			want[r.result.Key] = append(want[r.result.Key], r.result)
			last[r.result.Key] = r.result
		}
	}
	prefix := f.tenant + "."
	if shadow != "" {
		prefix += shadow + "."
	}
	got, err := readResults(context.Background(), s.js, f.tenant, job, prefix)
	ok(t, err)
	wrong := compareLists(want, got.results)
	for key, c := range last {
		if got.bucket[key] != c {
			wrong = append(wrong, fmt.Sprintf("bucket entry %s is %+v, the input says %+v", key, got.bucket[key], c))
		}
	}
	for key := range got.bucket {
		if _, is := last[key]; !is {
			wrong = append(wrong, fmt.Sprintf("unexpected: bucket entry %s", key))
		}
	}
	for _, d := range got.dead {
		dead[string(d)]--
	}
	for data, n := range dead {
		if n != 0 {
			wrong = append(wrong, fmt.Sprintf("dead letter %.60q: %d more are due", data, n))
		}
	}
	if len(wrong) > 0 {
		t.Fatalf("job %s/%s: not exact, it committed %v of an input up to %d:\n%s", f.tenant, job, spans, f.last(), firstLines(wrong, 20))
	}
}

// compareLists names what is wrong with the results of each key.
func compareLists(want, got map[string][]tally) (wrong []string) {
	for key := range got {
		if _, is := want[key]; !is {
			wrong = append(wrong, fmt.Sprintf("unexpected: %d results of key %s", len(got[key]), key))
		}
	}
	for key, list := range want {
		is := got[key]
		if slices.Equal(is, list) {
			continue
		}
		at := 0
		for at < len(is) && at < len(list) && is[at] == list[at] {
			at++
		}
		wrong = append(wrong, fmt.Sprintf("key %s: %d results of %d; they differ from the %dth on: %v, the input says %v",
			key, len(is), len(list), at+1, is[at:min(at+3, len(is))], list[at:min(at+3, len(list))]))
	}
	return wrong
}

// readTally decodes a result, which must be the tenant's own.
func readTally(tenant string, data []byte) (tally, error) {
	var c tally
	err := json.Unmarshal(data, &c)
	if err == nil && c.Tenant != tenant {
		err = fmt.Errorf("leaked: key %q of tenant %s is in the output of %s", c.Key, c.Tenant, tenant)
	}
	return c, err
}

// results are what one job left on the broker.
type results struct {
	results map[string][]tally // by key, in order
	bucket  map[string]tally
	dead    [][]byte
}

func readResults(ctx context.Context, s js.JetStream, tenant, job, prefix string) (results, error) {
	out := results{results: map[string][]tally{}, bucket: map[string]tally{}}
	err := readStream(ctx, s, outputOf(tenant), prefix+"out.>", func(m js.Msg) error {
		c, err := readTally(tenant, m.Data())
		if err == nil && m.Subject() != prefix+"out."+tenants.EscapeToken(c.Key) {
			err = fmt.Errorf("key %q is on subject %s", c.Key, m.Subject())
		}
		out.results[c.Key] = append(out.results[c.Key], c)
		return err
	})
	if err != nil {
		return out, err
	}
	kv := "$KV." + tallyBucket + "." + prefix
	err = readStream(ctx, s, "KV_"+tallyBucket, kv+"*", func(m js.Msg) error {
		key, err := tenants.UnescapeToken(strings.TrimPrefix(m.Subject(), kv))
		if err != nil {
			return err
		}
		out.bucket[key], err = readTally(tenant, m.Data())
		return err
	})
	if err != nil {
		return out, err
	}
	id := tenants.JobID{Tenant: tenants.ID(tenant), Name: job}
	err = readStream(ctx, s, jetstream.DeadLetterStream, processor.DeadLetterSubject(id), func(m js.Msg) error {
		out.dead = append(out.dead, m.Data())
		return nil
	})
	return out, err
}
