package processor

import (
	"fmt"
	"time"
)

// Timing says why a pane was emitted.
type Timing uint8

const (
	// Early: before the watermark has passed the window's end. More may come.
	Early Timing = iota + 1
	// OnTime: the watermark has passed the window's end, or a count window is full.
	OnTime
	// Late: an element came within the allowed lateness; this result replaces the window's last one.
	Late
)

func (t Timing) String() string {
	switch t {
	case Early:
		return "early"
	case OnTime:
		return "on time"
	case Late:
		return "late"
	}
	return fmt.Sprintf("timing %d", uint8(t))
}

// Pane is what is emitted of a window at one moment.
type Pane struct {
	Key string
	// Start and End bound the window: Start <= time < End. Both are zero for global and count windows. Of a session that has grown or
	// was joined with another, they are the new ones; the results of the old bounds are replaced by this one.
	Start, End time.Time
	Timing     Timing
	// Index counts the results of the window and key, from 0. Of sessions that were joined it goes on from the highest.
	Index int
}
