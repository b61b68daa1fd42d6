package processor

import (
	"math"
	"reflect"
	"time"

	"github.com/weirstream/weir/state"
)

// running is what makes a sliding window's results cheap: two stacks of sums over a key's slices, so that one more slide costs
// about two merges, however many slices a window has (Tangwongsan, Hirzel, Schneider: Low-latency sliding-window aggregation in
// worst-case constant time, 2017). It is made of the slices, and not in snapshots.
//
// front has, for each slice before mid, the sum of it and all slices behind it up to mid; back is the sum of the slices from mid
// to upTo.
type running[Acc any] struct {
	front []sliceSum[Acc] // by start, the earliest last: it goes first
	back  Acc
	some  bool // back has something
	upTo  int64
}

type sliceSum[Acc any] struct {
	start int64
	acc   Acc
}

// stale says that a slice before upTo has changed.
func (r *running[Acc]) stale() { r.upTo = math.MinInt64 }

// window returns the sum of a window; the windows of a key must be asked for in the order of their ends.
func (r *running[Acc]) window(n *state.PaneKey[Acc], start, end int64, merge func(a, b Acc) Acc) (acc Acc, ok bool) {
	for len(r.front) > 0 && r.front[len(r.front)-1].start < start {
		r.front = r.front[:len(r.front)-1]
	}
	if len(r.front) == 0 || r.upTo == math.MinInt64 {
		r.flip(n, start, end, merge)
	} else {
		r.extend(n, end, merge)
	}
	r.upTo = end
	switch f := len(r.front); {
	case f == 0:
		return acc, false
	case r.some:
		return merge(r.front[f-1].acc, r.back), true
	default:
		return r.front[f-1].acc, true
	}
}

// extend adds the slices from upTo to end to the back.
func (r *running[Acc]) extend(n *state.PaneKey[Acc], end int64, merge func(a, b Acc) Acc) {
	_, to := n.Bounds()
	from := to
	for ; from > 0; from-- { // they are the last ones
		if start, _ := n.Item(from - 1); start < r.upTo {
			break
		}
	}
	for ; from < to; from++ {
		start, v := n.Item(from)
		if start >= end {
			break
		}
		switch {
		case v == nil:
		case r.some:
			r.back = merge(r.back, *v)
		default:
			r.back, r.some = *v, true
		}
	}
}

// flip makes the front of all slices of a window.
func (r *running[Acc]) flip(n *state.PaneKey[Acc], start, end int64, merge func(a, b Acc) Acc) {
	var none Acc
	r.front, r.back, r.some = r.front[:0], none, false
	from, _ := n.Bounds()
	for i := n.Search(end) - 1; i >= from; i-- {
		at, v := n.Item(i)
		if at < start {
			break
		}
		if v == nil {
			continue
		}
		sum := *v
		if f := len(r.front); f > 0 {
			sum = merge(sum, r.front[f-1].acc)
		}
		r.front = append(r.front, sliceSum[Acc]{at, sum})
	}
}

// flat reports whether values of a type are of one size: keeping many sums costs little. Of maps, slices and pointers it is not
// known what they hold.
func flat(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint8, reflect.Uint16,
		reflect.Uint32, reflect.Uint64, reflect.Float32, reflect.Float64, reflect.Complex64, reflect.Complex128, reflect.String:
		return true
	case reflect.Array:
		return flat(t.Elem())
	case reflect.Struct:
		if t == reflect.TypeFor[time.Time]() {
			return true // its location is shared
		}
		for i := range t.NumField() {
			if !flat(t.Field(i).Type) {
				return false
			}
		}
		return true
	}
	return false
}
