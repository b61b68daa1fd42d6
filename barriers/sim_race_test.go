//go:build race

package barriers

// The detector makes coroutines forty times slower and finds nothing in a simulation that runs in one goroutine: a few seeds do.
const (
	defaultSeeds = 50
	controlSeeds = 10
)
