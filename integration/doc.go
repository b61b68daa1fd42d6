// Package integration holds black-box tests of the whole library against real NATS servers: a crash at every request, chaos with
// real processes, stores that are rolled back, bad input, and one history under many configurations. It has no product code.
//
// Invariant: every verdict compares what is on the broker with a naive model of the input, element by element, and knows nothing
// of how the library works inside. A verdict names what is wrong as Jepsen does: lost (prefix, middle, tail), duplicated,
// reordered, leaked, wrong state.
//
// Every random choice comes from a seed that is printed. To replay one: -seed N. To run longer:
//
//	go test ./integration -run TestCrashPoints -all
//	go test ./integration -run TestMetamorphic -rounds 500
//	go test ./integration -run TestControlHistories -control.histories=100
//	go test ./integration -run TestControlKills -all -timeout 1h
//	go test ./integration -run TestChaos -chaos.duration 30m -timeout 1h
//
// The tests start their own servers on loopback and in temporary folders. They refuse nothing silently: the flights of TestChaos
// are the one thing that may be missing, and then the test says so.
package integration
