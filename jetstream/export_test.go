package jetstream

import "github.com/nats-io/nats.go"

// ChunkSubject is where an object's chunks are.
func ChunkSubject(bucket, id string) string { return "$O." + bucket + ".C." + id }

var (
	Covers      = covers
	Overlaps    = overlaps
	StatusOf    = statusOf
	MetaSubject = metaSubject
	AckOf       = func(m *nats.Msg) error { _, err := ackOf(m); return err }
)

// ParseAck parses with a fresh parser.
func ParseAck(reply string) (streamSeq, consumerSeq uint64, time int64, pending uint64, ok bool) {
	var p ackParser
	d, ok := p.parse(reply)
	return d.streamSeq, d.consumerSeq, d.time, d.pending, ok
}
