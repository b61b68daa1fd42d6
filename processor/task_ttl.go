package processor

// taskTime is the time by which an operator's state expires, as state.Clock. It is asked once per key, and only by states with a TTL.
type taskTime struct {
	task *task
	line *timeline
}

// ProcessingTime is the same during one event of the task.
func (c *taskTime) ProcessingTime() int64 { return c.task.now().UnixNano() }

// EventTime is the current element's time, or the operator's watermark if that is later, or if the element's time is too far ahead to be
// believed, or in timer functions. The final
// watermark of a drain is the end of time for windows and timers and not for state: what is kept is for the time after it.
func (c *taskTime) EventTime() (now, watermark int64) {
	watermark = c.line.watermark
	if watermark == finalWatermark {
		watermark = c.line.before
	}
	if c.task.origin.source == nil || c.task.origin.far {
		return watermark, watermark
	}
	return max(c.task.at, watermark), watermark
}
