package state

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/klauspost/compress/s2"
)

// Both kinds of objects are containers: a header, compressed blocks, an index and a footer. See FORMAT.md.
const (
	formatFirst   = 1
	formatExpiry  = 2 // of snapshots: states say whether their entries expire
	whatSnapshot  = "snapshot"
	whatOutput    = "pending output"
	magicSnapshot = "WEIRSNAP"
	magicOutput   = "WEIROUTP"
	magicEnd      = "WEIR.END"

	headLen   = 16 // before the header's body
	crcLen    = 4
	blockLen  = 24 // of an index entry
	footerLen = 32

	maxHeader   = 1 << 20
	maxBlock    = 64 << 20 // uncompressed
	blockTarget = 128 << 10
	maxIdentity = 255
	maxStates   = 1 << 12

	// MaxEntryBytes bounds one encoded entry of a state and one message of pending output.
	MaxEntryBytes = 32 << 20
)

// The kinds of containers.
const (
	kindBase byte = iota + 1
	kindDelta
	kindOutput
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// block is an index entry.
type block struct {
	offset      int // not stored: blocks lie one behind the other
	comp, raw   uint32
	entries     uint32
	first, last uint32 // key groups
	sum         uint32 // of the compressed bytes
}

// containerWriter writes containers that all have the same header.
type containerWriter struct {
	header  []byte
	kind    byte
	max     int
	trailer func(dst []byte) []byte // what the index ends with, for the object that is being finished

	buf    []byte
	blocks []block
	out    []EncodedObject
}

func newContainerWriter(magic string, version uint16, kind byte, body []byte, maxObject int) *containerWriter {
	h := make([]byte, 0, headLen+len(body)+crcLen)
	h = append(h, magic...)
	h = binary.LittleEndian.AppendUint16(h, version)
	h = append(h, kind, 0)
	h = binary.LittleEndian.AppendUint32(h, uint32(len(body)))
	h = append(h, body...)
	h = binary.LittleEndian.AppendUint32(h, crc32.Checksum(h, castagnoli))
	return &containerWriter{header: h, kind: kind, max: maxObject}
}

// add compresses one block into the object and ends the object if it is long enough.
func (w *containerWriter) add(raw []byte, entries, first, last int) {
	if len(w.buf) == 0 {
		w.buf = append(w.buf, w.header...)
	}
	need := s2.MaxEncodedLen(len(raw))
	if cap(w.buf)-len(w.buf) < need {
		grown := make([]byte, len(w.buf), 2*cap(w.buf)+need)
		copy(grown, w.buf)
		w.buf = grown
	}
	at := len(w.buf)
	comp := s2.Encode(w.buf[at:at+need], raw)
	w.buf = w.buf[:at+len(comp)]
	w.blocks = append(w.blocks, block{comp: uint32(len(comp)), raw: uint32(len(raw)), entries: uint32(entries),
		first: uint32(first), last: uint32(last), sum: crc32.Checksum(comp, castagnoli)})
	if w.max > 0 && len(w.buf) >= w.max {
		w.finish()
	}
}

// finish ends the object, if one was begun.
func (w *containerWriter) finish() {
	if len(w.blocks) == 0 {
		return
	}
	le := binary.LittleEndian
	o := EncodedObject{FirstGroup: int(w.blocks[0].first), LastGroup: int(w.blocks[len(w.blocks)-1].last), Base: w.kind == kindBase}
	index := len(w.buf)
	entries := uint64(0)
	for _, b := range w.blocks {
		for _, v := range [...]uint32{b.comp, b.raw, b.entries, b.first, b.last, b.sum} {
			w.buf = le.AppendUint32(w.buf, v)
		}
		entries += uint64(b.entries)
	}
	if w.trailer != nil {
		w.buf = w.trailer(w.buf)
	}
	if w.kind == kindOutput {
		o.Messages = entries
	} else {
		o.Entries = entries
	}
	size, sum := len(w.buf)-index, crc32.Checksum(w.buf[index:], castagnoli)
	footer := len(w.buf)
	w.buf = le.AppendUint64(w.buf, uint64(index))
	w.buf = le.AppendUint32(w.buf, uint32(len(w.blocks)))
	w.buf = le.AppendUint32(w.buf, uint32(size))
	w.buf = le.AppendUint32(w.buf, sum)
	w.buf = le.AppendUint32(w.buf, crc32.Checksum(w.buf[footer:], castagnoli))
	w.buf = append(w.buf, magicEnd...)
	o.Data = w.buf
	w.out = append(w.out, o)
	w.buf, w.blocks = nil, nil
}

// container is an object whose header, index and footer were checked.
type container struct {
	what    string
	data    []byte
	version uint16
	kind    byte
	body    []byte // of the header
	blocks  []block
	trailer []byte
}

func openContainer(what, magic string, data []byte) (*container, error) {
	bad := func(format string, args ...any) (*container, error) { return nil, formatErrorf(what, format, args...) }
	le := binary.LittleEndian
	if len(data) < headLen+crcLen+footerLen {
		return bad("%d bytes are too few", len(data))
	}
	if string(data[:len(magic)]) != magic {
		return bad("it does not begin with %q", magic)
	}
	newest := uint16(formatFirst)
	if magic == magicSnapshot {
		newest = formatExpiry
	}
	version := le.Uint16(data[8:])
	if version < formatFirst || version > newest {
		return bad("format version %d, this program reads %d to %d", version, formatFirst, newest)
	}
	c := &container{what: what, data: data, version: version, kind: data[10]}
	footer := data[len(data)-footerLen:]
	if string(footer[24:]) != magicEnd {
		return bad("it does not end with %q", magicEnd)
	}
	if crc32.Checksum(footer[:20], castagnoli) != le.Uint32(footer[20:]) {
		return bad("the footer's checksum differs")
	}
	bodyLen := uint64(le.Uint32(data[12:]))
	blocksAt := headLen + bodyLen + crcLen
	indexAt, n, size := le.Uint64(footer), uint64(le.Uint32(footer[8:])), uint64(le.Uint32(footer[12:]))
	if bodyLen > maxHeader || indexAt > uint64(len(data)) || blocksAt > indexAt || indexAt+size+footerLen != uint64(len(data)) || n*blockLen > size {
		return bad("header, index and footer do not fit into %d bytes", len(data))
	}
	c.body = data[headLen : headLen+bodyLen]
	if crc32.Checksum(data[:headLen+bodyLen], castagnoli) != le.Uint32(data[headLen+bodyLen:]) {
		return bad("the header's checksum differs")
	}
	index := data[indexAt : indexAt+size]
	if crc32.Checksum(index, castagnoli) != le.Uint32(footer[16:]) {
		return bad("the index's checksum differs")
	}
	c.trailer = index[n*blockLen:]
	return c, c.readBlocks(index[:n*blockLen], int(blocksAt), int(indexAt))
}

func (c *container) readBlocks(index []byte, at, end int) error {
	le := binary.LittleEndian
	c.blocks = make([]block, len(index)/blockLen)
	for i := range c.blocks {
		p := index[i*blockLen:]
		b := block{offset: at, comp: le.Uint32(p), raw: le.Uint32(p[4:]), entries: le.Uint32(p[8:]),
			first: le.Uint32(p[12:]), last: le.Uint32(p[16:]), sum: le.Uint32(p[20:])}
		if uint64(b.comp) > uint64(end-at) || b.raw > maxBlock || b.entries > b.raw || b.first > b.last || b.last >= MaxKeyGroups ||
			i > 0 && b.first < c.blocks[i-1].last {
			return formatErrorf(c.what, "the index entry of block %d is impossible", i)
		}
		at += int(b.comp)
		c.blocks[i] = b
	}
	if at != end {
		return formatErrorf(c.what, "%d bytes lie between the blocks and the index", end-at)
	}
	return nil
}

// block checks and decompresses block i. It uses buf's space if that is enough.
func (c *container) block(i int, buf []byte) ([]byte, error) {
	b := &c.blocks[i]
	comp := c.data[b.offset : b.offset+int(b.comp)]
	if crc32.Checksum(comp, castagnoli) != b.sum {
		return nil, formatErrorf(c.what, "the checksum of block %d differs", i)
	}
	if n, err := s2.DecodedLen(comp); err != nil || n != int(b.raw) {
		return nil, formatErrorf(c.what, "block %d has another length than the index says", i)
	}
	raw, err := s2.Decode(buf[:cap(buf)], comp)
	if err != nil {
		return nil, formatErrorf(c.what, "block %d: %v", i, err)
	}
	return raw, nil
}

// reader reads fields of a checked length. After a field that does not fit, bad is set and everything reads as zero.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) fail() {
	r.b, r.bad = nil, true
}

func (r *reader) uvarint() uint64 {
	if len(r.b) > 0 && r.b[0] < 0x80 {
		v := r.b[0]
		r.b = r.b[1:]
		return uint64(v)
	}
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	u := r.uvarint()
	v := int64(u >> 1)
	if u&1 != 0 {
		v = ^v
	}
	return v
}

// count reads the number of things that take at least size bytes each.
func (r *reader) count(size int) int {
	n := r.uvarint()
	if n > uint64(len(r.b)/size) {
		r.fail()
		return 0
	}
	return int(n)
}

func (r *reader) take(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	p := r.b[:n:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) bytes() []byte { return r.take(r.uvarint()) }

func (r *reader) string() string { return string(r.bytes()) }

func (r *reader) uint32() uint32 {
	p := r.take(4)
	if p == nil {
		return 0
	}
	return binary.LittleEndian.Uint32(p)
}

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}
