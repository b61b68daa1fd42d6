// Package processortest tests jobs without a server: a Harness for an operator or a few, and a seeded simulation of whole
// topologies with crashes.
//
// Invariant: the code under test is that of production. State, timers, key groups, exchanges, barriers and the snapshot format
// are the real ones; only the broker, the clock and the goroutines are replaced, so that a run depends on its input and its
// seed alone.
//
// The caller's duties: operator functions must be deterministic where a test compares runs; a Harness is for one goroutine.
//
// It refuses topologies that Build refuses, and does not check what depends on a broker: streams, retention, subjects captured.
package processortest
