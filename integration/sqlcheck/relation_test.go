package sqlcheck_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// relation is a multiset of rows, sorted. A row is its columns by name, so that their order does not matter.
type relation []string

func row(columns map[string]any) string {
	cells := make([]string, 0, len(columns))
	for name, v := range columns {
		cells = append(cells, name+"="+cell(v))
	}
	slices.Sort(cells)
	return strings.Join(cells, " | ")
}

func cell(v any) string {
	switch v := v.(type) {
	case nil:
		return "NULL"
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64)
	case json.Number:
		if strings.ContainsAny(v.String(), ".eE") {
			f, err := v.Float64()
			if err != nil {
				return err.Error()
			}
			return cell(f)
		}
		return v.String()
	}
	return fmt.Sprint(v)
}

// fromJSON makes a relation of JSON objects.
func fromJSON(t testing.TB, payloads [][]byte) relation {
	t.Helper()
	var r relation
	for _, p := range payloads {
		d := json.NewDecoder(bytes.NewReader(p))
		d.UseNumber()
		var columns map[string]any
		if err := d.Decode(&columns); err != nil {
			t.Fatalf("a result is no JSON object: %q: %v", p, err)
		}
		r = append(r, row(columns))
	}
	slices.Sort(r)
	return r
}

// equal fails with the first rows that differ. An empty relation proves nothing, so want must not be one.
func equal(t testing.TB, want, got relation) {
	t.Helper()
	if len(want) == 0 {
		t.Fatal("the SQL has no rows: the events are too few to check anything")
	}
	open := map[string]int{}
	for _, r := range want {
		open[r]++
	}
	for _, r := range got {
		open[r]--
	}
	var wrong []string
	for r, n := range open {
		switch {
		case n > 0:
			wrong = append(wrong, fmt.Sprintf("missing %d times: %s", n, r))
		case n < 0:
			wrong = append(wrong, fmt.Sprintf("%d times too often: %s", -n, r))
		}
	}
	if len(wrong) > 0 {
		slices.Sort(wrong)
		t.Errorf("%d rows, SQL has %d:\n%s\nof %d differences", len(got), len(want), strings.Join(wrong[:min(len(wrong), 12)], "\n"), len(wrong))
	}
}
