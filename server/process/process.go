package process

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	// A call that fails is undone by going back to the last look at memory and handling again what came since. These bound how much that
	// may be.
	maxReplayed      = 4096
	maxReplayedBytes = 1 << 20
	// lookWorth is how much longer calls must have taken than a look does, before it is time for another.
	lookWorth = 20
)

// Process is a Machine: one instance of a module.
type Process struct {
	module *Module
	limits Limits

	mu     sync.Mutex
	i      *instance
	blank  bool
	err    error // why it is of no use any more
	table  table // memory at the last look
	at     []byte
	since  []Input // what has been handled since
	bytes  int     // of since
	worked time.Duration
	look   time.Duration // what the last look took
}

// Start makes a process of the module.
func (m *Module) Start(ctx context.Context, o Options) (*Process, error) {
	p := &Process{module: m, limits: o.orDefaults(), blank: o.Blank}
	var err error
	if p.i, err = m.newInstance(p.limits); err != nil {
		return nil, err
	}
	if o.Blank {
		if err := p.i.linear.clear(); err != nil {
			p.i.close()
			return nil, err
		}
		p.lookLocked()
		return p, nil
	}
	first := o.First
	first.Now = max(first.Now, int64(time.Second)) // Go's runtime takes a clock of 0 for a broken one
	limits := p.limits
	limits.Time = max(limits.Time, 10*time.Second) // compiled code is loaded for the first time
	if out, err := p.i.run(ctx, first, limits, true); err != nil {
		p.i.close()
		return nil, fmt.Errorf("initialize the process: %w%s", err, said(out.Log))
	}
	p.lookLocked()
	return p, nil
}

// said is what a program wrote before it failed, for an error's text.
func said(log []byte) string {
	if len(log) == 0 {
		return ""
	}
	return fmt.Sprintf(" (it wrote: %.300q)", log)
}

// Module returns what the process is an instance of.
func (p *Process) Module() *Module { return p.module }

// Memory returns how many bytes of memory the program has.
func (p *Process) Memory() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.i == nil {
		return 0
	}
	return int64(len(p.i.memory()))
}

// Close ends the process.
func (p *Process) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = ErrClosed
	}
	if p.i != nil {
		p.i.close()
		p.i = nil
	}
}

// Call has the program handle a message.
func (p *Process) Call(ctx context.Context, in Input) (Output, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.err != nil:
		return Output{}, p.err
	case p.blank:
		return Output{}, ErrBlank
	case ctx.Err() != nil:
		return Output{}, ctx.Err()
	case len(in.Payload) > p.limits.Message:
		return Output{}, fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLong, len(in.Payload), p.limits.Message)
	}
	if len(p.since) >= maxReplayed || p.bytes >= maxReplayedBytes || p.worked > lookWorth*p.look {
		p.lookLocked()
	}
	begin := time.Now()
	out, err := p.i.run(ctx, in, p.limits, false)
	if err != nil {
		if undone := p.undoLocked(); undone != nil {
			return out, undone
		}
		return out, fmt.Errorf("%w%s", err, said(out.Log))
	}
	p.worked += time.Since(begin)
	p.since = append(p.since, in)
	p.bytes += len(in.Payload) + len(in.From) + 64
	return out, nil
}

// lookLocked notes what has changed in memory. What comes after can be undone.
func (p *Process) lookLocked() {
	begin := time.Now()
	p.table.look(p.i.memory(), p.i.linear.written())
	p.markLocked()
	p.look = time.Since(begin)
}

// markLocked notes that the table is what memory is.
func (p *Process) markLocked() {
	p.at = p.i.registers()
	clear(p.since)
	p.since, p.bytes, p.worked = p.since[:0], 0, 0
}

// undoLocked takes back a call that failed, after which the instance is of no use: a fresh one is given the state of the last look, and
// handles again what came since.
func (p *Process) undoLocked() error {
	limits := p.limits
	limits.Time *= 10 // of what has been done in time once
	err := p.putLocked()
	for _, in := range p.since {
		if err != nil {
			break
		}
		_, err = p.i.run(context.Background(), in, limits, false)
	}
	if err != nil {
		p.err = fmt.Errorf("%w: a call that failed could not be undone: %w", ErrBroken, err)
	}
	return p.err
}

// putLocked replaces the instance by a fresh one with the state of the table.
func (p *Process) putLocked() error {
	p.i.close()
	p.i = nil
	i, err := p.module.newInstance(p.limits)
	if err != nil {
		return err
	}
	p.i = i
	if err := i.grow(len(p.table.pages) * PageSize); err != nil {
		return err
	}
	if err := i.linear.clear(); err != nil {
		return err
	}
	memory := i.memory()
	for n, page := range p.table.pages {
		if page != nil {
			copy(memory[n*PageSize:], page[:])
		}
	}
	i.setRegisters(p.at)
	return nil
}

// DirtySince returns what has changed in memory.
func (p *Process) DirtySince(mark uint64) ([]Page, uint64) {
	pages, _, next := p.Changes(mark)
	return pages, next
}

// Globals returns what there is besides memory.
func (p *Process) Globals() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.i == nil {
		return nil
	}
	return p.i.registers()
}

// Changes returns what has changed in memory, and what there is besides.
func (p *Process) Changes(mark uint64) ([]Page, []byte, uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil || p.blank {
		return nil, nil, mark
	}
	p.lookLocked()
	return p.table.since(mark), slices.Clone(p.at), p.table.generation
}

// Snapshot returns the whole state.
func (p *Process) Snapshot() (State, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.err != nil:
		return State{}, p.err
	case p.blank:
		return State{}, ErrBlank
	}
	p.lookLocked()
	return State{Module: p.module.id, Globals: slices.Clone(p.at), Pages: p.table.whole()}, nil
}

// Hash returns a number for the state.
func (p *Process) Hash() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil || p.blank {
		return 0
	}
	p.lookLocked()
	return digest(p.table.digest(), p.at)
}

// Restore puts a state.
func (p *Process) Restore(s State) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return p.err
	}
	if s.Module != p.module.id {
		return fmt.Errorf("%w: it is one of module %.12s, not of %.12s", ErrState, s.Module, p.module.id)
	}
	size, err := p.i.memorySize(s.Globals)
	if err != nil {
		return err
	}
	if err := checkPages(s.Pages, size); err != nil {
		return err
	}
	p.table.generation++
	p.table.resize(size)
	for i, old := range p.table.pages {
		if old != nil {
			p.table.put(i, nil)
		}
	}
	p.table.notePages(s.Pages)
	p.at = slices.Clone(s.Globals)
	return p.freshLocked()
}

// freshLocked begins with the state of the table and p.at.
func (p *Process) freshLocked() error {
	if err := p.putLocked(); err != nil {
		p.err = fmt.Errorf("%w: %w", ErrBroken, err)
		return p.err
	}
	p.blank = false
	p.markLocked()
	return nil
}

// Apply brings a copy up to date.
func (p *Process) Apply(pages []Page, globals []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return p.err
	}
	size := len(p.i.memory())
	if globals != nil {
		var err error
		if size, err = p.i.memorySize(globals); err != nil {
			return err
		}
	} else {
		for _, one := range pages {
			size = max(size, (int(one.Number)*PageSize+1<<16)&^(1<<16-1))
		}
		if size > len(p.i.linear.space) {
			return fmt.Errorf("%w: it has %d bytes of memory, allowed are %d", ErrState, size, len(p.i.linear.space))
		}
	}
	if err := checkPages(pages, size); err != nil {
		return err
	}
	if !p.blank {
		p.lookLocked() // what the program itself has changed is not to be taken for what is put here
	}
	p.table.generation++
	p.table.resize(size)
	p.table.notePages(pages)
	if globals == nil {
		p.blank = true // until the state is whole
		return p.i.putPages(pages, size)
	}
	p.at = slices.Clone(globals)
	if size < len(p.i.memory()) { // memory cannot shrink
		return p.freshLocked()
	}
	if err := p.i.putPages(pages, size); err != nil {
		return err
	}
	p.i.setRegisters(globals)
	p.blank = false
	p.markLocked()
	return nil
}
