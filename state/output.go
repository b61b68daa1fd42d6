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

// flagLive is what a message in a chunk begins with; then subject, header and data, each with its length. Objects have the same bytes.
const flagLive byte = 0

// Output is what a sink has staged since the last committed checkpoint, in the order in which it is to be published. An upsert
// output keeps the last message of each subject only, in the order of these last messages.
//
// It is filled by one goroutine. Once sealed it never changes and may be read by several.
type Output struct {
	chunks []chunk
	msgs   int
	bytes  int64 // of all messages that are to be published
	dead   int64 // of those that are replaced, and still take their place
	sealed bool
	upsert *upserts // nil: every message is kept
}

// chunk is a run of messages. Once another chunk follows, it is only changed by noting that messages are replaced.
type chunk struct {
	data   []byte
	frames []frame
	msgs   int // frames that are not replaced
}

// frame is where a message lies in its chunk. One that was replaced is empty.
type frame struct{ from, to uint32 }

// upserts knows the last message of each subject. Subjects are numbered, so that messages can be moved without looking for theirs.
type upserts struct {
	numbers map[string]uint32
	places  []place    // by the number of the subject
	owners  [][]uint32 // chunk by chunk, the number of each frame's subject
	names   []byte     // room for the map's strings
	expect  int        // how many subjects there will be, most likely
}

type place struct{ chunk, frame int }

// OutputMessage is a staged message. Its bytes belong to the output and must not be changed.
type OutputMessage struct {
	Subject string
	Header  map[string][]string // nil without headers
	Data    []byte
}

// NewOutput returns an empty output that keeps every message.
func NewOutput() *Output { return &Output{} }

// NewUpsertOutput returns an empty output that keeps the last message of each subject. expect is how many subjects it is likely to
// have, 0: unknown; memory for them is taken with the first message.
func NewUpsertOutput(expect int) *Output { return &Output{upsert: &upserts{expect: expect}} }

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
	number := uint32(0)
	if o.upsert != nil {
		number = o.supersede(subject)
	}
	c := o.room(size)
	at := len(c.data)
	b := append(c.data, flagLive)
	b = append(binary.AppendUvarint(b, uint64(len(subject))), subject...)
	b = append(binary.AppendUvarint(b, uint64(len(head))), head...)
	b = append(binary.AppendUvarint(b, uint64(len(data))), data...)
	o.add(c, b, at, number)
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
	next, frames := minChunk, 0
	if n > 0 {
		before := &o.chunks[n-1]
		next = min(2*cap(before.data), maxChunk)
		frames = len(before.frames) * next / max(cap(before.data), 1) // messages are mostly as large as those before
	}
	o.chunks = append(o.chunks, chunk{data: make([]byte, 0, max(next, size)), frames: make([]frame, 0, frames)})
	if o.upsert != nil {
		o.upsert.owners = append(o.upsert.owners, make([]uint32, 0, frames))
	}
	return &o.chunks[n]
}

// add notes the message that was written behind the last chunk's data, which is data now.
func (o *Output) add(c *chunk, data []byte, at int, number uint32) {
	c.data = data
	c.frames = append(c.frames, frame{uint32(at), uint32(len(data))})
	c.msgs++
	o.msgs++
	o.bytes += int64(len(data) - at)
	if u := o.upsert; u != nil {
		last := len(o.chunks) - 1
		u.owners[last] = append(u.owners[last], number)
		u.places[number] = place{last, len(c.frames) - 1}
	}
}

// supersede makes room for a message with the subject, whose number it returns: the one before is replaced.
func (o *Output) supersede(subject string) uint32 {
	u := o.upsert
	number, ok := u.numbers[subject]
	if !ok {
		return u.number(subject)
	}
	at := u.places[number]
	c := &o.chunks[at.chunk]
	old := &c.frames[at.frame]
	size := int64(old.to - old.from)
	*old = frame{}
	c.msgs--
	o.msgs--
	o.bytes -= size
	o.dead += size
	if o.dead > upsertSlack && o.dead > 2*o.bytes {
		o.compact()
	}
	return number
}

// number gives a subject that is new its number.
func (u *upserts) number(subject string) uint32 {
	if u.numbers == nil {
		u.numbers, u.places = make(map[string]uint32, u.expect), make([]place, 0, u.expect)
	}
	if cap(u.names)-len(u.names) < len(subject) {
		u.names = make([]byte, 0, max(len(subject), min(max(minChunk/4, 2*cap(u.names)), maxChunk)))
	}
	at := len(u.names)
	u.names = append(u.names, subject...)
	name := u.names[at:]
	number := uint32(len(u.places))
	u.numbers[unsafe.String(unsafe.SliceData(name), len(name))] = number
	u.places = append(u.places, place{})
	return number
}

// compact moves the messages of an upsert output that are not replaced together.
func (o *Output) compact() {
	old, owners := o.chunks, o.upsert.owners
	o.chunks, o.upsert.owners, o.msgs, o.bytes, o.dead = nil, nil, 0, 0, 0
	for i := range old {
		c := &old[i]
		for n, f := range c.frames {
			if f.to > 0 {
				o.copyFrame(c.data[f.from:f.to], owners[i][n])
			}
		}
	}
}

// copyFrame appends a message of another output, or of a chunk that is left. number: of its subject, which has none before.
func (o *Output) copyFrame(data []byte, number uint32) {
	c := o.room(len(data))
	at := len(c.data)
	o.add(c, append(c.data, data...), at, number)
}

// Seal ends the output: nothing is added any more.
func (o *Output) Seal() {
	o.sealed = true
	for i := range o.chunks {
		if c := &o.chunks[i]; c.msgs < len(c.frames) {
			c.frames = slices.DeleteFunc(c.frames, func(f frame) bool { return f.to == 0 })
		}
	}
	if o.upsert != nil {
		o.upsert = &upserts{expect: len(o.upsert.places)} // the rest is for who adds
	}
}

// Sealed reports whether the output is sealed.
func (o *Output) Sealed() bool { return o.sealed }

// Fresh returns an empty output for what follows a sealed one: of its kind, and likely to have as many subjects.
func (o *Output) Fresh() *Output {
	if o.upsert == nil {
		return NewOutput()
	}
	return NewUpsertOutput(o.upsert.expect)
}

// Prepend puts a sealed output's messages in front: those of an aborted checkpoint before the newer ones. It takes a time
// that grows with the number of chunks, for upsert outputs with that of the messages: the older of a subject falls away.
// Both must be upsert outputs or neither. older stays as it is.
func (o *Output) Prepend(older *Output) {
	if o.sealed || !older.sealed || (o.upsert == nil) != (older.upsert == nil) {
		panic("state: prepending needs an open output and a sealed older one of the same kind")
	}
	if o.upsert == nil {
		o.chunks = slices.Concat(older.chunks, o.chunks)
		o.msgs += older.msgs
		o.bytes += older.bytes
		if len(o.chunks) == len(older.chunks) {
			o.protect()
		}
		return
	}
	merged := NewUpsertOutput(older.msgs + o.msgs)
	for i := range older.chunks {
		for f := range older.chunks[i].live() {
			subject := frameSubject(f)
			if _, newer := o.upsert.numbers[subject]; !newer {
				merged.copyFrame(f, merged.upsert.number(subject))
			}
		}
	}
	for i := range o.chunks {
		for f := range o.chunks[i].live() {
			merged.copyFrame(f, merged.upsert.number(frameSubject(f)))
		}
	}
	*o = *merged
}

// protect keeps appends from the free space of a last chunk that another output shares.
func (o *Output) protect() {
	if n := len(o.chunks); n > 0 {
		c := &o.chunks[n-1]
		c.data, c.frames = slices.Clip(c.data), slices.Clip(c.frames)
	}
}

// live iterates over the messages of a chunk that are not replaced.
func (c *chunk) live() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for _, f := range c.frames {
			if f.to > 0 && !yield(c.data[f.from:f.to]) {
				return
			}
		}
	}
}

// From iterates over the messages of a sealed output from number n on, counted from 0. Subjects and data lie in the output's memory:
// they keep it from being freed. Finding message n takes a time that grows with the number of chunks. It panics on an open output.
func (o *Output) From(n int) iter.Seq[OutputMessage] {
	if !o.sealed {
		panic("state: reading an output that is not sealed")
	}
	return func(yield func(OutputMessage) bool) {
		skip := n
		for i := range o.chunks {
			c := &o.chunks[i]
			if skip >= c.msgs {
				skip -= c.msgs
				continue
			}
			for _, f := range c.frames[skip:] {
				if !yield(openFrame(c.data[f.from:f.to])) {
					return
				}
			}
			skip = 0
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

// frameSubject returns the subject of a message, in its memory.
func frameSubject(b []byte) string {
	r := reader{b: b[1:]}
	s := r.bytes()
	return unsafe.String(unsafe.SliceData(s), len(s))
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
