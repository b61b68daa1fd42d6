package barriers

import (
	"errors"
	"slices"
	"testing"
)

func reservation(epoch uint64, owner, request string) Reservation {
	return Reservation{Tenant: simTenant, Job: simJob, Savepoint: "s", Epoch: epoch, Owner: owner, Request: request}
}

func testSavepoint(epoch uint64, owner, request string, objects ...string) *Manifest {
	m := &Manifest{
		Kind: KindSavepoint, Savepoint: "s", Request: request, Tenant: simTenant, Job: simJob, Checkpoint: 3, Epoch: epoch, Owner: owner,
		Parallelism: 1, KeyGroups: 1, Sources: []Source{{Name: "in", Position: 30}}, Operators: []Operator{{Name: "count"}},
	}
	for _, name := range objects {
		m.Operators[0].Chain = append(m.Operators[0].Chain, Object{Bucket: "b", Name: SavepointPrefix(simJob, "s") + name, Digest: "d", Base: true})
	}
	return m
}

func (b *testBroker) put(names ...string) {
	for _, name := range names {
		b.objects[SavepointPrefix(simJob, "s")+name] = simObject{}
	}
}

func (b *testBroker) under(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, name := range b.objectNames() {
		if s, ok := savepointOf(simTenant, simJob, name); ok && s == "s" {
			names = append(names, name[len(SavepointPrefix(simJob, "s")):])
		}
	}
	return names
}

func TestSavepointLife(t *testing.T) {
	b := newTestBroker()
	if _, err := ReadSavepoint(b.ask, simTenant, simJob, "s"); !errors.As(err, new(*NoSavepointError)) {
		t.Fatalf("nothing there: %v", err)
	}
	if m, err := ReserveSavepoint(b.ask, reservation(1, "n1", "r1")); m != nil || err != nil {
		t.Fatalf("reserving: %v, %v", m, err)
	}
	var making *NoSavepointError
	if _, err := ReadSavepoint(b.ask, simTenant, simJob, "s"); !errors.As(err, &making) || !making.Making {
		t.Fatalf("reserved: %v", err)
	}
	var exists *SavepointExistsError
	if _, err := ReserveSavepoint(b.ask, reservation(1, "n2", "r2")); !errors.As(err, &exists) || !exists.Making {
		t.Fatalf("another maker: %v", err)
	}
	b.put("x", "y")
	if _, err := WriteSavepoint(b.ask, testSavepoint(1, "n2", "r2", "x")); !errors.As(err, new(*SavepointLostError)) {
		t.Fatalf("completing another's: %v", err)
	}
	foreign := testSavepoint(1, "n1", "r1", "x")
	foreign.Operators[0].Chain[0].Name = ObjectPrefix(simJob, 1, 3) + "x"
	if _, err := WriteSavepoint(b.ask, foreign); err == nil {
		t.Fatal("a savepoint with a checkpoint's object was written")
	}
	m := testSavepoint(1, "n1", "r1", "x")
	// The answer gets lost: the second try finds what the first wrote.
	b.intercept = func(r Request) (Reply, bool) {
		if r.Op == OpWriteRecord {
			b.intercept = nil
			b.apply(r, nil, false)
			return Reply{Status: Unknown}, true
		}
		return Reply{}, false
	}
	for range 2 {
		if got, err := WriteSavepoint(b.ask, m); err != nil || got.Checkpoint != 3 {
			t.Fatalf("writing: %v, %v", got, err)
		}
	}
	if got, err := ReserveSavepoint(b.ask, reservation(1, "n9", "r1")); err != nil || got == nil || got.Owner != "n1" {
		t.Fatalf("the same request again: %v, %v", got, err)
	}
	if _, err := ReserveSavepoint(b.ask, reservation(1, "n9", "")); !errors.As(err, &exists) || exists.Making {
		t.Fatalf("another request: %v", err)
	}
	if got, err := AbandonSavepoint(b.ask, reservation(1, "n1", "r1")); err != nil || got == nil {
		t.Fatalf("abandoning what is complete: %v, %v", got, err)
	}
	if list, err := ListSavepoints(b.ask, simTenant, simJob); err != nil || len(list) != 1 {
		t.Fatalf("list: %v, %v", list, err)
	}
	if err := DeleteSavepoint(b.ask, simTenant, simJob, "s"); err != nil {
		t.Fatal(err)
	}
	if left := b.under(t); len(left) != 0 || b.record(SavepointKey(simTenant, simJob, "s")).value != nil {
		t.Fatalf("left: %v", left)
	}
	if err := DeleteSavepoint(b.ask, simTenant, simJob, "s"); !errors.As(err, new(*NoSavepointError)) {
		t.Fatalf("again: %v", err)
	}
}

// TestSavepointMakers says whose reservation gives way to whom.
func TestSavepointMakers(t *testing.T) {
	for _, c := range []struct {
		name      string
		old, next Reservation
		takes     bool
	}{
		{"a later attempt", reservation(1, "n1", "r1"), reservation(2, "n2", "r2"), true},
		{"an earlier attempt", reservation(2, "n2", "r2"), reservation(1, "n1", "r1"), false},
		{"an attempt and an import", reservation(0, "n1", "r1"), reservation(2, "n2", "r1"), false},
		{"an import that goes on", reservation(0, "n1", "r1"), reservation(0, "n2", "r1"), true},
		{"another import", reservation(0, "n1", "r1"), reservation(0, "n2", "r2"), false},
		{"an import without a request", reservation(0, "n1", ""), reservation(0, "n2", ""), false},
		{"the same again", reservation(3, "n1", "r1"), reservation(3, "n1", "r1"), true},
	} {
		b := newTestBroker()
		if _, err := ReserveSavepoint(b.ask, c.old); err != nil {
			t.Fatal(err)
		}
		_, err := ReserveSavepoint(b.ask, c.next)
		if c.takes != (err == nil) || !c.takes && !errors.As(err, new(*SavepointExistsError)) {
			t.Errorf("%s: %v", c.name, err)
		}
		if _, err := WriteSavepoint(b.ask, testSavepoint(1, c.old.Owner, c.old.Request)); c.old.Owner != c.next.Owner && c.takes != errors.As(err, new(*SavepointLostError)) {
			t.Errorf("%s: the first maker then writes: %v", c.name, err)
		}
	}
}

// TestSavepointOrphans cleans up what savepoints left behind that were never completed, and nothing else.
func TestSavepointOrphans(t *testing.T) {
	clean := func(b *testBroker, rec *HeadRecord) {
		t.Helper()
		if err := Cleanup(b.ask, CleanupSpec{Record: rec, Orphans: true}); err != nil {
			t.Fatal(err)
		}
	}
	reserve := func(b *testBroker, r Reservation) {
		t.Helper()
		if _, err := ReserveSavepoint(b.ask, r); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("in the making", func(t *testing.T) {
		b := newTestBroker()
		rec, _ := b.acquire(t, "n1")
		reserve(b, reservation(1, "n1", "r"))
		b.put("x")
		clean(b, rec)
		if got := b.under(t); !slices.Equal(got, []string{"x"}) {
			t.Fatalf("left %v", got)
		}
		// The next attempt's clean-up takes it, and the zombie cannot complete it any more.
		rec, _ = b.acquire(t, "n2")
		clean(b, rec)
		if got := b.under(t); len(got) != 0 || b.record(SavepointKey(simTenant, simJob, "s")).value != nil {
			t.Fatalf("left %v", got)
		}
		if _, err := WriteSavepoint(b.ask, testSavepoint(1, "n1", "r", "x")); !errors.As(err, new(*SavepointLostError)) {
			t.Fatalf("the zombie: %v", err)
		}
	})
	t.Run("a write under way", func(t *testing.T) {
		b := newTestBroker()
		b.acquire(t, "n1")
		reserve(b, reservation(1, "n1", "r"))
		b.put("x")
		rec, _ := b.acquire(t, "n2")
		// The zombie's write lands between the search's look at the record and its own write: it has won.
		b.intercept = func(r Request) (Reply, bool) {
			if r.Op == OpWriteRecord {
				b.intercept = nil
				if _, err := WriteSavepoint(b.ask, testSavepoint(1, "n1", "r", "x")); err != nil {
					t.Fatal(err)
				}
			}
			return Reply{}, false
		}
		clean(b, rec)
		if got := b.under(t); !slices.Equal(got, []string{"x"}) {
			t.Fatalf("left %v", got)
		}
	})
	t.Run("complete, with an earlier maker's objects", func(t *testing.T) {
		b := newTestBroker()
		rec, _ := b.acquire(t, "n1")
		b.put("old")
		reserve(b, reservation(1, "n1", "r"))
		b.put("x")
		if _, err := WriteSavepoint(b.ask, testSavepoint(1, "n1", "r", "x")); err != nil {
			t.Fatal(err)
		}
		clean(b, rec)
		if got := b.under(t); !slices.Equal(got, []string{"x"}) {
			t.Fatalf("left %v", got)
		}
		if _, err := ReadSavepoint(b.ask, simTenant, simJob, "s"); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("an import", func(t *testing.T) {
		b := newTestBroker()
		rec, _ := b.acquire(t, "n1")
		reserve(b, reservation(0, "i1", "r"))
		b.put("x")
		b.now = int64(offlineAge) - 1
		clean(b, rec)
		if got := b.under(t); len(got) != 1 {
			t.Fatalf("an import was disturbed: left %v", got)
		}
		b.now++
		clean(b, rec)
		if got := b.under(t); len(got) != 0 {
			t.Fatalf("left %v", got)
		}
	})
	t.Run("a broken record", func(t *testing.T) {
		b := newTestBroker()
		rec, _ := b.acquire(t, "n1")
		b.put("x")
		b.apply(Request{Op: OpWriteRecord, Key: SavepointKey(simTenant, simJob, "s"), Value: []byte("?")}, nil, false)
		clean(b, rec)
		if got := b.under(t); len(got) != 1 {
			t.Fatalf("left %v", got)
		}
		if _, err := ListSavepoints(b.ask, simTenant, simJob); !errors.As(err, new(*RecordError)) {
			t.Fatalf("list: %v", err)
		}
		if err := DeleteSavepoint(b.ask, simTenant, simJob, "s"); err != nil || len(b.under(t)) != 0 {
			t.Fatalf("delete: %v, left %v", err, b.under(t))
		}
	})
}

// TestDeleteSavepointCutShort ends the deletion behind each of its requests; the next one, or the search for orphans, finishes it.
func TestDeleteSavepointCutShort(t *testing.T) {
	for _, again := range []string{"deleted again", "found as orphans"} {
		for cut := 0; ; cut++ {
			b := newTestBroker()
			rec, _ := b.acquire(t, "n1")
			if _, err := ReserveSavepoint(b.ask, reservation(1, "n1", "r")); err != nil {
				t.Fatal(err)
			}
			b.put("x", "y", "z")
			if _, err := WriteSavepoint(b.ask, testSavepoint(1, "n1", "r", "x", "y", "z")); err != nil {
				t.Fatal(err)
			}
			asked := 0
			b.intercept = func(Request) (Reply, bool) {
				asked++
				return Reply{Status: Canceled}, asked > cut
			}
			err := DeleteSavepoint(b.ask, simTenant, simJob, "s")
			b.intercept = nil
			if err == nil {
				if cut < 6 {
					t.Fatalf("it was cut short only %d times", cut)
				}
				break
			}
			// What can be read is whole.
			if m, err := ReadSavepoint(b.ask, simTenant, simJob, "s"); err == nil && len(b.under(t)) != len(m.Operators[0].Chain) {
				t.Fatalf("cut behind %d: the savepoint has lost objects: %v", cut, b.under(t))
			}
			if again == "deleted again" {
				err = DeleteSavepoint(b.ask, simTenant, simJob, "s")
			} else if _, rerr := ReadSavepoint(b.ask, simTenant, simJob, "s"); rerr != nil {
				err = Cleanup(b.ask, CleanupSpec{Record: rec, Orphans: true})
			} else {
				continue // nothing was removed yet
			}
			if none := (*NoSavepointError)(nil); err != nil && !errors.As(err, &none) {
				t.Fatalf("cut behind %d, %s: %v", cut, again, err)
			}
			if left := b.under(t); len(left) != 0 || b.record(SavepointKey(simTenant, simJob, "s")).value != nil {
				t.Fatalf("cut behind %d, %s: left %v", cut, again, left)
			}
		}
	}
}
