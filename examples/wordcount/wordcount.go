// Package wordcount counts words per tenant, exactly once. It shows a whole job: a source, a flat map, keyed state and two sinks.
//
// It is built into the weir binary. Start it with
//
//	go run ./cmd/weir dev
//
// and it reads plain text from {tenant}.lines, writes one {"word":"the","count":3} per word to {tenant}.counts and keeps the
// current count of every word in the KV bucket counts under {tenant}.{word}.
package wordcount

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// MaxWord bounds a word in bytes, so that any word fits a KV key. The rest of a longer one is dropped.
const MaxWord = 64

// Count says that Word was seen for the Count-th time.
type Count struct {
	Word  string `json:"word"`
	Count uint64 `json:"count"`
}

// number is what a person wants to read with nats kv get: the count alone.
var number = codec.New("number",
	func(dst []byte, c Count) ([]byte, error) { return strconv.AppendUint(dst, c.Count, 10), nil },
	func(b []byte) (Count, error) {
		n, err := strconv.ParseUint(string(b), 10, 64)
		return Count{Count: n}, err
	})

var total = state.NewValue[uint64]("total")

func split(line string, emit func(string)) error {
	for _, w := range Words(line) {
		emit(w)
	}
	return nil
}

func count(pc *processor.Context[Count], word string) error {
	n, err := total.Get(pc)
	if err != nil {
		return err
	}
	n++
	pc.Emit(Count{word, n})
	return total.Set(pc, n)
}

// Topology returns the job's graph.
func Topology() (*processor.Topology, error) {
	b := processor.NewBuilder("wordcount")
	lines := processor.From(b, "lines", processor.SourceSpec[string]{
		Filters: []tenants.Filter{"lines"}, Codec: codec.String(),
	})
	words := processor.FlatMap(lines, "words", split)
	counts := processor.Process(processor.KeyBy(words, func(w string) string { return w }), "count", count, processor.Uses(total))
	processor.To(counts, "counts", processor.SinkSpec[Count]{
		FixedSubject: "counts", Codec: codec.JSON[Count](),
	})
	processor.ToKV(counts, "table", processor.KVSpec[Count]{
		Bucket: "counts", Key: func(c Count) string { return c.Word }, Codec: number,
	})
	return b.Build()
}

// Words splits a line into words: runs of letters, digits and apostrophes, in lower case.
func Words(line string) []string {
	words := strings.FieldsFunc(strings.ToLower(line), func(r rune) bool {
		return r == utf8.RuneError || r != '\'' && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	})
	for i, w := range words {
		if len(w) > MaxWord {
			cut := MaxWord
			for !utf8.RuneStart(w[cut]) {
				cut--
			}
			words[i] = w[:cut]
		}
	}
	return words
}
