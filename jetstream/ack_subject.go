package jetstream

import "strings"

const ackPrefix = "$JS.ACK."

// delivery is what the reply subject of a delivered message says.
type delivery struct {
	streamSeq   uint64
	consumerSeq uint64
	time        int64 // unix nanoseconds
	pending     uint64
}

// ackParser reads the reply subjects of one consumer. They all begin alike, so only the numbers are looked at.
//
//	$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>
//	$JS.ACK.<domain>.<account hash>.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>[.<token>]
type ackParser struct {
	prefix string // up to the consumer's dot
	parsed bool
}

// parse returns false for anything that is not such a subject of the same consumer.
func (p *ackParser) parse(reply string) (delivery, bool) {
	if !p.parsed {
		fields := 2
		switch n := strings.Count(reply, ".") + 1; {
		case !strings.HasPrefix(reply, ackPrefix) || n < 9:
			return delivery{}, false
		case n >= 11:
			fields = 4
		}
		end := len(ackPrefix)
		for range fields {
			dot := strings.IndexByte(reply[end:], '.')
			if dot < 0 {
				return delivery{}, false
			}
			end += dot + 1
		}
		p.prefix, p.parsed = strings.Clone(reply[:end]), true
	}
	rest, ok := strings.CutPrefix(reply, p.prefix)
	if !ok {
		return delivery{}, false
	}
	var n [5]uint64
	for i := range n {
		digits := 0
		for digits < len(rest) && rest[digits] >= '0' && rest[digits] <= '9' {
			n[i] = n[i]*10 + uint64(rest[digits]-'0')
			digits++
		}
		if digits == 0 || digits > 20 {
			return delivery{}, false
		}
		rest = rest[digits:]
		if i == 4 {
			break
		}
		if rest == "" || rest[0] != '.' {
			return delivery{}, false
		}
		rest = rest[1:]
	}
	if rest != "" && rest[0] != '.' {
		return delivery{}, false
	}
	return delivery{streamSeq: n[1], consumerSeq: n[2], time: int64(n[3]), pending: n[4]}, true
}
