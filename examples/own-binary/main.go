// Own-binary: a team's own binary. It has every command of weir, with the team's topologies instead of the built-in one.
//
//	go run ./examples/own-binary dev
//	go run ./examples/own-binary check --url nats://nats:4222 --tenants acme
//	go run ./examples/own-binary run --url nats://nats:4222 --tenants acme,globex
package main

import (
	"fmt"
	"strings"

	"github.com/weirstream/weir/cmd/weircli"
	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/state/codec"
	"github.com/weirstream/weir/tenants"
)

// Shout returns what it reads in capitals.
func Shout() (*processor.Topology, error) {
	b := processor.NewBuilder("shout")
	in := processor.From(b, "said", processor.SourceSpec[string]{Filters: []tenants.Filter{"said"}, Codec: codec.String()})
	processor.To(processor.Map(in, "capitals", strings.ToUpper), "shouted", processor.SinkSpec[string]{FixedSubject: "shouted", Codec: codec.String()})
	return b.Build()
}

func app() weircli.App {
	return weircli.App{
		Name:       "shouter",
		Version:    "1.0.0",
		Topologies: []func() (*processor.Topology, error){Shout},
		// dev publishes these, so that something happens at once.
		Samples: []weircli.Sample{{Topology: "shout", Subject: "said", Message: func(tenant string, n uint64) []byte {
			return fmt.Appendf(nil, "hello %d from %s", n, tenant)
		}}},
	}
}

func main() { weircli.Main(app()) }
