package barriers

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
)

// foreignObjects look like a checkpoint's of the job, and are not.
var foreignObjects = []string{
	SavepointPrefix(simJob, "s") + "state", "other/1-1/state", "count/1-1", "count/x-1/state", "acme/other/1-1/state",
}

// fiveCheckpoints commits five checkpoints, of which two are kept, and leaves other objects about.
func fiveCheckpoints(t *testing.T) (*testBroker, *HeadRecord) {
	b := newTestBroker()
	rec, _ := b.acquire(t, "n1")
	for id := uint64(1); id <= 5; id++ {
		rec = b.commit(t, rec, testManifest(rec, id, 1))
	}
	for _, name := range foreignObjects {
		b.objects[name] = simObject{}
	}
	for _, name := range []string{"count/1-9/garbage", "count/1-8/young", "acme/count/1-7/shared"} {
		b.objects[name] = simObject{}
	}
	return b, rec
}

func (b *testBroker) objectNames() []string { return slices.Sorted(maps.Keys(b.objects)) }

func TestCleanup(t *testing.T) {
	b, rec := fiveCheckpoints(t)
	has := func(name string) bool { return slices.Contains(b.objectNames(), name) }
	// It is cut short after the first, second, ... deletion, and starts again.
	for crashes := 0; ; crashes++ {
		deletions := 0
		b.intercept = func(r Request) (Reply, bool) {
			stop := deletions > crashes
			if r.Op == OpDeleteObject || r.Op == OpDeleteRecord {
				deletions++
			}
			return Reply{Status: Canceled}, stop
		}
		garbage := []string{"count/1-9/garbage", foreignObjects[0], "count/1-5/state"}
		if crashes > 0 {
			garbage = nil // a crash forgets it
		}
		err := Cleanup(b.ask, CleanupSpec{Record: rec, Garbage: garbage})
		if err == nil {
			if crashes < 3 {
				t.Fatalf("it was cut short only %d times", crashes)
			}
			break
		}
		if crashes > 30 || !errors.Is(err, ErrCanceled) {
			t.Fatal(err)
		}
	}
	b.intercept = nil
	for id := uint64(1); id <= 5; id++ {
		object := fmt.Sprintf("count/1-%d/state", id)
		record := b.record(ManifestKey(simTenant, simJob, id)).value != nil
		if kept := id >= 4; has(object) != kept || record != kept {
			t.Errorf("checkpoint %d: object %t, manifest %t", id, has(object), record)
		}
	}
	if has("count/1-9/garbage") || !has(foreignObjects[0]) {
		t.Errorf("left: %v", b.objectNames())
	}
	// Nothing is left to do, and nothing is asked for.
	b.asked = nil
	if err := Cleanup(b.ask, CleanupSpec{Record: rec}); err != nil || len(b.asked) != 0 {
		t.Errorf("again: %v, %v", err, b.asked)
	}
}

func TestCleanupOrphans(t *testing.T) {
	b, _ := fiveCheckpoints(t)
	// Orphans: of past epochs, old enough. A manifest that nobody remembers goes too.
	b.now = 100
	b.objects["count/1-8/young"] = simObject{modified: 95}
	b.objects["count/2-9/mine"] = simObject{}
	b.apply(Request{Op: OpWriteRecord, Key: ManifestKey(simTenant, simJob, 3), Value: []byte("unreadable")}, nil, false)
	b.apply(Request{Op: OpWriteRecord, Key: SavepointKey(simTenant, simJob, "s"), Value: []byte("a savepoint")}, nil, false)
	rec, _ := b.acquire(t, "n2")
	if err := Cleanup(b.ask, CleanupSpec{Record: rec, Orphans: true, OrphanAge: 10}); err != nil {
		t.Fatal(err)
	}
	want := slices.Sorted(slices.Values(append([]string{
		"count/1-4/out", "count/1-4/state", "count/1-5/out", "count/1-5/state", "count/1-8/young", "count/2-9/mine",
	}, foreignObjects...)))
	if got := b.objectNames(); !slices.Equal(got, want) {
		t.Errorf("left %v, want %v", got, want)
	}
	if b.record(ManifestKey(simTenant, simJob, 3)).value != nil || b.record(SavepointKey(simTenant, simJob, "s")).value == nil {
		t.Error("wrong records removed")
	}
	// A manifest that must stay but cannot be read stops everything.
	b.records[ManifestKey(simTenant, simJob, 4)].value = []byte("unreadable")
	rec, _ = b.acquire(t, "n3")
	var fault *RecordError
	if err := Cleanup(b.ask, CleanupSpec{Record: rec, Orphans: true}); !errors.As(err, &fault) {
		t.Errorf("unreadable manifest: %v", err)
	}
	// Behind a tombstone everything of the job goes, but for its savepoints.
	rec, err := Delete(b.ask, rec)
	if err != nil {
		t.Fatal(err)
	}
	if err := Cleanup(b.ask, CleanupSpec{Record: rec, Orphans: true}); err != nil {
		t.Fatal(err)
	}
	if got := b.objectNames(); !slices.Equal(got, slices.Sorted(slices.Values(foreignObjects))) {
		t.Errorf("left %v", got)
	}
}
