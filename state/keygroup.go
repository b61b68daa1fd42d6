package state

import "github.com/cespare/xxhash/v2"

// MaxKeyGroups bounds the number of key groups of a job.
const MaxKeyGroups = 1 << 15

// KeyGroup returns the key group of a key: XXH64 with seed 0, modulo the number of groups. It is part of the format: it never changes.
func KeyGroup(key string, groups int) int {
	return int(xxhash.Sum64String(key) % uint64(groups))
}

// GroupRange returns the key groups that a subtask owns, both inclusive. With more subtasks than groups some own none: last < first.
func GroupRange(subtask, parallelism, groups int) (first, last int) {
	return (subtask*groups + parallelism - 1) / parallelism, ((subtask+1)*groups+parallelism-1)/parallelism - 1
}

// SubtaskOf returns the subtask that owns a key group.
func SubtaskOf(group, parallelism, groups int) int {
	return group * parallelism / groups
}
