package barriers

import (
	"math/rand/v2"
	"testing"
)

// testBroker is the simulator's broker without its network: every request is answered at once, unless intercept answers it.
type testBroker struct {
	*world
	intercept func(r Request) (Reply, bool)
	asked     []Request
}

func newTestBroker() *testBroker {
	b := &testBroker{world: newWorld(rand.New(rand.NewPCG(1, 1)), mutant{}, quiet)}
	b.oracle.lenient = true // these tests say themselves what is right
	return b
}

func (b *testBroker) ask(r Request) Reply {
	b.asked = append(b.asked, r)
	if b.intercept != nil {
		if reply, ok := b.intercept(r); ok {
			return reply
		}
	}
	if r.Op == OpWait {
		return Reply{Status: OK}
	}
	var payload []outMsg
	if r.Op == OpPublish {
		payload = make([]outMsg, r.To-r.From)
		for i := range payload {
			payload[i].seq = r.From + uint64(i)
		}
	}
	return b.apply(r, payload, false)
}

func (b *testBroker) acquire(t *testing.T, owner string) (*HeadRecord, *Manifest) {
	t.Helper()
	rec, m, err := Acquire(b.ask, AcquireSpec{Tenant: simTenant, Job: simJob, Worker: "w", Owner: owner})
	if err != nil {
		t.Fatal(err)
	}
	return rec, m
}

// testManifest is a small manifest that owes sink a some messages.
func testManifest(rec *HeadRecord, checkpoint, total uint64) *Manifest {
	name := func(what string) string { return ObjectPrefix(simJob, rec.Head.Epoch, checkpoint) + what }
	m := &Manifest{
		Kind: KindCheckpoint, Tenant: simTenant, Job: simJob, Checkpoint: checkpoint, Epoch: rec.Head.Epoch, Owner: rec.Head.Owner,
		Parallelism: 1, KeyGroups: 1, Sources: []Source{{Name: "in", Position: checkpoint * 10}},
		Operators: []Operator{{Name: "count", Chain: []Object{{Bucket: "b", Name: name("state"), Digest: "d"}}}},
		Sinks:     []Sink{{Name: "a", Stream: "out-a", Subject: "marker.a", Total: total}},
	}
	if total > 0 {
		m.Sinks[0].Pending = []Object{{Bucket: "b", Name: name("out"), Digest: "d", Messages: total}}
	}
	return m
}

func (b *testBroker) commit(t *testing.T, rec *HeadRecord, m *Manifest, pinned ...uint64) *HeadRecord {
	t.Helper()
	eachObject(m, func(o *Object) { b.objects[o.Name] = simObject{} })
	next, err := Commit(b.ask, rec, m, 2, pinned...)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func headBytes(t *testing.T, epoch uint64, owner string) []byte {
	t.Helper()
	h := Head{Tenant: simTenant, Job: simJob, State: StateRunning, Epoch: epoch, Worker: "w", Owner: owner}
	data, err := h.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}
