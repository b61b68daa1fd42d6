package processor

import (
	"fmt"
	"time"
)

type windowKind string

const (
	windowAligned windowKind = "a tumbling or sliding window"
	windowSession windowKind = "a session"
	windowGlobal  windowKind = "a global window"
	windowCount   windowKind = "a count window"
)

// Assigner says which windows an element is in. Tumbling, Sliding, Session, SessionBy, Global, CountTumbling and CountSliding make
// one.
type Assigner struct {
	kind        windowKind
	size, slide time.Duration
	gap         time.Duration
	gapOf       any // func(T) time.Duration
	n, step     int
	problem     error
}

// maxWindow bounds sizes and gaps (about ten years), so that what is computed with them stays within what 64 bits hold.
const maxWindow = 10 * 366 * 24 * time.Hour

// maxSlices bounds the slices of a sliding window: each result is merged of them.
const maxSlices = 100_000

func badWindow(format string, args ...any) Assigner {
	return Assigner{problem: fmt.Errorf(format, args...)}
}

// Tumbling cuts time into windows of one size, from 1970-01-01 UTC (plus Offset) on. An element is in exactly one: that with
// start <= time < end.
func Tumbling(size time.Duration) Assigner {
	if size <= 0 || size > maxWindow {
		return badWindow("Tumbling(%v): the size must be positive, and at most %v", size, maxWindow)
	}
	return Assigner{kind: windowAligned, size: size, slide: size}
}

// Sliding has a window of the size begin every slide: an element is in size/slide windows. Windows share panes: an element is added
// to one slice of the greatest common divisor of size and slide, and a window's result is merged of its slices.
func Sliding(size, slide time.Duration) Assigner {
	switch {
	case size <= 0 || size > maxWindow:
		return badWindow("Sliding(%v, %v): the size must be positive, and at most %v", size, slide, maxWindow)
	case slide <= 0:
		return badWindow("Sliding(%v, %v): the slide must be positive", size, slide)
	case slide > size:
		return badWindow("Sliding(%v, %v): a slide above the size leaves elements in no window: filter them, and use Tumbling", size, slide)
	case size/gcd(size, slide) > maxSlices:
		return badWindow("Sliding(%v, %v): a window would have %d slices of %v, at most %d are allowed", size, slide,
			size/gcd(size, slide), gcd(size, slide), maxSlices)
	}
	return Assigner{kind: windowAligned, size: size, slide: slide}
}

// Session gathers elements that are at most gap apart: each element opens a window from its time to gap after it, and windows that
// overlap or touch become one. An element may join two sessions; with AllowedLateness also such as were emitted already.
func Session(gap time.Duration) Assigner {
	if gap <= 0 || gap > maxWindow {
		return badWindow("Session(%v): the gap must be positive, and at most %v", gap, maxWindow)
	}
	return Assigner{kind: windowSession, gap: gap}
}

// SessionBy is Session with a gap that depends on the element; T must be the stream's. An element whose gap is not positive, or
// longer than ten years, is poison.
func SessionBy[T any](gap func(T) time.Duration) Assigner {
	if gap == nil {
		return badWindow("the function of SessionBy is nil")
	}
	return Assigner{kind: windowSession, gapOf: gap}
}

// Global has one window per key, without end. It needs EarlyEvery or EarlyInterval; a drain closes it.
func Global() Assigner { return Assigner{kind: windowGlobal} }

// CountTumbling emits the result of every n elements of a key, in the order in which they come. What a drain finds incomplete is
// not emitted.
func CountTumbling(n int) Assigner {
	if n < 1 || n > maxCount {
		return badWindow("CountTumbling(%d): use 1 to %d elements", n, maxCount)
	}
	return Assigner{kind: windowCount, n: n, step: n}
}

// CountSliding emits, after every slide elements of a key, the result of its last n, or of all while there are fewer.
func CountSliding(n, slide int) Assigner {
	switch {
	case n < 1 || n > maxCount:
		return badWindow("CountSliding(%d, %d): use 1 to %d elements", n, slide, maxCount)
	case slide < 1 || slide > n:
		return badWindow("CountSliding(%d, %d): the slide must be 1 to %d", n, slide, n)
	case n/gcd(n, slide) > maxSlices:
		return badWindow("CountSliding(%d, %d): a window would have %d slices, at most %d are allowed", n, slide, n/gcd(n, slide), maxSlices)
	}
	return Assigner{kind: windowCount, n: n, step: slide}
}

// layout names how the state of the windows is cut. State in one layout is of no use in another, so it is part of the state's type.
func (d *windowDecl) layout() string {
	a := &d.assigner
	switch a.kind {
	case windowAligned:
		offset := d.offset % a.slide
		if offset < 0 {
			offset += a.slide
		}
		return fmt.Sprintf("%v/%v+%v", a.size, a.slide, offset)
	case windowSession:
		return "session"
	case windowGlobal:
		return "global"
	}
	return fmt.Sprintf("count %d/%d", a.n, a.step)
}

func gcd[N int64 | int | time.Duration](a, b N) N {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
