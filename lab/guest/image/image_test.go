package image

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// fakeModule is the smallest ELF object with a .modinfo section.
func fakeModule(depends string) []byte {
	const header, sectionHeader = 64, 64
	info := []byte("license=GPL\x00depends=" + depends + "\x00name=x\x00")
	names := []byte("\x00.modinfo\x00.shstrtab\x00")
	var b bytes.Buffer
	put := func(values ...any) {
		for _, v := range values {
			binary.Write(&b, binary.LittleEndian, v)
		}
	}
	b.WriteString("\x7fELF\x02\x01\x01")
	b.Write(make([]byte, 9))
	at := uint64(header + len(info) + len(names))
	put(uint16(1), uint16(62), uint32(1), uint64(0), uint64(0), at, uint32(0))
	put(uint16(header), uint16(0), uint16(0), uint16(sectionHeader), uint16(3), uint16(2))
	b.Write(info)
	b.Write(names)
	section := func(name, kind uint32, offset, size int) {
		put(name, kind, uint64(0), uint64(0), uint64(offset), uint64(size), uint32(0), uint32(0), uint64(1), uint64(0))
	}
	section(0, 0, 0, 0)
	section(1, 1, header, len(info))
	section(10, 3, header+len(info), len(names))
	return b.Bytes()
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

func gzipped(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(b)
	w.Close()
	return out.Bytes()
}

func zstandard(t *testing.T, b []byte) []byte {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(b, nil)
}

// kernel lays out modules that need each other, compressed in different ways.
func kernel(t *testing.T) string {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "kernel/virtio/virtio_ring.ko"), fakeModule("virtio"))
	write(t, filepath.Join(dir, "kernel/virtio/virtio.ko.gz"), gzipped(fakeModule("")))
	write(t, filepath.Join(dir, "kernel/virtio/virtio_pci.ko.zst"), zstandard(t, fakeModule("virtio,virtio_ring")))
	write(t, filepath.Join(dir, "kernel/net/net-failover.ko"), fakeModule(""))
	write(t, filepath.Join(dir, "kernel/net/virtio_net.ko"), fakeModule("virtio_ring,net-failover"))
	write(t, filepath.Join(dir, "kernel/block/virtio_blk.ko"), fakeModule("virtio_ring"))
	write(t, filepath.Join(dir, "modules.builtin"), []byte("kernel/net/ipv4.ko\n"))
	return dir
}

func TestModulesComeAfterWhatTheyNeed(t *testing.T) {
	modules, err := Resolve(kernel(t), Wanted())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range modules {
		names = append(names, m.Name)
		if !bytes.HasPrefix(m.Code, []byte("\x7fELF")) {
			t.Errorf("%s was not decompressed", m.Name)
		}
	}
	want := []string{"virtio", "virtio_ring", "virtio_pci", "net_failover", "virtio_net", "virtio_blk"}
	if !slices.Equal(names, want) {
		t.Errorf("got %v, want %v", names, want)
	}
}

func TestMissingModuleIsNamedWithWhatNeedsIt(t *testing.T) {
	dir := kernel(t)
	if err := os.Remove(filepath.Join(dir, "kernel/virtio/virtio.ko.gz")); err != nil {
		t.Fatal(err)
	}
	_, err := Resolve(dir, []string{"virtio_blk"})
	want := "needed by virtio_blk: needed by virtio_ring: kernel module virtio: not among the 5 modules of this kernel"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestImageHoldsTheProgramTheModulesAndTheirOrder(t *testing.T) {
	program := filepath.Join(t.TempDir(), "init")
	write(t, program, []byte("the program"))
	dir := kernel(t)
	var first, second bytes.Buffer
	for _, w := range []io.Writer{&first, &second} {
		if err := Build(w, dir, program); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("two builds differ")
	}
	files := unpack(t, &first)
	for name, want := range map[string]string{
		"init":          "100755 the program",
		"modules/order": "100644 virtio.ko\nvirtio_ring.ko\nvirtio_pci.ko\nnet_failover.ko\nvirtio_net.ko\nvirtio_blk.ko\n",
		"dev/console":   "20600 ",
		"proc":          "40755 ",
	} {
		if files[name] != want {
			t.Errorf("%s is %q, want %q", name, files[name], want)
		}
	}
	if _, ok := files["modules/virtio_blk.ko"]; !ok {
		t.Error("modules/virtio_blk.ko is missing")
	}
}

// unpack maps each name to its mode and content.
func unpack(t *testing.T, in io.Reader) map[string]string {
	t.Helper()
	r, err := gzip.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for at := 0; ; {
		field := func(i int) int {
			n, err := strconv.ParseUint(string(b[at+6+8*i:at+14+8*i]), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
		if string(b[at:at+6]) != "070701" {
			t.Fatalf("no entry at %d", at)
		}
		mode, size, nameSize := field(1), field(6), field(11)
		name := strings.TrimSuffix(string(b[at+110:at+110+nameSize]), "\x00")
		content := (at + 110 + nameSize + 3) &^ 3
		if name == "TRAILER!!!" {
			return files
		}
		files[name] = fmt.Sprintf("%o %s", mode, b[content:content+size])
		at = (content + size + 3) &^ 3
	}
}
