package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"testing"

	"github.com/weirstream/weir/cmd/weircli"
	"github.com/weirstream/weir/examples/internal/exampletest"
)

func TestOwnBinary(t *testing.T) {
	r := exampletest.Start(t, func(ctx context.Context, url string, out io.Writer) error {
		args := []string{"run", "--url", url, "--tenants", "acme", "--create-streams", "--checkpoint-interval", "100ms"}
		if code := weircli.Execute(ctx, app(), args, out, out); code != 0 {
			return fmt.Errorf("exit code %d", code)
		}
		return nil
	})
	r.Publish("acme.said", "hello", "world")
	if got, want := r.Read("acme", "acme.shouted", 2), []string{"HELLO", "WORLD"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
