package processor

import (
	"context"
	"fmt"
	"math"
	"strings"

	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
)

// Rules in a job.
//
// The bucket's stream is a source of the job, with a position in every checkpoint; the rules in force are the keyed state of that
// source's operator, which has one subtask whatever the parallelism. Every Broadcast has a copy in each of its subtasks' tasks, in memory
// alone, and changes reach it over an exchange of their own, at their place in the order of the task's output.
//
// Invariant: at a barrier the rules in force in every subtask of a Broadcast are those in the source's state. The source changes its
// state and sends the change in one step, and its barrier behind both; a subtask freezes when the barriers of all its inputs have
// come, and applies nothing of an input behind its barrier.
//
// First rules: a task with a Broadcast takes nothing but rules, and fires nothing, until its copies are loaded (task.loading). The source
// says so behind the rules of the checkpoint it was restored from; at a first start when nothing of the bucket was left to read, and the
// record that the leader had as the last one when the job was bound has been passed. The first alone would not do: the server that the
// reader is at may lag behind the leader. Nor would the second: a key may have moved from before it to behind it. Until then it makes
// no part of a checkpoint (task.trigger), so that none holds half of the first rules; it goes on reading while reading is paused, and
// stands for a hold only behind them. So loading does not wait for what waits for it.
//
// Failure windows. A crash before a checkpoint behind the load: the load begins anew. A crash between a change and the next checkpoint: the
// change is read again; what it had caused was not committed. An aborted checkpoint: nothing is put back that the copies do not
// have, since state is not rolled back. A key that lost its value and its delete marker while no worker looked: its rule is restored, and
// then removed when the source has passed the last sequence that the bucket had when it was asked for its keys (rulesInput.gone); a key
// that came back is read behind that.

// noSequence is behind every sequence of a stream.
const noSequence = math.MaxUint64

// ruleChange is a rule that was set or removed.
type ruleChange struct {
	key     string
	rule    string // encoded
	removed bool
	seq     uint64
}

// ruleFeed takes the rules on the way to a Broadcast.
type ruleFeed interface {
	change(c ruleChange)
	// loaded says that the first rules are complete. They are those of a revision.
	loaded(revision uint64)
}

// rulesInput is what a source of rules has beside other sources.
type rulesInput struct {
	task    *task
	node    *node
	src     *sourceInput
	op      int32
	keys    TableBinding
	kept    *state.Value[ruleText]
	backend *state.Backend
	check   func(rule []byte) error
	feeds   []ruleFeed
	records []Record // of the batch that is being read

	restored bool
	loading  bool
	until    uint64          // the first rules are complete here
	stand    bool            // when they are, it is to stand at standAt for a hold
	standAt  uint64          //
	last     uint64          // of the bucket, when it was bound; 0: nothing, or it is another one now
	gone     map[string]bool // keys that are in force and that the bucket does not have any more
	goneAt   uint64          // they are removed here
}

// collectRules makes the function that takes the records of a bucket.
func collectRules[R any](a *assembly, n *node, kept *state.Value[ruleText], rules codec.Codec[R]) any {
	r := &rulesInput{task: a.task, node: n, op: a.operator(n.name), kept: kept, backend: a.backend(n), loading: true}
	r.check = func(rule []byte) error {
		_, err := rules.Decode(rule)
		return err
	}
	for _, feed := range a.consumers(n) {
		r.feeds = append(r.feeds, feed.(ruleFeed))
	}
	a.clock(n, &timeOptions{})
	a.rules[n] = r
	a.task.loading++
	return r.take
}

// bind makes a source one of rules.
func (r *rulesInput) bind(s *sourceInput, b SourceBinding) {
	r.src, r.last, r.until = s, b.LastSeq, noSequence
	r.keys = TableBinding{Prefix: b.Prefix, Shared: r.node.source.shared}
	s.ref.prefix, s.all, s.literal = b.Prefix, true, false
}

// reconcile hears which subjects the bucket has, in a job that was restored. What is in force and not among them is gone.
func (r *rulesInput) reconcile(subjects []string) error {
	keys, err := r.backend.Keys(r.kept.Info().Name)
	if err != nil {
		return err
	}
	r.gone, r.goneAt = make(map[string]bool), r.last
	for _, k := range keys {
		r.gone[k] = true
	}
	for _, s := range subjects {
		if key, ok := r.keys.Key(s); ok {
			delete(r.gone, key)
		}
	}
	return nil
}

// begin comes before anything else in the task: the rules of the checkpoint go out again.
func (r *rulesInput) begin() {
	t := r.task
	t.op = r.op
	err := r.backend.EachKey(r.kept.Info().Name, func(key string) error {
		if !r.restored { // of a source that was taken out of the savepoint: it begins anew
			return r.kept.Clear(r.backend)
		}
		rule, err := r.kept.Get(r.backend)
		if err != nil {
			return err
		}
		if err := r.check(rule); err != nil {
			return Terminal(fmt.Errorf("rule %q of the checkpoint: decoding it as %s: %w: go on with the codec that reads it until the bucket %s has another one under this key",
				key, r.node.source.codec, err, r.node.source.bucket))
		}
		r.send(ruleChange{key: key, rule: string(rule), seq: r.src.position})
		return nil
	})
	if err != nil {
		t.fail(&OperatorError{t.where(r.op), err})
		return
	}
	if r.restored || r.last == 0 {
		r.until = 0
	}
	r.progress()
}

func (r *rulesInput) send(c ruleChange) {
	for _, f := range r.feeds {
		f.change(c)
	}
}

// take handles the record that the task's origin names.
func (r *rulesInput) take(data []byte) {
	t, seq := r.task, r.task.origin.seq
	if len(r.gone) > 0 && seq > r.goneAt {
		r.removeGone(r.goneAt)
	}
	key, ok := r.keys.Key(t.origin.subject)
	if !ok {
		t.poison(r.op, fmt.Errorf("%q is no key of a rule: use what tenants.EscapeToken makes of it", strings.TrimPrefix(t.origin.subject, r.keys.Prefix)))
		return
	}
	delete(r.gone, key)
	r.backend.SetKey(key)
	if KVRemoved(r.header(seq)) {
		r.remove(key, seq)
		return
	}
	if err := r.check(data); err != nil {
		t.poison(r.op, fmt.Errorf("rule %q of bucket %s: decoding it as %s: %w", key, r.node.source.bucket, r.node.source.codec, err))
		return
	}
	if err := r.kept.Set(r.backend, append(ruleText(nil), data...)); err != nil {
		t.userError(r.op, err)
		return
	}
	r.send(ruleChange{key: strings.Clone(key), rule: string(data), seq: seq})
}

// remove ends the rule of the backend's key.
func (r *rulesInput) remove(key string, seq uint64) {
	_, ok, err := r.kept.Lookup(r.backend)
	if err == nil && ok {
		err = r.kept.Clear(r.backend)
	}
	if err != nil {
		r.task.userError(r.op, err)
		return
	}
	r.send(ruleChange{key: strings.Clone(key), removed: true, seq: seq})
}

// header returns the headers of a record of the batch.
func (r *rulesInput) header(seq uint64) map[string][]string {
	for len(r.records) > 0 {
		rec := &r.records[0]
		if rec.Seq == seq {
			return rec.Header
		}
		r.records = r.records[1:]
	}
	return nil
}

// read says that the reader had delivered everything there was up to the position. A server that lags behind the stream's leader, which
// was asked for the last record, says so too early.
func (r *rulesInput) read() {
	if r.src.position < r.last {
		return
	}
	r.until = min(r.until, r.src.position)
	r.goneAt = min(r.goneAt, r.src.position)
}

// batch runs the records of a batch, or what is left of one, through the rules.
func (r *rulesInput) batch(input int, in *taskInput, ev evBatch) {
	r.records = ev.batch.Records
	r.task.batch(input, in, ev)
	r.progress()
}

// progress does what waits for the position.
func (r *rulesInput) progress() {
	r.records = nil
	at := r.src.position
	if r.task.err != nil {
		return
	}
	if len(r.gone) > 0 && at >= r.goneAt {
		r.removeGone(at)
	}
	if r.loading && at >= r.until {
		r.loading = false
		r.task.loaded()
		for _, f := range r.feeds {
			f.loaded(at)
		}
		if r.stand {
			r.stand = false
			r.src.hold.limit = max(r.standAt, at)
			r.task.reached(r.src)
		}
	}
}

func (r *rulesInput) removeGone(seq uint64) {
	r.task.touch()
	for _, key := range sortedKeys(r.gone) {
		r.backend.SetKey(key)
		r.remove(key, seq)
	}
	r.gone = nil
}

// reset hears that the bucket is another one: what it does not have when all of it was read is gone.
func (r *rulesInput) reset() {
	r.gone, r.goneAt, r.last = make(map[string]bool), noSequence, 0
	keys, err := r.backend.Keys(r.kept.Info().Name)
	if err != nil {
		r.task.fail(err)
	}
	for _, k := range keys {
		r.gone[k] = true
	}
}

// loaded says that one of those that the task waits for has its first rules. With all of them elements may come.
func (t *task) loaded() {
	if t.loading--; t.loading > 0 {
		return
	}
	for _, in := range t.inputs {
		in.waits = false
	}
}

// awaitRules keeps everything but rules from a task that waits for the first ones.
func (t *task) awaitRules() {
	for _, in := range t.inputs {
		in.waits = t.loading > 0 && in.head.kind != KindRules && in.head.kind != KindRulesInput
	}
}

// beginRules sends the rules of a checkpoint out again.
func (t *task) beginRules() {
	for _, in := range t.inputs {
		if in.source != nil && in.source.rules != nil && t.err == nil {
			in.source.rules.begin()
		}
	}
}

// reconcileRules tells restored rules which keys their bucket still has.
func (a *attempt) reconcileRules(ctx context.Context, io effects, s *started, src *sourceInput) error {
	b := s.bind.source(src.ref.name)
	if src.rules == nil || s.positions[b.Source].Stream == "" {
		return nil
	}
	subjects, err := io.Subjects(ctx, b.Stream, b.Filter)
	if err != nil {
		return fmt.Errorf("listing the keys of the rules %s: %w", b.Source, err)
	}
	if err := src.rules.reconcile(subjects); err != nil {
		return Terminal(fmt.Errorf("comparing the rules %s with their bucket: %w", b.Source, err))
	}
	return nil
}
