package weircli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/processor"
)

// A savepoint goes to another server in one file, and the job goes on there.
func TestMoveASavepoint(t *testing.T) {
	_, at := newControlled(t)
	must(t, at("savepoint", "create", "acme/wordcount", "move")...)
	if out := must(t, at("savepoint", "check", "acme/wordcount", "move")...); !strings.Contains(out, "would start") {
		t.Errorf("check: %s", out)
	}
	file := filepath.Join(t.TempDir(), "w.savepoint")
	if out := must(t, at("savepoint", "export", "acme/wordcount", "move", file)...); !strings.Contains(out, "verified") {
		t.Errorf("export: %s", out)
	}
	if code, _, errOut := execute(t, at("savepoint", "export", "acme/wordcount", "move", file)...); code != exitTrouble || !strings.Contains(errOut, "exists") {
		t.Errorf("export over a file: exit code %d: %s", code, errOut)
	}
	var shown archiveLine
	if err := json.Unmarshal([]byte(must(t, "savepoint", "show", file, "--json")), &shown); err != nil || shown.Savepoint != "move" || shown.Positions["lines"].Sequence == 0 {
		t.Errorf("show: %v: %+v", err, shown)
	}

	other := newServer(t)
	if code, out, errOut := execute(t, "savepoint", "import", file, "--server", other.url); code != exitNo {
		t.Errorf("import without the stream: exit code %d: %s%s", code, out, errOut)
	}
	other.stream(t, jetstream.StreamConfig{Name: "acme", Subjects: []string{"acme.>"}, AllowAtomicPublish: true, AllowMsgTTL: true})
	if code, out, errOut := execute(t, "savepoint", "import", file, "--server", other.url); code != exitNo || !strings.Contains(out, processor.PositionRefused) {
		t.Errorf("import beside an unrelated stream: exit code %d: %s%s", code, out, errOut)
	}
	report := must(t, "savepoint", "import", file, "--server", other.url, "--position", "lines=0")
	if !strings.Contains(report, "stored") {
		t.Errorf("import: %s", report)
	}
	if again := must(t, "savepoint", "import", file, "--server", other.url, "--position", "lines=0"); !strings.Contains(again, "was there already") {
		t.Errorf("import again: %s", again)
	}
	startRun(t, "--server", other.url, "--checkpoint-interval", "50ms")
	other.publish(t, "acme.lines", "the")
	until(t, "running", "start", "acme/wordcount", "--savepoint", "move", "--topology", "wordcount", "--server", other.url)
	must(t, "checkpoint", "acme/wordcount", "--server", other.url)
	if out := must(t, "state", "acme/wordcount", "count", "total", "the", "--server", other.url); out != "4\n" {
		t.Errorf("state after the move: %q", out)
	}

}

func TestRefusedFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x")
	if err := os.WriteFile(path, []byte("no savepoint"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, errOut := execute(t, "savepoint", "show", path); code != exitNo || !strings.Contains(errOut, "no usable savepoint archive") {
		t.Errorf("exit code %d: %s", code, errOut)
	}
	if code, _, _ := execute(t, "savepoint", "show", filepath.Join(dir, "missing")); code != exitTrouble {
		t.Errorf("exit code %d", code)
	}
}

func TestCheckSaysWhatIsWrong(t *testing.T) {
	_, at := newControlled(t)
	must(t, at("savepoint", "create", "acme/wordcount", "s")...)
	code, out, errOut := execute(t, at("savepoint", "check", "acme/wordcount", "s", "--parallelism", "2000", "--topology", "wordcount")...)
	if code != exitNo || !strings.Contains(out, "parallelism") {
		t.Errorf("exit code %d: %s%s", code, out, errOut)
	}
	if code, _, errOut := execute(t, at("savepoint", "check", "acme/wordcount", "nonsense")...); code != exitNo {
		t.Errorf("exit code %d: %s", code, errOut)
	}
}

func TestPermissionsCommand(t *testing.T) {
	for _, role := range []string{"worker", "publisher", "operator", "reader"} {
		if out := must(t, "permissions", role, "--tenant", "acme"); !strings.Contains(out, "permissions: {") {
			t.Errorf("%s: %s", role, out)
		}
		var set map[string]struct{ Allow, Deny []string }
		if err := json.Unmarshal([]byte(must(t, "permissions", role, "--tenant", "acme", "--json")), &set); err != nil || len(set["publish"].Allow) == 0 {
			t.Errorf("%s: %v: %v", role, err, set)
		}
	}
	if code, _, errOut := execute(t, "permissions", "king"); code != exitTrouble || !strings.Contains(errOut, "worker, publisher") {
		t.Errorf("exit code %d: %s", code, errOut)
	}
	if code, _, errOut := execute(t, "permissions", "publisher"); code != exitTrouble || !strings.Contains(errOut, "tenant") {
		t.Errorf("exit code %d: %s", code, errOut)
	}
}
