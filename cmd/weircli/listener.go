package weircli

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// printer tells a person what happens to jobs: at most one line per checkpoint and job, and not more often than every pause.
type printer struct {
	out   io.Writer
	pause time.Duration

	mu   sync.Mutex
	last map[tenants.JobID]time.Time
	held map[tenants.JobID]held
}

// held sums up checkpoints that got no line of their own.
type held struct {
	checkpoints int
	messages    uint64
	bytes       int64
}

func newPrinter(out io.Writer, pause time.Duration) *printer {
	return &printer{out: out, pause: pause, last: make(map[tenants.JobID]time.Time), held: make(map[tenants.JobID]held)}
}

func (p *printer) listener() processor.Listener {
	return processor.Listener{Job: p.job, Checkpoint: p.checkpoint, CheckpointFailed: p.failed}
}

func (p *printer) checkpoint(e processor.CheckpointEvent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.held[e.Job]
	h.checkpoints++
	h.messages += e.Messages
	h.bytes += e.Bytes
	if e.At.Sub(p.last[e.Job]) < p.pause {
		p.held[e.Job] = h
		return
	}
	p.last[e.Job] = e.At
	delete(p.held, e.Job)
	more := ""
	if h.checkpoints > 1 {
		more = fmt.Sprintf(" (%d checkpoints)", h.checkpoints)
	}
	p.line(e.At, e.Job, "checkpoint %d: %d results out, %s of state, %s%s", e.Checkpoint, h.messages, byteCount(h.bytes), e.Duration.Round(time.Millisecond), more)
}

func (p *printer) failed(e processor.CheckpointFailure) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.line(e.At, e.Job, "checkpoint %d was aborted: %v", e.Checkpoint, e.Err)
}

func (p *printer) job(e processor.JobEvent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e.State {
	case processor.JobRunning:
		p.line(e.At, e.Job, "running, epoch %d", e.Epoch)
	case processor.JobStandby:
		p.line(e.At, e.Job, "standing by: another worker owns it")
	case processor.JobRestarting:
		p.line(e.At, e.Job, "restarting in %s: %v", max(e.Retry.Sub(e.At), 0).Round(time.Millisecond), e.Err)
	case processor.JobParked, processor.JobFailed:
		p.line(e.At, e.Job, "%s: %v", e.State, e.Err)
	case processor.JobStopped:
		p.line(e.At, e.Job, "stopped")
	}
}

func (p *printer) line(at time.Time, job tenants.JobID, format string, args ...any) {
	fmt.Fprintf(p.out, "%s  %-20s  %s\n", at.Format("15:04:05"), job, fmt.Sprintf(format, args...))
}

func byteCount(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}
