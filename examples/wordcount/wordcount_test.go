package wordcount_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/weirstream/weir/examples/wordcount"
	"github.com/weirstream/weir/tenants"
)

func TestWords(t *testing.T) {
	for line, want := range map[string][]string{
		"":                                  nil,
		"The quick, brown fox!":             {"the", "quick", "brown", "fox"},
		"don't stop -- 24 hours":            {"don't", "stop", "24", "hours"},
		"\xff\xfebroken\xff":                {"broken"},
		"straße ÉTÉ":                        {"straße", "été"},
		strings.Repeat("x", 200) + " short": {strings.Repeat("x", 64), "short"},
		strings.Repeat("é", 100):            {strings.Repeat("é", 32)},
		"a" + strings.Repeat("é", 100):      {"a" + strings.Repeat("é", 31)},
	} {
		if got := wordcount.Words(line); !slices.Equal(got, want) {
			t.Errorf("Words(%q) is %q, want %q", line, got, want)
		}
	}
}

// Whatever is in a line, its words make keys that fit a KV subject.
func FuzzWords(f *testing.F) {
	f.Add("the quick\x00brown \xff fox")
	f.Fuzz(func(t *testing.T, line string) {
		for _, w := range wordcount.Words(line) {
			if w == "" || len(w) > wordcount.MaxWord {
				t.Fatalf("word %q has %d bytes", w, len(w))
			}
			if err := tenants.ValidateSubject("$KV.counts." + tenants.EscapeToken(w)); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestSampleLineNamesTheTenant(t *testing.T) {
	for n := range uint64(20) {
		words := wordcount.Words(string(wordcount.SampleLine("acme-1_x", n)))
		if last := words[len(words)-1]; last != "acme1x" {
			t.Fatalf("line %d ends with %q", n, last)
		}
	}
}
