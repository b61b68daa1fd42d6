package processor

import (
	"context"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/state"
)

// A task is step(event). The runtime feeds it from channels in a goroutine of its own, the simulation from queues; both run the
// same step. Events of one input arrive in order; control events may overtake data.

type event interface{ isEvent() }

// evBatch is a batch that the reader of the task's input number input delivered. Inputs that read sources come first.
type evBatch struct {
	input int
	batch Batch
}

// evFrame is a batch of elements, or a barrier, from another task over an exchange.
type evFrame struct {
	input int
	frame *frame
}

// evTrigger tells a task that reads sources that a checkpoint is pending. With inject set, every source that has not emitted
// its barrier yet cuts at its reading position now; else the source cuts where it reads the barrier in the stream. It may come
// twice for one checkpoint: first without inject, later with (no echo came in time).
type evTrigger struct {
	checkpoint uint64
	nonce      string // of the attempt: barriers of others fall away
	inject     bool
}

// evCommitted says that the checkpoint's head was written: frozen state and output are no longer needed.
type evCommitted struct{ checkpoint uint64 }

// evAborted says that the checkpoint will never be committed: what it had frozen goes back under the newer changes and in front
// of the newer output. A source or aligner that still waits for its barrier stops waiting.
type evAborted struct{ checkpoint uint64 }

// evTick tells the time, for processing-time timers. It comes when the time last asked for with taskHost.wake has passed.
type evTick struct{ now time.Time }

// evContinue lets a task that is unfinished go on. It is for its host alone; nothing is lost without it as long as events come.
type evContinue struct{}

// evFinish ends event time in a task that reads sources: every source's watermark becomes the final one, which fires every timer
// and window there is, and nothing is read after it. A trigger with inject that follows cuts when all of that is done. There is
// no way back: if that checkpoint is not committed the attempt must end.
type evFinish struct{}

func (evContinue) isEvent()  {}
func (evFinish) isEvent()    {}
func (evBatch) isEvent()     {}
func (evFrame) isEvent()     {}
func (evTrigger) isEvent()   {}
func (evCommitted) isEvent() {}
func (evAborted) isEvent()   {}
func (evTick) isEvent()      {}

// taskHost is what a task needs of whoever runs it. Calls come from the goroutine that runs step. A host that finds the task
// unfinished behind a step must step it again, with whatever event is there, else with evContinue.
type taskHost interface {
	// send hands a frame to another task's input. In the runtime it blocks while the bounded exchange is full; an error (the
	// attempt has ended) ends the task.
	send(task, input int, f *frame) error
	// consumed returns the credit of one event of the input: the task is done with it. Until then it counts against the bound.
	consumed(input int)
	// snapshot hands over what the task froze at a barrier. The task goes on at once.
	snapshot(s *taskSnapshot)
	// wake asks for an evTick at t or soon after; the earliest request counts, zero withdraws it.
	wake(t time.Time)
	// publish sends a message of an at-least-once sink at once.
	publish(ctx context.Context, stream string, m Message, done func(error)) error
	// dirty says that the task has something to checkpoint (input, timer, state change, pending output). The task calls it at
	// most once per checkpoint interval: the first time something happens after a freeze.
	dirty(task int)
	// notify tells the attempt of something that concerns its sources: ctlHeld, ctlMark, ctlMarkIgnored.
	notify(ev ctlEvent)
	// now is the time of the event being handled; it reads no clock more often than once an event.
	now() time.Time
	// call runs a function of the user's beside the task, with a context that ends after timeout or with the attempt, and hands what it
	// returns to the task. where says, to any goroutine, what it is for. It returns when the context ends.
	call(timeout time.Duration, where func() Where, run func(ctx context.Context) event) (ends time.Time)
	// over reports whether the attempt has ended while the task was inside user code: it is to give up, see task.abandon.
	over() bool
}

// taskSnapshot is one task's part of a checkpoint, frozen but not yet encoded. Encoding and upload run beside the task.
type taskSnapshot struct {
	checkpoint uint64
	task       int
	sources    []barriers.Source // name, position and tail; the attempt adds stream identity
	states     []frozenState
	outputs    []stagedOutput
	// flushed waits for the acks of at-least-once sinks up to the barrier; nil: none.
	flushed func(ctx context.Context) error
	// aligned is how long the first input waited for the last; frozeIn how long the task stood still to freeze.
	aligned, frozeIn time.Duration
}

// frozenState is one operator subtask's changed entries.
type frozenState struct {
	operator  string
	subtask   int
	frozen    *state.Frozen
	watermark int64 // of the operator at the barrier; noWatermark: none yet
}

// stagedOutput is one sink subtask's output since the last committed checkpoint.
type stagedOutput struct {
	sink    string
	subtask int
	output  *state.Output // sealed: no more messages are added
}
