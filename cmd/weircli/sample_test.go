package weircli

import (
	"context"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/tenants"
)

// Every message is in the stream once and in order, and the next run begins where the acknowledged ones end.
func TestSamplerPublishes(t *testing.T) {
	s := newServer(t)
	s.stream(t, jetstream.StreamConfig{Name: "acme", Subjects: []string{"acme.>"}})
	numbers := Sample{Subject: "in", Message: func(tenant string, n uint64) []byte { return fmt.Appendf(nil, "%s %d", tenant, n) }}
	p, err := newSampler(s.nc, numbers, "acme", tenants.DefaultNamespace, 5000, newLogger(t.Output(), false))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { p.run(ctx); close(ended) }()
	next := 0
	in, err := openTail(t.Context(), s.nc, "acme.in", func(m jetstream.Msg) error {
		if want := fmt.Sprintf("acme %d", next); string(m.Data()) != want {
			return fmt.Errorf("got %q, want %q", m.Data(), want)
		}
		next++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer in.close()
	for next < 500 && t.Context().Err() == nil {
		if err := in.readAll(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	<-ended
}

func TestSamplerRefusesBadSubject(t *testing.T) {
	s := newServer(t)
	if _, err := newSampler(s.nc, Sample{Topology: "x", Subject: "a..b"}, "acme", tenants.DefaultNamespace, 1, nil); err == nil {
		t.Error("a subject with an empty token was taken")
	}
}
