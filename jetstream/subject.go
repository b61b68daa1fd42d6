package jetstream

import (
	"strings"

	"github.com/weirstream/weir/tenants"
)

// covers reports whether every subject that matches filter b matches filter a too.
func covers(a, b string) bool {
	for {
		at, arest, amore := strings.Cut(a, ".")
		bt, brest, bmore := strings.Cut(b, ".")
		switch {
		case at == ">":
			return true
		case bt == ">", at != "*" && at != bt, amore != bmore:
			return false
		case !amore:
			return true
		}
		a, b = arest, brest
	}
}

// overlaps reports whether some subject matches both filters.
func overlaps(a, b string) bool { return tenants.Filter(a).Overlaps(tenants.Filter(b)) }

// anyCovers reports whether one of the filters covers b.
func anyCovers(filters []string, b string) bool {
	for _, a := range filters {
		if covers(a, b) {
			return true
		}
	}
	return false
}

func anyOverlaps(filters []string, b string) bool {
	for _, a := range filters {
		if overlaps(a, b) {
			return true
		}
	}
	return false
}
