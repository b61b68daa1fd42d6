package nexmark

import (
	"math/bits"
	"strconv"
	"strings"
)

var (
	firstNames = strings.Fields("Peter Paul Luke John Saul Vicky Kate Julie Sarah Deiter Walter")
	lastNames  = strings.Fields("Shultz Abrams Spencer White Bartels Walton Smith Jones Noris")
	states     = strings.Fields("AZ CA ID OR WA WY")
	cities     = strings.Split("Phoenix,Los Angeles,San Francisco,Boise,Portland,Bend,Redmond,Seattle,Kent,Cheyenne", ",")

	hotChannels = [...]string{"Google", "Facebook", "Baidu", "Apple"}
)

// channels is how many there are beside the hot ones.
const channels = 10_000

// text draws 3 to most-1 letters with a blank here and there, but not at the ends.
func (r *rng) text(most int) string {
	n := 3 + int(r.below(int64(most-3)))
	b := make([]byte, n)
	for i := range b {
		if b[i] = byte('a' + r.below(26)); i > 0 && i < n-1 && r.below(13) == 0 {
			b[i] = ' '
		}
	}
	return string(b)
}

// letters draws exactly n letters, a dozen from each random number.
func (r *rng) letters(b []byte, n int) []byte {
	var v uint64
	for i := range n {
		if i%12 == 0 {
			v = r.next()
		}
		b = append(b, byte('a'+v%26))
		v /= 26
	}
	return b
}

// extra draws letters so that an event of size bytes becomes one of about want, give or take a fifth of what was missing.
func (r *rng) extra(size, want int) string {
	missing := want - size
	if missing <= 0 {
		return ""
	}
	delta := (missing + 2) / 5
	n := missing - delta
	if delta > 0 {
		n += int(r.below(int64(2 * delta)))
	}
	return string(r.letters(make([]byte, 0, n), n))
}

// channel draws the way by which a bid came, half of the time a hot one, and the item's URL. A channel has one URL; nine of ten
// that are not hot have their ID in it.
func (r *rng) channel(seed uint64) (name, url string) {
	if r.below(2) > 0 {
		i := r.below(int64(len(hotChannels)))
		return hotChannels[i], channelURL(seed, uint64(channels+i), "")
	}
	n := uint64(r.below(channels))
	id := ""
	if of := rng(mix(seed + n)); of.below(10) > 0 {
		id = strconv.FormatUint(uint64(bits.Reverse32(uint32(n))), 10)
	}
	return "channel-" + strconv.FormatUint(n, 10), channelURL(seed, n, id)
}

func channelURL(seed, n uint64, id string) string {
	r := rng(mix(seed ^ mix(^n)))
	b := make([]byte, 0, 96)
	b = append(b, "https://www.nexmark.com/"...)
	for range 3 {
		b = r.letters(b, 3+int(r.below(3)))
		b = append(b, '/')
	}
	b = append(b, "item.htm?query=1"...)
	if id != "" {
		b = append(b, "&channel_id="...)
		b = append(b, id...)
	}
	return string(b)
}
