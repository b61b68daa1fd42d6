package jetstream

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirstream/weir/processor"
)

// Rows that expire are looked for once a second at most: to do so with every message would look at every row for each.
func TestTableSweepsSeldom(t *testing.T) {
	tb := &table{b: &Broker{cfg: Config{MaxTableBytes: 1 << 20}}, bind: processor.TableBinding{Prefix: "$KV.b.", Shared: true}}
	p := &tablePass{table: tb, fresh: true, listed: true, maxAge: 10 * time.Second}
	size := func() int {
		rows, _ := tb.rows.Size()
		return int(rows)
	}
	for seq := range uint64(4) {
		m := &nats.Msg{Subject: fmt.Sprint("$KV.b.k", seq), Data: []byte("v")}
		at := time.Hour + time.Duration(seq)*100*time.Millisecond
		if err := p.message(m, delivery{streamSeq: seq + 1, time: int64(at)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		after time.Duration
		rows  int
	}{{9 * time.Second, 4}, {10*time.Second + time.Millisecond, 3}, {10*time.Second + 400*time.Millisecond, 3}, {11*time.Second + 2*time.Millisecond, 0}} {
		now := int64(time.Hour + c.after)
		if p.next > 0 && now >= p.next {
			p.sweep(now)
		}
		if n := size(); n != c.rows {
			t.Errorf("%v after the first: %d rows, want %d", c.after, n, c.rows)
		}
	}
}
