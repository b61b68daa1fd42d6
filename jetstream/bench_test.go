package jetstream_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/jetstream"
	"github.com/weirstream/weir/jetstream/embedded"
	"github.com/weirstream/weir/processor"
)

// listening is a server with a port, as weir dev runs it, and a stream for one tenant.
func listening(b *testing.B) *world {
	w := &world{t: b, dir: b.TempDir()}
	srv, err := embedded.Start(embedded.Options{Dir: w.dir, Port: -1})
	ok(b, err)
	b.Cleanup(srv.Shutdown)
	w.srv = srv
	w.b = newBroker(b, srv)
	w.nc, w.js = newClient(b, srv)
	w.stream(js.StreamConfig{Name: "acme", Subjects: []string{"acme.>"}, AllowAtomicPublish: true, AllowMsgTTL: true})
	return w
}

const benchRecords = 300_000

func (w *world) fill(n int) {
	w.t.Helper()
	payload := make([]byte, 128)
	for i := range n {
		w.publishAsync("acme.orders."+strconv.Itoa(i%10_000), payload)
	}
	<-w.js.PublishAsyncComplete()
}

// BenchmarkRead compares the reader with the best a nats.go user gets, both over loopback.
func BenchmarkRead(b *testing.B) {
	w := listening(b)
	w.fill(benchRecords)
	for _, filter := range []string{"acme.>", "acme.orders.>"} {
		b.Run("weir "+filter, func(b *testing.B) { w.benchReader(b, filter) })
		b.Run("ordered "+filter, func(b *testing.B) { w.benchOrdered(b, filter) })
	}
}

func (w *world) benchReader(b *testing.B, filter string) {
	b.ReportAllocs()
	for b.Loop() {
		r := w.open(processor.ReaderSpec{Stream: "acme", Filter: filter})
		for got := 0; got < benchRecords; {
			batch, err := r.Next(context.Background())
			ok(b, err)
			got += len(batch.Records)
		}
		r.Close()
	}
	b.ReportMetric(float64(b.N)*benchRecords/b.Elapsed().Seconds(), "msgs/s")
}

func (w *world) benchOrdered(b *testing.B, filter string) {
	b.ReportAllocs()
	nc, err := nats.Connect(w.srv.ClientURL())
	ok(b, err)
	defer nc.Close()
	s, err := js.New(nc)
	ok(b, err)
	for b.Loop() {
		c, err := s.OrderedConsumer(context.Background(), "acme", js.OrderedConsumerConfig{FilterSubjects: []string{filter}})
		ok(b, err)
		got, done := 0, make(chan struct{})
		cc, err := c.Consume(func(js.Msg) {
			if got++; got == benchRecords {
				close(done)
			}
		}, js.PullMaxMessages(50_000))
		ok(b, err)
		<-done
		cc.Stop()
	}
	b.ReportMetric(float64(b.N)*benchRecords/b.Elapsed().Seconds(), "msgs/s")
}

// BenchmarkPublish compares at-least-once publishing with nats.go's.
func BenchmarkPublish(b *testing.B) {
	const n = 20_000
	payload := make([]byte, 128)
	b.Run("weir", func(b *testing.B) {
		w := listening(b)
		for b.Loop() {
			var wg sync.WaitGroup
			wg.Add(n)
			for range n {
				ok(b, w.b.Publish(context.Background(), "acme", processor.Message{Subject: "acme.out.a", Data: payload}, func(error) { wg.Done() }))
			}
			wg.Wait()
		}
		b.ReportMetric(float64(b.N)*n/b.Elapsed().Seconds(), "msgs/s")
	})
	b.Run("nats.go", func(b *testing.B) {
		w := listening(b)
		for b.Loop() {
			for range n {
				w.publishAsync("acme.out.a", payload)
			}
			<-w.js.PublishAsyncComplete()
		}
		b.ReportMetric(float64(b.N)*n/b.Elapsed().Seconds(), "msgs/s")
	})
}

const partMessages = 999

func benchParts(n int) []processor.Part {
	parts := make([]processor.Part, n)
	for i := range parts {
		messages := make([]processor.Message, partMessages)
		for k := range messages {
			messages[k] = processor.Message{Subject: "acme.out." + strconv.Itoa(k), Data: make([]byte, 128)}
		}
		parts[i] = processor.Part{Job: job, Sink: "out", Stream: "acme", Messages: messages,
			Marker: processor.Message{Subject: "acme._weir.revenue.sink.out", Data: fmt.Appendf(nil, `{"released":%d}`, i)}}
		if i > 0 {
			parts[i-1].Next = &parts[i]
		}
	}
	return parts
}

// BenchmarkPublishPart compares parts that name their successor with a loop that publishes a batch and waits.
func BenchmarkPublishPart(b *testing.B) {
	const n = 20
	run := func(b *testing.B, next bool) {
		w := listening(b)
		seq := uint64(0)
		for b.Loop() {
			parts := benchParts(n)
			for i := range parts {
				parts[i].Expected = seq
				if !next {
					parts[i].Next = nil
				}
				reply := w.b.PublishPart(context.Background(), parts[i])
				equal(b, "status", reply.Status, barriers.OK)
				seq = reply.Seq
			}
		}
		b.ReportMetric(float64(b.N)*n*partMessages/b.Elapsed().Seconds(), "msgs/s")
	}
	b.Run("next", func(b *testing.B) { run(b, true) })
	b.Run("alone", func(b *testing.B) { run(b, false) })
	b.Run("naive", func(b *testing.B) {
		w := listening(b)
		seq := uint64(0)
		for b.Loop() {
			for i, p := range benchParts(n) {
				id := "naive-" + strconv.Itoa(b.N) + "-" + strconv.Itoa(i) + "-" + strconv.FormatUint(seq, 10)
				for k, m := range p.Messages {
					ok(b, w.nc.PublishMsg(&nats.Msg{Subject: m.Subject, Data: m.Data, Header: nats.Header{
						"Nats-Batch-Id": {id}, "Nats-Batch-Sequence": {strconv.Itoa(k + 1)}}}))
				}
				ack, err := w.js.PublishMsg(context.Background(), &nats.Msg{Subject: p.Marker.Subject, Data: p.Marker.Data, Header: nats.Header{
					"Nats-Batch-Id": {id}, "Nats-Batch-Sequence": {strconv.Itoa(len(p.Messages) + 1)}, "Nats-Batch-Commit": {"1"}}})
				ok(b, err)
				seq = ack.Sequence
			}
		}
		b.ReportMetric(float64(b.N)*n*partMessages/b.Elapsed().Seconds(), "msgs/s")
	})
}

// BenchmarkObject stores and reads a snapshot object, against nats.go's object store.
func BenchmarkObject(b *testing.B) {
	for _, size := range []int{1 << 10, 1 << 20, 16 << 20} {
		for _, chunk := range []int{128 << 10, 512 << 10} {
			b.Run(fmt.Sprintf("%dKiB/chunk%dKiB", size>>10, chunk>>10), func(b *testing.B) {
				w := newWorld(b, func(c *jetstream.Config) { c.ChunkBytes = chunk })
				data := make([]byte, size)
				var last barriers.Object
				n := 0
				b.Run("put", func(b *testing.B) {
					b.SetBytes(int64(size))
					for b.Loop() {
						n++
						ref, err := w.b.Put(context.Background(), job.Tenant, "revenue/1-1/op-0-"+strconv.Itoa(n), data)
						ok(b, err)
						last = ref
					}
				})
				b.Run("get", func(b *testing.B) {
					b.SetBytes(int64(size))
					for b.Loop() {
						_, err := w.b.Get(context.Background(), job.Tenant, last)
						ok(b, err)
					}
				})
			})
		}
		b.Run(fmt.Sprintf("%dKiB/nats.go", size>>10), func(b *testing.B) {
			w := newWorld(b)
			store, err := w.js.CreateObjectStore(context.Background(), js.ObjectStoreConfig{Bucket: "theirs"})
			ok(b, err)
			data := make([]byte, size)
			n := 0
			b.Run("put", func(b *testing.B) {
				b.SetBytes(int64(size))
				for b.Loop() {
					n++
					_, err := store.PutBytes(context.Background(), strconv.Itoa(n), data)
					ok(b, err)
				}
			})
			b.Run("get", func(b *testing.B) {
				b.SetBytes(int64(size))
				for b.Loop() {
					_, err := store.GetBytes(context.Background(), strconv.Itoa(n))
					ok(b, err)
				}
			})
		})
	}
}
