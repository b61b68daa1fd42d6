package barriers

import (
	"errors"
	"testing"
)

func TestRelease(t *testing.T) {
	b := newTestBroker()
	rec, _ := b.acquire(t, "n1")
	markers, err := Fence(b.ask, rec, targetA)
	if err != nil {
		t.Fatal(err)
	}
	m := testManifest(rec, 1, 10)
	spec := ReleaseSpec{Record: rec, Manifest: m, Sink: "a", Marker: markers["a"].Now, Cut: func(from uint64) uint64 { return from + 4 }}

	// Message 6 is refused for good: it is the one that is named, and what comes before it is out.
	b.intercept = func(r Request) (Reply, bool) {
		bad := r.Op == OpPublish && r.From <= 6 && r.To > 6
		return Reply{Status: Rejected, Err: errors.New("too large")}, bad
	}
	var rejected *RejectedError
	seen, err := Release(b.ask, spec)
	if !errors.As(err, &rejected) || rejected.From != 6 || rejected.To != 7 || seen.Released != 6 {
		t.Fatalf("refused: %v, marker %+v", err, seen)
	}
	// It goes on from there, waiting for room as long as it takes.
	full := 500
	b.intercept = func(r Request) (Reply, bool) {
		if r.Op == OpPublish && full > 0 {
			full--
			return Reply{Status: Full}, true
		}
		return Reply{}, false
	}
	spec.Marker = seen
	if seen, err = Release(b.ask, spec); err != nil || seen.Released != 10 || full != 0 {
		t.Fatalf("full: %v, marker %+v", err, seen)
	}
	for i, msg := range b.out[0].messages() {
		if msg.seq != uint64(i) {
			t.Fatalf("message %d is %d", i, msg.seq)
		}
	}
	// Done is done: nothing is asked for.
	b.asked = nil
	spec.Marker = seen
	if again, err := Release(b.ask, spec); err != nil || again != seen || len(b.asked) != 0 {
		t.Fatalf("again: %v, %v", err, b.asked)
	}
	empty := testManifest(rec, 2, 0)
	spec.Manifest = empty
	if again, err := Release(b.ask, spec); err != nil || again != seen || len(b.asked) != 0 {
		t.Fatalf("empty: %v, %v", err, b.asked)
	}
}

func TestReleaseFaults(t *testing.T) {
	always := func(s Status) func(Request) (Reply, bool) {
		return func(r Request) (Reply, bool) { return Reply{Status: s}, r.Op == OpPublish }
	}
	var fault *MarkerFault
	var unresolved *UnresolvedError
	for _, c := range []struct {
		name   string
		before func(b *testBroker, rec *HeadRecord, spec *ReleaseSpec)
		check  func(err error) bool
	}{
		{"busy for good", func(b *testBroker, _ *HeadRecord, _ *ReleaseSpec) { b.intercept = always(Busy) },
			func(err error) bool { return errors.As(err, &unresolved) }},
		{"canceled", func(b *testBroker, _ *HeadRecord, _ *ReleaseSpec) { b.intercept = always(Canceled) },
			func(err error) bool { return errors.Is(err, ErrCanceled) }},
		{"purged", func(b *testBroker, _ *HeadRecord, _ *ReleaseSpec) { b.out[0].entries = nil },
			func(err error) bool { return errors.As(err, &fault) && fault.Kind == MarkerMissing }},
		{"rolled back", func(b *testBroker, _ *HeadRecord, spec *ReleaseSpec) { spec.Marker.Seq += 5 },
			func(err error) bool { return errors.As(err, &fault) && fault.Kind == MarkerOlder }},
		{"rolled back and fenced by the next at the same sequence", func(b *testBroker, rec *HeadRecord, _ *ReleaseSpec) {
			b.out[0] = &outStream{created: 1}
			next, _, _ := Acquire(b.ask, AcquireSpec{Tenant: simTenant, Job: simJob, Worker: "w", Owner: "n2"})
			_, _ = Fence(b.ask, next, targetA)
			asked := 0
			b.intercept = func(r Request) (Reply, bool) {
				asked++
				return Reply{Status: Unknown}, asked == 1
			}
		}, func(err error) bool { return errors.Is(err, ErrFenced) }},
		{"taken over", func(b *testBroker, rec *HeadRecord, _ *ReleaseSpec) {
			next, _, _ := Acquire(b.ask, AcquireSpec{Tenant: simTenant, Job: simJob, Worker: "w", Owner: "n2"})
			_, _ = Fence(b.ask, next, targetA)
		}, func(err error) bool { return errors.Is(err, ErrFenced) }},
		{"of a later checkpoint", func(_ *testBroker, _ *HeadRecord, spec *ReleaseSpec) { spec.Marker.Checkpoint = 2 },
			func(err error) bool { return errors.As(err, &fault) && fault.Kind == MarkerAhead }},
		{"an empty part", func(_ *testBroker, _ *HeadRecord, spec *ReleaseSpec) {
			spec.Cut = func(from uint64) uint64 { return from }
		},
			func(err error) bool { return err != nil }},
		{"an unknown sink", func(_ *testBroker, _ *HeadRecord, spec *ReleaseSpec) { spec.Sink = "z" },
			func(err error) bool { return err != nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newTestBroker()
			rec, _ := b.acquire(t, "n1")
			markers, err := Fence(b.ask, rec, targetA)
			if err != nil {
				t.Fatal(err)
			}
			spec := ReleaseSpec{Record: rec, Manifest: testManifest(rec, 1, 3), Sink: "a", Marker: markers["a"].Now, Cut: func(from uint64) uint64 { return from + 2 }}
			c.before(b, rec, &spec)
			if _, err := Release(b.ask, spec); !c.check(err) {
				t.Fatalf("error is %v", err)
			}
		})
	}
}
