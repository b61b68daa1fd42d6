package processor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/tenants"
)

// archived serves an archive's objects as a store.
type archived struct{ a *Archive }

func (s archived) Get(_ context.Context, _ tenants.ID, ref barriers.Object) ([]byte, error) {
	for i := range s.a.refs {
		if s.a.refs[i].Name == ref.Name {
			return s.a.object(i)
		}
	}
	return nil, ErrObjectMissing
}

func (archived) Put(context.Context, tenants.ID, string, []byte) (barriers.Object, error) {
	return barriers.Object{}, errors.New("not here")
}

func openGolden(t *testing.T) (*Archive, []byte) {
	t.Helper()
	file, err := os.ReadFile("testdata/golden/savepoint-v1.tar")
	if err != nil {
		t.Fatal(err)
	}
	a, err := OpenArchive(bytes.NewReader(file), nil)
	if err != nil {
		t.Fatal(err)
	}
	return a, file
}

// Version 1 is still what is written, byte for byte.
func TestArchiveWriterIsStable(t *testing.T) {
	a, file := openGolden(t)
	var now bytes.Buffer
	if err := exportArchive(t.Context(), archived{a}, &a.Manifest, &now, archiveStamp{a.Weir, a.Exported.Unix()}, nil); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(now.Bytes(), file) {
		t.Fatalf("the format changed: %d bytes, the golden file has %d", now.Len(), len(file))
	}
}

// A file whose checksums are right and whose contents are not is refused.
func TestForgedArchives(t *testing.T) {
	a, _ := openGolden(t)
	var objects [][]byte
	for i := range a.refs {
		data, err := a.object(i)
		if err != nil {
			t.Fatal(err)
		}
		objects = append(objects, data)
	}
	for name, forge := range map[string]func(in *archiveIndex, m *barriers.Manifest, objects [][]byte){
		"nothing forged": func(*archiveIndex, *barriers.Manifest, [][]byte) {},
		"newer version":  func(in *archiveIndex, _ *barriers.Manifest, _ [][]byte) { in.Version = 2 },
		"other format":   func(in *archiveIndex, _ *barriers.Manifest, _ [][]byte) { in.Format = "zip" },
		"wrong bytes":    func(in *archiveIndex, _ *barriers.Manifest, _ [][]byte) { in.Bytes++ },
		"wrong time":     func(in *archiveIndex, _ *barriers.Manifest, _ [][]byte) { in.Exported++ },
		"long version":   func(in *archiveIndex, _ *barriers.Manifest, _ [][]byte) { in.Weir = strings.Repeat("x", 5000) },
		"a checkpoint": func(_ *archiveIndex, m *barriers.Manifest, _ [][]byte) {
			m.Kind, m.Savepoint = barriers.KindCheckpoint, ""
		},
		"bad tenant":       func(_ *archiveIndex, m *barriers.Manifest, _ [][]byte) { m.Tenant = "a.>" },
		"bad operator":     func(_ *archiveIndex, m *barriers.Manifest, _ [][]byte) { m.Operators[0].Name = "../x" },
		"another operator": func(_ *archiveIndex, m *barriers.Manifest, _ [][]byte) { m.Operators[0].Name = "other" },
		"another job":      func(_ *archiveIndex, m *barriers.Manifest, _ [][]byte) { m.Job = "other" },
		"other key groups": func(_ *archiveIndex, m *barriers.Manifest, _ [][]byte) { m.KeyGroups = 32 },
		"no key groups":    func(_ *archiveIndex, m *barriers.Manifest, _ [][]byte) { m.KeyGroups = 0 },
		"fewer groups":     func(_ *archiveIndex, m *barriers.Manifest, _ [][]byte) { m.Operators[0].Chain[0].LastGroup-- },
		"a delta":          func(_ *archiveIndex, m *barriers.Manifest, _ [][]byte) { m.Operators[0].Chain[0].Base = false },
		"a huge object":    func(_ *archiveIndex, m *barriers.Manifest, _ [][]byte) { m.Operators[0].Chain[0].Bytes = 1 << 40 },
		"negative size":    func(_ *archiveIndex, m *barriers.Manifest, _ [][]byte) { m.Operators[0].Chain[0].Bytes = -1 },
		"no digest":        func(_ *archiveIndex, m *barriers.Manifest, _ [][]byte) { m.Operators[0].Chain[0].Digest = "SHA-256=x" },
		"one object twice": func(_ *archiveIndex, m *barriers.Manifest, _ [][]byte) {
			m.Operators[1].Chain[0] = m.Operators[0].Chain[0]
		},
		"objects exchanged":  func(_ *archiveIndex, _ *barriers.Manifest, o [][]byte) { o[0], o[1] = o[1], o[0] },
		"object is no state": func(_ *archiveIndex, m *barriers.Manifest, o [][]byte) { o[0] = []byte("hello"); refer(m, o[0]) },
		"object is damaged":  func(_ *archiveIndex, m *barriers.Manifest, o [][]byte) { o[0][len(o[0])/2] ^= 1; refer(m, o[0]) },
	} {
		m := a.Manifest
		m.Operators = nil
		for _, op := range a.Manifest.Operators {
			op.Chain = append([]barriers.Object(nil), op.Chain...)
			m.Operators = append(m.Operators, op)
		}
		own := make([][]byte, len(objects))
		for i := range objects {
			own[i] = bytes.Clone(objects[i])
		}
		in := archiveIndex{Format: archiveFormat, Version: archiveVersion, Weir: "x", Exported: 1e9, Bytes: a.Bytes}
		forge(&in, &m, own)
		var err error
		if in.Manifest, err = json.Marshal(m); err != nil {
			t.Fatal(err)
		}
		_, err = OpenArchive(bytes.NewReader(forgeArchive(t, in, &m, own)), nil)
		if name == "nothing forged" {
			if err != nil {
				t.Fatal(err)
			}
			continue
		}
		if !errors.As(err, new(*ArchiveError)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// refer makes the manifest refer to a forged first object.
func refer(m *barriers.Manifest, data []byte) {
	ref := &m.Operators[0].Chain[0]
	ref.Digest, ref.Bytes = barriers.Digest(data), int64(len(data))
}

func forgeArchive(t *testing.T, in archiveIndex, m *barriers.Manifest, objects [][]byte) []byte {
	total := int64(0)
	var refs []barriers.Object
	for _, op := range m.Operators {
		for _, ref := range op.Chain {
			refs, total = append(refs, ref), total+ref.Bytes
		}
	}
	if in.Bytes == 0 || total != in.Bytes && total > 0 && in.Bytes < total {
		in.Bytes = total
	}
	index, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var w bytes.Buffer
	entries := map[string][]byte{archiveIndexName: index, archiveSumsName: archiveSums(index, refs)}
	for i, name := range []string{archiveIndexName, archiveSumsName, objectEntry(0), objectEntry(1)} {
		data := entries[name]
		if i > 1 {
			data = objects[i-2]
		}
		if err := writeEntry(&w, name, 1e9, data); err != nil {
			t.Fatal(err)
		}
	}
	w.Write(make([]byte, 2*tarBlock))
	return w.Bytes()
}

// What any other program may put into a tar is refused before it is looked at.
func TestHostileTar(t *testing.T) {
	_, file := openGolden(t)
	for name, change := range map[string]func(h []byte){
		"symbolic link": func(h []byte) { h[156] = '2'; copy(h[157:], "/etc/passwd") },
		"hard link":     func(h []byte) { h[156] = '1' },
		"directory":     func(h []byte) { h[156] = '5' },
		"pax header":    func(h []byte) { h[156] = 'x' },
		"long name":     func(h []byte) { h[156] = 'L' },
		"sparse":        func(h []byte) { h[156] = 'S' },
		"other name":    func(h []byte) { copy(h, "../../../tmp/x\x00") },
		"prefix":        func(h []byte) { copy(h[345:], "..") },
		"huge":          func(h []byte) { copy(h[124:], "77777777777") },
		"base 256 size": func(h []byte) { h[124] = 0x80 },
		"executable":    func(h []byte) { copy(h[100:], "0000755") },
	} {
		for at := 0; at < 3; at++ {
			b := bytes.Clone(file)
			h := headerOf(t, b, at)
			change(h)
			copy(h[148:], "        ")
			sum := 0
			for _, c := range h {
				sum += int(c)
			}
			copy(h[148:], octal(sum))
			if _, err := OpenArchive(bytes.NewReader(b), nil); !errors.As(err, new(*ArchiveError)) {
				t.Errorf("%s in entry %d: %v", name, at, err)
			}
		}
	}
}

func octal(n int) string {
	digits := []byte("000000\x00 ")
	for i := 5; i >= 0; i-- {
		digits[i] = byte('0' + n&7)
		n >>= 3
	}
	return string(digits)
}

// headerOf returns the n-th header block.
func headerOf(t *testing.T, file []byte, n int) []byte {
	at := int64(0)
	for ; n > 0; n-- {
		size, err := tarNumber(file[at+124 : at+135])
		if err != nil {
			t.Fatal(err)
		}
		at += tarBlock + size + padding(size)
	}
	return file[at : at+tarBlock]
}
