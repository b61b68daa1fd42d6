package barriers

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// Limits of encoded records in bytes, and of their parts in number.
const (
	MaxManifestBytes = 8 << 20
	MaxHeadBytes     = 64 << 10
	MaxMarkerBytes   = 4 << 10

	maxRetained  = 256
	maxParts     = 4096  // sources, operators, sinks, states of an operator
	maxChain     = 65536 // objects of one operator or sink
	maxTail      = 8
	maxTextBytes = 4096
)

// ErrInvalidRecord is wrapped by every error about the bytes of a head, manifest or marker.
var ErrInvalidRecord = errors.New("invalid record")

// ManifestKey is the key of a checkpoint's manifest in the checkpoint bucket.
func ManifestKey(tenant, job string, checkpoint uint64) string {
	return HeadKey(tenant, job) + "." + strconv.FormatUint(checkpoint, 10)
}

// SavepointKey is the key of a savepoint's manifest in the checkpoint bucket.
func SavepointKey(tenant, job, name string) string {
	return HeadKey(tenant, job) + ".savepoint." + name
}

// ObjectPrefix is what the names of a checkpoint's snapshot objects begin with. Clean-up removes only objects named so.
func ObjectPrefix(job string, epoch, checkpoint uint64) string {
	return fmt.Sprintf("%s/%d-%d/", job, epoch, checkpoint)
}

// SavepointPrefix is what the names of a savepoint's snapshot objects begin with. Clean-up never touches them.
func SavepointPrefix(job, name string) string { return job + "/savepoint-" + name + "/" }

// Digest returns the digest of data as the NATS object store writes it.
func Digest(data []byte) string {
	sum := sha256.Sum256(data)
	return "SHA-256=" + base64.URLEncoding.EncodeToString(sum[:])
}

// FingerprintHash identifies a record's subject and payload: SHA-256 over the subject's length (8 bytes, big endian), subject and
// payload, the first 128 bits in hex.
func FingerprintHash(subject string, data []byte) string {
	h := sha256.New()
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(subject)))
	h.Write(n[:])
	io.WriteString(h, subject)
	h.Write(data)
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// Encode returns the head's JSON. It sets Version.
func (h *Head) Encode() ([]byte, error) {
	h.Version = HeadVersion
	return encodeRecord("head", h, h.validate, MaxHeadBytes)
}

// DecodeHead reads a head.
func DecodeHead(data []byte) (*Head, error) {
	return decodeRecord[Head]("head", data, HeadVersion, MaxHeadBytes, (*Head).validate)
}

// Encode returns the manifest's JSON and its digest. It sets Version.
func (m *Manifest) Encode() ([]byte, string, error) {
	m.Version = ManifestVersion
	data, err := encodeRecord("manifest", m, m.validate, MaxManifestBytes)
	if err != nil {
		return nil, "", err
	}
	return data, Digest(data), nil
}

// DecodeManifest reads a manifest. Whether it is the right one is for its digest in the head to say.
func DecodeManifest(data []byte) (*Manifest, error) {
	return decodeRecord[Manifest]("manifest", data, ManifestVersion, MaxManifestBytes, (*Manifest).validate)
}

// Encode returns the marker's JSON. It sets Version.
func (m *Marker) Encode() ([]byte, error) {
	m.Version = MarkerVersion
	return encodeRecord("marker", m, m.validate, MaxMarkerBytes)
}

// DecodeMarker reads a marker. Anybody who may publish into the stream may have written it.
func DecodeMarker(data []byte) (*Marker, error) {
	return decodeRecord[Marker]("marker", data, MarkerVersion, MaxMarkerBytes, (*Marker).validate)
}

func encodeRecord(kind string, v any, validate func() error, limit int) ([]byte, error) {
	if err := validate(); err != nil {
		return nil, fmt.Errorf("encode %s: %w: %w", kind, ErrInvalidRecord, err)
	}
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false) // a person reads "orders.>"
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("encode %s: %w", kind, err)
	}
	data := bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
	if len(data) > limit {
		return nil, fmt.Errorf("encode %s: %w: %d bytes, at most %d are allowed", kind, ErrInvalidRecord, len(data), limit)
	}
	return data, nil
}

// decodeRecord is strict: an unknown field would be dropped at the next write, so every new field is a new version.
func decodeRecord[T any](kind string, data []byte, version, limit int, validate func(*T) error) (*T, error) {
	fail := func(err error) (*T, error) {
		return nil, fmt.Errorf("decode %s: %w: %w", kind, ErrInvalidRecord, err)
	}
	if len(data) > limit {
		return fail(fmt.Errorf("%d bytes, at most %d are allowed", len(data), limit))
	}
	var v struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return fail(err)
	}
	if v.Version > version {
		return fail(fmt.Errorf("version %d is newer than %d, which is the newest this worker reads: upgrade it", v.Version, version))
	}
	if v.Version < 1 {
		return fail(fmt.Errorf("version %d does not exist", v.Version))
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	out := new(T)
	if err := d.Decode(out); err != nil {
		return fail(err)
	}
	if err := validate(out); err != nil {
		return fail(err)
	}
	return out, nil
}

func (h *Head) validate() error {
	if err := checkText("tenant", h.Tenant, "job", h.Job, "worker", h.Worker, "owner", h.Owner); err != nil {
		return err
	}
	if len(h.Digest) > maxTextBytes || len(h.Request) > maxTextBytes {
		return errors.New("digest or request is too long")
	}
	switch h.State {
	case StateRunning, StateStopping, StateStopped, StateReleased, StateDeleted:
	default:
		return fmt.Errorf("state %.32q is not known", h.State)
	}
	if h.Epoch == 0 {
		return errors.New("epoch is 0: epochs begin with 1")
	}
	if (h.ManifestSeq == 0) != (h.Digest == "") {
		return fmt.Errorf("manifest sequence %d and digest %.80q do not go together", h.ManifestSeq, h.Digest)
	}
	if h.ManifestSeq != 0 && h.Checkpoint == 0 {
		return errors.New("a manifest without a checkpoint")
	}
	if len(h.Retained) > maxRetained {
		return fmt.Errorf("%d retained checkpoints, at most %d are allowed", len(h.Retained), maxRetained)
	}
	last := uint64(0)
	for _, r := range h.Retained {
		if r.Checkpoint <= last || r.Checkpoint >= h.Checkpoint {
			return fmt.Errorf("retained checkpoint %d is out of order", r.Checkpoint)
		}
		if r.Seq == 0 || r.Digest == "" || len(r.Digest) > maxTextBytes {
			return fmt.Errorf("retained checkpoint %d has no proper sequence or digest", r.Checkpoint)
		}
		last = r.Checkpoint
	}
	return nil
}

func (m *Marker) validate() error {
	if err := checkText("tenant", m.Tenant, "job", m.Job, "sink", m.Sink, "owner", m.Owner); err != nil {
		return err
	}
	if m.Epoch == 0 {
		return errors.New("epoch is 0: epochs begin with 1")
	}
	if m.Released > m.Total {
		return fmt.Errorf("%d messages released of %d", m.Released, m.Total)
	}
	return nil
}

// checkText checks pairs of a name and a mandatory text.
func checkText(pairs ...string) error {
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			return fmt.Errorf("%s is empty", pairs[i])
		}
		if len(pairs[i+1]) > maxTextBytes {
			return fmt.Errorf("%s has %d bytes, at most %d are allowed", pairs[i], len(pairs[i+1]), maxTextBytes)
		}
	}
	return nil
}
