package processor

import (
	"errors"
	"fmt"
	"strings"

	"github.com/weirstream/weir/tenants"
)

// maxShadow bounds a shadow prefix, in bytes: what goes under it must still fit a subject.
const maxShadow = 128

// checkShadow refuses a prefix under which a job would read what it writes itself.
func checkShadow(shadow string, sources []SourceNeed) error {
	if shadow == "" {
		return nil
	}
	if err := tenants.ValidateSubject(shadow); err != nil {
		return fmt.Errorf("JobConfig.Shadow: %w", err)
	}
	if len(shadow) > maxShadow {
		return fmt.Errorf("JobConfig.Shadow: %q has %d bytes, at most %d are allowed", tenants.Printable(shadow), len(shadow), maxShadow)
	}
	var errs []error
	for _, s := range sources {
		for _, f := range s.Filters {
			if f.Overlaps(tenants.Filter(shadow + ".>")) {
				errs = append(errs, fmt.Errorf("JobConfig.Shadow: source %s reads %s, and so would read what the job writes under %s: choose a prefix that no source's filter covers",
					s.Source, f, shadow))
			}
		}
	}
	return errors.Join(errs...)
}

// Prefix is what a sink's relative subjects are appended to: the tenant's prefix, and the shadow.
func (n SinkNeed) Prefix(job tenants.JobID, ns tenants.Namespace) string {
	return ns.Prefix(job.Tenant) + n.under()
}

// MarkerSubject is the absolute subject of the sink's marker where it lies among a tenant's subjects.
func (n SinkNeed) MarkerSubject(job tenants.JobID, ns tenants.Namespace) string {
	marker := n.Marker
	if marker == "" {
		marker = ns.Marker(job, n.Sink)
	}
	// Markers lie under the shadow too: a stream that captures the prefix has all that a fork writes.
	if relative, ok := strings.CutPrefix(marker, ns.Prefix(job.Tenant)); ok {
		return n.Prefix(job, ns) + relative
	}
	return marker
}

// BucketPrefix is what a KV sink's keys are appended to, without the bucket: "acme.", "acme.shadow.test.".
func (n SinkNeed) BucketPrefix(job tenants.JobID) string { return string(job.Tenant) + "." + n.under() }

func (n SinkNeed) under() string {
	if n.Shadow == "" {
		return ""
	}
	return n.Shadow + "."
}
