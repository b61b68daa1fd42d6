// Package processor has the topology builder, the operators, the task that runs a chain of them, and the runtime that hosts
// many tenants' jobs in one process.
//
// A topology is an immutable graph without tenant, broker or goroutine: NewBuilder, From, Map, FlatMap, Filter, KeyBy, Process,
// Union, SideOutput, To, ToKV, Build. The runtime deploys it for a tenant; it reaches the outside only through the interfaces of
// transport.go, so the same topology runs on a cluster, on an embedded server, in a simulation and in a unit test
// (processortest).
//
// Invariants.
//
//  1. Everything a task does follows from the events given to task.step, in their order: the core does no I/O and starts no
//     goroutine. One goroutine owns a task, its state and its user functions.
//  2. What a checkpoint holds is a cut: every record before the barrier is in its state and output, none after it. What an
//     aborted checkpoint had frozen goes back, so nothing is lost and order is kept.
//  3. A record causes output, a dead letter, or nothing because user code said so. It is never dropped for an error. An element that
//     is too late for its windows is counted, and goes to their late output if there is one.
//  4. What should run is an intent per job (intent.go), what was applied is its head. A job's supervisor (job_supervise.go) makes the
//     one true by the other; a request (Control) changes the intent, by compare-and-set, after everything that could refuse it was
//     checked. So a crash between any two steps of a stop, start, fork or deletion leaves both such that the next worker goes on.
//  5. A source that stands, for a hold, a cut or a mark, has processed every record up to its position and none behind it; which
//     checkpoint a savepoint is made of is told by the positions in it alone (attempt_savepoint.go).
//  6. An operator's watermark is the minimum of what its inputs that are not idle have promised, never goes back, not over a restore
//     either, and is passed on only when all that it makes due has fired (watermark.go).
//
// The caller's duties. Functions given to operators may be called by several goroutines at once when the parallelism is above 1
// (each with a Context of its own): they must share nothing mutable but what descriptors hold. A Context is valid during the
// call only. An element that goes to two operators is the same value for both: treat it as immutable. A poison error should be
// returned before the function changed state or emitted: what it did before stays.
//
// It refuses: operators without a name, access to undeclared states, tags and parameters, subjects outside the tenant, and a
// sink's message that its stream could never take (that is a dead letter before the barrier, not an error after the commit).
package processor
