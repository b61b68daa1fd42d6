package main

import (
	"testing"

	"github.com/weirstream/weir/examples/internal/exampletest"
)

func TestMultitenant(t *testing.T) {
	r := exampletest.Start(t, run)
	r.Publish("acme.events", "a", "b", "c")
	r.Publish("globex.events", "a", "b")
	r.AwaitOutput("total=3\n")
	r.AwaitOutput("total=2\n")
	r.Publish("initech.events", "a", "b", "c", "d", "e")
	r.AwaitOutput("total=5\n")
}
