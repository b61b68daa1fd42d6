package main

import (
	"testing"

	"github.com/weirstream/weir/examples/internal/exampletest"
)

func TestKV(t *testing.T) {
	r := exampletest.Start(t, run)
	r.Publish("acme.devices.d1", `{"id":"d1","status":"on"}`, `{"id":"d1","status":"off"}`, `{"id":"d 2","status":"on"}`)
	r.Publish("globex.devices.d1", `{"id":"d1","status":"idle"}`)
	r.AwaitKey("devices", "acme.d1", `{"id":"d1","status":"off"}`)
	r.AwaitKey("devices", "acme.d=202", `{"id":"d 2","status":"on"}`)
	r.AwaitKey("devices", "globex.d1", `{"id":"d1","status":"idle"}`)
	r.Publish("acme.devices.d1", `{"id":"d1","status":"gone"}`)
	r.AwaitNoKey("devices", "acme.d1")
	r.AwaitKey("devices", "globex.d1", `{"id":"d1","status":"idle"}`)
}
