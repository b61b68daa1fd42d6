package state

import "fmt"

// CheckCompatible compares a snapshot's states with an operator's descriptors and returns everything that does not fit. An older
// schema version fits if the descriptor has the upcasters from it.
func CheckCompatible(infos []StateInfo, descs []Descriptor) []Problem {
	have := []*spec{{info: timersInfo}}
	for _, d := range descs {
		have = append(have, d.declaration())
	}
	var problems []Problem
	for _, info := range infos {
		problems = append(problems, checkCompatible(info, have)...)
	}
	return problems
}

func checkCompatible(info StateInfo, have []*spec) []Problem {
	for _, h := range have {
		if h.info.Name == info.Name {
			return checkState(info, h)
		}
	}
	return []Problem{{State: info.Name, Undeclared: true,
		Detail: "the snapshot has it, the operator does not declare it: declare it, or allow dropping it"}}
}

// checkState compares a snapshot's state with the declaration of the same name.
func checkState(info StateInfo, have *spec) []Problem {
	var problems []Problem
	add := func(format string, args ...any) {
		problems = append(problems, Problem{State: info.Name, Detail: fmt.Sprintf(format, args...)})
	}
	h := &have.info
	if h.Kind != info.Kind {
		add("the snapshot has it as a %s state, the operator as a %s state", info.Kind, h.Kind)
		return problems
	}
	switch {
	case info.Version == h.Version:
		if h.Codec != info.Codec {
			add("the snapshot has it encoded as %s, the operator uses %s", info.Codec, h.Codec)
		}
	case info.Version > h.Version:
		add("version %d is recorded, version %d is declared: a newer program wrote it", info.Version, h.Version)
	default:
		if detail := have.upcastProblem(info); detail != "" {
			add("%s", detail)
		}
	}
	return problems
}
