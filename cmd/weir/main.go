// Command weir runs stateful, exactly-once stream jobs for many tenants on NATS JetStream. It is weircli with the built-in
// example topology: a team's own binary is the same few lines with theirs, see examples/own-binary.
package main

import (
	"github.com/weirstream/weir/cmd/weircli"
	"github.com/weirstream/weir/examples/wordcount"
	"github.com/weirstream/weir/processor"
)

func main() { weircli.Main(app()) }

func app() weircli.App {
	return weircli.App{
		Name:       "weir",
		Topologies: []func() (*processor.Topology, error){wordcount.Topology},
		Samples:    []weircli.Sample{{Topology: "wordcount", Subject: "lines", Message: wordcount.SampleLine}},
		Counts:     []weircli.CountCheck{{Name: "wordcount", Input: "lines", Output: "counts", Bucket: "counts", Split: wordcount.Words}},
	}
}
