package integration_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/processor"
)

// change is a revision of a KV bucket.
type change struct {
	seq     uint64
	key     string
	value   int
	removed bool
}

// sentClaim is a claim with what was known when it was published.
type sentClaim struct {
	claim
	n        uint64 // its number among those of its key; 0: refused
	ruleSeen uint64 // this revision of the rules was in a committed checkpoint
	rowSeen  uint64 // this revision of the row of its key was there before the worker that met the claim
}

// claimHistory is everything that was published for the job operators, and what must come of it.
type claimHistory struct {
	replaced bool // the bucket of the rules keeps one revision of a key: a reader may miss what was replaced
	claims   []sentClaim
	counts   map[string]uint64
	limits   []change
	prices   map[string][]change // by key
	bad      map[string]bool     // rules that cannot be decoded
	end      int64               // windows from here on stay open, unix milliseconds
}

func (h *claimHistory) add(c sentClaim) {
	if c.Kind != refused {
		h.counts[c.Key]++
		c.n = h.counts[c.Key]
	}
	h.claims = append(h.claims, c)
}

// refusedBy names the operator that sends a claim to the dead letters.
func (c claim) refusedBy() string {
	return map[claimKind]string{refused: "rule", noScore: "score", noCheck: "check"}[c.Kind]
}

func (c claim) window() int64 { return c.At - c.At%windowSize.Milliseconds() }

// claimOutcome is what the job published, in stream order.
type claimOutcome struct {
	scored  []ruled
	done    []priced
	windows []claimWindow
	dead    []deadLetter
}

func readClaims(ctx context.Context, s js.JetStream, p place) (claimOutcome, error) {
	var out claimOutcome
	tenant := string(p.job.Tenant)
	err := readStream(ctx, s, p.output, tenant+".out.scored.>", decodeInto(&out.scored))
	if err == nil {
		err = readStream(ctx, s, p.output, tenant+".out.done.>", decodeInto(&out.done))
	}
	if err == nil {
		err = readStream(ctx, s, p.output, tenant+".out.windows.>", decodeInto(&out.windows))
	}
	if err == nil {
		err = readStream(ctx, s, jetstream.DeadLetterStream, processor.DeadLetterSubject(p.job), func(m js.Msg) error {
			out.dead = append(out.dead, deadLetter{m.Data(), m.Headers()})
			return nil
		})
	}
	return out, err
}

func decodeInto[T any](list *[]T) func(js.Msg) error {
	return func(m js.Msg) error {
		var v T
		err := json.Unmarshal(m.Data(), &v)
		*list = append(*list, v)
		return err
	}
}

// judge names what is wrong with an outcome.
func (h *claimHistory) judge(got claimOutcome) []string {
	wrong := h.judgeScored(got.scored)
	wrong = append(wrong, h.judgeDone(got.done)...)
	wrong = append(wrong, h.judgeWindows(got.windows)...)
	return append(wrong, h.judgeDead(got.dead)...)
}

// judgeScored: each claim once, in the order of its key, with rules that were in force together and that never go back.
func (h *claimHistory) judgeScored(got []ruled) (wrong []string) {
	sent := h.byID()
	times := map[int]int{}
	last := map[string]ruled{}
	for _, r := range got {
		times[r.ID]++
		s, is := sent[r.ID]
		if !is || s.claim != r.claim {
			wrong = append(wrong, fmt.Sprintf("unexpected: scored %+v", r))
			continue
		}
		before := last[r.Key]
		last[r.Key] = r
		if r.N <= before.N {
			wrong = append(wrong, fmt.Sprintf("reordered: key %s has claim %d behind claim %d", r.Key, r.N, before.N))
		}
		if r.N != s.n {
			wrong = append(wrong, fmt.Sprintf("wrong state: claim %d of key %s counts as its %d.", s.n, r.Key, r.N))
		}
		if r.Revision < before.Revision {
			wrong = append(wrong, fmt.Sprintf("went back: claim %d of key %s met the rules of revision %d, the one before those of %d", r.N, r.Key, r.Revision, before.Revision))
		}
		if r.Revision < s.ruleSeen {
			wrong = append(wrong, fmt.Sprintf("stale: claim %d of key %s met the rules of revision %d, those of %d were committed before", r.N, r.Key, r.Revision, s.ruleSeen))
		}
		if why := h.inForce(r, s.ruleSeen); why != "" {
			wrong = append(wrong, fmt.Sprintf("never in force: claim %d of key %s met %v at revision %d: %s", r.N, r.Key, r.Rules, r.Revision, why))
		}
	}
	return append(wrong, h.once("scored", times, func(c sentClaim) bool { return c.refusedBy() == "" || c.refusedBy() == "check" })...)
}

// inForce says what is wrong with rules that are said to be those of a revision. Everything up to an earlier one was in force.
func (h *claimHistory) inForce(r ruled, seen uint64) string {
	changes := map[string][]change{}
	for _, c := range h.limits {
		changes[c.key] = append(changes[c.key], c)
	}
	for key := range r.Rules {
		if changes[key] == nil {
			return "the bucket never had " + key
		}
	}
	for key, list := range changes {
		value, there := r.Rules[key]
		at := 0 // how many of them the revision has
		for at < len(list) && list[at].seq <= r.Revision {
			at++
		}
		i := at
		for i > 0 && (list[i-1].removed == there || there && list[i-1].value != value) {
			i--
		}
		switch {
		case i == 0 && there:
			return fmt.Sprintf("the bucket did not have %s as %d up to then", key, value)
		case i != at && (!h.replaced || at == len(list) || list[i].seq <= seen): // what was replaced before it was read was never seen
			return fmt.Sprintf("of %s the bucket had %+v", key, list[at-1])
		}
	}
	return ""
}

// judgeDone: each claim once, as it was scored, with a row that its key had; rows never go back where a key is looked up.
func (h *claimHistory) judgeDone(got []priced) (wrong []string) {
	sent := h.byID()
	times := map[int]int{}
	byKey := map[string][]ruled{}
	row := map[string]uint64{}
	for _, p := range got {
		times[p.ID]++
		s, is := sent[p.ID]
		if !is || s.claim != p.claim || s.n != p.N {
			wrong = append(wrong, fmt.Sprintf("unexpected: done %+v", p))
			continue
		}
		byKey[p.Key] = append(byKey[p.Key], p.ruled)
		if !slices.ContainsFunc(h.prices[p.Key], func(c change) bool { return p.Found && c.seq == p.PriceR && c.value == p.Price }) {
			wrong = append(wrong, fmt.Sprintf("never in force: claim %d of key %s got row %d of revision %d", p.N, p.Key, p.Price, p.PriceR))
		}
		if p.PriceR < row[p.Key] {
			wrong = append(wrong, fmt.Sprintf("went back: claim %d of key %s got the row of revision %d behind that of %d", p.N, p.Key, p.PriceR, row[p.Key]))
		}
		if p.PriceR < s.rowSeen {
			wrong = append(wrong, fmt.Sprintf("stale: claim %d of key %s got the row of revision %d, that of %d was there before the worker", p.N, p.Key, p.PriceR, s.rowSeen))
		}
		row[p.Key] = p.PriceR
	}
	for key, list := range byKey { // not in the order in which they came out, but in the one in which they met the rules
		slices.SortFunc(list, func(a, b ruled) int { return cmp.Compare(a.N, b.N) })
		for i := range list[1:] {
			if list[i+1].Revision < list[i].Revision {
				wrong = append(wrong, fmt.Sprintf("went back: claim %d of key %s has the rules of revision %d, claim %d those of %d", list[i+1].N, key, list[i+1].Revision, list[i].N, list[i].Revision))
			}
		}
	}
	return append(wrong, h.once("done", times, func(c sentClaim) bool { return c.refusedBy() == "" })...)
}

// judgeWindows: each window once, with every claim that came through and no other: none is late by being slow.
func (h *claimHistory) judgeWindows(got []claimWindow) (wrong []string) {
	type pane struct {
		key   string
		start int64
	}
	want := map[pane][]int{}
	for _, c := range h.claims {
		if c.refusedBy() == "" && c.window() < h.end {
			want[pane{c.Key, c.window()}] = append(want[pane{c.Key, c.window()}], c.ID)
		}
	}
	seen := map[pane]bool{}
	for _, w := range got {
		p := pane{w.Key, w.Start}
		if seen[p] {
			wrong = append(wrong, fmt.Sprintf("duplicated: window %v", p))
		}
		seen[p] = true
		slices.Sort(w.IDs)
		if !slices.Equal(w.IDs, want[p]) {
			wrong = append(wrong, fmt.Sprintf("wrong state: window %v has the claims %v, want %v", p, w.IDs, want[p]))
		}
	}
	for p := range want {
		if !seen[p] {
			wrong = append(wrong, fmt.Sprintf("lost: window %v", p))
		}
	}
	return wrong
}

// judgeDead: whatever an operator refuses is there once, and names that operator.
func (h *claimHistory) judgeDead(got []deadLetter) (wrong []string) {
	times := map[int]int{}
	bad := maps.Clone(h.bad)
	for _, d := range got {
		by := d.header[processor.HeaderOperator][0]
		if by == "limits" && bad[string(d.data)] {
			delete(bad, string(d.data))
			continue
		}
		var c claim
		if json.Unmarshal(d.data, &c) != nil || c.refusedBy() != by {
			wrong = append(wrong, fmt.Sprintf("unexpected: dead letter %.80q of operator %s: %s", d.data, by, d.header[processor.HeaderError]))
			continue
		}
		times[c.ID]++
	}
	for text := range bad {
		wrong = append(wrong, fmt.Sprintf("lost: dead letter of rule %s", text))
	}
	return append(wrong, h.once("dead", times, func(c sentClaim) bool { return c.refusedBy() != "" })...)
}

func (h *claimHistory) once(where string, times map[int]int, due func(sentClaim) bool) (wrong []string) {
	for _, c := range h.claims {
		n, want := times[c.ID], 0
		if due(c) {
			want = 1
		}
		switch {
		case n < want:
			wrong = append(wrong, fmt.Sprintf("lost: %s has no %+v", where, c.claim))
		case n > want:
			wrong = append(wrong, fmt.Sprintf("duplicated: %s has %d times %+v, want %d", where, n, c.claim, want))
		}
	}
	return wrong
}

func (h *claimHistory) byID() map[int]sentClaim {
	out := make(map[int]sentClaim, len(h.claims))
	for _, c := range h.claims {
		out[c.ID] = c
	}
	return out
}
