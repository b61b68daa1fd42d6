package jetstream_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/processor"
)

const chunk = 4096

func smallChunks(c *jetstream.Config) { c.ChunkBytes = chunk }

func randomBytes(n int) []byte {
	data := make([]byte, n)
	r := rand.New(rand.NewPCG(1, uint64(n)))
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	return data
}

func TestObjectsOfEverySize(t *testing.T) {
	w := newWorld(t, smallChunks)
	for _, size := range []int{0, 1, chunk - 1, chunk, chunk + 1, 100*chunk + 17} {
		data := randomBytes(size)
		ref, err := w.b.Put(context.Background(), job.Tenant, fmt.Sprintf("revenue/3-7/counts-0-%d", size), bytes.Clone(data))
		ok(t, err)
		equal(t, "bucket", ref.Bucket, "weir_acme")
		equal(t, "bytes", ref.Bytes, int64(size))
		got, err := w.b.Get(context.Background(), job.Tenant, ref)
		ok(t, err)
		if !bytes.Equal(got, data) {
			t.Fatalf("%d bytes came back changed", size)
		}
		// The layout is nats.go's.
		store, err := w.js.ObjectStore(context.Background(), ref.Bucket)
		ok(t, err)
		theirs, err := store.GetBytes(context.Background(), ref.Name)
		ok(t, err)
		if !bytes.Equal(theirs, data) {
			t.Fatalf("%d bytes come back changed through nats.go", size)
		}
		if _, err := w.b.Put(context.Background(), job.Tenant, ref.Name, data); err == nil {
			t.Fatal("an object was overwritten")
		}
	}
}

// TestDamagedObjects harms a stored object in every way that leaves something of it.
func TestDamagedObjects(t *testing.T) {
	type stored struct {
		*world
		ref  barriers.Object
		s    js.Stream
		seqs []uint64 // of the chunks
		meta js.ObjectInfo
	}
	rewriteMeta := func(o *stored, change func(*js.ObjectInfo)) {
		change(&o.meta)
		data, err := json.Marshal(o.meta)
		ok(o.t, err)
		_, err = o.js.Publish(context.Background(), jetstream.MetaSubject(o.ref.Bucket, o.ref.Name), data)
		ok(o.t, err)
	}
	again := func(o *stored, from int, change func([]byte)) {
		for i := from; i < len(o.seqs); i++ {
			m, err := o.s.GetMsg(context.Background(), o.seqs[i])
			ok(o.t, err)
			if i == from {
				change(m.Data)
			}
			ok(o.t, o.s.DeleteMsg(context.Background(), o.seqs[i]))
			_, err = o.js.Publish(context.Background(), m.Subject, m.Data)
			ok(o.t, err)
		}
	}
	cases := map[string]func(o *stored){
		"first chunk missing": func(o *stored) { ok(o.t, o.s.DeleteMsg(context.Background(), o.seqs[0])) },
		"last chunk missing":  func(o *stored) { ok(o.t, o.s.DeleteMsg(context.Background(), o.seqs[4])) },
		"all chunks missing":  func(o *stored) { ok(o.t, o.s.Purge(context.Background(), js.WithPurgeSubject("$O.weir_acme.C.>"))) },
		"a chunk too many": func(o *stored) {
			_, err := o.js.Publish(context.Background(), jetstream.ChunkSubject(o.ref.Bucket, o.meta.NUID), []byte("more"))
			ok(o.t, err)
			rewriteMeta(o, func(m *js.ObjectInfo) { m.Chunks++ })
		},
		"a shorter chunk":        func(o *stored) { rewriteMeta(o, func(m *js.ObjectInfo) { m.Chunks = 4 }) },
		"another size":           func(o *stored) { rewriteMeta(o, func(m *js.ObjectInfo) { m.Size-- }) },
		"a huge size":            func(o *stored) { rewriteMeta(o, func(m *js.ObjectInfo) { m.Size = 1 << 60 }) },
		"a huge count":           func(o *stored) { rewriteMeta(o, func(m *js.ObjectInfo) { m.Chunks = 1 << 31 }) },
		"another digest":         func(o *stored) { rewriteMeta(o, func(m *js.ObjectInfo) { m.Digest = "SHA-256=AAAA" }) },
		"a wildcard id":          func(o *stored) { rewriteMeta(o, func(m *js.ObjectInfo) { m.NUID = ">" }) },
		"the reference's digest": func(o *stored) { o.ref.Digest = "MD5=AAAA" },
		"the reference's size":   func(o *stored) { o.ref.Bytes = 1 << 50 },
		"another's bucket":       func(o *stored) { o.ref.Bucket = "weir_globex" },
	}
	for i := range 5 {
		cases[fmt.Sprintf("a bit of chunk %d", i)] = func(o *stored) {
			again(o, i, func(data []byte) { data[i*7] ^= 1 << i })
		}
	}
	for name, harm := range cases {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				o := &stored{world: newWorld(t, smallChunks)}
				o.t = t
				var err error
				o.ref, err = o.b.Put(context.Background(), job.Tenant, "revenue/1-1/counts-0-x", randomBytes(5*chunk-10))
				ok(t, err)
				o.s, err = o.js.Stream(context.Background(), "OBJ_weir_acme")
				ok(t, err)
				store, err := o.js.ObjectStore(context.Background(), "weir_acme")
				ok(t, err)
				meta, err := store.GetInfo(context.Background(), o.ref.Name)
				ok(t, err)
				o.meta, o.seqs = *meta, []uint64{1, 2, 3, 4, 5}
				harm(o)
				_, err = o.b.Get(context.Background(), job.Tenant, o.ref)
				var corrupt *processor.CorruptError
				if !errors.As(err, &corrupt) {
					t.Fatalf("error is %v, want a CorruptError", err)
				}
				equal(t, "job", corrupt.Job, job)
				equal(t, "class", processor.ClassOf(err), processor.ClassTerminal)
			})
		})
	}
}

func TestMissingObject(t *testing.T) {
	w := newWorld(t)
	ref := barriers.Object{Bucket: "weir_acme", Name: "revenue/1-1/counts-0-x", Bytes: 3, Digest: "SHA-256=AAAA"}
	_, err := w.b.Get(context.Background(), job.Tenant, ref) // there is no bucket
	wantErr(t, err, processor.ErrObjectMissing)
	_, err = w.b.Put(context.Background(), job.Tenant, "revenue/1-1/other-0-x", []byte("abc"))
	ok(t, err)
	_, err = w.b.Get(context.Background(), job.Tenant, ref)
	wantErr(t, err, processor.ErrObjectMissing)
}

func TestObjectNames(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"", "revenue", "revenue/x", "Revenue/1-1/x", "../1-1/x", "revenue/1-1/~x", "revenue/1-1/a b", "revenue/1-1/ü", "a.b/1-1/x",
		"revenue/1-1/" + strings.Repeat("x", 300)} {
		if _, err := w.b.Put(context.Background(), job.Tenant, name, nil); err == nil {
			t.Errorf("the name %q was taken", name)
		}
	}
	if _, err := w.b.Put(context.Background(), "a.>", "revenue/1-1/x", nil); err == nil {
		t.Error("a wrong tenant was taken")
	}
}

func TestFullBucket(t *testing.T) {
	w := newWorld(t, func(c *jetstream.Config) { c.MaxBytes = 100 << 10 })
	small, err := w.b.Put(context.Background(), job.Tenant, "revenue/1-1/counts-0-a", randomBytes(60<<10))
	ok(t, err)
	_, err = w.b.Put(context.Background(), job.Tenant, "revenue/1-2/counts-0-b", randomBytes(60<<10))
	wantErr(t, err, processor.ErrFull)
	// What the failed put had stored is gone, and there is room after a delete.
	list := w.b.Do(context.Background(), job, barriers.Request{Op: barriers.OpListObjects})
	equal(t, "objects", len(list.Objects), 1)
	equal(t, "status", w.b.Do(context.Background(), job, barriers.Request{Op: barriers.OpDeleteObject, Key: small.Name}).Status, barriers.OK)
	_, err = w.b.Put(context.Background(), job.Tenant, "revenue/1-2/counts-0-b", randomBytes(60<<10))
	ok(t, err)
}

// TestPutFaults fails each request of a put in each way: what is there afterwards is the whole object or none.
func TestPutFaults(t *testing.T) {
	for k := range 12 {
		for _, fault := range []jetstream.Fault{jetstream.Drop, jetstream.LoseReply} {
			t.Run(fmt.Sprintf("request %d fault %d", k, fault), func(t *testing.T) {
				armed, n := false, 0
				w := newWorld(t, smallChunks, func(c *jetstream.Config) {
					c.Intercept = func(op, subject string) jetstream.Fault {
						if n++; armed && n == k+1 {
							return fault
						}
						return jetstream.Pass
					}
				})
				data := randomBytes(5 * chunk)
				armed, n = true, 0
				ref, putErr := w.b.Put(context.Background(), job.Tenant, "revenue/1-1/counts-0-x", bytes.Clone(data))
				armed = false
				got, err := w.b.Get(context.Background(), job.Tenant, ref)
				switch {
				case putErr != nil:
					if err == nil && !bytes.Equal(got, data) {
						t.Fatal("the object is there, and wrong")
					}
				default:
					ok(t, err)
					if !bytes.Equal(got, data) {
						t.Fatal("the object is wrong")
					}
				}
			})
		}
	}
}

func TestListAndDeleteObjects(t *testing.T) {
	for _, shared := range []int{0, 3} {
		t.Run(fmt.Sprint("shared ", shared), func(t *testing.T) {
			dropMeta := false
			w := newWorld(t, smallChunks, func(c *jetstream.Config) {
				c.SharedBuckets = shared
				c.Intercept = func(op, subject string) jetstream.Fault {
					if dropMeta && (op == "publish" || strings.Contains(subject, "PURGE")) {
						return jetstream.Drop // a crash between the chunks and the meta message
					}
					return jetstream.Pass
				}
			})
			var names []string
			for _, name := range []string{"revenue/1-1/a-0-x", "revenue/1-2/a-0-y", "revenue2/1-1/a-0-x"} {
				ref, err := w.b.Put(context.Background(), job.Tenant, name, randomBytes(3*chunk))
				ok(t, err)
				names = append(names, ref.Name)
			}
			_, err := w.b.Put(context.Background(), "acme2", "revenue/1-1/a-0-x", randomBytes(chunk))
			ok(t, err)
			dropMeta = true
			if _, err := w.b.Put(context.Background(), job.Tenant, "revenue/2-3/a-0-z", randomBytes(3*chunk)); err == nil {
				t.Fatal("a put without its meta message went well")
			}
			dropMeta = false
			list := w.b.Do(context.Background(), job, barriers.Request{Op: barriers.OpListObjects})
			equal(t, "status", list.Status, barriers.OK)
			equal(t, "objects", len(list.Objects), 3)
			equal(t, "first", list.Objects[0].Name, names[0])
			equal(t, "second", list.Objects[1].Name, names[1])
			if !strings.Contains(list.Objects[2].Name, "revenue/2-3/~") {
				t.Fatalf("the orphan is listed as %s", list.Objects[2].Name)
			}
			for _, o := range list.Objects {
				if o.Modified <= 0 || o.Modified > list.ServerTime || o.Bytes == 0 {
					t.Fatalf("object %+v, the server's time is %d", o, list.ServerTime)
				}
				equal(t, "status", w.b.Do(context.Background(), job, barriers.Request{Op: barriers.OpDeleteObject, Key: o.Name}).Status, barriers.OK)
				equal(t, "status of deleting twice", w.b.Do(context.Background(), job, barriers.Request{Op: barriers.OpDeleteObject, Key: o.Name}).Status, barriers.OK)
			}
			equal(t, "objects left", len(w.b.Do(context.Background(), job, barriers.Request{Op: barriers.OpListObjects}).Objects), 0)
			for _, foreign := range []string{names[2], "acme2/revenue/1-1/a-0-x", "", "revenue", "../revenue/1-1/x"} {
				equal(t, "status of deleting "+foreign, w.b.Do(context.Background(), job, barriers.Request{Op: barriers.OpDeleteObject, Key: foreign}).Status, barriers.Rejected)
			}
			store, err := w.js.ObjectStore(context.Background(), mustBucket(w))
			ok(t, err)
			left, err := store.List(context.Background())
			ok(t, err)
			equal(t, "the other job's", left[0].Name, names[2])
		})
	}
}

// mustBucket is the tenant's bucket, as a new object's reference has it.
func mustBucket(w *world) string {
	w.t.Helper()
	ref, err := w.b.Put(context.Background(), job.Tenant, "zzz/1-1/a-0-x", []byte("x"))
	ok(w.t, err)
	return ref.Bucket
}
