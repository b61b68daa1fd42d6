package processor

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
)

// asyncBed has one Async over lines, keyed by the line, whose calls wait to be completed.
func asyncBed(t *testing.T, spec AsyncSpec[string], call func(context.Context, string) (string, error)) *Testbed {
	t.Helper()
	b := NewBuilder("asks")
	to(Async(KeyBy(lines(b, "in"), func(s string) string { return s }), "ask", spec, call), "out")
	bed, err := NewTestbed(mustBuild(t, b), TestbedConfig{HoldCalls: true})
	if err != nil {
		t.Fatal(err)
	}
	return bed
}

func answerAll(t *testing.T, bed *Testbed) error {
	t.Helper()
	for bed.Calls() > 0 {
		if err := bed.Complete(0); err != nil {
			return err
		}
	}
	return nil
}

func wantLetter(t *testing.T, bed *Testbed, payload, text string) {
	t.Helper()
	letters := bed.Output(deadLetterSink)
	if len(letters) != 1 || string(letters[0].Data) != payload || letters[0].Header[HeaderOperator][0] != "ask" || !strings.Contains(letters[0].Header[HeaderError][0], text) {
		t.Errorf("dead letters %q, want one of %q: %s", letters, payload, text)
	}
}

func TestAsyncMistakes(t *testing.T) {
	b := NewBuilder("asks")
	key := func(s string) string { return s }
	in := lines(b, "in")
	call := func(context.Context, string) (string, error) { return "", nil }
	bad := AsyncSpec[string]{Concurrency: -1, Timeout: -1, Retry: Retry{Attempts: -2, Backoff: -3}, Exhausted: 7, State: []state.Option{state.TTL(time.Hour)}}
	to(Async(KeyBy(in, key), "bad", bad, call), "out1")
	to(Async(KeyBy(in, key), "much", AsyncSpec[string]{Concurrency: 10_001, Retry: Retry{Attempts: 1001}, State: []state.Option{state.SchemaVersion(0)}}, call), "out2")
	to(Async[string, string](KeyBy(in, key), "nil", AsyncSpec[string]{}, nil), "out3")
	_, err := b.Build()
	if err == nil {
		t.Fatal("it was built")
	}
	for _, want := range []string{
		"bad: AsyncSpec.Concurrency is -1", "bad: AsyncSpec.Timeout is -1ns", "bad: AsyncSpec.Retry.Attempts is -2", "bad: AsyncSpec.Retry.Backoff is -3ns",
		"bad: AsyncSpec.Exhausted is 7", "bad: AsyncSpec.State has a TTL", "much: AsyncSpec.Concurrency is 10001", "much: AsyncSpec.Retry.Attempts is 1001",
		"schema version 0", "nil: its function is nil",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in:\n%v", want, err)
		}
	}
}

func TestAsyncRetriesAndDeadLetters(t *testing.T) {
	tries := 0
	bed := asyncBed(t, AsyncSpec[string]{Retry: Retry{Backoff: time.Second}}, func(_ context.Context, s string) (string, error) {
		if tries++; s == "never" || s == "twice" && tries < 3 {
			return "", fmt.Errorf("try %d", tries)
		}
		return s + "!", nil
	})
	for _, line := range []string{"twice", "never"} {
		tries = 0
		push(t, bed, "in", line, 0)
		for i, wait := range []time.Duration{time.Second, 2 * time.Second} {
			if err := answerAll(t, bed); err != nil || tries != i+1 {
				t.Fatalf("%s: %d tries, %v", line, tries, err)
			}
			if err := bed.Advance(wait - 1); err != nil || bed.Calls() != 0 {
				t.Fatalf("%s: tried again before the backoff %v (%v)", line, wait, err)
			}
			if err := bed.Advance(1); err != nil || bed.Calls() != 1 {
				t.Fatalf("%s: not tried again behind the backoff %v (%v)", line, wait, err)
			}
		}
		if err := answerAll(t, bed); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, bed, "out", "twice!")
	wantLetter(t, bed, "never", "3 tries failed, the last one: try 3")
	if m := bed.Metrics(); m.AsyncRetries != 4 || m.AsyncInFlight != 0 || m.DeadLetters != 1 {
		t.Errorf("%+v", m)
	}
	for tries, want := range map[int]time.Duration{1: time.Second, 5: 16 * time.Second, 6: maxAsyncBackoff, 999: maxAsyncBackoff} {
		if got := (Retry{Backoff: time.Second}).wait(tries); got != want {
			t.Errorf("behind %d tries it waits %v, want %v", tries, got, want)
		}
	}
}

// A call that does not return keeps its place, and its answer is ignored when it comes.
func TestAsyncTimeouts(t *testing.T) {
	asked := 0
	call := func(ctx context.Context, s string) (string, error) {
		asked++
		return fmt.Sprintf("%s%d %t", s, asked, ctx.Err() != nil), nil // an answer, however late
	}
	bed := asyncBed(t, AsyncSpec[string]{Concurrency: 2, Timeout: time.Second, Retry: Retry{Backoff: time.Millisecond}}, call)
	push(t, bed, "in", "a", 0)
	if err := bed.Advance(time.Second + asyncGrace + time.Millisecond); err != nil || bed.Calls() != 2 {
		t.Fatalf("%d calls, %v", bed.Calls(), err)
	}
	if m := bed.Metrics(); m.AsyncAbandoned != 1 || m.AsyncTimeouts != 1 || m.AsyncRetries != 1 || m.AsyncInFlight != 1 {
		t.Errorf("%+v", m)
	}
	if err := bed.Complete(1); err != nil {
		t.Fatal(err)
	}
	expect(t, bed, "out", "a1 false")
	if err := bed.Complete(0); err != nil {
		t.Fatal(err)
	}
	expect(t, bed, "out")
	if m := bed.Metrics(); m.AsyncAbandoned != 0 || m.AsyncInFlight != 0 {
		t.Errorf("%+v", m)
	}

	// One that obeys returns an error instead.
	bed = asyncBed(t, AsyncSpec[string]{Timeout: time.Second, Retry: Retry{Attempts: 1}}, func(ctx context.Context, s string) (string, error) { return "", ctx.Err() })
	push(t, bed, "in", "a", 0)
	if err := bed.Advance(time.Second); err != nil {
		t.Fatal(err)
	}
	if err := bed.Complete(0); err != nil {
		t.Fatal(err)
	}
	wantLetter(t, bed, "a", "1 tries failed, the last one: context deadline exceeded")

	// When all are kept like that there is no way on.
	bed = asyncBed(t, AsyncSpec[string]{Concurrency: 2, Timeout: time.Second}, call)
	push(t, bed, "in", "a", 0)
	push(t, bed, "in", "b", 0)
	var failed *OperatorError
	err := bed.Advance(time.Second + asyncGrace)
	if !errors.As(err, &failed) || failed.Operator != "ask" || failed.Seq != 2 || ClassOf(err) != ClassRestart || !strings.Contains(err.Error(), "all of its 2 calls go on") {
		t.Errorf("%v", err)
	}
}

func TestAsyncFailures(t *testing.T) {
	for name, c := range map[string]struct {
		exhausted AsyncExhausted
		call      func(context.Context, string) (string, error)
		class     Class
		want      string
	}{
		"restart":  {AsyncRestart, func(context.Context, string) (string, error) { return "", errors.New("down") }, ClassRestart, "operator ask at sequence 1 of stream in: 1 tries failed, the last one: down"},
		"terminal": {AsyncDeadLetter, func(context.Context, string) (string, error) { return "", Terminal(errors.New("no way")) }, ClassTerminal, "no way"},
		"panic":    {AsyncDeadLetter, func(context.Context, string) (string, error) { panic("oh") }, ClassRestart, "operator ask at sequence 1 of stream in: panic: oh"},
	} {
		t.Run(name, func(t *testing.T) {
			bed := asyncBed(t, AsyncSpec[string]{Exhausted: c.exhausted, Retry: Retry{Attempts: 1}}, c.call)
			push(t, bed, "in", "a", 0)
			err := bed.Complete(0)
			if err == nil || ClassOf(err) != c.class || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
		})
	}
	bed := asyncBed(t, AsyncSpec[string]{}, func(context.Context, string) (string, error) { return "", Poison(errors.New("bad")) })
	push(t, bed, "in", "a", 0)
	if err := bed.Complete(0); err != nil {
		t.Fatal(err)
	}
	wantLetter(t, bed, "a", "bad")
	if err := bed.Complete(0); err == nil {
		t.Error("a call that is not there was completed")
	}
}

// What is in flight survives a restart, its record with it, and can be looked at.
func TestAsyncStateOfWhatIsInFlight(t *testing.T) {
	call := func(context.Context, string) (string, error) { return "", Poison(errors.New("bad")) }
	bed := asyncBed(t, AsyncSpec[string]{Concurrency: 3}, call)
	at := time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC)
	push(t, bed, "in", "a", at.UnixNano())
	snap, err := bed.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if bed, err = NewTestbed(bed.plan.topology, TestbedConfig{From: snap, HoldCalls: true, Parallelism: 3}); err != nil {
		t.Fatal(err)
	}
	backend, err := bed.State("ask", "a")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"elements": `{"0":"a"}`, "records": `{"0":{"timestamp":"2020-02-03T04:05:06Z","source":"in","stream":"in","seq":1,"subject":"test.in","bytes":1}}`,
	} {
		got, ok, err := backend.JSON(name, "a")
		if err != nil || !ok || string(got) != want {
			t.Errorf("%s: %s %t %v, want %s", name, got, ok, err, want)
		}
	}
	if err := bed.Complete(0); err != nil {
		t.Fatal(err)
	}
	wantLetter(t, bed, "a", "bad")
	if m := bed.Metrics(); m.AsyncInFlight != 0 {
		t.Errorf("%+v", m)
	}
}

// A record may make more elements than may be in flight: the rest waits uncalled, in the state, and nothing more is read.
func TestAsyncBeyondItsBound(t *testing.T) {
	b := NewBuilder("asks")
	in := FlatMap(lines(b, "in"), "many", func(s string, emit func(string)) error {
		for i := range 5 {
			emit(fmt.Sprint(s, i))
		}
		return nil
	})
	to(Async(KeyBy(in, func(s string) string { return s[:1] }), "ask", AsyncSpec[string]{Concurrency: 2}, func(_ context.Context, s string) (string, error) { return s, nil }), "out")
	topology := mustBuild(t, b)
	bed, err := NewTestbed(topology, TestbedConfig{HoldCalls: true})
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range []string{"a", "b"} {
		if err := bed.Push("in", Record{Subject: "test.in", Data: []byte(s), Seq: uint64(i + 1)}); err != nil {
			t.Fatal(err)
		}
	}
	if m := bed.Metrics(); bed.Calls() != 2 || m.AsyncInFlight != 5 || m.RecordsIn != 1 {
		t.Fatalf("%d calls, %+v", bed.Calls(), m)
	}
	snap, err := bed.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if bed, err = NewTestbed(topology, TestbedConfig{HoldCalls: true, From: snap}); err != nil {
		t.Fatal(err)
	}
	if m := bed.Metrics(); bed.Calls() != 2 || m.AsyncInFlight != 5 || snap.positions["in"].Position != 1 {
		t.Fatalf("%d calls, %+v", bed.Calls(), m)
	}
	if err := answerAll(t, bed); err != nil {
		t.Fatal(err)
	}
	expect(t, bed, "out", "a0", "a1", "a2", "a3", "a4")
}

// The bytes are in checkpoints, see state/FORMAT.md: they are for ever.
func TestAsyncRecordFormat(t *testing.T) {
	const golden = "038080e895d1abe1c92b018080f0919fe8a4ed2b066f7264657273024f53ac0208612e6f7264657273ff00"
	task := &task{at: 1_570_000_000_000_000_000, origin: origin{
		source: &sourceRef{name: "orders", stream: "OS"}, seq: 300, time: 1_580_000_000_000_000_000, subject: "a.orders", data: []byte{0xff, 0}, far: true,
	}}
	got := task.recordOf(-1)
	if hex.EncodeToString(got) != golden {
		t.Errorf("the format changed:\n%x\n%s", []byte(got), golden)
	}
	b, err := hex.DecodeString(golden)
	if err != nil {
		t.Fatal(err)
	}
	o, err := asyncRecord(b).decode()
	if err != nil || !o.far || o.at != task.at || o.watermark != -1 || o.time != task.origin.time || o.seq != 300 || o.source != "orders" || o.stream != "OS" || o.subj != "a.orders" || !bytes.Equal(o.data, task.origin.data) {
		t.Errorf("%+v, %v", o, err)
	}
}

func FuzzAsyncRecord(f *testing.F) {
	full := &task{at: 1, origin: origin{source: &sourceRef{name: "orders", stream: "OS"}, seq: 300, time: math.MaxInt64, subject: "a.orders", data: []byte("x")}}
	f.Add([]byte(full.recordOf(math.MinInt64)))
	f.Add([]byte((&task{at: math.MinInt64}).recordOf(7)))
	c := asyncRecordCodec{}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := c.Decode(data)
		if err != nil {
			if !errors.Is(err, codec.ErrMalformed) {
				t.Errorf("%v", err)
			}
			return
		}
		o, err := r.decode()
		if err != nil {
			t.Fatal(err)
		}
		again := &task{at: o.at, origin: origin{seq: o.seq, time: o.time, subject: o.subj, data: o.data, far: o.far}}
		if o.record {
			again.origin.source = &sourceRef{name: o.source, stream: o.stream}
		}
		if b := again.recordOf(o.watermark); !bytes.Equal(b, data) {
			t.Errorf("%x came back as %x", data, []byte(b))
		}
		if text, err := json.Marshal(r); err != nil || !json.Valid(text) {
			t.Errorf("%x as JSON: %s, %v", data, text, err)
		}
	})
}

// Elements of one key that were numbered by one subtask after watermarks of several keep their order, and none is put behind a watermark
// that it came in front of.
func TestAsyncRestoresTheOrderOfAKey(t *testing.T) {
	bed := asyncBed(t, AsyncSpec[string]{}, func(_ context.Context, s string) (string, error) { return s, nil })
	op := bed.plan.tasks[0].asyncs[0].(*asyncOp[string, string])
	if err := bed.AdvanceWatermark("in", time.Unix(0, 100)); err != nil {
		t.Fatal(err)
	}
	for seq, watermark := range []int64{50, 20, 70, 200} {
		op.pc.backend.SetKey("a")
		err := op.elements.Put(op.pc, uint64(seq), fmt.Sprint(seq))
		if err == nil {
			err = op.records.Put(op.pc, uint64(seq), (&task{at: 60}).recordOf(watermark))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	snap, err := bed.Snapshot()
	if err == nil {
		bed, err = NewTestbed(bed.plan.topology, TestbedConfig{From: snap, HoldCalls: true})
	}
	if err != nil {
		t.Fatal(err)
	}
	op = bed.plan.tasks[0].asyncs[0].(*asyncOp[string, string])
	var got []string
	for f := op.keys["a"].first; f != nil; f = f.next {
		got = append(got, fmt.Sprintf("%d behind %d late %t", f.seq, f.behind, f.late))
	}
	if want := "[0 behind 20 late false 1 behind 20 late false 2 behind 70 late true 3 behind 100 late true]"; fmt.Sprint(got) != want || op.seq != 4 {
		t.Errorf("%v, want %s", got, want)
	}
	if err := answerAll(t, bed); err != nil {
		t.Fatal(err)
	}
	expect(t, bed, "out", "0", "1", "2", "3")

	// Without its record an element is of no use.
	op.pc.backend.SetKey("b")
	if err := op.elements.Put(op.pc, 9, "b"); err != nil {
		t.Fatal(err)
	}
	if snap, err = bed.Snapshot(); err != nil {
		t.Fatal(err)
	}
	if _, err = NewTestbed(bed.plan.topology, TestbedConfig{From: snap}); err == nil || ClassOf(err) != ClassTerminal || !strings.Contains(err.Error(), `the element 9 of key "b" has no record`) {
		t.Errorf("%v", err)
	}
}

// A key that is too long is the record's fault: it is refused before anything is called.
func TestAsyncRefusesKeysThatAreTooLong(t *testing.T) {
	bed := asyncBed(t, AsyncSpec[string]{}, func(_ context.Context, s string) (string, error) { return s, nil })
	long := strings.Repeat("k", 1<<16)
	push(t, bed, "in", long, 0)
	push(t, bed, "in", "short", 0)
	if err := answerAll(t, bed); err != nil {
		t.Fatal(err)
	}
	wantLetter(t, bed, long, "key bytes")
	expect(t, bed, "out", "short")
	if m := bed.Metrics(); m.AsyncInFlight != 0 {
		t.Errorf("%+v", m)
	}
}
