package integration_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/weirstream/weir/cmd/weircli/verdict"
)

// input is one message that a test publishes: an event, or bytes that are none.
type input struct {
	subject string // relative
	data    []byte
}

// history is everything published for one tenant, in order, and what must come of it.
type history struct {
	tenant string
	job    string
	step   func(last map[string]tally, data []byte) (tally, bool) // the model of the job; false: a dead letter
	last   map[string]tally
	want   map[string][]tally // by key, in order
	inputs int
	dead   [][]byte // payloads, in order
	total  int      // tallies
}

func newHistory(tenant string) *history {
	return &history{tenant: tenant, job: tallyName, step: stepTally, last: map[string]tally{}, want: map[string][]tally{}}
}

// stepTally is the model of the job tally.
func stepTally(last map[string]tally, data []byte) (tally, bool) {
	var e event
	if json.Unmarshal(data, &e) != nil || poisonous(e) {
		return tally{}, false
	}
	return add(last[e.Key], e), true
}

// apply adds a message that the job will read.
func (h *history) apply(data []byte) {
	h.inputs++
	next, good := h.step(h.last, data)
	if !good {
		h.dead = append(h.dead, data)
		return
	}
	h.last[next.Key] = next
	h.want[next.Key] = append(h.want[next.Key], next)
	h.total++
}

// event adds an event and returns the message to publish.
func (h *history) event(key string, value uint64) input {
	in := newEvent(h.tenant, key, value)
	h.apply(in.data)
	return in
}

func newEvent(tenant, key string, value uint64) input {
	data, err := json.Marshal(event{Key: key, Value: value, Tenant: tenant})
	if err != nil {
		panic(err)
	}
	return input{"in." + fmt.Sprint(value%7), data}
}

// garbage adds a message that no codec can read.
func (h *history) garbage(data []byte) input {
	h.apply(data)
	return input{"in.garbage", data}
}

// random adds n inputs over some keys; about one in 60 is poison or garbage.
func (h *history) random(rng *rand.Rand, n, keys int) []input {
	out := make([]input, 0, n)
	for range n {
		if rng.IntN(100) == 0 {
			out = append(out, h.garbage(fmt.Appendf(nil, "garbage %d", rng.Uint32())))
			continue
		}
		out = append(out, h.event(keyName(rng.IntN(keys)), uint64(rng.IntN(100_000))))
	}
	return out
}

// deadLetter is what was found on a tenant's dead-letter subject.
type deadLetter struct {
	data   []byte
	header map[string][]string
}

// outcome is what one tenant's job left on the broker.
type outcome struct {
	tallies []tally // in stream order
	bucket  map[string]tally
	dead    []deadLetter
}

// judge compares an outcome with the history. An empty result means exact; else it names what is wrong.
func (h *history) judge(got outcome) []string {
	var wrong []string
	count := verdict.NewCount()
	for _, c := range got.tallies {
		if c.Tenant != h.tenant {
			wrong = append(wrong, fmt.Sprintf("leaked: key %q of tenant %s is in the output of %s", c.Key, c.Tenant, h.tenant))
			continue
		}
		count.Add(c.Key, c.N)
		if want := h.want[c.Key]; c.N >= 1 && c.N <= uint64(len(want)) && want[c.N-1] != c {
			wrong = append(wrong, fmt.Sprintf("wrong state: %+v, the input says %+v", c, want[c.N-1]))
		}
	}
	counts := make(map[string]uint64, len(h.want))
	for key, list := range h.want {
		counts[key] = uint64(len(list))
	}
	served := make(map[string]uint64, len(got.bucket))
	for key, c := range got.bucket {
		served[key] = c.N
		if c.N == h.last[key].N && c != h.last[key] {
			wrong = append(wrong, fmt.Sprintf("wrong state: bucket entry %+v, the input says %+v", c, h.last[key]))
		}
	}
	report := count.Judge(h.tenant, verdict.Input{AtLeast: counts, AtMost: counts, State: served})
	for _, f := range report.Findings {
		wrong = append(wrong, fmt.Sprintf("%s: key %q: %d: %s", f.Kind, f.Key, f.Count, f.Detail))
	}
	return append(wrong, h.judgeDead(got.dead)...)
}

// judgeDead compares dead letters as a multiset: with parallelism above 1 those of different keys have no order.
func (h *history) judgeDead(got []deadLetter) []string {
	var wrong []string
	open := map[string]int{}
	for _, d := range h.dead {
		open[string(d)]++
	}
	for _, d := range got {
		open[string(d.data)]--
	}
	for data, n := range open {
		switch {
		case n > 0:
			wrong = append(wrong, fmt.Sprintf("lost: dead letter %.60q is missing %d times", data, n))
		case n < 0:
			wrong = append(wrong, fmt.Sprintf("duplicated: dead letter %.60q came %d times too often", data, -n))
		}
	}
	slices.Sort(wrong)
	return wrong
}
