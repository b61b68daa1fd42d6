package state

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

var (
	countState = NewValue[int64]("count")
	nameState  = NewValue[string]("name")
	tagState   = NewMap[string, int64]("tags")
	lineState  = NewList[string]("lines")
	sumState   = NewReducing("sum", func(a, b int64) int64 { return a + b })
	meanState  = NewAggregating("mean", mean{})
	allStates  = []Descriptor{countState, nameState, tagState, lineState, sumState, meanState}
)

type meanAcc struct{ Sum, N int64 }

type mean struct{}

func (mean) Init() meanAcc                   { return meanAcc{} }
func (mean) Add(a meanAcc, in int64) meanAcc { return meanAcc{a.Sum + in, a.N + 1} }
func (mean) Result(a meanAcc) float64        { return float64(a.Sum) / float64(a.N) }
func testConfig(subtask, parallelism int) BackendConfig {
	return BackendConfig{Tenant: "acme", Job: "job", Operator: "op", Subtask: subtask, Parallelism: parallelism, KeyGroups: 16}
}

// model is the naive implementation: maps that are copied whole.
type model struct {
	Count map[string]int64
	Name  map[string]string
	Tags  map[string]map[string]int64
	Lines map[string][]string
	Sum   map[string]int64
	Mean  map[string]meanAcc
	Timer map[timerKey]bool
}

func newModel() *model {
	return &model{map[string]int64{}, map[string]string{}, map[string]map[string]int64{}, map[string][]string{},
		map[string]int64{}, map[string]meanAcc{}, map[timerKey]bool{}}
}

func (m *model) clone() *model {
	c := &model{maps.Clone(m.Count), maps.Clone(m.Name), map[string]map[string]int64{}, map[string][]string{},
		maps.Clone(m.Sum), maps.Clone(m.Mean), maps.Clone(m.Timer)}
	for k, v := range m.Tags {
		c.Tags[k] = maps.Clone(v)
	}
	for k, v := range m.Lines {
		c.Lines[k] = slices.Clone(v)
	}
	return c
}

// dump reads everything the backends hold.
func dump(t fataler, backends []*Backend, keys []string) *model {
	m := newModel()
	for _, k := range keys {
		b := owner(backends, k)
		b.SetKey(k)
		if v, ok, err := countState.Lookup(b); err != nil {
			t.Fatal(err)
		} else if ok {
			m.Count[k] = v
		}
		if v, ok, _ := nameState.Lookup(b); ok {
			m.Name[k] = v
		}
		n := 0
		tags := map[string]int64{}
		_ = tagState.Each(b, func(sub string, v int64) error { n++; tags[sub] = v; return nil })
		if l, _ := tagState.Len(b); l != n || l != len(tags) {
			t.Fatalf("key %s: Len %d, Each gave %d entries, %d different", k, l, n, len(tags))
		}
		if n > 0 {
			m.Tags[k] = tags
		}
		if l, _ := lineState.All(b); len(l) > 0 {
			m.Lines[k] = slices.Clone(l)
		}
		if v, ok, _ := sumState.Get(b); ok {
			m.Sum[k] = v
		}
		if v, ok := b.slots[5].table.(*valueTable[meanAcc]).get(); ok {
			m.Mean[k] = v
		}
	}
	for _, b := range backends {
		for d := range domains {
			last := timerKey{}
			h := slices.Clone(b.timers.heaps[d])
			slices.SortFunc(h, func(x, y *timerItem) int {
				if timerLess(x, y) {
					return -1
				}
				return 1
			})
			for i, it := range h {
				if it.life != itemLive || !it.present || b.timers.m[it.key] != it || i > 0 && it.key == last {
					t.Fatalf("timer %v: the heap has another item than the set", it.key)
				}
				last = it.key
				m.Timer[it.key] = true
			}
		}
	}
	return m
}

type fataler interface {
	Fatal(...any)
	Fatalf(string, ...any)
}

func owner(backends []*Backend, key string) *Backend {
	groups := backends[0].cfg.KeyGroups
	return backends[SubtaskOf(KeyGroup(key, groups), len(backends), groups)]
}

// machine drives backends and model with the same history.
type machine struct {
	keys      []string
	backends  []*Backend
	now       *model
	frozen    *model
	committed *model
	chain     [][]byte
	parts     []*Frozen
	objects   [][]EncodedObject
	next      uint64
	replaces  bool // the snapshot in flight is full
	encoders  sync.WaitGroup
}

func (m *machine) start(t fataler, parallelism int) {
	m.backends = nil
	for i := range parallelism {
		b, err := NewBackend(testConfig(i, parallelism), allStates...)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Restore(m.chain); err != nil {
			t.Fatal(err)
		}
		m.backends = append(m.backends, b)
	}
	m.now = m.committed.clone()
	m.parts, m.frozen = nil, nil
}

func (m *machine) write(t *rapid.T) {
	k := rapid.SampledFrom(m.keys).Draw(t, "key")
	v := rapid.Int64Range(-5, 1000).Draw(t, "value")
	sub := fmt.Sprint("t", rapid.IntRange(0, 14).Draw(t, "sub"))
	b := owner(m.backends, k)
	b.SetKey(k)
	var err error
	switch rapid.IntRange(0, 11).Draw(t, "op") {
	case 0, 1:
		err = countState.Set(b, v)
		m.now.Count[k] = v
		if got, _ := countState.Get(b); got != v {
			t.Fatalf("Get after Set: %d, want %d", got, v)
		}
	case 2:
		err = errors.Join(countState.Clear(b), nameState.Clear(b), sumState.Clear(b), meanState.Clear(b))
		delete(m.now.Count, k)
		delete(m.now.Name, k)
		delete(m.now.Sum, k)
		delete(m.now.Mean, k)
	case 3:
		err = nameState.Set(b, fmt.Sprint("name", v))
		m.now.Name[k] = fmt.Sprint("name", v)
	case 4, 5:
		err = tagState.Put(b, sub, v)
		if m.now.Tags[k] == nil {
			m.now.Tags[k] = map[string]int64{}
		}
		m.now.Tags[k][sub] = v
	case 6:
		err = tagState.Remove(b, sub)
		if delete(m.now.Tags[k], sub); len(m.now.Tags[k]) == 0 {
			delete(m.now.Tags, k)
		}
	case 7:
		if v%3 == 0 {
			err = errors.Join(tagState.Clear(b), lineState.Clear(b))
			delete(m.now.Tags, k)
			delete(m.now.Lines, k)
		} else {
			list := []string{"a", sub}
			err = lineState.Set(b, list)
			m.now.Lines[k] = slices.Clone(list)
		}
	case 8:
		err = lineState.Add(b, sub)
		m.now.Lines[k] = append(m.now.Lines[k], sub)
	case 9:
		err = errors.Join(sumState.Add(b, v), meanState.Add(b, v))
		m.now.Sum[k] += v
		m.now.Mean[k] = mean{}.Add(m.now.Mean[k], v)
	case 10:
		d := Domain(v & 1)
		err = b.Timers().Set(d, v%7, k)
		m.now.Timer[timerKey{k, v % 7, d}] = true
	case 11:
		d := Domain(v & 1)
		if v%3 == 0 {
			b.Timers().Delete(d, v%7, k)
			delete(m.now.Timer, timerKey{k, v % 7, d})
			break
		}
		for {
			key, at, ok := b.Timers().PopDue(d, v%7-2)
			if !ok {
				break
			}
			if !m.now.Timer[timerKey{key, at, d}] {
				t.Fatalf("popped a timer %s %d %v that is not set", key, at, d)
			}
			delete(m.now.Timer, timerKey{key, at, d})
		}
		if at, ok := b.Timers().Next(d); ok && at <= v%7-2 {
			t.Fatalf("a due timer was left: %d", at)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (m *machine) freeze(t *rapid.T) {
	if m.parts != nil {
		return
	}
	m.next++
	all := rapid.IntRange(0, 3).Draw(t, "all") == 0
	m.replaces = false
	for _, b := range m.backends {
		m.replaces = m.replaces || b.full || all
	}
	for _, b := range m.backends {
		if all {
			m.parts = append(m.parts, b.FreezeAll(m.next))
		} else {
			m.parts = append(m.parts, b.Freeze(m.next))
		}
	}
	m.frozen = m.now.clone()
	m.objects = make([][]EncodedObject, len(m.parts))
	if rapid.Bool().Draw(t, "encode beside") {
		for i, p := range m.parts {
			m.encoders.Go(func() {
				if o, err := p.Encode(200); err == nil {
					m.objects[i] = o
				} else if !errors.Is(err, ErrRetired) {
					panic(err)
				}
			})
		}
	} else {
		m.objects = nil
	}
}

func (m *machine) commit(t *rapid.T) {
	if m.parts == nil {
		return
	}
	m.encoders.Wait()
	if m.objects == nil {
		for _, p := range m.parts {
			o, err := p.Encode(rapid.SampledFrom([]int{0, 1, 300, 1 << 20}).Draw(t, "maxObject"))
			if err != nil {
				t.Fatal(err)
			}
			m.objects = append(m.objects, o)
		}
	}
	if m.replaces {
		m.chain = nil
	}
	for i, objects := range m.objects {
		for _, o := range objects {
			if m.replaces && !o.Base {
				t.Fatal("a full snapshot is not marked as a base")
			}
			m.chain = append(m.chain, o.Data)
		}
		if m.parts[i].Empty() && len(objects) > 0 {
			t.Fatal("an empty snapshot has objects")
		}
	}
	for _, b := range m.backends {
		b.Committed(m.next)
	}
	m.committed, m.parts, m.frozen = m.frozen, nil, nil
}

func (m *machine) abort() {
	if m.parts == nil {
		return
	}
	for _, b := range m.backends {
		b.Aborted(m.next) // an encoder may go on: what it reads must stay
	}
	m.parts, m.frozen = nil, nil
	m.encoders.Wait()
}

func (m *machine) check(t fataler) {
	if got := dump(t, m.backends, m.keys); !reflect.DeepEqual(got, m.now) {
		t.Fatalf("state\n%+v\nmodel\n%+v", got, m.now)
	}
}

// TestModel: under any history of writes, freezes, commits, aborts, merges and restores at another parallelism, the live state is
// the model's and the chain restores the model as of the committed checkpoint.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{committed: newModel()}
		for i := range rapid.SampledFrom([]int{1, 3, 20}).Draw(t, "keys") {
			m.keys = append(m.keys, fmt.Sprint("k", i))
		}
		m.keys = append(m.keys, "")
		m.start(t, rapid.IntRange(1, 5).Draw(t, "parallelism"))
		t.Repeat(map[string]func(*rapid.T){
			"write":   func(t *rapid.T) { m.write(t); m.write(t); m.write(t) },
			"write2":  func(t *rapid.T) { m.write(t); m.write(t); m.write(t) },
			"freeze":  m.freeze,
			"commit":  m.commit,
			"abort":   func(*rapid.T) { m.abort() },
			"compact": m.merge,
			"restore": func(t *rapid.T) {
				m.encoders.Wait()
				m.start(t, rapid.IntRange(1, 5).Draw(t, "parallelism"))
				m.check(t)
			},
			"check": func(t *rapid.T) { m.check(t) },
		})
		m.encoders.Wait()
		m.check(t)
		m.start(t, 1)
		m.check(t)
	})
}

func (m *machine) merge(t *rapid.T) {
	objects, err := Merge(m.chain, rapid.SampledFrom([]int{0, 1, 300}).Draw(t, "maxObject"))
	if err != nil {
		t.Fatal(err)
	}
	m.chain = nil
	last := 0
	for _, o := range objects {
		if !o.Base || o.FirstGroup < last || o.LastGroup < o.FirstGroup {
			t.Fatalf("merging gave an object of groups %d to %d, base %v, behind group %d", o.FirstGroup, o.LastGroup, o.Base, last)
		}
		last = o.LastGroup
		m.chain = append(m.chain, o.Data)
	}
}
