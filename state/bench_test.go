package state

import (
	"fmt"
	"testing"
	"time"
)

func keysOf(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("customer-%07d", i)
	}
	return keys
}

func fill(t fataler, keys []string) *Backend {
	cfg := testConfig(0, 1)
	cfg.KeyGroups = 128
	b, err := NewBackend(cfg, countState)
	if err != nil {
		t.Fatal(err)
	}
	for i, k := range keys {
		b.SetKey(k)
		if err := countState.Set(b, int64(i)); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func count(t fataler, c Context, b *Backend, key string) {
	b.SetKey(key)
	n, err := countState.Get(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := countState.Set(c, n+1); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkCount is a record of a counting job: SetKey, Get, Set over 10,000 keys, with a checkpoint every 300,000 records.
func BenchmarkCount(b *testing.B) {
	keys := keysOf(10_000)
	s := fill(b, keys)
	b.ReportAllocs()
	i, checkpoint := 0, uint64(0)
	for b.Loop() {
		count(b, s, s, keys[(i*7919)%len(keys)])
		if i++; i%300_000 == 0 {
			s.Committed(checkpoint)
			checkpoint++
			s.Freeze(checkpoint)
		}
	}
}

// BenchmarkMap is the same loop over a bare map, to compare.
func BenchmarkMap(b *testing.B) {
	keys := keysOf(10_000)
	m := map[string]int64{}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		m[keys[(i*7919)%len(keys)]]++
		i++
	}
}

// BenchmarkFreeze writes a share of a million keys and freezes: freeze-ns is what the task stands still.
func BenchmarkFreeze(b *testing.B) {
	keys := keysOf(1_000_000)
	for _, percent := range []int{1, 10, 100} {
		b.Run(fmt.Sprint(percent, "%"), func(b *testing.B) {
			s := fill(b, keys)
			s.Freeze(1)
			s.Committed(1)
			b.ReportAllocs()
			c := uint64(1)
			var froze, commit time.Duration
			for b.Loop() {
				for i := 0; i < len(keys); i += 100 / percent {
					count(b, s, s, keys[i])
				}
				c++
				start := time.Now()
				f := s.Freeze(c)
				froze += time.Since(start)
				if f.Keys() != len(keys)*percent/100 {
					b.Fatal(f.Keys())
				}
				start = time.Now()
				s.Committed(c)
				commit += time.Since(start)
			}
			b.ReportMetric(float64(froze.Nanoseconds())/float64(b.N), "freeze-ns")
			b.ReportMetric(float64(commit.Nanoseconds())/float64(b.N), "commit-ns")
		})
	}
}

// BenchmarkRewrite changes each of a million keys while a snapshot is in flight: every write makes a copy.
func BenchmarkRewrite(b *testing.B) {
	keys := keysOf(1_000_000)
	s := fill(b, keys)
	b.ReportAllocs()
	i, c := 0, uint64(1)
	s.Freeze(c)
	for b.Loop() {
		count(b, s, s, keys[i])
		if i++; i == len(keys) {
			i = 0
			s.Committed(c)
			c++
			s.Freeze(c)
		}
	}
}

func encoded(t fataler, n int) (objects [][]byte, bytes int64) {
	s := fill(t, keysOf(n))
	for _, o := range mustEncode(t, s.Freeze(1), 4<<20) {
		objects = append(objects, o)
		bytes += int64(len(o))
	}
	return objects, bytes
}

func BenchmarkEncode(b *testing.B) {
	s := fill(b, keysOf(1_000_000))
	f := s.Freeze(1)
	b.ReportAllocs()
	for b.Loop() {
		mustEncode(b, f, 4<<20)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1e6, "ns/entry")
}

func BenchmarkRestore(b *testing.B) {
	objects, n := encoded(b, 1_000_000)
	b.SetBytes(n)
	b.ReportAllocs()
	cfg := testConfig(0, 1)
	cfg.KeyGroups = 128
	for b.Loop() {
		s, err := NewBackend(cfg, countState)
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Restore(objects); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMerge(b *testing.B) {
	objects, n := encoded(b, 300_000)
	objects = append(objects, objects...)
	b.SetBytes(2 * n)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Merge(objects, 4<<20); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOutputAppend(b *testing.B) {
	for name, fresh := range map[string]func() *Output{"append": NewOutput, "upsert": func() *Output { return NewUpsertOutput(0) }} {
		b.Run(name, func(b *testing.B) {
			subjects := keysOf(10_000)
			data := make([]byte, 128)
			o := fresh()
			b.ReportAllocs()
			b.SetBytes(int64(len(data)))
			i := 0
			for b.Loop() {
				if err := o.Append(subjects[i%len(subjects)], nil, data); err != nil {
					b.Fatal(err)
				}
				if i++; i%200_000 == 0 {
					o = fresh()
				}
			}
		})
	}
}

func BenchmarkOutputEncode(b *testing.B) {
	subjects := keysOf(10_000)
	o := NewOutput()
	for i := range 200_000 {
		data := fmt.Appendf(nil, `{"word":%q,"count":%d,"at":"2026-11-22T10:%02d:%02d.%06dZ","user":%d}`, subjects[i%10_000], i, i%60, i%59, i*7919%1_000_000, i*31)
		if err := o.Append(subjects[i%len(subjects)], nil, data); err != nil {
			b.Fatal(err)
		}
	}
	o.Seal()
	objects := encodeOutput(b, o, 4<<20)
	b.Run("encode", func(b *testing.B) {
		b.SetBytes(o.Bytes())
		b.ReportAllocs()
		for b.Loop() {
			encodeOutput(b, o, 4<<20)
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.SetBytes(o.Bytes())
		b.ReportAllocs()
		for b.Loop() {
			for _, e := range objects {
				if _, err := DecodeOutput(outputMeta, e.Data); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			for m := range o.From(0) {
				if m.Header != nil {
					b.Fatal(m.Subject)
				}
			}
		}
	})
}
