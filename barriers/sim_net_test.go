package barriers

import (
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
)

// proc runs one protocol as a coroutine: requests come out of next, replies go in.
type proc struct {
	next    func() (Request, bool)
	stop    func()
	reply   Reply
	payload []outMsg
	err     error
}

func newProc(f func(p *proc, ask Ask) error) *proc {
	p := &proc{}
	p.next, p.stop = iter.Pull(func(yield func(Request) bool) {
		p.err = f(p, func(r Request) Reply {
			if !yield(r) {
				return Reply{Status: Canceled} // it crashed: nothing it asks for takes place any more
			}
			return p.reply
		})
	})
	return p
}

// faults are the odds, in thousandths, of what may happen to a request or a worker. Each seed draws its own: some runs have many
// faults of one kind and none of another.
type faults struct {
	lost, replyLost, late, dup, busy, full, stale, gap int
	crash, pause, takeover, restart, input, wish       int
}

func drawFaults(rng *rand.Rand) faults {
	odds := func(most int) int {
		if rng.IntN(3) == 0 {
			return 0
		}
		return rng.IntN(most + 1)
	}
	return faults{
		lost: odds(60), replyLost: odds(80), late: odds(60), dup: odds(30), busy: odds(40), full: odds(40), stale: odds(60), gap: odds(100),
		crash: odds(12), pause: odds(25), takeover: odds(25), restart: odds(4), input: 20 + rng.IntN(60), wish: odds(20),
	}
}

// disaster is what takes data away. A run has at most one.
type disaster uint8

const (
	noDisaster disaster = iota
	outRollback
	bucketRollback
	inputRollback
	inputTrim
	disasters
)

type worker struct {
	name   string
	job    *proc
	clean  *proc
	paused int64 // until
	wait   int64 // does not start before
}

type flight struct {
	at      int64
	req     Request
	payload []outMsg
}

// sim is one run: three workers, one job, a broker, a network.
type sim struct {
	*world
	f        faults
	workers  []*worker
	flights  []flight
	healing  bool
	nonces   int
	disaster disaster
	at       int64 // of the disaster
	copied   int64 // when the copy was made that is put back
	outCopy  outSnapshot
	outSink  int
	bucket   bucketSnapshot
	inCopy   uint64
	struck   bool
	user     *proc // a person who deletes a savepoint
}

const (
	simSteps  = 420
	healSteps = 6000
)

// runSim returns "" if the run was exact, or ended with a named error where a disaster made that right.
func runSim(seed uint64, m mutant, trace func(string, ...any)) string {
	return countSim(seed, m, trace, &simStats{})
}

func countSim(seed uint64, m mutant, trace func(string, ...any), stats *simStats) string {
	rng := rand.New(rand.NewPCG(seed, 1))
	s := &sim{world: newWorld(rng, m, trace), f: drawFaults(rng)}
	s.stats = stats
	if m.faults != nil {
		m.faults(&s.f)
	}
	if m.often {
		s.f.wish = 30
	}
	if rng.IntN(3) == 0 {
		s.disaster = disaster(rng.IntN(int(disasters)))
	}
	if m.disaster != noDisaster {
		s.disaster = m.disaster
	}
	if s.disaster == bucketRollback {
		s.f.restart = 0 // its verdict is about one pass over the input
	}
	s.copied = int64(rng.IntN(simSteps - 100))
	s.at = s.copied + 5 + int64(rng.IntN(150))
	s.outSink = rng.IntN(simSinks)
	for i := range 3 {
		s.workers = append(s.workers, &worker{name: fmt.Sprintf("w%d", i)})
	}
	defer s.crashAll()
	defer func() {
		if s.user != nil {
			s.user.stop()
		}
	}()
	s.feed(6)
	for s.now < simSteps && s.over() == "" {
		s.step()
		s.happen()
	}
	if s.over() == "" {
		s.heal()
	}
	switch o := s.oracle; {
	case o.verdict != "":
		return o.verdict
	case o.named != nil:
		return ""
	}
	if s.oracle.exact() {
		return ""
	}
	return fmt.Sprintf("stuck or lost (tail): position %d of %d, published %v of %d and %d messages, disaster %d",
		s.oracle.tl.pos, s.lastIn, s.oracle.have, len(s.oracle.want[0]), len(s.oracle.want[1]), s.disaster)
}

// over says why the run need not go on.
func (s *sim) over() string {
	switch {
	case s.oracle.verdict != "":
		return s.oracle.verdict
	case s.oracle.named != nil:
		return "named"
	}
	return ""
}

// heal ends all faults and lets the job come to its end.
func (s *sim) heal() {
	s.healing = true
	s.revive()
	s.trace("-- no more faults")
	for n := 0; n < healSteps && s.over() == ""; n++ {
		s.step()
		if s.oracle.exact() && len(s.flights) == 0 && n > 300 {
			return
		}
	}
}

func (s *sim) chance(thousandths int) bool { return !s.healing && s.rng.IntN(1000) < thousandths }

// step lets one request of one worker happen.
func (s *sim) step() {
	s.now++
	s.land()
	if s.rng.IntN(4) == 0 {
		s.stepUser()
	}
	w := s.workers[s.rng.IntN(len(s.workers))]
	if w.paused > s.now && !s.healing {
		return
	}
	if s.chance(s.f.pause) {
		w.paused = s.now + int64(s.rng.IntN(120))
		return
	}
	if w.job == nil {
		s.maybeStart(w)
		return
	}
	p := w.job
	if w.clean != nil && s.rng.IntN(3) == 0 {
		p = w.clean
	}
	if s.chance(s.f.crash) {
		s.trace("%s crashes", w.name)
		s.crash(w)
		return
	}
	r, ok := p.next()
	if !ok {
		s.ended(w, p)
		return
	}
	p.reply = s.deliver(r, p.payload)
	if r.Op == OpPublish {
		p.payload = nil
	}
	// A crash right here is one with the request applied and the reply lost.
	if s.chance(s.f.crash) {
		s.trace("%s crashes behind a request", w.name)
		s.crash(w)
	}
}

func (s *sim) maybeStart(w *worker) {
	if w.wait > s.now {
		return
	}
	alive := 0
	for _, o := range s.workers {
		if o.job != nil {
			alive++
		}
	}
	if alive > 0 && !s.chance(s.f.takeover) {
		return
	}
	s.nonces++
	a := &simAttempt{w: s.world, rng: s.rng, nonce: fmt.Sprintf("n%d", s.nonces), maxPart: 1 + uint64(s.rng.IntN(4))}
	w.job = newProc(func(p *proc, ask Ask) error {
		a.ask = ask
		a.pay = func(out []outMsg) { p.payload = out }
		a.sleep = func(f func(Ask) error) {
			if w.clean == nil {
				w.clean = newProc(func(_ *proc, ask Ask) error { return f(ask) })
			}
		}
		return a.run(w.name)
	})
}

// ended handles the end of a coroutine: the job's own, or its clean-up.
func (s *sim) ended(w *worker, p *proc) {
	if p == w.clean {
		w.clean = nil
		s.judge(w, p.err, true)
		return
	}
	s.trace("%s ends: %v", w.name, p.err)
	if errors.Is(p.err, errNothing) && !s.healing && s.rng.IntN(2) == 0 {
		s.revive()
	}
	s.judge(w, p.err, false)
	s.crash(w)
	w.wait = s.now + int64(s.rng.IntN(20))
}

// judge looks at an error that ended something. A named error is right only where a disaster took data away.
func (s *sim) judge(w *worker, err error, cleaning bool) {
	if errors.Is(err, ErrFenced) {
		s.stats.fenced++
	}
	if err == nil || errors.Is(err, ErrFenced) || errors.Is(err, ErrCanceled) || errors.Is(err, errLetGo) || errors.Is(err, errNothing) {
		return
	}
	if err == errGone { // joined with what makes it a fault, it is one
		s.gone()
		return
	}
	var marker *MarkerFault
	var back *RolledBackError
	var record *RecordError
	var stream streamFault
	if !errors.As(err, &marker) && !errors.As(err, &back) && !errors.As(err, &record) && !errors.As(err, &stream) {
		return // without an answer for too long: the job restarts
	}
	if cleaning {
		// An attempt that was fenced may find what it wants to keep gone. It stops, and that is all.
		return
	}
	if !s.struck {
		s.oracle.fail("needless error of %s: %v", w.name, err)
		return
	}
	s.oracle.named = err
	s.stats.named++
}

func (s *sim) crash(w *worker) {
	for _, p := range []*proc{w.job, w.clean} {
		if p != nil {
			p.stop()
		}
	}
	w.job, w.clean = nil, nil
}

func (s *sim) crashAll() {
	for _, w := range s.workers {
		s.crash(w)
	}
}

// land executes requests that were under way.
func (s *sim) land() {
	for i := 0; i < len(s.flights); i++ {
		if f := s.flights[i]; f.at <= s.now {
			s.flights = append(s.flights[:i], s.flights[i+1:]...)
			i--
			s.stats.late++
			s.trace("late: %s", describe(f.req, s.apply(f.req, f.payload, false)))
		}
	}
}

// deliver is the network: what becomes of a request and its reply.
func (s *sim) deliver(r Request, payload []outMsg) (reply Reply) {
	switch r.Op {
	case OpWait, opIdle:
		return Reply{Status: OK}
	case opRead:
		reply = Reply{Status: OK}
		if s.chance(s.f.gap) {
			reply.Seq = 1
		}
		return reply
	}
	defer func() { s.trace("  %s", describe(r, reply)) }()
	write := r.Op == OpWriteRecord || r.Op == OpDeleteRecord || r.Op == OpWriteMarker || r.Op == OpPublish || r.Op == OpDeleteObject || r.Op == opPut
	switch {
	case s.chance(s.f.lost):
		return Reply{Status: Unknown}
	case s.chance(s.f.replyLost):
		s.apply(r, payload, false)
		return Reply{Status: Unknown}
	case write && s.chance(s.f.late):
		s.flights = append(s.flights, flight{s.now + int64(s.rng.IntN(80)), r, payload})
		return Reply{Status: Unknown}
	case write && s.chance(s.f.busy):
		return Reply{Status: Busy}
	case write && s.chance(s.f.full):
		return Reply{Status: Full}
	case write && s.chance(s.f.dup):
		s.flights = append(s.flights, flight{s.now + int64(s.rng.IntN(40)), r, payload})
	}
	return s.apply(r, payload, !write && s.chance(s.f.stale))
}

// happen is everything that is not a request: input, noise on the output streams, a start request, the disaster.
func (s *sim) happen() {
	if s.chance(s.f.input) {
		s.feed(1 + s.rng.IntN(4))
	}
	if s.chance(10) {
		s.out[s.rng.IntN(simSinks)].add(outEntry{noise: true})
	}
	if s.chance(s.f.restart) {
		s.ask(startRetained)
	}
	if s.chance(s.f.wish) {
		s.wish()
	}
	if s.disaster == noDisaster {
		return
	}
	if s.now == s.copied {
		s.outCopy = outSnapshot{s.out[s.outSink].last, len(s.out[s.outSink].entries)}
		s.bucket = s.copyBucket()
		s.inCopy = s.lastIn
	}
	if s.now == s.at {
		s.strike()
	}
}

// strike puts an old copy of a stream back, or removes input unread. What was under way to that server is gone with it.
func (s *sim) strike() {
	s.trace("-- disaster %d", s.disaster)
	s.struck = true
	s.flights = nil
	switch s.disaster {
	case outRollback:
		s.rollbackOut(s.outSink, s.outCopy)
	case bucketRollback:
		s.rollbackBucket(s.bucket)
	case inputRollback:
		s.crashAll() // readers notice that the server is gone: every position is validated again
		s.oracle.keepInput()
		s.rollbackInput(s.inCopy, s.rng.IntN(30))
	case inputTrim:
		s.crashAll()
		s.oracle.keepInput()
		s.first = min(s.first+uint64(s.rng.IntN(30)), s.lastIn+1)
	}
}

func describe(r Request, reply Reply) string {
	names := map[Op]string{
		OpReadRecord: "read", OpWriteRecord: "write", OpDeleteRecord: "delete", OpReadMarker: "read marker", OpWriteMarker: "write marker",
		OpPublish: "publish", OpListRecords: "list records", OpListObjects: "list objects", OpDeleteObject: "delete object", opPut: "put", opGet: "get",
	}
	status := []string{"", "ok", "not found", "mismatch", "unknown", "busy", "full", "rejected", "canceled"}[reply.Status]
	return fmt.Sprintf("%s %s%s if %d [%d,%d): %s, seq %d", names[r.Op], r.Key, r.Subject, r.Expected, r.From, r.To, status, reply.Seq)
}
