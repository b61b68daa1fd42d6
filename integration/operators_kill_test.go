package integration_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/jetstream/embedded"
	"github.com/weirstream/weir/tenants"
)

var operatorKills = flag.Int("operators.kills", 10, "how many workers TestOperatorsKilled kills, at least 4")

// killKind is how a worker of the job operators ends.
type killKind int

const (
	killAtRequest   killKind = iota // in this process, at one of its requests
	killInFlight                    // in this process, when a checkpoint with calls in flight is committed
	killProcess                     // kill -9, then too
	killProcessSoon                 // a process ends at one of its requests
	numKills
)

func (k killKind) String() string {
	return [...]string{"at a request", "in flight", "process in flight", "process at a request"}[k]
}

// TestOperatorsKilled kills worker after worker of a job with rules, calls, rows and windows, while rules and rows change, and starts the next one at
// another parallelism. Every claim has one result or one dead letter, in the order of its key where that is promised; the rules that
// it met are those of one revision, never an older one than its key has seen or a commit has proved; windows miss nothing.
func TestOperatorsKilled(t *testing.T) {
	seed := newSeed(t)
	r := newOperatorsRun(t, seed)
	kills := make([]killKind, *operatorKills)
	for i := range kills {
		kills[i] = killKind(i) % numKills
	}
	r.rng.Shuffle(len(kills), func(i, j int) { kills[i], kills[j] = kills[j], kills[i] })
	for _, kind := range kills {
		r.life++
		r.lifeOf(kind)
	}
	r.life++
	r.finish()
}

// operatorsRun is one job through the lives of its workers.
type operatorsRun struct {
	*world
	t           *testing.T
	rng         *rand.Rand
	hist        *claimHistory
	place       place
	limits      js.KeyValue
	prices      js.KeyValue
	begin       time.Time
	life        int
	parallelism int
	sent        uint64 // sequence of the last claim
	ruleSeen    uint64
	rowSeen     map[string]uint64
	puts        int
	log         func() string // of the worker that lives
}

const claimTenant = "acme"

func newOperatorsRun(t *testing.T, seed uint64) *operatorsRun {
	r := &operatorsRun{
		world: newWorld(t, func(o *embedded.Options) { o.InProcessOnly, o.Port = false, -1 }), t: t, rng: newRand(seed), begin: time.Now(), rowSeen: map[string]uint64{},
		place: place{output: claimTenant, job: tenants.JobID{Tenant: claimTenant, Name: operatorsName}},
		hist:  &claimHistory{counts: map[string]uint64{}, prices: map[string][]change{}, bad: map[string]bool{}},
		log:   func() string { return "" },
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the last worker:\n%s", r.log())
		}
	})
	r.stream(t, ownStream(claimTenant, 1))
	history := uint8(64)
	if r.rng.IntN(3) == 0 {
		history, r.hist.replaced = 1, true
	}
	t.Logf("the bucket of the rules keeps %d revisions", history)
	r.limits, r.prices = r.bucket(limitBucket, history), r.bucket(priceBucket, 1)
	for range 8 {
		r.changeRule()
	}
	r.ruleSeen = r.lastRule() // what the bucket has is there before the first claim
	for i := range claimKeys {
		r.changePrice(keyName(i))
	}
	r.changePrice(lastKey)
	r.nobodyLives()
	return r
}

func (r *operatorsRun) bucket(name string, history uint8) js.KeyValue {
	r.t.Helper()
	kv, err := r.js.CreateKeyValue(context.Background(), js.KeyValueConfig{Bucket: name, History: history})
	ok(r.t, err)
	return kv
}

// Claims have a few keys, and the one that comes behind all others its own.
const (
	claimKeys = 6
	lastKey   = "end"
)

// changeRule sets or removes a rule, or one that is none of the job's.
func (r *operatorsRun) changeRule() {
	r.t.Helper()
	ctx := context.Background()
	r.puts++
	c := change{key: "r" + strconv.Itoa(r.rng.IntN(5)), value: r.puts}
	key, value := claimTenant+"."+c.key, strconv.Itoa(r.puts)
	var err error
	switch draw := r.rng.IntN(12); {
	case draw == 0:
		_, err = r.limits.PutString(ctx, "globex."+c.key, value)
		ok(r.t, err)
		return
	case draw == 1 && !r.hist.replaced:
		value = fmt.Sprintf("no rule %d", r.puts)
		r.hist.bad[value] = true
		_, err = r.limits.PutString(ctx, key, value)
		ok(r.t, err)
		return
	case draw < 5:
		c.removed = true
		ok(r.t, r.limits.Delete(ctx, key))
		s, err := r.js.Stream(ctx, "KV_"+limitBucket)
		ok(r.t, err)
		c.seq = s.CachedInfo().State.LastSeq
	default:
		c.seq, err = r.limits.PutString(ctx, key, value)
		ok(r.t, err)
	}
	r.hist.limits = append(r.hist.limits, c)
}

func (r *operatorsRun) lastRule() uint64 { return r.hist.limits[len(r.hist.limits)-1].seq }

func (r *operatorsRun) changePrice(key string) {
	r.t.Helper()
	r.puts++
	seq, err := r.prices.PutString(context.Background(), claimTenant+"."+key, strconv.Itoa(r.puts))
	ok(r.t, err)
	r.hist.prices[key] = append(r.hist.prices[key], change{seq: seq, key: key, value: r.puts})
}

// nobodyLives notes that every row that is there now comes before the next worker.
func (r *operatorsRun) nobodyLives() {
	for key, list := range r.hist.prices {
		r.rowSeen[key] = list[len(list)-1].seq
	}
}

// claims publishes claims, and changes rules and rows in between.
func (r *operatorsRun) claims(n int) {
	r.t.Helper()
	for range n {
		if r.rng.IntN(6) == 0 {
			r.changeRule()
		}
		if r.rng.IntN(10) == 0 {
			r.changePrice(keyName(r.rng.IntN(claimKeys)))
		}
		kinds := []claimKind{slowClaim, flakyClaim, silentClaim, noScore, noCheck, refused}
		kind := plainClaim
		if draw := r.rng.IntN(4 * len(kinds)); draw < len(kinds) {
			kind = kinds[draw]
		}
		r.claim(kind, keyName(r.rng.IntN(claimKeys)), 0)
	}
}

// claim publishes one.
func (r *operatorsRun) claim(kind claimKind, key string, ahead time.Duration) {
	r.t.Helper()
	id := len(r.hist.claims) + 1
	early := time.Duration(r.rng.IntN(int(claimLag)))
	at := r.begin.Add(time.Duration(id)*50*time.Millisecond - early + ahead)
	c := claim{ID: id, Key: key, At: at.UnixMilli(), Kind: kind}
	if kind == heldClaim {
		c.Life = r.life
	}
	data, err := json.Marshal(c)
	ok(r.t, err)
	ack, err := r.js.Publish(context.Background(), claimTenant+".in."+key, data)
	ok(r.t, err)
	r.sent = ack.Sequence
	r.hist.add(sentClaim{claim: c, ruleSeen: r.ruleSeen, rowSeen: r.rowSeen[key]})
}

// lifeOf is the life of one worker.
func (r *operatorsRun) lifeOf(kind killKind) {
	r.t.Helper()
	r.claims(r.rng.IntN(15))
	r.parallelism = 1 + (r.parallelism+r.rng.IntN(3))%4 // another one
	var dead func() bool
	var kill func()
	if kind == killProcess || kind == killProcessSoon {
		dead, kill = r.process(kind)
	} else {
		w, fault := r.worker(kind)
		dead, kill = fault.hasStruck, w.kill
	}
	r.claims(5 + r.rng.IntN(15))
	if r.committed(dead, "limits", r.lastRule()) {
		r.ruleSeen = r.lastRule()
	}
	r.claims(5 + r.rng.IntN(15))
	for range 2 {
		r.claim(heldClaim, keyName(r.rng.IntN(claimKeys)), 0)
	}
	r.claims(r.rng.IntN(5))
	// Whoever comes next reads none of the held claims again: they are in the checkpoint, or lost.
	held := r.committed(dead, "claims", r.sent)
	if !held && (kind == killInFlight || kind == killProcess) {
		r.t.Fatalf("the worker of life %d has died by itself:\n%s", r.life, r.log())
	}
	kill()
	r.t.Logf("life %d at parallelism %d, killed %s, with %d claims; calls in flight committed: %t", r.life, r.parallelism, kind, len(r.hist.claims), held)
	r.claims(r.rng.IntN(10))
	for range r.rng.IntN(4) {
		r.changePrice(keyName(r.rng.IntN(claimKeys)))
	}
	r.nobodyLives()
}

// worker starts one in this process.
func (r *operatorsRun) worker(kind killKind) (*worker, *failpoint) {
	r.t.Helper()
	topo, err := buildOperators(r.life)
	ok(r.t, err)
	spec := workerSpec{name: "w", job: smallJob(), topo: topo}
	spec.job.Parallelism = r.parallelism
	fault := newFailpoint(0, crashBefore)
	if kind == killAtRequest {
		fault = newFailpoint(1+r.rng.IntN(120), faultKind(r.rng.IntN(2)))
	}
	spec.broker = func(cfg *jetstream.Config) { cfg.Intercept = fault.intercept }
	w := newWorker(r.t, r.srv, spec)
	r.log = w.log.tail
	fault.attach(w)
	if err := w.start(spec, claimTenant); err != nil && !fault.hasStruck() {
		r.t.Fatalf("%v\n%s", err, w.log.tail())
	}
	return w, fault
}

// process starts one of its own.
func (r *operatorsRun) process(kind killKind) (dead func() bool, kill func()) {
	r.t.Helper()
	cfg := workerConfig{
		Name: "w", URL: r.srv.ClientURL(), Jobs: map[string][]string{operatorsName: {claimTenant}}, Interval: 20 * time.Millisecond,
		Parallelism: r.parallelism, Life: r.life,
	}
	if kind == killProcessSoon {
		cfg.FailOp = []string{"batch.commit", "batch.body", "chunk", "publish", "api"}[r.rng.IntN(5)]
		cfg.FailAt, cfg.FailAfter = int64(1+r.rng.IntN(10)), r.rng.IntN(2) == 0
	}
	p := newProcess(r.t, r.t.TempDir(), fmt.Sprint("w", r.life), "worker", cfg)
	r.log = p.logTail
	p.start(r.t)
	return func() bool { return !p.alive() }, p.kill
}

// committed waits until the job has committed a position of a source, and reports whether it has: a worker that is dead commits nothing.
func (r *operatorsRun) committed(dead func() bool, source string, position uint64) bool {
	r.t.Helper()
	is := false
	eventually(r.t, fmt.Sprintf("position %d of source %s is committed", position, source), func() bool {
		died := dead()
		is = r.position(source) >= position
		return is || died
	})
	return is
}

// position is what the job has committed of a source.
func (r *operatorsRun) position(source string) uint64 {
	r.t.Helper()
	ctx := context.Background()
	kv, err := r.js.KeyValue(ctx, jetstream.CheckpointBucket)
	if errors.Is(err, js.ErrBucketNotFound) {
		return 0
	}
	ok(r.t, err)
	entry, err := kv.Get(ctx, barriers.HeadKey(claimTenant, operatorsName))
	if errors.Is(err, js.ErrKeyNotFound) {
		return 0
	}
	ok(r.t, err)
	head, err := barriers.DecodeHead(entry.Value())
	ok(r.t, err)
	if entry, err = kv.Get(ctx, barriers.ManifestKey(claimTenant, operatorsName, head.Checkpoint)); errors.Is(err, js.ErrKeyNotFound) {
		return 0 // no checkpoint yet, or it was cleaned up meanwhile
	}
	ok(r.t, err)
	m, err := barriers.DecodeManifest(entry.Value())
	ok(r.t, err)
	for _, s := range m.Sources {
		if s.Name == source {
			return s.Position
		}
	}
	return 0
}

// finish lets the last worker do what is left, and asks for the verdict.
func (r *operatorsRun) finish() {
	r.t.Helper()
	r.claims(20)
	r.hist.end = r.begin.Add(time.Hour).UnixMilli()
	r.claim(plainClaim, lastKey, 2*time.Hour) // its time closes every window before it
	r.parallelism = 1 + (r.parallelism+r.rng.IntN(3))%4
	w, _ := r.worker(killInFlight)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	eventually(r.t, "all claims are read", func() bool { return r.position("claims") >= r.sent })
	// Behind two barriers in a row no claim is on its way from one call to the next.
	eventually(r.t, "no call is in flight", func() bool {
		for range 2 {
			if _, err := w.job(claimTenant).Checkpoint(ctx); err != nil || w.job(claimTenant).Metrics().AsyncInFlight > 0 {
				return false
			}
		}
		return true
	})
	ok(r.t, w.drain())
	got, err := readClaims(ctx, r.js, r.place)
	ok(r.t, err)
	r.t.Logf("%d claims, %d changes of rules, %d scored, %d done, %d windows, %d dead letters", len(r.hist.claims), len(r.hist.limits), len(got.scored), len(got.done), len(got.windows), len(got.dead))
	if wrong := r.hist.judge(got); len(wrong) > 0 {
		r.t.Fatalf("not exact:\n%s", firstLines(wrong, 20))
	}
}
