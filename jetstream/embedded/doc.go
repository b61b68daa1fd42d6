// Package embedded runs a NATS server with JetStream inside the process, for weir dev, for tests and for small installations.
//
// Invariant: the server keeps its data in Options.Dir and nothing anywhere else; what was acknowledged before Shutdown is there
// after the next Start. With the default lazy sync a power loss can lose the last two minutes; SyncAlways prevents it.
//
// The caller shuts the server down after everything that uses it was closed. It refuses a port that is taken.
//
// It is the only package of Weir that imports the server.
package embedded
