package process

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
)

// instance is a module in execution.
type instance struct {
	linear  *linear
	module  api.Module
	alloc   api.Function
	handle  api.Function
	globals []api.MutableGlobal
	clock   int64 // what the program has read last
}

// newInstance makes an instance that has run nothing yet.
func (m *Module) newInstance(limits Limits) (*instance, error) {
	if m.memory > limits.Memory {
		return nil, refuse("it needs %d bytes of memory to begin with, the limit is %d", m.memory, limits.Memory)
	}
	memory, err := newLinear(limits.Memory, m.engine.tracker)
	if err != nil {
		return nil, err
	}
	ctx := experimental.WithMemoryAllocator(context.Background(), memory)
	module, err := m.engine.runtime.InstantiateModule(ctx, m.compiled, wazero.NewModuleConfig().WithName("").WithStartFunctions())
	if err != nil {
		memory.Free()
		return nil, refuse("it cannot be started: %w", err)
	}
	i := &instance{linear: memory, module: module, alloc: module.ExportedFunction("godwit_alloc"), handle: module.ExportedFunction("godwit_handle")}
	for _, name := range m.globals {
		g, ok := module.ExportedGlobal(name).(api.MutableGlobal)
		if !ok {
			i.close()
			return nil, fmt.Errorf("global %s of a process is not to be had", name)
		}
		i.globals = append(i.globals, g)
	}
	return i, nil
}

func (i *instance) close() {
	_ = i.module.Close(context.Background()) // has nothing that could fail
	i.linear.Free()
}

// memory returns the program's memory. It is valid until the program runs.
func (i *instance) memory() []byte { return i.linear.bytes() }

// registers returns what there is besides memory.
func (i *instance) registers() []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(i.memory())))
	b = binary.LittleEndian.AppendUint64(b, uint64(i.clock))
	for _, g := range i.globals {
		b = binary.LittleEndian.AppendUint64(b, g.Get())
	}
	return b
}

// memorySize returns the size of memory that goes with registers, in bytes.
func (i *instance) memorySize(registers []byte) (int, error) {
	if len(registers) != 16+8*len(i.globals) {
		return 0, fmt.Errorf("%w: it has %d bytes of globals, %d were expected", ErrState, len(registers), 16+8*len(i.globals))
	}
	size := binary.LittleEndian.Uint64(registers)
	if size%(1<<16) != 0 || size > uint64(len(i.linear.space)) {
		return 0, fmt.Errorf("%w: it has %d bytes of memory, allowed are %d", ErrState, size, len(i.linear.space))
	}
	return int(size), nil
}

// setRegisters puts what registers returned. Memory has its size already.
func (i *instance) setRegisters(b []byte) {
	i.clock = int64(binary.LittleEndian.Uint64(b[8:]))
	for n, g := range i.globals {
		g.Set(binary.LittleEndian.Uint64(b[16+8*n:]))
	}
}

// grow makes memory at least that long.
func (i *instance) grow(size int) error {
	if more := size - len(i.memory()); more > 0 {
		if _, ok := i.module.Memory().Grow(uint32((more + 1<<16 - 1) >> 16)); !ok {
			return fmt.Errorf("%w: memory cannot grow to %d bytes", ErrState, size)
		}
	}
	return nil
}

// running is a call under way. It is the context of the call, which is how host functions find it, and which ends it when its time is over.
type running struct {
	context.Context
	i      *instance
	limits Limits
	in     Input
	out    Output
	room   int   // bytes that may still be replied and sent
	slept  int64 // nanoseconds
	random *rand.ChaCha8
	over   chan struct{}
}

// runningKey is the key under which a running call is its own value.
type runningKey struct{}

// Value returns the call itself.
func (r *running) Value(key any) any {
	if key == (runningKey{}) {
		return r
	}
	return nil
}

// Done is closed when the time is over.
func (r *running) Done() <-chan struct{} { return r.over }

// Err is not nil when the time is over.
func (r *running) Err() error {
	select {
	case <-r.over:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

// runningOf returns the call that a host function belongs to.
func runningOf(ctx context.Context) *running { return ctx.Value(runningKey{}).(*running) }

// run has the instance handle a message, or initialize itself. After an error the instance is of no more use.
func (i *instance) run(ctx context.Context, in Input, limits Limits, initialize bool) (Output, error) {
	r := &running{Context: context.Background(), i: i, limits: limits, in: in, room: limits.Message, over: make(chan struct{})}
	i.clock = max(i.clock+1, in.Now)
	timer := time.AfterFunc(limits.Time, func() { close(r.over) })
	var err error
	if done := ctx.Done(); done != nil {
		ended := make(chan struct{})
		stop := context.AfterFunc(ctx, func() {
			if timer.Stop() {
				close(r.over)
			}
			close(ended)
		})
		err = r.perform(initialize)
		if !stop() {
			<-ended
		}
	} else {
		err = r.perform(initialize)
	}
	timer.Stop()
	if r.Err() != nil {
		// Even if the program has returned: the engine may have noticed the end, and be about to close the instance.
		return Output{Log: r.out.Log}, ErrTime
	}
	if err != nil {
		return Output{Log: r.out.Log}, err
	}
	return r.out, nil
}

func (r *running) perform(initialize bool) error {
	if initialize {
		if f := r.i.module.ExportedFunction("_initialize"); f != nil {
			_, err := f.Call(r)
			return trapped(err)
		}
		return nil
	}
	var stack [2]uint64
	stack[0] = uint64(len(r.in.Payload))
	if err := r.i.alloc.CallWithStack(r, stack[:]); err != nil {
		return trapped(err)
	}
	at := uint32(stack[0])
	if !r.i.module.Memory().Write(at, r.in.Payload) {
		return fmt.Errorf("%w: godwit_alloc gave no room for %d bytes", ErrTooLong, len(r.in.Payload))
	}
	stack[0], stack[1] = uint64(at), uint64(len(r.in.Payload))
	return trapped(r.i.handle.CallWithStack(r, stack[:]))
}

func trapped(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrTime):
		return ErrTime
	default:
		text, _, _ := strings.Cut(err.Error(), "\n") // then there is a stack
		return fmt.Errorf("%w: %s", ErrTrapped, text)
	}
}

// sleep moves the clock on. Sleeping for longer than a call may take ends the call, the same way on every machine.
func (r *running) sleep(nanoseconds int64) {
	nanoseconds = max(nanoseconds, 0)
	if r.slept += nanoseconds; r.slept < 0 || r.slept > int64(r.limits.Time) {
		panic(ErrTime)
	}
	r.i.clock += nanoseconds
}

// now returns the clock; it moves by a nanosecond each time it is read.
func (r *running) now() int64 {
	r.i.clock++
	return r.i.clock
}

// fill fills b with random numbers.
func (r *running) fill(b []byte) {
	if r.random == nil {
		r.random = rand.NewChaCha8(r.in.Seed)
	}
	_, _ = r.random.Read(b) // never fails
}
