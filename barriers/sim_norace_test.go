//go:build !race

package barriers

const (
	defaultSeeds = 2000
	controlSeeds = 300
)
