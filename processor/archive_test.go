package processor_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/processor/processortest"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

var updateArchive = flag.Bool("update-archive", false, "write the golden archive anew")

const goldenArchive = "testdata/golden/savepoint-v1.tar"

var archiveTags = state.NewMap[string, int64]("tags")

// archiveTopology has two operators with state.
func archiveTopology(t *testing.T) *processor.Topology {
	t.Helper()
	b := processor.NewBuilder("counting")
	words := processor.From(b, "words", processor.SourceSpec[string]{Filters: []tenants.Filter{"words"}, Codec: codec.String()})
	keyed := processor.KeyBy(words, strings.ToLower)
	count := processor.Process(keyed, "count", func(pc *processor.Context[string], _ string) error {
		n, err := wordTotal.Get(pc)
		pc.Emit(fmt.Sprint(pc.Key(), n+1))
		return errors.Join(err, wordTotal.Set(pc, n+1))
	}, processor.Uses(wordTotal), processor.OnTimer(func(*processor.Context[string], time.Time) error { return nil }))
	tags := processor.Process(keyed, "tags", func(pc *processor.Context[string], w string) error { return archiveTags.Put(pc, w, 1) }, processor.Uses(archiveTags))
	spec := processor.SinkSpec[string]{Subject: func(string) string { return "counts" }, Codec: codec.String()}
	processor.To(count, "counts", spec)
	processor.To(tags, "none", spec)
	return built(t, b)
}

func archiveWorld(t *testing.T) *processortest.Memory {
	m := processortest.NewMemory(tenants.Namespace{}, nil)
	m.AddStream("acme", "acme.>")
	return m
}

// exported makes a savepoint with two operators, the position 2 in stream acme, and exports it.
func exported(t *testing.T, m *processortest.Memory) []byte {
	t.Helper()
	ctx := t.Context()
	sendWords(t, m, "a", "b")
	sp := tried[*processor.Savepoint](t)(processor.NewSavepoint(m, archiveTopology(t), editJob, processor.BootstrapSpec{KeyGroups: 16}))
	count := tried[*processor.SavepointOperator](t)(sp.Operator(ctx, "count"))
	tags := tried[*processor.SavepointOperator](t)(sp.Operator(ctx, "tags"))
	for i, k := range []string{"a", "b", "", "ключ"} {
		if err := errors.Join(wordTotal.Set(count.Key(k), int64(i)), archiveTags.Put(tags.Key(k), "t", int64(-i)), count.Timers().Set(state.ProcessingTime, 1<<60, k)); err != nil {
			t.Fatal(err)
		}
	}
	if err := sp.SetPosition("words", processor.Position{Stream: "acme", Sequence: 2}); err != nil {
		t.Fatal(err)
	}
	tried[*barriers.Manifest](t)(sp.SaveAs(ctx, "before-upgrade"))
	var file bytes.Buffer
	var last, total int64
	saved, err := processor.ExportSavepoint(ctx, m, editJob, "before-upgrade", &file, func(done, all int64) { last, total = done, all })
	if err != nil || last != total || total == 0 || saved.Savepoint != "before-upgrade" {
		t.Fatal(err, last, total)
	}
	return file.Bytes()
}

// checkArchiveState reads a savepoint of the topology back.
func checkArchiveState(t *testing.T, m processor.Broker, job tenants.JobID, name string) {
	t.Helper()
	sp := tried[*processor.Savepoint](t)(processor.OpenSavepoint(t.Context(), m, archiveTopology(t), job, name))
	for operator, want := range map[string]string{"count": `total["","a","b","ключ"] 2 0 1 3 [{"domain":"processing time","at":"2006-07-14T23:58:24.606846976Z"}]`, "tags": `tags["","a","b","ключ"] {"t":-2} {"t":0} {"t":-1} {"t":-3} `} {
		op := tried[*processor.SavepointOperator](t)(sp.Operator(t.Context(), operator))
		keys := tried[[]string](t)(op.Keys(nil))
		list, _ := json.Marshal(keys)
		name := map[string]string{"count": "total", "tags": "tags"}[operator]
		got := name + string(list)
		for _, k := range keys {
			v, ok, err := op.JSON(name, k)
			if !ok || err != nil {
				t.Fatal(k, ok, err)
			}
			got += " " + string(v)
		}
		timers, _, _ := op.JSON(state.StateTimers, "a")
		if got += " " + string(timers); got != want {
			t.Errorf("operator %s has %s, want %s", operator, got, want)
		}
	}
}

// A file that an earlier version wrote is imported by this one.
func TestGoldenArchive(t *testing.T) {
	if *updateArchive {
		if err := os.WriteFile(goldenArchive, exported(t, archiveWorld(t)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file := tried[[]byte](t)(os.ReadFile(goldenArchive))
	a, err := processor.OpenArchive(bytes.NewReader(file), nil)
	if err != nil {
		t.Fatal(err)
	}
	if a.Manifest.Job != "counting" || a.Manifest.Savepoint != "before-upgrade" || a.Objects != 2 || a.Weir == "" || a.Exported.Year() < 2020 {
		t.Fatalf("%+v", a)
	}
	m := archiveWorld(t)
	sendWords(t, m, "a", "b", "c")
	report, err := processor.ImportSavepoint(t.Context(), m, a, processor.ImportSpec{Positions: map[string]uint64{"words": 2}})
	if err != nil {
		t.Fatal(err)
	}
	if s := report.Sources[0]; s.How != processor.PositionSet || s.To != (processor.Position{Stream: "acme", Sequence: 2}) || report.Objects != 2 || report.Skipped != 0 ||
		!strings.HasPrefix(report.Savepoint.Origin, "acme/counting/before-upgrade, exported 20") {
		t.Fatalf("%+v", report)
	}
	checkArchiveState(t, m, editJob, "before-upgrade")
}

// A plain tar with plain checksums, for anybody to read.
func TestArchiveIsATar(t *testing.T) {
	r := tar.NewReader(bytes.NewReader(exported(t, archiveWorld(t))))
	sums := map[string]string{}
	var names []string
	var listed string
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data := tried[[]byte](t)(io.ReadAll(r))
		names = append(names, h.Name)
		sums[h.Name] = fmt.Sprintf("%x  %s\n", sha256.Sum256(data), h.Name)
		if h.Name == "SHA256SUMS" {
			listed = string(data)
		}
		if h.FileInfo().Mode() != 0o644 || time.Since(h.ModTime) > time.Hour {
			t.Errorf("%+v", h)
		}
	}
	if got, want := strings.Join(names, " "), "weir-savepoint.json SHA256SUMS objects/0000001 objects/0000002"; got != want {
		t.Fatalf("entries %s, want %s", got, want)
	}
	if want := sums[names[0]] + sums[names[2]] + sums[names[3]]; listed != want {
		t.Fatalf("SHA256SUMS has\n%swant\n%s", listed, want)
	}
}

// Every changed byte and every truncation is refused with the reason.
func TestArchiveDamage(t *testing.T) {
	file := tried[[]byte](t)(os.ReadFile(goldenArchive))
	refused := func(what string, b []byte) {
		t.Helper()
		if _, err := processor.OpenArchive(bytes.NewReader(b), nil); !errors.As(err, new(*processor.ArchiveError)) {
			t.Fatalf("%s: %v", what, err)
		}
	}
	for i := range file {
		changed := bytes.Clone(file)
		changed[i] ^= 1 << (i % 8)
		refused(fmt.Sprintf("byte %d of %d changed", i, len(file)), changed)
		if i%7 == 0 || i%512 == 0 {
			refused(fmt.Sprintf("cut off at %d of %d", i, len(file)), file[:i])
		}
	}
	refused("one byte more", append(bytes.Clone(file), 0))
	refused("twice", append(bytes.Clone(file), file...))
	refused("another file", []byte(strings.Repeat("PK\x03\x04 something else", 100)))
	refused("nothing", nil)
}

// countingBroker counts writes.
type countingBroker struct {
	*failingStore
	writes int
}

func (c *countingBroker) Put(ctx context.Context, tenant tenants.ID, name string, data []byte) (barriers.Object, error) {
	c.writes++
	return c.failingStore.Put(ctx, tenant, name, data)
}

func (c *countingBroker) Do(ctx context.Context, job tenants.JobID, r barriers.Request) barriers.Reply {
	if r.Op == barriers.OpWriteRecord || r.Op == barriers.OpDeleteRecord {
		c.writes++
	}
	return c.failingStore.Do(ctx, job, r)
}

func openArchive(t *testing.T, file []byte) *processor.Archive {
	t.Helper()
	return tried[*processor.Archive](t)(processor.OpenArchive(bytes.NewReader(file), nil))
}

// An import that was cut off goes on where it stopped, again and again; a finished one is found.
func TestImportResumes(t *testing.T) {
	ctx := t.Context()
	a := openArchive(t, exported(t, archiveWorld(t)))
	target := archiveWorld(t)
	sendWords(t, target, "a", "b")
	m := &countingBroker{failingStore: &failingStore{Memory: target, left: 1}}
	spec := processor.ImportSpec{Job: tenants.JobID{Tenant: "globex", Name: "copy"}, Name: "moved", Positions: map[string]uint64{"words": 0}}
	for try := range 2 {
		if _, err := processor.ImportSavepoint(ctx, m, a, spec); !errors.Is(err, processor.ErrFull) {
			t.Fatalf("try %d: %v", try, err)
		}
	}
	if _, err := processor.OpenSavepoint(ctx, m, nil, spec.Job, "moved"); !errors.As(err, new(*barriers.NoSavepointError)) {
		t.Fatalf("an unfinished import can be seen: %v", err)
	}
	// Somebody else's import of the same name has to wait.
	other := spec
	other.Name, other.Job = "moved", spec.Job
	b := openArchive(t, tried[[]byte](t)(os.ReadFile(goldenArchive)))
	if _, err := processor.ImportSavepoint(ctx, m, b, other); !errors.As(err, new(*barriers.SavepointExistsError)) {
		t.Fatal(err)
	}
	m.left = 10
	report, err := processor.ImportSavepoint(ctx, m, a, spec)
	if err != nil || report.Objects != 2 || report.Skipped != 1 || report.Existed || report.Savepoint.Name != "moved" {
		t.Fatalf("%v %+v", err, report)
	}
	if list := m.Do(ctx, spec.Job, barriers.Request{Op: barriers.OpListObjects}); len(list.Objects) != 2 {
		t.Fatalf("objects %v", list.Objects)
	}
	checkArchiveState(t, m, spec.Job, "moved")
	m.writes = 0
	if report, err = processor.ImportSavepoint(ctx, m, a, spec); err != nil || !report.Existed || m.writes != 0 {
		t.Fatalf("%v %+v, %d writes", err, report, m.writes)
	}
	if _, err := processor.ImportSavepoint(ctx, m, b, other); !errors.As(err, new(*barriers.SavepointExistsError)) {
		t.Fatalf("a name that is taken: %v", err)
	}
}

// What cannot be placed is refused before anything is written.
func TestImportRefuses(t *testing.T) {
	ctx := t.Context()
	a := openArchive(t, exported(t, archiveWorld(t)))
	for name, c := range map[string]struct {
		spec processor.ImportSpec
		want string
	}{
		"no stream":       {processor.ImportSpec{Streams: map[string]string{"words": "nowhere"}}, "there is no stream nowhere here"},
		"no proof":        {processor.ImportSpec{}, "the savepoint has no records of it to look for: give the position"},
		"position beyond": {processor.ImportSpec{Positions: map[string]uint64{"words": 99}}, "ends at sequence 3, the position that was given is 99"},
		"unknown source":  {processor.ImportSpec{Positions: map[string]uint64{"wurds": 0}}, `no source "wurds"`},
		"bad name":        {processor.ImportSpec{Name: "No!"}, "No!"},
		"bad tenant":      {processor.ImportSpec{Job: tenants.JobID{Tenant: "a.b"}}, "a.b"},
	} {
		m := archiveWorld(t)
		sendWords(t, m, "a", "b", "c")
		counting := &countingBroker{failingStore: &failingStore{Memory: m, left: 10}}
		_, err := processor.ImportSavepoint(ctx, counting, a, c.spec)
		if err == nil || !strings.Contains(err.Error(), c.want) || counting.writes != 0 {
			t.Errorf("%s: %v, %d writes", name, err, counting.writes)
		}
	}
}
