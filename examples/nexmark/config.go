package nexmark

import (
	"errors"
	"fmt"
	"time"
)

// Config says which events there are. Every zero value has a meaning.
type Config struct {
	// Seed of everything random.
	Seed uint64
	// Start is the time of event 0. Zero: 2015-07-15 00:00 UTC, as in the original.
	Start time.Time
	// Interval is the event time between an event and the next ID's, in microseconds at the finest. Zero: 100 µs, 10,000 events a second.
	Interval time.Duration
	// Shuffle is the size of the groups within which events change places; not a multiple of 953. Zero: 1, in order.
	Shuffle int
	// HotAuctions, HotSellers and HotBidders: of so many, all but one go to the hot one. Zero: 2, 4 and 4; 1: none is hot.
	HotAuctions, HotSellers, HotBidders int
	// InFlight is how many auctions are open at a time, on average. Zero: 100.
	InFlight int
	// ActivePeople is how many of the newest persons sell and bid. Zero: 1000.
	ActivePeople int
}

func (c Config) withDefaults() Config {
	if c.Start.IsZero() {
		c.Start = time.Date(2015, 7, 15, 0, 0, 0, 0, time.UTC)
	}
	if c.Interval == 0 {
		c.Interval = 100 * time.Microsecond
	}
	for _, f := range []struct {
		field *int
		value int
	}{{&c.Shuffle, 1}, {&c.HotAuctions, 2}, {&c.HotSellers, 4}, {&c.HotBidders, 4}, {&c.InFlight, 100}, {&c.ActivePeople, 1000}} {
		if *f.field == 0 {
			*f.field = f.value
		}
	}
	return c
}

// Validate reports all problems at once.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	if c.Interval < time.Microsecond || c.Interval > 24*time.Hour {
		errs = append(errs, fmt.Errorf("Config.Interval is %s: use 1 µs to 24 h", c.Interval))
	}
	if year := c.Start.Year(); year < 1970 || year > 2200 {
		errs = append(errs, fmt.Errorf("Config.Start is in the year %d: use 1970 to 2200", year))
	}
	if c.Shuffle < 1 || c.Shuffle > 1e6 || c.Shuffle%shuffleStep == 0 {
		errs = append(errs, fmt.Errorf("Config.Shuffle is %d: use 1 to 1000000, not a multiple of %d", c.Shuffle, shuffleStep))
	}
	for _, f := range []struct {
		name  string
		value int
	}{
		{"Config.HotAuctions", c.HotAuctions}, {"Config.HotSellers", c.HotSellers}, {"Config.HotBidders", c.HotBidders},
		{"Config.InFlight", c.InFlight}, {"Config.ActivePeople", c.ActivePeople},
	} {
		if f.value < 1 || f.value > 1e6 {
			errs = append(errs, fmt.Errorf("%s is %d: use 1 to 1000000", f.name, f.value))
		}
	}
	return errors.Join(errs...)
}
