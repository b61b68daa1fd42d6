package barriers

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// naiveAligner is the aligner as one would say it: sets, and everything looked at afresh.
type naiveAligner struct {
	inputs        int
	last, current uint64
	arrived       map[int]bool
	finished      map[int]bool
}

func (n *naiveAligner) barrier(input int, checkpoint uint64) (aligned, superseded uint64) {
	if n.finished[input] || checkpoint <= n.last || checkpoint < n.current {
		return 0, 0
	}
	if n.current != 0 && checkpoint > n.current {
		superseded, n.last = n.current, n.current
		n.arrived = map[int]bool{}
	}
	n.current = checkpoint
	n.arrived[input] = true
	return n.complete(), superseded
}

func (n *naiveAligner) complete() (aligned uint64) {
	for i := range n.inputs {
		if n.current == 0 || !n.arrived[i] && !n.finished[i] {
			return 0
		}
	}
	aligned = n.current
	n.abort(aligned)
	return aligned
}

func (n *naiveAligner) abort(checkpoint uint64) {
	n.last = max(n.last, checkpoint)
	if n.current <= checkpoint {
		n.current, n.arrived = 0, map[int]bool{}
	}
}

func (n *naiveAligner) blocked() (out []int) {
	for i := range n.inputs {
		if n.arrived[i] && !n.finished[i] {
			out = append(out, i)
		}
	}
	return out
}

func TestAlignerModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		inputs := rapid.IntRange(1, 5).Draw(t, "inputs")
		a := NewAligner(inputs)
		n := &naiveAligner{inputs: inputs, arrived: map[int]bool{}, finished: map[int]bool{}}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			before := n.blocked()
			input := rapid.IntRange(0, inputs-1).Draw(t, "input")
			checkpoint := n.last + uint64(rapid.IntRange(0, 3).Draw(t, "checkpoint"))
			var r Alignment
			var aligned, superseded uint64
			aborted := false
			switch rapid.SampledFrom([]string{"barrier", "barrier", "barrier", "barrier", "abort", "finish"}).Draw(t, "verb") {
			case "barrier":
				if !n.finished[input] {
					before = append(before, input)
				}
				aligned, superseded = n.barrier(input, checkpoint)
				r = a.Barrier(input, checkpoint)
				if r.Block && !a.Blocked(input) || r.Block && r.Aligned != 0 {
					t.Fatalf("block is %t, blocked %t, aligned %d", r.Block, a.Blocked(input), r.Aligned)
				}
			case "abort":
				n.abort(checkpoint)
				r.Unblock = a.Abort(checkpoint)
				aborted = true
			case "finish":
				n.finished[input] = true
				aligned = n.complete()
				r = a.Finish(input)
				before = slices.DeleteFunc(before, func(i int) bool { return i == input })
			}
			if r.Aligned != aligned || r.Superseded != superseded || a.Current() != n.current {
				t.Fatalf("aligned %d, superseded %d, current %d; the model says %d, %d, %d", r.Aligned, r.Superseded, a.Current(), aligned, superseded, n.current)
			}
			if aligned == 0 && superseded == 0 && !aborted {
				before = nil // nothing ends, nothing is unblocked
			}
			checkBlocked(t, a, n, before, r.Unblock)
		}
	})
}

// checkBlocked compares what is blocked, and that exactly those of before that are not any more were named.
func checkBlocked(t *rapid.T, a *Aligner, n *naiveAligner, before, unblock []int) {
	now := n.blocked()
	for i := range n.inputs {
		if a.Blocked(i) != slices.Contains(now, i) {
			t.Fatalf("input %d: blocked is %t", i, a.Blocked(i))
		}
		if freed := slices.Contains(before, i) && !slices.Contains(now, i); freed != slices.Contains(unblock, i) {
			t.Fatalf("input %d: blocked before %v, now %v, named to unblock %v", i, before, now, unblock)
		}
	}
}

// TestAlignerCuts plays whole inputs: when a checkpoint aligns, exactly what was in front of its barriers has been read.
func TestAlignerCuts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const barriers = 4
		inputs := rapid.IntRange(1, 4).Draw(t, "inputs")
		queues := make([][]uint64, inputs) // 0 is a record, another number a barrier
		ahead := make([][barriers + 1]int, inputs)
		for i := range queues {
			records := 0
			for b := uint64(1); b <= barriers; b++ {
				for range rapid.IntRange(0, 5).Draw(t, "records") {
					queues[i] = append(queues[i], 0)
					records++
				}
				queues[i] = append(queues[i], b)
				ahead[i][b] = records
			}
		}
		a := NewAligner(inputs)
		read := make([]int, inputs)
		blocked := make([]bool, inputs)
		aligned := uint64(0)
		for aligned < barriers {
			var open []int
			for i := range queues {
				if !blocked[i] && len(queues[i]) > 0 {
					open = append(open, i)
				}
			}
			if len(open) == 0 {
				t.Fatalf("deadlock at checkpoint %d", aligned)
			}
			i := rapid.SampledFrom(open).Draw(t, "next")
			e := queues[i][0]
			queues[i] = queues[i][1:]
			if e == 0 {
				read[i]++
				continue
			}
			r := a.Barrier(i, e)
			blocked[i] = r.Block
			if r.Aligned == 0 {
				continue
			}
			if r.Aligned != aligned+1 {
				t.Fatalf("checkpoint %d aligned after %d", r.Aligned, aligned)
			}
			aligned = r.Aligned
			for j := range read {
				if read[j] != ahead[j][aligned] {
					t.Fatalf("checkpoint %d: input %d was read up to record %d, its barrier is behind %d", aligned, j, read[j], ahead[j][aligned])
				}
			}
			for _, j := range r.Unblock {
				blocked[j] = false
			}
		}
	})
}
