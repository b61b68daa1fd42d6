// Package nexmark is the Nexmark benchmark: an online auction as a stream of persons, auctions and bids, and the queries about it
// as topologies to read, copy and measure ("weir bench nexmark").
//
// The events are those of the Java generator (Tucker, Tufte, Papadimos, Maier: NEXMark, a benchmark for queries over data streams;
// later Apache Beam and nexmark-flink): 1 person, 3 auctions and 46 bids in every 50, some auctions, sellers and bidders hot, prices
// log-uniform. Two of its mistakes are left out: text is drawn from the same seeded source as everything else, and a person's ID
// is offset once wherever it occurs.
//
// The queries are q0 to q22 of nexmark-flink without q10 (which writes files). SQL over an unbounded stream emits changes; what ours
// emit is said at each query and in Query.Emits. The times that appear in results are milliseconds since 1970, as in the events.
// q13 reads a KV bucket beside the stream, see SideInput.
//
// Invariant: an event is a pure function of the Config and its ID, on any machine and in any order. Events are published in the
// order of their position; Generator.ID says which event is at a position.
//
// The caller's duties: publish events on Event.Subject of a tenant; give Query.Build the out-of-orderness that Generator.OutOfOrder
// tells, or more, or events will be late. It refuses configurations that Config.Validate refuses.
package nexmark
