package disk

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/godwit-project/godwit/storage/nbd"
)

// tool runs a peer's program; the test is skipped where it is missing.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed", name)
	}
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// served makes a disk with checksums and serves it; the path of the disk and its URI.
func served(t *testing.T, size int64, readOnly bool) (d *Disk, uri string) {
	t.Helper()
	return servedWith(t, size, Options{Checksums: true, ReadOnly: readOnly})
}

func servedWith(t *testing.T, size int64, opts Options) (d *Disk, uri string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw-disk-*") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "disk.raw")
	if err := Create(path, size, Options{Checksums: opts.Checksums}); err != nil {
		t.Fatal(err)
	}
	d, err = Open(path, opts)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	s := nbd.Start(ln, d.Backend(), nbd.Options{Name: "disk", Description: "a test's", ReadOnly: opts.ReadOnly})
	t.Cleanup(func() {
		_ = s.Close()
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		_ = os.RemoveAll(dir)
	})
	return d, "nbd+unix:///disk?socket=" + filepath.Join(dir, "s")
}

// sound demands that every block matches its checksum.
func sound(t *testing.T, d *Disk) {
	t.Helper()
	report, err := d.Verify(context.Background(), 0, d.Size(), nil)
	if err != nil || len(report.Bad)+len(report.Unverified) > 0 {
		t.Fatalf("%+v, %v", report, err)
	}
}

func wants(t *testing.T, out string, all ...string) {
	t.Helper()
	for _, want := range all {
		if !strings.Contains(out, want) {
			t.Errorf("want %q in\n%s", want, out)
		}
	}
}

func TestNbdinfoSeesADisk(t *testing.T) {
	_, uri := served(t, 8<<20, false)
	wants(t, tool(t, "nbdinfo", uri), "can_fast_zero: true", "can_cache: true", "can_df: true", "description: a test's", "is_read_only: false")
	_, uri = served(t, 8<<20, true)
	wants(t, tool(t, "nbdinfo", uri), "is_read_only: true")
}

func TestQemuImgConvertsBothWaysAndSeesHoles(t *testing.T) {
	d, uri := served(t, 8<<20, false)
	dir := t.TempDir()
	raw, qcow, back := filepath.Join(dir, "in.raw"), filepath.Join(dir, "in.qcow2"), filepath.Join(dir, "back.raw")
	want := append(append(fill(1, 1<<20), make([]byte, 6<<20)...), fill(2, 1<<20)...)
	if err := os.WriteFile(raw, want, 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow)
	tool(t, "qemu-img", "convert", "-n", "-f", "qcow2", "-O", "raw", qcow, uri)
	tool(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", raw, uri)
	tool(t, "qemu-img", "convert", "-f", "raw", "-O", "raw", uri, back)
	if got, _ := os.ReadFile(back); !bytes.Equal(got, want) {
		t.Fatal("what came back differs")
	}
	if out := tool(t, "nbdinfo", "--map", uri); strings.Count(out, "data") != 2 || strings.Count(out, "hole") != 1 {
		t.Errorf("the map should be data, hole, data:\n%s", out)
	}
	sound(t, d)
}

func TestNbdcopyOverSeveralConnections(t *testing.T) {
	d, uri := served(t, 16<<20, false)
	in, out := filepath.Join(t.TempDir(), "in"), filepath.Join(t.TempDir(), "out")
	want := fill(5, 16<<20)
	clear(want[3<<20 : 9<<20])
	if err := os.WriteFile(in, want, 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "nbdcopy", "--flush", "--connections=4", "--requests=64", in, uri)
	tool(t, "nbdcopy", "--connections=4", "--requests=64", uri, out)
	if got, _ := os.ReadFile(out); !bytes.Equal(got, want) {
		t.Fatal("the copy differs")
	}
	sound(t, d)
}

func TestQemuIoZeroesTrimsAndWritesThrough(t *testing.T) {
	d, uri := served(t, 8<<20, false)
	out := tool(t, "qemu-io", "-f", "raw", "-t", "none",
		"-c", "write -P 7 0 2M", "-c", "write -z -n 4096 64k", "-c", "write -z 1000 3000", "-c", "write -z -u 512k 64k",
		"-c", "discard 256k 64k", "-c", "write -f -P 8 1M 64k", "-c", "flush", "-c", "read -P 0 4k 64k", "-c", "read -P 0 1000 3000",
		"-c", "read -P 7 100 900", "-c", "read -P 0 256k 64k", "-c", "read -P 8 1M 64k", "-c", "write -P 3 4194001 100", "-c", "read -P 3 4194001 100", uri)
	if strings.Contains(out, "failed") {
		t.Fatal(out)
	}
	sound(t, d)
}

func TestAReadOnlyExportRefusesWrites(t *testing.T) {
	_, uri := served(t, 1<<20, true)
	if _, err := exec.LookPath("qemu-io"); err != nil {
		t.Skip("qemu-io is not installed")
	}
	out, err := exec.Command("qemu-io", "-f", "raw", "-c", "write 0 4k", uri).CombinedOutput()
	if err == nil {
		t.Fatalf("it was written:\n%s", out)
	}
	wants(t, tool(t, "qemu-io", "-r", "-f", "raw", "-c", "read -P 0 0 4k", uri), "read 4096/4096")
}

func TestFioVerifiesWhatItWrote(t *testing.T) {
	d, uri := served(t, 16<<20, false)
	if _, err := exec.LookPath("fio"); err == nil {
		if engines := tool(t, "fio", "--enghelp"); !slices.Contains(strings.Fields(engines), "nbd") {
			t.Skip("fio has no nbd engine")
		}
	}
	tool(t, "fio", "--name=x", "--ioengine=nbd", "--aux-path="+t.TempDir(), "--uri="+uri, "--rw=randwrite", "--bsrange=512-64k", "--size=16M", "--iodepth=32",
		"--verify=crc32c", "--verify_state_save=0", "--fsync=32", "--output=/dev/null")
	sound(t, d)
}

// Without checksums, what is large goes by way of pipes.
func TestFioVerifiesWhatItWroteWithoutChecksums(t *testing.T) {
	_, uri := servedWith(t, 64<<20, Options{})
	tool(t, "fio", "--name=x", "--ioengine=nbd", "--aux-path="+t.TempDir(), "--uri="+uri, "--rw=randrw", "--bsrange=4k-1M", "--size=64M", "--iodepth=16",
		"--verify=crc32c", "--verify_state_save=0", "--fsync=32", "--output=/dev/null")
}

func TestNbdshReadsAndWrites(t *testing.T) {
	_, uri := served(t, 1<<20, false)
	t.Setenv("PATH", "/usr/bin:/bin:"+os.Getenv("PATH")) // it runs the first python3, and its module belongs to the system's
	tool(t, "nbdsh", "-u", uri, "-c", "h.pwrite(b'x'*4096, 0); h.flush(); assert h.pread(4096, 0) == b'x'*4096; h.zero(4096, 0, 16); h.cache(4096, 0)")
}

// A flipped bit must reach the client as an error of that request, and of no other.
func TestACorruptBlockIsAnErrorToTheClient(t *testing.T) {
	d, uri := served(t, 1<<20, false)
	mustWrite(t, d, 0, fill(1, 1<<20))
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	flip(t, d.path, 8*BlockSize+3)
	if _, err := exec.LookPath("qemu-io"); err != nil {
		t.Skip("qemu-io is not installed")
	}
	out, _ := exec.Command("qemu-io", "-f", "raw", "-c", "read 32k 4k", "-c", "read 36k 4k", uri).CombinedOutput()
	wants(t, string(out), "read failed: Input/output error", "read 4096/4096")
}
