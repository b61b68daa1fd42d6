package control

import (
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirstream/weir/processor"
)

// FuzzDecode: no request panics a verb's decoder; what is refused is the request's fault, and what is taken says the same when it
// is written and read again.
func FuzzDecode(f *testing.F) {
	all := verbs()
	for i := range all {
		for _, body := range []string{
			``, ` `, `{}`, `{"name":"a"}`, `{"limit":5,"after":"3:x"}`, `{"mode":"drain","savepoint":"a"}`, `{"from":"savepoint","savepoint":"a","config":{"params":{"a":[1]},"checkpoint_interval":"5s"}}`,
			`{"as":"b","shadow":"x.y"}`, `{"operator":"a","state":"b","key":""}`, `{"wait":null}`, `{"name":"a","cut":{"x":1}}`, "\xff", `{"a":{"a":{"a":{}}}}`,
		} {
			f.Add(uint8(i), []byte(body))
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		v := all[int(which)%len(all)]
		in, err := v.decode(data)
		if err != nil {
			var own *processor.ControlError
			if !errors.As(err, &own) || own.Reason != processor.ReasonBadRequest || own.Message == "" {
				t.Fatalf("%s %q: %v", v.name, data, err)
			}
			return
		}
		again, err := json.Marshal(in)
		if err != nil {
			t.Fatalf("%s %q: %v", v.name, data, err)
		}
		back, err := v.decode(again)
		if err != nil {
			t.Fatalf("%s %q became %q: %v", v.name, data, again, err)
		}
		if twice, _ := json.Marshal(back); string(twice) != string(again) {
			t.Fatalf("%s %q became %q, and that %q", v.name, data, again, twice)
		}
	})
}

// TestDecodeBounded: what a request makes the decoder allocate is bounded by its own size.
func TestDecodeBounded(t *testing.T) {
	long := []byte(`{"config":{"params":{"` + strings.Repeat("k", 30<<10) + `":[` + strings.Repeat("1,", 15<<10) + `1]}}}`)
	all := verbs()
	v := all[slices.IndexFunc(all, func(v *verb) bool { return v.name == "start" })]
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := v.decode(long); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 200*uint64(len(long)) {
		t.Fatalf("%d bytes made it allocate %d", len(long), n)
	}
}

// TestLimiter compares the buckets with a model that remembers every request.
func TestLimiter(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 2))
	const rate, burst = 10, 20
	l := newLimiter(Limits{Rate: rate, Burst: burst, Reads: 8, Works: 4})
	l.learn("acme")
	l.learn("globex")
	class := map[string]string{"acme": "acme", "globex": "globex", "x1": "strangers", "x2": "strangers", none: none}
	tokens := map[string]float64{"acme": burst, "globex": burst, "strangers": burst, none: burst}
	now := time.Unix(1000, 0)
	names := []string{"acme", "globex", "x1", "x2", none}
	admitted := 0
	for range 20_000 {
		step := time.Duration(rng.IntN(30)) * time.Millisecond
		now = now.Add(step)
		for c := range tokens {
			tokens[c] = min(burst, tokens[c]+rate*step.Seconds())
		}
		name := names[rng.IntN(len(names))]
		c := class[name]
		work, cost := rng.IntN(4) == 0, 1.0
		if work {
			cost = workCost
		}
		err := l.admit(name, work, now)
		if math.Abs(tokens[c]-cost) < 0.001 { // rounding decides
			tokens[c] = cost
		} else if want := tokens[c] >= cost; want != (err == nil) {
			t.Fatalf("request of %s for %g of %g tokens: %v", name, cost, tokens[c], err)
		}
		if err == nil {
			tokens[c] -= cost
			admitted++
		}
	}
	if admitted < 100 || admitted > 19_000 {
		t.Fatalf("%d requests were admitted", admitted)
	}
}

// TestPlaces: one tenant has a quarter of the places, and a place that is left is free again.
func TestPlaces(t *testing.T) {
	l := newLimiter(Limits{Rate: 1, Burst: 1, Reads: 8, Works: 4})
	var leave []func()
	enter := func(tenant string, work bool) error {
		f, err := l.enter(tenant, work)
		if err == nil {
			leave = append(leave, f)
		}
		return err
	}
	for i, c := range []struct {
		tenant string
		work   bool
		ok     bool
	}{
		{"a", false, true}, {"a", false, true}, // strangers share two places
		{"b", false, false},
		{none, false, true}, {none, false, true}, {none, false, false},
		{"a", true, true}, {"b", true, false}, {none, true, true},
	} {
		if err := enter(c.tenant, c.work); (err == nil) != c.ok {
			t.Fatalf("place %d: %v", i, err)
		}
	}
	for _, f := range leave {
		f()
	}
	for _, tenant := range []string{"t1", "t2", "t3", "t4", "t5"} {
		l.learn(tenant)
	}
	taken := 0
	for _, tenant := range []string{"t1", "t1", "t1", "t2", "t2", "t3", "t3", "t4", "t4", "t5"} {
		if enter(tenant, false) == nil {
			taken++
		}
	}
	if taken != 8 {
		t.Fatalf("%d of 8 places were taken", taken)
	}
}
