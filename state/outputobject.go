package state

import (
	"encoding/binary"
	"fmt"
)

// OutputMeta says whose pending output an object holds.
type OutputMeta struct {
	Tenant, Job, Sink string
	Subtask           int
	Checkpoint        uint64
}

func (m OutputMeta) String() string {
	return fmt.Sprintf("job %s/%s, sink %s, subtask %d, checkpoint %d", m.Tenant, m.Job, m.Sink, m.Subtask, m.Checkpoint)
}

// Encode writes a sealed output as objects of about maxObject bytes, in publishing order. There are none if it is empty. It may
// run in any goroutine.
func (o *Output) Encode(meta OutputMeta, maxObject int) ([]EncodedObject, error) {
	if !o.sealed {
		return nil, fmt.Errorf("encoding the output of %s: it is not sealed", meta)
	}
	if meta.Subtask < 0 {
		return nil, fmt.Errorf("encoding the output of %s: the subtask is negative", meta)
	}
	body := appendString(appendString(appendString(nil, meta.Tenant), meta.Job), meta.Sink)
	body = binary.AppendUvarint(body, uint64(meta.Subtask))
	body = binary.AppendUvarint(body, meta.Checkpoint)
	w := newContainerWriter(magicOutput, formatFirst, kindOutput, body, maxObject)
	var raw []byte
	for i := range o.chunks {
		c := &o.chunks[i]
		data := c.data
		if c.holes() {
			raw = raw[:0]
			for f := range c.live() {
				raw = append(raw, f...)
			}
			data = raw
		}
		if c.msgs > 0 {
			w.add(data, c.msgs, 0, 0)
		}
	}
	w.finish()
	return w.out, nil
}

// DecodeOutput reads one object of pending output. A *FormatError says that it is damaged, a *ForeignError that it is not the one
// that meta describes. The result is sealed and does not share the object's memory.
func DecodeOutput(meta OutputMeta, object []byte) (*Output, error) {
	c, err := openContainer(whatOutput, magicOutput, object)
	if err != nil {
		return nil, err
	}
	r := reader{b: c.body}
	has := OutputMeta{Tenant: r.string(), Job: r.string(), Sink: r.string()}
	subtask := r.uvarint()
	has.Checkpoint = r.uvarint()
	if c.kind != kindOutput || r.bad || len(r.b) > 0 || len(c.trailer) > 0 || subtask > MaxKeyGroups {
		return nil, formatErrorf(whatOutput, "the header is malformed")
	}
	has.Subtask = int(subtask)
	if has != meta {
		return nil, &ForeignError{whatOutput, has.String(), meta.String()}
	}
	o := &Output{sealed: true, chunks: make([]chunk, 0, len(c.blocks))}
	for i := range c.blocks {
		raw, err := c.block(i, nil)
		if err != nil {
			return nil, err
		}
		frames := splitFrames(raw, int(c.blocks[i].entries))
		if len(frames) == 0 {
			return nil, formatErrorf(whatOutput, "the messages of block %d are malformed", i)
		}
		o.chunks = append(o.chunks, chunk{data: raw, frames: frames, msgs: len(frames)})
		o.msgs += int(c.blocks[i].entries)
		o.bytes += int64(len(raw))
	}
	return o, nil
}

// holes reports whether data has more than the messages, which do not overlap.
func (c *chunk) holes() bool {
	size := 0
	for _, f := range c.frames {
		size += int(f.to - f.from)
	}
	return size < len(c.data)
}

// splitFrames finds the n messages in b; nil: b is not a run of n messages.
func splitFrames(b []byte, n int) []frame {
	if n > len(b)/minFrame {
		return nil
	}
	frames := make([]frame, 0, n)
	for r := (reader{b: b}); len(r.b) > 0; {
		at := len(b) - len(r.b)
		flag := r.take(1)[0]
		r.bytes()
		head := r.bytes()
		r.bytes()
		if r.bad || flag != flagLive || len(frames) == n {
			return nil
		}
		if len(head) > 0 {
			if _, ok := readHeader(head); !ok {
				return nil
			}
		}
		frames = append(frames, frame{uint32(at), uint32(len(b) - len(r.b))})
	}
	if len(frames) < n {
		return nil
	}
	return frames
}

// minFrame is the size of a message of nothing: the flag and three lengths.
const minFrame = 4
