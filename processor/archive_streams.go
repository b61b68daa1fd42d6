package processor

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/tenants"
)

// StreamFacts is what a stream says of itself.
type StreamFacts struct {
	Created     int64 // unix nanoseconds
	First, Last uint64
}

// ArchiveBroker is what an import needs beside a Broker.
type ArchiveBroker interface {
	Broker
	// StreamFacts describes a stream; false: there is none of this name.
	StreamFacts(ctx context.Context, stream string) (StreamFacts, bool, error)
	// StreamRecord reads the record at a sequence; false: there is none, or not any more.
	StreamRecord(ctx context.Context, stream string, seq uint64) (Record, bool, error)
	// FindObject returns how a manifest names an object that was stored; false: there is none of this name.
	FindObject(ctx context.Context, tenant tenants.ID, name string) (barriers.Object, bool, error)
}

// How an import finds a source's position in the streams that are here.
const (
	PositionKept    = "kept"    // the same stream, or a mirror or restored copy: the same records at the same sequences
	PositionMapped  = "mapped"  // a copy with other sequences: the last record read was found in it
	PositionSet     = "set"     // as the import's caller said
	PositionRefused = "refused" // it cannot be told where the source goes on
)

// SourceImport says what an import made of one source's position.
type SourceImport struct {
	Source string   `json:"source"`
	From   Position `json:"from"` // as exported
	To     Position `json:"to"`
	How    string   `json:"how"`
	Detail string   `json:"detail"` // why, in words
}

// headerSource is set by a server on what one stream takes over from another: stream, sequence there, and how it was filtered.
const headerSource = "Nats-Stream-Source"

// stillFor is how long a stream may say nothing before a search believes that it is at its end.
const stillFor = 30 * time.Second

// streamMapper finds positions of an archive in the streams that are here. Invariant: a position is kept or mapped only on proof,
// by server time and content of the records that were read last, that what is at or before it was read and what is behind it was not.
type streamMapper struct {
	broker ArchiveBroker
	from   tenants.ID
	job    tenants.JobID
	spec   *ImportSpec
}

// place finds one source's position. An error is the broker's; what cannot be proved is a result with PositionRefused.
func (p *streamMapper) place(ctx context.Context, src barriers.Source) (barriers.Source, SourceImport, error) {
	stream := src.Stream
	if s := p.spec.Streams[src.Name]; s != "" {
		stream = s
	}
	out := SourceImport{Source: src.Name, From: Position{Stream: src.Stream, Sequence: src.Position}, To: Position{Stream: stream}}
	facts, ok, err := p.broker.StreamFacts(ctx, stream)
	if err != nil {
		return src, out, fmt.Errorf("looking at stream %s for source %s: %w", stream, src.Name, err)
	}
	if !ok {
		return src, out.refuse("there is no stream %s here: mirror it, restore it from a backup, or name the one that holds its records", stream), nil
	}
	was := src
	src.Stream, src.Created = stream, facts.Created
	if seq, set := p.spec.Positions[src.Name]; set {
		if seq > facts.Last {
			return src, out.refuse("stream %s ends at sequence %d, the position that was given is %d", stream, facts.Last, seq), nil
		}
		src.Position, src.Tail = seq, nil
		out.To.Sequence, out.How, out.Detail = seq, PositionSet, "as it was given"
		return src, out, nil
	}
	if src.Position == 0 {
		out.How, out.Detail = PositionKept, "nothing was read yet"
		return src, out, nil
	}
	bucket := strings.HasPrefix(src.Filter, "$KV.")
	if own := "." + string(p.from) + ".*"; bucket && p.from != p.job.Tenant && strings.HasSuffix(src.Filter, own) {
		return src, out.refuse("these are the rules of tenant %s, and tenant %s has others: give the position, 0 to read them all", p.from, p.job.Tenant), nil
	}
	same, detail, err := p.sameRecords(ctx, was, stream, facts)
	if err != nil {
		return src, out, err
	}
	if same {
		return src, p.keep(out, was, facts, detail), nil
	}
	if bucket { // the last records that were read do not say what the other keys are
		return src, out.refuse("%s: give the position to go on behind, 0 to read all of the bucket", detail), nil
	}
	if len(was.Tail) == 0 {
		return src, out.refuse("%s, and the savepoint has no records of it to look for: give the position to go on behind", detail), nil
	}
	found, how, err := p.search(ctx, was, stream, facts)
	if err != nil {
		return src, out, fmt.Errorf("searching stream %s for what source %s read last: %w", stream, src.Name, err)
	}
	if found == nil {
		return src, out.refuse("%s, and %s: give the position to go on behind, wait if the copy is not complete yet, or mirror the stream", detail, how), nil
	}
	src.Position, src.Tail = found.Seq, []barriers.Fingerprint{*found}
	out.To.Sequence, out.How, out.Detail = found.Seq, PositionMapped, how
	return src, out, nil
}

func (o SourceImport) refuse(format string, args ...any) SourceImport {
	o.How, o.Detail = PositionRefused, fmt.Sprintf(format, args...)
	return o
}

// keep checks that a stream with the same records reaches the position.
func (p *streamMapper) keep(out SourceImport, src barriers.Source, facts StreamFacts, detail string) SourceImport {
	switch {
	case facts.Last < src.Position:
		return out.refuse("%s, but it ends at sequence %d and the position is %d: wait until it has caught up", detail, facts.Last, src.Position)
	case facts.First > src.Position+1 && !strings.HasPrefix(src.Filter, "$KV."): // a bucket loses revisions as it should
		return out.refuse("%s, but it begins with sequence %d and the position is %d: %d records were removed before they were read",
			detail, facts.First, src.Position, facts.First-src.Position-1)
	}
	out.To.Sequence, out.How, out.Detail = src.Position, PositionKept, detail
	return out
}

// sameRecords reports whether the stream has the records that were read last where they were, and says what it saw.
func (p *streamMapper) sameRecords(ctx context.Context, src barriers.Source, stream string, facts StreamFacts) (bool, string, error) {
	if stream == src.Stream && facts.Created == src.Created {
		return true, "the same stream", nil
	}
	seen := 0
	for _, was := range src.Tail {
		rec, ok, err := p.broker.StreamRecord(ctx, stream, was.Seq)
		if err != nil {
			return false, "", fmt.Errorf("reading record %d of stream %s for source %s: %w", was.Seq, stream, src.Name, err)
		}
		if !ok {
			continue
		}
		if rec.Time != was.Time || barriers.FingerprintHash(rec.Subject, rec.Data) != was.Hash {
			return false, fmt.Sprintf("record %d of stream %s is not the one that was read", was.Seq, stream), nil
		}
		seen++
	}
	if seen == 0 {
		return false, fmt.Sprintf("stream %s was created at another time and has none of the records that were read last", stream), nil
	}
	return true, fmt.Sprintf("a mirror or copy of the stream: %d of the last %d records read are where they were", seen, len(src.Tail)), nil
}

// search reads the whole stream for the last record that was read. A server that copies one stream into another writes the record's
// old place into a header: one such record is proof. Without it the last records read must lie one behind the other exactly once.
func (p *streamMapper) search(ctx context.Context, src barriers.Source, stream string, facts StreamFacts) (*barriers.Fingerprint, string, error) {
	if facts.Last == 0 || facts.First > facts.Last {
		return nil, fmt.Sprintf("stream %s is empty", stream), nil
	}
	r, err := p.broker.OpenReader(ctx, ReaderSpec{Job: p.job, Source: src.Name, Stream: stream, Created: facts.Created, Filter: src.Filter,
		After: max(facts.First, 1) - 1, Fresh: true, BatchRecords: maxBatchRecords, BatchBytes: maxBatchBytes})
	if err != nil {
		return nil, "", err
	}
	defer r.Close()
	s := tailSearch{src: src}
	for done := false; !done; {
		batch, err := nextWithin(ctx, r)
		if err != nil {
			return nil, "", err
		}
		for i := range batch.Records {
			if s.look(&batch.Records[i]) {
				return &s.copied, fmt.Sprintf("its header says that record %d of stream %s is record %d of stream %s", s.copied.Seq, stream, src.Tail[len(src.Tail)-1].Seq, src.Stream), nil
			}
		}
		done = batch.Position >= facts.Last || len(batch.Records) > 0 && batch.Pending == 0
	}
	switch {
	case s.matches == 1 && s.alike == 1:
		return &s.match, fmt.Sprintf("the last %d records read are in stream %s once, the last of them at sequence %d", len(src.Tail), stream, s.match.Seq), nil
	case s.matches == 0:
		return nil, fmt.Sprintf("the last %d records read are not in stream %s one behind the other", len(src.Tail), stream), nil
	}
	return nil, fmt.Sprintf("the last record read is in stream %s %d times", stream, s.alike), nil
}

func nextWithin(ctx context.Context, r Reader) (Batch, error) {
	ctx, cancel := context.WithTimeout(ctx, stillFor)
	defer cancel()
	return r.Next(ctx)
}

// tailSearch looks for the records that a source read last.
type tailSearch struct {
	src     barriers.Source
	window  []string // hashes of the last records, as many as the tail has
	matches int
	alike   int // records like the last of the tail, whatever is before them
	match   barriers.Fingerprint
	copied  barriers.Fingerprint
}

// look takes the next record and reports whether its header proves it to be the last one that was read.
func (s *tailSearch) look(rec *Record) bool {
	if len(rec.Header[barriers.HeaderBarrier]) > 0 || tenants.HasReserved(rec.Subject) {
		return false
	}
	tail := s.src.Tail
	last := tail[len(tail)-1]
	is := barriers.Fingerprint{Seq: rec.Seq, Time: rec.Time, Hash: barriers.FingerprintHash(rec.Subject, rec.Data)}
	if len(s.window) == len(tail) {
		s.window = append(s.window[:0], s.window[1:]...)
	}
	s.window = append(s.window, is.Hash)
	if is.Hash != last.Hash {
		return false
	}
	if stream, seq, ok := copiedFrom(rec.Header); ok && stream == s.src.Stream {
		s.copied = is
		return seq == last.Seq
	}
	s.alike++
	if slices.EqualFunc(s.window, tail, func(hash string, f barriers.Fingerprint) bool { return hash == f.Hash }) {
		s.matches++
		s.match = is
	}
	return false
}

// copiedFrom reads the header that says which record of which stream a record is a copy of.
func copiedFrom(header map[string][]string) (stream string, seq uint64, ok bool) {
	values := header[headerSource]
	if len(values) != 1 {
		return "", 0, false
	}
	fields := strings.Split(values[0], " ")
	if len(fields) < 2 {
		return "", 0, false
	}
	stream, _, _ = strings.Cut(fields[0], ":") // behind it: which account or domain
	seq, err := strconv.ParseUint(fields[1], 10, 64)
	return stream, seq, err == nil
}
