package codec

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/vmihailenco/msgpack/v5"
	"pgregory.net/rapid"
)

type order struct {
	ID     string            `json:"id" msgpack:"id"`
	Cents  int64             `json:"cents" msgpack:"cents"`
	Tags   []string          `json:"tags,omitempty" msgpack:"tags,omitempty"`
	Extra  map[string]string `json:"extra,omitempty" msgpack:"extra,omitempty"`
	Next   *order            `json:"next,omitempty" msgpack:"next,omitempty"`
	Weight float64           `json:"weight" msgpack:"weight"`
}

func roundTrip[T any](t *testing.T, name string, c Codec[T], values ...T) {
	t.Helper()
	if c.Name() != name {
		t.Errorf("codec of %T is named %q, want %q", values, c.Name(), name)
	}
	for _, v := range values {
		b, err := c.Append([]byte("before"), v)
		if err != nil || !bytes.HasPrefix(b, []byte("before")) {
			t.Fatalf("%s: appending %v: %q %v", name, v, b, err)
		}
		own := bytes.Clone(b[6:])
		got, err := c.Decode(own)
		clear(own) // the value must not be in these bytes
		if err != nil || !reflect.DeepEqual(got, v) {
			t.Errorf("%s: %v came back as %v (%v)", name, v, got, err)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	orders := []order{{}, {ID: "<a&b>", Cents: -5, Tags: []string{"x", ""}, Extra: map[string]string{"k": "v", "a": "b"}, Weight: 0.1}, {Next: &order{ID: "n"}}}
	roundTrip(t, "bytes", Bytes(), []byte{}, []byte("x\x00"))
	roundTrip(t, "string", Default[string](), "", "\xff")
	roundTrip(t, "int64", Default[int64](), 0, -1, 1, math.MaxInt64, math.MinInt64)
	roundTrip(t, "int64", Default[int8](), math.MaxInt8, math.MinInt8)
	roundTrip(t, "int64", Default[int](), 5, math.MinInt)
	roundTrip(t, "int64", Default[int16](), 5)
	roundTrip(t, "int64", Default[int32](), -5)
	roundTrip(t, "uint64", Default[uint64](), 0, 127, 128, math.MaxUint64)
	roundTrip(t, "uint64", Default[uint8](), 255)
	roundTrip(t, "uint64", Default[uint16](), 256)
	roundTrip(t, "uint64", Default[uint32](), math.MaxUint32)
	roundTrip(t, "uint64", Default[uint](), 1)
	roundTrip(t, "float64", Default[float64](), 0, -0.5, math.Inf(1))
	roundTrip(t, "float64", Default[float32](), math.MaxFloat32)
	roundTrip(t, "bool", Default[bool](), true, false)
	roundTrip(t, "bytes", Default[[]byte](), []byte("x"))
	roundTrip(t, "json", JSON[order](), orders...)
	roundTrip(t, "json", JSON[*order](), &orders[1], nil)
	roundTrip(t, "msgpack", Default[order](), orders...)
	roundTrip(t, "msgpack", Msgpack[*order](), &orders[1], nil)
	roundTrip(t, "msgpack", Msgpack[map[int]string](), map[int]string{1: "x", -70000: "y"})
	roundTrip(t, "msgpack", Msgpack[time.Duration](), time.Hour, 1)
}

// One decoded value must show nothing of the one before.
func TestDecodersForget(t *testing.T) {
	for _, c := range []Codec[order]{JSON[order](), Msgpack[order]()} {
		full, _ := c.Append(nil, order{ID: "x", Tags: []string{"secret"}, Extra: map[string]string{"k": "v"}})
		first, err := c.Decode(full)
		if err != nil {
			t.Fatal(err)
		}
		short, _ := c.Append(nil, order{ID: "y"})
		second, err := c.Decode(short)
		if err != nil || !reflect.DeepEqual(second, order{ID: "y"}) || first.Tags[0] != "secret" {
			t.Errorf("%s: %+v %v", c.Name(), second, err)
		}
		if _, err := c.Decode(full[:len(full)-3]); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", c.Name(), err)
		}
		if again, err := c.Decode(short); err != nil || !reflect.DeepEqual(again, order{ID: "y"}) {
			t.Errorf("%s: after an error %+v %v", c.Name(), again, err)
		}
	}
}

func TestEncodingErrors(t *testing.T) {
	for _, c := range []Codec[func()]{JSON[func()](), Msgpack[func()]()} {
		if _, err := c.Append(nil, func() {}); err == nil {
			t.Errorf("%s encoded a function", c.Name())
		}
	}
	if b, err := JSON[string]().Append(nil, "<&>"); err != nil || string(b) != `"<&>"` {
		t.Errorf("%s %v", b, err)
	}
}

func TestMalformed(t *testing.T) {
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, b := range []string{"", "\x80", "\x80\x00", "\x01\x01", strings.Repeat("\xff", 11)} {
		_, err := Int64().Decode([]byte(b))
		refused(fmt.Sprintf("int64 %q", b), err)
		_, err = Uint64().Decode([]byte(b))
		refused(fmt.Sprintf("uint64 %q", b), err)
	}
	_, err := Default[int8]().Decode([]byte{0x80, 0x02})
	refused("an int8 of 128", err)
	_, err = Default[uint8]().Decode([]byte{0x80, 0x02})
	refused("a uint8 of 256", err)
	_, err = Float64().Decode(make([]byte, 7))
	refused("a float of 7 bytes", err)
	_, err = Bool().Decode([]byte{2})
	refused("a bool of 2", err)
	for _, s := range []string{`{} {}`, `{`, ``, strings.Repeat("[", 100) + strings.Repeat("]", 100), `{"a":` + strings.Repeat(`{"a":`, 70)} {
		_, err := JSON[any]().Decode([]byte(s))
		refused("JSON "+s, err)
	}
	if _, err := JSON[any]().Decode([]byte(strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth))); err != nil {
		t.Errorf("JSON at the depth limit: %v", err)
	}
	if _, err := JSON[any]().Decode([]byte(`["` + strings.Repeat(`[{\"`, 100) + `"]`)); err != nil {
		t.Errorf("brackets in a string: %v", err)
	}
	if _, err := JSON[any]().Decode([]byte("[" + strings.Repeat("{},", 100) + "{}]")); err != nil {
		t.Errorf("many siblings: %v", err)
	}
}

func TestCheckMsgpack(t *testing.T) {
	for name, b := range map[string]string{
		"empty": "", "array of 4 Gi": "\xdd\xff\xff\xff\xff", "map of 4 Gi": "\xdf\xff\xff\xff\xff", "string of 4 GiB": "\xdb\xff\xff\xff\xff",
		"bytes of 4 GiB": "\xc6\xff\xff\xff\xff", "ext of 4 GiB": "\xc9\xff\xff\xff\xff\x01", "unused": "\xc1", "trailing": "\x01\x01",
		"array as key": "\x81\x91\x01\x01", "map as key": "\x81\x80\x01", "bytes as key": "\x81\xc4\x01x\x01", "cut": "\x92\x01",
		"cut length": "\xda\x01", "short string": "\xa3ab", "map without its value": "\x81\x01", "second key": "\x82\x01\x01\x90\x01",
		"deep": strings.Repeat("\x91", MaxDepth+1) + "\x01", "very deep": strings.Repeat("\x91", 10<<20),
	} {
		if err := CheckMsgpack([]byte(b)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, b := range []string{"\x80", "\x90", strings.Repeat("\x91", MaxDepth) + "\x01", "\x81\x01\x91\x02", "\xd6\xff1234", "\xc0"} {
		if err := CheckMsgpack([]byte(b)); err != nil {
			t.Errorf("%q: %v", b, err)
		}
	}
	value := map[string]any{"a": []any{int8(-1), uint16(300), int32(-70000), uint64(1 << 60), 1.5, float32(2), nil, true, "text"},
		"long": strings.Repeat("x", 300), "bytes": make([]byte, 70000), "time": time.Unix(1, 2), "list": make([]int, 20), "map": map[string]int{"a": 1}}
	b, err := msgpack.Marshal(value)
	if err != nil || CheckMsgpack(b) != nil {
		t.Fatal(err, CheckMsgpack(b))
	}
	for i := range 200 {
		if CheckMsgpack(b[:i]) == nil {
			t.Fatalf("cut off at %d, but accepted", i)
		}
	}
	if n := testing.AllocsPerRun(10, func() { _ = CheckMsgpack(b) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// What msgpack encodes passes the check.
func TestCheckMsgpackAcceptsItsOwn(t *testing.T) {
	c := Msgpack[order]()
	rapid.Check(t, func(t *rapid.T) {
		o := order{ID: rapid.String().Draw(t, "id"), Cents: rapid.Int64().Draw(t, "cents"), Weight: rapid.Float64().Draw(t, "weight"),
			Tags: rapid.SliceOf(rapid.String()).Draw(t, "tags"), Extra: rapid.MapOf(rapid.String(), rapid.String()).Draw(t, "extra")}
		b, err := c.Append(nil, o)
		if err != nil {
			t.Fatal(err)
		}
		again, _ := c.Append(nil, o)
		if _, err := c.Decode(b); err != nil || !bytes.Equal(b, again) {
			t.Fatalf("%+v: %v", o, err)
		}
	})
}

func FuzzMsgpack(f *testing.F) {
	b, _ := Msgpack[order]().Append(nil, order{ID: "x", Tags: []string{"a"}, Extra: map[string]string{"k": "v"}, Next: &order{}})
	f.Add(b)
	f.Add([]byte("\x81\x91\x01\x01"))
	anything, typed, keyed := Msgpack[any](), Msgpack[order](), Msgpack[map[any]any]()
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = anything.Decode(b) // it must not panic, overflow the stack or allocate without bound
		_, _ = typed.Decode(b)
		_, _ = keyed.Decode(b)
	})
}

func FuzzJSON(f *testing.F) {
	f.Add([]byte(`{"id":"x","tags":["a"],"next":{"cents":5}}`))
	f.Add([]byte(strings.Repeat(`["\"`, 50)))
	c := JSON[order]()
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := c.Decode(b)
		if err != nil {
			return
		}
		again, err := c.Append(nil, v)
		if err != nil {
			t.Fatalf("%q was decoded as %+v, which is not encoded: %v", b, v, err)
		}
		if _, err := c.Decode(again); err != nil {
			t.Fatalf("%q was encoded again as %q: %v", b, again, err)
		}
	})
}

func BenchmarkCheckMsgpack(b *testing.B) {
	data, err := Msgpack[order]().Append(nil, order{ID: "customer-1234", Cents: 1234567, Tags: []string{"a", "b"}, Weight: 1.5})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if err := CheckMsgpack(data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, c := range []Codec[order]{JSON[order](), Msgpack[order]()} {
		data, err := c.Append(nil, order{ID: "customer-1234", Cents: 1234567, Weight: 1.5})
		if err != nil {
			b.Fatal(err)
		}
		b.Run(c.Name(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Decode(data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
