// Package sqlcheck compares the results of topologies with plain SQL over the same events, run by an embedded database. It is a
// module of its own, so that nobody else depends on a database; it holds tests only:
//
//	cd integration/sqlcheck && go test ./...
//
// (Without -race: that slows the database down tenfold, and the code under test has the race detector elsewhere.)
//
// Invariant: the SQL sees all events at once and knows nothing of Weir; it decides what is right. Topologies run in the seeded
// simulation, with crashes, and on an embedded server, with workers that are killed, and must come to the same relation.
//
// Nothing is late, since the bound of the sources covers the disorder of the events, but in TestNexmarkLate. Where a job is not drained,
// the SQL leaves out what the watermark has not reached, by the parameter :wm.
package sqlcheck
