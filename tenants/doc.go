// Package tenants holds identity and the subject namespace: who owns a subject, a bucket key or a metric label.
//
// Invariant: a topology sees relative subjects only. Every absolute subject is made by a Namespace from a valid tenant ID, so
// addressing another tenant cannot be expressed. User bytes become subject tokens only through EscapeToken.
//
// The caller validates what comes from outside with ParseID, ParseJobID and Filter.Validate before it builds a name from it.
// The package does no I/O and imports the standard library only.
package tenants
