package integration_test

import (
	"context"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go"

	"github.com/weirstream/weir/processor"
)

// What a history of control does to its jobs.

func (h *controlHistory) savepoint(j *modelJob) {
	name := h.newName("sp")
	h.saved(j, decoded[processor.SavepointReport](h.t, h.request(j, "savepoint", body{"name": name, "request": name})))
}

// saved checks a savepoint against the model: it holds the state of exactly its position.
func (h *controlHistory) saved(j *modelJob, rep processor.SavepointReport) {
	h.t.Helper()
	p := rep.Positions["events"].Sequence
	j.savepoints[rep.Name] = p
	key := keyName(h.rng.IntN(9))
	st := decoded[processor.StateReport](h.t, h.request(j, "state", body{"operator": "count", "state": "times", "key": key, "savepoint": rep.Name}))
	want := j.feed.times(key, p)
	if got := string(st.Value); st.Found != (want > 0) || st.Found && got != fmt.Sprint(want) {
		h.t.Fatalf("savepoint %s of %s/%s at %d: key %s was seen %s times (found: %t), the input says %d", rep.Name, j.feed.tenant, j.name, p, key, got, st.Found, want)
	}
}

// mark publishes a mark; the savepoint is cut exactly there.
func (h *controlHistory) mark(j *modelJob) {
	name := h.newName("mark")
	h.note("%s/%s mark %s", j.feed.tenant, j.name, name)
	ack, err := h.site.js.PublishMsg(context.Background(), &nats.Msg{
		Subject: j.feed.tenant + ".in.marks", Header: nats.Header{processor.HeaderMark: {j.name + " " + name}},
	})
	ok(h.t, err)
	var rep processor.SavepointReport
	eventually(h.t, "the savepoint of a mark is there", func() bool {
		page := done[struct {
			Savepoints []processor.SavepointReport
			Next       string
		}](h.t, h.site, j.feed.tenant, j.name, "savepoints", body{"limit": 1000})
		at := slices.IndexFunc(page.Savepoints, func(r processor.SavepointReport) bool { return r.Name == name })
		if at >= 0 {
			rep = page.Savepoints[at]
		}
		return at >= 0
	})
	if p := rep.Positions["events"].Sequence; len(j.feed.part(min(p, ack.Sequence), max(p, ack.Sequence))) > 0 {
		h.t.Fatalf("savepoint %s of %s/%s was cut at %d, its mark is at %d", name, j.feed.tenant, j.name, p, ack.Sequence)
	}
	h.saved(j, rep)
}

// savepointAll takes one of all jobs of a tenant that should run.
func (h *controlHistory) savepointAll(of *modelJob) {
	name := h.newName("all")
	h.note("%s: a savepoint of all jobs, %s", of.feed.tenant, name)
	type all struct {
		Name       string
		Cut        map[string]uint64
		Savepoints []processor.SavepointReport
	}
	out := done[all](h.t, h.site, of.feed.tenant, "_", "savepoint", body{"name": name})
	left := map[string]*modelJob{}
	for _, j := range h.jobs {
		if j.feed == of.feed && !j.stopped {
			left[j.name] = j
		}
	}
	for _, rep := range out.Savepoints {
		j := left[rep.Job]
		if j == nil {
			h.t.Fatalf("the savepoint of all jobs of %s has one of %s, which does not run", of.feed.tenant, rep.Job)
		}
		delete(left, rep.Job)
		if p := rep.Positions["events"]; p.Sequence != out.Cut[p.Stream] {
			h.t.Fatalf("savepoint %s of job %s was cut at %d, the cut is %v", name, rep.Job, p.Sequence, out.Cut)
		}
		h.saved(j, rep)
	}
	if len(left) > 0 {
		h.t.Fatalf("the savepoint of all jobs of %s lacks %d: %v", of.feed.tenant, len(left), out)
	}
}

func (h *controlHistory) stop(j *modelJob) {
	b := body{}
	switch h.rng.IntN(5) {
	case 0:
		b["mode"] = "now"
	case 1:
		b["mode"] = "drain"
	case 2:
		b["mode"], b["savepoint"] = "savepoint", h.newName("end")
	case 3:
		b["mode"], b["savepoint"] = "drain", h.newName("end")
	}
	rep := decoded[processor.StopReport](h.t, h.request(j, "stop", b))
	j.stopped = true
	if !rep.Published {
		h.t.Fatalf("the stop of %s/%s says that not all is published: %+v", j.feed.tenant, j.name, rep)
	}
	if rep.Savepoint != nil {
		h.saved(j, *rep.Savepoint)
	}
}

// restart starts a job that is stopped.
func (h *controlHistory) restart(j *modelJob) {
	if h.rng.IntN(2) == 0 {
		h.request(j, "start", body{"request": h.newName("req")})
		j.stopped = false
		return
	}
	h.start(j)
}

// start sends a job to another point, from where it reads again what came behind it.
func (h *controlHistory) start(j *modelJob) {
	b := body{"request": h.newName("req")}
	if h.rng.IntN(3) == 0 {
		b["config"] = body{"parallelism": 1 + h.rng.IntN(4)}
	}
	names := sortedNames(j.savepoints)
	list := done[struct {
		Checkpoints []processor.CheckpointReport
		Next        string
	}](h.t, h.site, j.feed.tenant, j.name, "checkpoints", body{"limit": 100})
	var to uint64
	switch n := h.rng.IntN(6); {
	case n == 0 && j.shadow == "":
		b["from"] = "fresh"
	case n < 3 && j.stopped && len(list.Checkpoints) > 0: // of a running job it may be cleaned up by now
		c := list.Checkpoints[h.rng.IntN(len(list.Checkpoints))]
		if c.State != "completed" {
			return
		}
		b["from"], b["checkpoint"] = "checkpoint", c.Checkpoint
		to = c.Positions[inputOf(j.feed.tenant)]
	case len(names) > 0:
		name := names[h.rng.IntN(len(names))]
		b["from"], b["savepoint"] = "savepoint", name
		to = j.savepoints[name]
	default:
		return
	}
	h.request(j, "start", b)
	j.stopped = false
	j.starts = append(j.starts, to)
}

// fork starts a copy; the tenant's own job has no more than two.
func (h *controlHistory) fork(j *modelJob) {
	n := 0
	for _, other := range h.jobs {
		if other.feed == j.feed {
			n++
		}
	}
	if n > 2 {
		return
	}
	as := h.newName("fork")
	b := body{"as": as, "request": h.newName("req")}
	fork := &modelJob{feed: j.feed, name: as, shadow: "shadow." + as, savepoints: map[string]uint64{}}
	if names := sortedNames(j.savepoints); len(names) > 0 && h.rng.IntN(3) > 0 {
		name := names[h.rng.IntN(len(names))]
		b["savepoint"] = name
		fork.starts = []uint64{j.savepoints[name]}
	} else if h.rng.IntN(2) == 0 {
		done[processor.CheckpointReport](h.t, h.site, j.feed.tenant, j.name, "checkpoint", nil)
	} else {
		h.savepoint(j)
		return
	}
	h.request(j, "fork", b)
	h.jobs = append(h.jobs, fork)
}

func (h *controlHistory) deleteSavepoint(j *modelJob) {
	names := sortedNames(j.savepoints)
	if len(names) < 2 {
		return
	}
	name := names[h.rng.IntN(len(names))]
	h.note("%s/%s deletes savepoint %s", j.feed.tenant, j.name, name)
	done[struct{ Done bool }](h.t, h.site, j.feed.tenant, j.name, "savepoint-delete", body{"name": name})
	delete(j.savepoints, name)
}

// deleteFork deletes a fork when it has done all that was asked of it.
func (h *controlHistory) deleteFork(j *modelJob) {
	if j.shadow == "" {
		return
	}
	h.judge(j)
	h.request(j, "delete", body{"confirm": j.name, "savepoints": h.rng.IntN(2) == 0})
	h.jobs = slices.DeleteFunc(h.jobs, func(o *modelJob) bool { return o == j })
}
