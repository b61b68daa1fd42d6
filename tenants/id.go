package tenants

import (
	"errors"
	"fmt"
	"strings"
)

// Limits of names, in bytes.
const (
	MaxTenantLen = 64
	MaxNameLen   = 48
)

// ErrInvalidName is wrapped by every error about a tenant, job or operator name.
var ErrInvalidName = errors.New("invalid name")

// ID is a tenant's identity: [A-Za-z0-9][A-Za-z0-9_-]{0,63}.
type ID string

// ParseID validates s as a tenant ID.
func ParseID(s string) (ID, error) {
	if err := ID(s).Validate(); err != nil {
		return "", err
	}
	return ID(s), nil
}

// Validate reports whether the ID could have come from ParseID. A tenant's ID is also its stream's name and first subject token: the
// few that would take the subjects of Weir itself, or the stream of a bucket, are refused.
func (id ID) Validate() error {
	if err := validate("tenant", string(id), MaxTenantLen, true); err != nil {
		return err
	}
	upper := strings.ToUpper(string(id))
	if upper == "WEIR" || strings.HasPrefix(upper, "WEIR_") || strings.HasPrefix(upper, "KV_") || strings.HasPrefix(upper, "OBJ_") {
		return fmt.Errorf("%w: tenant %q: weir, and what begins with weir_, KV_ or OBJ_, are names of Weir's own streams and buckets", ErrInvalidName, id)
	}
	return nil
}

// ValidateName checks a job, operator, source, sink or state name: [a-z0-9][a-z0-9_-]{0,47}. kind is the word used in the error.
func ValidateName(kind, s string) error { return validate(kind, s, MaxNameLen, false) }

func validate(kind, s string, max int, upper bool) error {
	allowed := "a-z, 0-9, _ and -"
	if upper {
		allowed = "A-Z, " + allowed
	}
	if s == "" {
		return fmt.Errorf("%w: %s is empty: use 1 to %d of %s, beginning with a letter or digit", ErrInvalidName, kind, max, allowed)
	}
	if len(s) > max {
		return fmt.Errorf("%w: %s %q has %d bytes: at most %d are allowed", ErrInvalidName, kind, s[:max], len(s), max)
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', upper && c >= 'A' && c <= 'Z':
		case i > 0 && (c == '_' || c == '-'):
		default:
			return fmt.Errorf("%w: %s %q has %q at byte %d: use %s, beginning with a letter or digit", ErrInvalidName, kind, s, c, i, allowed)
		}
	}
	return nil
}

// JobID names one topology deployed for one tenant.
type JobID struct {
	Tenant ID
	Name   string
}

// String returns "tenant/name".
func (j JobID) String() string { return string(j.Tenant) + "/" + j.Name }

// Validate checks both parts.
func (j JobID) Validate() error {
	return errors.Join(j.Tenant.Validate(), ValidateName("job", j.Name))
}

// ParseJobID reads "tenant/name".
func ParseJobID(s string) (JobID, error) {
	tenant, name, ok := strings.Cut(s, "/")
	if !ok {
		return JobID{}, fmt.Errorf("%w: job %q: write it as tenant/job, for example acme/wordcount", ErrInvalidName, s)
	}
	j := JobID{Tenant: ID(tenant), Name: name}
	return j, j.Validate()
}
