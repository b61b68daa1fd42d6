package processor

import (
	"bytes"
	"context"
	"fmt"
	"path"
	"reflect"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
)

// Labels of a task's goroutine, in goroutine and CPU profiles. Together they name one goroutine of the process.
const (
	labelJob   = "weir_job"
	labelTask  = "weir_task"
	labelEpoch = "weir_epoch"
)

// label names the calling goroutine after its task.
func (h *host) label() {
	pprof.SetGoroutineLabels(pprof.WithLabels(context.Background(), h.task.labels()))
}

func (t *task) labels() pprof.LabelSet {
	return pprof.Labels(labelJob, t.job.String(), labelTask, t.name, labelEpoch, fmt.Sprint(t.epoch))
}

// locating lets one goroutine of the process at a time look for another's stack, which is work in proportion to all there are: where
// many jobs wait for the same thing one place says enough.
var locating sync.Mutex

// locate finds a task's goroutine among all of the process.
func (r *runner) locate(task int) string {
	if task >= len(r.hosts) || !locating.TryLock() {
		return ""
	}
	defer locating.Unlock()
	var profile bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
		return ""
	}
	t := r.hosts[task].task
	return userFrame(profile.String(), []string{
		fmt.Sprintf("%q:%q", labelJob, t.job.String()), fmt.Sprintf("%q:%q", labelTask, t.name), fmt.Sprintf("%q:%q", labelEpoch, fmt.Sprint(t.epoch)),
	})
}

// userFrame looks in a goroutine profile, as text, for the goroutine with the labels that runs a task, and returns the innermost place
// in it that is neither Weir's nor the standard library's.
func userFrame(profile string, labels []string) string {
	for _, group := range strings.Split(profile, "\n\n") {
		if !containsAll(group, labels) || !strings.Contains(group, enginePath+"/processor.(*host).loop") {
			continue // user code may have started goroutines, which have the labels too
		}
		entry := ""
		for line := range strings.Lines(group) {
			function, file, ok := parseFrame(line)
			if !ok || strings.HasPrefix(function, "runtime.") {
				continue
			}
			if ofEngine(function) {
				if entry != "" {
					return entry // a library that the user's code was called from
				}
				continue
			}
			if entry == "" || !ofStandardLibrary(function, file) {
				entry = fmt.Sprintf("%s (%s)", function, path.Base(file))
			}
			if !ofStandardLibrary(function, file) {
				return entry
			}
		}
	}
	return ""
}

func containsAll(s string, parts []string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}

// parseFrame reads "#	0x47a5c1	main.parse+0x41	/src/parse.go:42".
func parseFrame(line string) (function, file string, ok bool) {
	fields := strings.FieldsFunc(strings.TrimSpace(line), func(r rune) bool { return r == '\t' })
	if len(fields) != 4 || fields[0] != "#" {
		return "", "", false
	}
	function = fields[2]
	if plus := strings.LastIndex(function, "+0x"); plus >= 0 {
		function = function[:plus]
	}
	return function, fields[3], true
}

const enginePath = "github.com/weirstream/weir"

// ofEngine reports whether a function is of the packages that run topologies.
func ofEngine(function string) bool {
	for _, pkg := range []string{"/processor.", "/state.", "/state/codec.", "/jetstream.", "/barriers.", "/tenants."} {
		if strings.HasPrefix(function, enginePath+pkg) {
			return true
		}
	}
	return false
}

// ofStandardLibrary goes by where a function's source lies: below the directory that has package strings. A binary built with -trimpath
// knows no directories; there the first element of the file's path has no dot, which may be true of a user's module as well.
func ofStandardLibrary(function, file string) bool {
	if root := libraryRoot(); root != "" {
		return strings.HasPrefix(file, root)
	}
	first, _, _ := strings.Cut(file, "/")
	return !strings.Contains(first, ".") && !strings.HasPrefix(function, "main.")
}

func libraryRoot() string {
	pc := reflect.ValueOf(strings.Lines).Pointer()
	file, _ := runtime.FuncForPC(pc).FileLine(pc)
	return strings.TrimSuffix(path.Dir(file), "strings")
}
