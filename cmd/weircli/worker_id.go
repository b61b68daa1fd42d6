package weircli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/nuid"

	"github.com/weirstream/weir/tenants"
)

// workerID is a worker's identity, kept in a data folder and held by one process at a time. A process that comes back under the
// ID of its dead predecessor takes its jobs over at once; two living ones under one ID would take them from each other.
type workerID struct {
	ID   string
	file *os.File
}

// errFolderInUse says that another process holds the folder.
var errFolderInUse = errors.New("another process uses it")

// claimWorkerID makes the folder where it is missing and locks its worker-id file. The lock ends with the process, however it ends.
func claimWorkerID(dir string) (*workerID, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("creating data folder %s: %w", dir, err)
	}
	path := filepath.Join(dir, "worker-id")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	w := &workerID{file: f}
	if err := lockFile(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("data folder %s: %w: stop it, or give this one another folder with --data (%w)", dir, errFolderInUse, err)
	}
	if err := w.read(path); err != nil {
		f.Close()
		return nil, err
	}
	return w, nil
}

func (w *workerID) read(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	w.ID = strings.TrimSpace(string(b))
	if w.ID == "" {
		// Also where a crash came between making the file and writing it.
		w.ID = "w-" + nuid.Next()
		if _, err := w.file.WriteAt([]byte(w.ID+"\n"), 0); err != nil {
			return fmt.Errorf("writing %s: %w", path, err)
		}
		if err := w.file.Sync(); err != nil {
			return fmt.Errorf("writing %s: %w", path, err)
		}
	}
	if err := tenants.ID(w.ID).Validate(); err != nil {
		return fmt.Errorf("reading %s: %w: put a valid worker ID there or delete the file", path, err)
	}
	return nil
}

// Close gives the identity back.
func (w *workerID) Close() error { return w.file.Close() }
