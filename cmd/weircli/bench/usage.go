package bench

import (
	"runtime"
	"time"
)

// usage is what the process has used since a mark. The embedded server is part of the process, on both sides alike.
type usage struct {
	elapsed time.Duration
	cpu     time.Duration
	mallocs uint64
}

type mark struct {
	at      time.Time
	cpu     time.Duration
	mallocs uint64
}

// settle collects garbage, so that no run pays for the one before, and marks the beginning of a run.
func settle() mark {
	runtime.GC()
	return mark{mallocs: mallocs(), cpu: cpuTime(), at: time.Now()}
}

func (m mark) since() usage {
	return usage{elapsed: time.Since(m.at), cpu: cpuTime() - m.cpu, mallocs: mallocs() - m.mallocs}
}

func mallocs() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}
