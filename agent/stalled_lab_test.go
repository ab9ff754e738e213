//go:build lab

package agent

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/storage"
)

// small makes a file system of 24 MiB.
func small(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=24m"); err != nil {
		t.Skipf("a small file system takes root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill leaves no room in a folder's file system.
func fill(dir string) {
	filler := filepath.Join(dir, "filler")
	for size := 1 << 20; size >= 4096; size /= 2 {
		for os.WriteFile(filler, make([]byte, size), 0o600) == nil {
			filler += "-"
		}
	}
}

// A host's full disk keeps those guests waiting that have found it full, and no others: not one whose own disk is a block device
// or an external one, and not one whose write has failed for another reason.
func TestOnlyWhoFoundTheHostsDiskFullWaitsForRoomOnIt(t *testing.T) {
	dir := small(t)
	e := openEnd(t, dir)
	for name, spec := range map[string]*pb.ServiceSpec{
		"full":     {Name: "full", Volumes: []*pb.VolumeSpec{{Name: "root", Size: 1 << 20}}},
		"other":    {Name: "other", Volumes: []*pb.VolumeSpec{{Name: "root", Size: 1 << 20}}},
		"external": {Name: "external", Volumes: []*pb.VolumeSpec{{Name: "root", External: "/nowhere"}}},
	} {
		raw, err := protojson.Marshal(spec)
		if err == nil {
			err = e.book.change(name, true, func(e *entry) error { e.Home, e.Spec = 1, raw; return nil })
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, spec := range []storage.Spec{{Name: "full.root", Size: 1 << 20}, {Name: "other.root", Size: 1 << 20}} {
		if _, err := e.store.Create(t.Context(), spec, 1); err != nil {
			t.Fatal(err)
		}
	}
	wants := func(when string, want map[string]bool) {
		t.Helper()
		for service, want := range want {
			if got, err := e.short(service); err != nil || got != want {
				t.Errorf("%s, %s waits for room: %v, %v", when, service, got, err)
			}
		}
	}
	wants("before anything is written", map[string]bool{"full": false, "other": false, "external": false})
	fill(dir)
	v, err := e.store.Volume("full.root")
	if err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "image.raw")
	if err := os.WriteFile(image, random(1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := v.Import(t.Context(), image, nil); err == nil {
		t.Fatal("a megabyte went onto a full file system")
	}
	wants("when the disk is full", map[string]bool{"full": true, "other": false, "external": false})
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=128m"); err != nil {
		t.Fatal(err)
	}
	wants("when there is room", map[string]bool{"full": false, "other": false, "external": false})
}

// A replica whose disk is full is not written to any more, and the guest at the other end is told of nothing: no write of its fails, so QEMU
// does not stop it, and nobody waits for room at either end.
func TestAReplicaWithoutRoomStopsNobody(t *testing.T) {
	for _, mode := range []string{"async", "flush", "sync"} {
		t.Run(mode, func(t *testing.T) {
			p := newPair(t)
			dir := small(t)
			p.there = openEnd(t, dir)
			p.service.Storage.Mode = mode
			g := p.protected(p.here, p.there, 5)
			p.here.guest("shop.root", "write -P 1 0 1M", "flush")
			fill(dir)
			p.here.guest("shop.root", "write -P 2 1M 7M", "flush", "write -P 3 0 1M", "flush")
			for deadline := time.Now().Add(soon); ; time.Sleep(10 * time.Millisecond) {
				st := g.Status()
				if st.Mode == "async" && st.Lag > 0 && st.Err != "" {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("the replica has taken it: %+v", st)
				}
			}
			v, err := p.here.store.Volume("shop.root")
			if err != nil {
				t.Fatal(err)
			}
			if all := v.Alerts(); len(all) != 0 {
				t.Errorf("at the owner's end: %v", all)
			}
		})
	}
}
