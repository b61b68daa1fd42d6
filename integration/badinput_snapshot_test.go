package integration_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/processor"
)

// storedObject is a snapshot object as it lies in its bucket: one meta message and one chunk.
type storedObject struct {
	stream      js.Stream
	meta, chunk *js.RawStreamMsg
}

func (w *world) object(t testing.TB, ref barriers.Object) storedObject {
	t.Helper()
	ctx := context.Background()
	s, err := w.js.Stream(ctx, "OBJ_"+ref.Bucket)
	ok(t, err)
	o := storedObject{stream: s}
	o.meta, err = s.GetLastMsgForSubject(ctx, "$O."+ref.Bucket+".M."+base64.URLEncoding.EncodeToString([]byte(ref.Name)))
	ok(t, err)
	var info js.ObjectInfo
	ok(t, json.Unmarshal(o.meta.Data, &info))
	if info.Chunks != 1 {
		t.Fatalf("object %s has %d chunks, the test wants 1", ref.Name, info.Chunks)
	}
	o.chunk, err = s.GetLastMsgForSubject(ctx, "$O."+ref.Bucket+".C."+info.NUID)
	ok(t, err)
	return o
}

// replace puts other bytes where a message was; nil removes it.
func (w *world) replace(t testing.TB, s js.Stream, subject string, data []byte) {
	t.Helper()
	ok(t, s.Purge(context.Background(), js.WithPurgeSubject(subject)))
	if data == nil {
		return
	}
	_, err := w.js.Publish(context.Background(), subject, data)
	ok(t, err)
}

func (w *world) repair(t testing.TB, o storedObject) {
	t.Helper()
	w.replace(t, o.stream, o.chunk.Subject, o.chunk.Data)
	w.replace(t, o.stream, o.meta.Subject, o.meta.Data)
}

func flipped(data []byte, i int) []byte {
	out := bytes.Clone(data)
	out[i] ^= 1 << (i % 8)
	return out
}

// TestBadInputObjectBytes flips every byte of an object and cuts it at every length: reading it never returns other bytes than
// were stored.
func TestBadInputObjectBytes(t *testing.T) {
	w := newWorld(t)
	rng := newRand(newSeed(t))
	spec := workerSpec{}
	broker := newWorker(t, w.srv, spec).broker
	ctx := context.Background()
	ok(t, broker.Start(ctx))
	data := make([]byte, 300)
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	ref, err := broker.Put(ctx, "acme", "tally/1-1/count-0-x", bytes.Clone(data))
	ok(t, err)
	o := w.object(t, ref)
	refused := func(what string, i int) {
		t.Helper()
		got, err := broker.Get(ctx, "acme", ref)
		var corrupt *processor.CorruptError
		switch {
		case err == nil && !bytes.Equal(got, data):
			t.Fatalf("%s at %d: other bytes were returned as if they were right", what, i)
		case err == nil && what != "meta":
			t.Fatalf("%s at %d: no error", what, i)
		case err != nil && what != "meta" && !errors.As(err, &corrupt):
			t.Fatalf("%s at %d: the error is %v, want a *processor.CorruptError", what, i, err)
		}
	}
	for i := range data {
		w.replace(t, o.stream, o.chunk.Subject, flipped(data, i))
		refused("flip", i)
	}
	for n := 1; n < len(data); n += 7 {
		w.replace(t, o.stream, o.chunk.Subject, data[:n])
		refused("cut", n)
	}
	w.repair(t, o)
	for range 12 {
		i := rng.IntN(len(o.meta.Data))
		w.replace(t, o.stream, o.meta.Subject, flipped(o.meta.Data, i))
		refused("meta", i)
	}
	w.repair(t, o)
	got, err := broker.Get(ctx, "acme", ref)
	ok(t, err)
	if !bytes.Equal(got, data) {
		t.Fatal("the repaired object has other bytes")
	}
	if _, err := broker.Get(ctx, "globex", ref); err == nil {
		t.Fatal("another tenant read the object")
	}
}

// crashed runs a job for the tenant until it crashes at the first batch commit behind some checkpoints, so that the last
// checkpoint has state and owes output, and returns the history and the last manifest.
func (w *world) crashed(t testing.TB, tenant string, seed uint64) (*history, workerSpec, *barriers.Manifest) {
	t.Helper()
	h := newHistory(tenant)
	rng := newRand(seed)
	w.stream(t, ownStream(tenant, 1))
	spec := workerSpec{name: tenant + "-1", job: smallJob(), topo: tallyTopology(t)}
	spec.job.MergeAfter = 100
	for range 3 {
		w.publish(t, tenant, h.random(rng, 30, 5))
		a := startWorker(t, w.srv, spec, tenant)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		ok(t, a.settled(ctx, w, h))
		ok(t, a.drain())
		a.kill()
	}
	w.publish(t, tenant, h.random(rng, 30, 5))
	died := make(chan struct{})
	var b *worker
	dying := spec
	dying.broker = func(cfg *jetstream.Config) {
		cfg.Intercept = func(op, subject string) jetstream.Fault {
			if op != "batch.commit" {
				return jetstream.Pass
			}
			select {
			case <-died:
			default:
				close(died)
			}
			return jetstream.Drop
		}
		cfg.MaxPart = 10_000
	}
	b = startWorker(t, w.srv, dying, tenant)
	<-died
	b.kill()
	head := headOf(t, w, tenant)
	kv, err := w.js.KeyValue(context.Background(), jetstream.CheckpointBucket)
	ok(t, err)
	entry, err := kv.Get(context.Background(), barriers.ManifestKey(tenant, tallyName, head.Checkpoint))
	ok(t, err)
	m, err := barriers.DecodeManifest(entry.Value())
	ok(t, err)
	spec.name = tenant + "-2"
	spec.runtime = func(cfg *processor.RuntimeConfig) { cfg.Worker = tenant + "-1" }
	return h, spec, m
}

// TestBadInputSnapshot damages each object that a checkpoint needs, in each way. The job fails with an error that names tenant, job,
// bucket and object, publishes nothing, and goes on to an exact end when the object is back.
func TestBadInputSnapshot(t *testing.T) {
	seed := newSeed(t)
	w := newWorld(t)
	_, _, other := w.crashed(t, "globex", seed+1)
	foreign := w.object(t, other.Operators[0].Chain[0]).chunk.Data
	h, spec, m := w.crashed(t, "acme", seed)
	chain := m.Operators[0].Chain
	if m.Sinks[0].Total == 0 || len(chain) < 2 {
		t.Fatalf("the checkpoint owes %d messages and its state has %d objects: the test wants some, and several", m.Sinks[0].Total, len(chain))
	}
	damages := map[string]func(o storedObject){
		"missing":       func(o storedObject) { w.replace(t, o.stream, o.meta.Subject, nil) },
		"chunk missing": func(o storedObject) { w.replace(t, o.stream, o.chunk.Subject, nil) },
		"truncated":     func(o storedObject) { w.replace(t, o.stream, o.chunk.Subject, o.chunk.Data[:len(o.chunk.Data)/2]) },
		"byte flipped": func(o storedObject) {
			w.replace(t, o.stream, o.chunk.Subject, flipped(o.chunk.Data, len(o.chunk.Data)/3))
		},
		"of another tenant": func(o storedObject) { w.replace(t, o.stream, o.chunk.Subject, foreign) },
	}
	// What is owed is published before state is loaded, the first sink's first.
	rng := newRand(seed, 1)
	for _, ref := range []barriers.Object{m.Sinks[0].Pending[0], chain[0], chain[1+rng.IntN(len(chain)-1)]} {
		for name, damage := range damages {
			t.Run(name+" "+strings.ReplaceAll(ref.Name, "/", "-"), func(t *testing.T) {
				before, err := released(context.Background(), w.js, h.home())
				ok(t, err)
				o := w.object(t, ref)
				damage(o)
				worker := startWorker(t, w.srv, spec, "acme")
				err = worker.failure("acme")
				worker.kill()
				w.repair(t, o)
				says(t, err, "acme/tally", ref.Name, ref.Bucket)
				if processor.ClassOf(err) != processor.ClassTerminal {
					t.Errorf("the error is not terminal: %v", err)
				}
				after, err := released(context.Background(), w.js, h.home())
				ok(t, err)
				if before != after && ref.Name == m.Sinks[0].Pending[0].Name {
					t.Errorf("%d messages were published although the output is damaged", after-before)
				}
			})
		}
	}
	startWorker(t, w.srv, spec, "acme").finish(w, h)
}

// TestBadInputForgedManifest lets a manifest that is sound in itself refer to another tenant's objects.
func TestBadInputForgedManifest(t *testing.T) {
	seed := newSeed(t)
	w := newWorld(t)
	_, _, other := w.crashed(t, "globex", seed+1)
	_, spec, m := w.crashed(t, "acme", seed)
	kv, err := w.js.KeyValue(context.Background(), jetstream.CheckpointBucket)
	ok(t, err)
	forge := func(chain []barriers.Object) {
		forged := *m
		forged.Operators = append([]barriers.Operator(nil), m.Operators...)
		forged.Operators[0].Chain = chain
		text, digest, err := forged.Encode()
		ok(t, err)
		seq, err := kv.Put(context.Background(), barriers.ManifestKey("acme", tallyName, m.Checkpoint), text)
		ok(t, err)
		head := headOf(t, w, "acme")
		head.ManifestSeq, head.Digest = seq, digest
		text, err = head.Encode()
		ok(t, err)
		_, err = kv.Put(context.Background(), barriers.HeadKey("acme", tallyName), text)
		ok(t, err)
	}
	theirs := other.Operators[0].Chain
	t.Run("in their bucket", func(t *testing.T) {
		forge(theirs)
		worker := startWorker(t, w.srv, spec, "acme")
		says(t, worker.failure("acme"), "acme/tally", theirs[0].Name, theirs[0].Bucket)
		worker.kill()
	})
	t.Run("copied into ours", func(t *testing.T) {
		copied := make([]barriers.Object, len(theirs))
		for i, ref := range theirs {
			o := w.object(t, ref)
			copied[i] = ref
			copied[i].Bucket = m.Operators[0].Chain[0].Bucket
			var info js.ObjectInfo
			ok(t, json.Unmarshal(o.meta.Data, &info))
			info.Bucket = copied[i].Bucket
			meta, err := json.Marshal(info)
			ok(t, err)
			move := func(subject string, data []byte) {
				m := nats.NewMsg(strings.Replace(subject, ref.Bucket, copied[i].Bucket, 1))
				m.Data = data
				_, err := w.js.PublishMsg(context.Background(), m)
				ok(t, err)
			}
			move(o.chunk.Subject, o.chunk.Data)
			move(o.meta.Subject, meta)
		}
		forge(copied)
		worker := startWorker(t, w.srv, spec, "acme")
		says(t, worker.failure("acme"), "acme/tally", "globex")
		worker.kill()
	})
}
