package weircli

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

func TestParams(t *testing.T) {
	limit, label := processor.NewParam("limit", 3), processor.NewParam("label", "x")
	b := processor.NewBuilder("params")
	in := processor.From(b, "in", processor.SourceSpec[string]{Filters: []tenants.Filter{"in"}, Codec: codec.String()})
	processor.Process(processor.KeyBy(in, func(s string) string { return s }), "op",
		func(*processor.Context[string], string) error { return nil }, processor.Uses(limit, label))
	topology, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	all := []*processor.Topology{topology}

	f := jobFlags{params: []string{"limit=5", "globex:limit=9", "label=plain text"}}
	if err := f.checkParams(all); err != nil {
		t.Fatal(err)
	}
	for tenant, want := range map[tenants.ID]map[string]any{
		"acme":   {"limit": json.RawMessage("5"), "label": "plain text"},
		"globex": {"limit": json.RawMessage("9"), "label": "plain text"},
	} {
		cfg, err := f.config(topology, tenant)
		if err != nil || !reflect.DeepEqual(cfg.Params, want) {
			t.Errorf("%s: %v, %v, want %v", tenant, cfg.Params, err, want)
		}
	}
	// The tenant's own wins whatever the order.
	f.params = []string{"globex:limit=9", "limit=5"}
	if cfg, err := f.config(topology, "globex"); err != nil || string(cfg.Params["limit"].(json.RawMessage)) != "9" {
		t.Errorf("globex: %v, %v", cfg.Params, err)
	}
	for _, wrong := range []string{"limt=5", "limit", "a.b:limit=5"} {
		f.params = []string{wrong}
		if err := f.checkParams(all); err == nil || !strings.Contains(err.Error(), wrong) {
			t.Errorf("--param %s: %v", wrong, err)
		}
	}
}

func TestTenantFlags(t *testing.T) {
	ids, ns, err := (&tenantFlags{tenants: []string{"acme", " globex", "acme"}, namespace: "events.{tenant}"}).parse()
	if err != nil || len(ids) != 2 || ids[1] != "globex" || ns.Absolute("acme", "x") != "events.acme.x" {
		t.Errorf("%v, %v, %v", ids, ns, err)
	}
	if _, _, err := (&tenantFlags{tenants: []string{"a b", "ok", "c.d"}, namespace: "x"}).parse(); err == nil ||
		!strings.Contains(err.Error(), "a b") || !strings.Contains(err.Error(), "c.d") || !strings.Contains(err.Error(), "--namespace") {
		t.Errorf("not every problem is reported: %v", err)
	}
}

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"nats://127.0.0.1:4222":            "nats://127.0.0.1:4222",
		"nats://joe:secret@h:4222":         "nats://h:4222",
		"nats://a:b@h:1,tls://token@i:2":   "nats://h:1,tls://i:2",
		"nats://user:p@ss@h:4222,nats://x": "nats://h:4222,nats://x",
	} {
		if got := redact(in); got != want {
			t.Errorf("%s became %s, want %s", in, got, want)
		}
	}
}
