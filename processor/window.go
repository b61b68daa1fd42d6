package processor

import (
	"errors"
	"fmt"
	"time"

	"github.com/weirstream/weir/state"
)

// WindowedStream is a keyed stream whose elements are gathered in windows: Aggregate, Reduce and ProcessWindow say what becomes of
// them.
type WindowedStream[T any] struct {
	in   *node
	decl *windowDecl
}

// windowDecl is what Window was given.
type windowDecl struct {
	assigner Assigner
	offset   time.Duration
	lateness time.Duration
	late     outputTag
	every    int
	interval time.Duration
	states   []state.Option
	used     map[string]bool
	errs     []error
}

// Window gathers the elements of each key in windows. A window of event time is closed, and its result emitted, when the watermark
// has passed its end; what it emits has the time of the window's end less 1 ns, so that windows of the same size behind it
// gather the results of one time. An element is late when all its windows are closed and their lateness has passed: it is
// counted (TaskMetrics.LateElements) and goes to LateOutput. So does one that is too far ahead (MaxAhead). A drain closes all windows;
// a job that goes on behind it opens new ones, also for times that the old ones had.
func Window[T any](s KeyedStream[T], assigner Assigner, opts ...WindowOption) WindowedStream[T] {
	at := callerLine(2)
	return windowOf[T](s.node(at), at, assigner, opts)
}

// WindowAll gathers all elements of the tenant's stream in windows. One subtask does it, whatever the parallelism; the key is empty.
func WindowAll[T any](s Stream[T], assigner Assigner, opts ...WindowOption) WindowedStream[T] {
	at := callerLine(2)
	return windowOf[T](keyBy(s.node(at), at, func(T) string { return "" }), at, assigner, opts)
}

func windowOf[T any](in *node, at string, assigner Assigner, opts []WindowOption) WindowedStream[T] {
	d := &windowDecl{assigner: assigner, used: map[string]bool{}}
	for i, opt := range opts {
		if opt == nil {
			d.fail("option %d of the window is nil", i+1)
			continue
		}
		opt(d)
	}
	d.validate()
	if gap := assigner.gapOf; gap != nil {
		if _, ok := gap.(func(T) time.Duration); !ok {
			d.fail("SessionBy has a %T: its argument must be the stream's element, %T", gap, *new(T))
		}
	}
	if d.late != nil {
		_, ok := d.late.(*OutputTag[T])
		if _, join := d.late.(joinTag); !ok && !join {
			d.fail("LateOutput has a %T: it must be a tag of the stream's element, %T", d.late, (*OutputTag[T])(nil))
		}
	}
	for _, err := range d.errs {
		in.b.fail("window of "+in.label(), at, err)
	}
	return WindowedStream[T]{in: in, decl: d}
}

// WindowOption is an option of Window and WindowAll.
type WindowOption func(*windowDecl)

// Offset moves the windows' starts: Tumbling(24*time.Hour) with Offset(-2*time.Hour) begins at 22:00 UTC. It is less than the slide,
// and for tumbling and sliding windows.
func Offset(d time.Duration) WindowOption {
	return func(w *windowDecl) { w.offset = d; w.use("Offset") }
}

// AllowedLateness keeps a window's state for d of event time after its end. Each late element that comes meanwhile emits the
// window's result anew, as an update: its pane says Late and has the next Index. Zero, the default: state goes when the window
// is closed.
func AllowedLateness(d time.Duration) WindowOption {
	return func(w *windowDecl) {
		if w.lateness = d; d < 0 {
			w.fail("AllowedLateness(%v): it must not be negative", d)
		}
		w.use("AllowedLateness")
	}
}

// LateOutput sends late elements to a side output, to be read with SideOutput. Without it they are only counted.
func LateOutput[T any](tag *OutputTag[T]) WindowOption {
	return func(w *windowDecl) {
		if tag == nil {
			w.fail("the tag of LateOutput is nil")
			return
		}
		w.late = tag
		w.use("LateOutput")
	}
}

// EarlyEvery emits a result of an open window after every n elements of a key in it; its pane says Early. It makes a sliding window
// keep a counter for each window that an element is in.
func EarlyEvery(n int) WindowOption {
	return func(w *windowDecl) {
		if w.every = n; n < 1 || n > maxCount {
			w.fail("EarlyEvery(%d): use 1 to %d elements", n, maxCount)
		}
		w.use("EarlyEvery")
	}
}

// EarlyInterval emits a result of the open windows that have new elements every d of processing time, at multiples of d; its pane
// says Early. It makes a sliding window keep a counter for each window that an element is in.
func EarlyInterval(d time.Duration) WindowOption {
	return func(w *windowDecl) {
		if w.interval = d; d < time.Millisecond {
			w.fail("EarlyInterval(%v): use 1ms or more", d)
		}
		w.use("EarlyInterval")
	}
}

// WindowState sets how accumulators are kept: state.Codec, state.SchemaVersion, state.Upcast. Of ProcessWindow the accumulator is
// a slice of elements.
func WindowState(opts ...state.Option) WindowOption {
	return func(w *windowDecl) { w.states = append(w.states, opts...) }
}

// maxCount bounds numbers of elements, so that they fit where they are counted.
const maxCount = 1 << 30

func (w *windowDecl) fail(format string, args ...any) {
	w.errs = append(w.errs, fmt.Errorf(format, args...))
}

func (w *windowDecl) use(option string) {
	if w.used[option] {
		w.fail("%s is set twice", option)
	}
	w.used[option] = true
}

func (w *windowDecl) early() bool { return w.every > 0 || w.interval > 0 }

// validate finds what is wrong with the assigner and does not go with it.
func (w *windowDecl) validate() {
	a := &w.assigner
	if a.problem != nil {
		w.errs = append(w.errs, a.problem)
		return
	}
	refuse := func(why string, options ...string) {
		for _, o := range options {
			if w.used[o] {
				w.fail("%s does not go with %s: %s", o, a.kind, why)
			}
		}
	}
	switch a.kind {
	case "":
		w.errs = append(w.errs, errors.New("it has no assigner: use Tumbling, Sliding, Session, Global, CountTumbling or CountSliding"))
	case windowAligned:
		if w.offset <= -a.slide || w.offset >= a.slide {
			w.fail("Offset(%v): it must be less than the slide %v, in either direction", w.offset, a.slide)
		}
	case windowSession:
		refuse("sessions begin with their first element", "Offset")
	case windowGlobal:
		refuse("a global window has no end in event time", "Offset", "AllowedLateness", "LateOutput")
		if !w.early() {
			w.fail("Global needs EarlyEvery or EarlyInterval: without one nothing is emitted before a drain")
		}
	case windowCount:
		refuse("count windows do not look at event time", "Offset", "AllowedLateness", "LateOutput")
		refuse("their results come after every slide", "EarlyEvery", "EarlyInterval")
	}
}
