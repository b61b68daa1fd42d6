package state

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/weirstream/weir/state/codec"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares what Weir wrote once with what it writes now. The compressed bytes may differ between versions of the
// compressor, what they hold may not.
func golden(t *testing.T, what, magic, name string, now []byte) []byte {
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, now, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	a, b := plain(t, what, magic, old), plain(t, what, magic, now)
	if !bytes.Equal(a, b) {
		t.Errorf("%s: the format changed:\n%q\nnow\n%q", name, a, b)
	}
	return old
}

// plain is everything an object holds, uncompressed.
func plain(t *testing.T, what, magic string, object []byte) []byte {
	c, err := openContainer(what, magic, object)
	if err != nil {
		t.Fatal(err)
	}
	out := append([]byte{c.kind}, c.body...)
	for i := range c.blocks {
		raw, err := c.block(i, nil)
		if err != nil {
			t.Fatal(err)
		}
		b := c.blocks[i]
		out = append(fmt.Appendf(out, "|%d %d-%d|", b.entries, b.first, b.last), raw...)
	}
	return append(append(out, '|'), c.trailer...)
}

func goldenBackend(t *testing.T) *Backend {
	b := newTestBackend(t, allStates...)
	for _, k := range []string{"a", "b", "", "ключ"} {
		b.SetKey(k)
		if err := errors.Join(countState.Set(b, int64(len(k))-2), nameState.Set(b, strings.Repeat(k, 70)), tagState.Put(b, "t", 1<<40),
			tagState.Put(b, k, 2), lineState.Add(b, "x"), lineState.Add(b, ""), sumState.Add(b, 5), meanState.Add(b, 6),
			b.Timers().Set(ProcessingTime, -1, k), b.Timers().Set(EventTime, 1<<60, k)); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func goldenObjects(t *testing.T) (base, delta []byte) {
	b := goldenBackend(t)
	base = mustEncode(t, b.Freeze(1), 0)[0]
	b.Committed(1)
	b.SetKey("a")
	if err := errors.Join(countState.Clear(b), tagState.Remove(b, "t"), nameState.Set(b, "new")); err != nil {
		t.Fatal(err)
	}
	b.Timers().Delete(ProcessingTime, -1, "a")
	return base, mustEncode(t, b.Freeze(2), 0)[0]
}

func goldenOutput(t *testing.T) *Output {
	o := NewOutput()
	if err := errors.Join(o.Append("counts.a", nil, []byte("one")), o.Append("counts.b", map[string][]string{"B": {"x", ""}, "A": {"y"}}, nil),
		o.Append("counts.c", map[string][]string{}, bytes.Repeat([]byte("z"), 200))); err != nil {
		t.Fatal(err)
	}
	o.Seal()
	return o
}

var outputMeta = OutputMeta{Tenant: "acme", Job: "job", Sink: "counts", Subtask: 3, Checkpoint: 7}

func encodeOutput(t fataler, o *Output, maxObject int) []EncodedObject {
	objects, err := o.Encode(outputMeta, maxObject)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

// Objects that were written by version 1 stay readable, and version 1 is still what is written.
func TestGolden(t *testing.T) {
	base, delta := goldenObjects(t)
	chain := [][]byte{golden(t, whatSnapshot, magicSnapshot, "base-v1.bin", base), golden(t, whatSnapshot, magicSnapshot, "delta-v1.bin", delta)}
	b := newTestBackend(t, allStates...)
	if err := b.Restore(chain); err != nil {
		t.Fatal(err)
	}
	m := dump(t, []*Backend{b}, []string{"a", "b", "", "ключ"})
	if len(m.Count) != 3 || m.Count["ключ"] != 6 || m.Name["a"] != "new" || !reflect.DeepEqual(m.Tags["a"], map[string]int64{"a": 2}) ||
		!reflect.DeepEqual(m.Lines["b"], []string{"x", ""}) || m.Sum[""] != 5 || m.Mean["b"] != (meanAcc{6, 1}) || len(m.Timer) != 7 {
		t.Fatalf("the golden files restore %+v", m)
	}
	h, err := ReadHeader(chain[1])
	if err != nil || h.Tenant != "acme" || h.Checkpoint != 2 || h.Base || !reflect.DeepEqual(h.States, b.Infos()) || h.Counts[0] != 1 {
		t.Fatalf("%+v %v", h, err)
	}
	o, err := DecodeOutput(outputMeta, golden(t, whatOutput, magicOutput, "output-v1.bin", encodeOutput(t, goldenOutput(t), 0)[0].Data))
	if err != nil || !reflect.DeepEqual(messages(o), messages(goldenOutput(t))) {
		t.Fatalf("%v: %v", err, messages(o))
	}
}

// Every changed byte and every truncation is a *FormatError, also for the parts that are not read.
func TestDamage(t *testing.T) {
	base, delta := goldenObjects(t)
	read := map[string]func([]byte) error{
		"restore": func(o []byte) error { return newTestBackend(t, allStates...).Restore([][]byte{o}) },
		"merge":   func(o []byte) error { _, err := Merge([][]byte{base, o}, 0); return err },
		"scan":    func(o []byte) error { _, err := Scan(o, func(*Header, *Entry) error { return nil }); return err },
	}
	for name, f := range read {
		damage(t, name, base, f)
		damage(t, name, delta, f)
	}
	damage(t, "output", encodeOutput(t, goldenOutput(t), 0)[0].Data, func(o []byte) error {
		_, err := DecodeOutput(outputMeta, o)
		return err
	})
}

func damage(t *testing.T, name string, object []byte, read func([]byte) error) {
	var format *FormatError
	if err := read(object); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	for i := range object {
		changed := bytes.Clone(object)
		for _, x := range []byte{1, 0x80, 0xff} {
			changed[i] = object[i] ^ x
			if err := read(changed); !errors.As(err, &format) {
				t.Fatalf("%s: byte %d of %d changed by %#x: %v", name, i, len(object), x, err)
			}
		}
		if err := read(object[:i:i]); !errors.As(err, &format) {
			t.Fatalf("%s: cut off at %d of %d: %v", name, i, len(object), err)
		}
	}
	if err := read(append(bytes.Clone(object), 0)); !errors.As(err, &format) {
		t.Fatalf("%s: one byte longer: %v", name, err)
	}
}

func TestForeignObjects(t *testing.T) {
	base, _ := goldenObjects(t)
	var foreign *ForeignError
	for i, change := range []func(*BackendConfig){
		func(c *BackendConfig) { c.Tenant = "globex" },
		func(c *BackendConfig) { c.Job = "other" },
		func(c *BackendConfig) { c.Operator = "other" },
		func(c *BackendConfig) { c.Origin = Origin{"acme", "other"} },
	} {
		cfg := testConfig(0, 1)
		change(&cfg)
		b, err := NewBackend(cfg, allStates...)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Restore([][]byte{base}); !errors.As(err, &foreign) {
			t.Errorf("change %d: %v", i, err)
		}
	}
	cfg := testConfig(0, 1)
	cfg.Tenant, cfg.Job, cfg.Origin = "globex", "fork", Origin{"acme", "job"}
	b, err := NewBackend(cfg, allStates...)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Restore([][]byte{base}); err != nil {
		t.Errorf("a fork: %v", err)
	}
	forked := mustEncode(t, b.FreezeAll(1), 0)
	if _, err := Merge([][]byte{base, forked[0]}, 0); !errors.As(err, &foreign) {
		t.Errorf("merging two jobs: %v", err)
	}
	object := encodeOutput(t, goldenOutput(t), 0)[0].Data
	for _, meta := range []OutputMeta{{"globex", "job", "counts", 3, 7}, {"acme", "x", "counts", 3, 7}, {"acme", "job", "x", 3, 7},
		{"acme", "job", "counts", 2, 7}, {"acme", "job", "counts", 3, 8}} {
		if _, err := DecodeOutput(meta, object); !errors.As(err, &foreign) {
			t.Errorf("%v: %v", meta, err)
		}
	}
	var format *FormatError
	if _, err := DecodeOutput(outputMeta, base); !errors.As(err, &format) {
		t.Errorf("a snapshot as output: %v", err)
	}
	if _, err := ReadHeader(object); !errors.As(err, &format) {
		t.Errorf("output as a snapshot: %v", err)
	}
}

func TestCompatibility(t *testing.T) {
	base, _ := goldenObjects(t)
	// Count has another codec, name another version, tags is gone, lines another kind; extra is new.
	descs := []Descriptor{NewValue[int64]("count", Codec(codec.JSON[int64]())), NewValue[string]("name", SchemaVersion(2)),
		NewValue[string]("lines"), sumState, meanState, NewValue[int]("extra")}
	cfg := testConfig(0, 1)
	b, err := NewBackend(cfg, descs...)
	if err != nil {
		t.Fatal(err)
	}
	var incompatible *CompatibilityError
	if err := b.Restore([][]byte{base}); !errors.As(err, &incompatible) || len(incompatible.Problems) != 4 || incompatible.Operator != "op" {
		t.Fatal(err)
	}
	h, err := ReadHeader(base)
	if err != nil {
		t.Fatal(err)
	}
	problems := CheckCompatible(h.States, descs)
	if !reflect.DeepEqual(problems, incompatible.Problems) {
		t.Fatalf("before the start %v, at restore %v", problems, incompatible.Problems)
	}
	var states []string
	for _, p := range problems {
		states = append(states, p.State)
		if p.Undeclared != (p.State == "tags") || !strings.Contains(incompatible.Error(), p.Detail) {
			t.Errorf("%+v", p)
		}
	}
	if !reflect.DeepEqual(states, []string{"count", "name", "tags", "lines"}) {
		t.Errorf("problems with %v", states)
	}
	cfg.AllowDropped = true
	if b, err = NewBackend(cfg, countState, nameState); err != nil {
		t.Fatal(err)
	}
	if err := b.Restore([][]byte{base}); err != nil {
		t.Fatal(err)
	}
	b.SetKey("b")
	if v, _ := nameState.Get(b); len(v) != 70 {
		t.Fatalf("%q", v)
	}
	cfg.KeyGroups = 32
	if b, err = NewBackend(cfg, allStates...); err != nil {
		t.Fatal(err)
	}
	if err := b.Restore([][]byte{base}); !errors.As(err, &incompatible) {
		t.Fatalf("another number of key groups: %v", err)
	}
}

func FuzzSnapshot(f *testing.F) {
	b := newTestBackend(f, allStates...)
	setAll(f, b, 30, 0)
	for _, o := range mustEncode(f, b.Freeze(1), 0) {
		f.Add(o)
	}
	base, delta := ttlObjects(f)
	f.Add(base)
	f.Add(delta)
	f.Fuzz(func(t *testing.T, object []byte) {
		readAll(t, object)
	})
}

// FuzzBlock reaches what checksums keep other mutations from.
func FuzzBlock(f *testing.F) {
	f.Add([]byte("\x00\x00\x01\x00\x00\x00\x04\x00\x00\x00\x02a\x01\x02"), uint16(1), uint16(0), uint16(15))
	f.Add([]byte("\x01\x02\x01\x00\x00\x00\x06\x00\x00\x00\x02a\x01t\x01\x02"), uint16(1), uint16(0), uint16(15))
	f.Fuzz(func(t *testing.T, raw []byte, entries, first, last uint16) {
		h := Header{Tenant: "acme", Job: "job", Operator: "op", KeyGroups: 16, States: newTestBackend(t, allStates...).Infos()}
		w := newContainerWriter(magicSnapshot, h.format(), kindDelta, h.appendBody(nil), 0)
		w.trailer = func(dst []byte) []byte { return append(dst, make([]byte, len(h.States))...) }
		w.add(raw, int(entries), int(first), int(last))
		w.finish()
		readAll(t, w.out[0].Data)
	})
}

// readAll reads an object in every way. What restores must restore from its merge too.
func readAll(t *testing.T, object []byte) {
	if newTTLBackend(t, nil, 0, 1).Restore([][]byte{object}) == nil {
		if _, err := Rewrite([][]byte{object}, MergeSpec{Now: 1}); err != nil {
			t.Fatalf("it restores, but %v", err)
		}
	}
	restored := newTestBackend(t, allStates...).Restore([][]byte{object})
	if _, err := Scan(object, func(*Header, *Entry) error { return nil }); err != nil && restored == nil {
		t.Fatalf("it restores, but %v", err)
	}
	merged, err := Merge([][]byte{object, object}, 0)
	if restored == nil && err != nil {
		t.Fatalf("it restores, but %v", err)
	}
	if restored == nil {
		for _, o := range merged {
			if err := newTestBackend(t, allStates...).Restore([][]byte{o.Data}); err != nil {
				t.Fatalf("it restores, but merged: %v", err)
			}
		}
	}
}
