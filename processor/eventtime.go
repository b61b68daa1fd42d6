package processor

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// Timestamps says where the event time of a source's elements comes from and how its watermark follows. The zero value takes
// the time at which the server stored a record, in order. EventTime and ServerTime make others.
//
// The watermark of a source is the highest event time it has read, less the bound of BoundedOutOfOrderness, rounded down to a
// millisecond: no element before it is expected. It moves behind each element, whatever the batches are, never goes back, and
// is part of the checkpoint. Times before 1970 are fine. A time outside of what nanoseconds in 64 bits can hold (the years 1678
// to 2262) makes the record poison.
type Timestamps[T any] struct {
	extract func(T) time.Time
	set     bool
	opts    timeOptions
}

// EventTime takes an element's time from the element. Without options times are expected in order (MonotonousTimestamps).
func EventTime[T any](timestamp func(T) time.Time, opts ...TimeOption) Timestamps[T] {
	s := ServerTime[T](opts...)
	s.extract = timestamp
	if timestamp == nil {
		s.opts.fail("the function of EventTime is nil")
	}
	return s
}

// ServerTime takes the time at which the server stored the record, and options such as IdleAfter.
func ServerTime[T any](opts ...TimeOption) Timestamps[T] {
	s := Timestamps[T]{set: true, opts: timeOptions{maxAhead: DefaultMaxAhead}}
	for _, o := range opts {
		if o == nil {
			s.opts.fail("an option of the event time is nil")
			continue
		}
		o(&s.opts)
	}
	return s
}

// DefaultMaxAhead is how far an element may be ahead of its record unless MaxAhead says otherwise.
const DefaultMaxAhead = 24 * time.Hour

// TimeOption is an option of EventTime and ServerTime.
type TimeOption func(*timeOptions)

type timeOptions struct {
	bound      time.Duration
	generators int // options that say how the watermark follows
	watermark  any // func(v T, at, current time.Time) time.Time
	idleAfter  time.Duration
	maxAhead   time.Duration
	missing    MissingTime
	errs       []error
}

func (o *timeOptions) fail(format string, args ...any) {
	o.errs = append(o.errs, fmt.Errorf(format, args...))
}

// BoundedOutOfOrderness lets elements come up to d after a later one and still be on time.
func BoundedOutOfOrderness(d time.Duration) TimeOption {
	return func(o *timeOptions) {
		o.generators++
		if o.bound = d; d < 0 {
			o.fail("BoundedOutOfOrderness(%v): it must not be negative", d)
		}
	}
}

// MonotonousTimestamps says that event times never go back. It is the default.
func MonotonousTimestamps() TimeOption { return BoundedOutOfOrderness(0) }

// WithWatermark sets the watermark by a function of the element, its time and the current watermark (zero: none yet): no element
// at the result or before is expected any more. A result that is not after the current one changes nothing, nor does one that
// is too far ahead (MaxAhead). The function must keep nothing between calls: only the watermark is in the checkpoint. T must be
// the source's element type.
func WithWatermark[T any](fn func(v T, at, current time.Time) time.Time) TimeOption {
	return func(o *timeOptions) {
		o.generators++
		if fn == nil {
			o.fail("the function of WithWatermark is nil")
			return
		}
		o.watermark = fn
	}
}

// IdleAfter declares the source idle when nothing has come for d of processing time and nothing is waiting: it does not hold the
// watermark of other sources back until its next element. If all inputs of an operator are idle its watermark is the highest of
// theirs. Without the option a source is never idle.
func IdleAfter(d time.Duration) TimeOption {
	return func(o *timeOptions) {
		if o.idleAfter = d; d <= 0 {
			o.fail("IdleAfter(%v): it must be positive", d)
		}
	}
}

// MaxAhead bounds how far an element's time may be after the time at which the server stored its record; the default is
// DefaultMaxAhead. An element beyond does not move the watermark and is counted (TaskMetrics.FarAhead). Windows and joins send it
// to their late output, other operators see it as any other.
func MaxAhead(d time.Duration) TimeOption {
	return func(o *timeOptions) {
		if o.maxAhead = d; d < 0 {
			o.fail("MaxAhead(%v): it must not be negative", d)
		}
	}
}

// MissingTime says what becomes of an element without a time, that is the zero time.Time.
type MissingTime uint8

const (
	// PoisonMissing sends the record to the dead letters. The default.
	PoisonMissing MissingTime = iota
	// RecordTime gives the element the time at which the server stored its record.
	RecordTime
)

// OnMissing says what becomes of an element whose time is the zero time.Time.
func OnMissing(m MissingTime) TimeOption {
	return func(o *timeOptions) {
		if o.missing = m; m > RecordTime {
			o.fail("OnMissing(%d): use PoisonMissing or RecordTime", m)
		}
	}
}

// validate records mistakes of the declaration.
func (s *Timestamps[T]) validate(n *node) {
	if !s.set {
		return
	}
	if s.opts.generators > 1 {
		s.opts.fail("use one of BoundedOutOfOrderness, MonotonousTimestamps and WithWatermark")
	}
	if s.opts.watermark != nil {
		if _, ok := s.opts.watermark.(func(T, time.Time, time.Time) time.Time); !ok {
			s.opts.fail("WithWatermark has a %T: its first argument must be the source's element, %T", s.opts.watermark, *new(T))
		}
	}
	for _, err := range s.opts.errs {
		n.b.fail(n.label(), n.at, fmt.Errorf("SourceSpec.EventTime: %w", err))
	}
}

var (
	errNoTime    = errors.New("the element has no time (time.Time is zero); processor.OnMissing(processor.RecordTime) would take the record's")
	errTimeRange = errors.New("nanoseconds in 64 bits hold the years 1678 to 2262 only")
)

// sourceClock is a source's event time in a task. It knows nothing but the watermark, which is all that a checkpoint keeps.
type sourceClock struct {
	task     *task
	line     *timeline
	op       int32
	next     int64 // an element at or after it moves the watermark
	bound    int64
	maxAhead int64
	missing  MissingTime

	idleAfter time.Duration
	active    time.Time // when the last element came
	heard     time.Time // when the reader last delivered anything
	backlog   uint64    // what it said is waiting in the stream then
}

func newSourceClock(t *task, op int32, o *timeOptions) *sourceClock {
	return &sourceClock{
		task: t, op: op, next: math.MinInt64, bound: int64(o.bound), maxAhead: int64(o.maxAhead), missing: o.missing, idleAfter: o.idleAfter,
	}
}

// start sets the watermark that the checkpoint has.
func (c *sourceClock) start(line *timeline, watermark *int64, idle bool) {
	c.line = line
	wm := int64(noWatermark)
	if watermark != nil {
		wm = *watermark
	}
	line.set(wm, idle && c.idleAfter > 0)
	c.rearm()
	if c.idleAfter > 0 {
		c.active = c.task.now()
		c.heard = c.active
	}
}

// stamp takes an element's time. Without one that can be used the record is poison.
func (c *sourceClock) stamp(tm time.Time) (at int64, ok bool) {
	t := c.task
	if tm.IsZero() {
		if c.missing == RecordTime {
			return t.origin.time, true
		}
		t.poison(c.op, errNoTime)
		return 0, false
	}
	if at, ok = toNanos(tm); !ok {
		t.poison(c.op, fmt.Errorf("the element's time is in the year %d: %w", tm.UTC().Year(), errTimeRange))
		return 0, false
	}
	if at > t.origin.time && at > satAdd(t.origin.time, c.maxAhead) {
		t.origin.far = true
		t.counts.far++
	}
	return at, true
}

// saw moves the watermark behind an element at a time of next or later.
func (c *sourceClock) saw(at int64) {
	if c.task.origin.far || c.task.err != nil {
		return
	}
	c.raise(satSub(floorMilli(satSub(at, c.bound)), 1))
}

func (c *sourceClock) raise(wm int64) {
	if wm > c.line.watermark {
		c.line.set(wm, c.line.idle)
	}
	c.rearm()
}

// rearm finds the first time that moves the watermark again.
func (c *sourceClock) rearm() {
	if c.line.watermark == noWatermark {
		c.next = math.MinInt64
		return
	}
	c.next = satAdd(floorMilli(satAdd(c.line.watermark, int64(time.Millisecond)+1)), c.bound)
}

// propose is what the user's own watermark function says. It is ignored where it cannot be right.
func (c *sourceClock) propose(tm time.Time) {
	if tm.IsZero() || c.task.origin.far || c.task.err != nil {
		return
	}
	if wm, ok := toNanos(tm); ok && wm > c.line.watermark && wm <= satAdd(c.task.origin.time, c.maxAhead) {
		c.line.set(wm, c.line.idle)
	}
}

// Idleness. It is decided by processing time, and only while nothing of the source waits anywhere that can be seen from here: in
// the task, or in the stream as the reader last said. A reader that has said nothing for the whole time is taken to have nothing.

// delivered notes that the reader delivered something, if only how far it has looked.
func (c *sourceClock) delivered(backlog uint64, elements bool) {
	if c.idleAfter == 0 {
		return
	}
	c.heard, c.backlog = c.task.now(), backlog
	if elements {
		c.active = c.heard
	}
}

// wake ends idleness, before the element that ends it.
func (c *sourceClock) wake() {
	c.line.set(c.line.watermark, false)
	c.active = c.task.now()
	c.task.timersMoved = true
}

// idleAt is when the source becomes idle unless something comes; zero: not by itself.
func (c *sourceClock) idleAt() time.Time {
	if c.idleAfter == 0 || c.line.idle || c.task.finished {
		return time.Time{}
	}
	return c.active.Add(c.idleAfter)
}

// tick declares the source idle when its time has come. waiting says that some of its input is in the task.
func (c *sourceClock) tick(now time.Time, waiting bool) {
	at := c.idleAt()
	if at.IsZero() || at.After(now) {
		return
	}
	if waiting || c.backlog > 0 && now.Sub(c.heard) < c.idleAfter {
		c.active = now // look again later
		return
	}
	c.line.set(c.line.watermark, true)
}
