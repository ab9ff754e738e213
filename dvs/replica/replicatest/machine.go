// Package replicatest has what tests of replication share: a key-value machine with pages, the check of what its clients saw, and the
// connections between replicas. Only tests import it.
package replicatest

import (
	"encoding/binary"
	"fmt"

	"github.com/godwit-project/godwit/dvs/replica/state"
)

// Machine is a key-value store whose keys are pages: a request appends to a key, maybe nothing, and returns what it has then. That shows every
// lost request, and every one that was executed twice.
type Machine map[uint64]string

// Request makes a request: a key, and what to append.
func Request(key byte, word string) []byte { return append([]byte{key}, word...) }

// Call executes a request.
func (m Machine) Call(payload []byte) (reply []byte, d state.Delta) {
	key, word := uint64(payload[0]), string(payload[1:])
	if word != "" {
		m[key] += word
		d.Pages = []state.Page{{Number: key, Data: []byte(m[key])}}
	}
	return []byte(m[key]), d
}

// Apply takes in what has changed elsewhere.
func (m Machine) Apply(d state.Delta) {
	for _, p := range d.Pages {
		m[p.Number] = string(p.Data)
	}
}

// Snapshot returns everything; equal machines give equal bytes.
func (m Machine) Snapshot() []byte {
	var b []byte
	for k := range uint64(256) {
		if v := m[k]; v != "" {
			b = append(b, byte(k))
			b = binary.LittleEndian.AppendUint32(b, uint32(len(v)))
			b = append(b, v...)
		}
	}
	return b
}

// Restore replaces everything.
func (m Machine) Restore(b []byte) error {
	clear(m)
	for len(b) > 0 {
		if len(b) < 5 || uint64(binary.LittleEndian.Uint32(b[1:])) > uint64(len(b)-5) {
			return fmt.Errorf("restore a key-value machine: %d bytes are left over", len(b))
		}
		n := binary.LittleEndian.Uint32(b[1:])
		m[uint64(b[0])] = string(b[5 : 5+n])
		b = b[5+n:]
	}
	return nil
}
