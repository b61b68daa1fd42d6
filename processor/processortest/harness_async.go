package processortest

// Calls returns how many calls of processor.Async wait for Complete, with HarnessConfig.HoldCalls.
func (h *Harness[In, Out]) Calls() int { return h.bed.Calls() }

// Complete lets one of the calls that wait be made, by its place in the order in which they began, and hands over its result. Behind its
// timeout its context has ended.
func (h *Harness[In, Out]) Complete(call int) error { return h.bed.Complete(call) }
