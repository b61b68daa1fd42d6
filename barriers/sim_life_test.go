package barriers

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// What a person does with the simulated job: start requests, stops, deletions, savepoints.

const simSavepoints = 3

func savepointName(i int) string { return fmt.Sprintf("s%d", i) }

// Kinds of start requests.
const (
	startRetained  = "retained"
	startFresh     = "fresh"
	startSavepoint = "savepoint " // and its name
)

// errNothing says that the job is at its end: it is stopped or deleted.
var errNothing = errors.New("the job is stopped")

// errGone says that what a start was to begin with is gone.
var errGone = errors.New("the start's source is gone")

// live is what an attempt looks at between two steps: what the job is to do.
func (a *simAttempt) live() error {
	if a.w.desired == StateRunning {
		return nil
	}
	// stopping, so that whoever comes behind a crash goes on with it, then whatever is still owed, then stopped.
	rec, err := LetGo(a.ask, a.rec, StateStopping)
	if err != nil {
		return err
	}
	a.rec = rec
	return a.end()
}

// end records that a job whose output is published has stopped, or was deleted.
func (a *simAttempt) end() error {
	if a.w.desired == StateDeleted {
		rec, err := Delete(a.ask, a.rec)
		if err != nil {
			return err
		}
		a.w.stats.deletes++
		a.rec = rec
		a.cleanup(true)
		return errNothing
	}
	if _, err := LetGo(a.ask, a.rec, StateStopped); err != nil {
		return err
	}
	a.w.stats.stops++
	return errNothing
}

// finish brings a job that is to stop to its end.
func (a *simAttempt) finish(worker string) error {
	cur, err := ReadHead(a.ask, simTenant, simJob)
	if err != nil {
		return err
	}
	if cur == nil || cur.Head.State == StateDeleted || cur.Head.State == StateStopped && a.w.desired == StateStopped {
		return errNothing
	}
	if a.w.mut.stopEarly {
		rec, _, err := Acquire(a.ask, AcquireSpec{Tenant: simTenant, Job: simJob, Worker: worker, Owner: a.nonce, State: StateStopping})
		if err != nil {
			return err
		}
		a.rec = rec
		return a.end()
	}
	if _, err := a.takeOver(worker, StateStopping); err != nil {
		return err
	}
	return a.end()
}

// startPoint begins somewhere else if somebody asked for it and no attempt has done it yet.
func (a *simAttempt) startPoint(m *Manifest) (*Manifest, error) {
	request, from := a.w.start, a.w.startFrom
	if request == "" || a.rec.Head.Request == request && !a.w.mut.startTwice {
		return m, a.mayGoOn()
	}
	start := &Manifest{
		Tenant: simTenant, Job: simJob, Weir: strconv.Itoa(a.w.gen), Parallelism: 1, KeyGroups: 1,
		Sources: []Source{{Name: "in", Stream: "in", Position: a.w.first - 1}}, Operators: []Operator{{Name: "count"}}, RestoredFrom: startFresh,
	}
	a.id++
	if from == startRetained {
		if len(a.rec.Head.Retained) == 0 {
			a.id--
			return m, a.mayGoOn()
		}
		old, err := ReadManifest(a.ask, simTenant, simJob, a.rec.Head.Retained[0])
		if err != nil {
			return nil, errors.Join(err, CheckOwner(a.ask, a.rec))
		}
		*start = *old
		start.RestoredFrom = strconv.FormatUint(old.Checkpoint, 10)
		if a.w.mut.idsGoBack {
			a.id = old.Checkpoint + 1
		}
	}
	if name, ok := strings.CutPrefix(from, startSavepoint); ok {
		if err := a.copySavepoint(name, start); err != nil {
			return nil, err
		}
		a.w.stats.restored++
	}
	start.Kind, start.Checkpoint, start.Epoch, start.Owner, start.Request = KindStart, a.id, a.rec.Head.Epoch, a.nonce, request
	if !a.w.mut.startOwes || from != startRetained {
		start.Sinks = a.sinks()
	}
	a.w.stats.starts++
	a.w.trace("%s starts from %s as %d", a.nonce, start.RestoredFrom, a.id)
	rec, err := Commit(a.ask, a.rec, start, 3)
	if err != nil {
		return nil, err
	}
	a.rec = rec
	return start, nil
}

// mayGoOn refuses to start a job empty that has had state.
func (a *simAttempt) mayGoOn() error {
	if a.rec.Head.ManifestSeq == 0 && a.rec.Head.Checkpoint > 0 {
		return errGone
	}
	return nil
}

// copySavepoint makes start begin with the savepoint, in objects of the job's own.
func (a *simAttempt) copySavepoint(name string, start *Manifest) error {
	sp, err := ReadSavepoint(a.ask, simTenant, simJob, name)
	if errors.As(err, new(*NoSavepointError)) {
		return errGone
	}
	if err != nil {
		return err
	}
	start.Sources, start.Operators, start.RestoredFrom = sp.Sources, nil, pointOf(sp)
	for _, op := range sp.Operators {
		own := Operator{Name: op.Name}
		for _, o := range op.Chain {
			if a.w.mut.shareSavepoint {
				own.Chain = append(own.Chain, o)
				continue
			}
			r := a.ask(Request{Op: opGet, Key: o.Name})
			for n := 0; n < 20 && r.Status != OK && r.Status != NotFound && r.Status != Canceled; n++ {
				r = a.ask(Request{Op: opGet, Key: o.Name})
			}
			if r.Status != OK {
				return errors.Join(errGone, a.stillThere(sp))
			}
			copied, err := a.put(r.Value, 0)
			if err != nil {
				return err
			}
			copied.Base = true
			own.Chain = append(own.Chain, copied)
		}
		start.Operators = append(start.Operators, own)
	}
	return nil
}

// stillThere tells a savepoint that was deleted while it was read from one that has lost an object.
func (a *simAttempt) stillThere(sp *Manifest) error {
	now, err := ReadSavepoint(a.ask, simTenant, simJob, sp.Savepoint)
	if err == nil && now.Owner == sp.Owner && now.Checkpoint == sp.Checkpoint && a.w.oracle.complete[pointOf(sp)] {
		return &RecordError{Record: "savepoint " + sp.Savepoint, Err: errors.New("object is missing")}
	}
	return nil
}

// pointOf names one incarnation of a savepoint.
func pointOf(sp *Manifest) string {
	return fmt.Sprintf("savepoint %s of %s at %d", sp.Savepoint, sp.Owner, sp.Checkpoint)
}

// savepoint makes a savepoint of the checkpoint that was just released.
func (a *simAttempt) savepoint(m *Manifest) error {
	r := Reservation{
		Tenant: simTenant, Job: simJob, Savepoint: savepointName(a.rng.IntN(simSavepoints)), Epoch: a.rec.Head.Epoch, Owner: a.nonce,
		Request: fmt.Sprintf("q%d", a.rng.IntN(1000)),
	}
	done, err := ReserveSavepoint(a.ask, r)
	if errors.As(err, new(*SavepointExistsError)) || done != nil {
		return nil
	}
	if err != nil {
		return err
	}
	sp := *m
	sp.Kind, sp.Savepoint, sp.Request, sp.Sinks = KindSavepoint, r.Savepoint, r.Request, a.sinks()
	var chain []Object
	for _, part := range []int{0, 1} {
		half := map[byte]uint32{}
		for k, n := range restoredState(a.w.objects, m) {
			if k%2 == part {
				half[byte(k)] = n
			}
		}
		obj, err := a.putAs(SavepointPrefix(simJob, r.Savepoint), encodeState(half), 0)
		if err != nil {
			return err
		}
		obj.Base = true
		chain = append(chain, obj)
		if err := a.read(); err != nil { // time passes
			return err
		}
	}
	sp.Operators = []Operator{{Name: "count", Chain: chain}}
	_, err = WriteSavepoint(a.ask, &sp)
	switch {
	case errors.As(err, new(*SavepointLostError)):
		a.w.trace("%s lost savepoint %s", a.nonce, r.Savepoint)
		return nil
	case err != nil:
		if kept, aerr := AbandonSavepoint(a.ask, r); kept != nil || aerr != nil {
			return aerr
		}
		return nil
	}
	a.w.stats.savepoints++
	a.w.oracle.answered(pointOf(&sp))
	return nil
}

func restoredState(objects map[string]simObject, m *Manifest) []uint32 {
	state := restoreState(objects, m)
	return state[:]
}

// wish lets the person do something.
func (s *sim) wish() {
	if s.disaster == bucketRollback {
		return // its verdict is about one pass over the input
	}
	switch n := s.rng.IntN(8); {
	case n < 3:
		s.ask(s.startKind())
	case n == 3:
		s.desired = StateStopped
	case n == 4 && s.rng.IntN(3) == 0:
		s.desired = StateDeleted
	case n == 5 && s.user == nil && s.rng.IntN(2) == 0:
		name := savepointName(s.rng.IntN(simSavepoints))
		s.user = newProc(func(_ *proc, ask Ask) error { return DeleteSavepoint(ask, simTenant, simJob, name) })
	case n > 5:
		s.revive()
	}
}

func (s *sim) startKind() string {
	switch s.rng.IntN(4) {
	case 0:
		return startFresh
	case 1:
		return startRetained
	}
	name := savepointName(s.rng.IntN(simSavepoints))
	for i := range simSavepoints { // rather one that exists
		if value := s.record(SavepointKey(simTenant, simJob, savepointName(i))).value; value != nil {
			name = savepointName(i)
		}
	}
	return startSavepoint + name
}

// ask asks for a start, and sees to it that it happens soon.
func (s *sim) ask(from string) {
	s.start, s.startFrom = fmt.Sprintf("r%d", s.now), from
	s.trace("start request %s from %s", s.start, from)
	for _, w := range s.workers {
		if s.rng.IntN(2) == 0 {
			s.crash(w)
		}
	}
}

// revive makes the job run again, and asks for a start if it has nothing to go on from.
func (s *sim) revive() {
	if s.desired == StateRunning {
		return
	}
	s.desired = StateRunning
	s.trace("the job is to run")
	for _, w := range s.workers {
		w.wait = 0
	}
}

// gone is what the person does when a start is refused: another one.
func (s *sim) gone() {
	from := ""
	if h := s.oracle.head; h != nil && h.ManifestSeq == 0 && h.Checkpoint > 0 {
		from = startFresh
	}
	if from == "" {
		s.start, s.startFrom = "", ""
		return
	}
	s.start, s.startFrom = fmt.Sprintf("r%d", s.now), from
}

// stepUser lets the person's deletion of a savepoint go on.
func (s *sim) stepUser() {
	if s.user == nil {
		return
	}
	if s.chance(s.f.crash) {
		s.user.stop()
		s.user = nil
		return
	}
	r, ok := s.user.next()
	if !ok {
		s.trace("the deletion of a savepoint ends: %v", s.user.err)
		s.user = nil
		return
	}
	s.user.reply = s.deliver(r, nil)
}
