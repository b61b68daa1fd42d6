package barriers

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Conversation scripts, as etcd-raft has them: a file under testdata/script is a list of commands, each with the answer that is
// expected under "----". go test ./barriers -run TestScripts -rewrite writes the answers that came.
var rewriteFiles = flag.Bool("rewrite", false, "rewrite the expected answers and golden files")

type scripted interface {
	do(verb string, args []string) string
}

func TestScripts(t *testing.T) {
	runners := map[string]func() scripted{
		"aligner":     func() scripted { return &alignerScript{} },
		"coordinator": func() scripted { return &coordinatorScript{} },
		"filter":      func() scripted { return &filterScript{} },
	}
	files, err := filepath.Glob("testdata/script/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			kind, _, _ := strings.Cut(filepath.Base(file), "_")
			newRunner := runners[strings.TrimSuffix(kind, ".txt")]
			if newRunner == nil {
				t.Fatalf("no handler for %s", file)
			}
			var out strings.Builder
			s := newRunner()
			for _, block := range strings.Split(strings.TrimSpace(string(data)), "\n\n") {
				command, want, _ := strings.Cut(block, "\n----")
				got := play(s, command)
				if strings.TrimSpace(want) != strings.TrimSpace(got) && !*rewriteFiles {
					t.Errorf("%s\n---- got\n%s\n---- want\n%s", command, got, strings.TrimSpace(want))
				}
				fmt.Fprintf(&out, "%s\n----\n%s\n\n", command, got)
			}
			if *rewriteFiles {
				if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// play runs a block's commands; lines with # are comments.
func play(s scripted, commands string) string {
	var answers []string
	for _, line := range strings.Split(commands, "\n") {
		if f := strings.Fields(line); len(f) > 0 && !strings.HasPrefix(line, "#") {
			if a := s.do(f[0], f[1:]); a != "" {
				answers = append(answers, a)
			}
		}
	}
	if len(answers) == 0 {
		return "ok"
	}
	return strings.Join(answers, "\n")
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}

type alignerScript struct {
	a      *Aligner
	inputs int
}

func (s *alignerScript) do(verb string, args []string) string {
	switch verb {
	case "new":
		s.inputs = number(args[0])
		s.a = NewAligner(s.inputs)
		return ""
	case "barrier":
		return s.show(s.a.Barrier(number(args[0]), uint64(number(args[1]))))
	case "finish":
		return s.show(s.a.Finish(number(args[0])))
	case "abort":
		return s.show(Alignment{Unblock: s.a.Abort(uint64(number(args[0])))})
	}
	return "no such verb: " + verb
}

func (s *alignerScript) show(r Alignment) string {
	var out []string
	if r.Superseded != 0 {
		out = append(out, fmt.Sprintf("superseded %d", r.Superseded))
	}
	if r.Aligned != 0 {
		out = append(out, fmt.Sprintf("aligned %d", r.Aligned))
	}
	if r.Block {
		out = append(out, "block")
	}
	if len(r.Unblock) > 0 {
		out = append(out, fmt.Sprintf("unblock %v", r.Unblock))
	}
	if len(out) == 0 {
		out = append(out, "nothing")
	}
	blocked := []int{}
	for i := range s.inputs {
		if s.a.Blocked(i) {
			blocked = append(blocked, i)
		}
	}
	return fmt.Sprintf("%s; now aligning %d, blocked %v", strings.Join(out, ", "), s.a.Current(), blocked)
}

type filterScript struct{ f *BarrierFilter }

func (s *filterScript) do(verb string, args []string) string {
	switch verb {
	case "new":
		s.f = NewBarrierFilter(Barrier{Tenant: "acme", Job: "count", Source: "lines", Epoch: uint64(number(args[0])), Nonce: args[1]})
		return ""
	case "pending":
		s.f.Pending(uint64(number(args[0])))
		return ""
	case "abort":
		s.f.Abort(uint64(number(args[0])))
		return ""
	case "inject":
		return fmt.Sprint(s.f.Inject(uint64(number(args[0]))))
	case "read": // source epoch nonce checkpoint
		return s.f.Read(Barrier{Tenant: "acme", Job: "count", Source: args[0], Epoch: uint64(number(args[1])), Nonce: args[2], Checkpoint: uint64(number(args[3]))}).String()
	}
	return "no such verb: " + verb
}

type coordinatorScript struct {
	c   *Coordinator
	now time.Time
}

func (s *coordinatorScript) do(verb string, args []string) string {
	id := func(i int) uint64 { return uint64(number(args[i])) }
	switch verb {
	case "new":
		return s.create(args)
	case "at": // milliseconds since the start
		s.now = simStart.Add(time.Duration(number(args[0])) * time.Millisecond)
		return s.show(s.c.Tick(s.now))
	case "dirty":
		return s.show(s.c.Dirty(s.now))
	case "risk":
		return s.show(s.c.RetentionRisk(s.now))
	case "request":
		return s.show(s.c.Request(s.now))
	case "ack":
		return s.show(s.c.Ack(s.now, id(0), number(args[1])))
	case "decline":
		return s.show(s.c.Decline(s.now, id(0), number(args[1]), errors.New("no room in memory")))
	case "extend":
		s.c.Extend(s.now)
		return s.show(nil)
	case "echo":
		s.c.Echoed(s.now, args[0])
		return s.show(nil)
	case "lag":
		s.c.SetLag(args[0], id(1))
		return s.show(nil)
	case "committed":
		return s.show(s.c.CommitDone(s.now, id(0), nil))
	case "commit-failed":
		errs := map[string]error{"fenced": ErrFenced, "unresolved": ErrCommitUnresolved, "canceled": ErrCanceled, "other": errors.New("the manifest is too large")}
		return s.show(s.c.CommitDone(s.now, id(0), errs[args[1]]))
	case "released":
		return s.show(s.c.Released(s.now, id(0)))
	}
	return "no such verb: " + verb
}

var simStart = time.Unix(1_700_000_000, 0)

func (s *coordinatorScript) create(args []string) string {
	cfg, tasks, last := CoordinatorConfig{}, 1, uint64(0)
	for _, arg := range args {
		name, value, _ := strings.Cut(arg, "=")
		n := number(value)
		ms := time.Duration(n) * time.Millisecond
		switch name {
		case "interval":
			cfg.Interval = ms
		case "timeout":
			cfg.Timeout = ms
		case "pause":
			cfg.MinPause = ms
		case "tolerate":
			cfg.TolerableFailures = n
		case "sources":
			cfg.InStream, cfg.Sources = true, n
		case "echo":
			cfg.EchoTimeout = ms
		case "lag":
			cfg.LagThreshold = uint64(n)
		case "tasks":
			tasks = n
		case "last":
			last = uint64(n)
		default:
			return "no such setting: " + name
		}
	}
	s.now = simStart
	s.c = NewCoordinator(cfg, tasks, last, s.now)
	return s.show(nil)
}

func (s *coordinatorScript) show(actions []Action) string {
	var out []string
	for _, a := range actions {
		switch a := a.(type) {
		case Trigger:
			out = append(out, fmt.Sprintf("trigger %d, in stream: %t", a.Checkpoint, a.InStream))
		case Inject:
			out = append(out, fmt.Sprintf("inject %d", a.Checkpoint))
		case StartCommit:
			out = append(out, fmt.Sprintf("commit %d", a.Checkpoint))
		case StartRelease:
			out = append(out, fmt.Sprintf("release %d", a.Checkpoint))
		case Complete:
			st := a.Stats
			out = append(out, fmt.Sprintf("complete %d: acked in %s, commit %s, release %s, injected: %t, failures before: %d",
				a.Checkpoint, st.Acked, st.Commit, st.Release, st.Injected, st.Failures))
		case Abort:
			out = append(out, fmt.Sprintf("abort %d: %v", a.Checkpoint, a.Err))
		case Fail:
			out = append(out, fmt.Sprintf("fail: %v", a.Err))
		}
	}
	deadline := "none"
	if d := s.c.Deadline(); !d.IsZero() {
		deadline = fmt.Sprint(d.Sub(simStart).Milliseconds())
	}
	out = append(out, fmt.Sprintf("(in flight %d, deadline %s)", s.c.Checkpoint(), deadline))
	return strings.Join(out, "\n")
}
