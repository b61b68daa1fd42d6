package state

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func messages(o *Output) []OutputMessage {
	var out []OutputMessage
	if o == nil {
		return nil
	}
	for m := range o.From(0) {
		m.Subject, m.Data = string([]byte(m.Subject)), bytes.Clone(m.Data)
		out = append(out, m)
	}
	return out
}

// TestOutputModel: an output under appends, seals, aborts (prepend) and encoding is a slice of messages.
func TestOutputModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		upsert := rapid.Bool().Draw(t, "upsert")
		fresh := NewOutput
		if upsert {
			fresh = func() *Output { return NewUpsertOutput(rapid.IntRange(0, 20).Draw(t, "expect")) }
		}
		o, older := fresh(), (*Output)(nil)
		var now, frozen []OutputMessage
		keep := func(list []OutputMessage, m OutputMessage) []OutputMessage {
			if upsert {
				list = slices.DeleteFunc(slices.Clone(list), func(x OutputMessage) bool { return x.Subject == m.Subject })
			}
			return append(list, m)
		}
		check := func(o *Output, want []OutputMessage) {
			n := rapid.IntRange(0, len(want)+1).Draw(t, "from")
			var got []OutputMessage
			for m := range o.From(n) {
				got = append(got, m)
			}
			if o.Len() != len(want) || !same(got, want[min(n, len(want)):]) {
				t.Fatalf("from %d: %v of %d, want %v", n, got, o.Len(), want)
			}
			for range 3 {
				n := rapid.IntRange(0, len(want)).Draw(t, "piece from")
				upTo := rapid.IntRange(n, len(want)).Draw(t, "piece up to")
				got := got[:0]
				for m := range o.From(n) {
					if n+len(got) == upTo {
						break
					}
					got = append(got, m)
				}
				if !same(got, want[n:upTo]) {
					t.Fatalf("piece [%d, %d): %v, want %v", n, upTo, got, want[n:upTo])
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				for range rapid.IntRange(1, 20).Draw(t, "n") {
					m := OutputMessage{Subject: fmt.Sprint("s", rapid.IntRange(0, 9).Draw(t, "subject")),
						Data: bytes.Repeat([]byte{byte(len(now))}, rapid.SampledFrom([]int{1, 50, 700, 9000}).Draw(t, "size"))}
					if rapid.IntRange(0, 5).Draw(t, "header") == 0 {
						m.Header = map[string][]string{"K": {"v", m.Subject}, "Empty": {}}
					}
					if err := o.Append(m.Subject, m.Header, m.Data); err != nil {
						t.Fatal(err)
					}
					now = keep(now, m)
				}
			},
			"seal": func(t *rapid.T) {
				if older == nil {
					o.Seal()
					older, frozen = o, now
					o, now = o.Fresh(), nil
				}
			},
			"abort": func(t *rapid.T) {
				if older == nil {
					return
				}
				o.Prepend(older)
				check(older, frozen)
				list := frozen
				for _, m := range now {
					list = keep(list, m)
				}
				older, frozen, now = nil, nil, list
			},
			"commit": func(t *rapid.T) {
				if older == nil {
					return
				}
				check(older, frozen)
				at := 0
				for _, e := range encodeOutput(t, older, rapid.SampledFrom([]int{0, 1, 4000}).Draw(t, "maxObject")) {
					p, err := DecodeOutput(outputMeta, e.Data)
					if err != nil || p.Len() != int(e.Messages) {
						t.Fatal(p, err)
					}
					check(p, frozen[at:at+p.Len()])
					at += p.Len()
				}
				if at < len(frozen) {
					t.Fatalf("the objects have %d messages of %d", at, len(frozen))
				}
				older, frozen = nil, nil
			},
			"": func(t *rapid.T) {
				if o.Len() != len(now) {
					t.Fatalf("%d messages, want %d", o.Len(), len(now))
				}
			},
		})
	})
}

func same(a, b []OutputMessage) bool {
	return slices.EqualFunc(a, b, func(x, y OutputMessage) bool {
		return x.Subject == y.Subject && bytes.Equal(x.Data, y.Data) && fmt.Sprint(x.Header) == fmt.Sprint(y.Header)
	})
}

// An upsert output that is written to all the time does not keep what was replaced.
func TestUpsertIsBounded(t *testing.T) {
	o := NewUpsertOutput(0)
	data := make([]byte, 1000)
	for i := range 100_000 {
		data[0] = byte(i)
		if err := o.Append(fmt.Sprint("k", i%7), nil, data); err != nil {
			t.Fatal(err)
		}
	}
	if o.Len() != 7 || o.Bytes() > 2*upsertSlack {
		t.Fatalf("%d messages, %d bytes", o.Len(), o.Bytes())
	}
	o.Seal()
	for i, m := range messages(o) {
		if n := 100_000 - 7 + i; m.Subject != fmt.Sprint("k", n%7) || m.Data[0] != byte(n) {
			t.Fatalf("message %d: %s %d", i, m.Subject, m.Data[0])
		}
	}
}

func TestOutputMisuse(t *testing.T) {
	o := goldenOutput(t)
	for name, f := range map[string]func(){
		"append to sealed":  func() { _ = o.Append("x", nil, nil) },
		"prepend to sealed": func() { o.Prepend(goldenOutput(t)) },
		"prepend unsealed":  func() { NewOutput().Prepend(NewOutput()) },
		"prepend mixed":     func() { NewUpsertOutput(0).Prepend(o) },
		"reading unsealed":  func() { NewOutput().From(0) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s was allowed", name)
				}
			}()
			f()
		}()
	}
	if _, err := NewOutput().Encode(outputMeta, 0); err == nil {
		t.Error("an open output was encoded")
	}
	if err := NewOutput().Append("x", nil, make([]byte, MaxEntryBytes)); err == nil {
		t.Error("a message that no object can hold was accepted")
	}
	if err := o.Each(func(string, map[string][]string, []byte) error { return errors.ErrUnsupported }); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
	empty := NewOutput()
	empty.Seal()
	if objects := encodeOutput(t, empty, 0); len(objects) != 0 {
		t.Errorf("nothing is encoded as %d objects", len(objects))
	}
}

// An output and one that took over its messages share memory: appending to the one does not show in the other.
func TestPrependToEmpty(t *testing.T) {
	older := goldenOutput(t)
	want := messages(older)
	a, b := NewOutput(), NewOutput()
	a.Prepend(older)
	b.Prepend(older)
	if err := errors.Join(a.Append("a", nil, []byte("a")), b.Append("b", nil, []byte("b"))); err != nil {
		t.Fatal(err)
	}
	a.Seal()
	b.Seal()
	if !reflect.DeepEqual(messages(older), want) || messages(a)[3].Subject != "a" || messages(b)[3].Subject != "b" {
		t.Fatal("the outputs write into each other")
	}
}

func FuzzOutput(f *testing.F) {
	o := NewOutput()
	_ = o.Append("a", map[string][]string{"k": {"v"}}, []byte("x"))
	f.Add(o.chunks[0].data, uint16(1))
	f.Fuzz(func(t *testing.T, raw []byte, entries uint16) {
		body := append([]byte("\x04acme\x03job\x06counts\x03"), 7)
		w := newContainerWriter(magicOutput, formatFirst, kindOutput, body, 0)
		w.add(raw, int(entries), 0, 0)
		w.finish()
		o, err := DecodeOutput(outputMeta, w.out[0].Data)
		if err != nil {
			return
		}
		if n := len(messages(o)); n != int(entries) || n != o.Len() {
			t.Fatalf("%d messages, the index says %d", n, entries)
		}
		if _, err := DecodeOutput(outputMeta, raw); err == nil {
			t.Fatal("a bare block was taken for an object")
		}
	})
}
