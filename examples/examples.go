// Package examples builds the programs below it, for tests and measurements of other rooms. It works within a checkout of this module.
package examples

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// ErrNoClang says that the C example cannot be built on this machine.
var ErrNoClang = errors.New("clang with lld and wasi-libc is needed: on Debian, install clang, lld, wasi-libc and libclang-rt-14-dev-wasm32")

const root = "github.com/godwit-project/godwit"

// KV builds the key-value service, and returns the module.
func KV(ctx context.Context, directory string) ([]byte, error) {
	file := filepath.Join(directory, "kv.wasm")
	if err := goCommand(ctx, "build", "-buildmode=c-shared", "-o", file, root+"/examples/kv"); err != nil {
		return nil, err
	}
	return os.ReadFile(file)
}

func goCommand(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
	return run(cmd)
}

// Tally builds the native program, and returns its path.
func Tally(ctx context.Context, directory string) (string, error) {
	file := filepath.Join(directory, "tally")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", file, root+"/examples/tally")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	return file, run(cmd)
}

// Counter builds the counter in C, and returns the module.
func Counter(ctx context.Context, directory string) ([]byte, error) {
	compiler, err := exec.LookPath("clang")
	if err != nil {
		return nil, fmt.Errorf("%w (%w)", ErrNoClang, err)
	}
	where, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", root).Output()
	if err != nil {
		return nil, fmt.Errorf("find the examples: %w", err)
	}
	source := filepath.Join(strings.TrimSpace(string(where)), "examples", "counter-c", "counter.c")
	file := filepath.Join(directory, "counter.wasm")
	err = run(exec.CommandContext(ctx, compiler, "--target=wasm32-wasi", "-mexec-model=reactor", "-O2", "-o", file, source))
	if err != nil {
		return nil, fmt.Errorf("%w (%w)", ErrNoClang, err)
	}
	return os.ReadFile(file)
}

func run(cmd *exec.Cmd) error {
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, &said)
	}
	return nil
}
