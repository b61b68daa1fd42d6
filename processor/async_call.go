package processor

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"
)

// asyncResult is what one try came to.
type asyncResult[In, Out any] struct {
	op       *asyncOp[In, Out]
	flight   *asyncFlight[In, Out]
	try      int
	out      Out
	err      error
	timedOut bool
	panicked bool
	value    any
	stack    []byte
}

// launch makes the calls that may be made.
func (a *asyncOp[In, Out]) launch() {
	for a.running < a.limit && a.waiting.len() > 0 && a.task.err == nil {
		a.start(a.waiting.pop())
	}
}

// start begins a try.
func (a *asyncOp[In, Out]) start(f *asyncFlight[In, Out]) {
	t := a.task
	f.try++
	f.calling = true
	a.trying.push(f)
	a.running++
	r, call, v := &asyncResult[In, Out]{op: a, flight: f, try: f.try}, a.call, f.value
	ends := t.host.call(a.timeout, r.where, func(ctx context.Context) event {
		r.run(ctx, call, v)
		return evCompleted{r}
	})
	f.deadline = ends.Add(asyncGrace)
	t.wakeBy(f.deadline)
}

// run makes the call, in whatever goroutine.
func (r *asyncResult[In, Out]) run(ctx context.Context, call func(context.Context, In) (Out, error), v In) {
	defer func() {
		if p := recover(); p != nil {
			r.panicked, r.value, r.stack = true, p, debug.Stack()
		}
	}()
	r.out, r.err = call(ctx, v)
	r.timedOut = r.err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded)
}

// where says what the call is for. It is called from other goroutines, and reads only what does not change.
func (r *asyncResult[In, Out]) where() Where {
	w := Where{Job: r.op.task.job, Operator: r.op.pc.name}
	if o, err := r.flight.record.decode(); err == nil {
		w.Stream, w.Seq = o.stream, o.seq
	}
	return w
}

// settle takes the result in the task.
func (r *asyncResult[In, Out]) settle() {
	a, f := r.op, r.flight
	a.running--
	if !f.calling || f.try != r.try { // it was given up
		a.abandoned--
		a.launch()
		return
	}
	a.trying.remove(f)
	f.calling = false
	switch {
	case r.panicked:
		a.become(f)
		a.task.fail(&PanicError{Where: a.task.where(a.pc.op), Value: r.value, Stack: r.stack})
	case r.err == nil:
		f.out = r.out
		a.finished(f)
	default:
		if r.timedOut {
			a.task.counts.asyncTimeouts++
		}
		a.failed(f, r.err)
	}
	a.launch()
}

// asyncGrace is how long behind the end of its context a call may take to return. Without it every call that obeys its context would race
// with the tick that gives it up, and calls that time out together, as they do when what they call does not answer, would be taken for calls
// that never return.
const asyncGrace = time.Second

// giveUp ends a try whose call has not returned in time. The call keeps its place.
func (a *asyncOp[In, Out]) giveUp(f *asyncFlight[In, Out]) {
	a.trying.remove(f)
	f.calling = false
	a.abandoned++
	a.task.counts.asyncTimeouts++
	if a.abandoned >= a.limit {
		a.fatal(f, fmt.Errorf("all of its %d calls go on although their timeout of %v is over: make its function return when its context ends, or raise AsyncSpec.Timeout", a.limit, a.timeout))
		return
	}
	a.failed(f, fmt.Errorf("no answer within %v: %w", a.timeout, context.DeadlineExceeded))
}

// failed decides what becomes of an element behind a failed try.
func (a *asyncOp[In, Out]) failed(f *asyncFlight[In, Out], err error) {
	switch ClassOf(err) {
	case ClassPoison:
		f.err = err
		a.finished(f)
		return
	case ClassTerminal, ClassFenced:
		a.fatal(f, err)
		return
	}
	if f.try < a.retry.Attempts {
		a.task.counts.asyncRetries++
		f.again = a.task.now().Add(a.retry.wait(f.try))
		heap.Push(&a.retries, f)
		a.task.wakeBy(f.again)
		return
	}
	err = fmt.Errorf("%d tries failed, the last one: %w", f.try, err)
	if a.exhausted == AsyncRestart {
		a.fatal(f, err)
		return
	}
	f.err = err
	a.finished(f)
}

// wait is how long to wait behind a number of tries.
func (r Retry) wait(tries int) time.Duration {
	d := min(r.Backoff, maxAsyncBackoff)
	for ; tries > 1 && d < maxAsyncBackoff; tries-- {
		d = min(2*d, maxAsyncBackoff)
	}
	return d
}

// fatal ends the task because of an element.
func (a *asyncOp[In, Out]) fatal(f *asyncFlight[In, Out], err error) {
	a.become(f)
	a.task.fail(&OperatorError{a.task.where(a.pc.op), err})
}

// asyncTries are the tries under way in the order in which they began, which is that of their deadlines.
type asyncTries[In, Out any] struct{ first, last *asyncFlight[In, Out] }

func (l *asyncTries[In, Out]) push(f *asyncFlight[In, Out]) {
	if f.earlier = l.last; l.last == nil {
		l.first = f
	} else {
		l.last.later = f
	}
	l.last = f
}

func (l *asyncTries[In, Out]) remove(f *asyncFlight[In, Out]) {
	if f.earlier == nil {
		l.first = f.later
	} else {
		f.earlier.later = f.later
	}
	if f.later == nil {
		l.last = f.earlier
	} else {
		f.later.earlier = f.earlier
	}
	f.earlier, f.later = nil, nil
}

// asyncRetries is a heap.Interface by the time of the next try.
type asyncRetries[In, Out any] []*asyncFlight[In, Out]

func (h asyncRetries[In, Out]) Len() int           { return len(h) }
func (h asyncRetries[In, Out]) Less(i, j int) bool { return h[i].again.Before(h[j].again) }
func (h asyncRetries[In, Out]) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *asyncRetries[In, Out]) Push(x any)        { *h = append(*h, x.(*asyncFlight[In, Out])) }

func (h *asyncRetries[In, Out]) Pop() any {
	last := len(*h) - 1
	f := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return f
}
