package storage

import (
	"io"
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
