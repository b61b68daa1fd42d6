// Package state holds an operator's keyed state and timers, freezes and encodes it for checkpoints, and restores it at any
// parallelism. It also holds the output that a sink has staged since the last committed checkpoint.
//
// Invariant: the committed chain of snapshot objects, applied in order, is the state at the committed checkpoint. A snapshot
// holds what changed since the last committed one; what an aborted checkpoint had frozen is in the next.
//
// The caller
//
//  1. uses a Backend from one goroutine, except for Frozen.Encode, which may run beside it;
//  2. sets the key before it accesses state;
//  3. never changes a value it got from state or gave to state in place: it sets a new one;
//  4. has one frozen snapshot in flight at most, and ends each with Committed or Aborted;
//  5. gives Restore the objects in the order in which they were committed, and drops the objects that a base replaces;
//  6. makes the next snapshot a full one (FreezeAll) when Restore has upcast or dropped something, until one is committed;
//  7. gives a backend whose states expire a Clock.
//
// It refuses access to states that the operator did not declare, objects of another tenant, job or operator, snapshots whose
// states have another kind or codec, or a version without upcasters, and bytes that are not exactly what an encoder wrote. The
// formats are in FORMAT.md.
// The package does no I/O and reads no clock but the one it is given.
package state
