//go:build lab

package storage

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-project/godwit/storage/disk/disktest"
)

// onDevice opens the device for a moment.
func onDevice(t *testing.T, device string, f func(*os.File) error) {
	t.Helper()
	d, err := os.OpenFile(device, os.O_RDWR, 0)
	must(t, err)
	must(t, f(d), d.Sync(), d.Close())
}

const deviceSize = 8 << 20

// hidingSize is that of a device of which every other stretch is looked at when it is taken.
const hidingSize = 2 * probe * probes

// hide writes something where nobody looks.
func hide(t *testing.T, device string, from, to int64) {
	t.Helper()
	onDevice(t, device, func(f *os.File) (err error) {
		for off := from + probe; off < to && err == nil; off += 2 * probe {
			_, err = f.WriteAt(noise(probe, uint64(off)), off)
		}
		return err
	})
}

// held is what a volume holds.
func held(t *testing.T, v *Volume) []byte {
	t.Helper()
	p := make([]byte, v.Size())
	must(t, v.ReadAt(background, p, 0))
	return p
}

func TestABlockDeviceIsRefusedWithTheReason(t *testing.T) {
	device := disktest.Loop(t, deviceSize)
	s := newSite(t, quick).get()
	plain := filepath.Join(t.TempDir(), "plain")
	must(t, os.WriteFile(plain, make([]byte, deviceSize), 0o600))
	refused := func(spec Spec, of error, says string) {
		t.Helper()
		v, err := s.Create(background, spec, 1)
		if v != nil || !errors.Is(err, of) || !strings.Contains(err.Error(), says) {
			t.Errorf("want %q, got %v", says, err)
		}
	}
	refused(Spec{Name: "a", Size: 4096, Device: "loop0"}, ErrDevice, "not absolute")
	refused(Spec{Name: "a", Size: 4096, Device: plain}, ErrDevice, "no block device")
	refused(Spec{Name: "a", Size: 4096, Device: "/dev/null"}, ErrDevice, "no block device")
	refused(Spec{Name: "a", Size: 4096, Device: "/dev/does-not-exist"}, ErrDevice, "not there")
	refused(Spec{Name: "a", Size: deviceSize + 4096, Device: device}, ErrDevice, "has 8388608 bytes, the volume needs 8392704")

	taken, err := os.OpenFile(device, os.O_RDWR|unix.O_EXCL, 0) // as a mount does
	must(t, err)
	refused(Spec{Name: "a", Size: 4096, Device: device}, ErrDevice, "it is in use")
	must(t, taken.Close())

	_, err = s.Create(background, Spec{Name: "b", Size: 4096, Device: device}, 1)
	must(t, err)
	other := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(device, other))
	refused(Spec{Name: "a", Size: 4096, Device: other}, ErrDevice, "volume b lies on it")
	refused(Spec{Name: "b", Size: 4096}, ErrExists, "delete that first")
	must(t, s.Delete(background, "b", 1))

	const middle = deviceSize/2 + 100
	onDevice(t, device, func(f *os.File) error { _, err := f.WriteAt([]byte("somebody's"), middle); return err })
	refused(Spec{Name: "a", Size: 4096, Device: device, Overwrite: true}, ErrNotBlank, "something at byte 4194404")
	onDevice(t, device, func(f *os.File) error { _, err := f.WriteAt(make([]byte, 10), middle); return err })
	onDevice(t, device, func(f *os.File) error { _, err := f.WriteAt([]byte("somebody's"), deviceSize-4096); return err })
	refused(Spec{Name: "a", Size: 4096, Device: device, Overwrite: true}, ErrNotBlank, "wipefs")
	if _, err := s.CreateReplica(background, Spec{Name: "a", Size: 4096, Device: device}, 1); !errors.Is(err, ErrNotBlank) {
		t.Errorf("a replica over somebody's data: %v", err)
	}
	if entries, err := os.ReadDir(s.dir); err != nil || len(entries) != 1 {
		t.Errorf("what was refused has left something: %v, %v", entries, err)
	}
	p := make([]byte, 10)
	onDevice(t, device, func(f *os.File) error { _, err := f.ReadAt(p, deviceSize-4096); return err })
	if string(p) != "somebody's" {
		t.Errorf("somebody's data are %q", p)
	}
}

func TestAVolumeOnABlockDeviceTakesWhatIsThereAndLeavesItThere(t *testing.T) {
	device := disktest.Loop(t, deviceSize)
	content := noise(deviceSize, 1)
	onDevice(t, device, func(f *os.File) error { _, err := f.WriteAt(content, 0); return err })
	west := newSite(t, quick)
	const size = deviceSize - 1<<20
	v, err := west.get().Create(background, Spec{Name: "shop.root", Size: size, Device: device}, 1)
	must(t, err)
	if st := v.Status(); st.Path != device || !st.Device || st.Size != size {
		t.Errorf("status %+v", st)
	}
	if !bytes.Equal(held(t, v), content[:size]) {
		t.Error("the volume is not what the device held")
	}
	write(t, v, 4096, "written")
	copy(content[4096:], "written")
	west.restart()
	v = west.volume("shop.root")
	if !bytes.Equal(held(t, v), content[:size]) {
		t.Error("after a restart the volume is not what it was")
	}
	if err := west.get().Grow(background, "shop.root", 2*deviceSize); !errors.Is(err, ErrNoSpace) {
		t.Errorf("grown beyond its device: %v", err)
	}
	must(t, west.get().Grow(background, "shop.root", deviceSize))
	clear(content[size:])
	if !bytes.Equal(held(t, west.volume("shop.root")), content) {
		t.Error("what has grown is not zeroes behind what was there")
	}
	must(t, west.get().Delete(background, "shop.root", 1))
	left, err := os.ReadFile(device)
	if err != nil || !bytes.Equal(left, content) {
		t.Errorf("deletion has changed what is on the device: %v", err)
	}
	// It was the primary: nothing is written over that, unless somebody says so by emptying it.
	if _, err := west.get().CreateReplica(background, Spec{Name: "shop.root", Size: size, Device: device}, 2); !errors.Is(err, ErrNotBlank) {
		t.Errorf("a replica over what a primary left: %v", err)
	}
}

func TestADeviceThatHasBecomeAnotherIsNotUsed(t *testing.T) {
	one, other := disktest.Loop(t, deviceSize), disktest.Loop(t, deviceSize)
	link := filepath.Join(t.TempDir(), "disk")
	must(t, os.Symlink(one, link))
	west := newSite(t, quick)
	_, err := west.get().Create(background, Spec{Name: "shop.root", Size: deviceSize, Device: link}, 1)
	must(t, err)
	must(t, os.Remove(link), os.Symlink(other, link))
	west.restart()
	if _, err := west.get().Volume("shop.root"); err == nil || !strings.Contains(err.Error(), "devices have changed their names") {
		t.Errorf("another device passes for the volume's: %v", err)
	}
	if st := west.get().Volumes(); len(st) != 1 || st[0].Path != link || st[0].Err == "" {
		t.Errorf("status %+v", st)
	}
	if _, err := west.get().Create(background, Spec{Name: "shop.log", Size: deviceSize, Device: link}, 1); !errors.Is(err, ErrDevice) {
		t.Errorf("the path of a volume that is out of reach is another's: %v", err)
	}
	must(t, os.Remove(link), os.Symlink(one, link))
	west.restart()
	if _, err := west.get().Volume("shop.root"); err != nil {
		t.Errorf("the old device is back: %v", err)
	}

	// One whose device is gone for good can be deleted: there is nothing to be looked at.
	must(t, os.Remove(link))
	west.restart()
	if err := west.get().Delete(background, "shop.root", 0); !errors.Is(err, ErrStale) {
		t.Errorf("deleted by an old message: %v", err)
	}
	must(t, west.get().Delete(background, "shop.root", 1))
	west.restart()
	if st := west.get().Volumes(); len(st) != 0 {
		t.Errorf("it is still there: %+v", st)
	}
}

// TestAStandbyOnBlockDevicesIsItsGroupsEqual has devices that hold something in their middle, where nobody looks when they are taken:
// what the primary has not is not there either.
func TestAStandbyOnBlockDevicesIsItsGroupsEqual(t *testing.T) {
	near, far, farLog := disktest.Loop(t, hidingSize), disktest.Loop(t, hidingSize), disktest.Loop(t, hidingSize)
	for _, device := range []string{near, far, farLog} {
		hide(t, device, 2<<20, 6<<20)
	}
	west, east := newSite(t, quick), newSite(t, quick)
	specs := func(root, log string) []Spec {
		return []Spec{{Name: "shop.root", Size: deviceSize - 4096, Device: root}, {Name: "shop.log", Size: 7 << 20, Device: log}}
	}
	for _, spec := range specs(near, "") { // the log is a file, mostly holes, and has its replica on a device
		_, err := west.get().Create(background, spec, 1)
		must(t, err)
	}
	ctx := within(t, time.Minute)
	root := west.volume("shop.root")
	must(t, client{root}.Trim(ctx, 2<<20, 3<<20, false)) // the last third stays
	write(t, root, 0, "first")
	write(t, west.volume("shop.log"), 4096, "log")
	b, err := east.get().CreateStandby(ctx, "shop", specs(far, farLog), 1)
	must(t, err)
	g, err := west.get().Protect(ctx, groupSpec(ModeSync, Limits{}), east.standbyDialer("shop", nil))
	must(t, err, g.Drain(ctx))
	write(t, root, 8192, "second")
	must(t, g.Drain(ctx), b.journal.Settle())
	same := func() {
		t.Helper()
		for _, name := range []string{"shop.root", "shop.log"} {
			if !bytes.Equal(held(t, west.volume(name)), held(t, east.volume(name))) {
				t.Errorf("volume %s differs", name)
			}
		}
	}
	same()
	east.restart() // and it is found again, by what it promised
	_, err = east.get().CreateStandby(ctx, "shop", specs(far, farLog), 1)
	must(t, err)
	write(t, root, 12288, "third")
	must(t, g.Drain(ctx), east.standbyOf(t).journal.Settle())
	same()

	// The replica is given up, and made anew: what it left may be written over, by one of its name, until somebody else was there.
	must(t, east.get().DeleteStandby(ctx, "shop", 2))
	hide(t, farLog, 2<<20, 6<<20)
	_, err = east.get().CreateStandby(ctx, "shop", specs(far, farLog), 1)
	must(t, err)
	write(t, root, 16384, "fourth")
	must(t, g.Drain(ctx), east.standbyOf(t).journal.Settle())
	same()
	must(t, east.get().DeleteStandby(ctx, "shop", 3))
	if _, err := east.get().CreateReplica(ctx, Spec{Name: "other", Size: 4096, Device: far}, 4); !errors.Is(err, ErrNotBlank) {
		t.Errorf("another volume's replica: %v", err)
	}
	onDevice(t, far, func(f *os.File) error { _, err := f.WriteAt([]byte("mine"), 512); return err })
	if _, err := east.get().CreateStandby(ctx, "shop", specs(far, farLog), 5); !errors.Is(err, ErrNotBlank) {
		t.Errorf("what somebody has changed since: %v", err)
	}
}

// TestAMovedVolumeIsTheSameOnABlockDevice is what a migration does, there and back.
func TestAMovedVolumeIsTheSameOnABlockDevice(t *testing.T) {
	far := disktest.Loop(t, hidingSize)
	hide(t, far, 4<<20, 5<<20)
	sites := []*site{newSite(t, quick), newSite(t, quick)}
	devices := []string{"", far} // a file, mostly holes, and a device
	spec := func(i int) Spec { return Spec{Name: "v", Size: deviceSize, Device: devices[i]} }
	v, err := sites[0].get().Create(background, spec(0), 1)
	must(t, err)
	write(t, v, 4096, "moved")
	want := held(t, v)
	ctx := within(t, time.Minute)
	for k := range 3 {
		from, to := sites[k%2], sites[(k+1)%2]
		epoch := uint64(k + 2)
		r, err := to.get().CreateReplica(ctx, spec((k+1)%2), epoch)
		must(t, err)
		v := from.volume("v")
		must(t, v.Replicate(ctx, epoch, to.dialer("v", nil)), v.Converged(ctx, nil), v.Synchronize(ctx, epoch), v.Fence(ctx, epoch))
		must(t, r.Drained(ctx, epoch), r.Promote(ctx, epoch), from.get().Delete(ctx, "v", epoch))
		if !bytes.Equal(held(t, to.volume("v")), want) {
			t.Fatalf("move %d: it is not what it was", k+1)
		}
	}
}
