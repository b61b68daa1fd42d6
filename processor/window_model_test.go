package processor

import (
	"fmt"
	"math"
	"slices"
	"sort"
	"time"
)

// tick is an element of the tests: At and Gap in milliseconds.
type tick struct {
	Key string `json:"k"`
	At  int64  `json:"at"`
	ID  int    `json:"id"`
	Gap int64  `json:"gap,omitempty"`
}

func (e tick) time() time.Time { return time.UnixMilli(e.At) }

// windowModel is a deliberately dumb window operator: it keeps every element of every window, and looks at all windows whenever
// anything happens. Times are in milliseconds.
type windowModel struct {
	size, slide, offset int64 // aligned, if size > 0
	lateness            int64
	every               int
	bound               int64 // of the out-of-orderness

	done    int64 // all elements before it have come
	windows []*modelWindow
	rows    map[string][]string // by key, in order
	late    []int               // IDs
}

type modelWindow struct {
	key        string
	start, end int64
	ids        []int
	emitted    int
	since      int
	fired      bool
}

func newWindowModel(m windowModel) *windowModel {
	m.done, m.rows = math.MinInt64/2, map[string][]string{}
	return &m
}

func (m *windowModel) push(e tick) {
	if m.size > 0 {
		m.aligned(e)
	} else {
		m.session(e)
	}
	m.advance(max(m.done, e.At-m.bound))
}

func (m *windowModel) aligned(e tick) {
	late := true
	for start := m.offset - 1000*m.slide; start <= e.At; start += m.slide {
		end := start + m.size
		if end <= e.At || end+m.lateness <= m.done {
			continue
		}
		late = false
		i := slices.IndexFunc(m.windows, func(w *modelWindow) bool { return w.key == e.Key && w.start == start })
		if i < 0 {
			i = len(m.windows)
			m.windows = append(m.windows, &modelWindow{key: e.Key, start: start, end: end, fired: end <= m.done})
		}
		m.add(m.windows[i], e)
	}
	if late {
		m.late = append(m.late, e.ID)
	}
}

func (m *windowModel) session(e tick) {
	u := &modelWindow{key: e.Key, start: e.At, end: e.At + e.Gap}
	var parts []*modelWindow
	for _, w := range m.windows {
		if w.key == e.Key && w.start <= u.end && w.end >= u.start {
			parts = append(parts, w)
		}
	}
	if len(parts) == 0 && u.end+m.lateness <= m.done {
		m.late = append(m.late, e.ID)
		return
	}
	for _, w := range parts {
		u.start, u.end = min(u.start, w.start), max(u.end, w.end)
		u.ids = append(u.ids, w.ids...)
		u.emitted, u.since = max(u.emitted, w.emitted), u.since+w.since
	}
	m.windows = slices.DeleteFunc(m.windows, func(w *modelWindow) bool { return slices.Contains(parts, w) })
	m.windows = append(m.windows, u)
	u.fired = u.end <= m.done
	m.add(u, e)
}

func (m *windowModel) add(w *modelWindow, e tick) {
	w.ids = append(w.ids, e.ID)
	if w.end <= m.done {
		m.emit(w, Late)
		return
	}
	w.since++
	if m.every > 0 && w.since >= m.every {
		m.emit(w, Early)
	}
}

func (m *windowModel) emit(w *modelWindow, timing Timing) {
	m.rows[w.key] = append(m.rows[w.key], windowRow(w.key, w.start, w.end, timing, w.emitted, w.ids))
	w.emitted++
	w.since = 0
}

func windowRow(key string, start, end int64, timing Timing, index int, ids []int) string {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	return fmt.Sprintf("%s %d..%d %s #%d %v", key, start, end, timing, index, ids)
}

func (m *windowModel) advance(done int64) {
	m.done = done
	sort.SliceStable(m.windows, func(i, j int) bool { return m.windows[i].end < m.windows[j].end })
	for _, w := range m.windows {
		if !w.fired && w.end <= done {
			m.emit(w, OnTime)
			w.fired = true
		}
	}
	m.windows = slices.DeleteFunc(m.windows, func(w *modelWindow) bool { return w.fired && w.end+m.lateness <= done })
}

func (m *windowModel) finish() { m.advance(math.MaxInt64 / 4) }
