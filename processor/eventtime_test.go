package processor

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// stamped is an element of the event-time tests: a key and a time.
type stamped struct {
	Key string
	At  time.Time
}

// stampedCodec reads "key nanoseconds", or "key none".
var stampedCodec = codec.New("stamped", func(dst []byte, v stamped) ([]byte, error) {
	return fmt.Appendf(dst, "%s %d", v.Key, v.At.UnixNano()), nil
}, func(b []byte) (stamped, error) {
	key, at, _ := strings.Cut(string(b), " ")
	if at == "none" {
		return stamped{Key: key}, nil
	}
	if year, ok := strings.CutPrefix(at, "year "); ok {
		n, err := strconv.Atoi(year)
		return stamped{key, time.Date(n, 6, 1, 0, 0, 0, 0, time.UTC)}, err
	}
	ns, err := strconv.ParseInt(at, 10, 64)
	return stamped{key, time.Unix(0, ns)}, err
})

func stampedTime(v stamped) time.Time { return v.At }

func stampedSource(b *Builder, name string, at Timestamps[stamped]) Stream[stamped] {
	return From(b, name, SourceSpec[stamped]{Filters: []tenants.Filter{tenants.Filter(name)}, Codec: stampedCodec, EventTime: at})
}

func textSink[T any](s Stream[T], name string, text func(T) string) {
	To(s, name, SinkSpec[T]{FixedSubject: name, Codec: codec.New("text",
		func(dst []byte, v T) ([]byte, error) { return append(dst, text(v)...), nil },
		func([]byte) (v T, err error) { return v, errors.New("never read") })})
}

func byStamped(v stamped) string { return v.Key }

// observed is a topology that reports, for every element, its time and the watermark that its operator has.
func observed(at Timestamps[stamped]) *Builder {
	b := NewBuilder("observed")
	seen := Process(KeyBy(stampedSource(b, "in", at), byStamped), "observe", func(pc *Context[string], v stamped) error {
		wm := "none"
		if w := pc.Watermark(); !w.IsZero() {
			wm = strconv.FormatInt(w.UnixNano(), 10)
		}
		pc.Emit(fmt.Sprintf("%s %d %s", v.Key, pc.Timestamp().UnixNano(), wm))
		return nil
	})
	textSink(seen, "out", func(s string) string { return s })
	return b
}

func newBed(t testing.TB, b *Builder, cfg TestbedConfig) *Testbed {
	t.Helper()
	bed, err := NewTestbed(mustBuild(t, b), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return bed
}

// push hands a record in at a server time in nanoseconds; 0: now.
func push(t testing.TB, bed *Testbed, source, payload string, stored int64) {
	t.Helper()
	if err := bed.Push(source, Record{Subject: "test." + source, Data: []byte(payload), Time: stored}); err != nil {
		t.Fatal(err)
	}
}

func texts(messages []Message) []string {
	var out []string
	for _, m := range messages {
		out = append(out, string(m.Data))
	}
	return out
}

func expect(t testing.TB, bed *Testbed, sink string, want ...string) {
	t.Helper()
	if got := texts(bed.Output(sink)); !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", sink, got, want)
	}
}

const ms = int64(time.Millisecond)

func TestEventTimeBuildErrors(t *testing.T) {
	for name, c := range map[string]struct {
		at   Timestamps[stamped]
		want string
	}{
		"negative bound":       {EventTime(stampedTime, BoundedOutOfOrderness(-1)), "BoundedOutOfOrderness(-1ns): it must not be negative"},
		"idle at once":         {EventTime(stampedTime, IdleAfter(0)), "IdleAfter(0s): it must be positive"},
		"negative idle":        {ServerTime[stamped](IdleAfter(-time.Second)), "IdleAfter(-1s): it must be positive"},
		"negative ahead":       {EventTime(stampedTime, MaxAhead(-time.Second)), "MaxAhead(-1s): it must not be negative"},
		"no function":          {EventTime[stamped](nil), "the function of EventTime is nil"},
		"no watermark":         {EventTime(stampedTime, WithWatermark[stamped](nil)), "the function of WithWatermark is nil"},
		"nil option":           {EventTime(stampedTime, nil), "an option of the event time is nil"},
		"two watermarks":       {EventTime(stampedTime, MonotonousTimestamps(), BoundedOutOfOrderness(5)), "use one of BoundedOutOfOrderness"},
		"another element type": {EventTime(stampedTime, WithWatermark(func(_ string, at, _ time.Time) time.Time { return at })), "WithWatermark has a func(string,"},
		"unknown policy":       {EventTime(stampedTime, OnMissing(7)), "OnMissing(7): use PoisonMissing or RecordTime"},
	} {
		_, err := observed(c.at).Build()
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "operator in") {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, err := observed(EventTime(stampedTime, BoundedOutOfOrderness(time.Second), IdleAfter(time.Minute), MaxAhead(0), OnMissing(RecordTime))).Build(); err != nil {
		t.Error(err)
	}
}

// The watermark an element meets is that of the elements before it: rounded down to a millisecond, less one nanosecond.
func TestWatermarkFollowsElements(t *testing.T) {
	bed := newBed(t, observed(EventTime(stampedTime, BoundedOutOfOrderness(2*time.Millisecond))), TestbedConfig{})
	for _, at := range []int64{-5*ms - 1, 10 * ms, 11*ms - 1, 11 * ms, 3 * ms, 12*ms + 5, 12*ms + 6} {
		push(t, bed, "in", fmt.Sprint("k ", at), 20*ms)
	}
	expect(t, bed, "out",
		fmt.Sprint("k ", -5*ms-1, " none"),
		fmt.Sprint("k ", 10*ms, " ", -8*ms-1), // -5 ms - 1 ns - 2 ms, rounded down
		fmt.Sprint("k ", 11*ms-1, " ", 8*ms-1),
		fmt.Sprint("k ", 11*ms, " ", 8*ms-1),
		fmt.Sprint("k ", 3*ms, " ", 9*ms-1),
		fmt.Sprint("k ", 12*ms+5, " ", 9*ms-1),
		fmt.Sprint("k ", 12*ms+6, " ", 10*ms-1))
	if wm, err := bed.Watermark("observe"); err != nil || wm.UnixNano() != 10*ms-1 {
		t.Errorf("watermark %v, %v", wm, err)
	}
}

func TestServerTimeIsTheDefault(t *testing.T) {
	bed := newBed(t, observed(Timestamps[stamped]{}), TestbedConfig{})
	push(t, bed, "in", "k none", 5*ms)
	push(t, bed, "in", "k none", 7*ms)
	push(t, bed, "in", "k none", 6*ms)
	push(t, bed, "in", "k none", 6*ms)
	expect(t, bed, "out", fmt.Sprint("k ", 5*ms, " none"), fmt.Sprint("k ", 7*ms, " ", 5*ms-1), fmt.Sprint("k ", 6*ms, " ", 7*ms-1), fmt.Sprint("k ", 6*ms, " ", 7*ms-1))
}

func TestTimesThatCannotBeUsed(t *testing.T) {
	bed := newBed(t, observed(EventTime(stampedTime)), TestbedConfig{})
	for _, payload := range []string{"k none", "k year 1600", "k year 2300", "k year 1700"} {
		push(t, bed, "in", payload, ms)
	}
	letters := bed.Output("_dlq")
	for i, want := range []string{"the element has no time", "the year 1600", "the year 2300"} {
		if len(letters) != 3 || !strings.Contains(letters[i].Header[HeaderError][0], want) || letters[i].Header[HeaderOperator][0] != "in" {
			t.Errorf("dead letter %d: %+v, want %q", i, letters, want)
		}
	}
	year := time.Date(1700, 6, 1, 0, 0, 0, 0, time.UTC).UnixNano()
	expect(t, bed, "out", fmt.Sprint("k ", year, " none"))

	bed = newBed(t, observed(EventTime(stampedTime, OnMissing(RecordTime))), TestbedConfig{})
	push(t, bed, "in", "k none", 5*ms)
	push(t, bed, "in", "k none", 6*ms)
	expect(t, bed, "out", fmt.Sprint("k ", 5*ms, " none"), fmt.Sprint("k ", 6*ms, " ", 5*ms-1))
}

// An element too far ahead passes with its time, moves nothing, and is marked for windows, also behind an exchange.
func TestFarAhead(t *testing.T) {
	for parallelism := 1; parallelism <= 2; parallelism++ {
		b := observed(EventTime(stampedTime, MaxAhead(time.Second)))
		far := 0
		for _, n := range b.nodes { // what a window sees
			if n.name == "observe" {
				collect := n.collect
				n.collect = func(a *assembly, n *node) any {
					f := collect(a, n).(func(string, stamped))
					return func(key string, v stamped) {
						if a.task.origin.far {
							far++
						}
						f(key, v)
					}
				}
			}
		}
		bed := newBed(t, b, TestbedConfig{Parallelism: parallelism})
		stored := 100 * ms
		limit := stored + int64(time.Second)
		push(t, bed, "in", fmt.Sprint("k ", 50*ms), stored)
		push(t, bed, "in", fmt.Sprint("k ", limit+1), stored)
		push(t, bed, "in", fmt.Sprint("k ", int64(math.MaxInt64)-2*int64(time.Second)), stored)
		push(t, bed, "in", fmt.Sprint("k ", limit), stored)
		push(t, bed, "in", fmt.Sprint("k ", 0), stored)
		expect(t, bed, "out", fmt.Sprint("k ", 50*ms, " none"), fmt.Sprint("k ", limit+1, " ", 50*ms-1),
			fmt.Sprint("k ", int64(math.MaxInt64)-2*int64(time.Second), " ", 50*ms-1),
			fmt.Sprint("k ", limit, " ", 50*ms-1), fmt.Sprint("k 0 ", limit-1))
		if got := bed.Metrics().FarAhead; got != 2 || far != 2 {
			t.Errorf("parallelism %d: %d counted and %d marked as too far ahead, want 2", parallelism, got, far)
		}
	}
}

func TestWithWatermark(t *testing.T) {
	bed := newBed(t, observed(EventTime(stampedTime, MaxAhead(time.Second), WithWatermark(func(v stamped, at, current time.Time) time.Time {
		switch v.Key {
		case "back":
			return current.Add(-time.Hour)
		case "none":
			return time.Time{}
		case "ahead":
			return at.Add(time.Hour)
		case "beyond":
			return time.Date(3000, 1, 1, 0, 0, 0, 0, time.UTC)
		}
		return at.Add(-time.Nanosecond)
	}))), TestbedConfig{})
	for i, key := range []string{"k", "back", "none", "ahead", "beyond", "k", "k"} {
		push(t, bed, "in", fmt.Sprint(key, " ", i*10), 5)
	}
	expect(t, bed, "out", "k 0 none", "back 10 -1", "none 20 -1", "ahead 30 -1", "beyond 40 -1", "k 50 -1", "k 60 49")
}

func TestRoundingAndSaturation(t *testing.T) {
	for in, want := range map[int64]int64{0: 0, 1: 0, ms - 1: 0, ms: ms, -1: -ms, -ms: -ms, -ms - 1: -2 * ms, math.MinInt64 + 1: math.MinInt64} {
		if got := floorMilli(in); got != want {
			t.Errorf("floorMilli(%d) = %d, want %d", in, got, want)
		}
	}
	for _, c := range [][3]int64{{1, 2, 3}, {math.MaxInt64, 1, math.MaxInt64}, {math.MinInt64, -1, math.MinInt64}, {-5, 5, 0}, {math.MaxInt64, 0, math.MaxInt64}, {math.MinInt64, 0, math.MinInt64}} {
		if got := satAdd(c[0], c[1]); got != c[2] {
			t.Errorf("satAdd(%d, %d) = %d", c[0], c[1], got)
		}
	}
	for _, c := range [][3]int64{{3, 2, 1}, {math.MinInt64, 1, math.MinInt64}, {math.MaxInt64, -1, math.MaxInt64}, {5, 5, 0}, {math.MinInt64, 0, math.MinInt64}} {
		if got := satSub(c[0], c[1]); got != c[2] {
			t.Errorf("satSub(%d, %d) = %d", c[0], c[1], got)
		}
	}
	for _, tm := range []time.Time{time.Unix(0, math.MaxInt64), time.Unix(0, math.MinInt64)} {
		for d := -2 * time.Second; d <= 2*time.Second; d += time.Second {
			if ns, ok := toNanos(tm.Add(d)); ok && !time.Unix(0, ns).Equal(tm.Add(d)) {
				t.Errorf("%v is taken for %v", tm.Add(d), time.Unix(0, ns))
			}
		}
	}
}
