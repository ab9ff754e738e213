package process_test

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/godwit-project/godwit/examples"
	"github.com/godwit-project/godwit/server/process"
)

// built compiles each example once.
var built struct {
	kv, counter func() ([]byte, error)
	cache       string // of compiled modules
}

func TestMain(m *testing.M) {
	directory, err := os.MkdirTemp("", "godwit-process-")
	if err != nil {
		panic(err)
	}
	built.cache = filepath.Join(directory, "cache")
	built.kv = sync.OnceValues(func() ([]byte, error) { return examples.KV(context.Background(), directory) })
	built.counter = sync.OnceValues(func() ([]byte, error) { return examples.Counter(context.Background(), directory) })
	code := m.Run()
	_ = os.RemoveAll(directory)
	os.Exit(code)
}

func kvModule(t testing.TB) []byte {
	t.Helper()
	b, err := built.kv()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func counterModule(t testing.TB) []byte {
	t.Helper()
	b, err := built.counter()
	if errors.Is(err, examples.ErrNoClang) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// both runs a test with a Go module and with a C module.
func both(t *testing.T, test func(t *testing.T, module []byte, request func(i int) string)) {
	t.Run("go", func(t *testing.T) { test(t, kvModule(t), kvRequest) })
	t.Run("c", func(t *testing.T) { test(t, counterModule(t), counterRequest) })
}

func newEngine(t testing.TB) *process.Engine {
	t.Helper()
	return engineWith(t, built.cache)
}

func engineWith(t testing.TB, cache string) *process.Engine {
	t.Helper()
	e, err := process.NewEngine(context.Background(), cache)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return e
}

func load(t testing.TB, e *process.Engine, module []byte) *process.Module {
	t.Helper()
	m, err := e.Load(context.Background(), module)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// start starts a process; unless the test says otherwise it has all the time that a busy machine needs.
func start(t testing.TB, m *process.Module, o process.Options) *process.Process {
	t.Helper()
	o.Time = cmp.Or(o.Time, time.Minute)
	p, err := m.Start(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// input is the i-th message, with a clock and a seed of its own.
func input(i int, payload string) process.Input {
	in := process.Input{Kind: process.KindRequest, From: "test", Payload: []byte(payload), Now: int64(i) * int64(time.Millisecond)}
	in.Seed[0], in.Seed[1] = byte(i), byte(i>>8)
	return in
}

func ask(t testing.TB, p *process.Process, i int, payload string) string {
	t.Helper()
	out, err := p.Call(context.Background(), input(i, payload))
	if err != nil {
		t.Fatalf("%q: %v", payload, err)
	}
	return string(out.Reply)
}
