package weircli

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

func TestCheck(t *testing.T) {
	good := jetstream.StreamConfig{Name: "acme", Subjects: []string{"acme.>"}, AllowAtomicPublish: true, AllowMsgTTL: true}
	for name, tc := range map[string]struct {
		change func(*jetstream.StreamConfig)
		flags  []string
		code   int
		want   string
	}{
		"good":             {func(*jetstream.StreamConfig) {}, nil, 0, "nothing"},
		"no atomic batch":  {func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = false }, nil, 1, "nats stream edit acme "},
		"work queue":       {func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy }, nil, 1, "limits"},
		"no subject":       {func(c *jetstream.StreamConfig) { c.Subjects = []string{"other.>"} }, nil, 1, "nats stream add acme --subjects 'acme.>' --allow-batch"},
		"would be created": {func(c *jetstream.StreamConfig) { c.Subjects = []string{"other.>"}; c.Name = "other" }, []string{"--create-streams"}, 0, "Weir creates it"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			cfg := good
			tc.change(&cfg)
			s.stream(t, cfg)
			before := streamNames(t, s)
			code, out, errOut := execute(t, append([]string{"check", "--url", s.url, "--tenants", "acme"}, tc.flags...)...)
			if code != tc.code || !strings.Contains(out, tc.want) {
				t.Errorf("exit code %d instead of %d, want %q:\n%s%s", code, tc.code, tc.want, out, errOut)
			}
			if after := streamNames(t, s); after != before {
				t.Errorf("check changed the streams from %s to %s", before, after)
			}
		})
	}
}

func TestCheckJSON(t *testing.T) {
	s := newServer(t)
	code, out, _ := execute(t, "check", "--url", s.url, "--tenants", "acme,globex", "--json")
	var lines []checkLine
	if err := json.Unmarshal([]byte(out), &lines); err != nil || code != 1 {
		t.Fatalf("exit code %d, %v: %s", code, err, out)
	}
	missing := map[string]bool{}
	for _, l := range lines {
		if l.Needs != "" && l.Fix != "" {
			missing[string(l.Tenant)+" "+l.Subject] = true
		}
	}
	for _, want := range []string{"acme source lines", "acme sink counts", "globex source lines", "globex sink counts"} {
		if !missing[want] {
			t.Errorf("%s is not reported with a fix: %s", want, out)
		}
	}
}

func streamNames(t *testing.T, s *testServer) string {
	t.Helper()
	var names []string
	l := s.js.StreamNames(t.Context())
	for name := range l.Name() {
		names = append(names, name)
	}
	if l.Err() != nil {
		t.Fatal(l.Err())
	}
	return strings.Join(names, " ")
}
