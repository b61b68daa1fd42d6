package main

import (
	"slices"
	"testing"

	"github.com/weirstream/weir/examples/internal/exampletest"
)

func TestDedupe(t *testing.T) {
	r := exampletest.Start(t, run)
	a, b, refund := `{"id":"a","cents":1}`, `{"id":"b","cents":2}`, `{"id":"r","cents":-5}`
	r.Publish("acme.orders.eu", a, a, refund, refund, `{"cents":7}`, b)
	if got, want := r.Read("acme", "acme.unique", 2), []string{a, b}; !slices.Equal(got, want) {
		t.Errorf("unique orders: got %q, want %q", got, want)
	}
	if got, want := r.Read("acme", "acme.refunds", 1), []string{refund}; !slices.Equal(got, want) {
		t.Errorf("refunds: got %q, want %q", got, want)
	}
	if got, want := r.Read("WEIR_DLQ", "weir.dlq.acme.dedupe", 1), []string{`{"cents":7}`}; !slices.Equal(got, want) {
		t.Errorf("dead letters: got %q, want %q", got, want)
	}

	// globex forgets after a millisecond: the timer has fired by the time a result was read back, or fires soon after.
	r.Publish("globex.orders.us", a)
	r.Read("globex", "globex.unique", 1)
	for len(r.Stored("globex", "globex.unique")) < 2 {
		r.Publish("globex.orders.us", a)
	}
}
