// Package jetstream is everything of Weir that touches NATS: readers, atomic batches, the snapshot store, the commit log, and the
// checks of streams against what a job needs. It implements processor.Broker against real servers.
//
// Invariant: it executes what the state machines ask for and decides nothing of its own. A reply it gives is never better than
// what is known: an acknowledgement that did not come is barriers.Unknown, not a failure. What must be current is read through
// the stream's leader. A reader passes on every matching record of its stream in order, without a gap, or returns an error, also
// where limits or a purge remove input under it (overtake.go says how it knows, and what it cannot know). An error that only says
// that the broker does not answer for now is processor.ErrUnavailable, one that says that there is no room is processor.ErrFull.
//
// The caller's duties:
//
//  1. Start before anything else, Close at the end; Close waits for every goroutine of the broker.
//  2. Retry what is Unknown, Busy or Full; the broker does not retry a protocol's request on its own.
//  3. Give every call a context that ends. Each request to the server has a deadline (Config.Timeout) all the same.
//  4. Hand over valid names (tenants.ParseID, tenants.ValidateName): names become subjects, keys and bucket names here.
//
// The package refuses servers that lack JetStream or are too old, streams that cannot hold a guarantee, and never alters a
// stream that it did not create: ownership is the metadata key weir.owner.
//
// Only jetstream/embedded imports the server.
package jetstream
