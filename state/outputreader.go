package state

import "iter"

// readerStride is how many messages lie between two whose place an OutputReader remembers.
const readerStride = 64

// OutputReader reads a sealed output piece by piece. It remembers where messages are that it has passed, so that pieces that follow
// each other, or are read again, cost no walk over those before them. It is not safe for concurrent use.
type OutputReader struct {
	output *Output
	places []place // of every readerStride-th message, as far as it has come
}

// NewOutputReader returns a reader of a sealed output.
func NewOutputReader(o *Output) *OutputReader { return &OutputReader{output: o} }

// Len returns the number of messages.
func (r *OutputReader) Len() int { return r.output.Len() }

// From is Output.From.
func (r *OutputReader) From(n int) iter.Seq[OutputMessage] {
	return func(yield func(OutputMessage) bool) {
		at, number := place{}, 0
		if known := len(r.places); known > 0 {
			i := min(n/readerStride, known-1)
			at, number = r.places[i], i*readerStride
		}
		for ; at.chunk < len(r.output.chunks); at = (place{chunk: at.chunk + 1}) {
			for b := r.output.chunks[at.chunk].data[at.at:]; len(b) > 0; {
				_, size := frameSubject(b)
				frame := b[:size]
				b = b[size:]
				if frame[0] == flagLive {
					if number == len(r.places)*readerStride {
						r.places = append(r.places, at)
					}
					if number >= n && !yield(openFrame(frame)) {
						return
					}
					number++
				}
				at.at += size
			}
		}
	}
}
