package tenants

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

const (
	// Reserved is the token under which Weir keeps its own messages. Sources pass on nothing under it, sinks refuse it.
	Reserved = "_weir"
	// MaxSubjectLen bounds every subject Weir publishes to, in bytes. Past 4096 the server closes the connection that all tenants share.
	MaxSubjectLen = 512
)

var (
	// ErrInvalidSubject is wrapped by every error about a subject or filter.
	ErrInvalidSubject = errors.New("invalid subject")
	// ErrReserved says that a subject has the token _weir.
	ErrReserved = errors.New("subject is reserved")
)

// Filter is a subject filter relative to the tenant, with * and > as NATS has them: "orders.>".
type Filter string

// Validate checks tokens and wildcards.
func (f Filter) Validate() error { return validateSubject(string(f), true) }

// Matches reports whether the relative subject is covered by the filter. It allocates nothing.
func (f Filter) Matches(subject string) bool {
	filter := string(f)
	for {
		ft, frest, fmore := strings.Cut(filter, ".")
		if ft == ">" {
			return subject != ""
		}
		st, srest, smore := strings.Cut(subject, ".")
		if ft != "*" && ft != st {
			return false
		}
		if fmore != smore {
			return false
		}
		if !fmore {
			return true
		}
		filter, subject = frest, srest
	}
}

// Overlaps reports whether some subject is covered by both filters.
func (f Filter) Overlaps(g Filter) bool {
	a, b := string(f), string(g)
	for {
		at, arest, amore := strings.Cut(a, ".")
		bt, brest, bmore := strings.Cut(b, ".")
		switch {
		case at == ">" || bt == ">":
			return true
		case at != "*" && bt != "*" && at != bt, amore != bmore:
			return false
		case !amore:
			return true
		}
		a, b = arest, brest
	}
}

// Cover returns the narrowest single filter that matches whatever any of the filters matches.
func Cover(filters []Filter) Filter {
	if len(filters) == 0 {
		return ">"
	}
	cover := strings.Split(string(filters[0]), ".")
	for _, f := range filters[1:] {
		tokens := strings.Split(string(f), ".")
		n := min(len(cover), len(tokens))
		out := make([]string, 0, n+1)
		open := len(cover) != len(tokens)
		for i := range n {
			if cover[i] == ">" || tokens[i] == ">" {
				open = true
				break
			}
			if cover[i] == tokens[i] {
				out = append(out, cover[i])
			} else {
				out = append(out, "*")
			}
		}
		if open {
			// Where one ends and the other goes on, > stands for at least one token: the last common one must be given up.
			if len(out) == n && cover[n-1] != ">" && tokens[n-1] != ">" {
				out = out[:n-1]
			}
			for len(out) > 0 && out[len(out)-1] == "*" {
				out = out[:len(out)-1]
			}
			out = append(out, ">")
		}
		cover = out
	}
	return Filter(strings.Join(cover, "."))
}

// ValidateSubject checks a literal relative subject as a sink may publish to it: tokens, length, no wildcard, no reserved token.
func ValidateSubject(subject string) error {
	return validateSubject(subject, false)
}

func validateSubject(s string, wildcards bool) error {
	if s == "" {
		return fmt.Errorf("%w: it is empty", ErrInvalidSubject)
	}
	if len(s) > MaxSubjectLen {
		return fmt.Errorf("%w: %q… has %d bytes, at most %d are allowed", ErrInvalidSubject, s[:40], len(s), MaxSubjectLen)
	}
	rest, more := s, true
	for more {
		var token string
		token, rest, more = strings.Cut(rest, ".")
		switch {
		case token == "":
			return fmt.Errorf("%w: %q has an empty token", ErrInvalidSubject, s)
		case token == Reserved:
			return fmt.Errorf("%w: %q has the token %s, which Weir keeps for itself", ErrReserved, s, Reserved)
		case wildcards && token == "*":
		case wildcards && token == ">":
			if more {
				return fmt.Errorf("%w: %q has > before its end", ErrInvalidSubject, s)
			}
		default:
			for i := 0; i < len(token); i++ {
				if c := token[i]; c <= ' ' || c == 0x7f || c == '*' || c == '>' {
					return fmt.Errorf("%w: %q has %q in token %q: make tokens of user data with tenants.EscapeToken", ErrInvalidSubject, s, c, token)
				}
			}
		}
	}
	return nil
}

// HasReserved reports whether a subject has the reserved token.
func HasReserved(subject string) bool {
	i := strings.Index(subject, Reserved)
	for i >= 0 {
		end := i + len(Reserved)
		if (i == 0 || subject[i-1] == '.') && (end == len(subject) || subject[end] == '.') {
			return true
		}
		next := strings.Index(subject[end:], Reserved)
		if next < 0 {
			return false
		}
		i = end + next
	}
	return false
}

// Namespace turns relative subjects into absolute ones. Its template has the tenant as one whole token: "{tenant}", "events.{tenant}".
type Namespace struct{ before, after string }

// DefaultNamespace is the dedicated layout: subjects begin with the tenant.
var DefaultNamespace = Namespace{}

const placeholder = "{tenant}"

// NewNamespace parses a template. An empty template is "{tenant}".
func NewNamespace(template string) (Namespace, error) {
	if template == "" {
		return DefaultNamespace, nil
	}
	var ns Namespace
	seen := 0
	tokens := strings.Split(template, ".")
	for i, t := range tokens {
		if t == placeholder {
			seen++
			if i > 0 {
				ns.before = strings.Join(tokens[:i], ".") + "."
			}
			if i < len(tokens)-1 {
				ns.after = "." + strings.Join(tokens[i+1:], ".")
			}
			continue
		}
		if err := ValidateSubject(t); err != nil {
			return Namespace{}, fmt.Errorf("namespace %q: %w", template, err)
		}
	}
	if seen != 1 {
		return Namespace{}, fmt.Errorf("%w: namespace %q must have %s as exactly one token", ErrInvalidSubject, template, placeholder)
	}
	return ns, nil
}

// String returns the template.
func (n Namespace) String() string { return n.before + placeholder + n.after }

// Prefix returns what every subject of the tenant begins with, the last dot included.
func (n Namespace) Prefix(id ID) string { return n.before + string(id) + n.after + "." }

// Absolute makes a tenant's relative subject or filter absolute.
func (n Namespace) Absolute(id ID, relative string) string { return n.Prefix(id) + relative }

// Relative strips the tenant's prefix; ok is false when the subject is not the tenant's. It allocates nothing when prefix is
// kept by the caller: use strings.CutPrefix with Prefix on hot paths.
func (n Namespace) Relative(id ID, absolute string) (relative string, ok bool) {
	return strings.CutPrefix(absolute, n.Prefix(id))
}

// Marker is the subject of a sink's marker.
func (n Namespace) Marker(j JobID, sink string) string {
	return n.Absolute(j.Tenant, Reserved+"."+j.Name+".sink."+sink)
}

// Barrier is the literal subject on which barriers for a source travel: one that the source's own filter matches.
// "orders.>" has it on "orders._weir.{job}.{source}", "orders.*" on "orders._weir", "lines" on "lines".
func (n Namespace) Barrier(j JobID, source string, f Filter) string {
	tokens := strings.Split(string(f), ".")
	for i, t := range tokens {
		switch t {
		case "*":
			tokens[i] = Reserved
		case ">":
			tokens[i] = Reserved + "." + j.Name + "." + source
		}
	}
	return n.Absolute(j.Tenant, strings.Join(tokens, "."))
}

const hexDigits = "0123456789ABCDEF"

// EscapeToken makes one subject token or KV key token of any bytes: A-Z a-z 0-9 - and _ stay, every other byte becomes
// =XX, the empty string "=". Different inputs have different outputs.
func EscapeToken(s string) string {
	if s == "" {
		return "="
	}
	plain := true
	for i := 0; i < len(s) && plain; i++ {
		plain = isPlain(s[i])
	}
	if plain && s != Reserved {
		return s
	}
	b := make([]byte, 0, len(s)+8)
	for i := 0; i < len(s); i++ {
		// A key that is the reserved token itself must not reach it.
		if c := s[i]; isPlain(c) && (i > 0 || s != Reserved) {
			b = append(b, c)
		} else {
			b = append(b, '=', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return string(b)
}

func isPlain(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

// UnescapeToken reverses EscapeToken.
func UnescapeToken(t string) (string, error) {
	if t == "=" {
		return "", nil
	}
	b := make([]byte, 0, len(t))
	for i := 0; i < len(t); i++ {
		if t[i] != '=' {
			b = append(b, t[i])
			continue
		}
		if i+2 >= len(t) {
			return "", fmt.Errorf("%w: token %q ends inside an escape", ErrInvalidSubject, t)
		}
		hi, lo := strings.IndexByte(hexDigits, t[i+1]), strings.IndexByte(hexDigits, t[i+2])
		if hi < 0 || lo < 0 {
			return "", fmt.Errorf("%w: token %q has a bad escape at byte %d", ErrInvalidSubject, t, i)
		}
		b = append(b, byte(hi<<4|lo))
		i += 2
	}
	return string(b), nil
}

// Printable shortens user bytes for an error message: at most 60 bytes, whole runes.
func Printable(s string) string {
	if len(s) <= 60 {
		return s
	}
	cut := 60
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}
