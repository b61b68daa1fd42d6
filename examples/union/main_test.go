package main

import (
	"slices"
	"testing"

	"github.com/weirstream/weir/examples/internal/exampletest"
)

func TestUnion(t *testing.T) {
	r := exampletest.Start(t, run)
	r.Publish("acme.web.orders", `{"customer":"ann","euros":99}`, `{"customer":"ann k.","euros":120}`)
	r.Publish("acme.shop.orders", "bob;9999", "bob;cheap", "bob;50000")
	if got, want := r.Read("acme", "acme.alerts.web.ann=20k=2E", 1), []string{`{"customer":"ann k.","cents":12000,"channel":"web"}`}; !slices.Equal(got, want) {
		t.Errorf("web: got %q, want %q", got, want)
	}
	if got, want := r.Read("acme", "acme.alerts.shop.bob", 1), []string{`{"customer":"bob","cents":50000,"channel":"shop"}`}; !slices.Equal(got, want) {
		t.Errorf("shop: got %q, want %q", got, want)
	}
	if got, want := r.Read("WEIR_DLQ", "weir.dlq.acme.alerts", 1), []string{"bob;cheap"}; !slices.Equal(got, want) {
		t.Errorf("dead letters: got %q, want %q", got, want)
	}
}
