package processor_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

var rewriteIntents = flag.Bool("rewrite-intents", false, "write the golden intents anew")

// fullIntent has every field set.
func fullIntent() *processor.Intent {
	four, retained, yes, shadow := 4, 7, true, "shadow.copy"
	interval, timeout := processor.Duration(2*time.Second), processor.Duration(time.Minute)
	return &processor.Intent{
		Tenant: "acme", Job: "copy", Topology: "revenue", Desired: processor.DesiredStopped,
		Start: &processor.StartPoint{From: processor.FromSavepoint, Savepoint: "before", Job: "revenue", Request: "r1"},
		Stop:  &processor.StopRequest{Mode: processor.StopDrain, Savepoint: "last", Request: "r2"},
		Config: &processor.ConfigPatch{
			Parallelism: &four, Params: map[string]json.RawMessage{"limit": json.RawMessage("3")}, CheckpointInterval: &interval,
			CheckpointTimeout: &timeout, Retained: &retained, Streams: map[string]string{"orders": "acme"}, Shadow: &shadow,
			AllowDataLoss: &yes, AllowDroppedState: &yes, AllowMarks: &yes,
		},
		ForkOf: "revenue", Changed: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Generation: 9, DropSavepoints: true, Cleaned: true,
	}
}

// Intents of version 1 read as they always did, and are written as they always were.
func TestGoldenIntent(t *testing.T) {
	path := filepath.Join("testdata", "golden", "intent-v1.json")
	data, err := fullIntent().Encode()
	if err != nil {
		t.Fatal(err)
	}
	if *rewriteIntents {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, append(data, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if golden = bytes.TrimSpace(golden); !bytes.Equal(golden, data) {
		t.Errorf("written is\n%s\nthe golden file has\n%s", data, golden)
	}
	in, err := processor.DecodeIntent(tenants.JobID{Tenant: "acme", Name: "copy"}, golden)
	if err != nil {
		t.Fatal(err)
	}
	again, err := in.Encode()
	if err != nil || !bytes.Equal(again, golden) {
		t.Errorf("read and written again it is\n%s, %v", again, err)
	}
}

func TestHostileIntents(t *testing.T) {
	job := tenants.JobID{Tenant: "acme", Name: "copy"}
	good, err := fullIntent().Encode()
	if err != nil {
		t.Fatal(err)
	}
	for what, data := range map[string]string{
		"empty":          "",
		"not JSON":       "running",
		"null":           "null",
		"a list":         "[]",
		"no version":     `{"tenant":"acme","job":"copy"}`,
		"newer":          strings.Replace(string(good), `"version":1`, `"version":2`, 1),
		"unknown field":  strings.Replace(string(good), `"version":1`, `"version":1,"owner":"me"`, 1),
		"other job":      strings.Replace(string(good), `"job":"copy"`, `"job":"other"`, 1),
		"wild tenant":    strings.Replace(string(good), `"tenant":"acme"`, `"tenant":"*"`, 1),
		"odd desired":    strings.Replace(string(good), `"desired":"stopped"`, `"desired":"paused"`, 1),
		"no topology":    strings.Replace(string(good), `"topology":"revenue"`, `"topology":""`, 1),
		"deep":           `{"version":1,"config":{"params":{"x":` + strings.Repeat("[", 100_000) + "}}}",
		"large":          strings.Repeat(" ", processor.MaxIntentBytes) + string(good),
		"trailing bytes": string(good) + "{}",
	} {
		if _, err := processor.DecodeIntent(job, []byte(data)); !errors.Is(err, processor.ErrInvalidIntent) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func FuzzDecodeIntent(f *testing.F) {
	good, err := fullIntent().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"version":1,"tenant":"acme","job":"copy","topology":"t","desired":"running","changed":"2026-01-02T03:04:05Z"}`))
	job := tenants.JobID{Tenant: "acme", Name: "copy"}
	f.Fuzz(func(t *testing.T, data []byte) {
		in, err := processor.DecodeIntent(job, data)
		if err != nil {
			return
		}
		out, err := in.Encode()
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if _, err := processor.DecodeIntent(job, out); err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
	})
}
