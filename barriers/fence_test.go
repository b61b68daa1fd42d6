package barriers

import (
	"errors"
	"slices"
	"testing"
)

var targetA = []SinkTarget{{Name: "a", Stream: "out-a", Created: 1, Subject: "marker.a"}}

func TestVerify(t *testing.T) {
	rec := &HeadRecord{Head: Head{Tenant: simTenant, Job: simJob, Epoch: 3, Owner: "n3", Checkpoint: 9}}
	m := testManifest(rec, 9, 4)
	m.Sinks[0].Created = 1
	m.Sinks[0].Seen = MarkerSeen{Seq: 20, Epoch: 2, Checkpoint: 8, Released: 5, Total: 5}
	seen := func(seq, checkpoint, released, total uint64) MarkerSeen {
		return MarkerSeen{Seq: seq, Epoch: 3, Checkpoint: checkpoint, Released: released, Total: total}
	}
	for _, c := range []struct {
		name  string
		found MarkerSeen
		kind  MarkerFaultKind
	}{
		{"as recorded", seen(20, 8, 5, 5), ""},
		{"fenced since", seen(31, 8, 5, 5), ""},
		{"partly released", seen(25, 9, 3, 4), ""},
		{"released", seen(29, 9, 4, 4), ""},
		{"missing", MarkerSeen{}, MarkerMissing},
		{"of an older checkpoint", seen(12, 7, 2, 2), MarkerOlder},
		{"of an older checkpoint, fenced since", seen(33, 7, 2, 2), MarkerOlder},
		{"of the recorded checkpoint, but less", seen(33, 8, 3, 5), MarkerOlder},
		{"as recorded, but earlier", seen(19, 8, 5, 5), MarkerOlder},
		{"of this checkpoint, but earlier than it was committed", seen(18, 9, 3, 4), MarkerOlder},
		{"of a later checkpoint", seen(40, 10, 1, 1), MarkerAhead},
		{"of this checkpoint with other output", seen(40, 9, 1, 7), MarkerAhead},
		{"of a checkpoint in between", seen(40, 8, 5, 6), MarkerAhead},
	} {
		err := Verify(rec, m, targetA, map[string]FencedMarker{"a": {Found: c.found}})
		var fault *MarkerFault
		if errors.As(err, &fault); (c.kind == "") != (err == nil) || err != nil && fault.Kind != c.kind {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	check := func(name string, m *Manifest, targets []SinkTarget, found MarkerSeen, kind MarkerFaultKind) {
		t.Helper()
		err := Verify(rec, m, targets, map[string]FencedMarker{"a": {Found: found}})
		var fault *MarkerFault
		if errors.As(err, &fault); (kind == "") != (err == nil) || err != nil && fault.Kind != kind {
			t.Errorf("%s: %v", name, err)
		}
	}
	recreated := slices.Clone(targetA)
	recreated[0].Created = 2
	check("recreated", m, recreated, seen(20, 8, 5, 5), MarkerStreamRecreated)
	lossy := slices.Clone(targetA)
	lossy[0].AllowMarkerLoss = true
	check("missing and allowed", m, lossy, MarkerSeen{}, "")
	check("ahead is never allowed", m, lossy, seen(40, 10, 1, 1), MarkerAhead)
	check("no manifest, no marker", nil, targetA, MarkerSeen{}, "")
	check("no manifest, an old marker", nil, targetA, seen(20, 9, 5, 5), "")
	check("no manifest, a marker ahead", nil, targetA, seen(20, 10, 5, 5), MarkerAhead)
	if err := Verify(rec, m, nil, nil); err == nil {
		t.Error("a sink that is owed output was not fenced, and nobody minded")
	}
	if err := Verify(rec, m, targetA, nil); err == nil {
		t.Error("a sink was not fenced, and nobody minded")
	}
}

func TestFenceFaults(t *testing.T) {
	b := newTestBroker()
	rec, _ := b.acquire(t, "n1")
	marker := func(job string, epoch uint64, owner string) []byte {
		m := Marker{Tenant: simTenant, Job: job, Sink: "a", Epoch: epoch, Owner: owner}
		data, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for _, c := range []struct {
		name  string
		value []byte
		kind  MarkerFaultKind
	}{
		{"nonsense", []byte("hello"), MarkerForeign},
		{"another job's", marker("other", 1, "n1"), MarkerForeign},
		// Nobody took the job, so a higher epoch, or ours with another owner, can only be from before a rollback of the bucket.
		{"higher epoch, head unchanged", marker(simJob, 7, "n7"), MarkerAhead},
		{"my epoch, another owner, head unchanged", marker(simJob, 1, "n7"), MarkerAhead},
	} {
		b.out[0].add(outEntry{marker: c.value})
		var fault *MarkerFault
		if _, err := Fence(b.ask, rec, targetA); !errors.As(err, &fault) || fault.Kind != c.kind {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	b.acquire(t, "n2")
	if _, err := Fence(b.ask, rec, targetA); !errors.Is(err, ErrFenced) {
		t.Errorf("another owner: %v", err)
	}
}
