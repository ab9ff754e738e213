package process

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// Limits of a process. The zero value of each means its default.
type Limits struct {
	Memory  int64         // bytes of linear memory; default 256 MiB, at most 4 GiB
	Time    time.Duration // of one call, on the wall; default 1 s. What a program sleeps counts as well
	Message int           // bytes of a message, a reply, and all that one call sends; default 16 MiB
}

const maxMemory = 4 << 30

func (l Limits) orDefaults() Limits {
	if l.Memory <= 0 {
		l.Memory = 256 << 20
	}
	l.Memory = min(l.Memory, maxMemory)
	if l.Time <= 0 {
		l.Time = time.Second
	}
	if l.Message <= 0 {
		l.Message = 16 << 20
	}
	return l
}

// Options of a process.
type Options struct {
	Limits
	// Blank leaves the process without a state: it waits for Apply or Restore. Otherwise it is initialized.
	Blank bool
	// First is the clock and the seed while it is initialized. The zero value is the same moment and seed on every machine, so that
	// processes of one module begin with the same state.
	First Input
}

// Engine compiles modules and runs processes. Its methods may be called at the same time.
type Engine struct {
	runtime wazero.Runtime
	tracker *tracker // nil where the kernel has none

	mu      sync.Mutex
	modules map[ID]*Module
}

// Module is a compiled module.
type Module struct {
	engine   *Engine
	id       ID
	bytes    []byte
	compiled wazero.CompiledModule
	globals  []string
	memory   int64 // bytes to begin with
}

// ID returns the module's name.
func (m *Module) ID() ID { return m.id }

// Bytes returns the module as it was loaded. They are not to be changed.
func (m *Module) Bytes() []byte { return m.bytes }

// NewEngine returns an engine. A directory keeps what is compiled, for the next start; "" keeps nothing.
func NewEngine(ctx context.Context, directory string) (*Engine, error) {
	config := wazero.NewRuntimeConfig().WithCloseOnContextDone(true).WithCoreFeatures(api.CoreFeaturesV2)
	if directory != "" {
		cache, err := wazero.NewCompilationCacheWithDir(directory)
		if err != nil {
			return nil, fmt.Errorf("keep compiled modules in %s: %w", directory, err)
		}
		config = config.WithCompilationCache(cache)
	}
	e := &Engine{runtime: wazero.NewRuntimeWithConfig(ctx, config), modules: map[ID]*Module{}}
	e.tracker, _ = newTracker() // without it all is slower, and the same
	if err := errors.Join(exportHost(ctx, e.runtime), exportWASI(ctx, e.runtime)); err != nil {
		return nil, errors.Join(err, e.Close(ctx))
	}
	return e, nil
}

// Close ends the engine. All its processes have to be closed before.
func (e *Engine) Close(ctx context.Context) error {
	if e.tracker != nil {
		e.tracker.close()
	}
	return e.runtime.Close(ctx)
}

// Load compiles a module; one that is loaded already is returned at once. It is kept until Close. ErrRefused comes with the reason why a
// module cannot be a process.
func (e *Engine) Load(ctx context.Context, module []byte) (*Module, error) {
	id := Identify(module)
	e.mu.Lock()
	defer e.mu.Unlock()
	if m := e.modules[id]; m != nil {
		return m, nil
	}
	found, err := inspect(module)
	if err != nil {
		return nil, err
	}
	compiled, err := e.runtime.CompileModule(ctx, found.rewritten)
	if err != nil {
		return nil, refuse("it does not compile: %w", err)
	}
	if err := checkShape(compiled); err != nil {
		return nil, errors.Join(err, compiled.Close(ctx))
	}
	m := &Module{engine: e, id: id, bytes: module, compiled: compiled, globals: found.globals, memory: int64(found.memory) << 16}
	e.modules[id] = m
	return m, nil
}

// Loaded returns a module that has been loaded, or nil.
func (e *Engine) Loaded(id ID) *Module {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.modules[id]
}

// checkShape refuses a module whose exports or imports are not those of the ABI.
func checkShape(m wazero.CompiledModule) error {
	for _, f := range m.ImportedFunctions() {
		from, name, _ := f.Import()
		signature, ok := known(from, name)
		if !ok {
			return refuse("it imports %s.%s, which is not offered: processes have messages, a clock and random numbers, no files and no network", from, name)
		}
		if !signature.matches(f) {
			return refuse("it imports %s.%s with other parameters than it has", from, name)
		}
	}
	have := m.ExportedFunctions()
	for _, want := range []struct {
		name            string
		params, results int
	}{{"godwit_alloc", 1, 1}, {"godwit_handle", 2, 0}} {
		f := have[want.name]
		if f == nil {
			return refuse("it does not export %s: see the documentation of package process", want.name)
		}
		if !numbers(f.ParamTypes(), want.params) || !numbers(f.ResultTypes(), want.results) {
			return refuse("its %s must take %d and return %d numbers of 32 bits", want.name, want.params, want.results)
		}
	}
	if _, ok := have["_start"]; ok {
		return refuse("it is a command (it exports _start): build it as a reactor; clang wants -mexec-model=reactor, Go -buildmode=c-shared")
	}
	return nil
}

func numbers(types []api.ValueType, n int) bool {
	for _, t := range types {
		if t != api.ValueTypeI32 {
			return false
		}
	}
	return len(types) == n
}
