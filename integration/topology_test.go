package integration_test

import (
	"errors"
	"strconv"
	"testing"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// event is what the tests publish on {tenant}.in.
type event struct {
	Key    string `json:"k"`
	Value  uint64 `json:"v"`
	Tenant string `json:"t"` // who sent it: it must come back out to the same
}

// tally says that a key was seen for the N-th time. Sum depends on every value before, in order.
type tally struct {
	Key    string `json:"k"`
	N      uint64 `json:"n"`
	Sum    uint64 `json:"s"`
	Tenant string `json:"t"`
	// Mean is what the job delays computes.
	Mean float64 `json:"m,omitempty"`
}

// tallyBucket is the bucket that holds the last tally of every key of every tenant.
const tallyBucket = "tallies"

var (
	seenTimes = state.NewValue[uint64]("times")
	sumState  = state.NewMap[string, uint64]("sums")
	errPoison = errors.New("the value is divisible by 97")
)

const tallyName = "tally"

// add is the model of one step; the job uses the same arithmetic, on its own state.
func add(t tally, e event) tally {
	return tally{Key: e.Key, N: t.N + 1, Sum: t.Sum*1000003 + e.Value + 1, Tenant: e.Tenant}
}

// poisonous values are refused by the job.
func poisonous(e event) bool { return e.Value%97 == 96 }

func countEvent(pc *processor.Context[tally], e event) error {
	if poisonous(e) {
		return processor.Poison(errPoison)
	}
	n, err := seenTimes.Get(pc)
	if err != nil {
		return err
	}
	sum, _, err := sumState.Get(pc, "sum")
	if err != nil {
		return err
	}
	next := add(tally{N: n, Sum: sum}, e)
	if err := sumState.Put(pc, "sum", next.Sum); err != nil {
		return err
	}
	if err := seenTimes.Set(pc, next.N); err != nil {
		return err
	}
	pc.Emit(next)
	return nil
}

// tallyTopology counts per key, exactly once, into a stream and a bucket; what it cannot read goes to the dead letters.
func tallyTopology(t testing.TB) *processor.Topology {
	t.Helper()
	topo, err := buildTally()
	ok(t, err)
	return topo
}

func buildTally() (*processor.Topology, error) {
	b := processor.NewBuilder(tallyName)
	events := processor.From(b, "events", processor.SourceSpec[event]{Filters: []tenants.Filter{"in.>"}, Codec: codec.JSON[event]()})
	keyed := processor.KeyBy(events, func(e event) string { return e.Key })
	publishTallies(processor.Process(keyed, "count", countEvent, processor.Uses(seenTimes, sumState)))
	return b.Build()
}

// publishTallies writes tallies out exactly once, into a stream and a bucket.
func publishTallies(tallies processor.Stream[tally]) {
	processor.To(tallies, "out", processor.SinkSpec[tally]{
		Subject:  func(c tally) string { return "out." + tenants.EscapeToken(c.Key) },
		Subjects: []tenants.Filter{"out.>"}, Codec: codec.JSON[tally](),
	})
	processor.ToKV(tallies, "last", processor.KVSpec[tally]{
		Bucket: tallyBucket, Key: func(c tally) string { return c.Key }, Codec: codec.JSON[tally](),
	})
}

func keyName(i int) string { return "key-" + strconv.Itoa(i) }
