package dvshost

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/godwit-project/godwit/server/process"
)

// baseID names a state that was sent beforehand. It is random, so that no other attempt's is taken for it.
type baseID [16]byte

// A state that moves is one byte of form, and a process.State, or what has changed since a base: its id, the globals with their length, the
// pages. Numbers are little-endian.
const (
	formWhole  = 0
	formChange = 1
)

// errBase refuses a change to a state that is not here: the move has to be repeated as a whole.
var errBase = errors.New("the state that this is a change of was not sent here")

// snapshot returns the state, while nothing is in work: what the destination does not have yet.
func (p *hosted) snapshot() ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.base.id == (baseID{}) {
		s, err := p.machine.Snapshot()
		if err != nil {
			return nil, err
		}
		return s.Append(append(make([]byte, 0, 1+s.Size()), formWhole)), nil
	}
	pages, globals, _ := p.machine.Changes(p.base.mark)
	if globals == nil {
		return nil, process.ErrBroken
	}
	b := append([]byte{formChange}, p.base.id[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(globals)))
	return process.AppendPages(append(b, globals...), pages), nil
}

// restore puts what snapshot returned at the source. It may be called again.
func (p *hosted) restore(b []byte) error {
	err := p.put(b)
	p.staged.Store(err == nil)
	return err
}

func (p *hosted) put(b []byte) error {
	if len(b) == 0 {
		return fmt.Errorf("%w: it is empty", process.ErrState)
	}
	if b[0] == formWhole {
		s, err := process.ParseState(b[1:])
		if err != nil {
			return err
		}
		return p.machine.Restore(s)
	}
	id, globals, pages, err := parseChange(b)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if id != p.base.id {
		return errBase
	}
	return p.machine.Apply(pages, globals)
}

func parseChange(b []byte) (id baseID, globals []byte, pages []process.Page, err error) {
	if len(b) < 1+len(id)+4 || b[0] != formChange {
		return id, nil, nil, fmt.Errorf("%w: it is cut off, or of another version of this program", process.ErrState)
	}
	b = b[1:]
	b = b[copy(id[:], b):]
	n := int(binary.LittleEndian.Uint32(b))
	b = b[4:]
	if n > len(b) {
		return id, nil, nil, fmt.Errorf("%w: it is cut off", process.ErrState)
	}
	globals = b[:n:n]
	pages, b, err = process.ParsePages(b[n:])
	if err == nil && len(b) != 0 {
		err = fmt.Errorf("%w: %d bytes too many", process.ErrState, len(b))
	}
	return id, globals, pages, err
}
