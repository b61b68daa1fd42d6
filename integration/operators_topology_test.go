package integration_test

import (
	"context"
	"errors"
	"iter"
	"maps"
	"sync"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// The job operators has every operator whose work is not over with its element: rules, calls in flight, rows, windows.
const (
	operatorsName = "operators"
	limitBucket   = "limits"
	priceBucket   = "prices"

	windowSize   = 2 * time.Second
	claimLag     = time.Second // how far the times of claims may be out of order
	checkTimeout = 300 * time.Millisecond
)

// claimKind says what happens to a claim outside.
type claimKind string

const (
	plainClaim  claimKind = ""
	slowClaim   claimKind = "slow"    // its score takes a while
	heldClaim   claimKind = "held"    // its score does not come while the worker of its Life lives
	flakyClaim  claimKind = "flaky"   // the first try of a process fails, in both calls
	silentClaim claimKind = "silent"  // the first check of a process times out
	noScore     claimKind = "noscore" // every score fails
	noCheck     claimKind = "nocheck" // every check fails
	refused     claimKind = "refused" // the job refuses it before any call
)

// claim is what is published on {tenant}.in.
type claim struct {
	ID   int       `json:"id"`
	Key  string    `json:"k"`
	At   int64     `json:"at"` // unix milliseconds
	Kind claimKind `json:"kind,omitempty"`
	Life int       `json:"life,omitempty"`
}

func (c claim) time() time.Time { return time.UnixMilli(c.At) }

// ruled is a claim, its number among those of its key, and the rules that it met.
type ruled struct {
	claim
	N        uint64         `json:"n"`
	Revision uint64         `json:"rev"`
	Rules    map[string]int `json:"rules"`
}

// priced is what comes of a claim.
type priced struct {
	ruled
	Found  bool   `json:"found"`
	Price  int    `json:"price"`
	PriceR uint64 `json:"price_rev"`
}

// claimWindow is the claims of a key that came through, by their time.
type claimWindow struct {
	Key   string `json:"k"`
	Start int64  `json:"start"` // unix milliseconds
	IDs   []int  `json:"ids"`
}

var (
	claimCount  = state.NewValue[uint64]("claims")
	errOutside  = errors.New("nobody answers outside")
	errUnwanted = errors.New("a claim that is not wanted")
)

// outside is what the job calls. It knows what it was asked before, as long as the process lives.
type outside struct {
	life int
	mu   sync.Mutex
	seen map[string]map[int]bool
}

// first reports whether a service is asked about a claim for the first time.
func (o *outside) first(service string, id int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.seen == nil {
		o.seen = map[string]map[int]bool{"score": {}, "check": {}}
	}
	known := o.seen[service][id]
	o.seen[service][id] = true
	return !known
}

func (o *outside) score(ctx context.Context, c ruled) (ruled, error) {
	switch {
	case c.Kind == noScore, c.Kind == flakyClaim && o.first("score", c.ID):
		return c, errOutside
	case c.Kind == heldClaim && c.Life == o.life:
		<-ctx.Done()
		return c, ctx.Err()
	case c.Kind == slowClaim:
		answer := time.NewTimer(time.Duration(10+c.ID*37%150) * time.Millisecond)
		defer answer.Stop()
		select {
		case <-answer.C:
		case <-ctx.Done():
			return c, ctx.Err()
		}
	}
	return c, nil
}

func (o *outside) check(ctx context.Context, c ruled) (ruled, error) {
	switch {
	case c.Kind == noCheck, c.Kind == flakyClaim && o.first("check", c.ID):
		return c, errOutside
	case c.Kind == silentClaim && o.first("check", c.ID):
		<-ctx.Done()
		return c, ctx.Err()
	}
	return c, nil
}

func ruleClaim(pc *processor.Context[ruled], c claim, rules *processor.RuleView[int]) error {
	if c.Kind == refused {
		return processor.Poison(errUnwanted)
	}
	n, err := claimCount.Get(pc)
	if err != nil {
		return err
	}
	pc.Emit(ruled{c, n + 1, rules.Revision(), maps.Collect(rules.All())})
	return claimCount.Set(pc, n+1)
}

func listClaims(pc *processor.Context[claimWindow], pane processor.Pane, claims iter.Seq[priced]) error {
	w := claimWindow{Key: pane.Key, Start: pane.Start.UnixMilli()}
	for c := range claims {
		w.IDs = append(w.IDs, c.ID)
	}
	pc.Emit(w)
	return nil
}

// buildOperators is for the process that the given number of others came before.
func buildOperators(life int) (*processor.Topology, error) {
	o := &outside{life: life}
	key := func(c ruled) string { return c.Key }
	b := processor.NewBuilder(operatorsName)
	limits := processor.Rules(b, "limits", processor.RulesSpec[int]{Bucket: limitBucket, Codec: codec.JSON[int]()})
	claims := processor.From(b, "claims", processor.SourceSpec[claim]{
		Filters: []tenants.Filter{"in.>"}, Codec: codec.JSON[claim](), EventTime: processor.EventTime(claim.time, processor.BoundedOutOfOrderness(claimLag)),
	})
	met := processor.Broadcast(processor.KeyBy(claims, func(c claim) string { return c.Key }), limits, "rule", ruleClaim, processor.Uses(claimCount))
	scored := processor.Async(processor.KeyBy(met, key), "score", processor.AsyncSpec[ruled]{
		Codec: codec.JSON[ruled](), Timeout: patience, Retry: processor.Retry{Attempts: 3, Backoff: time.Millisecond},
	}, o.score)
	checked := processor.Async(processor.KeyBy(scored, key), "check", processor.AsyncSpec[ruled]{
		// A busy machine may let a try or two time out.
		Codec: codec.JSON[ruled](), Unordered: true, Timeout: checkTimeout, Retry: processor.Retry{Attempts: 6, Backoff: time.Millisecond},
	}, o.check)
	done := processor.Lookup(checked, "price", processor.TableSpec[int]{Bucket: priceBucket, Codec: codec.JSON[int]()}, key,
		func(c ruled, row processor.Row[int], emit func(priced)) error {
			emit(priced{c, row.Found, row.Value, row.Revision})
			return nil
		})
	windows := processor.ProcessWindow(processor.Window(processor.KeyBy(done, func(c priced) string { return c.Key }), processor.Tumbling(windowSize)), "window", listClaims)
	processor.To(scored, "scored", sinkOf("out.scored", key))
	processor.To(done, "done", sinkOf("out.done", func(c priced) string { return c.Key }))
	processor.To(windows, "windows", sinkOf("out.windows", func(w claimWindow) string { return w.Key }))
	return b.Build()
}

func sinkOf[T any](subject string, key func(T) string) processor.SinkSpec[T] {
	return processor.SinkSpec[T]{
		Subject:  func(v T) string { return subject + "." + tenants.EscapeToken(key(v)) },
		Subjects: []tenants.Filter{tenants.Filter(subject + ".>")}, Codec: codec.JSON[T](),
	}
}
