package barriers

// hooks bend the protocols so that the mutant tests can show that the simulator notices. All are off in production.
var hooks struct {
	idsGoBack    bool // Commit accepts an ID that the head has passed
	resetMarker  bool // Fence writes a marker that has forgotten what was released
	resumeByPart bool // Release takes the count in the marker for the number of whole parts as they are cut now
	anyMarker    bool // Release goes on from a marker that went back
	zombieClean  bool // Cleanup takes objects of later epochs for orphans too
	forgetID     bool // Delete leaves a tombstone without the last ID
	startOwes    bool // a start's manifest may hold pending output
	blindBurial  bool // Cleanup removes a savepoint's objects without proving that nobody makes it
	purgeFirst   bool // DeleteSavepoint removes the objects before the record
}

// partByIndex is what resumeByPart does: the released messages, rounded down to whole parts.
func partByIndex(from, total uint64, cut func(uint64) uint64) (uint64, uint64) {
	at := uint64(0)
	for {
		to := min(cut(at), total)
		if to > from {
			return at, to
		}
		at = to
	}
}
