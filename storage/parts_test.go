package storage

import (
	"io"
	"os"
	"testing"

	"github.com/godwit-project/godwit/storage/wire"
)

func newTestReader(t *testing.T, r io.Reader) (*wire.Reader, error) {
	t.Helper()
	rd, err := wire.NewReader(r)
	if err == nil {
		t.Cleanup(rd.Close)
	}
	return rd, err
}

// rot flips a bit on the medium, past the volume.
func rot(t *testing.T, v *Volume, off int64) {
	t.Helper()
	f, err := os.OpenFile(v.disk.Path(), os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	p := make([]byte, 1)
	_, err = f.ReadAt(p, off)
	must(t, err)
	p[0] ^= 1
	_, err = f.WriteAt(p, off)
	must(t, err)
}

func TestIsZero(t *testing.T) {
	p := make([]byte, 4096)
	if !isZero(p) || !isZero(nil) {
		t.Error("zeroes are not seen")
	}
	for _, i := range []int{0, 1, 4095} {
		p[i] = 1
		if isZero(p) {
			t.Errorf("a one at %d is not seen", i)
		}
		p[i] = 0
	}
}
