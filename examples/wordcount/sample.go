package wordcount

import (
	"fmt"
	"strings"
)

var verses = [...]string{
	"the quick brown fox jumps over the lazy dog",
	"the river runs slow and the weir runs over",
	"a barrier in the stream is not a dam",
	"what flows over is counted once and only once",
	"the lazy dog sleeps by the river",
	"count the words and count them again",
}

// SampleLine returns the n-th line to try the job with. Its last word is the tenant's own, so that a count which came to the
// wrong tenant would show.
func SampleLine(tenant string, n uint64) []byte {
	own := strings.NewReplacer("-", "", "_", "").Replace(tenant)
	return fmt.Appendf(nil, "%s, %s!", verses[n%uint64(len(verses))], own)
}
