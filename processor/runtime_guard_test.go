package processor

import (
	"bytes"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestGuardWaitsForAWhileAndThenAbandons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var abandoned, lingering atomic.Int64
		var log bytes.Buffer
		logger := slog.New(slog.NewTextHandler(&log, nil))
		open, late := make(chan struct{}), false
		at := func(operator string, seq uint64) func() Where {
			return func() Where { return Where{Operator: operator, Stream: "acme", Seq: seq} }
		}
		g := newGuard(&abandoned, &lingering)
		g.Go(at("short", 1), func() { time.Sleep(patience - 1) })
		g.Go(at("long", 2), func() { <-open; late = true })
		start := time.Now()
		g.wait(logger)
		if took := time.Since(start); took != patience {
			t.Errorf("it waited for %s", took)
		}
		if n := abandoned.Load(); n != 1 || late {
			t.Errorf("%d are abandoned", n)
		}
		if text := log.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, "operator=long stream=acme seq=2") {
			t.Errorf("the log says %s", text)
		}
		if g.Go(at("later", 3), func() { t.Error("a goroutine was started behind the end") }) {
			t.Error("a goroutine was taken on behind the end")
		}
		close(open)
		synctest.Wait()
		if n := abandoned.Load(); n != 0 || !late {
			t.Errorf("%d are abandoned behind their return", n)
		}

		g = newGuard(&abandoned, &lingering)
		g.Go(at("short", 1), func() { time.Sleep(time.Second) })
		start = time.Now()
		if g.wait(logger); time.Since(start) != time.Second || abandoned.Load() != 0 {
			t.Errorf("with nothing stuck it waited for %s and abandoned %d", time.Since(start), abandoned.Load())
		}
	})
}

const stackOfTask = `goroutine profile: total 3
1 @ 0x47f1 0x4af2
# labels: {"weir_epoch":"2", "weir_job":"acme/x", "weir_task":"lines-0"}
#	0x47f1	main.helper+0x11	/home/u/app/helper.go:3
#	0x4af2	main.started.func1+0x33	/home/u/app/main.go:9

1 @ 0x47f1 0x4af2
# labels: {"weir_epoch":"1", "weir_job":"acme/x", "weir_task":"lines-0"}
#	0x47f1	main.abandoned+0x11			/home/u/app/old.go:3
#	0x4af2	github.com/weirstream/weir/processor.(*host).loop+0x33	/w/processor/runtime_host.go:60

1 @ 0x47f1 0x4af2
# labels: {"weir_epoch":"2", "weir_job":"acme/x", "weir_task":"lines-0"}
FRAMES
#	0x4af2	github.com/weirstream/weir/processor.Map[...].func1.1+0x33	/w/processor/stream.go:40
#	0x4af2	github.com/weirstream/weir/processor.(*host).loop+0x33	/w/processor/runtime_host.go:60
`

func TestUserFrameIsTheInnermostOfTheUsersOwn(t *testing.T) {
	for _, tt := range []struct{ name, frames, want string }{
		{"his function", "#	0x1	main.parse+0x41	/home/u/app/parse.go:42", "main.parse (parse.go:42)"},
		{"blocked in a library", `#	0x1	internal/poll.runtime_pollWait+0x84	LIBruntime/netpoll.go:351
#	0x1	net/http.(*Client).do+0x41	LIBnet/http/client.go:12
#	0x1	shop.example/orders.(*API).Get+0x41	/home/u/go/pkg/mod/shop.example/orders@v1.2.0/api.go:7
#	0x1	main.parse+0x41	/home/u/app/parse.go:42`, "shop.example/orders.(*API).Get (api.go:7)"},
		{"asleep", "#	0x1	time.Sleep+0x41	LIBruntime/time.go:12\n#	0x1	main.parse+0x41	/home/u/app/parse.go:42", "main.parse (parse.go:42)"},
		{"calling Weir", `#	0x1	github.com/weirstream/weir/state.(*Value[...]).Get+0x41	/w/state/value.go:12
#	0x1	main.parse.func2+0x41	/home/u/app/parse.go:43`, "main.parse.func2 (parse.go:43)"},
		{"in a codec", `#	0x1	main.(*Order).UnmarshalJSON+0x41	/home/u/app/order.go:5
#	0x1	encoding/json.Unmarshal+0x41	LIBencoding/json/decode.go:12
#	0x1	github.com/weirstream/weir/state/codec.(*jsonCodec[...]).Decode+0x33	/w/state/codec/json.go:40`, "main.(*Order).UnmarshalJSON (order.go:5)"},
		{"a library alone", `#	0x1	time.Sleep+0x41	LIBruntime/time.go:12`, "time.Sleep (time.go:12)"},
		{"Weir alone", "#	0x1	github.com/weirstream/weir/state.(*Backend).Freeze+0x41	/w/state/freeze.go:12", ""},
	} {
		profile := strings.Replace(stackOfTask, "FRAMES", strings.ReplaceAll(tt.frames, "LIB", libraryRoot()), 1)
		if got := userFrame(profile, []string{`"weir_job":"acme/x"`, `"weir_task":"lines-0"`, `"weir_epoch":"2"`}); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
