package bench

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weirstream/weir/state/codec"
)

var small = Config{Events: 4000, Keys: 50, Pairs: 2, Decoder: "json", Interval: 20 * time.Millisecond}

func TestCount(t *testing.T) {
	cfg := small
	cfg.Profile = filepath.Join(t.TempDir(), "cpu.out")
	r, err := Count(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if r.Events != 4000 || r.Pairs != 2 || r.BaselinePerS <= 0 || r.WeirPerS <= 0 || r.Ratio <= 0 || r.Checkpoints < 2 || r.AllocsPerEvent <= 0 {
		t.Errorf("result %+v", r)
	}
	if r.RatioMin > r.Ratio || r.Ratio > r.RatioMax || r.BatchRates != nil {
		t.Errorf("result %+v", r)
	}
	if b, err := os.ReadFile(cfg.Profile); err != nil || len(b) == 0 {
		t.Errorf("the profile has %d bytes: %v", len(b), err)
	}
}

func TestPipe(t *testing.T) {
	r, err := Pipe(t.Context(), small)
	if err != nil {
		t.Fatal(err)
	}
	if r.Ratio <= 0 || r.RatioBatch <= 0 || r.BatchRates == nil || r.Checkpoints < 2 {
		t.Errorf("result %+v", r)
	}
}

func TestCheckpoint(t *testing.T) {
	cfg := Config{Events: 300, Keys: 2000, Pairs: 1, Decoder: "json", Interval: 20 * time.Millisecond, For: time.Second}
	rs, err := Checkpoint(t.Context(), cfg, []int{1, 100})
	if err != nil {
		t.Fatal(err)
	}
	if len(rs) != 2 || rs[0].Changed != "1 %" || rs[1].Changed != "100 %" {
		t.Fatalf("results %+v", rs)
	}
	for _, r := range rs {
		if r.Keys != 2000 || r.WithPerS <= 0 || r.WithoutPerS <= 0 || r.RestoreMBPerS <= 0 || r.RawGetMBPerS <= 0 || r.RestoreBytes <= 0 {
			t.Errorf("result %+v", r)
		}
	}
	if _, err := Checkpoint(t.Context(), cfg, []int{0}); err == nil {
		t.Error("0 % was taken")
	}
}

// A baseline or a job that writes something wrong must fail the benchmark, or its speed would be believed.
func TestWrongOutputIsFound(t *testing.T) {
	cfg := Config{Events: 3, Keys: 1}
	result := func(id, count uint64) []byte {
		b, err := json.Marshal(Counted{id, keyOf(id, 1), count})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, outputs := range map[string][][]byte{
		"":           {result(0, 1), result(1, 2), result(2, 3)},
		"duplicated": {result(0, 1), result(1, 2), result(1, 2), result(2, 3)},
		"at the end": {result(0, 1), result(1, 2), result(2, 3), result(2, 3), result(0, 1)},
		"lost":       {result(0, 1), result(2, 2), result(2, 3)},
		"miscounted": {result(0, 1), result(1, 1), result(2, 2)},
	} {
		e, err := newEnv()
		if err != nil {
			t.Fatal(err)
		}
		err = e.withOutput(t.Context(), cfg, func() error {
			for _, o := range outputs {
				if _, err := e.js.Publish(t.Context(), outSubject, o); err != nil {
					return err
				}
			}
			return nil
		})
		e.close()
		var wrong *WrongError
		if errors.As(err, &wrong) != (name != "") || name == "" && err != nil {
			t.Errorf("outputs %q: %v", name, err)
		}
	}
}

func TestWrongCountIsFound(t *testing.T) {
	want := expectedCounts(100, 7)
	right := func(k string) (uint64, error) { return want[k], nil }
	if err := sameCounts(want, right); err != nil {
		t.Error(err)
	}
	var wrong *WrongError
	if err := sameCounts(want, func(k string) (uint64, error) { return want[k] + 1, nil }); !errors.As(err, &wrong) {
		t.Errorf("a wrong count gives %v", err)
	}
}

func TestConsumeEnds(t *testing.T) {
	e, err := newEnv()
	if err != nil {
		t.Fatal(err)
	}
	defer e.close()
	if err := e.stream(t.Context(), inStream, 1, inSubject); err != nil {
		t.Fatal(err)
	}
	if err := e.fill(t.Context(), inStream, inSubject, 10, func(b []byte, id uint64) []byte { return appendEvent(b, id, 3) }); err != nil {
		t.Fatal(err)
	}
	refused := errors.New("refused")
	if err := e.consume(t.Context(), inStream, inSubject, 10, func([]byte) error { return refused }); !errors.Is(err, refused) {
		t.Errorf("an error of the handler gives %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	left := 10
	err = e.consume(ctx, inStream, inSubject, 11, func([]byte) error {
		if left--; left == 0 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("too few messages give %v", err)
	}
}

// Both decoders read the same from every event, and an event has the size that the tables say.
func TestEvents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.Uint64Range(0, 1e9).Draw(t, "id")
		keys := rapid.IntRange(1, 1e7).Draw(t, "keys")
		b := appendEvent(nil, id, keys)
		if len(b) < eventBytes || len(b) > eventBytes+16 {
			t.Fatalf("event %d has %d bytes: %s", id, len(b), b)
		}
		slow, err := codec.JSON[Event]().Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		fast, err := scanEvent(b)
		if err != nil || fast != slow || fast.ID != id || fast.Key != keyOf(id, keys) {
			t.Fatalf("json reads %+v, scan %+v, %v", slow, fast, err)
		}
		cut := rapid.IntRange(0, len(b)-1).Draw(t, "cut")
		if _, err := scanEvent(b[:cut]); err == nil {
			t.Fatalf("half an event was taken: %s", b[:cut])
		}
	})
}

func TestStat(t *testing.T) {
	if s := statOf([]float64{3, 1, 2}); s != (Stat{2, 1, 3}) {
		t.Errorf("odd: %+v", s)
	}
	if s := statOf([]float64{4, 1, 2, 3}); s != (Stat{2.5, 1, 4}) {
		t.Errorf("even: %+v", s)
	}
	ms := make([]time.Duration, 100)
	for i := range ms {
		ms[i] = time.Duration(i+1) * time.Millisecond
	}
	if a, b, c := quantile(ms, 0.5), quantile(ms, 0.99), quantile(ms, 1); a != 50*time.Millisecond || b != 99*time.Millisecond || c != 100*time.Millisecond {
		t.Errorf("quantiles %s %s %s", a, b, c)
	}
	if quantile(nil, 0.5) != 0 {
		t.Error("a quantile of nothing")
	}
}
