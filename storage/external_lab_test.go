//go:build lab

package storage

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// loopDevice makes a block device, until the test ends.
func loopDevice(t *testing.T, size int64) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making a block device needs root")
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, size)); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device to be had: %v: %s", err, out)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", device).CombinedOutput(); err != nil {
			t.Errorf("detach %s: %v: %s", device, err, out)
		}
	})
	return device
}

func TestABlockDeviceIsAnExternalDisk(t *testing.T) {
	s := newSharing(t)
	s.spec.Path = loopDevice(t, sharedSize)
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
