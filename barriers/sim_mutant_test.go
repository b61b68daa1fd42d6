package barriers

import "testing"

// mutant is a protocol with one of its steps left out or done wrong. Each must be caught by the simulator.
type mutant struct {
	name string

	noHeadGuard    bool // the head is written without compare-and-set
	noMarkerGuard  bool // output and markers are published without a guard
	messageIDs     bool // deduplication by message ID in a bounded window instead of a guard
	lateRelease    bool // N+1 commits before N is released
	dropDelta      bool // an aborted checkpoint's changes are lost
	abortSent      bool // a checkpoint is aborted although its head write was sent
	idsGoBack      bool // after a restore, IDs go on from the restored checkpoint
	noVerify       bool // markers are not compared with the manifest
	blindReader    bool // gaps and rollbacks of the input pass
	forgetOwed     bool // a takeover does not release what the committed checkpoint owes
	optimistic     bool // an unanswered head write counts as done
	startTwice     bool // a start request that was applied is applied again
	startOwes      bool // a start's manifest takes over the pending output of its source
	shareSavepoint bool // a start refers to a savepoint's objects instead of copying them
	stopEarly      bool // the head says stopped before what is owed is published
	earlyClean     bool // clean-up goes by a watermark that no head has

	hook       func()
	often      bool // a person is busy
	outputOnly bool // judge by the output alone, not by the head's history
	faults     func(*faults)
	disaster   disaster
}

var mutants = []mutant{
	{name: "no compare-and-set on the head", noHeadGuard: true, outputOnly: true},
	{name: "no compare-and-set on the marker", noMarkerGuard: true},
	{name: "message IDs only", messageIDs: true},
	{name: "commit before release", lateRelease: true},
	{name: "delta dropped on abort", dropDelta: true},
	{name: "abort after the commit was sent", abortSent: true},
	{name: "IDs go back after a restore", idsGoBack: true, outputOnly: true, hook: func() { hooks.idsGoBack = true }, faults: func(f *faults) { f.restart = 10 }},
	{name: "parts cut otherwise after a restart", hook: func() { hooks.resumeByPart = true }},
	{name: "marker reset at takeover", hook: func() { hooks.resetMarker = true }},
	{name: "lost output tail unnoticed", noVerify: true, disaster: outRollback, hook: func() { hooks.anyMarker = true }},
	{name: "reader gap unnoticed", blindReader: true},
	{name: "input rolled back unnoticed", blindReader: true, disaster: inputRollback, faults: func(f *faults) { f.gap = 0 }},
	{name: "input trimmed unnoticed", blindReader: true, disaster: inputTrim, faults: func(f *faults) { f.gap = 0 }},
	{name: "owed output forgotten at takeover", forgetOwed: true},
	{name: "unanswered commit taken for done", optimistic: true},
	{name: "clean-up above the committed watermark", earlyClean: true},
	{name: "start request applied twice", startTwice: true, often: true},
	{name: "start with pending output", startOwes: true, hook: func() { hooks.startOwes = true }, faults: func(f *faults) { f.restart = 10 }},
	{name: "start refers to a savepoint's objects", shareSavepoint: true, often: true},
	{name: "stopped before the output is published", stopEarly: true, often: true},
	{name: "IDs go back after a deletion", hook: func() { hooks.forgetID = true }, often: true},
	{name: "clean-up takes a savepoint in the making for an orphan", hook: func() { hooks.blindBurial = true }, often: true},
	{name: "a savepoint's objects are deleted before its record", hook: func() { hooks.purgeFirst = true }, often: true},
	{name: "clean-up by a zombie", hook: func() { hooks.zombieClean = true }},
}

// TestMutants shows that the simulator notices when a step of a protocol is missing: each mutant fails within 1000 seeds.
func TestMutants(t *testing.T) {
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			old := hooks
			defer func() { hooks = old }()
			if m.hook != nil {
				m.hook()
			}
			for seed := uint64(1); seed <= 1000; seed++ {
				if v := runSim(seed, m, quiet); v != "" {
					t.Logf("seed %d: %s", seed, v)
					return
				}
			}
			t.Error("1000 seeds did not notice")
		})
	}
}

// TestMutantControls runs the settings of the mutants without their mutation: nothing is wrong then.
func TestMutantControls(t *testing.T) {
	controls := []mutant{{name: "a person is busy", often: true}}
	for _, m := range mutants {
		if m.faults != nil || m.disaster != noDisaster {
			controls = append(controls, mutant{name: m.name, faults: m.faults, disaster: m.disaster})
		}
	}
	for _, m := range controls {
		for seed := uint64(1); seed <= controlSeeds; seed++ {
			if v := runSim(seed, m, quiet); v != "" {
				t.Errorf("%s, seed %d: %s", m.name, seed, v)
			}
		}
	}
}
