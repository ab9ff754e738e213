// Package image builds the lab guest's initial RAM disk, in Go alone: a cpio archive in the kernel's "newc" format, gzipped, with
// the program as /init and the kernel modules that it has to load. The same input gives the same bytes.
//
// It knows the kernel's package as Debian ships it and nothing of Godwit.
package image

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"strings"
)

// Wanted names the modules that a guest needs for its bus, its network card and its disk; what they depend on comes along.
func Wanted() []string { return []string{"virtio_pci", "virtio_net", "virtio_blk"} }

// Build writes to w the initial RAM disk that runs program as PID 1 on the kernel whose modules lie in moduleDir
// (…/lib/modules/VERSION). /modules/order lists the modules in loading order, one file name a line.
func Build(w io.Writer, moduleDir, program string) error {
	modules, err := Resolve(moduleDir, Wanted())
	if err != nil {
		return err
	}
	code, err := os.ReadFile(program)
	if err != nil {
		return fmt.Errorf("read the guest's program: %w", err)
	}

	compressed, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return err
	}
	archive := newArchive(compressed)
	for _, dir := range []string{"dev", "proc", "sys", "modules"} {
		archive.directory(dir)
	}
	// The kernel opens it for PID 1 before that can mount anything: without it the first error would be silent.
	archive.characterDevice("dev/console", 5, 1)
	var order strings.Builder
	for _, m := range modules {
		archive.file("modules/"+m.Name+".ko", 0o644, m.Code)
		fmt.Fprintf(&order, "%s.ko\n", m.Name)
	}
	archive.file("modules/order", 0o644, []byte(order.String()))
	archive.file("init", 0o755, code)
	if err := archive.close(); err != nil {
		return fmt.Errorf("write the initial RAM disk: %w", err)
	}
	if err := compressed.Close(); err != nil {
		return fmt.Errorf("write the initial RAM disk: %w", err)
	}
	return nil
}

// archive writes newc entries; the first error sticks and comes out of close.
type archive struct {
	w     io.Writer
	inode int
	err   error
}

func newArchive(w io.Writer) *archive { return &archive{w: w} }

func (a *archive) directory(name string) { a.entry(name, 0o040755, 0, 0, nil) }

func (a *archive) file(name string, mode uint32, content []byte) {
	a.entry(name, 0o100000|mode, 0, 0, content)
}

func (a *archive) characterDevice(name string, major, minor uint32) {
	a.entry(name, 0o020600, major, minor, nil)
}

// entry writes the thirteen hexadecimal fields, the name and the content, each padded to four bytes. Owner is root and the
// time is zero throughout.
func (a *archive) entry(name string, mode, major, minor uint32, content []byte) {
	if a.err != nil {
		return
	}
	a.inode++
	var b bytes.Buffer
	fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		a.inode, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor, len(name)+1, 0)
	b.WriteString(name)
	b.WriteByte(0)
	pad(&b)
	b.Write(content)
	pad(&b)
	_, a.err = a.w.Write(b.Bytes())
}

func pad(b *bytes.Buffer) {
	for b.Len()%4 != 0 {
		b.WriteByte(0)
	}
}

func (a *archive) close() error {
	a.entry("TRAILER!!!", 0, 0, 0, nil)
	return a.err
}
