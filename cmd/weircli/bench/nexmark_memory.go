package bench

import (
	"context"
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/examples/nexmark"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/processor/processortest"
	"github.com/weirstream/weir/tenants"
)

// auctionLog is the encoded events of a run in publishing order, in one piece, so that they are no work for the garbage collector.
type auctionLog struct {
	bound time.Duration
	data  []byte
	ends  []int
	kinds []uint8
}

var auctionSubjects = [...]string{nexmark.PersonSubject, nexmark.AuctionSubject, nexmark.BidSubject}

func newAuctionLog(n int) (*auctionLog, error) {
	// A hundred events change places, as they do when ten publishers are a millisecond apart.
	g, err := nexmark.NewGenerator(nexmark.Config{Seed: 1, Shuffle: 100})
	if err != nil {
		return nil, err
	}
	log := &auctionLog{bound: g.OutOfOrder(), ends: make([]int, 0, n), kinds: make([]uint8, 0, n)}
	c := nexmark.Codec()
	for position := range uint64(n) {
		e := g.At(position)
		if log.data, err = c.Append(log.data, e); err != nil {
			return nil, err
		}
		log.ends = append(log.ends, len(log.data))
		switch {
		case e.Person != nil:
			log.kinds = append(log.kinds, 0)
		case e.Auction != nil:
			log.kinds = append(log.kinds, 1)
		default:
			log.kinds = append(log.kinds, 2)
		}
	}
	return log, nil
}

// event returns the subject and the bytes of the event at a position.
func (l *auctionLog) event(i int) (subject string, data []byte) {
	from := 0
	if i > 0 {
		from = l.ends[i-1]
	}
	return tenant + "." + auctionSubjects[l.kinds[i]], l.data[from:l.ends[i]:l.ends[i]]
}

// resultSum is the hashes of results, in the order in which they were published. Two runs of a query must have the same results,
// as a multiset; of a table only the last of each key.
type resultSum struct {
	table  bool
	hashes [][2]uint64 // of the subject and of the data
}

var hashSeed = maphash.MakeSeed()

func newResultSum(q nexmark.Query) *resultSum {
	return &resultSum{table: q.Emits == nexmark.EmitsChanges}
}

// add is cheap: it is part of what is measured.
func (s *resultSum) add(subject string, data []byte) {
	s.hashes = append(s.hashes, [2]uint64{maphash.String(hashSeed, subject), maphash.Bytes(hashSeed, data)})
}

// total returns the number of results and the sum of their hashes.
func (s *resultSum) total() (n int, sum uint64) {
	if !s.table {
		for _, h := range s.hashes {
			sum += h[1]
		}
		return len(s.hashes), sum
	}
	last := make(map[uint64]uint64)
	for _, h := range s.hashes {
		sum += h[1] - last[h[0]]
		last[h[0]] = h[1]
	}
	return len(last), sum
}

// same reports whether both have the same results.
func (s *resultSum) same(o *resultSum) bool {
	n, sum := s.total()
	on, osum := o.total()
	return n == on && sum == osum
}

// memoryBroker is a broker that hands out events from memory, as fast as they are taken, and takes results without keeping them.
type memoryBroker struct {
	*processortest.Memory
	log      *auctionLog
	subjects [len(auctionSubjects)]string
	now      int64

	mu      sync.Mutex
	results *resultSum
}

func newMemoryBroker(log *auctionLog, results *resultSum) *memoryBroker {
	m := &memoryBroker{
		Memory: processortest.NewMemory(tenants.DefaultNamespace, nil), log: log, now: time.Now().UnixNano(), results: results,
	}
	for i, s := range auctionSubjects {
		m.subjects[i] = tenant + "." + s
	}
	return m
}

// fillSideInput makes the bucket that q13 reads.
func (m *memoryBroker) fillSideInput() error {
	m.AddBucket(nexmark.SideBucket)
	for key, value := range nexmark.SideInput() {
		if _, err := m.PutKey(nexmark.SideBucket, key, []byte(value)); err != nil {
			return fmt.Errorf("filling bucket %s: %w", nexmark.SideBucket, err)
		}
	}
	return nil
}

// Bind gives batches the size that the embedded server allows.
func (m *memoryBroker) Bind(ctx context.Context, needs processor.Needs) (processor.Bindings, error) {
	b, err := m.Memory.Bind(ctx, needs)
	for i := range b.Sources {
		b.Sources[i].LastSeq = uint64(len(m.log.ends))
	}
	for i := range b.Sinks {
		b.Sinks[i].MaxPart = 10_000
	}
	return b, err
}

// OpenReader implements processor.Transport.
func (m *memoryBroker) OpenReader(_ context.Context, spec processor.ReaderSpec) (processor.Reader, error) {
	return &memoryReader{m: m, next: int(spec.After), most: spec.BatchRecords, mostBytes: spec.BatchBytes}, nil
}

// PublishPart counts the results and keeps the marker.
func (m *memoryBroker) PublishPart(ctx context.Context, p processor.Part) barriers.Reply {
	messages := p.Messages
	p.Messages = nil
	reply := m.Memory.PublishPart(ctx, p)
	if reply.Status == barriers.OK {
		m.mu.Lock()
		defer m.mu.Unlock()
		for i := range messages {
			m.results.add(messages[i].Subject, messages[i].Data)
		}
	}
	return reply
}

type memoryReader struct {
	m               *memoryBroker
	next            int
	most, mostBytes int
}

// Next implements processor.Reader.
func (r *memoryReader) Next(ctx context.Context) (processor.Batch, error) {
	log := r.m.log
	if r.next == len(log.ends) {
		<-ctx.Done()
		return processor.Batch{}, ctx.Err()
	}
	n := min(r.most, len(log.ends)-r.next)
	records := make([]processor.Record, 0, n)
	for size := 0; len(records) < n && size < r.mostBytes; {
		_, data := log.event(r.next)
		size += len(data)
		records = append(records, processor.Record{Subject: r.m.subjects[log.kinds[r.next]], Data: data, Seq: uint64(r.next + 1), Time: r.m.now})
		r.next++
	}
	return processor.Batch{Records: records, Position: uint64(r.next), Pending: uint64(len(log.ends) - r.next)}, nil
}

// Close implements processor.Reader.
func (r *memoryReader) Close() {}
