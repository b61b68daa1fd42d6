package barriers

// Alignment is what an Aligner's input led to.
type Alignment struct {
	// Block: do not read this input until it is in an Unblock.
	Block bool
	// Aligned, if not 0, is the checkpoint whose barriers have now come on every input: freeze, forward the barrier, then read
	// the inputs in Unblock again.
	Aligned uint64
	// Superseded, if not 0, is the checkpoint whose alignment a newer barrier ended. It will not align here any more.
	Superseded uint64
	// Unblock are the inputs to read again. The slice is the aligner's and valid until its next call.
	Unblock []int
}

// Aligner lines up the barriers of one task's inputs: an input whose barrier has come is not read until the others' have.
// Finished inputs count as aligned. It holds no data and is not safe for concurrent use.
type Aligner struct {
	blocked  []bool
	finished []bool
	waiting  int    // inputs neither blocked nor finished
	current  uint64 // checkpoint being aligned, 0: none
	last     uint64 // highest checkpoint that aligned, was superseded or aborted
	unblock  []int
}

// NewAligner returns an aligner for inputs 0 to inputs-1.
func NewAligner(inputs int) *Aligner {
	return &Aligner{
		blocked:  make([]bool, inputs),
		finished: make([]bool, inputs),
		waiting:  inputs,
		unblock:  make([]int, 0, inputs),
	}
}

// Blocked reports whether the input must not be read.
func (a *Aligner) Blocked(input int) bool { return a.blocked[input] }

// Current returns the checkpoint being aligned, 0 if none is.
func (a *Aligner) Current() uint64 { return a.current }

// Barrier says that the barrier of checkpoint came on input. A stale one, or a second one on the same input, is ignored: the zero
// Alignment. One of a newer checkpoint ends the older alignment: only one checkpoint is in flight, so the older is dead.
func (a *Aligner) Barrier(input int, checkpoint uint64) Alignment {
	var r Alignment
	if checkpoint <= a.last || checkpoint < a.current || a.finished[input] {
		return r
	}
	a.unblock = a.unblock[:0]
	if checkpoint > a.current {
		if a.current != 0 {
			r.Superseded = a.current
			a.last = a.current
			a.release()
		}
		a.current = checkpoint
	}
	if a.blocked[input] {
		return r
	}
	a.blocked[input] = true
	a.waiting--
	a.complete(&r)
	if r.Aligned == 0 {
		r.Block = true
		// It may have been blocked for the older checkpoint: it goes on being blocked.
		a.keepBlocked(input)
	}
	r.Unblock = a.unblock
	return r
}

// Finish says that nothing more comes on input. That may complete an alignment.
func (a *Aligner) Finish(input int) Alignment {
	var r Alignment
	if a.finished[input] {
		return r
	}
	a.unblock = a.unblock[:0]
	a.finished[input] = true
	if a.blocked[input] {
		a.blocked[input] = false
	} else {
		a.waiting--
	}
	if a.current != 0 {
		a.complete(&r)
	}
	r.Unblock = a.unblock
	return r
}

// Abort gives up checkpoint and any older one, and returns the inputs to read again. Barriers of it that come later are ignored.
func (a *Aligner) Abort(checkpoint uint64) []int {
	a.unblock = a.unblock[:0]
	a.last = max(a.last, checkpoint)
	if a.current != 0 && a.current <= checkpoint {
		a.release()
	}
	return a.unblock
}

func (a *Aligner) complete(r *Alignment) {
	if a.waiting > 0 {
		return
	}
	r.Aligned = a.current
	a.last = a.current
	a.release()
}

// release unblocks every input and ends the alignment.
func (a *Aligner) release() {
	for i, b := range a.blocked {
		if b {
			a.blocked[i] = false
			a.waiting++
			a.unblock = append(a.unblock, i)
		}
	}
	a.current = 0
}

func (a *Aligner) keepBlocked(input int) {
	for i, in := range a.unblock {
		if in == input {
			a.unblock = append(a.unblock[:i], a.unblock[i+1:]...)
			return
		}
	}
}
