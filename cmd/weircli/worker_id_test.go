package weircli

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWorkerID(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	first, err := claimWorkerID(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := claimWorkerID(dir); !errors.Is(err, errFolderInUse) || !strings.Contains(err.Error(), "--data") {
		t.Errorf("a second claim: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := claimWorkerID(dir)
	if err != nil || again.ID != first.ID {
		t.Fatalf("the identity was not kept: %+v, %v", again, err)
	}
	again.Close()
	other, err := claimWorkerID(t.TempDir())
	if err != nil || other.ID == first.ID {
		t.Fatalf("two folders have one identity: %+v, %v", other, err)
	}
	other.Close()
}

func TestWorkerIDBrokenFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "worker-id")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	// A crash between making and writing the file leaves it empty.
	w, err := claimWorkerID(dir)
	if err != nil || w.ID == "" {
		t.Fatalf("%+v, %v", w, err)
	}
	w.Close()
	if err := os.WriteFile(path, []byte("not a.name\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := claimWorkerID(dir); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a bad identity was taken: %v", err)
	}
}
