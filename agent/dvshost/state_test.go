package dvshost

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/godwit-project/godwit/server/process"
)

// Whatever the bytes are, they are a change or refused, and a change is the same bytes again.
func FuzzChange(f *testing.F) {
	good := append([]byte{formChange}, bytes.Repeat([]byte{7}, 16)...)
	good = append(binary.LittleEndian.AppendUint32(good, 3), "abc"...)
	good = process.AppendPages(good, []process.Page{{Number: 1}, {Number: 9, Data: make([]byte, process.PageSize)}})
	f.Add(good)
	f.Add(good[:30])
	f.Fuzz(func(t *testing.T, b []byte) {
		id, globals, pages, err := parseChange(b)
		if err != nil {
			return
		}
		again := append([]byte{formChange}, id[:]...)
		again = append(binary.LittleEndian.AppendUint32(again, uint32(len(globals))), globals...)
		if again = process.AppendPages(again, pages); !bytes.Equal(again, b) {
			t.Fatalf("%d bytes became %d", len(b), len(again))
		}
	})
}
