package control_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// TestLookupNeedsNoPermissionOfItsOwn lets a worker's job read a bucket that its permissions do not name: what reads streams reads rows.
func TestLookupNeedsNoPermissionOfItsOwn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGuarded(t, roles(t), false)
		admin, err := js.New(g.as("admin"))
		ok(t, err)
		ctx := context.Background()
		names, err := admin.CreateKeyValue(ctx, js.KeyValueConfig{Bucket: "names"})
		ok(t, err)
		for i := range 2000 { // enough for flow control
			_, err = names.PutString(ctx, fmt.Sprint("acme.", i), strings.Repeat("n", 1000))
			ok(t, err)
		}
		b := processor.NewBuilder("sums")
		in := processor.From(b, "in", processor.SourceSpec[uint64]{Filters: []tenants.Filter{"in.*"}, Codec: codec.JSON[uint64]()})
		named := processor.Lookup(in, "names", processor.TableSpec[string]{Bucket: "names", Codec: codec.String()},
			func(n uint64) string { return fmt.Sprint(n) }, func(n uint64, r processor.Row[string], emit func(uint64)) error {
				if r.Found {
					emit(uint64(len(r.Value)))
				}
				return nil
			})
		processor.To(named, "out", processor.SinkSpec[uint64]{FixedSubject: "out", Codec: codec.JSON[uint64]()})
		topology, err := b.Build()
		ok(t, err)
		stop := g.work(topology, "w1")
		g.publishNumbers(g.as("publisher"), 100)
		into[processor.CheckpointReport](t, askWith(t, g.as("operator"), "weir.v1.acme.sums.checkpoint", ""))
		stop()
		last, err := admin.Stream(ctx, "acme")
		ok(t, err)
		m, err := last.GetLastMsgForSubject(ctx, "acme.out")
		ok(t, err)
		equal(t, "the last result", string(m.Data), "1000")
		if v := g.denied(); len(v) > 0 {
			t.Fatalf("denied: %s", strings.Join(v, "\n"))
		}
	})
}
