package barriers

import (
	"errors"
	"strings"
	"testing"
)

func TestAcquire(t *testing.T) {
	b := newTestBroker()
	if rec, err := ReadHead(b.ask, simTenant, simJob); rec != nil || err != nil {
		t.Fatalf("no head: %v %v", rec, err)
	}
	rec, _ := b.acquire(t, "n1")
	seen := rec
	rec = b.commit(t, rec, testManifest(rec, 1, 0))
	b.commit(t, rec, testManifest(rec, 2, 0))

	// Two contenders: the slower one's write finds the other's.
	b.intercept = func(r Request) (Reply, bool) {
		if r.Op == OpWriteRecord {
			b.intercept = nil
			b.acquire(t, "fast")
		}
		return Reply{}, false
	}
	spec := AcquireSpec{Tenant: simTenant, Job: simJob, Worker: "w", Owner: "slow"}
	if _, _, err := Acquire(b.ask, spec); !errors.Is(err, ErrFenced) {
		t.Fatalf("the slower contender: %v", err)
	}
	spec.Observed = seen
	if _, _, err := Acquire(b.ask, spec); !errors.Is(err, ErrHeadChanged) {
		t.Fatalf("the head has changed: %v", err)
	}
	// Whoever saw no head must not take a job that somebody has started meanwhile.
	spec.Observed = &HeadRecord{}
	if _, _, err := Acquire(b.ask, spec); !errors.Is(err, ErrHeadChanged) {
		t.Fatalf("there was no head, now there is: %v", err)
	}
	if rec, _, err := Acquire(newTestBroker().ask, spec); err != nil || rec.Head.Epoch != 1 {
		t.Fatalf("there was no head and is none: %v, %v", rec, err)
	}
	rec, m := b.acquire(t, "n3")
	if m == nil || m.Checkpoint != 2 || rec.Head.Epoch != 3 {
		t.Fatalf("acquired %+v", rec.Head)
	}
	// A job found stopping stays so, unless told otherwise.
	if _, err := LetGo(b.ask, rec, StateStopping); err != nil {
		t.Fatal(err)
	}
	if rec, _ := b.acquire(t, "n4"); rec.Head.State != StateStopping {
		t.Fatalf("state is %s", rec.Head.State)
	}
	spec = AcquireSpec{Tenant: simTenant, Job: simJob, Worker: "w", Owner: "n5", State: StateRunning}
	rec, _, err := Acquire(b.ask, spec)
	if err != nil || rec.Head.State != StateRunning {
		t.Fatalf("state is %v, %v", rec, err)
	}
	if m, err := ReadCheckpoint(b.ask, simTenant, simJob, 1); err != nil || m.Checkpoint != 1 {
		t.Fatalf("checkpoint 1: %v", err)
	}
	if _, err := ReadCheckpoint(b.ask, simTenant, simJob, 9); err == nil {
		t.Fatal("read a checkpoint that does not exist")
	}
	// A tombstone keeps epoch and last ID, and nothing to start from.
	if _, err = Delete(b.ask, rec); err != nil {
		t.Fatal(err)
	}
	if rec, m = b.acquire(t, "n6"); m != nil || rec.Head.Epoch != 6 || rec.Head.Checkpoint != 2 {
		t.Fatalf("after a tombstone: %+v", rec.Head)
	}
}

func TestAcquireFaults(t *testing.T) {
	b := newTestBroker()
	rec, _ := b.acquire(t, "n1")
	b.commit(t, rec, testManifest(rec, 1, 0))
	key := ManifestKey(simTenant, simJob, 1)
	good := *b.records[key]
	spec := AcquireSpec{Tenant: simTenant, Job: simJob, Worker: "w", Owner: "n2"}
	var fault *RecordError
	for name, value := range map[string][]byte{"missing": nil, "changed": []byte(strings.Replace(string(good.value), "count", "cOunt", 1))} {
		b.records[key] = &simRecord{seq: good.seq, value: value}
		if _, _, err := Acquire(b.ask, spec); !errors.As(err, &fault) {
			t.Fatalf("manifest %s: %v", name, err)
		}
	}
	// An attempt that was taken over while it stood still finds its manifest cleaned up: that is no loss.
	b.records[key] = &simRecord{}
	b.intercept = func(r Request) (Reply, bool) {
		if r.Op == OpReadRecord && r.Key == key {
			b.intercept = nil
			value, _ := (&Head{Tenant: simTenant, Job: simJob, State: StateRunning, Epoch: 99, Worker: "w", Owner: "later"}).Encode()
			b.records[HeadKey(simTenant, simJob)] = &simRecord{seq: 99, value: value}
		}
		return Reply{}, false
	}
	head := b.records[HeadKey(simTenant, simJob)]
	if _, _, err := Acquire(b.ask, spec); !errors.Is(err, ErrFenced) {
		t.Fatalf("taken over meanwhile: %v", err)
	}
	b.records[HeadKey(simTenant, simJob)] = head
	// It was only late on the replica that answered.
	b.records[key] = &good
	late := 3
	b.intercept = func(r Request) (Reply, bool) {
		if r.Op == OpReadRecord && r.Key == key && late > 0 {
			late--
			return Reply{Status: NotFound}, true
		}
		return Reply{}, false
	}
	if _, m, err := Acquire(b.ask, spec); err != nil || m.Checkpoint != 1 || late != 0 {
		t.Fatalf("a late manifest: %v", err)
	}
	b.intercept = nil
	for name, value := range map[string][]byte{"nonsense": []byte("x"), "another job's": []byte(strings.Replace(string(headBytes(t, 9, "x")), "count", "other", 1))} {
		b.records[HeadKey(simTenant, simJob)] = &simRecord{seq: 50, value: value}
		if _, _, err := Acquire(b.ask, spec); !errors.As(err, &fault) {
			t.Fatalf("head %s: %v", name, err)
		}
	}
}
