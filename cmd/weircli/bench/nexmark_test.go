package bench

import (
	"strings"
	"testing"
	"time"

	"github.com/weirstream/weir/examples/nexmark"
)

// Every query runs from JetStream and from memory, with the same results: Nexmark fails otherwise.
func TestNexmark(t *testing.T) {
	cfg := small
	cfg.Pairs = 1
	rs, err := Nexmark(t.Context(), cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(rs) != len(nexmark.Queries()) {
		t.Fatalf("%d results", len(rs))
	}
	for _, r := range rs {
		if r.Events != cfg.Events || r.PerS <= 0 || r.MemoryPerS <= 0 || r.Ratio <= 0 || r.MemoryRatio <= 0 || r.Checkpoints < 2 || r.BrokerShare < 0 {
			t.Errorf("result %+v", r)
		}
		if r.Query == "q0" && (r.Ratio != 1 || r.MemoryRatio != 1 || r.Results != cfg.Events*46/50) {
			t.Errorf("result %+v", r)
		}
	}
}

func TestNexmarkChoosesQueries(t *testing.T) {
	if _, err := Nexmark(t.Context(), small, []string{"q5", "q10"}); err == nil || !strings.Contains(err.Error(), "q10") || !strings.Contains(err.Error(), "q22") {
		t.Errorf("q10: %v", err)
	}
	runs, err := nexmarkRuns([]string{"q5", "q7"}, time.Second)
	if err != nil || len(runs) != 3 || runs[0].query.Name != "q0" || runs[1].query.Name != "q5" || runs[2].query.Name != "q7" {
		t.Errorf("%d runs: %v", len(runs), err)
	}
}

// A lost, a doubled or a changed result must show, or its speed would be believed.
func TestResultSum(t *testing.T) {
	q0, _ := nexmark.Find("q0")
	q17, _ := nexmark.Find("q17")
	sum := func(q nexmark.Query, results ...string) *resultSum {
		s := newResultSum(q)
		for _, r := range results {
			key, value, _ := strings.Cut(r, "=")
			s.add(key, []byte(value))
		}
		return s
	}
	rows := sum(q0, "a=1", "a=2")
	if !rows.same(sum(q0, "a=2", "a=1")) || rows.same(sum(q0, "a=1")) || rows.same(sum(q0, "a=1", "a=2", "a=2")) || rows.same(sum(q0, "a=1", "a=3")) {
		t.Error("rows are compared wrongly")
	}
	table := sum(q17, "a=1", "b=1", "a=2")
	if !table.same(sum(q17, "b=1", "a=2")) || table.same(sum(q17, "b=1", "a=1")) || table.same(sum(q17, "a=2")) || table.same(sum(q17, "a=2", "b=1", "c=1")) {
		t.Error("tables are compared wrongly")
	}
}
