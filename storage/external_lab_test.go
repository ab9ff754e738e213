//go:build lab

package storage

import (
	"bytes"
	"testing"

	"github.com/godwit-project/godwit/storage/disk/disktest"
)

func TestABlockDeviceIsAnExternalDisk(t *testing.T) {
	s := newSharing(t)
	s.spec.Path = disktest.Loop(t, sharedSize)
	a := s.use("a", 5)
	if a.Size() != sharedSize {
		t.Fatalf("its size is %d", a.Size())
	}
	content := bytes.Repeat([]byte("disk"), 30000)
	written(t, a, 4096, content)
	if err := (externalClient{a}).Zero(t.Context(), 8192, 4096, true, true); err != nil {
		t.Fatal(err)
	}
	if err := (externalClient{a}).Trim(t.Context(), 16384, 8192, false); err != nil {
		t.Fatal(err)
	}
	clear(content[4096:8192])
	clear(content[12288:20480])
	b := s.await("b", 9)
	if err := a.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	reads(t, b, 4096, content)
	if err := a.Fence(t.Context(), 9); err != nil {
		t.Fatal(err)
	}
	if err := b.Promote(t.Context(), 9); err != nil {
		t.Fatal(err)
	}
	reads(t, b, 4096, content)
	written(t, b, 0, content)
	parked(t, a)
}
