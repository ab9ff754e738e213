//go:build lab

package demo

import (
	"errors"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/godwit-project/godwit/examples"
)

// The whole scenario, with the real binary. It needs no root.
func TestDVS(t *testing.T) {
	directory := t.TempDir()
	binary := filepath.Join(directory, "godwit")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "github.com/godwit-project/godwit/cmd/godwit").CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	if _, err := examples.KV(t.Context(), directory); err != nil {
		t.Fatal(err)
	}
	r, err := DVS(t.Context(), DVSOptions{Binary: binary, Module: DVSModule(binary), Clients: 20, Say: func(s string) { t.Log(s) }})
	if err != nil {
		t.Fatalf("%+v: %v", r, err)
	}
	if r.Requests == 0 || r.Moves != 8 {
		t.Errorf("%+v", r)
	}
	if _, err := DVS(t.Context(), DVSOptions{Binary: binary, Module: "none.wasm"}); !errors.Is(err, ErrNoModule) {
		t.Errorf("without the module: %v", err)
	}
}
