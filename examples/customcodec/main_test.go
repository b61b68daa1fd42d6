package main

import (
	"slices"
	"testing"

	"github.com/weirstream/weir/examples/internal/exampletest"
)

func TestCustomCodec(t *testing.T) {
	r := exampletest.Start(t, run)
	msg := func(sensor string, milli int64) string {
		b, err := appendReading(nil, Reading{sensor, milli})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	a, lower, higher, other, broken := msg("a", 5), msg("a", -4), msg("a", 6), msg("b", 1), "\x0a\xff"
	r.Publish("acme.readings", a, lower, broken, higher, other)
	if got, want := r.Read("acme", "acme.records", 3), []string{a, higher, other}; !slices.Equal(got, want) {
		t.Errorf("records: got %q, want %q", got, want)
	}
	if got, want := r.Read("WEIR_DLQ", "weir.dlq.acme.records", 1), []string{broken}; !slices.Equal(got, want) {
		t.Errorf("dead letters: got %q, want %q", got, want)
	}
}

func FuzzDecodeReading(f *testing.F) {
	f.Add([]byte("\x0a\x01a\x10\x0a"))
	f.Add([]byte("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeReading(b)
		if err != nil {
			return
		}
		again, err := appendReading(nil, r)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := decodeReading(again); err != nil || back != r {
			t.Fatalf("%+v became %+v, %v", r, back, err)
		}
	})
}
