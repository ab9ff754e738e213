package dvshost

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/godwit-project/godwit/dvs/replica"
	"github.com/godwit-project/godwit/dvs/replica/state"
	"github.com/godwit-project/godwit/server/process"
)

// replicated is a process as a machine that is replicated. Only one goroutine uses it at a time.
type replicated struct {
	*process.Process
	mark  uint64 // what has changed since is for the others
	stale bool   // what is since mark came from others
}

// errRequest refuses what encodeMessage has not made.
var errRequest = errors.New("not a message for a replicated process")

// encodeMessage makes a message the payload of a request of the group: kind, length of the sender's name, name, payload.
func encodeMessage(kind process.Kind, from string, payload []byte) []byte {
	b := append(make([]byte, 0, 3+len(from)+len(payload)), byte(kind))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(from)))
	return append(append(b, from...), payload...)
}

func decodeMessage(b []byte) (in process.Input, err error) {
	if len(b) < 3 {
		return in, errRequest
	}
	n := int(binary.LittleEndian.Uint16(b[1:]))
	if len(b) < 3+n {
		return in, errRequest
	}
	return process.Input{Kind: process.Kind(b[0]), From: string(b[3 : 3+n]), Payload: b[3+n:]}, nil
}

// Call has the program handle a message. What it wants to send itself is left out: nobody could say whether it was sent already.
func (m *replicated) Call(ctx context.Context, q replica.Input) ([]byte, error) {
	in, err := decodeMessage(q.Payload)
	if err != nil {
		return nil, err
	}
	in.Now = q.Clock
	for i := range 4 {
		binary.LittleEndian.PutUint64(in.Seed[8*i:], q.Random+uint64(i))
	}
	if m.stale {
		m.settle()
	}
	out, err := m.Process.Call(ctx, in)
	return out.Reply, err
}

// settle notes that the others have what is here.
func (m *replicated) settle() {
	_, _, m.mark = m.Process.Changes(math.MaxUint64)
	m.stale = false
}

// Changes returns what the calls since the last time have changed.
func (m *replicated) Changes() (state.Delta, error) {
	pages, globals, next := m.Process.Changes(m.mark)
	if globals == nil {
		return state.Delta{}, process.ErrBroken
	}
	m.mark = next
	d := state.Delta{Size: uint64(m.Memory()) / process.PageSize, Globals: globals, Pages: make([]state.Page, len(pages))}
	for i, p := range pages {
		d.Pages[i] = state.Page{Number: uint64(p.Number), Data: p.Data}
	}
	return d, nil
}

// Apply takes in what another's calls have changed.
func (m *replicated) Apply(d state.Delta) error {
	pages := make([]process.Page, len(d.Pages))
	for i, p := range d.Pages {
		if p.Number > math.MaxUint32 {
			return fmt.Errorf("%w: page %d", process.ErrState, p.Number)
		}
		pages[i] = process.Page{Number: uint32(p.Number), Data: p.Data}
	}
	m.stale = true
	return m.Process.Apply(pages, d.Globals)
}

// Snapshot returns the whole state.
func (m *replicated) Snapshot() ([]byte, error) {
	s, err := m.Process.Snapshot()
	if err != nil {
		return nil, err
	}
	return s.Append(make([]byte, 0, s.Size())), nil
}

// Restore puts one.
func (m *replicated) Restore(b []byte) error {
	s, err := process.ParseState(b)
	if err != nil {
		return err
	}
	m.stale = true
	return m.Process.Restore(s)
}
