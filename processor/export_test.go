package processor

// Mutants are the protocol errors that the simulation must notice.
var Mutants = []string{
	string(mutantDropAborted), string(mutantUnguardedHead), string(mutantUnguardedPart), string(mutantReaderGap),
}

// WithMutant returns the configuration with a protocol error in it; "" is none.
func (c SimulationConfig) WithMutant(m string) SimulationConfig {
	c.mutant = mutant(m)
	return c
}
