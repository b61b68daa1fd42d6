package processor

import (
	"errors"
	"strings"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/tenants"
)

// HeaderMark is the header of a mark: a message on an input subject that asks for a savepoint of everything before it in its stream.
// Each value names a job and, behind a space, the savepoint. A message one of whose values is so formed is an element for no job;
// any other value makes it an ordinary record.
const HeaderMark = "Weir-Mark"

// MarkConfig says whether marks in the input streams make savepoints. Whoever may publish input may then stop the job for the
// length of a checkpoint, at most once every MinInterval and Max times.
type MarkConfig struct {
	// Allow turns them on. Off, marks are dropped and counted.
	Allow bool
	// MinInterval is the least distance between two marks of a source that count, by their records' server time. Zero: 10 s.
	MinInterval time.Duration
	// Max is how many savepoints made by marks may exist at once. Zero: 10.
	Max int
}

func (c MarkConfig) withDefaults() MarkConfig {
	setDefault(&c.MinInterval, 10*time.Second)
	setDefault(&c.Max, 10)
	return c
}

func (c MarkConfig) validate() (errs []error) {
	if c.MinInterval < 0 || c.Max < 0 || c.Max > maxMarks {
		errs = append(errs, errors.New("marks: MinInterval must not be negative, Max 0 to 1000"))
	}
	return errs
}

const maxMarks = 1000

// Why a mark is ignored.
const (
	MarkNotAllowed = "the job's configuration does not allow marks"
	MarkTooSoon    = "it comes too soon after the one before"
	MarkTooMany    = "too many savepoints made by marks exist"
	MarkJobStops   = "the job is being stopped"
)

// parseMark reads the values of a mark's header: whether it is one, whether it names job, and the savepoint it names, if any.
func parseMark(values []string, job string) (is, mine bool, savepoint string) {
	for _, v := range values {
		name, sp, named := strings.Cut(v, " ")
		if tenants.ValidateName("job", name) != nil || named && tenants.ValidateName("savepoint", sp) != nil {
			continue
		}
		is = true
		if name == job && !mine {
			mine, savepoint = true, sp
		}
	}
	return is, mine, savepoint
}

// mark judges a record that has the header. It reports whether it is a mark, and so no element; the source may stand at it now.
func (t *task) mark(s *sourceInput, r *Record) bool {
	if s.rules != nil {
		return false // a mark is of what comes in; a rule may have any header
	}
	is, mine, savepoint := parseMark(r.Header[HeaderMark], t.job.Name)
	if !mine {
		return is
	}
	m := barriers.Mark{Source: s.ref.name, Stream: s.ref.stream, Seq: r.Seq}
	reason := ""
	switch soon := s.hold.asked != 0 && r.Time-s.hold.asked < int64(s.marks.MinInterval); {
	case !s.marks.Allow:
		reason = MarkNotAllowed
	case soon:
		reason = MarkTooSoon
	}
	if reason == "" {
		s.hold.mark, s.hold.asked = r.Seq, r.Time
		t.host.notify(ctlMark{mark: m, time: r.Time, savepoint: savepoint})
		return true
	}
	t.counts.marks++
	// A flood of marks must not become a flood of events.
	if s.hold.ignored == 0 || r.Time-s.hold.ignored >= int64(s.marks.MinInterval) {
		s.hold.ignored = r.Time
		t.host.notify(ctlMarkIgnored{mark: m, reason: reason})
	}
	return true
}
