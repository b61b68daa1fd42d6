package processor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/tenants"
)

// Archive is a file that was checked from its first byte to its last: structure, limits, digests, and that every object is a whole
// snapshot of what the manifest says.
type Archive struct {
	Manifest barriers.Manifest // of the savepoint, as it was exported
	Exported time.Time
	Weir     string // version of the library that exported it
	Bytes    int64  // of all objects
	Objects  int

	refs   []barriers.Object
	at     []int64 // where each object's bytes begin
	digest string  // of the index, which covers everything
	file   io.ReadSeeker
}

// OpenArchive checks a whole file. An *ArchiveError says what is wrong with it. The file must stay open and unchanged for as long as
// the Archive is used.
func OpenArchive(file io.ReadSeeker, progress Progress) (*Archive, error) {
	if progress == nil {
		progress = func(int64, int64) {}
	}
	a := &Archive{file: file}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("reading an archive: %w", err)
	}
	if err := a.read(&archiveReader{r: file}, progress); err != nil {
		return nil, fmt.Errorf("reading an archive: %w", err)
	}
	return a, nil
}

func (a *Archive) read(r *archiveReader, progress Progress) error {
	index, err := r.entry(archiveIndexName, -1, maxArchiveIndex)
	if err != nil {
		return err
	}
	if err := a.readIndex(index, r.mtime); err != nil {
		return err
	}
	want := archiveSums(index, a.refs)
	sums, err := r.entry(archiveSumsName, int64(len(want)), len(want))
	if err != nil {
		return err
	}
	if !bytes.Equal(sums, want) {
		return &ArchiveError{Detail: archiveSumsName + " and " + archiveIndexName + " disagree: one of them was changed"}
	}
	done, i := int64(0), 0
	for _, op := range a.Manifest.Operators {
		for _, ref := range op.Chain {
			a.at = append(a.at, r.offset+tarBlock)
			data, err := r.entry(objectEntry(i), ref.Bytes, maxArchiveObject)
			if err != nil {
				return err
			}
			if err := a.checkObject(op, ref, data); err != nil {
				return &ArchiveError{Detail: "object " + objectEntry(i), Err: err}
			}
			done += ref.Bytes
			i++
			progress(done, a.Bytes)
		}
	}
	return r.end()
}

func (a *Archive) readIndex(index []byte, mtime int64) error {
	var head struct {
		Format  string `json:"format"`
		Version int    `json:"version"`
	}
	if err := json.Unmarshal(index, &head); err != nil || head.Format != archiveFormat {
		return &ArchiveError{Detail: "its index is not one", Err: err}
	}
	if head.Version != archiveVersion {
		return &ArchiveError{Detail: fmt.Sprintf("it is of version %d, this program reads up to %d: use a newer one", head.Version, archiveVersion)}
	}
	var in archiveIndex
	d := json.NewDecoder(bytes.NewReader(index))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return &ArchiveError{Detail: "its index", Err: err}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return &ArchiveError{Detail: "something follows its index"}
	}
	m, err := barriers.DecodeManifest(in.Manifest)
	if err != nil {
		return &ArchiveError{Detail: "the savepoint's manifest", Err: err}
	}
	if err := checkArchived(m); err != nil {
		return &ArchiveError{Detail: "the savepoint's manifest", Err: err}
	}
	total := int64(0)
	if a.refs, total, err = archiveContents(m); err != nil {
		return &ArchiveError{Detail: "the savepoint's manifest", Err: err}
	}
	if total != in.Bytes || in.Exported != mtime || len(in.Weir) > maxArchiveText {
		return &ArchiveError{Detail: "its index contradicts itself"}
	}
	a.Manifest, a.Weir, a.Bytes, a.Objects = *m, in.Weir, total, len(a.refs)
	a.Exported, a.digest = time.Unix(in.Exported, 0).UTC(), barriers.Digest(index)
	return nil
}

// checkArchived checks what code relies on beyond what every manifest must be.
func checkArchived(m *barriers.Manifest) error {
	if m.Kind != barriers.KindSavepoint || m.Savepoint == "" {
		return fmt.Errorf("it is a %s, not a savepoint", m.Kind)
	}
	if err := (tenants.JobID{Tenant: tenants.ID(m.Tenant), Name: m.Job}).Validate(); err != nil {
		return err
	}
	if m.KeyGroups < 1 || m.KeyGroups > state.MaxKeyGroups {
		return fmt.Errorf("%d key groups", m.KeyGroups)
	}
	for _, op := range m.Operators {
		if err := tenants.ValidateName("operator", op.Name); err != nil {
			return err
		}
	}
	return nil
}

// checkObject compares an object's bytes with the manifest, and reads all of them.
func (a *Archive) checkObject(op barriers.Operator, ref barriers.Object, data []byte) error {
	if barriers.Digest(data) != ref.Digest {
		return errors.New("its bytes are not those that were exported: the digest differs")
	}
	m := &a.Manifest
	last := ref.FirstGroup
	h, err := state.Scan(data, func(_ *state.Header, e *state.Entry) error {
		if e.Group < last || e.Group > ref.LastGroup {
			return fmt.Errorf("it has an entry of key group %d, the manifest says %d to %d", e.Group, ref.FirstGroup, ref.LastGroup)
		}
		last = e.Group
		return nil
	})
	if err != nil {
		return err
	}
	if h.Tenant != m.Tenant || h.Job != m.Job || h.Operator != op.Name || h.KeyGroups != m.KeyGroups || !h.Base {
		return fmt.Errorf("it belongs to operator %s of job %s/%s, the manifest says operator %s of job %s/%s", h.Operator, h.Tenant, h.Job, op.Name, m.Tenant, m.Job)
	}
	return nil
}

// object reads the i-th object again.
func (a *Archive) object(i int) ([]byte, error) {
	if _, err := a.file.Seek(a.at[i], io.SeekStart); err != nil {
		return nil, fmt.Errorf("reading %s of the archive: %w", objectEntry(i), err)
	}
	data := make([]byte, a.refs[i].Bytes) // they were there when the file was checked
	if _, err := io.ReadFull(a.file, data); err != nil {
		return nil, fmt.Errorf("reading %s of the archive: %w", objectEntry(i), err)
	}
	if barriers.Digest(data) != a.refs[i].Digest {
		return nil, &ArchiveError{Detail: objectEntry(i) + " has changed since the file was checked"}
	}
	return data, nil
}

// archiveReader reads entries that must be exactly what an exporter writes.
type archiveReader struct {
	r      io.Reader
	offset int64
	mtime  int64 // of all entries: the first one's
}

// entry reads the next entry. size is what it must have; negative: at most limit.
func (r *archiveReader) entry(name string, size int64, limit int) ([]byte, error) {
	var head [tarBlock]byte
	first := r.offset == 0
	if err := r.full(head[:], name); err != nil {
		return nil, err
	}
	says, err1 := tarNumber(head[124:135])
	mtime, err2 := tarNumber(head[136:147])
	if first {
		r.mtime = mtime
	}
	if err1 != nil || err2 != nil || says > int64(limit) || size >= 0 && says != size || head != tarHeader(name, says, r.mtime) {
		if first {
			return nil, &ArchiveError{Detail: fmt.Sprintf("it does not begin with a tar entry %q as an export writes it", name)}
		}
		return nil, &ArchiveError{Detail: fmt.Sprintf("where the entry %q of %d bytes should be is something else", name, size)}
	}
	// The buffer grows with what is there, not with what the header promises.
	var buf bytes.Buffer
	n, err := io.CopyN(&buf, r.r, says)
	r.offset += n
	if err != nil {
		return nil, r.cut(err, name)
	}
	pad := make([]byte, padding(says))
	if err := r.full(pad, name); err != nil {
		return nil, err
	}
	if !allZero(pad) {
		return nil, &ArchiveError{Detail: fmt.Sprintf("there is something behind entry %q", name)}
	}
	return buf.Bytes(), nil
}

func (r *archiveReader) full(b []byte, name string) error {
	n, err := io.ReadFull(r.r, b)
	r.offset += int64(n)
	if err != nil {
		return r.cut(err, name)
	}
	return nil
}

func (r *archiveReader) cut(err error, name string) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &ArchiveError{Detail: fmt.Sprintf("it is cut off at byte %d, in or before entry %q", r.offset, name)}
	}
	return err
}

// end checks that the archive ends as a tar does and that nothing follows.
func (r *archiveReader) end() error {
	end := make([]byte, 2*tarBlock)
	if err := r.full(end, "the end"); err != nil {
		return err
	}
	if n, err := io.ReadFull(r.r, make([]byte, 1)); n > 0 || !allZero(end) {
		return &ArchiveError{Detail: "something follows the last entry"}
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
