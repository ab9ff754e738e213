//go:build lab

package acceptance

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godwit-project/godwit/storage/disk/disktest"
)

// onDisk is the service with another disk: what is said of its volume instead of a size.
func (s spec) onDisk(w *world, disk string) string {
	return strings.Replace(s.manifest(w), "size: "+s.volume, disk, 1)
}

type diskView struct {
	Name, Service, Site, Host, Role, Mode, Backing, Phase string
	Lag                                                   int64
}

// writing waits until the guest has made some more writes.
func (w *world) writing(t *testing.T) uint64 {
	t.Helper()
	first := w.acked(t)
	eventually(t, time.Minute, func() string {
		if now := w.acked(t); now < first+50 {
			return fmt.Sprintf("the guest has made %d writes, after %d", now, first)
		}
		return ""
	})
	return w.acked(t)
}

// TestAServiceMovesWithADiskThatBothSitesReach moves one there and back, and fails it over from a host that answers: the disk is
// never copied, and one host uses it at a time.
func TestAServiceMovesWithADiskThatBothSitesReach(t *testing.T) {
	w := up(t, "acc-ext", "--bandwidth", "400mbit")
	path := filepath.Join(t.TempDir(), "shared.raw")
	if err := os.WriteFile(path, make([]byte, 64<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	wrong := shop.onDisk(w, "external: "+filepath.Join(t.TempDir(), "none"))
	if r := w.godwit(t, "apply", "-f", manifest(t, wrong)); r.code != 1 || !strings.Contains(r.err, "cannot be reached") {
		t.Errorf("a disk that is not there: %v", r)
	}
	w.must(t, "delete", "service", service)
	w.must(t, "apply", "-f", manifest(t, shop.onDisk(w, "external: "+path)))
	w.answering(t)
	w.writing(t)
	for _, to := range []string{"east", "west"} {
		p := w.probe(t)
		w.migrate(t, to)
		w.ownedOnce(t)
		m := w.migration(t, "")
		report := p.stop(t)
		t.Logf("EXTERNAL | %s: blackout %.0f ms, %s, %d bytes of disk", to, m.BlackoutMs, gap(report), m.DiskBytes)
		w.verify(t, report.LastAcked)
		all := get[listOf[diskView]](t, w, "volumes").Items
		if len(all) != 1 || all[0].Site != to || all[0].Backing != "external" || all[0].Mode != "external" || all[0].Lag != 0 || m.DiskBytes != 0 {
			t.Errorf("after the move to %s: %+v, %d bytes of disk were sent", to, all, m.DiskBytes)
		}
	}
	if r := w.godwit(t, "failover", service, "--to", "east"); r.code != 1 || !strings.Contains(r.err, "godwit migrate") {
		t.Errorf("a failover of a service that is well: %v", r)
	}
	seen := w.writing(t)
	t.Log(w.must(t, "failover", service, "--to", "east", "--force"))
	w.answering(t)
	w.ownedOnce(t)
	last := uint64(0)
	for _, s := range stamps(t, path) {
		last = max(last, s[1])
	}
	if last < seen {
		t.Errorf("a client saw %d writes, the disk has %d", seen, last)
	}
	w.must(t, "delete", "service", service)
	if st, err := os.Stat(path); err != nil || st.Size() != 64<<20 {
		t.Errorf("the disk is not there any more: %v", err)
	}
}

// TestAVolumeOutlivesTheServicesThatUseIt makes one by itself, has a service take it to the other site, and finds it there.
func TestAVolumeOutlivesTheServicesThatUseIt(t *testing.T) {
	w := up(t, "acc-alone", "--bandwidth", "400mbit")
	w.must(t, "volume", "create", "archive", "--size", "32MiB", "--site", "west")
	w.must(t, "volume", "resize", "archive", "64MiB")
	text := shop.onDisk(w, "volume: archive")
	w.must(t, "apply", "-f", manifest(t, text))
	w.answering(t)
	seen := w.writing(t)
	w.must(t, "volume", "verify", "archive", "--local")
	if r := w.godwit(t, "delete", "volume", "archive"); r.code != 1 || !strings.Contains(r.err, "in use by service shop") {
		t.Errorf("it is in use: %v", r)
	}
	w.migrate(t, "east")
	w.ownedOnce(t) // what the old host held is told of until its next heartbeat
	w.verify(t, seen)
	seen = w.acked(t)
	w.must(t, "delete", "service", service)
	all := get[listOf[diskView]](t, w, "volumes").Items
	if len(all) != 1 || all[0].Name != "archive" || all[0].Site != "east" || all[0].Service != "" || all[0].Phase != "ready" {
		t.Fatalf("its service is deleted, and it is %+v", all)
	}
	file := filepath.Join(t.TempDir(), "archive.raw")
	if out := w.must(t, "volume", "export", "archive", "--to", file); !strings.Contains(out, "64 MiB, from host east-host") {
		t.Errorf("exported: %q", out)
	}
	last := uint64(0)
	for _, s := range stamps(t, file) {
		last = max(last, s[1])
	}
	if last < seen {
		t.Errorf("a client saw %d writes, the volume has %d", seen, last)
	}
	if r := w.godwit(t, "apply", "-f", manifest(t, text)); r.code != 1 || !strings.Contains(r.err, "volume archive is at site east") {
		t.Errorf("started where it is not: %v", r)
	}
	w.must(t, "apply", "-f", manifest(t, strings.Replace(text, "site: west", "site: east", 1)))
	w.answering(t)
	w.must(t, "delete", "service", service, "--volumes")
	eventually(t, 30*time.Second, func() string { // the host's next heartbeat tells of it
		if all := get[listOf[diskView]](t, w, "volumes").Items; len(all) != 0 {
			return fmt.Sprintf("left: %+v", all)
		}
		return ""
	})
}

// TestAGuestWhoseDiskIsFullIsStoppedUntilThereIsRoom fills the file system below an external disk, and makes it larger.
func TestAGuestWhoseDiskIsFullIsStoppedUntilThereIsRoom(t *testing.T) {
	w := up(t, "acc-full", "--bandwidth", "400mbit")
	small := filepath.Join(t.TempDir(), "small")
	if err := os.Mkdir(small, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("no small file system can be made: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(small, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(small, "disk.raw")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 64<<20)); err != nil {
		t.Fatal(err)
	}
	w.must(t, "apply", "-f", manifest(t, shop.onDisk(w, "external: "+path)))
	eventually(t, 2*time.Minute, func() string {
		service := get[struct{ Status struct{ Message string } }](t, w, "service", service)
		if !strings.Contains(service.Status.Message, "is stopped, and goes on by itself") {
			return fmt.Sprintf("the guest is not stopped: %+v", service)
		}
		return ""
	})
	if out := w.must(t, "get", "volumes"); !strings.Contains(out, "alert: shop.data on west-host: the external disk has no room") {
		t.Errorf("the alert is missing: %s", out)
	}
	if err := syscall.Mount("tmpfs", small, "tmpfs", syscall.MS_REMOUNT, "size=128m"); err != nil {
		t.Fatal(err)
	}
	w.answering(t)
	w.verify(t, w.writing(t))
	if s := get[struct{ Status struct{ Message string } }](t, w, "service", service); s.Status.Message != "" {
		t.Errorf("it goes on, and is said to be stopped: %+v", s)
	}
}

// TestAServiceLivesOnBlockDevices has one on a device at each site, replicated: it moves, is failed over, and leaves the devices their
// content. A volume that stands alone lies on one, too.
func TestAServiceLivesOnBlockDevices(t *testing.T) {
	const size = 64 << 20
	west, east, small := disktest.Loop(t, size), disktest.Loop(t, size+1<<20), disktest.Loop(t, 1<<20)
	w := up(t, "acc-dev", "--bandwidth", "400mbit")
	on := func(device string) string { return shop.onDisk(w, "size: 64MiB, device: "+device) }
	plain := filepath.Join(t.TempDir(), "plain")
	taken, err := os.OpenFile(west, os.O_RDWR|syscall.O_EXCL, 0) // as a mount does
	if err := errors.Join(err, os.WriteFile(plain, make([]byte, size), 0o600)); err != nil {
		t.Fatal(err)
	}
	for device, says := range map[string]string{plain: "it is no block device", small: "has 1048576 bytes, the volume needs 67108864", west: "it is in use", "/dev/none": "it is not there"} {
		if r := w.godwit(t, "apply", "-f", manifest(t, on(device))); r.code != 1 || !strings.Contains(r.err, says) {
			t.Errorf("want %q: %v", says, r)
		}
		w.must(t, "delete", "service", service)
	}
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	text := on(fmt.Sprintf("{west: %s, east: %s}", west, east)) + "storage: {replicateTo: east, mode: sync}\n"
	w.must(t, "apply", "-f", manifest(t, text))
	w.answering(t)
	w.inStep(t, "west", "sync")
	all := get[listOf[diskView]](t, w, "volumes").Items
	if len(all) != 2 || all[0].Backing != "device" || all[1].Backing != "device" {
		t.Errorf("volumes: %+v", all)
	}
	for _, to := range []string{"east", "west"} {
		seen := w.writing(t)
		w.migrate(t, to)
		w.verify(t, seen)
		w.inStep(t, to, "sync")
	}
	seen := w.writing(t)
	t.Log(w.must(t, "failover", service, "--to", "east", "--force"))
	w.answering(t)
	w.inStep(t, "east", "sync")
	w.writing(t)
	w.must(t, "delete", "service", service)
	last := uint64(0)
	for _, s := range stamps(t, east) {
		last = max(last, s[1])
	}
	if last < seen {
		t.Errorf("a client saw %d writes, the device has %d", seen, last)
	}

	if r := w.godwit(t, "volume", "create", "archive", "--size", "1MiB", "--site", "west", "--device", west, "--image", plain); r.code != 1 || !strings.Contains(r.err, "is not empty") {
		t.Errorf("an image over what is on a device: %v", r)
	}
	w.must(t, "delete", "volume", "archive")
	w.must(t, "volume", "create", "archive", "--size", "64MiB", "--site", "east", "--device", east)
	w.must(t, "apply", "-f", manifest(t, strings.Replace(shop.onDisk(w, "volume: archive"), "site: west", "site: east", 1)))
	w.answering(t)
	w.verify(t, w.writing(t))
	w.must(t, "delete", "service", service, "--volumes")
}
