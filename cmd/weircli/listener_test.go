package weircli

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

func TestPrinterSumsUp(t *testing.T) {
	var out strings.Builder
	p := newPrinter(&out, time.Second)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	acme, globex := tenants.JobID{Tenant: "acme", Name: "wordcount"}, tenants.JobID{Tenant: "globex", Name: "wordcount"}
	for i := range 11 {
		e := processor.CheckpointEvent{Checkpoint: uint64(i + 1), At: at.Add(time.Duration(i) * 100 * time.Millisecond), Messages: 2, Bytes: 1024, Duration: 7 * time.Millisecond}
		e.Job = acme
		p.checkpoint(e)
		if i == 0 {
			e.Job = globex
			p.checkpoint(e)
		}
	}
	want := `03:04:05  acme/wordcount        checkpoint 1: 2 results out, 1.0 KiB of state, 7ms
03:04:05  globex/wordcount      checkpoint 1: 2 results out, 1.0 KiB of state, 7ms
03:04:06  acme/wordcount        checkpoint 11: 20 results out, 10.0 KiB of state, 7ms (10 checkpoints)
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

func TestPrinterNamesTrouble(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	job := tenants.JobID{Tenant: "acme", Name: "wordcount"}
	for want, event := range map[string]processor.JobEvent{
		"running, epoch 4":             {State: processor.JobRunning, Epoch: 4},
		"standing by":                  {State: processor.JobStandby},
		"restarting in 1.5s: disk ate": {State: processor.JobRestarting, Err: errors.New("disk ate"), Retry: at.Add(1500 * time.Millisecond)},
		"parked: too often":            {State: processor.JobParked, Err: errors.New("too often")},
		"failed: for good":             {State: processor.JobFailed, Err: errors.New("for good")},
		"stopped":                      {State: processor.JobStopped},
	} {
		var out strings.Builder
		event.Job, event.At = job, at
		newPrinter(&out, time.Second).job(event)
		if !strings.Contains(out.String(), want) {
			t.Errorf("got %q, want %q", out.String(), want)
		}
	}
}
