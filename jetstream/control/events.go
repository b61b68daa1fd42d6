package control

import (
	"encoding/json"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// EventVersion is the version of the format of events.
const EventVersion = 1

// What an event tells: the last token of its subject, weir.evt.{tenant}.{job}.{what}.
const (
	whatState            = "state"             // the job's state changed
	whatCheckpoint       = "checkpoint"        // one is committed and its output released
	whatCheckpointFailed = "checkpoint-failed" // the job goes on
	whatSavepoint        = "savepoint"         // started, moved (some of it is stored), made, failed
	whatMark             = "mark"              // made, failed, ignored
	whatRequest          = "request"           // the outcome of one that nobody waits for
)

// Event is one thing that happened to a job, as JSON on weir.evt.{tenant}.{job}.{what}. Which fields are set follows from What.
// Events are told at most once and nothing is built on them: what must be known is asked for.
type Event struct {
	Version int       `json:"version"`
	What    string    `json:"what"`
	Tenant  string    `json:"tenant"`
	Job     string    `json:"job"`
	Worker  string    `json:"worker"`
	At      time.Time `json:"at"`
	Epoch   uint64    `json:"epoch,omitempty"`
	Error   string    `json:"error,omitempty"`
	// Of state: the new one, a processor.JobState, and when the next try is due. Of savepoint and mark: how far it is.
	State string    `json:"state,omitempty"`
	Retry time.Time `json:"retry,omitzero"`
	// Of checkpoint, checkpoint-failed and savepoint, of which Bytes of Total are stored.
	Checkpoint uint64             `json:"checkpoint,omitempty"`
	Duration   processor.Duration `json:"duration,omitempty"`
	Bytes      int64              `json:"bytes,omitempty"`
	Total      int64              `json:"total,omitempty"`
	Objects    int                `json:"objects,omitempty"`
	Messages   uint64             `json:"messages,omitempty"`
	Positions  map[string]uint64  `json:"positions,omitempty"` // by source
	Savepoint  string             `json:"savepoint,omitempty"`
	// Of mark, and of a savepoint that one asked for: where it lies.
	Mark *barriers.Mark `json:"mark,omitempty"`
	// Of request: its verb and ID, and the answer that nobody waited for. Reason is set where it was refused, and where a mark is ignored.
	Verb    string          `json:"verb,omitempty"`
	Request string          `json:"request,omitempty"`
	Reason  string          `json:"reason,omitempty"`
	Answer  json.RawMessage `json:"answer,omitempty"`
	// Shortened says that fields were left out of an event too large for a message.
	Shortened bool `json:"shortened,omitempty"`
	// Dropped events were not told since the one before, since the connection was too slow.
	Dropped uint64 `json:"dropped,omitempty"`
}

// maxEvents bounds the events that wait to be published.
const maxEvents = 1024

// Events publishes what happens to jobs. It never makes a job wait: what the connection does not take in time is dropped and counted.
type Events struct {
	nc      *nats.Conn
	worker  string
	log     *slog.Logger
	queue   chan Event
	done    chan struct{}
	dropped atomic.Uint64

	mu     sync.RWMutex
	closed bool
}

// NewEvents starts publishing over a connection, which it does not close. log may be nil.
func NewEvents(nc *nats.Conn, worker string, log *slog.Logger) *Events {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	e := &Events{nc: nc, worker: worker, log: log, queue: make(chan Event, maxEvents), done: make(chan struct{})}
	go e.publish()
	return e
}

// Close publishes what waits and ends. It is idempotent.
func (e *Events) Close() {
	e.mu.Lock()
	closed := e.closed
	e.closed = true
	if !closed {
		close(e.queue)
	}
	e.mu.Unlock()
	<-e.done
}

func (e *Events) publish() {
	defer close(e.done)
	told := uint64(0)
	for ev := range e.queue {
		dropped := e.dropped.Load()
		ev.Dropped, told = dropped-told, dropped
		data, err := json.Marshal(ev)
		if err == nil && len(data) > int(e.nc.MaxPayload())/2 {
			ev.Answer, ev.Positions, ev.Shortened = nil, nil, true
			ev.Error = tenants.Printable(ev.Error)
			data, err = json.Marshal(ev)
		}
		if err == nil {
			err = e.nc.Publish(eventSubject(ev.Tenant, ev.Job, ev.What), data)
		}
		if err != nil {
			e.log.Debug("publishing an event", "tenant", ev.Tenant, "job", ev.Job, "err", err)
		}
	}
}

func eventSubject(tenant, job, what string) string {
	return eventPrefix + tenant + "." + job + "." + what
}

// tell queues an event, or drops it.
func (e *Events) tell(what string, job tenants.JobID, at time.Time, ev Event) {
	ev.Version, ev.What, ev.Tenant, ev.Job, ev.Worker, ev.At = EventVersion, what, string(job.Tenant), job.Name, e.worker, at
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.closed {
		return
	}
	select {
	case e.queue <- ev:
	default:
		e.dropped.Add(1)
	}
}

// request tells the outcome of a request that nobody waited for.
func (e *Events) request(t target, verb, id string, answer []byte, p *Problem) {
	ev := Event{Verb: verb, Request: id}
	if p != nil {
		ev.Reason, ev.Error = string(p.Reason), p.Message
	} else {
		ev.Answer = answer
	}
	e.tell(whatRequest, t.id(), time.Now(), ev)
}

// Listener tells what a runtime tells its listener. Give it to RuntimeConfig.Listener, or joined with others.
func (e *Events) Listener() processor.Listener {
	return processor.Listener{
		Job: func(j processor.JobEvent) {
			e.tell(whatState, j.Job, j.At, Event{State: string(j.State), Epoch: j.Epoch, Error: text(j.Err), Retry: j.Retry})
		},
		Checkpoint: func(c processor.CheckpointEvent) {
			e.tell(whatCheckpoint, c.Job, c.At, Event{
				Checkpoint: c.Checkpoint, Epoch: c.Epoch, Duration: processor.Duration(c.Duration), Bytes: c.Bytes, Objects: c.Objects,
				Messages: c.Messages, Positions: c.Positions,
			})
		},
		CheckpointFailed: func(c processor.CheckpointFailure) {
			e.tell(whatCheckpointFailed, c.Job, c.At, Event{Checkpoint: c.Checkpoint, Error: text(c.Err)})
		},
		Savepoint: func(s processor.SavepointEvent) {
			e.tell(whatSavepoint, s.Job, s.At, Event{
				State: string(s.State), Savepoint: s.Savepoint, Request: s.Request, Checkpoint: s.Checkpoint, Mark: s.Mark,
				Bytes: s.Bytes, Total: s.Total, Error: text(s.Err),
			})
		},
		Mark: func(m processor.MarkEvent) {
			e.tell(whatMark, m.Job, m.At, Event{State: string(m.State), Savepoint: m.Savepoint, Mark: &m.Mark, Reason: m.Reason, Error: text(m.Err)})
		},
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
