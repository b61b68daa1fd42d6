package bench

import (
	"math"
	"slices"
	"time"
)

// Stat is a median with its spread.
type Stat struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// statOf returns the median of values, which are not empty.
func statOf(values []float64) Stat {
	s := slices.Sorted(slices.Values(values))
	m := s[len(s)/2]
	if len(s)%2 == 0 {
		m = (m + s[len(s)/2-1]) / 2
	}
	return Stat{Median: m, Min: s[0], Max: s[len(s)-1]}
}

// ratios divides pair by pair, so that what slowed both down does not show.
func ratios(weir, base []float64) []float64 {
	out := make([]float64, len(weir))
	for i := range weir {
		out[i] = weir[i] / base[i]
	}
	return out
}

// quantile returns the q-quantile by the nearest-rank method; values are sorted. It is 0 where there are none.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	i := int(math.Ceil(q*float64(len(sorted)))) - 1
	return sorted[max(i, 0)]
}

func perSecond(n int, d time.Duration) float64 { return float64(n) / d.Seconds() }

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
