// Package barriers holds what makes a checkpoint: the barrier, its alignment, the coordinator, the durable records (head, manifest,
// marker) and the protocols that write them: compare-and-set, commit, takeover, release, savepoints and clean-up.
//
// Invariant: a checkpoint's positions, state and output become current by one write, the head's, or not at all; whatever crashes,
// stalls or is answered late, every committed message is published exactly once, in order, by the attempt that owns the job.
//
// Everything here is pure: no I/O, no clock, no goroutine. Aligner, BarrierFilter and Coordinator are state machines: inputs in,
// actions out, time as an argument. A protocol is a function over an Ask: production passes one that blocks on the broker, the
// simulator runs the same function as a coroutine and answers, delays, loses or never answers each request.
//
// The caller's duties, in the order of an attempt's life:
//
//  1. Acquire the head with a nonce that nobody else has, then Fence every sink, then Verify, before anything else. Nothing may be
//     published or committed by an attempt that skipped one of them.
//  2. Release what the acquired checkpoint still owes before the first checkpoint of the attempt is triggered.
//  3. Record in every manifest the marker of each sink as last seen (Sink.Seen) and the identity of every stream.
//  4. Carry out the Coordinator's actions in their order; ask for nothing while one Commit or Release of the job is under way.
//  5. Restore only from the current manifest or one in Head.Retained. What is not the job's own, a savepoint or another job's checkpoint,
//     is copied into objects of the job's own first. Clean-up relies on it.
//  6. Reserve a savepoint before its first object is uploaded, and write it when its checkpoint's output is released (savepoint.go).
//  7. After ErrFenced write nothing more. After ErrCommitUnresolved assume neither that the checkpoint is committed nor that it
//     is not: end the attempt, the next Acquire finds out.
//
// An Ask correlates replies with requests: a late answer to a request that was given up must not answer the next one. Reads go
// through the stream's leader.
//
// The package refuses to guess: a record of a newer version, a marker that does not fit the manifest, a record that went back in
// time are typed errors with the numbers in them. The formats are described in FORMAT.md.
package barriers
