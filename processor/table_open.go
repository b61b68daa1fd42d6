package processor

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/weirstream/weir/tenants"
)

// openTables opens the copies of all tables that the topology looks up. Each holds then what its bucket held when it was asked. The driver
// closes them when the attempt has ended, however it ends, and ends the attempt when one of them fails.
func (a *attempt) openTables(ctx context.Context, io effects, bind Bindings) (map[string]*TableRows, error) {
	if len(a.needs.Tables) == 0 {
		return nil, nil
	}
	rows := make(map[string]*TableRows, len(a.needs.Tables))
	for _, n := range a.needs.Tables {
		b, ok := bind.table(n.Operator)
		if !ok {
			return nil, Terminal(fmt.Errorf("table of operator %s is not bound to a bucket", n.Operator))
		}
		c, err := io.OpenTable(ctx, a.job, b)
		if err != nil {
			return nil, tableError(a.job, n.Operator, err)
		}
		rows[n.Operator] = c.Rows()
	}
	return rows, nil
}

// tableSize returns the size of the copies that the topology's operators read; two may read the same.
func (p *plan) tableSize() (rows int, bytes int64) {
	counted := make(map[*TableRows]bool, len(p.cfg.Tables))
	for _, t := range p.cfg.Tables {
		if !counted[t] {
			counted[t] = true
			n, b := t.Size()
			rows, bytes = rows+n, bytes+b
		}
	}
	return rows, bytes
}

// openedTables are the copies that one attempt has opened.
type openedTables struct {
	mu     sync.Mutex
	copies []TableCopy
}

func (o *openedTables) add(c TableCopy) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.copies = append(o.copies, c)
}

func (o *openedTables) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range o.copies {
		c.Close()
	}
	o.copies = nil
}

// attemptEffects are the effects of an operation of a runner's attempt: blocking, but that the runner answers for the tables and for
// the user's code.
type attemptEffects struct {
	blocking
	run *runner
}

func (e attemptEffects) OpenTable(ctx context.Context, job tenants.JobID, b TableBinding) (TableCopy, error) {
	c, err := e.blocking.OpenTable(ctx, job, b)
	if err == nil {
		e.run.opened(job, b.Operator, c)
	}
	return c, err
}

// UserCode runs f in a goroutine of the guard.
func (e attemptEffects) UserCode(where Where, f func()) error {
	done := make(chan struct{})
	if !e.run.guard.Go(func() Where { return where }, func() {
		defer e.run.recovered() // a panic ends the attempt, and with it the wait
		f()
		close(done)
	}) {
		return context.Canceled
	}
	select {
	case <-done:
		return nil
	case <-e.run.ctx.Done():
		return e.run.ctx.Err()
	}
}

// opened keeps a copy until the attempt has ended, and ends the attempt when the copy fails. It is called from an operation, so that the
// runner still waits for goroutines.
func (r *runner) opened(job tenants.JobID, operator string, c TableCopy) {
	r.tables.add(c)
	r.wg.Go(func() {
		defer r.recovered()
		select {
		case <-c.Failed():
			r.post(ctlFailed{err: tableError(job, operator, c.Err())})
		case <-r.ctx.Done():
		}
	})
}

// simTable is a copy that a simulated worker has opened.
type simTable struct {
	TableCopy
	operator string
	told     bool
}

func (t *simTable) failed() bool {
	select {
	case <-t.Failed():
		return !t.told
	default:
		return false
	}
}

// opened is what runner.opened is in a simulation.
func (w *simWorker) opened(operator string, c TableCopy) {
	w.tables = append(w.tables, &simTable{TableCopy: c, operator: operator})
}

// tableChoices appends that a table has failed.
func (w *simWorker) tableChoices(out []func()) []func() {
	for _, t := range w.tables {
		if t.failed() {
			out = append(out, func() {
				t.told = true
				w.events = append(w.events, ctlFailed{err: tableError(w.sim.job, t.operator, t.Err())})
			})
		}
	}
	return out
}

func (w *simWorker) closeTables() {
	for _, t := range w.tables {
		t.Close()
	}
	w.tables = nil
}

// OpenTable may fail, but is never done late: a copy that nobody knows of could not be closed.
func (e *simEffects) OpenTable(ctx context.Context, job tenants.JobID, b TableBinding) (TableCopy, error) {
	if !e.pause() || ctx.Err() != nil {
		return nil, context.Canceled
	}
	if e.w.sim.unlucky() {
		e.pause()
		return nil, errSimulatedLoss
	}
	c, err := e.w.sim.cfg.Broker.OpenTable(ctx, job, b)
	if err != nil {
		return nil, err
	}
	e.w.opened(b.Operator, c)
	if !e.pause() {
		return nil, context.Canceled
	}
	return c, nil
}

var errNoTable = errors.New("its table was not opened")
