package processor

// replay drives a testbed through pushes, snapshots, crashes and rescalings, and keeps what was committed.
type replay[E any] struct {
	topology *Topology
	bed      *Testbed
	sinks    []string
	send     func(t require, p *Testbed, e E)
	snap     *TestSnapshot
	since    []E                 // pushed since snap
	kept     map[string][]string // committed payloads, by sink
	fresh    map[string][]string // of the time since snap
}

func newReplay[E any](t require, topology *Topology, parallelism int, send func(t require, p *Testbed, e E), sinks ...string) *replay[E] {
	bed, err := NewTestbed(topology, TestbedConfig{Parallelism: parallelism})
	if err != nil {
		t.Fatal(err)
	}
	return &replay[E]{topology: topology, bed: bed, sinks: sinks, send: send, kept: map[string][]string{}, fresh: map[string][]string{}}
}

func (r *replay[E]) push(t require, e E) {
	r.send(t, r.bed, e)
	r.since = append(r.since, e)
	r.take()
}

func (r *replay[E]) take() {
	for _, sink := range r.sinks {
		r.fresh[sink] = append(r.fresh[sink], payloads(r.bed.Output(sink))...)
	}
}

func (r *replay[E]) snapshot(t require) {
	s, err := r.bed.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	r.take()
	for k, v := range r.fresh {
		r.kept[k] = append(r.kept[k], v...)
	}
	r.snap, r.since, r.fresh = s, nil, map[string][]string{}
}

// crash begins anew from the last snapshot, and pushes again what came since.
func (r *replay[E]) crash(t require, parallelism int) {
	bed, err := NewTestbed(r.topology, TestbedConfig{From: r.snap, Parallelism: parallelism})
	if err != nil {
		t.Fatal(err)
	}
	again := r.since
	r.bed, r.since, r.fresh = bed, nil, map[string][]string{}
	for _, e := range again {
		r.push(t, e)
	}
}

// noStateLeft fails where an operator still keeps something.
func (r *replay[E]) noStateLeft(t require) {
	for _, task := range r.bed.plan.tasks {
		for _, o := range task.subtasks {
			if keys, err := o.backend.Keys(""); err != nil || len(keys) > 0 {
				t.Fatalf("operator %s keeps state of %q behind the end (%v)", o.operator, keys, err)
			}
		}
	}
}
