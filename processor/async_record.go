package processor

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"

	"github.com/weirstream/weir/state/codec"
)

// asyncRecord is what is kept of an element in flight beside its value: its event time, the operator's watermark when it came, and the
// record that it was made of, for its dead letter. It is encoded when the element comes; state/FORMAT.md has the bytes.
type asyncRecord []byte

const (
	asyncOfRecord = 1 << iota // it was made of a record, not of a timer
	asyncFar                  // its event time is too far ahead
)

// asyncOrigin is an asyncRecord, decoded. Its bytes are views.
type asyncOrigin struct {
	at, watermark, time  int64
	record, far          bool
	source, stream, subj string
	seq                  uint64
	data                 []byte
}

// recordOf encodes what is current in the task.
func (t *task) recordOf(watermark int64) asyncRecord {
	o := &t.origin
	flags, size := byte(0), 1+3*binary.MaxVarintLen64
	if o.far {
		flags |= asyncFar
	}
	if o.source != nil {
		flags |= asyncOfRecord
		size += 4*binary.MaxVarintLen64 + len(o.source.name) + len(o.source.stream) + len(o.subject) + len(o.data)
	}
	b := append(make(asyncRecord, 0, size), flags)
	b = binary.AppendVarint(b, t.at)
	b = binary.AppendVarint(b, watermark)
	b = binary.AppendVarint(b, o.time)
	if o.source == nil {
		return b
	}
	b = appendText(b, o.source.name)
	b = appendText(b, o.source.stream)
	b = binary.AppendUvarint(b, o.seq)
	b = appendText(b, o.subject)
	return append(b, o.data...)
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func (r asyncRecord) decode() (o asyncOrigin, err error) {
	p := recordParser{b: r}
	if len(r) == 0 || r[0] > asyncOfRecord|asyncFar {
		return o, errAsyncRecord("its flags")
	}
	o.record, o.far = r[0]&asyncOfRecord != 0, r[0]&asyncFar != 0
	p.b = r[1:]
	o.at, o.watermark, o.time = p.varint(), p.varint(), p.varint()
	if o.record {
		o.source, o.stream, o.seq, o.subj = p.text(), p.text(), p.uvarint(), p.text()
		o.data, p.b = p.b, nil
	}
	if p.bad || len(p.b) > 0 {
		return asyncOrigin{}, errAsyncRecord("its fields")
	}
	return o, nil
}

func errAsyncRecord(what string) error {
	return fmt.Errorf("decoding the record of an element in flight: %w: %s", codec.ErrMalformed, what)
}

// recordParser takes fields off the front of bytes. It accepts the shortest form of a number only, so that equal records have
// equal bytes.
type recordParser struct {
	b   []byte
	bad bool
}

func (p *recordParser) uvarint() uint64 {
	v, n := binary.Uvarint(p.b)
	if n <= 0 || n > 1 && p.b[n-1] == 0 {
		p.b, p.bad = nil, true
		return 0
	}
	p.b = p.b[n:]
	return v
}

func (p *recordParser) varint() int64 {
	u := p.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

func (p *recordParser) text() string {
	n := p.uvarint()
	if n > uint64(len(p.b)) {
		p.b, p.bad = nil, true
		return ""
	}
	s := viewString(p.b[:n])
	p.b = p.b[n:]
	return s
}

// MarshalJSON shows the record to people, without its payload.
func (r asyncRecord) MarshalJSON() ([]byte, error) {
	o, err := r.decode()
	if err != nil {
		return nil, err
	}
	shown := struct {
		Timestamp time.Time  `json:"timestamp"`
		Watermark *time.Time `json:"watermark,omitempty"`
		Source    string     `json:"source,omitempty"`
		Stream    string     `json:"stream,omitempty"`
		Seq       uint64     `json:"seq,omitempty"`
		Subject   string     `json:"subject,omitempty"`
		Bytes     int        `json:"bytes,omitempty"`
	}{Timestamp: time.Unix(0, o.at).UTC(), Source: o.source, Stream: o.stream, Seq: o.seq, Subject: o.subj, Bytes: len(o.data)}
	if o.watermark != noWatermark {
		wm := fromNanos(o.watermark)
		shown.Watermark = &wm
	}
	return json.Marshal(shown)
}

// asyncRecordCodec keeps an asyncRecord as it is.
type asyncRecordCodec struct{}

func (asyncRecordCodec) Name() string { return "async record" }

func (asyncRecordCodec) Append(dst []byte, r asyncRecord) ([]byte, error) {
	return append(dst, r...), nil
}

func (asyncRecordCodec) Decode(b []byte) (asyncRecord, error) {
	if _, err := asyncRecord(b).decode(); err != nil {
		return nil, err
	}
	return append(make(asyncRecord, 0, len(b)), b...), nil
}
