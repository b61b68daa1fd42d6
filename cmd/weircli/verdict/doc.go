// Package verdict judges a keyed running count: per key the counts in an output must read 1, 2, 3 … without gap or repeat, up
// to the number of times the key is in the input. Its findings have the names that Jepsen's reports use: lost (prefix, middle,
// tail), duplicated, reordered, leaked, unexpected.
//
// Invariant: a Count that is fed every output in stream order and both input counts of a consistent cut reports Exact if and only
// if each element was counted once and in order. The caller makes the cut: input up to A is known before the output is read,
// input up to B after it; then the output must hold everything up to A and nothing beyond B, so a running job can be judged.
//
// The package does no I/O and keeps one small record per key.
package verdict
