package integration_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const modulePath = "github.com/weirstream/weir"

// pkg is what go list says of a package of this module.
type pkg struct {
	ImportPath string
	Name       string
	Imports    []string // of the shipped files, not of tests
	Deps       []string // all of them, however far
}

func listPackages(t testing.TB) map[string]pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Name,Imports,Deps", "./...")
	cmd.Dir = ".."
	out, err := cmd.StdoutPipe()
	ok(t, err)
	ok(t, cmd.Start())
	all := map[string]pkg{}
	for dec := json.NewDecoder(out); ; {
		var p pkg
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		ok(t, err)
		all[p.ImportPath] = p
	}
	ok(t, cmd.Wait())
	return all
}

// folder returns the path inside the module, and false for what is not in it.
func folder(path string) (string, bool) {
	if path == modulePath {
		return ".", true
	}
	return strings.CutPrefix(path, modulePath+"/")
}

func isStd(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}

const (
	msgpackPath = "github.com/vmihailenco/msgpack/v5"
	serverPath  = "github.com/nats-io/nats-server/v2"
)

// arrows says what each top-level folder may import beside the standard library and itself.
var arrows = map[string]struct{ inside, outside []string }{
	"tenants":   {},
	"barriers":  {nil, []string{msgpackPath}},
	"state":     {nil, []string{msgpackPath, "github.com/klauspost/compress/s2", "github.com/cespare/xxhash/v2"}},
	"processor": {[]string{"tenants", "barriers", "state"}, nil},
	"jetstream": {[]string{"tenants", "barriers", "processor", "state"},
		[]string{"github.com/nats-io/nats.go", "github.com/nats-io/nuid"}},
}

// TestImports keeps the arrows between the folders as they were drawn.
func TestImports(t *testing.T) {
	all := listPackages(t)
	for top := range arrows {
		if _, there := all[modulePath+"/"+top]; !there {
			t.Errorf("package %s is gone", top)
		}
	}
	for path, p := range all {
		dir, _ := folder(path)
		top, _, _ := strings.Cut(dir, "/")
		rule, ruled := arrows[top]
		for _, imp := range p.Imports {
			to, inside := folder(imp)
			toTop, _, _ := strings.Cut(to, "/")
			switch {
			case ruled && dir != "jetstream/embedded" && !inside && !isStd(imp) && !slices.ContainsFunc(rule.outside, within(imp)):
				t.Errorf("%s imports %s: %s may import only %v from outside", dir, imp, top, rule.outside)
			case ruled && inside && toTop != top && !slices.Contains(rule.inside, toTop):
				t.Errorf("%s imports %s: %s may import only %v", dir, to, top, rule.inside)
			case top == "examples" && toTop == "jetstream" && p.Name != "main" && !strings.HasPrefix(dir, "examples/internal/"):
				t.Errorf("%s imports %s: a topology knows no broker", dir, to)
			case inside && toTop == "integration":
				t.Errorf("%s imports %s, which holds tests only", dir, to)
			}
		}
		if ruled && dir != "jetstream/embedded" {
			for _, dep := range p.Deps {
				if within(dep)(serverPath) {
					t.Errorf("%s depends on %s: the shipped library has no server in it", dir, dep)
				}
			}
		}
	}
}

// within reports whether a path is that package or one below it.
func within(path string) func(string) bool {
	return func(parent string) bool { return path == parent || strings.HasPrefix(path, parent+"/") }
}
