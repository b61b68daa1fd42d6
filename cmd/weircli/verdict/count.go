package verdict

import (
	"fmt"
	"slices"
	"strings"
)

// Range is a run of counts that are missing, both ends included.
type Range struct {
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

func (r Range) len() uint64 { return r.To - r.From + 1 }

// Kind names what is wrong with a key.
type Kind string

const (
	LostPrefix Kind = "lost-prefix" // missing from the first count on
	LostMiddle Kind = "lost-middle" // missing between counts that are there
	LostTail   Kind = "lost-tail"   // missing behind the last count that is there
	Duplicated Kind = "duplicated"  // a count that came again
	Reordered  Kind = "reordered"   // a count that came after a higher one
	Leaked     Kind = "leaked"      // a key of another tenant
	Unexpected Kind = "unexpected"  // a count beyond the input, or a key that nobody sent
	WrongState Kind = "wrong-state" // the state that is served beside the output is not what the input says
)

// kinds in the order of a report.
var kinds = []Kind{LostPrefix, LostMiddle, LostTail, Duplicated, Reordered, Leaked, Unexpected, WrongState}

// Count judges one tenant's output. It is for one goroutine.
type Count struct {
	keys map[string]*progress
}

type progress struct {
	high       uint64 // the highest count seen
	missing    []Range
	duplicated uint64
	reordered  uint64
}

// NewCount returns an empty judge.
func NewCount() *Count { return &Count{keys: make(map[string]*progress)} }

// Add takes the next output in stream order.
func (c *Count) Add(key string, count uint64) {
	p := c.keys[key]
	if p == nil {
		p = &progress{}
		c.keys[key] = p
	}
	switch {
	case count == p.high+1:
		p.high = count
	case count > p.high:
		p.missing = append(p.missing, Range{p.high + 1, count - 1})
		p.high = count
	case p.fill(count):
		p.reordered++
	default:
		p.duplicated++
	}
}

// fill takes a count out of the missing ones.
func (p *progress) fill(count uint64) bool {
	for i, r := range p.missing {
		if count < r.From || count > r.To {
			continue
		}
		var left []Range
		if r.From < count {
			left = append(left, Range{r.From, count - 1})
		}
		if count < r.To {
			left = append(left, Range{count + 1, r.To})
		}
		p.missing = slices.Replace(p.missing, i, i+1, left...)
		return true
	}
	return false
}

// High returns the highest count seen of a key.
func (c *Count) High(key string) uint64 {
	if p := c.keys[key]; p != nil {
		return p.high
	}
	return 0
}

// Covers reports whether the output has reached every key's count in want.
func (c *Count) Covers(want map[string]uint64) bool {
	for key, n := range want {
		if c.High(key) < n {
			return false
		}
	}
	return true
}

// Input is what the output is judged by.
type Input struct {
	// AtLeast is the input before the output was read: all of it must be in the output.
	AtLeast map[string]uint64
	// AtMost is the input after the output was read: nothing beyond it may be in the output.
	AtMost map[string]uint64
	// Foreign reports whether another tenant has the key; nil: none has.
	Foreign func(key string) bool
	// State is what is served beside the output (a KV bucket), read after AtLeast and before AtMost; nil: not judged.
	State map[string]uint64
}

// Finding is what is wrong with one key.
type Finding struct {
	Kind   Kind   `json:"kind"`
	Key    string `json:"key"`
	Count  uint64 `json:"count"` // how many elements it concerns
	Detail string `json:"detail"`
}

// Report is the verdict about one tenant.
type Report struct {
	Tenant   string          `json:"tenant"`
	Exact    bool            `json:"exact"`
	Elements uint64          `json:"elements"` // in the input that had to be there
	Keys     int             `json:"keys"`
	Totals   map[Kind]uint64 `json:"totals,omitempty"`
	Findings []Finding       `json:"findings,omitempty"` // by key
	// Inconclusive says why the streams no longer hold what a verdict needs.
	Inconclusive string `json:"inconclusive,omitempty"`
}

// Judge returns the verdict. It does not change the Count, which may go on.
func (c *Count) Judge(tenant string, in Input) Report {
	r := Report{Tenant: tenant, Keys: len(in.AtLeast), Totals: make(map[Kind]uint64)}
	for _, n := range in.AtLeast {
		r.Elements += n
	}
	for _, key := range unionKeys(in.AtLeast, c.keys) {
		c.judgeKey(&r, key, in)
	}
	if in.State != nil {
		for _, key := range unionKeys(in.AtLeast, in.State) {
			judgeState(&r, key, in)
		}
	}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int { return strings.Compare(a.Key, b.Key) })
	r.Exact = len(r.Findings) == 0
	return r
}

func (c *Count) judgeKey(r *Report, key string, in Input) {
	least, most := in.AtLeast[key], in.AtMost[key]
	p := c.keys[key]
	if p == nil {
		p = &progress{}
	}
	if most == 0 && p.high > 0 {
		kind, detail := Unexpected, "nobody sent it"
		if in.Foreign != nil && in.Foreign(key) {
			kind, detail = Leaked, "it is in another tenant's input only"
		}
		r.add(kind, key, p.high, detail)
		return
	}
	for _, m := range p.missing {
		kind := LostMiddle
		if m.From == 1 {
			kind = LostPrefix
		}
		r.add(kind, key, m.len(), fmt.Sprintf("counts %d to %d are missing, %d is there", m.From, m.To, m.To+1))
	}
	if p.high < least {
		r.add(LostTail, key, least-p.high, fmt.Sprintf("the input has it %d times, the output ends at %d", least, p.high))
	}
	if p.high > most {
		r.add(Unexpected, key, p.high-most, fmt.Sprintf("the output counts to %d, the input has it %d times", p.high, most))
	}
	if p.duplicated > 0 {
		r.add(Duplicated, key, p.duplicated, fmt.Sprintf("%d counts came again", p.duplicated))
	}
	if p.reordered > 0 {
		r.add(Reordered, key, p.reordered, fmt.Sprintf("%d counts came after a higher one", p.reordered))
	}
}

func judgeState(r *Report, key string, in Input) {
	least, most := in.AtLeast[key], in.AtMost[key]
	got, ok := in.State[key]
	switch {
	case !ok:
		r.add(WrongState, key, 1, fmt.Sprintf("there is no entry, the input has it %d times", least))
	case got < least || got > most:
		want := fmt.Sprint(least)
		if most != least {
			want = fmt.Sprintf("%d to %d", least, most)
		}
		r.add(WrongState, key, 1, fmt.Sprintf("the entry says %d, the input %s", got, want))
	}
}

func (r *Report) add(kind Kind, key string, count uint64, detail string) {
	r.Totals[kind] += count
	r.Findings = append(r.Findings, Finding{Kind: kind, Key: key, Count: count, Detail: detail})
}

func unionKeys[A, B any](a map[string]A, b map[string]B) []string {
	keys := make([]string, 0, max(len(a), len(b)))
	for k := range a {
		keys = append(keys, k)
	}
	for k := range b {
		if _, ok := a[k]; !ok {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

// ExplainedByRemoval reports whether everything found could be the trace of messages that were removed from the front of the
// streams (retention, purge): lost prefixes, counts beyond an input whose beginning is gone, and entries that say more than the input.
func (r Report) ExplainedByRemoval(in Input) bool {
	for _, f := range r.Findings {
		switch f.Kind {
		case LostPrefix, Unexpected:
		case WrongState:
			if got, ok := in.State[f.Key]; !ok || got < in.AtLeast[f.Key] {
				return false
			}
		default:
			return false
		}
	}
	return !r.Exact
}

// Summary says the verdict in one line: "exact: 1,204 elements, 37 keys", "not exact: 3 lost (middle), 1 duplicated".
func (r Report) Summary() string {
	switch {
	case r.Inconclusive != "":
		return "cannot judge: " + r.Inconclusive
	case r.Exact:
		return fmt.Sprintf("exact: %d elements, %d keys", r.Elements, r.Keys)
	}
	var parts []string
	for _, k := range kinds {
		if n := r.Totals[k]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, k))
		}
	}
	return "not exact: " + strings.Join(parts, ", ")
}
