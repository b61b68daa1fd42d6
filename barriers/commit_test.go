package barriers

import (
	"errors"
	"slices"
	"testing"
)

func TestCommit(t *testing.T) {
	b := newTestBroker()
	rec, m := b.acquire(t, "n1")
	if m != nil || rec.Head.Epoch != 1 || rec.Head.Checkpoint != 0 {
		t.Fatalf("first start: %+v %v", rec.Head, m)
	}
	// An orphan of a lower epoch gives way, one of a higher epoch fences.
	zombie := *rec
	rec, _ = b.acquire(t, "n2")
	orphan, _, _ := testManifest(&zombie, 1, 0).Encode()
	b.apply(Request{Op: OpWriteRecord, Key: ManifestKey(simTenant, simJob, 1), Value: orphan}, nil, false)
	rec = b.commit(t, rec, testManifest(rec, 1, 0))
	if _, err := Commit(b.ask, &zombie, testManifest(&zombie, 1, 0), 2); !errors.Is(err, ErrFenced) {
		t.Fatalf("a zombie's commit: %v", err)
	}
	for id := uint64(2); id <= 5; id++ {
		rec = b.commit(t, rec, testManifest(rec, id, 0), 2)
	}
	var kept []uint64
	for _, ref := range rec.Head.Retained {
		kept = append(kept, ref.Checkpoint)
	}
	if !slices.Equal(kept, []uint64{2, 4}) || rec.Head.Watermark != 2 || rec.Head.Checkpoint != 5 {
		t.Fatalf("kept %v, watermark %d", kept, rec.Head.Watermark)
	}
	if _, err := Commit(b.ask, rec, testManifest(rec, 5, 0), 2); err == nil {
		t.Fatal("an ID went back")
	}
	// Canceled before the head write is a failure, after it nobody knows.
	for _, key := range []string{ManifestKey(simTenant, simJob, 6), HeadKey(simTenant, simJob)} {
		b.intercept = func(r Request) (Reply, bool) {
			return Reply{Status: Canceled}, r.Op == OpWriteRecord && r.Key == key
		}
		_, err := Commit(b.ask, rec, testManifest(rec, 6, 0), 2)
		if sent := key == HeadKey(simTenant, simJob); errors.Is(err, ErrCommitUnresolved) != sent || !errors.Is(err, ErrCanceled) {
			t.Fatalf("canceled at %s: %v", key, err)
		}
	}
	// The bucket goes back between the two writes.
	b.intercept = func(r Request) (Reply, bool) {
		if r.Op == OpWriteRecord && r.Key == HeadKey(simTenant, simJob) {
			b.seq = rec.Seq
		}
		return Reply{}, false
	}
	var back *RolledBackError
	if _, err := Commit(b.ask, rec, testManifest(rec, 7, 0), 2); !errors.As(err, &back) || !errors.Is(err, ErrCommitUnresolved) {
		t.Fatalf("rolled back between the writes: %v", err)
	}
}
