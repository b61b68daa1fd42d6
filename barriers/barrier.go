package barriers

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/vmihailenco/msgpack/v5"
)

const (
	// HeaderBarrier marks a message as a barrier. Its value is the checkpoint ID, for people; only the payload counts.
	HeaderBarrier = "Weir-Barrier"
	// BarrierVersion is the version of the barrier format this package writes.
	BarrierVersion = 1
	// MaxBarrierBytes bounds an encoded barrier.
	MaxBarrierBytes = 512

	barrierFields = 7
)

// ErrInvalidBarrier is wrapped by every error about a barrier's bytes.
var ErrInvalidBarrier = errors.New("invalid barrier")

// Barrier says "the checkpoint is cut here" to one source of one job. What kind of checkpoint it is comes from the coordinator,
// never from the message.
type Barrier struct {
	Version    int
	Tenant     string
	Job        string
	Source     string
	Epoch      uint64
	Checkpoint uint64
	Nonce      string // of the attempt
}

// Encode returns the barrier's msgpack, see FORMAT.md. Names that came through tenants' validation always fit.
func (b Barrier) Encode() []byte {
	var buf bytes.Buffer
	e := msgpack.NewEncoder(&buf)
	e.UseCompactInts(true)
	// A bytes.Buffer does not fail.
	_ = e.EncodeArrayLen(barrierFields)
	_ = e.EncodeUint(BarrierVersion)
	_ = e.EncodeString(b.Tenant)
	_ = e.EncodeString(b.Job)
	_ = e.EncodeString(b.Source)
	_ = e.EncodeUint(b.Epoch)
	_ = e.EncodeUint(b.Checkpoint)
	_ = e.EncodeString(b.Nonce)
	return buf.Bytes()
}

// DecodeBarrier reads a barrier. The bytes may come from anybody.
func DecodeBarrier(data []byte) (Barrier, error) {
	var b Barrier
	if err := checkBarrier(data); err != nil {
		return b, fmt.Errorf("%w: %w", ErrInvalidBarrier, err)
	}
	d := msgpack.NewDecoder(bytes.NewReader(data))
	var err error
	if _, err = d.DecodeArrayLen(); err != nil {
		return b, fmt.Errorf("%w: read the array: %w", ErrInvalidBarrier, err)
	}
	if b.Version, err = d.DecodeInt(); err != nil {
		return b, fmt.Errorf("%w: read the version: %w", ErrInvalidBarrier, err)
	}
	for _, f := range []struct {
		name string
		text *string
		num  *uint64
	}{
		{"tenant", &b.Tenant, nil},
		{"job", &b.Job, nil},
		{"source", &b.Source, nil},
		{"epoch", nil, &b.Epoch},
		{"checkpoint", nil, &b.Checkpoint},
		{"nonce", &b.Nonce, nil},
	} {
		if f.text != nil {
			*f.text, err = d.DecodeString()
		} else {
			*f.num, err = d.DecodeUint64()
		}
		if err != nil {
			return Barrier{}, fmt.Errorf("%w: read the %s: %w", ErrInvalidBarrier, f.name, err)
		}
	}
	return b, nil
}

// checkBarrier walks the bytes before the decoder may allocate for them: size, field count, types, and every length against what
// is left. Nothing but small integers and short strings gets through, so depth is one.
func checkBarrier(data []byte) error {
	if len(data) > MaxBarrierBytes {
		return fmt.Errorf("%d bytes, at most %d are allowed", len(data), MaxBarrierBytes)
	}
	if len(data) < 2 {
		return fmt.Errorf("%d bytes are too few", len(data))
	}
	if data[0]&0xf0 != 0x90 {
		return fmt.Errorf("first byte %#02x is not a short array", data[0])
	}
	fields, version := int(data[0]&0x0f), int(data[1])
	if version < 1 || version > 0x7f {
		return fmt.Errorf("version byte %#02x is not a version", data[1])
	}
	if version > BarrierVersion {
		return fmt.Errorf("version %d is newer than %d, which is the newest this worker reads: upgrade it", version, BarrierVersion)
	}
	if fields != barrierFields {
		return fmt.Errorf("%d fields, version %d has %d", fields, version, barrierFields)
	}
	rest := data[2:]
	for i, text := range []bool{true, true, true, false, false, true} {
		if len(rest) == 0 {
			return fmt.Errorf("field %d is missing", i+1)
		}
		size, err := fieldSize(rest, text)
		if err != nil {
			return fmt.Errorf("field %d: %w", i+1, err)
		}
		if size > len(rest) {
			return fmt.Errorf("field %d needs %d bytes, %d are left", i+1, size, len(rest))
		}
		rest = rest[size:]
	}
	if len(rest) > 0 {
		return fmt.Errorf("%d bytes behind the last field", len(rest))
	}
	return nil
}

// fieldSize returns the encoded size of the string or unsigned integer at the front of p.
func fieldSize(p []byte, text bool) (int, error) {
	c := p[0]
	switch {
	case text && c&0xe0 == 0xa0:
		return 1 + int(c&0x1f), nil
	case text && c == 0xd9 && len(p) > 1:
		return 2 + int(p[1]), nil
	case !text && c <= 0x7f:
		return 1, nil
	case !text && c >= 0xcc && c <= 0xcf:
		return 1 + 1<<(c-0xcc), nil
	}
	kind := "an unsigned integer"
	if text {
		kind = "a string of at most 255 bytes"
	}
	return 0, fmt.Errorf("byte %#02x does not begin %s", c, kind)
}
