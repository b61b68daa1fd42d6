package processor

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/tenants"
)

var alarms = state.NewValue[int64]("alarms")

// alarmed sets a timer for every element at its time plus after, and emits what fires with the key's count so far.
func alarmed(b *Builder, in Stream[stamped], after time.Duration) Stream[string] {
	return Process(KeyBy(in, byStamped), "alarm", func(pc *Context[string], v stamped) error {
		return pc.SetEventTimer(v.At.Add(after))
	}, Uses(alarms), OnEventTimer(func(pc *Context[string], at time.Time) error {
		n, err := alarms.Get(pc)
		if err != nil {
			return err
		}
		pc.Emit(fmt.Sprintf("%s %d #%d", pc.Key(), at.UnixNano()/ms, n+1))
		return alarms.Set(pc, n+1)
	}))
}

func alarmTopology() *Builder {
	b := NewBuilder("alarms")
	textSink(alarmed(b, stampedSource(b, "in", EventTime(stampedTime, MaxAhead(time.Hour*24*365*100))), 0), "out", func(s string) string { return s })
	return b
}

func TestEventTimersFireInOrder(t *testing.T) {
	bed := newBed(t, alarmTopology(), TestbedConfig{})
	for _, at := range []int64{30, 10, 20, 20, 10} {
		push(t, bed, "in", fmt.Sprint("k ", at*ms), 0)
	}
	push(t, bed, "in", fmt.Sprint("j ", 15*ms), 0)
	expect(t, bed, "out", "k 10 #1", "k 20 #2", "k 20 #3", "k 10 #4", "j 15 #1") // all but the first behind the watermark: at once
	if err := bed.AdvanceWatermark("in", time.Unix(0, 30*ms-1)); err != nil {
		t.Fatal(err)
	}
	expect(t, bed, "out")
	if err := bed.AdvanceWatermark("in", time.Unix(0, 30*ms)); err != nil {
		t.Fatal(err)
	}
	expect(t, bed, "out", "k 30 #5")

	bed = newBed(t, alarmTopology(), TestbedConfig{})
	for _, payload := range []string{"b 3", "a 3", "a 2", "a 3", "c 1"} {
		push(t, bed, "in", payload+"000000000", 0)
		if err := bed.AdvanceWatermark("in", time.Unix(0, 0)); err != nil {
			t.Fatal(err)
		}
	}
	bed.Output("out")
	bed = newBed(t, alarmTopology(), TestbedConfig{})
	for _, payload := range []string{"b 3", "a 3", "a 2"} { // the first takes the watermark just below 3 s
		push(t, bed, "in", payload+"000000000", 0)
	}
	push(t, bed, "in", "a 3000000000", 0) // again: once
	expect(t, bed, "out", "a 2000 #1")
	push(t, bed, "in", "z 4000000000", 0)
	expect(t, bed, "out", "a 3000 #2", "b 3000 #1")
}

func TestEventTimerIsWithdrawn(t *testing.T) {
	b := NewBuilder("withdrawn")
	out := Process(KeyBy(stampedSource(b, "in", EventTime(stampedTime)), byStamped), "op", func(pc *Context[string], v stamped) error {
		if v.At.UnixNano() == 5*ms {
			return pc.DeleteEventTimer(time.Unix(0, 100*ms))
		}
		return pc.SetEventTimer(time.Unix(0, 100*ms))
	}, OnEventTimer(func(pc *Context[string], at time.Time) error {
		pc.Emit(pc.Key())
		return pc.DeleteEventTimer(at.Add(time.Hour)) // there is none
	}))
	textSink(out, "out", func(s string) string { return s })
	bed := newBed(t, b, TestbedConfig{})
	for _, payload := range []string{"a 1", "b 1", "a 5"} {
		push(t, bed, "in", payload+"000000", 0)
	}
	if err := bed.AdvanceWatermark("in", time.Unix(0, 100*ms)); err != nil {
		t.Fatal(err)
	}
	expect(t, bed, "out", "b")
}

func TestEventTimerErrors(t *testing.T) {
	build := func(opts ...ProcessOption) *Builder {
		b := NewBuilder("wrong")
		textSink(Process(KeyBy(stampedSource(b, "in", Timestamps[stamped]{}), byStamped), "op", func(pc *Context[string], v stamped) error {
			return pc.SetEventTimer(time.Date(9000, 1, 1, 0, 0, 0, 0, time.UTC))
		}, opts...), "out", func(s string) string { return s })
		return b
	}
	never := OnEventTimer(func(*Context[string], time.Time) error { return nil })
	bed := newBed(t, build(never), TestbedConfig{})
	push(t, bed, "in", "k 1", 1)
	if letters := bed.Output("_dlq"); len(letters) != 1 || !strings.Contains(letters[0].Header[HeaderError][0], "the year 9000") {
		t.Errorf("%+v", letters)
	}
	bed = newBed(t, build(), TestbedConfig{})
	err := bed.Push("in", Record{Subject: "test.in", Data: []byte("k 1")})
	if err == nil || ClassOf(err) != ClassTerminal || !strings.Contains(err.Error(), "add processor.OnEventTimer") {
		t.Error(err)
	}
	for want, opts := range map[string][]ProcessOption{
		"more than one OnEventTimer":             {never, never},
		"the function of OnEventTimer is nil":    {OnEventTimer[string](nil)},
		"OnEventTimer has a func(*processor.Con": {OnEventTimer(func(*Context[int], time.Time) error { return nil })},
	} {
		if _, err := build(opts...).Build(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// crowd sets n timers, none of them due yet.
func crowd(t *testing.T, task *task, n int) (seq uint64) {
	t.Helper()
	for seq < uint64(n) {
		var records []Record
		for i := range 500 {
			records = append(records, rec("in", fmt.Sprintf("k%d %d", i%50, -int64(n)*ms+int64(seq)*ms+int64(i)*ms)))
		}
		step(t, task, batchOf(0, seq+1, records...))
		seq += 500
	}
	return seq
}

// crowdTopology sets timers an hour behind: only the watermark's jump makes them due.
func crowdTopology() *Builder {
	b := NewBuilder("crowd")
	textSink(alarmed(b, stampedSource(b, "in", EventTime(stampedTime, MaxAhead(time.Hour*24*365*100))), time.Hour), "out", func(s string) string { return s })
	return b
}

const crowdSize = 5000

func jump(key string) Record { return rec("in", fmt.Sprintf("%s %d", key, 2*int64(time.Hour))) }

// roomy lets a task stage as much as the crowd emits.
func roomy(c *planConfig) { c.MaxPendingBytes, c.MaxStateBytes = 1<<30, 1<<30 }

func timersLeft(task *task) int { return task.subtasks[0].backend.Timers().Len(state.EventTime) }

// Thousands of timers come due at once: each step fires a slice of them, the batch waits, and a barrier goes in between. What the
// checkpoint has not fired is in its state, and fires first after a restore, before the elements that waited.
func TestBarrierBetweenSlices(t *testing.T) {
	for _, inStream := range []bool{false, true} {
		task, h := single(t, crowdTopology(), roomy)
		seq := crowd(t, task, crowdSize)
		if timersLeft(task) != crowdSize || task.unfinished() {
			t.Fatalf("%d timers set", timersLeft(task))
		}
		consumed := len(h.consumedBy)
		if inStream {
			step(t, task, evTrigger{checkpoint: 1, nonce: testNonce}, batchOf(0, seq+1, jump("late"), barrierRec("in", func(b *barriers.Barrier) { b.Source = "in" }), rec("in", "behind 0")))
		} else {
			step(t, task, batchOf(0, seq+1, jump("late"), rec("in", "behind 0")), evTrigger{checkpoint: 1, nonce: testNonce, inject: true})
		}
		if len(h.snapshots) != 1 || !task.unfinished() || len(h.consumedBy) != consumed {
			t.Fatalf("in stream %t: %d snapshots, unfinished %t", inStream, len(h.snapshots), task.unfinished())
		}
		s := h.snapshots[0]
		fired := staged(s, "out")
		if len(fired) == 0 || len(fired) > 3*fireBudget {
			t.Errorf("in stream %t: %d timers fired before the barrier, want a slice", inStream, len(fired))
		}
		wantPosition := seq + 1
		if inStream {
			wantPosition++
		}
		wm := 2*int64(time.Hour) - 1
		if src := s.sources[0]; src.Position != wantPosition || src.Watermark == nil || *src.Watermark != wm {
			t.Errorf("in stream %t: source at %d with watermark %v", inStream, src.Position, src.Watermark)
		}
		if s.states[0].watermark != wm {
			t.Errorf("the operator's watermark is %d, want %d", s.states[0].watermark, wm)
		}
		steps := 0
		for task.unfinished() {
			step(t, task, evContinue{})
			steps++
		}
		if max := crowdSize/fireBudget + 1; steps > max || timersLeft(task) != 1 { // late's own is due at 3 h
			t.Errorf("%d more steps, %d timers left", steps, timersLeft(task))
		}
		objects, err := s.states[0].frozen.Encode(1 << 26)
		if err != nil {
			t.Fatal(err)
		}
		step(t, task, evCommitted{1}, evTrigger{checkpoint: 2, nonce: testNonce, inject: true})
		rest := staged(h.snapshots[1], "out")
		if got := len(fired) + len(rest); got != crowdSize+1 { // the one of behind is late, and fires at once
			t.Errorf("in stream %t: %d timers fired in all, want %d", inStream, got, crowdSize+1)
		}
		if last := rest[len(rest)-1]; !strings.HasPrefix(last, "behind ") {
			t.Errorf("in stream %t: the last to fire is %q: the element behind the barrier must wait for the timers", inStream, last)
		}
		// Another attempt goes on from checkpoint 1, and does the same.
		again, h := restored(t, s, objects)
		step(t, again, batchOf(0, seq+3, rec("in", "behind 0")))
		for again.unfinished() {
			step(t, again, evContinue{})
		}
		step(t, again, evTrigger{checkpoint: 2, nonce: testNonce, inject: true})
		if got := staged(h.snapshots[0], "out"); !slices.Equal(got, rest) {
			t.Errorf("in stream %t: after a restore %d timers fire, the last %q; without, %d, the last %q", inStream, len(got), got[len(got)-1], len(rest), rest[len(rest)-1])
		}
	}
}

// restored is a task of crowdTopology that begins with a snapshot.
func restored(t *testing.T, s *taskSnapshot, objects []state.EncodedObject) (*task, *recorder) {
	t.Helper()
	topo := mustBuild(t, crowdTopology())
	cfg := planConfig{
		Job: testJob, Prefix: "acme.", Parallelism: 1, KeyGroups: 16, Epoch: 7, Nonce: testNonce,
		Bindings: testBindings(topo.Needs(testJob, tenants.DefaultNamespace)),
	}
	p, err := newPlan(topo, cfg)
	if err != nil {
		t.Fatal(err)
	}
	var chain [][]byte
	for _, o := range objects {
		chain = append(chain, o.Data)
	}
	task, h := p.tasks[0], &recorder{clock: time.Unix(1000, 0)}
	sub := task.stateful()[0]
	sub.time.restore(recordWatermark(s.states[0].watermark))
	if err := sub.backend.Restore(chain); err != nil {
		t.Fatal(err)
	}
	task.bind(h)
	task.start(map[string]barriers.Source{"in": s.sources[0]})
	return task, h
}

// A drain fires everything, in slices, before its checkpoint is cut; what timer functions set then stays for later, and neither
// the sources' nor the operators' final watermark is recorded.
func TestFinalWatermark(t *testing.T) {
	b := NewBuilder("drained")
	out := Process(KeyBy(stampedSource(b, "in", EventTime(stampedTime)), byStamped), "op", func(pc *Context[string], v stamped) error {
		return pc.SetEventTimer(v.At.Add(time.Hour))
	}, OnEventTimer(func(pc *Context[string], at time.Time) error {
		pc.Emit(pc.Key())
		if pc.Key() == "k7" { // withdrawn again
			if err := pc.SetEventTimer(at.Add(time.Minute)); err != nil {
				return err
			}
			return pc.DeleteEventTimer(at.Add(time.Minute))
		}
		return pc.SetEventTimer(at.Add(time.Hour))
	}))
	textSink(out, "out", func(s string) string { return s })
	task, h := single(t, b, roomy)
	var records []Record
	for i := range 6000 {
		records = append(records, rec("in", fmt.Sprintf("k%d %d", i, int64(i)*ms)))
	}
	step(t, task, batchOf(0, 1, records...), evFinish{}, evTrigger{checkpoint: 1, nonce: testNonce, inject: true}, batchOf(0, 6001, rec("in", "unread 1")))
	if len(h.snapshots) != 0 || !task.unfinished() {
		t.Fatal("the checkpoint of a drain was cut before everything had fired")
	}
	for task.unfinished() {
		step(t, task, evContinue{})
	}
	if len(h.snapshots) != 1 {
		t.Fatalf("%d snapshots", len(h.snapshots))
	}
	s := h.snapshots[0]
	if got := len(staged(s, "out")); got != 6000 {
		t.Errorf("%d timers fired, want 6000", got)
	}
	if got := timersLeft(task); got != 5999 {
		t.Errorf("%d timers are left, want those set by the 5999 others than k7's", got)
	}
	if src := s.sources[0]; src.Position != 6000 || *src.Watermark != 5999*ms-1 || s.states[0].watermark != 5999*ms-1 {
		t.Errorf("position %d, watermarks %d and %d", src.Position, *src.Watermark, s.states[0].watermark)
	}
}

// Sources that are idle do not hold time back; what comes later is behind.
func TestIdleSource(t *testing.T) {
	for parallelism := 1; parallelism <= 3; parallelism++ {
		b := NewBuilder("idle")
		idle := IdleAfter(time.Minute)
		both := Union("both", stampedSource(b, "a", EventTime(stampedTime, idle)), stampedSource(b, "b", EventTime(stampedTime)), stampedSource(b, "c", EventTime(stampedTime, idle)))
		textSink(alarmed(b, both, 0), "out", func(s string) string { return s })
		bed := newBed(t, b, TestbedConfig{Parallelism: parallelism})
		advance := func(d time.Duration) {
			t.Helper()
			if err := bed.Advance(d); err != nil {
				t.Fatal(err)
			}
		}
		at := func(source, key string, millis int64) { push(t, bed, source, fmt.Sprint(key, " ", millis*ms), 0) }
		at("a", "k", 10)
		at("b", "k", 20)
		advance(59 * time.Second)
		at("b", "k", 30)
		expect(t, bed, "out") // c has sent nothing
		advance(time.Second)  // both a and c are idle
		expect(t, bed, "out", "k 10 #1", "k 20 #2")
		snapshot, err := bed.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		at("a", "k", 5) // behind: fires at once, and the watermark does not go back
		expect(t, bed, "out", "k 5 #3")
		at("a", "k", 15)
		expect(t, bed, "out", "k 15 #4")
		at("b", "k", 40)
		expect(t, bed, "out") // a is awake and stands at 15
		behind, err := bed.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		at("a", "k", 35)
		expect(t, bed, "out", "k 30 #5")

		// Idleness is in the snapshot: b alone leads, at any parallelism.
		bed = newBed(t, b, TestbedConfig{Parallelism: 4 - parallelism, From: snapshot})
		at("b", "k", 50)
		expect(t, bed, "out", "k 30 #3")
		// b, which is never idle, stands; so does time.
		advance(time.Hour)
		expect(t, bed, "out")

		// Where an operator was ahead of its inputs, it still is.
		bed = newBed(t, b, TestbedConfig{Parallelism: 4 - parallelism, From: behind})
		at("a", "k", 17)
		expect(t, bed, "out", "k 17 #5")
	}
}

// A source that is blocked, or has a backlog that its reader still tells of, is not idle.
func TestNotIdleWhileSomethingWaits(t *testing.T) {
	b := NewBuilder("waiting")
	textSink(alarmed(b, stampedSource(b, "in", EventTime(stampedTime, IdleAfter(time.Second))), 0), "out", func(s string) string { return s })
	task, h := single(t, b, nil)
	start := h.clock
	tick := func(after time.Duration) bool {
		h.clock, h.wakeAt = start.Add(after), time.Time{}
		step(t, task, evTick{now: h.clock})
		return task.inputs[0].time.idle
	}
	if !h.wakeAt.Equal(start.Add(time.Second)) {
		t.Fatalf("it wants to wake at %v", h.wakeAt)
	}
	batch := batchOf(0, 1, rec("in", "k 1"))
	batch.batch.Pending = 5
	step(t, task, batch)
	h.clock = start.Add(900 * time.Millisecond)
	step(t, task, evBatch{batch: Batch{Position: 3, Pending: 3}})
	if tick(time.Second) {
		t.Error("idle with a backlog")
	}
	if !h.wakeAt.After(h.clock) {
		t.Error("it does not look again")
	}
	task.inputs[0].blocked = true
	if tick(3 * time.Second) {
		t.Error("idle while blocked")
	}
	task.inputs[0].blocked = false
	if !tick(4 * time.Second) {
		t.Error("not idle although the reader has said nothing for long")
	}
	if !h.wakeAt.IsZero() {
		t.Errorf("idle, it wants to wake at %v", h.wakeAt)
	}
	step(t, task, batchOf(0, 4, rec("in", "k 2")))
	if task.inputs[0].time.idle || !h.wakeAt.Equal(h.clock.Add(time.Second)) {
		t.Errorf("awake again: idle %t, wakes at %v", task.inputs[0].time.idle, h.wakeAt)
	}
}

// A tick that makes more due than a step may fire is slices, too, and lets barriers in.
func TestProcessingTimersFireInSlices(t *testing.T) {
	b := NewBuilder("ticking")
	out := Process(KeyBy(stampedSource(b, "in", Timestamps[stamped]{}), byStamped), "op", func(pc *Context[string], v stamped) error {
		return pc.SetTimer(v.At)
	}, OnTimer(func(pc *Context[string], at time.Time) error {
		pc.Emit(fmt.Sprint(pc.Timestamp().UnixNano()))
		return nil
	}))
	textSink(out, "out", func(s string) string { return s })
	task, h := single(t, b, roomy)
	var records []Record
	for i := range 3000 {
		records = append(records, rec("in", fmt.Sprintf("k %d", i)))
	}
	step(t, task, batchOf(0, 1, records...))
	h.wakeAt = time.Time{}
	step(t, task, evTick{now: time.Unix(1, 0)}, evTrigger{checkpoint: 1, nonce: testNonce, inject: true})
	first := staged(h.snapshots[0], "out")
	if len(first) == 0 || len(first) > 2*fireBudget {
		t.Errorf("%d timers fired before the barrier", len(first))
	}
	for task.unfinished() {
		step(t, task, evContinue{})
	}
	if !h.wakeAt.IsZero() {
		t.Errorf("nothing is left and it wants to wake at %v", h.wakeAt)
	}
	step(t, task, evCommitted{1}, evTrigger{checkpoint: 2, nonce: testNonce, inject: true})
	all := append(first, staged(h.snapshots[1], "out")...)
	for i, at := range all {
		if at != fmt.Sprint(i) {
			t.Fatalf("timer %d is %s", i, at)
		}
	}
	if len(all) != 3000 {
		t.Errorf("%d timers fired", len(all))
	}
}

// What fires between two elements of one record leaves the second its record.
func TestRecordSurvivesFiring(t *testing.T) {
	for parallelism := 1; parallelism <= 2; parallelism++ {
		b := NewBuilder("twice")
		both := FlatMap(stampedSource(b, "in", EventTime(stampedTime)), "twice", func(v stamped, emit func(stamped)) error {
			emit(v)
			emit(stamped{v.Key, time.Time{}})
			return nil
		})
		out := Process(KeyBy(both, byStamped), "op", func(pc *Context[string], v stamped) error {
			if v.At.IsZero() {
				return Poison(fmt.Errorf("refused at %d", pc.Timestamp().UnixNano()))
			}
			return pc.SetEventTimer(time.Unix(0, ms)) // passed already
		}, OnEventTimer(func(pc *Context[string], at time.Time) error {
			pc.Emit(pc.Key())
			return nil
		}))
		textSink(out, "out", func(s string) string { return s })
		bed := newBed(t, b, TestbedConfig{Parallelism: parallelism})
		if err := bed.AdvanceWatermark("in", time.Unix(0, 2*ms)); err != nil {
			t.Fatal(err)
		}
		push(t, bed, "in", fmt.Sprint("k ", 3*ms), 7*ms)
		expect(t, bed, "out", "k")
		letters := bed.Output(deadLetterSink)
		if len(letters) != 1 || string(letters[0].Data) != fmt.Sprint("k ", 3*ms) || letters[0].Header[HeaderSeq][0] != "1" ||
			letters[0].Header[HeaderError][0] != fmt.Sprint("refused at ", 3*ms) {
			t.Errorf("parallelism %d: %+v", parallelism, letters)
		}
	}
}

// When everything is idle, whatever became idle last, time is where the furthest source is.
func TestAllIdle(t *testing.T) {
	for _, after := range [][2]time.Duration{{time.Second, time.Minute}, {time.Minute, time.Second}} {
		b := NewBuilder("allidle")
		both := Union("both", stampedSource(b, "a", EventTime(stampedTime, IdleAfter(after[0]))), stampedSource(b, "b", EventTime(stampedTime, IdleAfter(after[1]))))
		textSink(alarmed(b, both, 0), "out", func(s string) string { return s })
		bed := newBed(t, b, TestbedConfig{Parallelism: 2})
		push(t, bed, "a", fmt.Sprint("x ", 100*ms), 0)
		push(t, bed, "a", fmt.Sprint("k ", 99*ms), 0)
		push(t, bed, "b", fmt.Sprint("k ", 50*ms), 0)
		expect(t, bed, "out")
		if err := bed.Advance(time.Hour); err != nil {
			t.Fatal(err)
		}
		expect(t, bed, "out", "k 50 #1", "k 99 #2")
	}
}

// A drain whose final watermark comes sooner on one input leaves time open for what an idle input still has in windows.
func TestDrainWithAnIdleSource(t *testing.T) {
	for parallelism := 1; parallelism <= 3; parallelism++ {
		b := NewBuilder("drained")
		idle := stampedSource(b, "idle", EventTime(stampedTime, IdleAfter(time.Second)))
		busy := stampedSource(b, "busy", EventTime(stampedTime))
		latest := func(_, v stamped) stamped { return v }
		first := Reduce(Window(KeyBy(idle, byStamped), Tumbling(10*time.Millisecond)), "first", latest)
		both := Reduce(Window(KeyBy(Union("both", busy, first), byStamped), Tumbling(10*time.Millisecond)), "second", latest)
		textSink(both, "out", func(v stamped) string { return fmt.Sprintf("%s %d", v.Key, v.At.UnixNano()/ms) })
		bed := newBed(t, b, TestbedConfig{Parallelism: parallelism})
		push(t, bed, "idle", fmt.Sprint("k ", 25*ms), 0)
		push(t, bed, "busy", fmt.Sprint("k ", 11*ms), 0)
		if err := bed.Advance(time.Minute); err != nil {
			t.Fatal(err)
		}
		finish(t, bed, "busy", "idle")
		expect(t, bed, "out", "k 11", "k 25")
		if late := bed.Metrics().LateElements; late != 0 {
			t.Errorf("parallelism %d: %d late elements", parallelism, late)
		}
	}
}

// A processing timer at a time that does not fit is refused: taken as it is it would be in the past, and fire at once.
func TestTimersOutOfRange(t *testing.T) {
	b := NewBuilder("range")
	textSink(Process(KeyBy(stampedSource(b, "in", Timestamps[stamped]{}), byStamped), "op", func(pc *Context[string], v stamped) error {
		at := time.Date(3000, 1, 1, 0, 0, 0, 0, time.UTC)
		if v.Key == "withdrawn" {
			return pc.DeleteTimer(at)
		}
		return pc.SetTimer(at)
	}, OnTimer(func(pc *Context[string], at time.Time) error {
		pc.Emit(at.String())
		return nil
	})), "out", func(s string) string { return s })
	bed := newBed(t, b, TestbedConfig{})
	push(t, bed, "in", "set 1", 0)
	push(t, bed, "in", "withdrawn 1", 0)
	if err := bed.Advance(time.Hour); err != nil {
		t.Fatal(err)
	}
	expect(t, bed, "out")
	letters := bed.Output(deadLetterSink)
	if len(letters) != 2 || !strings.Contains(letters[0].Header[HeaderError][0], "a timer in the year 3000") {
		t.Errorf("%+v", letters)
	}
}

// Between a drain's final watermark and its barrier no processing timer fires: what it emitted would be late, and an event timer that
// it set be lost.
func TestTimersWaitBehindTheFinalWatermark(t *testing.T) {
	for parallelism := 1; parallelism <= 2; parallelism++ {
		b := NewBuilder("final")
		op := Process(KeyBy(stampedSource(b, "in", EventTime(stampedTime)), byStamped), "op", func(pc *Context[stamped], v stamped) error {
			return pc.SetTimer(time.Unix(10, 0))
		}, OnTimer(func(pc *Context[stamped], at time.Time) error {
			pc.Emit(stamped{pc.Key(), at})
			return pc.SetEventTimer(at.Add(time.Hour))
		}), OnEventTimer(func(pc *Context[stamped], at time.Time) error {
			pc.Emit(stamped{pc.Key(), at})
			return nil
		}))
		latest := Reduce(Window(KeyBy(op, byStamped), Tumbling(time.Second)), "latest", func(_, v stamped) stamped { return v })
		textSink(latest, "out", func(v stamped) string { return fmt.Sprint(v.At.Unix()) })
		bed := newBed(t, b, TestbedConfig{Start: time.Unix(1, 0), Parallelism: parallelism})
		push(t, bed, "in", "k 5", 0)
		if err := bed.Finish(); err != nil {
			t.Fatal(err)
		}
		if err := bed.Advance(time.Minute); err != nil {
			t.Fatal(err)
		}
		expect(t, bed, "out")
		snap, err := bed.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		bed = newBed(t, b, TestbedConfig{From: snap})
		if err := bed.Advance(time.Second); err != nil {
			t.Fatal(err)
		}
		if err := bed.Finish(); err != nil {
			t.Fatal(err)
		}
		expect(t, bed, "out", "10", "3610")
		if late := bed.Metrics().LateElements; late != 0 {
			t.Errorf("parallelism %d: %d late elements", parallelism, late)
		}
	}
}

// A job goes on behind a drain where its time was, whichever source the drain ended first.
func TestTimeBehindADrain(t *testing.T) {
	for parallelism := 1; parallelism <= 3; parallelism++ {
		b := NewBuilder("drained")
		both := Union("both", stampedSource(b, "ahead", EventTime(stampedTime)), stampedSource(b, "behind", EventTime(stampedTime)))
		latest := func(_, v stamped) stamped { return v }
		first := Reduce(Window(KeyBy(both, byStamped), Tumbling(10*time.Millisecond)), "first", latest)
		second := Reduce(Window(KeyBy(first, byStamped), Tumbling(10*time.Millisecond)), "second", latest)
		textSink(second, "out", func(v stamped) string { return fmt.Sprintf("%s %d", v.Key, v.At.UnixNano()/ms) })
		bed := newBed(t, b, TestbedConfig{Parallelism: parallelism})
		push(t, bed, "ahead", fmt.Sprint("k ", 100*ms), 0)
		push(t, bed, "behind", fmt.Sprint("k ", 10*ms), 0)
		finish(t, bed, "behind", "ahead")
		expect(t, bed, "out", "k 10", "k 100")
		snap, err := bed.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		bed = newBed(t, b, TestbedConfig{From: snap, Parallelism: parallelism})
		push(t, bed, "behind", fmt.Sprint("k ", 20*ms), 0)
		finish(t, bed, "ahead", "behind")
		expect(t, bed, "out", "k 20")
		if late := bed.Metrics().LateElements; late != 0 {
			t.Errorf("parallelism %d: %d late elements", parallelism, late)
		}
	}
}

// finish ends event time source by source.
func finish(t *testing.T, bed *Testbed, sources ...string) {
	t.Helper()
	for _, source := range sources {
		for i, task := range bed.plan.tasks {
			if slices.Contains(task.sourceInputs(), source) {
				if err := bed.run(i, evFinish{}); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}
