package journal

import (
	"math/rand/v2"
	"testing"
)

// FuzzLog opens a replica whose log holds whatever a broken disk may give back: a valid log, with bytes changed.
func FuzzLog(f *testing.F) {
	f.Add([]byte{0, 60, 1, 9, 0, 200, 255, 3})
	f.Add([]byte{0, 4, 4})
	f.Fuzz(func(t *testing.T, damage []byte) {
		m := newModel(t, 4)
		m.images[0] = m.current.clone()
		if err := m.open(true); err != nil {
			t.Fatal(err)
		}
		for range 150 {
			_ = m.act()
		}
		for _, file := range m.fs.names {
			for i := 0; i+2 < len(damage) && len(file.content) > 0; i += 3 {
				file.content[(int(damage[i])<<8|int(damage[i+1]))%len(file.content)] ^= damage[i+2]
			}
		}
		m.rng = rand.New(rand.NewPCG(1, 1))
		if m.open(true) != nil {
			return
		}
		_ = m.j.Settle()
		if _, err := m.j.Cuts(); err != nil {
			t.Skip()
		}
	})
}
