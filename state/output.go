package state

import (
	"encoding/binary"
	"fmt"
	"iter"
	"slices"
	"unsafe"
)

// Sizes of the buffers that messages are collected in: small for the many jobs that write little, up to what compresses well.
const (
	minChunk = 2 << 10
	maxChunk = 256 << 10
	// upsertSlack is how many bytes of replaced messages an upsert output carries at least before it moves the others together.
	upsertSlack = 64 << 10
)

// A message in a chunk: a flag byte, then subject, header and data, each with its length.
const (
	flagLive byte = 0
	flagDead byte = 1 // replaced by a later message with the same subject
)

// Output is what a sink has staged since the last committed checkpoint, in the order in which it is to be published. An upsert
// output keeps the last message of each subject only, in the order of these last messages.
//
// It is filled by one goroutine. Once sealed it never changes and may be read by several.
type Output struct {
	chunks []chunk
	msgs   int
	bytes  int64 // of all frames that are to be published
	sealed bool

	latest map[string]int // upsert: the number in places of the last message of each subject; nil: not upsert
	places []place
	dead   int64
}

// chunk is a run of messages. Once another chunk follows, it is only changed by marking messages as dead.
type chunk struct {
	data []byte
	msgs int  // live ones
	dead bool // some are not
}

type place struct{ chunk, at int }

// OutputMessage is a staged message. Its bytes belong to the output and must not be changed.
type OutputMessage struct {
	Subject string
	Header  map[string][]string // nil without headers
	Data    []byte
}

// NewOutput returns an empty output that keeps every message.
func NewOutput() *Output { return &Output{} }

// NewUpsertOutput returns an empty output that keeps the last message of each subject.
func NewUpsertOutput() *Output { return &Output{latest: map[string]int{}} }

// Len returns the number of messages.
func (o *Output) Len() int { return o.msgs }

// Bytes returns the memory the messages take.
func (o *Output) Bytes() int64 { return o.bytes + o.dead }

// Append adds a message; it copies what it is given. It returns an error, and adds nothing, if the message has more than
// MaxEntryBytes, and panics on a sealed output.
func (o *Output) Append(subject string, header map[string][]string, data []byte) error {
	if o.sealed {
		panic("state: appending to a sealed output")
	}
	var head []byte
	if len(header) > 0 {
		head = appendHeader(nil, header)
	}
	size := 1 + 3*binary.MaxVarintLen32 + len(subject) + len(head) + len(data)
	if size > MaxEntryBytes {
		return fmt.Errorf("staging a message for %.100q: it has %d bytes, at most %d are allowed", subject, size, MaxEntryBytes)
	}
	c := o.room(size)
	at := len(c.data)
	b := append(c.data, flagLive)
	b = append(binary.AppendUvarint(b, uint64(len(subject))), subject...)
	b = append(binary.AppendUvarint(b, uint64(len(head))), head...)
	b = append(binary.AppendUvarint(b, uint64(len(data))), data...)
	c.data = b
	c.msgs++
	o.msgs++
	o.bytes += int64(len(b) - at)
	if o.latest != nil {
		o.supersede(at)
	}
	return nil
}

// room returns the last chunk, after adding one if size more bytes do not fit.
func (o *Output) room(size int) *chunk {
	n := len(o.chunks)
	if n > 0 {
		if c := &o.chunks[n-1]; cap(c.data)-len(c.data) >= size {
			return c
		}
	}
	next := minChunk
	if n > 0 {
		next = min(2*cap(o.chunks[n-1].data), maxChunk)
	}
	o.chunks = append(o.chunks, chunk{data: make([]byte, 0, max(next, size))})
	return &o.chunks[n]
}

// supersede marks what the message at the end of the last chunk replaces.
func (o *Output) supersede(at int) {
	last := len(o.chunks) - 1
	subject, _ := frameSubject(o.chunks[last].data[at:])
	n, ok := o.latest[subject]
	if !ok {
		o.locate(subject, place{last, at})
		return
	}
	old := o.places[n]
	o.places[n] = place{last, at}
	c := &o.chunks[old.chunk]
	_, size := frameSubject(c.data[old.at:])
	c.data[old.at] = flagDead
	c.dead = true
	c.msgs--
	o.msgs--
	o.bytes -= int64(size)
	o.dead += int64(size)
	if o.dead > upsertSlack && o.dead > 2*o.bytes {
		o.compact()
	}
}

// locate notes where the first message of a subject is. The subject may lie in a message that is replaced later: its bytes stay.
func (o *Output) locate(subject string, at place) {
	o.latest[subject] = len(o.places)
	o.places = append(o.places, at)
}

// compact moves the live messages of an upsert output together.
func (o *Output) compact() {
	old := o.chunks
	o.chunks, o.msgs, o.bytes, o.dead = nil, 0, 0, 0
	clear(o.latest)
	o.places = o.places[:0]
	for i := range old {
		for b := old[i].data; len(b) > 0; {
			_, size := frameSubject(b)
			if b[0] == flagLive {
				o.copyFrame(b[:size])
			}
			b = b[size:]
		}
	}
}

// copyFrame appends a live frame whose subject no other live one has.
func (o *Output) copyFrame(frame []byte) {
	c := o.room(len(frame))
	at := len(c.data)
	c.data = append(c.data, frame...)
	c.msgs++
	o.msgs++
	o.bytes += int64(len(frame))
	if o.latest != nil {
		subject, _ := frameSubject(c.data[at:])
		o.locate(subject, place{len(o.chunks) - 1, at})
	}
}

// Seal ends the output: nothing is added any more.
func (o *Output) Seal() { o.sealed = true }

// Sealed reports whether the output is sealed.
func (o *Output) Sealed() bool { return o.sealed }

// Prepend puts a sealed output's messages in front: those of an aborted checkpoint before the newer ones. It takes a time
// that grows with the number of chunks, for upsert outputs with that of the messages: the older of a subject falls away.
// Both must be upsert outputs or neither. older stays as it is.
func (o *Output) Prepend(older *Output) {
	if o.sealed || !older.sealed || (o.latest == nil) != (older.latest == nil) {
		panic("state: prepending needs an open output and a sealed older one of the same kind")
	}
	if o.latest == nil {
		o.chunks = slices.Concat(older.chunks, o.chunks)
		o.msgs += older.msgs
		o.bytes += older.bytes
		if len(o.chunks) == len(older.chunks) {
			o.protect()
		}
		return
	}
	merged := NewUpsertOutput()
	for _, c := range older.chunks {
		for b := c.data; len(b) > 0; {
			subject, size := frameSubject(b)
			if _, newer := o.latest[subject]; b[0] == flagLive && !newer {
				merged.copyFrame(b[:size])
			}
			b = b[size:]
		}
	}
	for _, c := range o.chunks {
		for b := c.data; len(b) > 0; {
			_, size := frameSubject(b)
			if b[0] == flagLive {
				merged.copyFrame(b[:size])
			}
			b = b[size:]
		}
	}
	*o = *merged
}

// protect keeps appends from the free space of a last chunk that another output shares.
func (o *Output) protect() {
	if n := len(o.chunks); n > 0 {
		c := &o.chunks[n-1]
		c.data = c.data[:len(c.data):len(c.data)]
	}
}

// Concat returns a sealed output with the messages of sealed outputs, one behind the other. It shares their memory.
func Concat(outputs ...*Output) *Output {
	all := NewOutput()
	for _, o := range outputs {
		if !o.sealed {
			panic("state: concatenating an output that is not sealed")
		}
		all.chunks = append(all.chunks, o.chunks...)
		all.msgs += o.msgs
		all.bytes += o.bytes
	}
	all.sealed = true
	return all
}

// From iterates over the messages from number n on, counted from 0. Subjects and data lie in the output's memory: they stay
// valid while it is sealed, and keep it from being freed. Finding message n takes a time that grows with the number of chunks.
func (o *Output) From(n int) iter.Seq[OutputMessage] {
	return func(yield func(OutputMessage) bool) {
		skip := n
		for i := range o.chunks {
			c := &o.chunks[i]
			if skip >= c.msgs {
				skip -= c.msgs
				continue
			}
			for b := c.data; len(b) > 0; {
				_, size := frameSubject(b)
				frame := b[:size]
				b = b[size:]
				if frame[0] == flagDead {
					continue
				}
				if skip > 0 {
					skip--
					continue
				}
				if !yield(openFrame(frame)) {
					return
				}
			}
		}
	}
}

// Each calls fn for every message until it returns an error, which it returns.
func (o *Output) Each(fn func(subject string, header map[string][]string, data []byte) error) error {
	for m := range o.From(0) {
		if err := fn(m.Subject, m.Header, m.Data); err != nil {
			return err
		}
	}
	return nil
}

// frameSubject returns the subject of the frame at the beginning of b, in b's memory, and the frame's size. b was written by
// Append or checked by checkFrames.
func frameSubject(b []byte) (subject string, size int) {
	r := reader{b: b[1:]}
	s := r.bytes()
	r.bytes()
	r.bytes()
	return unsafe.String(unsafe.SliceData(s), len(s)), len(b) - len(r.b)
}

func openFrame(b []byte) OutputMessage {
	r := reader{b: b[1:]}
	s, head, data := r.bytes(), r.bytes(), r.bytes()
	m := OutputMessage{Subject: unsafe.String(unsafe.SliceData(s), len(s)), Data: data}
	if len(head) > 0 {
		m.Header, _ = readHeader(head)
	}
	return m
}

// appendHeader writes the keys in order, so that the same header has the same bytes.
func appendHeader(dst []byte, header map[string][]string) []byte {
	keys := make([]string, 0, len(header))
	for k := range header {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	dst = binary.AppendUvarint(dst, uint64(len(keys)))
	for _, k := range keys {
		dst = appendString(dst, k)
		dst = binary.AppendUvarint(dst, uint64(len(header[k])))
		for _, v := range header[k] {
			dst = appendString(dst, v)
		}
	}
	return dst
}

func readHeader(b []byte) (map[string][]string, bool) {
	r := reader{b: b}
	n := r.count(2)
	header := make(map[string][]string, n)
	for range n {
		k := r.string()
		values := make([]string, r.count(1))
		for i := range values {
			values[i] = r.string()
		}
		header[k] = values
	}
	return header, !r.bad && len(r.b) == 0 && n > 0 && len(header) == n
}
