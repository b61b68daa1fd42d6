// Package flights is the input of tests that want more disorder than a generator thinks of: real departures in the order in which
// the planes left. The file with them is not part of the project: where it is not there, flights of the same shape are made up, so
// that the tests that use them run everywhere. It refuses a file that it cannot read whole.
package flights

import (
	"compress/gzip"
	"encoding/csv"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"time"
)

// Flight is one departure.
type Flight struct {
	Scheduled   time.Time `json:"scheduled"`
	Origin      string    `json:"origin"`
	Destination string    `json:"destination"`
	Delay       int64     `json:"delay_minutes"`
}

// path is where the real flights are, seen from the project's root.
const path = "../shared/data/flights.csv.gz"

// few is how many flights a file has at least: with less the tests would show little.
const few = 10_000

// Load returns the flights in the order of their departure, and says which they are. root leads to the project's root.
func Load(root string) (list []Flight, which string, err error) {
	list, err = read(root + "/" + path)
	if errors.Is(err, fs.ErrNotExist) {
		return generate(), "made-up flights: the real ones are not at " + path + " beside the project", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("reading the real flights: %w", err)
	}
	return list, "the real flights", nil
}

func read(name string) (list []Flight, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	lines, err := csv.NewReader(z).ReadAll() // scheduled, departed, origin, destination, miles, delay in minutes
	if err != nil {
		return nil, err
	}
	for i, col := range lines[min(1, len(lines)):] {
		at, err := time.Parse(time.RFC3339, col[0])
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+2, err)
		}
		delay, err := strconv.ParseInt(col[5], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+2, err)
		}
		list = append(list, Flight{Scheduled: at, Origin: col[2], Destination: col[3], Delay: delay})
	}
	if len(list) < few {
		return nil, fmt.Errorf("%s has only %d flights", name, len(list))
	}
	return list, nil
}

// generate makes 20,000 flights of a quarter of a year between 59 airports of very different size. Most leave on time, some early,
// a few hours late.
func generate() []Flight {
	rng := rand.New(rand.NewPCG(2001, 59))
	sizes := rand.NewZipf(rng, 1.3, 8, 58)
	airport := func() string {
		n := sizes.Uint64()
		if n == 0 {
			return "PHX"
		}
		return "G" + string(rune('A'+n/26)) + string(rune('A'+n%26))
	}
	first := time.Date(2001, 1, 1, 6, 0, 0, 0, time.UTC)
	list := make([]Flight, 20_000)
	for i := range list {
		f := &list[i]
		minute := rng.IntN(17*12) * 5 // until 23 o'clock, in steps of five minutes
		f.Scheduled = first.AddDate(0, 0, rng.IntN(90)).Add(time.Duration(minute) * time.Minute)
		f.Origin, f.Destination = airport(), airport()
		for f.Destination == f.Origin {
			f.Destination = airport()
		}
		if f.Delay = int64(rng.NormFloat64() * 5); rng.IntN(10) == 0 {
			f.Delay += int64(rng.ExpFloat64() * 45)
		}
	}
	slices.SortStableFunc(list, func(a, b Flight) int { return a.departed().Compare(b.departed()) })
	return list
}

func (f *Flight) departed() time.Time { return f.Scheduled.Add(time.Duration(f.Delay) * time.Minute) }
