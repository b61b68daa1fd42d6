package processor

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"
)

// WindowHistory is a job of windows with its input, made of a seed, and what the model says must come out of it.
type WindowHistory struct {
	Topology *Topology
	Payloads [][]byte
	Rows     map[string][]string // by key, in order
	Late     int
}

// NewWindowHistory makes one. The last element closes every window of the others.
func NewWindowHistory(t require, seed uint64, elements int) *WindowHistory {
	const ms = time.Millisecond
	rng := rand.New(rand.NewPCG(seed, 17))
	m := windowModel{bound: rng.Int64N(20), lateness: rng.Int64N(2) * rng.Int64N(30), every: rng.IntN(2) * (1 + rng.IntN(4))}
	assigner := SessionBy(func(e tick) time.Duration { return time.Duration(e.Gap) * ms })
	if rng.IntN(3) > 0 {
		m.slide = 1 + rng.Int64N(10)
		m.size = m.slide * (1 + rng.Int64N(4))
		m.offset = rng.Int64N(m.slide)
		assigner = Sliding(time.Duration(m.size)*ms, time.Duration(m.slide)*ms)
	}
	opts := []WindowOption{AllowedLateness(time.Duration(m.lateness) * ms)}
	if m.size > 0 {
		opts = append(opts, Offset(time.Duration(m.offset)*ms))
	}
	if m.every > 0 {
		opts = append(opts, EarlyEvery(m.every))
	}
	h := &WindowHistory{Topology: tickTopology(t, time.Duration(m.bound)*ms, assigner, opts...)}
	model := newWindowModel(m)
	push := func(e tick) {
		model.push(e)
		data, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		h.Payloads = append(h.Payloads, data)
	}
	at := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli() // the time of simulations
	if m.size > 0 {
		model.offset += (at - 1000) / m.slide * m.slide // the model counts windows from there
	}
	for i := range elements {
		at += rng.Int64N(4)
		push(tick{Key: fmt.Sprintf("k%d", rng.IntN(5)), At: at - rng.Int64N(2)*rng.Int64N(40), ID: i + 1, Gap: 1 + rng.Int64N(10)})
	}
	push(tick{Key: "end", At: at + time.Hour.Milliseconds(), ID: elements + 1, Gap: 1})
	h.Rows, h.Late = model.rows, len(model.late)
	return h
}
