// Package bench measures Weir against the loop one would write by hand, in one run, on one embedded server.
//
// Invariant: both sides of a pair read the same bytes with the same decoding from the same stream of the same server, take turns
// in going first, and are checked: a result that is wrong fails the benchmark. Events are made from their number alone, so two
// runs measure the same input.
//
// How Weir's side is timed: from Runtime.Run, so taking the job over and opening the reader are included, to the commit of a
// checkpoint that holds every event and, with exactly-once output, the release of all of it. The baselines are timed from the
// making of their consumer to the last event, and to the last acknowledgement where they publish.
//
// The machine does nothing else meanwhile: that is the caller's duty. Ratios are worth more than rates.
package bench
