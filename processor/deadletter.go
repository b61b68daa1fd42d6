package processor

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/tenants"
)

// Headers of a dead letter. Its payload is the record's; a letter made by a timer has none.
const (
	HeaderError     = "Weir-Error"     // why, at most 1 KiB
	HeaderOperator  = "Weir-Operator"  // which operator refused it
	HeaderStream    = "Weir-Stream"    // the record's stream
	HeaderSeq       = "Weir-Seq"       // and sequence in it
	HeaderSubject   = "Weir-Subject"   // its subject
	HeaderTime      = "Weir-Time"      // when the server stored it, RFC 3339; of a timer, when it was due
	HeaderTruncated = "Weir-Truncated" // the payload's full size, where it was cut to fit
)

// maxHeaderError bounds the text of an error in a header, in bytes.
const maxHeaderError = 1024

// DeadLetterSubject is where a job's dead letters go.
func DeadLetterSubject(job tenants.JobID) string {
	return "weir.dlq." + string(job.Tenant) + "." + job.Name
}

// deadLetters is a task's part of the implicit sink for records that cannot be processed.
type deadLetters struct {
	sink    *sinkSubtask
	subject string
}

func newDeadLetters(t *task, p *plan) *deadLetters {
	return &deadLetters{
		sink:    newSinkSubtask(t, deadLetterSink, t.index, p.sinks[deadLetterSink], false),
		subject: DeadLetterSubject(p.cfg.Job),
	}
}

// poison sends the current record to the dead letters.
func (t *task) poison(op int32, err error) {
	t.touch()
	o := &t.origin
	header := map[string][]string{
		HeaderError:    {headerText(err.Error(), maxHeaderError)},
		HeaderOperator: {t.operators[op]},
		HeaderTime:     {time.Unix(0, o.time).UTC().Format(time.RFC3339Nano)},
	}
	if o.source != nil {
		header[HeaderStream] = []string{o.source.stream}
		header[HeaderSeq] = []string{strconv.FormatUint(o.seq, 10)}
		header[HeaderSubject] = []string{headerText(o.subject, tenants.MaxSubjectLen)}
	}
	data := o.data
	if room := t.dead.room(header); len(data) > room {
		header[HeaderTruncated] = []string{strconv.Itoa(len(data))}
		data = data[:room]
	}
	if err := t.dead.sink.current.Append(t.dead.subject, header, data); err != nil {
		t.fail(fmt.Errorf("staging a dead letter of operator %s: %w", t.operators[op], err))
		return
	}
	t.counts.dead++
}

// room is how much payload fits beside the headers.
func (d *deadLetters) room(header map[string][]string) int {
	limit := state.MaxEntryBytes
	if m := d.sink.bound.MaxMsg; m > 0 {
		limit = min(limit, m)
	}
	size := releaseHeaders
	for k, v := range header {
		size += len(k) + len(v[0]) + 4
	}
	return max(0, limit-size-len(HeaderTruncated)-24)
}

// headerText makes one line of printable text of anything.
func headerText(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}
