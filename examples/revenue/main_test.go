package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/weirstream/weir/cmd/weircli"
	"github.com/weirstream/weir/examples/internal/exampletest"
)

func TestRevenue(t *testing.T) {
	r := exampletest.Start(t, func(ctx context.Context, url string, out io.Writer) error {
		args := []string{"run", "--url", url, "--tenants", "acme", "--create-streams", "--checkpoint-interval", "100ms"}
		if code := weircli.Execute(ctx, app, args, out, out); code != 0 {
			return fmt.Errorf("exit code %d", code)
		}
		return nil
	})
	r.Publish("acme.orders.created", `{"ID":"1","Customer":"Ann","Cents":500}`, `{"ID":"2","Customer":"Ann","Cents":250}`)
	want := []string{`{"Customer":"Ann","Cents":500}`, `{"Customer":"Ann","Cents":750}`}
	if got := r.Read("acme", "acme.totals.ann", 2); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// The README shows this program, not one that was true once.
func TestReadmeShowsIt(t *testing.T) {
	code, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(readme), "```go\n"+string(code)+"```") {
		t.Error("README.md shows another program than examples/revenue/main.go: copy it there")
	}
}
