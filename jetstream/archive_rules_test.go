package jetstream_test

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"strings"
	"testing"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// TestImportOfRules moves a job with rules. Its position in the bucket stays where the stream is the same one or a mirror: elsewhere a bucket
// may have other values under the same keys, before any position. Read from its beginning it is heard in full, and takes away
// what it does not have.
func TestImportOfRules(t *testing.T) {
	fresh := map[string]uint64{"limits": 0, "in": 0}
	changed := limitsText("a=5 c=3", 1)
	for name, c := range map[string]struct {
		prepare func(t *testing.T, a, b *site)
		to      func(a, b *site) *site
		spec    processor.ImportSpec
		how     string
		detail  string
		hears   string // the rules when all of the bucket was heard
		more    func(a, b *site) js.KeyValue
		then    string // and when a rule was added
	}{
		"the same bucket": {
			prepare: func(*testing.T, *site, *site) {}, to: func(a, _ *site) *site { return a },
			spec: processor.ImportSpec{Name: "back"},
			how:  processor.PositionKept, detail: "the same stream", hears: changed, then: changed + " z=26",
		},
		"mirror": {
			prepare: func(t *testing.T, a, b *site) {
				b.kv(js.KeyValueConfig{Bucket: "limits", Mirror: &js.StreamSource{Name: "limits", Domain: a.domain}})
				await(t, "the mirror", func() bool {
					facts, found, err := b.b.StreamFacts(t.Context(), "KV_limits")
					return err == nil && found && facts.Last >= facts.First && facts.Last == lastLimit(t, a)
				})
			},
			spec: processor.ImportSpec{Positions: map[string]uint64{"in": 0}},
			how:  processor.PositionKept, detail: "a mirror or copy of the stream", hears: changed, then: changed + " z=26",
			more: func(a, _ *site) js.KeyValue { return bucketOf(a) },
		},
		"published again": { // all that the tail says is there, and what it does not say is not
			prepare: func(t *testing.T, _, b *site) {
				kv := b.kv(js.KeyValueConfig{Bucket: "limits"})
				putRow(t, kv, "acme.a", "1000")
				fillLimits(t, kv, 2)
			},
			spec: processor.ImportSpec{Positions: map[string]uint64{"in": 0}}, how: processor.PositionRefused, detail: "give the position to go on behind",
		},
		"unrelated": {
			prepare: func(t *testing.T, _, b *site) { putRow(t, b.kv(js.KeyValueConfig{Bucket: "limits"}), "acme.a", "7") },
			spec:    processor.ImportSpec{Positions: map[string]uint64{"in": 0}}, how: processor.PositionRefused, detail: "give the position to go on behind",
		},
		"no bucket": {
			prepare: func(*testing.T, *site, *site) {},
			spec:    processor.ImportSpec{Positions: map[string]uint64{"in": 0}}, how: processor.PositionRefused, detail: "there is no stream KV_limits here",
		},
		"unrelated, from its beginning": {
			prepare: func(t *testing.T, _, b *site) {
				kv := b.kv(js.KeyValueConfig{Bucket: "limits"})
				putRow(t, kv, "acme.a", "7")
				putRow(t, kv, "globex.b", "8")
			},
			spec: processor.ImportSpec{Positions: fresh}, how: processor.PositionSet, detail: "as it was given", hears: "a=7", then: "a=7 z=26",
		},
		"empty, from its beginning": {
			prepare: func(_ *testing.T, _, b *site) { b.kv(js.KeyValueConfig{Bucket: "limits"}) },
			spec:    processor.ImportSpec{Positions: fresh}, how: processor.PositionSet, detail: "as it was given", hears: "", then: "z=26",
		},
		"another tenant": { // who has rules of its own in the same bucket, most of them before the position
			prepare: func(*testing.T, *site, *site) {}, to: func(a, _ *site) *site { return a },
			spec: processor.ImportSpec{Job: tenants.JobID{Tenant: "globex"}, Positions: map[string]uint64{"in": 0}, Streams: map[string]string{"in": "globex"}},
			how:  processor.PositionRefused, detail: "these are the rules of tenant acme",
		},
		"another tenant, from the beginning": {
			prepare: func(*testing.T, *site, *site) {}, to: func(a, _ *site) *site { return a },
			spec: processor.ImportSpec{Job: tenants.JobID{Tenant: "globex"}, Positions: fresh, Streams: map[string]string{"in": "globex"}},
			how:  processor.PositionSet, detail: "as it was given", hears: "a=1000", then: "a=1000 z=26",
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			a, b := twoSites(t)
			kv := a.kv(js.KeyValueConfig{Bucket: "limits"})
			putRow(t, kv, "acme.a", "1")
			putRow(t, kv, "globex.a", "1000")
			fillLimits(t, kv, 2)
			j := &rulingJob{w: a.world, t: t, tenant: "acme"}
			j.start(2)
			j.hears(limitsText("a=1", 0))
			_, err := j.job.Checkpoint(ctx)
			ok(t, err)
			j.stop()
			file := exportRuling(t, a)

			// The bucket goes on.
			putRow(t, kv, "acme.a", "5")
			putRow(t, kv, "acme.c", "3")
			ok(t, kv.Delete(ctx, "acme.k0"))
			for _, s := range []*site{a, b} {
				for _, tenant := range []string{"acme", "globex"} {
					_, err := s.js.CreateOrUpdateStream(ctx, js.StreamConfig{Name: tenant, Subjects: []string{tenant + ".>"}, AllowAtomicPublish: true, AllowMsgTTL: true,
						AllowDirect: true, Discard: js.DiscardNew, Metadata: map[string]string{"weir.owner": "weir"}})
					ok(t, err)
				}
			}
			to := b
			if c.to != nil {
				to = c.to(a, b)
			}
			c.prepare(t, a, b)
			archive, err := processor.OpenArchive(bytes.NewReader(file), nil)
			ok(t, err)
			report, err := processor.ImportSavepoint(ctx, to.b, archive, c.spec)
			for _, s := range report.Sources {
				if s.Source == "limits" && (s.How != c.how || !strings.Contains(s.Detail, c.detail)) {
					t.Fatalf("the position of the rules is %+v: %v", s, err)
				}
			}
			if c.how == processor.PositionRefused {
				if !errors.As(err, new(*processor.ImportRefusedError)) || !strings.Contains(err.Error(), c.detail) {
					t.Fatal(err)
				}
				return
			}
			ok(t, err)
			moved := &rulingJob{w: to.world, t: t, tenant: cmp.Or(c.spec.Job.Tenant, "acme"), sent: j.sent}
			moved.start(3, func(cfg *processor.JobConfig) {
				cfg.Start = processor.StartPoint{From: processor.FromSavepoint, Savepoint: report.Savepoint.Name}
			})
			moved.hears(c.hears)
			more := bucketOf(to)
			if c.more != nil {
				more = c.more(a, b)
			}
			putRow(t, more, string(moved.tenant)+".z", "26")
			moved.hears(c.then)
			moved.stop()
		})
	}
}

// limitKeys is more than a checkpoint knows of the last records that were read.
const limitKeys = 9

func fillLimits(t *testing.T, kv js.KeyValue, value int) {
	t.Helper()
	for i := range limitKeys {
		putRow(t, kv, fmt.Sprint("acme.k", i), fmt.Sprint(value))
	}
}

// limitsText is what the job says of the first rules and the filled ones, from one on.
func limitsText(first string, from int) string {
	for i := from; i < limitKeys; i++ {
		first += fmt.Sprintf(" k%d=2", i)
	}
	return first
}

func lastLimit(t *testing.T, s *site) uint64 {
	t.Helper()
	facts, _, err := s.b.StreamFacts(t.Context(), "KV_limits")
	ok(t, err)
	return facts.Last
}

func bucketOf(s *site) js.KeyValue {
	s.t.Helper()
	kv, err := s.js.KeyValue(s.t.Context(), "limits")
	ok(s.t, err)
	return kv
}

// exportRuling makes a savepoint of the job's last checkpoint, and a file of it.
func exportRuling(t *testing.T, s *site) []byte {
	t.Helper()
	ruling := tenants.JobID{Tenant: "acme", Name: "ruling"}
	sp, err := processor.OpenCheckpoint(t.Context(), s.b, nil, ruling, 0)
	ok(t, err)
	_, err = sp.SaveAs(t.Context(), "moving")
	ok(t, err)
	var file bytes.Buffer
	_, err = processor.ExportSavepoint(t.Context(), s.b, ruling, "moving", &file, nil)
	ok(t, err)
	return file.Bytes()
}
