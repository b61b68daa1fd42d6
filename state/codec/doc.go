// Package codec turns values into bytes and back: payloads of records, keys and values in state.
//
// Invariant: Decode(Append(nil, v)) gives a value equal to v, and the bytes of equal map keys are equal. Decoding is safe on hostile
// bytes: depth, counts and lengths are checked against the bytes that are there before anything is allocated for them.
//
// The caller gives every codec it writes itself a name that changes when the bytes change: the name is stored in manifests and
// compared on restore. Codecs are immutable and safe for concurrent use.
package codec
