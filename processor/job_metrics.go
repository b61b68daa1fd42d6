package processor

// Metrics returns the sum of the counters of the running attempt's tasks, as of their last events: they begin at zero with each
// attempt, but for Abandoned. Between attempts it returns zeros.
func (j *Job) Metrics() TaskMetrics {
	sum := TaskMetrics{IgnoredBarriers: map[string]uint64{}, Abandoned: j.progress.abandoned.Load()}
	j.mu.Lock()
	r := j.runner
	j.mu.Unlock()
	if r == nil {
		return sum
	}
	if p := r.live.Load(); p != nil {
		for _, t := range p.tasks {
			sum.add(t.metrics())
		}
		sum.TableRows, sum.TableBytes = p.tableSize()
	}
	return sum
}
