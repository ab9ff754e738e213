package process

import (
	"context"
	"fmt"
	"slices"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// maxLog bounds what one call may write for people; what is more is left out.
const maxLog = 64 << 10

// maxName bounds a name, in bytes.
const maxName = 255

// signature is the parameters and results of a host function: i for 32 bits, I for 64.
type signature struct{ params, results string }

func types(s string) []api.ValueType {
	all := make([]api.ValueType, len(s))
	for i, c := range s {
		all[i] = api.ValueTypeI32
		if c == 'I' {
			all[i] = api.ValueTypeI64
		}
	}
	return all
}

func (s signature) matches(f api.FunctionDefinition) bool {
	return slices.Equal(f.ParamTypes(), types(s.params)) && slices.Equal(f.ResultTypes(), types(s.results))
}

// hostFunction is what a program can call. Parameters are on the stack, and the result is put there.
type hostFunction struct {
	signature
	do func(r *running, stack []uint64)
}

// hostName is the module that programs import the functions below from.
const hostName = "godwit"

// hostFunctions are what is offered besides WASI; see the package's documentation.
func hostFunctions() map[string]hostFunction {
	return map[string]hostFunction{
		"kind":   {signature{"", "i"}, func(r *running, stack []uint64) { stack[0] = uint64(r.in.Kind) }},
		"from":   {signature{"ii", "i"}, hostFrom},
		"reply":  {signature{"ii", ""}, hostReply},
		"send":   {signature{"iiii", ""}, hostSend},
		"notify": {signature{"ii", ""}, hostNotify},
		"log":    {signature{"ii", ""}, func(r *running, stack []uint64) { r.log(append(r.view(stack[0], stack[1]), '\n')) }},
	}
}

func exportHost(ctx context.Context, runtime wazero.Runtime) error {
	return export(ctx, runtime, hostName, hostFunctions())
}

func export(ctx context.Context, runtime wazero.Runtime, name string, functions map[string]hostFunction) error {
	b := runtime.NewHostModuleBuilder(name)
	for name, f := range functions {
		call := func(ctx context.Context, stack []uint64) {
			for i, c := range f.params {
				if c == 'i' {
					stack[i] &= 1<<32 - 1 // the other half may hold anything
				}
			}
			f.do(runningOf(ctx), stack)
		}
		b = b.NewFunctionBuilder().WithGoFunction(api.GoFunc(call), types(f.params), types(f.results)).Export(name)
	}
	if _, err := b.Instantiate(ctx); err != nil {
		return fmt.Errorf("offer the functions of %s: %w", name, err)
	}
	return nil
}

// known tells which functions a module may import.
func known(module, name string) (signature, bool) {
	functions := hostFunctions()
	if module == wasiName {
		functions = wasiFunctions()
	} else if module != hostName {
		return signature{}, false
	}
	f, ok := functions[name]
	return f.signature, ok
}

// view returns a piece of the program's memory; what lies outside ends the call, as in the program itself. It is a slice without
// room behind it, valid until the program goes on.
func (r *running) view(at, length uint64) []byte {
	memory := r.i.memory()
	if at > uint64(len(memory)) || length > uint64(len(memory))-at {
		panic(fmt.Errorf("%d bytes at %d are outside of its memory of %d bytes", length, at, len(memory)))
	}
	return memory[at : at+length : at+length]
}

// take returns a copy of a message in the program's memory, if there is room for it.
func (r *running) take(at, length uint64) []byte {
	b := r.view(at, length)
	if r.room -= len(b) + 64; r.room < 0 {
		panic(fmt.Errorf("its messages are longer than %d bytes in all", r.limits.Message))
	}
	return slices.Clone(b)
}

func (r *running) name(at, length uint64) string {
	b := r.view(at, length)
	if len(b) == 0 || len(b) > maxName {
		panic(fmt.Errorf("a name has 1 to %d bytes, not %d", maxName, len(b)))
	}
	return string(b)
}

func (r *running) log(b []byte) {
	r.out.Log = append(r.out.Log, b[:min(len(b), maxLog-len(r.out.Log))]...)
}

func hostFrom(r *running, stack []uint64) {
	copy(r.view(stack[0], stack[1]), r.in.From)
	stack[0] = uint64(len(r.in.From))
}

func hostReply(r *running, stack []uint64) {
	r.out.Reply, r.out.Replied = r.take(stack[0], stack[1]), true
}

func hostSend(r *running, stack []uint64) {
	m := Sending{Kind: KindSend, To: r.name(stack[0], stack[1]), Payload: r.take(stack[2], stack[3])}
	r.out.Sends = append(r.out.Sends, m)
}

func hostNotify(r *running, stack []uint64) {
	_ = r.take(0, 0) // so that they are not without end
	r.out.Sends = append(r.out.Sends, Sending{Kind: KindNotify, To: r.name(stack[0], stack[1])})
}
