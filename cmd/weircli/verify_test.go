package weircli

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/cmd/weircli/verdict"
)

func counted(word string, n int) string { return fmt.Sprintf(`{"word":%q,"count":%d}`, word, n) }

// verifyStreams makes what a job of two tenants leaves behind, with one thing changed.
func verifyStreams(t *testing.T, change func(s *testServer, kv jetstream.KeyValue)) *testServer {
	t.Helper()
	s := newServer(t)
	s.stream(t, jetstream.StreamConfig{Name: "acme", Subjects: []string{"acme.>"}})
	s.stream(t, jetstream.StreamConfig{Name: "globex", Subjects: []string{"globex.>"}})
	s.publish(t, "acme.lines", "the fox", "the Weir!")
	s.publish(t, "globex.lines", "one dog")
	// Weir's own messages in the streams are no input and no output.
	for _, subject := range []string{"acme.lines", "acme.counts"} {
		if _, err := s.js.PublishMsg(t.Context(), &nats.Msg{Subject: subject, Data: []byte("barrier"), Header: nats.Header{"Weir-Barrier": {"1"}}}); err != nil {
			t.Fatal(err)
		}
	}
	s.publish(t, "acme._weir.wordcount.sink.counts", "marker")
	s.publish(t, "acme.counts", counted("the", 1), counted("fox", 1), counted("the", 2), counted("weir", 1))
	s.publish(t, "globex.counts", counted("one", 1), counted("dog", 1))
	kv, err := s.js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "counts"})
	if err != nil {
		t.Fatal(err)
	}
	for key, n := range map[string]string{"acme.the": "2", "acme.fox": "1", "acme.weir": "1", "globex.one": "1", "globex.dog": "1"} {
		if _, err := kv.Put(t.Context(), key, []byte(n)); err != nil {
			t.Fatal(err)
		}
	}
	s.publish(t, "$KV.counts._weir.acme.wordcount.sink.table", "marker")
	change(s, kv)
	return s
}

func TestVerify(t *testing.T) {
	must := func(_ uint64, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, tc := range map[string]struct {
		change func(s *testServer, kv jetstream.KeyValue)
		code   int
		want   string
	}{
		"exact":         {func(*testServer, jetstream.KeyValue) {}, 0, "acme         exact: 4 elements, 3 keys\nglobex       exact: 2 elements, 2 keys\n"},
		"duplicated":    {func(s *testServer, _ jetstream.KeyValue) { s.publish(t, "acme.counts", counted("the", 2)) }, 1, "not exact: 1 duplicated"},
		"lost tail":     {func(s *testServer, _ jetstream.KeyValue) { s.publish(t, "acme.lines", "fox") }, 1, "1 lost-tail"},
		"leaked":        {func(s *testServer, _ jetstream.KeyValue) { s.publish(t, "globex.counts", counted("fox", 1)) }, 1, "not exact: 1 leaked"},
		"out of thin":   {func(s *testServer, _ jetstream.KeyValue) { s.publish(t, "globex.counts", counted("cat", 1)) }, 1, "not exact: 1 unexpected"},
		"no count":      {func(s *testServer, _ jetstream.KeyValue) { s.publish(t, "globex.counts", `{"n":1}`) }, 2, "is not {"},
		"wrong state":   {func(_ *testServer, kv jetstream.KeyValue) { must(kv.Put(t.Context(), "acme.the", []byte("3"))) }, 1, "not exact: 1 wrong-state"},
		"foreign state": {func(_ *testServer, kv jetstream.KeyValue) { must(kv.Put(t.Context(), "acme.cat", []byte("1"))) }, 1, "not exact: 1 wrong-state"},
		"retention": {func(s *testServer, _ jetstream.KeyValue) {
			stream, err := s.js.Stream(t.Context(), "acme")
			if err == nil {
				err = stream.Purge(t.Context(), jetstream.WithPurgeSequence(2)) // "the fox" is gone
			}
			must(0, err)
		}, 2, "cannot judge: messages before sequence 2 of stream acme were removed"},
		"no stream": {func(s *testServer, _ jetstream.KeyValue) { must(0, s.js.DeleteStream(t.Context(), "acme")) }, 2, "acme"},
	} {
		t.Run(name, func(t *testing.T) {
			s := verifyStreams(t, tc.change)
			code, out, errOut := execute(t, "verify", "wordcount", "--url", s.url, "--wait", "1ms")
			if code != tc.code || !strings.Contains(out+errOut, tc.want) {
				t.Errorf("exit code %d instead of %d, want %q:\n%s%s", code, tc.code, tc.want, out, errOut)
			}
		})
	}
}

func TestVerifyJSON(t *testing.T) {
	s := verifyStreams(t, func(s *testServer, _ jetstream.KeyValue) { s.publish(t, "acme.counts", counted("the", 2)) })
	code, out, _ := execute(t, "verify", "wordcount", "--url", s.url, "--tenants", "acme", "--json", "--wait", "1ms")
	var reports []verdict.Report
	if err := json.Unmarshal([]byte(out), &reports); err != nil || code != 1 {
		t.Fatalf("exit code %d, %v: %s", code, err, out)
	}
	if len(reports) != 1 || reports[0].Tenant != "acme" || reports[0].Totals[verdict.Duplicated] != 1 {
		t.Errorf("reports: %+v", reports)
	}
}
