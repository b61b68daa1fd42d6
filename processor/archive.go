package processor

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/tenants"
)

// An archive is one savepoint as one file: a plain tar whose bytes are fixed by its contents. FORMAT.md says which.
const (
	archiveFormat  = "weir savepoint archive"
	archiveVersion = 1

	archiveIndexName = "weir-savepoint.json"
	archiveSumsName  = "SHA256SUMS"
	archiveObjects   = "objects/"

	maxArchiveIndex  = barriers.MaxManifestBytes + 64<<10
	maxArchiveObject = 128 << 20
	maxArchiveText   = 4096
)

// archiveIndex is an archive's first entry, JSON.
type archiveIndex struct {
	Format   string          `json:"format"`
	Version  int             `json:"version"`
	Weir     string          `json:"weir"` // version of the library that exported
	Exported int64           `json:"exported"`
	Bytes    int64           `json:"bytes"` // of all objects
	Manifest json.RawMessage `json:"manifest"`
}

// ArchiveError says why a file is not an archive that can be used.
type ArchiveError struct {
	Detail string
	Err    error // what is behind it, if anything
}

func (e *ArchiveError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("the file is no usable savepoint archive: %s: %v", e.Detail, e.Err)
	}
	return "the file is no usable savepoint archive: " + e.Detail
}

func (e *ArchiveError) Unwrap() error { return e.Err }

// Progress hears how many bytes of a savepoint's objects are done. It is called after every object, from the caller's goroutine.
type Progress func(done, total int64)

// ExportSavepoint writes a savepoint as one file, verifying the digest of everything it writes. The same savepoint exported at the
// same time gives the same bytes. A savepoint that is deleted meanwhile is an error; what was written then is no archive.
func ExportSavepoint(ctx context.Context, broker Broker, job tenants.JobID, name string, w io.Writer, progress Progress) (*barriers.Manifest, error) {
	m, err := barriers.ReadSavepoint(askOf(ctx, broker, job), string(job.Tenant), job.Name, name)
	if err == nil {
		err = exportArchive(ctx, broker, m, w, archiveStamp{Version, time.Now().Unix()}, progress)
	}
	if err != nil {
		return nil, fmt.Errorf("exporting savepoint %s of job %s: %w", name, job, err)
	}
	return m, nil
}

// archiveStamp says who exported, and when in unix seconds.
type archiveStamp struct {
	weir string
	at   int64
}

func exportArchive(ctx context.Context, store SnapshotStore, m *barriers.Manifest, w io.Writer, by archiveStamp, progress Progress) error {
	if progress == nil {
		progress = func(int64, int64) {}
	}
	recorded, _, err := m.Encode()
	if err != nil {
		return err
	}
	objects, total, err := archiveContents(m)
	if err != nil {
		return err
	}
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(archiveIndex{Format: archiveFormat, Version: archiveVersion, Weir: by.weir, Exported: by.at, Bytes: total, Manifest: recorded}); err != nil {
		return fmt.Errorf("writing the index: %w", err)
	}
	index := buf.Bytes()
	if err := writeEntry(w, archiveIndexName, by.at, index); err != nil {
		return err
	}
	if err := writeEntry(w, archiveSumsName, by.at, archiveSums(index, objects)); err != nil {
		return err
	}
	done := int64(0)
	for i, ref := range objects {
		data, err := store.Get(ctx, tenants.ID(m.Tenant), ref)
		if err != nil {
			return fmt.Errorf("reading object %s: %w", ref.Name, err)
		}
		if err := writeEntry(w, objectEntry(i), by.at, data); err != nil {
			return err
		}
		done += ref.Bytes
		progress(done, total)
	}
	_, err = w.Write(make([]byte, 2*tarBlock))
	return err
}

// archiveContents lists a savepoint's objects in the order in which an archive has them, and their bytes.
func archiveContents(m *barriers.Manifest) (objects []barriers.Object, total int64, err error) {
	names := map[string]bool{}
	for _, op := range m.Operators {
		for _, ref := range op.Chain {
			if _, err := sumOf(ref); err != nil {
				return nil, 0, err
			}
			switch {
			case names[ref.Name]:
				return nil, 0, fmt.Errorf("object %.80q comes twice", ref.Name)
			case !ref.Base:
				return nil, 0, fmt.Errorf("object %.80q is a delta, which no savepoint has", ref.Name)
			case ref.Bytes < 1 || ref.Bytes > maxArchiveObject:
				return nil, 0, fmt.Errorf("object %.80q has %d bytes, at most %d are possible", ref.Name, ref.Bytes, maxArchiveObject)
			}
			names[ref.Name] = true
			objects, total = append(objects, ref), total+ref.Bytes
		}
	}
	return objects, total, nil
}

// sumOf returns the digest of an object in bytes.
func sumOf(ref barriers.Object) ([]byte, error) {
	text, ok := strings.CutPrefix(ref.Digest, "SHA-256=")
	sum, err := base64.URLEncoding.DecodeString(text)
	if !ok || err != nil || len(sum) != sha256.Size {
		return nil, fmt.Errorf("object %.80q has the digest %.60q, which is none", ref.Name, ref.Digest)
	}
	return sum, nil
}

// archiveSums is what sha256sum -c reads. It covers everything else in the archive.
func archiveSums(index []byte, objects []barriers.Object) []byte {
	out := fmt.Appendf(nil, "%x  %s\n", sha256.Sum256(index), archiveIndexName)
	for i, ref := range objects {
		sum, _ := sumOf(ref) // archiveContents has checked it
		out = fmt.Appendf(out, "%x  %s\n", sum, objectEntry(i))
	}
	return out
}

func objectEntry(i int) string { return fmt.Sprintf("%s%07d", archiveObjects, i+1) }

const tarBlock = 512

func writeEntry(w io.Writer, name string, mtime int64, data []byte) error {
	head := tarHeader(name, int64(len(data)), mtime)
	pad := make([]byte, padding(int64(len(data))))
	for _, b := range [][]byte{head[:], data, pad} {
		if _, err := w.Write(b); err != nil {
			return fmt.Errorf("writing %s: %w", name, err)
		}
	}
	return nil
}

func padding(size int64) int64 { return -size & (tarBlock - 1) }

// tarHeader is the one header that an entry of an archive has: POSIX ustar, a regular file. It is made by hand, so that reading is
// comparing and nothing else that tar can say is ever interpreted.
func tarHeader(name string, size, mtime int64) (h [tarBlock]byte) {
	copy(h[:100], name)
	copy(h[100:], "0000644\x000000000\x000000000\x00")
	copy(h[124:], fmt.Sprintf("%011o\x00%011o\x00", size, mtime))
	copy(h[148:], "        ") // the checksum is made with blanks in its place
	h[156] = '0'
	copy(h[257:], "ustar\x0000")
	copy(h[329:], "0000000\x000000000\x00")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return h
}

var errNotOctal = errors.New("not an octal number")

func tarNumber(b []byte) (int64, error) {
	n := int64(0)
	for _, c := range b {
		if c < '0' || c > '7' {
			return 0, errNotOctal
		}
		n = n<<3 | int64(c-'0')
	}
	return n, nil
}
