package flights

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

func TestGenerated(t *testing.T) {
	list, which, err := Load(t.TempDir())
	if err != nil || which == "the real flights" {
		t.Fatalf("Load in an empty folder: %s, %v", which, err)
	}
	again, _, err := Load(t.TempDir())
	if err != nil || !reflect.DeepEqual(list, again) {
		t.Fatalf("the flights differ from one call to the next (%v)", err)
	}
	late, origins := 0, map[string]int{}
	newest := list[0].Scheduled
	for i, f := range list {
		origins[f.Origin]++
		if f.Scheduled.Before(newest) {
			late++
		} else {
			newest = f.Scheduled
		}
		if f.Origin == f.Destination || i > 0 && f.departed().Before(list[i-1].departed()) {
			t.Fatalf("flight %d: %+v", i, f)
		}
	}
	if late < len(list)/4 || len(origins) < 50 || origins["PHX"] < 1000 {
		t.Errorf("%d of %d out of order, %d origins, %d from PHX: too tame", late, len(list), len(origins), origins["PHX"])
	}
}

func TestUnreadable(t *testing.T) {
	root := t.TempDir()
	project := filepath.Join(root, "main")
	file := filepath.Join(root, "shared", "data", "flights.csv.gz")
	for _, dir := range []string{project, filepath.Dir(file)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(file, []byte("not gzip"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Load(project); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Load of a broken file: %v", err)
	}
}
