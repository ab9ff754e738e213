package main

import (
	"context"
	"encoding/binary"
	"sync"

	"github.com/godwit-project/godwit/dvs"
)

const pageSize = 64 << 10

// memory is the state of a server that moves: every request changes a byte of one page.
type memory struct {
	mu     sync.Mutex
	b      []byte
	stamps []uint64 // by page: when it changed last
	now    uint64
}

func newMemory(size int) *memory {
	return &memory{b: make([]byte, size), stamps: make([]uint64, (size+pageSize-1)/pageSize), now: 1}
}

func (m *memory) touch(at uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.b) > 0 {
		at = at * 7919 * pageSize % uint64(len(m.b))
		m.b[at]++
		m.stamps[at/pageSize] = m.now
	}
}

func (m *memory) snapshot() ([]byte, error) { return m.b, nil }

func (m *memory) restore(b []byte) error {
	fresh := newMemory(len(b))
	copy(fresh.b, b)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.b, m.stamps, m.now = fresh.b, fresh.stamps, fresh.now
	return nil
}

// Changes implements dvs.Pieces: size, offset, page.
func (m *memory) Changes(ctx context.Context, since uint64, give func([]byte) error) (uint64, error) {
	m.mu.Lock()
	m.now++
	mark := m.now
	m.mu.Unlock()
	piece := make([]byte, 0, 16+pageSize)
	for page := 0; page < len(m.stamps) && ctx.Err() == nil; page++ {
		m.mu.Lock()
		due := since == 0 || m.stamps[page] >= since
		if due {
			at := page * pageSize
			piece = binary.LittleEndian.AppendUint64(piece[:0], uint64(len(m.b)))
			piece = binary.LittleEndian.AppendUint64(piece, uint64(at))
			piece = append(piece, m.b[at:min(at+pageSize, len(m.b))]...)
		}
		m.mu.Unlock()
		if due {
			if err := give(piece); err != nil {
				return 0, err
			}
		}
	}
	return mark, ctx.Err()
}

// Reset implements dvs.Pieces.
func (m *memory) Reset() error { return m.restore(nil) }

// Apply implements dvs.Pieces.
func (m *memory) Apply(p []byte) error {
	if size := int(binary.LittleEndian.Uint64(p)); size != len(m.b) {
		if err := m.restore(make([]byte, size)); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	copy(m.b[binary.LittleEndian.Uint64(p[8:]):], p[16:])
	return nil
}

// Complete implements dvs.Pieces.
func (m *memory) Complete() error { return nil }

func serveMovable(o order) error {
	m := newMemory(o.Size)
	opts := dvs.BindOptions{Standby: o.Flag, Snapshot: m.snapshot, Restore: m.restore}
	if o.Pieces {
		opts = dvs.BindOptions{Standby: o.Flag, Pieces: m}
	}
	run := func() error {
		e, err := bind(o, opts)
		if err != nil {
			return err
		}
		go func() {
			for n := uint64(0); ; n++ {
				r, err := e.ReceiveRequest(context.Background())
				if err != nil {
					return
				}
				m.touch(n)
				_ = e.Reply(r, r.Payload)
			}
		}()
		return nil
	}
	if o.Flag {
		go func() { _ = run() }()
		return nil
	}
	return run()
}
