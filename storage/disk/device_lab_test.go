//go:build lab

package disk

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/godwit-project/godwit/storage/disk/disktest"
)

func TestABlockDeviceIsADisk(t *testing.T) {
	const size = 16 << 20
	device := disktest.Loop(t, size)
	opts := Options{Checksums: true, Upkeep: -1, State: filepath.Join(t.TempDir(), "state")}
	d := reopen(t, device, opts)
	if d.Size() != size {
		t.Fatalf("its size is %d", d.Size())
	}
	if err := d.Upkeep(context.Background()); err != nil {
		t.Fatal(err)
	}
	want := fill(1, size)
	mustWrite(t, d, 0, want)
	for _, r := range []Range{{1 << 20, 1 << 20}, {4<<20 + 100, 70000}, {9 << 20, 4096}} {
		for _, keep := range []bool{false, true} {
			mustWrite(t, d, r.Off, want[r.Off:r.Off+r.Length])
			if err := d.Zero(r.Off, r.Length, keep); err != nil {
				t.Fatal(err)
			}
		}
		clear(want[r.Off : r.Off+r.Length])
	}
	mustRead(t, d, 0, want)
	sound(t, d)
	if err := d.Resize(2 * size); err == nil {
		t.Error("a device has grown")
	}
	if _, err := Open(device, Options{Upkeep: -1}); err == nil {
		t.Error("opened twice")
	}
	close1(t, d)
	d = reopen(t, device, opts)
	got := make([]byte, size)
	if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("after reopening: %v", err)
	}
	sound(t, d)
	close1(t, d)
}

func TestADiskIsThePartOfABlockDeviceThatItIsToldToBe(t *testing.T) {
	const size, room = 4 << 20, 12 << 20
	device := disktest.Loop(t, room)
	state := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(device, fill(9, room), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(device, Options{Checksums: true, Upkeep: -1, State: state, Size: room + 4096}); err == nil {
		t.Fatal("a device is larger than it is")
	}
	opts := Options{Checksums: true, Upkeep: -1, State: state, Size: size}
	d := reopen(t, device, opts)
	if err := d.Upkeep(context.Background()); err != nil || d.Size() != size {
		t.Fatalf("its size is %d, %v", d.Size(), err)
	}
	mustRead(t, d, 0, fill(9, room)[:size])
	if err := d.Resize(2 * room); err == nil {
		t.Error("it has outgrown its device")
	}
	if err := d.Resize(size / 2); err == nil {
		t.Error("it has shrunk")
	}
	if err := d.Resize(2 * size); err != nil {
		t.Fatal(err)
	}
	mustRead(t, d, 0, fill(9, room)[:size])
	mustRead(t, d, size, make([]byte, size))
	sound(t, d)
	close1(t, d)
	rest, err := os.ReadFile(device)
	if err != nil || !bytes.Equal(rest[2*size:], fill(9, room)[2*size:]) {
		t.Fatalf("what is behind the disk has changed: %v", err)
	}
	opts.Size = 2 * size
	d = reopen(t, device, opts)
	sound(t, d)
	close1(t, d)
}
